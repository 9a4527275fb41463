package contentsync

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"

	"kernelgw/contents"
)

// entries is about how many files and directories a workspace has.
type entries struct {
	n atomic.Int64

	counting sync.Mutex // held while they are counted
	known    bool       // guarded by counting: they were, for this link
}

// counted takes note of how many there are.
func (l *link) counted(n int64) {
	l.entries.counting.Lock()
	defer l.entries.counting.Unlock()
	l.entries.n.Store(n)
	l.entries.known = true
}

// hasRoom refuses when the workspace has as many entries as it may have. An agent
// reads the manifest first. For another that does not they are counted here: a
// link that begins anew must not begin with none.
func (l *link) hasRoom(ctx context.Context) error {
	l.entries.counting.Lock()
	defer l.entries.counting.Unlock()
	if !l.entries.known {
		var n int64
		err := l.Store.Walk(ctx, l.workspace, "", func(contents.Entry) error {
			n++
			return nil
		})
		if err != nil {
			return err
		}
		l.entries.n.Store(n)
		l.entries.known = true
	}
	if l.entries.n.Load() >= l.MaxEntries {
		return &refused{http.StatusInsufficientStorage, "the workspace has too many files"}
	}
	return nil
}

// makeDirectories makes a directory and those above it. Each counts.
func (l *link) makeDirectories(ctx context.Context, p string) (e contents.Entry, err error) {
	missing := []string{p}
	for above := contents.Parent(p); above != ""; above = contents.Parent(above) {
		_, err := l.Store.Stat(ctx, l.workspace, above)
		if err == nil {
			break
		}
		if !errors.Is(err, contents.ErrNotFound) {
			return contents.Entry{}, err
		}
		missing = append(missing, above)
	}
	for _, directory := range slices.Backward(missing) {
		if err := l.hasRoom(ctx); err != nil {
			return contents.Entry{}, err
		}
		var created bool
		if e, created, err = l.Store.MakeDirectory(ctx, l.workspace, directory); err != nil {
			return contents.Entry{}, err
		}
		if created {
			l.entries.n.Add(1)
		}
	}
	return e, nil
}
