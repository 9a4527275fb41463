// Package filesync keeps a directory of a sandbox the same as a workspace, whose
// truth the gateway has: it pulls the workspace at the start, and then carries
// changes both ways over the link of package agentapi. It knows files and the
// link, and nothing of kernels.
//
// The directory belongs to the kernel, which is hostile and changes it at any
// moment: each file is reached from the directory's descriptor without following
// a link (tree.go, place.go), and nothing of it is believed to be as it was a moment ago.
//
// Each path is one question with three sides: what is here, what is in the
// store, and what both were when they were last the same (table.go). reconcile.go
// answers it; queue.go says which paths to ask about, because of a change seen
// here (watch.go), one told by the store, or a look at everything. Where both
// sides changed, the store's version keeps the name and the sandbox's is kept
// beside it.
package filesync

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path"
	"sync"
	"time"

	"kernelgw/sandboxes/agentapi"
)

// Options are what a Syncer needs.
type Options struct {
	Config agentapi.FilesConfig
	// Dir is the directory that is kept as the workspace. It exists, and no
	// part of its path is the kernel's to change.
	Dir string
	// Owner is whose the files are; nil means this process's own user. Files of
	// others are not read.
	Owner *Owner
	// Notice tells the user something, once; nil means nobody.
	Notice func(text string)
	Log    *slog.Logger // nil discards it
}

// Owner is an operating system user by number.
type Owner struct{ UID, GID uint32 }

// Times that rule a Syncer.
const (
	settle       = 250 * time.Millisecond // from the last change of a file to its upload
	settleAtMost = time.Second            // from the first change, if it does not stop
	rescanEvery  = 30 * time.Second       // where inotify misses something
	resyncEvery  = 5 * time.Minute        // where another gateway changed something
	retryFirst   = 100 * time.Millisecond
	retrySoon    = time.Second      // at the latest, where nothing failed
	retryLast    = 30 * time.Second // at the latest
)

// Transfers that go on at a time.
const (
	smallWorkers = 12
	largeWorkers = 2
	smallBytes   = 1 << 20 // a larger file waits for one of the large workers
)

// Syncer keeps one directory. Make one with New, and call Run once. All other
// methods are safe for concurrent use.
type Syncer struct {
	// set at construction
	o       Options
	tree    *tree
	table   *table
	queue   *queue
	notices *notices
	watch   *watcher
	pulled  chan struct{} // closed when what the kernel needs is here
	started chan struct{} // closed when the kernel was started
	rescans chan chan struct{}
	once    struct{ pulled, started sync.Once }
	early   early

	mu      sync.Mutex
	using   *remote       // guarded by mu; the newest link
	link    *remote       // guarded by mu; that link when it was compared with; nil while there is none
	changed chan struct{} // guarded by mu; closed and replaced when link changes
	first   []change      // guarded by mu; small files, for before
	later   []change      // guarded by mu; large files, for after the start of the kernel
	closed  bool          // guarded by mu
	links   sync.WaitGroup
}

// New returns a Syncer that does nothing until Run.
func New(o Options) (*Syncer, error) {
	o.Config.StartPatience = cmp.Or(o.Config.StartPatience, agentapi.DefaultFilesPatience)
	o.Config.LargeBytes = cmp.Or(o.Config.LargeBytes, agentapi.DefaultLargeFile)
	o.Config.MaxFileBytes = cmp.Or(o.Config.MaxFileBytes, agentapi.DefaultMaxFile)
	for _, pattern := range o.Config.Ignore {
		if _, err := path.Match(pattern, ""); err != nil {
			return nil, fmt.Errorf("cannot sync files: pattern %q to ignore: %w", pattern, err)
		}
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Notice == nil {
		o.Notice = func(string) {}
	}
	t, err := openTree(o.Dir, o.Owner)
	if err != nil {
		return nil, fmt.Errorf("cannot sync files: %w", err)
	}
	s := &Syncer{
		o: o, tree: t, table: newTable(), queue: newQueue(),
		notices: &notices{tell: o.Notice, log: o.Log},
		watch:   newWatcher(o.Dir),
		pulled:  make(chan struct{}), started: make(chan struct{}),
		rescans: make(chan chan struct{}), changed: make(chan struct{}),
	}
	// What is here now came with the image: it is nobody's work.
	s.walk("", func(p string, st stat) { s.table.set(p, synced{stat: st, kept: true}) })
	return s, nil
}

// Run syncs until ctx ends. When it returns, all goroutines and links of the
// Syncer have ended.
func (s *Syncer) Run(ctx context.Context) {
	ctx, cancel := context.WithCancel(ctx)
	var workers sync.WaitGroup
	workers.Go(func() { s.watch.run(ctx, s.seen, s.missed) })
	workers.Go(func() { s.rescan(ctx) })
	for range smallWorkers {
		workers.Go(func() { s.work(ctx, false) })
	}
	for range largeWorkers {
		workers.Go(func() { s.work(ctx, true) })
	}
	<-ctx.Done()
	cancel()
	s.mu.Lock()
	s.closed = true
	if s.using != nil {
		s.using.close()
	}
	s.mu.Unlock()
	workers.Wait()
	s.links.Wait()
	s.tree.close()
}

// WaitPulled waits until what the kernel needs at its start is in the directory,
// or ctx ends, or for as long as the configuration allows. It says what is
// missing then. From then on the directory is the kernel's.
func (s *Syncer) WaitPulled(ctx context.Context) error {
	defer s.begins()
	select {
	case <-s.pulled:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(s.o.Config.StartPatience):
	}
	st := s.Status()
	if !st.Linked {
		return errors.New("the files of the workspace are not here yet: the gateway does not bring them")
	}
	return fmt.Errorf("the files of the workspace are not all here yet: %d are on their way", st.Waiting)
}

// KernelStarted says that the kernel runs: large files may come now.
func (s *Syncer) KernelStarted() {
	s.begins()
	s.once.started.Do(func() { close(s.started) })
}

// Status returns how the files are.
func (s *Syncer) Status() agentapi.FilesStatus {
	st := agentapi.FilesStatus{Linked: s.current() != nil}
	st.Pulled = isClosed(s.pulled)
	st.Files, st.Kept = s.table.count()
	st.Waiting, st.Local, st.WaitBytes = s.queue.count()
	s.mu.Lock()
	st.Waiting += len(s.later)
	for _, c := range s.later {
		st.WaitBytes += c.size
	}
	s.mu.Unlock()
	st.Conflicts, st.Notice = s.notices.summary()
	return st
}

// Flush waits until all that was written in the directory before the call is in
// the store, or ctx ends.
func (s *Syncer) Flush(ctx context.Context) error {
	done := make(chan struct{})
	select {
	case s.rescans <- done:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	select {
	case <-done:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	if !s.queue.waitLocal(ctx) {
		return context.Cause(ctx)
	}
	return nil
}
