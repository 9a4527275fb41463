package gvisor

import (
	"context"
	"errors"
	"io/fs"
	"path/filepath"
	"time"

	"kernelgw/sandboxes/hostproc"
	"kernelgw/sandboxes/statedir"
)

// removeDeadline is how long the removal of a sandbox may take that nobody waits
// for.
const removeDeadline = 20 * time.Second

// Destroy implements sandboxes.Driver.
func (d *Driver) Destroy(ctx context.Context, id string) error {
	if err := d.state.Destroy(ctx, id); err != nil {
		return err
	}
	d.reap(id)
	return nil
}

// remove removes all of a sandbox but its directory, which is locked. Each step
// may have been done before.
func (d *Driver) remove(ctx context.Context, id string) error {
	if err := d.killAll(ctx, d.state.Path(id), id); err != nil {
		return err
	}
	d.reap(id)
	if err := d.groups.remove(cgroupName(id)); err != nil {
		return err
	}
	return d.disconnect(ctx, id)
}

// killAll ends every process of a sandbox.
func (d *Driver) killAll(ctx context.Context, dir, id string) error {
	ctx, cancel := context.WithTimeout(ctx, removeDeadline)
	defer cancel()
	var procs processes
	if err := statedir.Read(filepath.Join(dir, processesName), &procs); err != nil && !errors.Is(err, fs.ErrNotExist) {
		d.opts.Log.Warn("a sandbox's process records are unreadable", "sandbox", id, "error", err)
	}
	if procs.Sentry.PID != 0 {
		if err := procs.Sentry.Kill(); err != nil {
			return err
		}
		// The supervisor reaps the others and records the end, for those who
		// wait for it. It is not waited for longer than that takes.
		patience, cancel := context.WithTimeout(ctx, 2*time.Second)
		err := procs.Supervisor.Wait(patience)
		cancel()
		if err == nil && !anyAlive(procs) && len(d.groups.processes(cgroupName(id))) == 0 {
			return nil
		}
	}
	// Some were never recorded, or a supervisor was killed: look for all there
	// are, until none starts another.
	for {
		list, err := mentioning(dir)
		if err != nil {
			return err
		}
		found := false
		for _, p := range append(list, d.groups.processes(cgroupName(id))...) {
			alive, err := p.Alive()
			if err != nil {
				return err
			}
			if !alive {
				continue
			}
			found = true
			if err := p.Kill(); err != nil {
				return err
			}
			if err := p.Wait(ctx); err != nil {
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
	for _, p := range append([]hostproc.ID{procs.Supervisor, procs.Sentry}, procs.Others...) {
		if alive, err := p.Alive(); alive || err != nil {
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
