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
	// ErrFull: the storage has no room left, whatever the workspace may hold. The
	// change was not made, or not all of a directory was deleted, and trying again
	// does not help before somebody makes room.
	ErrFull = errors.New("the file storage is full")
	// ErrInvalid: a path that cannot be stored; the text says why.
	ErrInvalid = errors.New("invalid path")
	// ErrTooLarge: more than one operation may move or copy.
	ErrTooLarge = errors.New("too large")
)

// ChangedError says that a file is not what the caller last saw (a condition of
// PutOptions, or a Match, failed). Current is zero when it is gone, and a
// directory when that is in its place.
type ChangedError struct{ Current Entry }

// Error implements error.
func (e *ChangedError) Error() string {
	if e.Current.Directory {
		return "there is a directory, which has no ETag and no versions"
	}
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

// leastCharge is what the smallest version and a directory count in a quota: a
// storage has so much work with each that none is free.
const leastCharge = 4 << 10

// Charge returns what a version of so many bytes counts in Usage and against a
// quota: its size, at least 4 KiB. A directory counts as an empty version.
func Charge(size int64) int64 { return max(size, leastCharge) }

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

// Match is a condition of a change of what is there: a file with this ETag, at
// this version. Empty fields are no condition. A directory has neither, and
// fulfils only the zero Match.
type Match struct{ ETag, Version string }

// Met reports whether an entry, which is there, fulfils the condition.
func (m Match) Met(e Entry) bool {
	return m == Match{} || !e.Directory && (m.ETag == "" || m.ETag == e.ETag) && (m.Version == "" || m.Version == e.Version)
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
	// was there. ErrNotDirectory when a file is in the way, *QuotaError.
	MakeDirectory(ctx context.Context, workspace, path string) (e Entry, created bool, err error)
	// Move renames a file or a directory with all below it. History, checkpoints
	// and creation times go along. ErrExists when to exists, ErrNoParent,
	// *ChangedError when what is at from fails match: no other change comes between
	// that look and the move. Whatever dies in the middle, no file is lost, and the
	// store finishes the move later.
	Move(ctx context.Context, workspace, from, to, author string, match Match) (Entry, error)
	// Copy copies the latest versions of a file, or of a directory and all below
	// it. ErrExists when to exists, ErrTooLarge.
	Copy(ctx context.Context, workspace, from, to, author string) (Entry, error)
	// Delete moves a file, or a directory with all below it, however much, to the
	// trash. match is as in Move. A Delete of a large directory that dies in the
	// middle is finished later, as a move is.
	Delete(ctx context.Context, workspace, path, author string, match Match) error

	// Versions returns the versions of a file, latest first, across moves: those
	// older than the version after, "" for all, and at most limit of them, 0 for all.
	Versions(ctx context.Context, workspace, path, after string, limit int) ([]Version, error)
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

	// Trash returns what was deleted and can be brought back, newest first: what
	// follows the entry of the id after, which may be gone since, "" for all, and at
	// most limit entries, 0 for all.
	Trash(ctx context.Context, workspace, after string, limit int) ([]Trashed, error)
	// Undelete brings a file back. ErrExists when its path is taken.
	Undelete(ctx context.Context, workspace, id string) (Entry, error)
	// Purge removes a trash entry for good; "" means all of the trash.
	Purge(ctx context.Context, workspace, id string) error

	// Usage returns what a workspace holds, old versions, trash and directories
	// included, each as Charge says, and its limit, 0 when there is none. Bytes.
	Usage(ctx context.Context, workspace string) (used, limit int64, err error)

	// Watch calls changed for each change that this store makes in the workspace
	// from now on, in order, until ctx ends. lost is called instead when the
	// caller was too slow for some: it should Walk. Both from one goroutine. A
	// change made by another gateway is not told.
	Watch(ctx context.Context, workspace string, changed func(Change), lost func())
}
