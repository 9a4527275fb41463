package gvisor

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"kernelgw/sandboxes"
	"kernelgw/sandboxes/statedir"
)

// Name is the driver's name.
const Name = "gvisor"

// Driver makes sandboxes with runsc. It implements sandboxes.Driver.
type Driver struct {
	// set at construction
	opts     Options
	state    *statedir.Dir
	rootless bool
	groups   cgroups
	limited  bool // control groups hold the sandboxes

	mu          sync.Mutex
	supervisors map[string]*exec.Cmd // by sandbox; started here, to be reaped
}

var _ sandboxes.Driver = (*Driver)(nil)

// New returns a Driver over opts.StateDir and removes from it what a killed
// gateway had begun to create. It starts nothing; Probe tells whether sandboxes
// can run here.
func New(opts Options) (*Driver, error) {
	if opts.Images == nil || opts.AgentPath == "" {
		return nil, errors.New("cannot use the gvisor driver without images and an agent")
	}
	// A comma ends a path in runsc's --overlay2.
	if strings.Contains(opts.StateDir, ",") {
		return nil, fmt.Errorf("cannot use state directory %q: it must be without commas", opts.StateDir)
	}
	var err error
	if opts.Runsc, err = FindRunsc(opts.Runsc); err != nil {
		return nil, err
	}
	if opts.AgentPath, err = filepath.Abs(opts.AgentPath); err != nil {
		return nil, fmt.Errorf("cannot use agent %s: %w", opts.AgentPath, err)
	}
	if opts.AgentPath, err = filepath.EvalSymlinks(opts.AgentPath); err != nil {
		return nil, fmt.Errorf("cannot use the agent: %w", err)
	}
	if opts.Supervisor == "" {
		// Not its path: a newer version may have replaced the file.
		opts.Supervisor = "/proc/self/exe"
	}
	if opts.Log == nil {
		opts.Log = slog.New(slog.DiscardHandler)
	}
	opts.Defaults = opts.Defaults.Or(defaults)

	d := &Driver{opts: opts, rootless: rootless(), supervisors: map[string]*exec.Cmd{}}
	d.state, err = statedir.Open(opts.StateDir, statedir.Options{Remove: d.remove, Deadline: removeDeadline, Log: opts.Log})
	if err != nil {
		return nil, err
	}
	if d.rootless && opts.Network != nil {
		return nil, errors.New("cannot give sandboxes a network: runsc runs rootless here")
	}
	if d.groups, err = readCgroups(); err != nil {
		return nil, err
	}
	if !d.rootless {
		if err := d.groups.usable(); err != nil {
			opts.Log.Warn("sandboxes run without control groups: CPU is not limited", "reason", err)
		} else {
			d.limited = true
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := d.state.Sweep(ctx); err != nil {
		return nil, err
	}
	return d, d.sweepNetwork(ctx)
}

// Name implements sandboxes.Driver.
func (d *Driver) Name() string { return Name }

// Capabilities implements sandboxes.Driver.
//
// Memory is limited by a control group or, without, by the sandbox's supervisor
// that measures it; processes by a limit of the sentry's on tasks, which the
// code inside cannot raise; disk by the size of the overlay.
func (d *Driver) Capabilities() sandboxes.Capabilities {
	networked := d.opts.Network != nil
	return sandboxes.Capabilities{
		Isolated: true, Network: networked, NetworkPolicy: networked,
		MemoryLimit: true, ProcessLimit: true, DiskLimit: true, Freeze: true, Layers: true,
	}
}

// Kernelspecs implements sandboxes.Driver.
func (d *Driver) Kernelspecs(ctx context.Context, image string) (map[string]sandboxes.Kernelspec, error) {
	root, err := d.opts.Images.Resolve(ctx, image)
	if err != nil {
		return nil, fmt.Errorf("cannot list the kernelspecs of image %q: %w", image, err)
	}
	return root.Kernelspecs, nil
}

// List implements sandboxes.Driver.
func (d *Driver) List(ctx context.Context) ([]sandboxes.Sandbox, error) {
	return d.state.List(ctx)
}

// Wait implements sandboxes.Driver.
func (d *Driver) Wait(ctx context.Context, id string) (sandboxes.Exit, error) {
	if !d.state.Exists(id) {
		return sandboxes.Exit{}, fmt.Errorf("cannot wait for sandbox %q: %w", id, sandboxes.ErrNotFound)
	}
	exit, err := waitEnd(ctx, d.state.Path(id))
	if err != nil {
		return sandboxes.Exit{}, fmt.Errorf("cannot wait for sandbox %s: %w", id, statedir.NotFound(err))
	}
	return exit, nil
}

// Close implements sandboxes.Driver.
func (d *Driver) Close() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	for id, cmd := range d.supervisors {
		_ = cmd.Process.Release()
		delete(d.supervisors, id)
	}
	return nil
}

func cgroupName(id string) string { return "kernelgw-" + id }
