package contentstest

import (
	"context"

	"kernelgw/contents"
)

// watcher is one call of Watch. A full queue is a watcher that was too slow.
type watcher struct {
	queue chan contents.Change
	lost  chan struct{} // holds one when changes were dropped
}

// tell hands a change to all who watch; the fake's lock is held.
func (w *workspace) tell(c contents.Change) {
	for one := range w.watchers {
		select {
		case one.queue <- c:
		default:
			select {
			case one.lost <- struct{}{}:
			default:
			}
		}
	}
}

// Watch implements contents.Store.
func (f *Fake) Watch(ctx context.Context, workspace string, changed func(contents.Change), lost func()) {
	one := &watcher{queue: make(chan contents.Change, 256), lost: make(chan struct{}, 1)}
	w := f.in(workspace)
	w.watchers[one] = true
	f.mu.Unlock()
	defer func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		delete(w.watchers, one)
	}()
	for {
		select {
		case <-ctx.Done():
			return
		case <-one.lost:
			lost()
		case c := <-one.queue:
			changed(c)
		}
	}
}
