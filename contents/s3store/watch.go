package s3store

import (
	"context"
	"sync"

	"kernelgw/contents"
)

// maxUntold is how many changes wait for a watcher before it is told that it lost
// some.
const maxUntold = 4096

// feed tells the changes of a workspace to those who watch it. It waits for none
// of them.
type feed struct {
	mu       sync.Mutex
	watchers map[*watcher]struct{}
}

type watcher struct {
	mu     sync.Mutex
	untold []contents.Change // guarded by mu
	lost   bool              // guarded by mu
	wake   chan struct{}     // holds one
}

// Watch implements contents.Store.
func (s *Store) Watch(ctx context.Context, workspace string, changed func(contents.Change), lost func()) {
	f := &s.workspace(workspace).feed
	w := &watcher{wake: make(chan struct{}, 1)}
	f.mu.Lock()
	if f.watchers == nil {
		f.watchers = map[*watcher]struct{}{}
	}
	f.watchers[w] = struct{}{}
	f.mu.Unlock()
	defer func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		delete(f.watchers, w)
	}()
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.lives.Done():
			return
		case <-w.wake:
		}
		w.mu.Lock()
		changes, missed := w.untold, w.lost
		w.untold, w.lost = nil, false
		w.mu.Unlock()
		if missed {
			lost()
		}
		for _, c := range changes {
			if ctx.Err() != nil {
				return
			}
			changed(c)
		}
	}
}

func (f *feed) publish(c contents.Change) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for w := range f.watchers {
		w.tell(c)
	}
}

func (w *watcher) tell(c contents.Change) {
	w.mu.Lock()
	if len(w.untold) >= maxUntold {
		// What waits is older than what is lost; the walk that follows shows both.
		w.untold, w.lost = nil, true
	} else {
		w.untold = append(w.untold, c)
	}
	w.mu.Unlock()
	select {
	case w.wake <- struct{}{}:
	default:
	}
}
