package statedir

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/gofrs/flock"

	"kernelgw/sandboxes"
)

// Create makes a sandbox: start gets a directory of the id that is locked and
// empty, fills it, and calls Put last. When it fails, all that it made is
// removed. sandboxes.ErrExists when the id is taken.
func (d *Dir) Create(ctx context.Context, id string, start func() error) error {
	lock, err := d.reserve(ctx, id)
	if err != nil {
		return err
	}
	defer lock.Close()
	if err := start(); err != nil {
		return errors.Join(err, d.clean(ctx, id))
	}
	return nil
}

func (d *Dir) reserve(ctx context.Context, id string) (*flock.Flock, error) {
	if !sandboxes.ValidID(id) {
		return nil, fmt.Errorf("%w: the id is not made of lower-case letters, digits and hyphens", sandboxes.ErrInvalid)
	}
	all, err := shareDir(ctx, d.path)
	if err != nil {
		return nil, err
	}
	defer all.Close()
	if err := os.Mkdir(d.Path(id), 0o700); errors.Is(err, fs.ErrExist) {
		return nil, sandboxes.ErrExists
	} else if err != nil {
		return nil, err
	}
	lock, err := LockDir(ctx, d.Path(id))
	if err != nil {
		_ = os.Remove(d.Path(id))
	}
	return lock, err
}

// Destroy removes a sandbox, after those who use it have let go of it. There may
// be none.
func (d *Dir) Destroy(ctx context.Context, id string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if !sandboxes.ValidID(id) {
		return nil // never was one of ours
	}
	lock, err := LockDir(ctx, d.Path(id))
	if errors.Is(err, fs.ErrNotExist) {
		err = os.RemoveAll(d.gone(id)) // where an earlier Destroy failed
	} else if err == nil {
		defer lock.Close()
		err = d.destroy(ctx, id)
	}
	if err != nil {
		return fmt.Errorf("cannot destroy sandbox %s: %w", id, err)
	}
	return nil
}

// destroy does so with the sandbox's directory locked.
func (d *Dir) destroy(ctx context.Context, id string) error {
	if err := d.opts.Remove(ctx, id); err != nil {
		return err
	}
	if err := os.RemoveAll(d.gone(id)); err != nil { // of an earlier one
		return err
	}
	// Gone at once, whoever may still want to write into it.
	if err := os.Rename(d.Path(id), d.gone(id)); err != nil {
		return err
	}
	return os.RemoveAll(d.gone(id))
}

func (d *Dir) gone(id string) string { return filepath.Join(d.path, goneMark+id) }

// clean is destroy for something that nobody waits for.
func (d *Dir) clean(ctx context.Context, id string) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), d.opts.Deadline)
	defer cancel()
	return d.destroy(ctx, id)
}

// Exclude keeps everybody from between making a directory and locking it, until
// the lock is closed: what exists then and has no directory has no owner.
func (d *Dir) Exclude(ctx context.Context) (*flock.Flock, error) {
	return LockDir(ctx, d.path)
}

// Sweep removes sandboxes that were never finished or not wholly removed. What
// cannot be removed is logged, and stays for the next time.
func (d *Dir) Sweep(ctx context.Context) error {
	all, err := d.Exclude(ctx)
	if err != nil {
		return err
	}
	defer all.Close()
	if err := d.removeGone(); err != nil {
		return err
	}
	ids, err := d.ids()
	if err != nil {
		return err
	}
	for _, id := range ids {
		if err := d.sweep(ctx, id); err != nil {
			d.opts.Log.Error("cannot remove a sandbox that was not finished", "sandbox", id, "error", err)
		}
	}
	return ctx.Err()
}

func (d *Dir) sweep(ctx context.Context, id string) error {
	if d.Exists(id) {
		return nil
	}
	patient, cancel := context.WithTimeout(ctx, Patience)
	defer cancel()
	lock, err := LockDir(patient, d.Path(id))
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, context.DeadlineExceeded) {
		return nil // somebody has been, or is, at it
	}
	if err != nil {
		return err
	}
	defer lock.Close()
	if d.Exists(id) {
		return nil // finished meanwhile
	}
	d.opts.Log.Info("removing a sandbox that was not finished", "sandbox", id)
	return d.clean(ctx, id)
}

// removeGone removes files of sandboxes that are no more.
func (d *Dir) removeGone() error {
	entries, err := os.ReadDir(d.path)
	if err != nil {
		return fmt.Errorf("cannot list sandboxes: %w", err)
	}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), goneMark) {
			_ = os.RemoveAll(filepath.Join(d.path, e.Name())) // or the next time
		}
	}
	return nil
}
