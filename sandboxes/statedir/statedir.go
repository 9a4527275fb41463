// Package statedir keeps on disk what a driver knows of its sandboxes, so that
// it is found again after any kind of death of the gateway. It knows when a
// sandbox exists, and who may make, change or remove it. It does not know what a
// sandbox consists of: to remove that is the driver's, which is asked to.
//
//	ID/                a sandbox, or what one is being made of or was left of one
//	ID/sandbox.json    sandboxes.Sandbox: written last, it makes the sandbox exist
//	ID/exit.json       sandboxes.Exit: how it ended, as it was first told
//	.gone-ID/          files of a sandbox that is no more
//
// All else in a sandbox's directory is its driver's. The lock of the directory
// is held by who makes, changes or removes the sandbox; it ends with its holder,
// however that dies.
package statedir

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/gofrs/flock"

	"kernelgw/sandboxes"
)

const (
	recordName = "sandbox.json"
	goneMark   = ".gone-"
)

// Options say how the sandboxes of a Dir are removed.
type Options struct {
	// Remove removes all that a sandbox has outside its directory. The directory is
	// locked. Each step may have been done before, and it may be called again.
	Remove func(ctx context.Context, id string) error
	// Deadline is how long it may take where nobody waits for it.
	Deadline time.Duration
	// Log is told what nobody waits for.
	Log *slog.Logger
}

// Dir is a state directory. Its methods are safe for concurrent use, also by
// several processes.
type Dir struct {
	opts Options
	path string
}

// Open makes a state directory when there is none. path is absolute.
func Open(path string, opts Options) (*Dir, error) {
	if !filepath.IsAbs(path) {
		return nil, fmt.Errorf("state directory %q is not absolute", path)
	}
	if err := os.MkdirAll(path, 0o700); err != nil {
		return nil, fmt.Errorf("cannot make the state directory: %w", err)
	}
	path, err := filepath.EvalSymlinks(path)
	if err != nil {
		return nil, fmt.Errorf("cannot use the state directory: %w", err)
	}
	return &Dir{opts: opts, path: path}, nil
}

// Path is that of a sandbox's directory or, with names, of what is in it. No
// link leads there.
func (d *Dir) Path(id string, names ...string) string {
	return filepath.Join(append([]string{d.path, id}, names...)...)
}

// Exists reports whether there is a sandbox: one that was made and not removed.
func (d *Dir) Exists(id string) bool {
	if !sandboxes.ValidID(id) {
		return false
	}
	_, err := os.Stat(d.Path(id, recordName))
	return err == nil
}

// Taken reports whether an id has a directory: that of a sandbox or of one that
// is being made or removed.
func (d *Dir) Taken(id string) bool {
	if !sandboxes.ValidID(id) {
		return false
	}
	_, err := os.Stat(d.Path(id))
	return !errors.Is(err, fs.ErrNotExist)
}

// ids returns all that are taken.
func (d *Dir) ids() ([]string, error) {
	entries, err := os.ReadDir(d.path)
	if err != nil {
		return nil, fmt.Errorf("cannot list sandboxes: %w", err)
	}
	var ids []string
	for _, e := range entries {
		if sandboxes.ValidID(e.Name()) {
			ids = append(ids, e.Name())
		}
	}
	return ids, nil
}

// Get returns the record of a sandbox; sandboxes.ErrNotFound when there is none.
func (d *Dir) Get(id string) (sandboxes.Sandbox, error) {
	if !sandboxes.ValidID(id) {
		return sandboxes.Sandbox{}, sandboxes.ErrNotFound
	}
	var sb sandboxes.Sandbox
	if err := Read(d.Path(id, recordName), &sb); err != nil {
		return sandboxes.Sandbox{}, NotFound(err)
	}
	return sb, nil
}

// NotFound turns the absence of a file into that of a sandbox.
func NotFound(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return sandboxes.ErrNotFound
	}
	return err
}

// List returns the records of all sandboxes. One whose record was cut short when
// the host lost its power is listed all the same, by its id alone, so that it can
// be destroyed.
func (d *Dir) List(ctx context.Context) ([]sandboxes.Sandbox, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	ids, err := d.ids()
	if err != nil {
		return nil, err
	}
	var list []sandboxes.Sandbox
	for _, id := range ids {
		switch sb, err := d.Get(id); {
		case errors.Is(err, sandboxes.ErrNotFound): // being made or removed
		case IsCut(err):
			list = append(list, sandboxes.Sandbox{Spec: sandboxes.Spec{ID: id}})
		case err != nil:
			return nil, fmt.Errorf("cannot list sandbox %s: %w", id, err)
		default:
			list = append(list, sb)
		}
	}
	return list, nil
}

// Put writes the record of a sandbox, which exists from then on. It is called
// last of all in the making of a sandbox.
func (d *Dir) Put(sb sandboxes.Sandbox) error {
	return Write(d.Path(sb.Spec.ID, recordName), sb)
}

// Lock locks a sandbox, so that nobody changes or removes it until the lock is
// closed. sandboxes.ErrNotFound when there is none.
func (d *Dir) Lock(ctx context.Context, id string) (*flock.Flock, error) {
	if !d.Exists(id) {
		return nil, sandboxes.ErrNotFound
	}
	lock, err := LockDir(ctx, d.Path(id))
	return lock, NotFound(err)
}

// Change changes a sandbox and then its record, unless change fails.
// sandboxes.ErrNotFound when there is none.
func (d *Dir) Change(ctx context.Context, id string, change func(*sandboxes.Sandbox) error) error {
	lock, err := d.Lock(ctx, id)
	if err != nil {
		return err
	}
	defer lock.Close()
	sb, err := d.Get(id)
	if err != nil {
		return err
	}
	if err := change(&sb); err != nil {
		return err
	}
	return d.Put(sb)
}
