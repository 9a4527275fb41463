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
type claims struct {
	mu   sync.Mutex
	held map[string][]*claim // by workspace
}

type claim struct {
	path string
	done chan struct{} // closed at release
}

// take claims paths of a workspace, all at once, until the caller calls release.
func (c *claims) take(ctx context.Context, workspace string, paths ...string) (release func(), err error) {
	timeout := time.NewTimer(patience)
	defer timeout.Stop()
	for {
		mine, other := c.try(workspace, paths)
		if other == nil {
			return func() { c.release(workspace, mine) }, nil
		}
		select {
		case <-other.done:
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-timeout.C:
			return nil, fmt.Errorf("cannot change %s: %w", paths[0], contents.ErrBusy)
		}
	}
}

// try returns the claims, or one that is in the way.
func (c *claims) try(workspace string, paths []string) (mine []*claim, other *claim) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, held := range c.held[workspace] {
		for _, path := range paths {
			if within(held.path, path) || within(path, held.path) {
				return nil, held
			}
		}
	}
	for _, path := range paths {
		mine = append(mine, &claim{path: path, done: make(chan struct{})})
	}
	if c.held == nil {
		c.held = map[string][]*claim{}
	}
	c.held[workspace] = append(c.held[workspace], mine...)
	return mine, nil
}

func (c *claims) release(workspace string, mine []*claim) {
	c.mu.Lock()
	defer c.mu.Unlock()
	left := slices.DeleteFunc(c.held[workspace], func(held *claim) bool { return slices.Contains(mine, held) })
	if len(left) == 0 {
		delete(c.held, workspace)
	} else {
		c.held[workspace] = left
	}
	for _, m := range mine {
		close(m.done)
	}
}
