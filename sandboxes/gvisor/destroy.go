package gvisor

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"kernelgw/sandboxes"
	"kernelgw/sandboxes/hostproc"
)

// Destroy implements sandboxes.Driver.
func (d *Driver) Destroy(ctx context.Context, id string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if !sandboxes.ValidID(id) {
		return nil // never was one of ours
	}
	lock, err := lockDir(ctx, d.dir(id), unix.LOCK_EX)
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
	if err := d.disconnect(ctx, id); err != nil {
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

// sweep removes sandboxes that were never finished or not wholly destroyed.
func (d *Driver) sweep() error {
	// Nobody may be between making a directory and locking it.
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	all, err := lockDir(ctx, d.opts.StateDir, unix.LOCK_EX)
	if err != nil {
		return fmt.Errorf("cannot lock the state directory: %w", err)
	}
	defer all.Close()
	entries, err := os.ReadDir(d.opts.StateDir)
	if err != nil {
		return fmt.Errorf("cannot list sandboxes: %w", err)
	}
	busy, notNow := context.WithCancel(ctx)
	notNow()
	for _, e := range entries {
		id := e.Name()
		if !sandboxes.ValidID(id) || d.exists(id) {
			continue
		}
		lock, err := lockDir(busy, d.dir(id), unix.LOCK_EX)
		if err != nil {
			continue // somebody is at it
		}
		d.opts.Log.Info("removing a sandbox that was not finished", "sandbox", id)
		if err := d.destroy(ctx, id); err != nil {
			d.opts.Log.Error("cannot remove a sandbox that was not finished", "sandbox", id, "error", err)
		}
		_ = lock.Close()
	}
	return d.sweepNetwork(ctx)
}
