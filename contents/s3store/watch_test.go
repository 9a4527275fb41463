package s3store

import (
	"context"
	"fmt"
	"testing"
	"time"

	"kernelgw/contents"
)

// A watcher that is too slow is told that it lost changes, waits for nobody, and
// then sees new ones.
func TestASlowWatcherIsTold(t *testing.T) {
	s := &Store{lives: t.Context(), workspaces: map[string]*workspace{}}
	feed := &s.workspace("w").feed
	ctx, end := context.WithCancel(t.Context())
	entered, stuck, lost, after := make(chan struct{}, maxUntold), make(chan struct{}), make(chan struct{}, 1), make(chan struct{})
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		s.Watch(ctx, "w", func(c contents.Change) {
			select {
			case entered <- struct{}{}:
			default:
			}
			<-stuck
			if c.Path == "after" {
				close(after)
			}
		}, func() {
			select {
			case lost <- struct{}{}:
			default:
			}
		})
	}()
	// Until the watcher is there, nothing is told.
	for watching := false; !watching; {
		feed.publish(contents.Change{Path: "first"})
		select {
		case <-entered:
			watching = true
		case <-time.After(time.Millisecond):
		}
	}
	for i := range maxUntold + 10 {
		feed.publish(contents.Change{Path: fmt.Sprint(i)})
	}
	feed.publish(contents.Change{Path: "after"})
	close(stuck)
	for name, told := range map[string]chan struct{}{"that changes were lost": lost, "the change after those that were lost": after} {
		select {
		case <-told:
		case <-time.After(10 * time.Second):
			t.Errorf("the watcher is not told %s", name)
		}
	}
	end()
	<-ended
}
