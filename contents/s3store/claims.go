package s3store

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"kernelgw/contents"
)

// patience is how long a write waits for another one of the same path, or of a
// directory above or below it.
const patience = 10 * time.Second

// claims keep writes apart that would see each other half done. A claim of a
// path holds all below it, too, and excludes claims of what is above it: who
// makes a file and who makes it a directory meet here. Reads claim nothing.
// Whoever asks first has it first, so that what takes many small claims one after
// the other keeps nobody out.
type claims struct {
	mu    sync.Mutex
	asked map[string][]*claim // by workspace, in the order of asking
}

// claim is held when none that was asked for before it is in its way.
type claim struct {
	paths []string
	done  chan struct{} // closed when it is released or given up
}

// take claims paths of a workspace, all at once, until the caller calls release.
func (c *claims) take(ctx context.Context, workspace string, paths ...string) (release func(), err error) {
	timeout := time.NewTimer(patience)
	defer timeout.Stop()
	mine := c.ask(workspace, paths)
	for {
		other := c.before(workspace, mine)
		if other == nil {
			return func() { c.release(workspace, mine) }, nil
		}
		select {
		case <-other.done:
			continue
		case <-ctx.Done():
			err = ctx.Err()
		case <-timeout.C:
			err = fmt.Errorf("cannot change %s: %w", paths[0], contents.ErrBusy)
		}
		c.release(workspace, mine)
		return nil, err
	}
}

func (c *claims) ask(workspace string, paths []string) *claim {
	c.mu.Lock()
	defer c.mu.Unlock()
	mine := &claim{paths: paths, done: make(chan struct{})}
	if c.asked == nil {
		c.asked = map[string][]*claim{}
	}
	c.asked[workspace] = append(c.asked[workspace], mine)
	return mine
}

// before returns a claim that was asked for earlier and is in the way.
func (c *claims) before(workspace string, mine *claim) *claim {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, other := range c.asked[workspace] {
		if other == mine {
			return nil
		}
		if other.excludes(mine) {
			return other
		}
	}
	return nil
}

func (c *claim) excludes(other *claim) bool {
	for _, a := range c.paths {
		for _, b := range other.paths {
			if within(a, b) || within(b, a) {
				return true
			}
		}
	}
	return false
}

func (c *claims) release(workspace string, mine *claim) {
	c.mu.Lock()
	defer c.mu.Unlock()
	left := slices.DeleteFunc(c.asked[workspace], func(other *claim) bool { return other == mine })
	if len(left) == 0 {
		delete(c.asked, workspace)
	} else {
		c.asked[workspace] = left
	}
	close(mine.done)
}
