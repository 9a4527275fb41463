// Package process is the driver of the trusted mode: an agent and its kernel
// are plain processes of the gateway's own user on this host. Nothing isolates
// them: a cell can do what that user can do, and reads the agent's token as it
// likes. It is for development and for people who trust all their users, and
// is used only when asked for by name.
//
// Each sandbox has a directory, and a supervisor: a process in a session of its
// own that starts the agent, records how it ends, and outlives the gateway.
package process

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"kernelgw/jupyter/kernelspec"
	"kernelgw/sandboxes"
	"kernelgw/sandboxes/statedir"
)

// Name is the driver's name in configuration, logs and metrics.
const Name = "process"

// Image is the only image of this driver: the host.
const Image = "host"

// Options configures a Driver.
type Options struct {
	// StateDir holds the sandboxes; created when absent, one driver's own.
	StateDir string
	// AgentPath is the agent's binary.
	AgentPath string
	// Supervisor is the program that runs Supervise(DIR) when called with the
	// arguments SupervisorCommand and DIR. Empty means this program.
	Supervisor string
	// WorkDir is the kernels' home directory, where relative ones begin. Empty
	// means the current directory.
	WorkDir string
	// Homes gives each sandbox a home directory of its own, which ends with it,
	// instead of WorkDir: for kernels whose files are kept elsewhere.
	Homes bool
	// KernelPath are the Jupyter data directories with the kernelspecs. Empty
	// means this host's Jupyter search path.
	KernelPath []string
	// Env is the environment of agents and kernels, as "NAME=value". Nil means
	// that of this process. What may hold the gateway's own secrets is left out,
	// and PATH begins with the Pythons that KernelPath belongs to.
	Env []string
	// Grace is how long Destroy lets an agent end its kernel in an orderly way.
	// Zero means 8 s, which is more than a kernel is given by the agent.
	Grace time.Duration
	// Log receives what went wrong with no caller to tell. Nil discards it.
	Log *slog.Logger
}

// Driver implements sandboxes.Driver.
type Driver struct {
	opts Options // complete

	mu       sync.Mutex
	children map[string]int // supervisors started here and not yet reaped: sandbox id to pid
}

// New returns a Driver over opts.StateDir, with the sandboxes that are there.
func New(opts Options) (*Driver, error) {
	if err := opts.complete(); err != nil {
		return nil, fmt.Errorf("cannot use the process driver: %w", err)
	}
	opts.Log.Warn("sandboxes of driver process are not isolated: every cell can do what this user can do")
	d := &Driver{opts: opts, children: map[string]int{}}
	if err := d.sweep(); err != nil {
		return nil, fmt.Errorf("cannot clean up %s: %w", opts.StateDir, err)
	}
	return d, nil
}

func (o *Options) complete() error {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.StateDir == "" {
		return errors.New("no state directory is given")
	}
	if o.WorkDir == "" {
		o.WorkDir = "."
	}
	if o.Supervisor == "" {
		// Also when the file was replaced by an upgrade meanwhile.
		o.Supervisor = "/proc/self/exe"
	}
	if o.Grace == 0 {
		o.Grace = 8 * time.Second
	}
	if o.Env == nil {
		o.Env = os.Environ()
	}
	if len(o.KernelPath) == 0 {
		o.KernelPath = kernelspec.HostPath(os.Getenv)
	}
	o.Env = withPythons(harmless(o.Env), o.KernelPath)
	agent, err := exec.LookPath(o.AgentPath)
	if err != nil {
		return fmt.Errorf("no agent at %q: build it with make build, or say where it is: %w", o.AgentPath, err)
	}
	for path, value := range map[*string]string{&o.StateDir: o.StateDir, &o.WorkDir: o.WorkDir, &o.AgentPath: agent} {
		if *path, err = filepath.Abs(value); err != nil {
			return err
		}
	}
	if err := os.MkdirAll(o.StateDir, 0o700); err != nil {
		return fmt.Errorf("cannot make the state directory: %w", err)
	}
	return nil
}

// Name implements sandboxes.Driver.
func (d *Driver) Name() string { return Name }

// Capabilities implements sandboxes.Driver.
func (d *Driver) Capabilities() sandboxes.Capabilities {
	return sandboxes.Capabilities{Network: true}
}

// SetNetworkPolicy implements sandboxes.Driver: the network is the host's.
func (d *Driver) SetNetworkPolicy(context.Context, string, sandboxes.NetworkPolicy) error {
	return fmt.Errorf("%w: driver process has no network policies", sandboxes.ErrInvalid)
}

// Freeze implements sandboxes.Driver.
func (d *Driver) Freeze(context.Context, string) error {
	return fmt.Errorf("%w: driver process cannot freeze", sandboxes.ErrInvalid)
}

// Thaw implements sandboxes.Driver.
func (d *Driver) Thaw(context.Context, string) error {
	return fmt.Errorf("%w: driver process cannot freeze", sandboxes.ErrInvalid)
}

// ExportLayer implements sandboxes.Driver: a sandbox has no layer of its own.
func (d *Driver) ExportLayer(context.Context, string, io.Writer) error {
	return fmt.Errorf("%w: driver process has no writable layers", sandboxes.ErrInvalid)
}

// Kernelspecs implements sandboxes.Driver: they are those of the host.
func (d *Driver) Kernelspecs(ctx context.Context, image string) (map[string]sandboxes.Kernelspec, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if image != "" && image != Image {
		return nil, fmt.Errorf("driver process runs no image %q, only kernels of this host: %w", image, sandboxes.ErrNotFound)
	}
	found, problems := kernelspec.FindHost(d.opts.KernelPath)
	for _, p := range problems {
		d.opts.Log.Warn("kernelspec is left out", "error", p)
	}
	specs := make(map[string]sandboxes.Kernelspec, len(found))
	for name, s := range found {
		specs[name] = sandboxes.Kernelspec{Name: name, JSON: s.JSON, Dir: s.Dir, Files: s.Files}
	}
	return specs, nil
}

// List implements sandboxes.Driver.
func (d *Driver) List(ctx context.Context) ([]sandboxes.Sandbox, error) {
	entries, err := os.ReadDir(d.opts.StateDir)
	if err != nil {
		return nil, fmt.Errorf("cannot list sandboxes: %w", err)
	}
	var list []sandboxes.Sandbox
	for _, e := range entries {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		if !sandboxes.ValidID(e.Name()) {
			continue
		}
		box := d.box(e.Name())
		if creating, err := box.creating(); errors.Is(err, fs.ErrNotExist) || creating {
			continue
		} else if err != nil {
			return nil, fmt.Errorf("cannot list sandbox %s: %w", e.Name(), err)
		}
		sb, err := box.sandbox()
		if errors.Is(err, fs.ErrNotExist) {
			continue // destroyed meanwhile
		}
		if err != nil {
			// Listed all the same, so that it can be destroyed.
			d.opts.Log.Warn("sandbox is damaged", "sandbox", e.Name(), "error", err)
			sb = sandboxes.Sandbox{Spec: sandboxes.Spec{ID: e.Name()}, Agent: box.endpoint(), Image: Image}
		}
		list = append(list, sb)
	}
	return list, nil
}

// Wait implements sandboxes.Driver.
func (d *Driver) Wait(ctx context.Context, id string) (sandboxes.Exit, error) {
	exit, err := d.wait(ctx, id)
	if err != nil {
		return sandboxes.Exit{}, fmt.Errorf("cannot wait for sandbox %q: %w", id, statedir.NotFound(err))
	}
	d.reap(id)
	return exit, nil
}

func (d *Driver) wait(ctx context.Context, id string) (sandboxes.Exit, error) {
	if !sandboxes.ValidID(id) {
		return sandboxes.Exit{}, sandboxes.ErrNotFound
	}
	box := d.box(id)
	if exit, err := statedir.ReadExit(box.dir); err == nil || !errors.Is(err, fs.ErrNotExist) {
		return exit, err
	}
	creating, err := box.creating()
	if err != nil {
		return sandboxes.Exit{}, err
	}
	if creating {
		return sandboxes.Exit{}, sandboxes.ErrNotFound
	}
	procs, err := box.processes()
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return statedir.RecordExit(box.dir, sandboxes.Exit{Code: -1, Reason: "the gateway died while it started the sandbox"})
	case statedir.IsCut(err):
		return statedir.RecordExit(box.dir, sandboxes.Exit{Code: -1, Reason: "unknown: the host restarted"})
	case err != nil:
		return sandboxes.Exit{}, err
	}
	if err := procs.Supervisor.Wait(ctx); err != nil {
		return sandboxes.Exit{}, err
	}
	return statedir.RecordExit(box.dir, sandboxes.Exit{Code: -1, Reason: "unknown: the sandbox's supervisor was killed, or the host restarted"})
}

// Close implements sandboxes.Driver.
func (d *Driver) Close() error { return nil }

func (d *Driver) box(id string) box { return box{filepath.Join(d.opts.StateDir, id)} }

// reap collects the supervisor of a sandbox, if it has ended and was started
// by this Driver; others are collected by init.
func (d *Driver) reap(id string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	pid, ok := d.children[id]
	if !ok {
		return
	}
	if got, err := unix.Wait4(pid, nil, unix.WNOHANG, nil); got == pid || errors.Is(err, unix.ECHILD) {
		delete(d.children, id)
	}
}
