package gvisor

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"kernelgw/sandboxes"
)

// Name is the driver's name.
const Name = "gvisor"

// Driver makes sandboxes with runsc. It implements sandboxes.Driver.
type Driver struct {
	// set at construction
	opts     Options
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
	if !filepath.IsAbs(opts.StateDir) {
		return nil, fmt.Errorf("cannot use state directory %q: it must be absolute", opts.StateDir)
	}
	var err error
	if opts.Runsc, err = FindRunsc(opts.Runsc); err != nil {
		return nil, err
	}
	if opts.AgentPath, err = filepath.Abs(opts.AgentPath); err != nil {
		return nil, fmt.Errorf("cannot use agent %s: %w", opts.AgentPath, err)
	}
	if _, err := os.Stat(opts.AgentPath); err != nil {
		return nil, fmt.Errorf("cannot use the agent: %w", err)
	}
	if opts.Supervisor == "" {
		// Not its path: a newer version may have replaced the file.
		opts.Supervisor = "/proc/self/exe"
	}
	if opts.Log == nil {
		opts.Log = slog.New(slog.DiscardHandler)
	}
	opts.Defaults.MemoryBytes = orDefault(opts.Defaults.MemoryBytes, defaultMemory)
	opts.Defaults.Processes = orDefault(opts.Defaults.Processes, defaultProcesses)
	opts.Defaults.DiskBytes = orDefault(opts.Defaults.DiskBytes, defaultDisk)
	if err := os.MkdirAll(opts.StateDir, 0o700); err != nil {
		return nil, fmt.Errorf("cannot make the state directory: %w", err)
	}

	d := &Driver{opts: opts, rootless: rootless(), supervisors: map[string]*exec.Cmd{}}
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
	if err := d.sweep(); err != nil {
		return nil, err
	}
	return d, nil
}

func orDefault[T int64 | float64](v, otherwise T) T {
	if v == 0 {
		return otherwise
	}
	return v
}

// Name implements sandboxes.Driver.
func (d *Driver) Name() string { return Name }

// Capabilities implements sandboxes.Driver.
//
// Memory is limited by a control group or, without, by the sandbox's supervisor
// that measures it; processes by a limit of the sentry's on tasks, which the
// code inside cannot raise; disk by the size of the overlay.
func (d *Driver) Capabilities() sandboxes.Capabilities {
	return sandboxes.Capabilities{Isolated: true, MemoryLimit: true, ProcessLimit: true, DiskLimit: true}
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
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	entries, err := os.ReadDir(d.opts.StateDir)
	if err != nil {
		return nil, fmt.Errorf("cannot list sandboxes: %w", err)
	}
	var list []sandboxes.Sandbox
	for _, e := range entries {
		if !sandboxes.ValidID(e.Name()) {
			continue
		}
		var sb sandboxes.Sandbox
		switch err := readJSON(d.dir(e.Name()), sandboxName, &sb); {
		case errors.Is(err, fs.ErrNotExist): // being created or destroyed
		case err != nil:
			return nil, fmt.Errorf("cannot list sandbox %s: %w", e.Name(), err)
		default:
			list = append(list, sb)
		}
	}
	return list, nil
}

// Wait implements sandboxes.Driver.
func (d *Driver) Wait(ctx context.Context, id string) (sandboxes.Exit, error) {
	if !d.exists(id) {
		return sandboxes.Exit{}, fmt.Errorf("cannot wait for sandbox %q: %w", id, sandboxes.ErrNotFound)
	}
	exit, err := waitEnd(ctx, d.dir(id))
	if errors.Is(err, fs.ErrNotExist) {
		err = sandboxes.ErrNotFound // destroyed meanwhile
	}
	if err != nil {
		return sandboxes.Exit{}, fmt.Errorf("cannot wait for sandbox %s: %w", id, err)
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

func (d *Driver) dir(id string) string { return filepath.Join(d.opts.StateDir, id) }

func (d *Driver) exists(id string) bool {
	if !sandboxes.ValidID(id) {
		return false
	}
	_, err := os.Stat(filepath.Join(d.dir(id), sandboxName))
	return err == nil
}

// Destroy implements sandboxes.Driver.
func (d *Driver) Destroy(ctx context.Context, id string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if !sandboxes.ValidID(id) {
		return nil // never was one of ours
	}
	lock, err := lockDir(d.dir(id), unix.LOCK_EX)
	if errors.Is(err, fs.ErrNotExist) {
		d.reap(id)
		return nil
	}
	if err != nil {
		return fmt.Errorf("cannot destroy sandbox %s: %w", id, err)
	}
	defer lock.Close()
	if err := d.destroy(ctx, id); err != nil {
		return fmt.Errorf("cannot destroy sandbox %s: %w", id, err)
	}
	return nil
}

// destroy does so with the sandbox's directory locked. Each step may have been
// done before.
func (d *Driver) destroy(ctx context.Context, id string) error {
	dir := d.dir(id)
	if err := d.killAll(ctx, dir, id); err != nil {
		return err
	}
	d.reap(id)
	if err := d.groups.remove(cgroupName(id)); err != nil {
		return err
	}
	// First what makes it a sandbox, so that what a crash leaves of it is swept.
	if err := os.Remove(filepath.Join(dir, sandboxName)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return os.RemoveAll(dir)
}

// killAll ends every process of a sandbox.
func (d *Driver) killAll(ctx context.Context, dir, id string) error {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	var procs processes
	if err := readJSON(dir, processesName, &procs); err != nil && !errors.Is(err, fs.ErrNotExist) {
		d.opts.Log.Warn("a sandbox's process records are unreadable", "sandbox", id, "error", err)
	}
	if procs.Sentry.PID != 0 {
		if err := procs.Sentry.kill(); err != nil {
			return err
		}
		// The supervisor reaps the others and records the end, for those who
		// wait for it. It is not waited for longer than that takes.
		patience, cancel := context.WithTimeout(ctx, 2*time.Second)
		err := procs.Supervisor.wait(patience)
		cancel()
		if err == nil && !anyAlive(procs) && len(d.groups.processes(cgroupName(id))) == 0 {
			return nil
		}
	}
	// Some were never recorded, or a supervisor was killed: look for all there
	// are, until none starts another.
	for {
		found := false
		for _, p := range append(mentioning(dir), d.groups.processes(cgroupName(id))...) {
			alive, err := p.alive()
			if err != nil {
				return err
			}
			if !alive {
				continue
			}
			found = true
			if err := p.kill(); err != nil {
				return err
			}
			if err := p.wait(ctx); err != nil {
				return err
			}
		}
		if !found {
			return nil
		}
	}
}

// anyAlive reports whether a recorded process runs.
func anyAlive(procs processes) bool {
	for _, p := range append([]process{procs.Supervisor, procs.Sentry}, procs.Others...) {
		if alive, err := p.alive(); alive || err != nil {
			return true
		}
	}
	return false
}

// reap collects the exit status of a supervisor that this process started. It
// has been killed, or has ended, or is about to.
func (d *Driver) reap(id string) {
	d.mu.Lock()
	cmd := d.supervisors[id]
	delete(d.supervisors, id)
	d.mu.Unlock()
	if cmd != nil {
		_ = cmd.Wait() // its end was recorded by itself
	}
}

// sweep removes sandboxes that were never finished or not wholly destroyed.
func (d *Driver) sweep() error {
	// Nobody may be between making a directory and locking it.
	all, err := lockDir(d.opts.StateDir, unix.LOCK_EX)
	if err != nil {
		return fmt.Errorf("cannot lock the state directory: %w", err)
	}
	defer all.Close()
	entries, err := os.ReadDir(d.opts.StateDir)
	if err != nil {
		return fmt.Errorf("cannot list sandboxes: %w", err)
	}
	for _, e := range entries {
		id := e.Name()
		if !sandboxes.ValidID(id) || d.exists(id) {
			continue
		}
		lock, err := lockDir(d.dir(id), unix.LOCK_EX|unix.LOCK_NB)
		if err != nil {
			continue // somebody is at it
		}
		d.opts.Log.Info("removing a sandbox that was not finished", "sandbox", id)
		if err := d.destroy(context.Background(), id); err != nil {
			d.opts.Log.Error("cannot remove a sandbox that was not finished", "sandbox", id, "error", err)
		}
		_ = lock.Close()
	}
	return nil
}

// lockDir opens a directory and locks it until the file is closed or this
// process ends. The error is fs.ErrNotExist also when it was removed while the
// lock was waited for.
func lockDir(dir string, how int) (*os.File, error) {
	f, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	for {
		err = unix.Flock(int(f.Fd()), how)
		if !errors.Is(err, unix.EINTR) {
			break
		}
	}
	if err == nil {
		var stat unix.Stat_t
		if err = unix.Fstat(int(f.Fd()), &stat); err == nil && stat.Nlink == 0 {
			err = fs.ErrNotExist
		}
	}
	if err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("cannot lock %s: %w", dir, err)
	}
	return f, nil
}

func cgroupName(id string) string { return "kernelgw-" + id }
