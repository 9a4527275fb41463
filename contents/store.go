// Package contents is the files of workspaces as Jupyter clients see them: the
// model, path rules, what a store of files must do, and the handlers of
// /api/contents and /files. It knows nothing of S3, of kernels, or of who may
// enter which workspace: its caller has decided that.
package contents

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"
)

// Errors that callers test for. Stores wrap them with what was attempted.
var (
	// ErrNotFound: no file or directory of that path, or no version, checkpoint
	// or trash entry of that id.
	ErrNotFound = errors.New("not found")
	// ErrExists: the target of a move or copy, or of a write that must create,
	// is there already.
	ErrExists = errors.New("exists already")
	// ErrIsDirectory: a file was wanted.
	ErrIsDirectory = errors.New("is a directory")
	// ErrNotDirectory: a directory was wanted, or a file is in the place of a
	// parent directory.
	ErrNotDirectory = errors.New("is not a directory")
	// ErrNoParent: the parent directory does not exist.
	ErrNoParent = errors.New("the parent directory does not exist")
	// ErrBusy: a move of that directory is under way; try again.
	ErrBusy = errors.New("a rename of it is under way")
	// ErrUnavailable: the storage does not answer, or said to slow down. The
	// change was not made, or it is not known: trying again is right.
	ErrUnavailable = errors.New("the file storage does not answer")
	// ErrInvalid: a path that cannot be stored; the text says why.
	ErrInvalid = errors.New("invalid path")
	// ErrTooLarge: more than one operation may move or copy.
	ErrTooLarge = errors.New("too large")
)

// ChangedError says that a file is not what the caller last saw (a condition of
// PutOptions, or of Delete, failed). Current is zero when it is gone.
type ChangedError struct{ Current Entry }

// Error implements error.
func (e *ChangedError) Error() string {
	if e.Current.ETag == "" {
		return "the file was deleted meanwhile"
	}
	if e.Current.Author == "" {
		return "the file was changed meanwhile at " + e.Current.Modified.Format(time.RFC3339)
	}
	return fmt.Sprintf("the file was changed meanwhile by %s at %s", e.Current.Author, e.Current.Modified.Format(time.RFC3339))
}

// QuotaError says that a workspace has no room for a write.
type QuotaError struct{ Used, Limit, Wanted int64 } // bytes, old versions included

// Error implements error.
func (e *QuotaError) Error() string {
	return fmt.Sprintf("the workspace holds %d of %d bytes, old versions included, and has no room for %d more: delete files or old versions", e.Used, e.Limit, e.Wanted)
}

// Entry is a file or a directory.
type Entry struct {
	Path       string    // slash-separated, relative to the workspace; "" is its root
	Directory  bool      // then only Path and the times are set
	Size       int64     // bytes
	Modified   time.Time // whole seconds, UTC
	Created    time.Time // as Modified where it is not known, as in listings
	ETag       string    // changes with the content; for conditions
	SHA256     string    // of the content, hex; "" in listings
	Version    string    // id of this version; "" in listings
	Author     string    // who wrote it, as given to Put; "" in listings
	Executable bool      // false in listings
}

// Version is one version of a file.
type Version struct {
	Entry
	Latest bool
	Source string // how it came to be: api, sync, restore, move, copy
	Pinned bool   // a checkpoint holds it
}

// Checkpoint is a version that is kept under a name.
type Checkpoint struct {
	ID      string    // [A-Za-z0-9_-]+
	Version string    // of the file
	At      time.Time // when it was made, whole seconds, UTC
	Author  string
	Label   string
}

// Trashed is a deleted file that can be brought back.
type Trashed struct {
	ID      string // of the trash entry
	Path    string
	Size    int64
	Deleted time.Time
	Author  string // who deleted it; "" when not known
}

// Change says that something happened to a path. A moved directory is a change
// of each file.
type Change struct {
	Path    string
	Deleted bool
	Entry   Entry  // when not Deleted
	Source  string // as in Version: who syncs ignores its own
}

// PutOptions are the circumstances of a write.
type PutOptions struct {
	Author     string // who is told in Version and ChangedError
	Source     string // as in Version; "" means api
	IfMatch    string // only if the file has this ETag; "" means no condition
	IfVersion  string // only if the file is at this version; "" means no condition
	IfNone     bool   // only if there is no file
	Parents    bool   // make missing parent directories
	Executable bool
}

// Store keeps the files of workspaces, with every version. Paths are clean: see
// Clean. All methods are safe for concurrent use. What a method has answered is
// durable and is seen by every read that begins afterwards. ctx ends the wait,
// and what it leaves undone loses nothing. Unless said otherwise, an unknown path
// is ErrNotFound, and a storage that fails is ErrUnavailable after the store has
// tried again as often as makes sense; callers do not retry.
type Store interface {
	// Stat returns a file or directory, without reading content.
	Stat(ctx context.Context, workspace, path string) (Entry, error)
	// List returns a directory's entries, sorted by path, hidden ones too.
	// ErrNotDirectory for a file. It costs no request per entry.
	List(ctx context.Context, workspace, path string) ([]Entry, error)
	// Walk calls each for every file and directory below path, sorted, not path
	// itself, as List would show it. An error of each ends the walk.
	Walk(ctx context.Context, workspace, path string, each func(Entry) error) error
	// Open returns content from offset on, n bytes of it or, when n is negative,
	// all, and the entry, which has every field. version "" means the latest.
	Open(ctx context.Context, workspace, path, version string, offset, n int64) (io.ReadCloser, Entry, error)

	// Put writes a file, whole, and returns it with every field: nothing of it is
	// seen before all of it is. It reads body from its start to its end, more
	// than once if it must. ErrIsDirectory, ErrNoParent (unless PutOptions.Parents),
	// *ChangedError when a condition fails, *QuotaError.
	Put(ctx context.Context, workspace, path string, body io.ReadSeeker, o PutOptions) (Entry, error)
	// MakeDirectory makes a directory and its parents; created is false when it
	// was there. ErrNotDirectory when a file is in the way.
	MakeDirectory(ctx context.Context, workspace, path string) (e Entry, created bool, err error)
	// Move renames a file or a directory with all below it. History, checkpoints
	// and creation times go along. ErrExists when to exists, ErrNoParent. Whatever
	// dies in the middle, no file is lost, and the store finishes the move later.
	Move(ctx context.Context, workspace, from, to, author string) (Entry, error)
	// Copy copies the latest versions of a file, or of a directory and all below
	// it. ErrExists when to exists, ErrTooLarge.
	Copy(ctx context.Context, workspace, from, to, author string) (Entry, error)
	// Delete moves a file, or a directory with all below it, to the trash.
	// ifMatch is as PutOptions.IfMatch, for a file.
	Delete(ctx context.Context, workspace, path, author, ifMatch string) error

	// Versions returns the versions of a file, latest first, across moves.
	Versions(ctx context.Context, workspace, path string) ([]Version, error)
	// Restore makes a version the latest, as a new version.
	Restore(ctx context.Context, workspace, path, version, author string) (Entry, error)
	// DeleteVersion removes an old version for good, and frees its bytes.
	// ErrExists when it is the latest or pinned.
	DeleteVersion(ctx context.Context, workspace, path, version string) error

	// Checkpoints returns a file's checkpoints, oldest first. None is no error,
	// not even when there is no such file.
	Checkpoints(ctx context.Context, workspace, path string) ([]Checkpoint, error)
	// MakeCheckpoint pins the latest version. Only so many are kept: the oldest
	// gives way.
	MakeCheckpoint(ctx context.Context, workspace, path, author, label string) (Checkpoint, error)
	// RestoreCheckpoint makes the version of a checkpoint the latest.
	RestoreCheckpoint(ctx context.Context, workspace, path, id, author string) error
	// DeleteCheckpoint unpins.
	DeleteCheckpoint(ctx context.Context, workspace, path, id string) error

	// Trash returns what was deleted and can be brought back, newest first.
	Trash(ctx context.Context, workspace string) ([]Trashed, error)
	// Undelete brings a file back. ErrExists when its path is taken.
	Undelete(ctx context.Context, workspace, id string) (Entry, error)
	// Purge removes a trash entry for good; "" means all of the trash.
	Purge(ctx context.Context, workspace, id string) error

	// Usage returns the bytes that a workspace holds, old versions and trash
	// included, and its limit, 0 when there is none.
	Usage(ctx context.Context, workspace string) (used, limit int64, err error)

	// Watch calls changed for each change that this store makes in the workspace
	// from now on, in order, until ctx ends. lost is called instead when the
	// caller was too slow for some: it should Walk. Both from one goroutine. A
	// change made by another gateway is not told.
	Watch(ctx context.Context, workspace string, changed func(Change), lost func())
}
