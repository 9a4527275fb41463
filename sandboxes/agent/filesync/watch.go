package filesync

import (
	"context"
	"path"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/fsnotify/fsnotify"
)

// maxScan bounds how many files and directories are looked at: a kernel can make
// more than anybody wants to sync.
const maxScan = 200_000

// watcher tells of changes below a directory as they happen, as far as the
// system does: a look at everything finds the rest. It reaches directories by
// their names, which the kernel can lead elsewhere; then it tells of paths that
// did not change, or of none.
type watcher struct {
	dir string

	mu     sync.Mutex
	notify *fsnotify.Watcher   // guarded by mu; nil when there is none
	dirs   map[string]struct{} // guarded by mu; paths that are watched
	on     bool                // guarded by mu
}

func newWatcher(dir string) *watcher {
	w := &watcher{dir: filepath.Clean(dir), dirs: map[string]struct{}{}}
	if notify, err := fsnotify.NewWatcher(); err == nil {
		w.notify = notify
	}
	return w
}

// add watches a directory. It reports whether that is new.
func (w *watcher) add(p string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if _, ok := w.dirs[p]; ok || w.notify == nil || !w.on {
		return false
	}
	if w.notify.Add(filepath.Join(w.dir, p)) != nil {
		return false // gone again, or the system's limit is reached
	}
	w.dirs[p] = struct{}{}
	return true
}

// enable begins to watch, with the directory itself. Before, add does nothing.
func (w *watcher) enable() {
	w.mu.Lock()
	w.on = true
	w.mu.Unlock()
	w.add("")
}

// remove ends the watch of a directory and of all below it. One that was renamed
// would be watched under its old name.
func (w *watcher) remove(p string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for dir := range w.dirs {
		if dir == p || strings.HasPrefix(dir, p+"/") {
			delete(w.dirs, dir)
			w.notify.Remove(filepath.Join(w.dir, dir)) //nolint:errcheck // gone is what is wanted
		}
	}
}

// run calls seen for each change and missed when some were lost, until ctx ends.
func (w *watcher) run(ctx context.Context, seen func(p string, op fsnotify.Op), missed func()) {
	w.mu.Lock()
	notify := w.notify
	w.mu.Unlock()
	if notify == nil {
		return
	}
	defer func() {
		w.mu.Lock()
		w.notify, w.dirs = nil, map[string]struct{}{}
		w.mu.Unlock()
		notify.Close()
	}()
	for {
		select {
		case <-ctx.Done():
			return
		case e, ok := <-notify.Events:
			if !ok {
				return
			}
			if p, ok := strings.CutPrefix(e.Name, strings.TrimSuffix(w.dir, "/")+"/"); ok && p == path.Clean(p) {
				seen(p, e.Op)
			}
		case _, ok := <-notify.Errors:
			if !ok {
				return
			}
			missed()
		}
	}
}

// seen takes a change that the watcher told.
func (s *Syncer) seen(p string, op fsnotify.Op) {
	if s.ignored(p) {
		return
	}
	if op.Has(fsnotify.Remove) || op.Has(fsnotify.Rename) {
		s.watch.remove(p)
		// Later than what has come in its place, so that what was renamed is
		// never in neither place.
		for _, inside := range s.table.below(p) {
			s.queue.add(change{path: inside, local: true, after: 2 * settle})
		}
		s.queue.add(change{path: p, local: true, after: 2 * settle})
		return
	}
	st, err := s.tree.stat(p)
	if was := s.table.get(p); err == nil && st.same(was.stat) && !was.unsure && !s.queue.busy(p) {
		return // what this side did itself
	}
	s.queue.add(change{path: p, local: true, after: settle})
	if err == nil && st.kind == directory && op.Has(fsnotify.Create) {
		s.look(p, settle)
	}
}

func (s *Syncer) missed() { s.scan("", settle) }

// look watches a directory and asks about what is in it, if it is one that is
// not watched yet.
func (s *Syncer) look(p string, after time.Duration) {
	if st, err := s.tree.stat(p); err == nil && st.kind == directory && s.watch.add(p) {
		s.scan(p, after)
	}
}

// scan asks about everything below a directory that is not as it was.
func (s *Syncer) scan(dir string, after time.Duration) {
	known := s.table.paths()
	at := time.Now()
	ask := func(p string) { s.queue.add(change{path: p, local: true, at: at, after: after}) }
	complete := s.walk(dir, func(p string, st stat) {
		was, ok := known[p]
		delete(known, p)
		expired := was.kept && !was.retry.IsZero() && at.After(was.retry)
		if (!ok || expired || !st.same(was.stat)) && st.kind != special {
			s.queue.add(change{path: p, local: true, at: at, after: after, size: st.size})
		}
		if st.kind == directory {
			s.watch.add(p)
		}
	})
	if !complete {
		return
	}
	for p, was := range known {
		if (dir == "" || strings.HasPrefix(p, dir+"/")) && was.stat.kind != absent && !s.ignored(p) {
			ask(p)
		}
	}
}

// walk calls each for what is below a directory and is not ignored. It reports
// whether that was all.
func (s *Syncer) walk(dir string, each func(string, stat)) bool {
	left := maxScan
	complete := s.tree.walk(dir, s.ignored, &left, each)
	if left == 0 {
		s.notices.say("count", "there are too many files in the sandbox: not all of them are saved")
	}
	return complete
}

// rescan looks at everything now and then, and when asked.
func (s *Syncer) rescan(ctx context.Context) {
	tick := time.NewTicker(rescanEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			s.scan("", settle)
		case done := <-s.rescans:
			s.scan("", 0)
			s.queue.hurry()
			close(done)
		}
	}
}
