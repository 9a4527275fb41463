package kernelgw

import (
	"context"
	"log/slog"
	"sync"
	"time"
)

// holdings asks the store what workspaces hold. It counts once in a process, by
// a list of all versions, which may take longer than a page can wait: then it
// goes on without the page, one workspace at a time, and a later page shows it.
type holdings struct {
	// set at construction
	usage func(ctx context.Context, workspace string) (used, limit int64, err error)
	log   *slog.Logger
	ctx   context.Context // ends all counts
	stop  context.CancelFunc
	turn  chan struct{} // holds a token while a workspace is counted

	mu       sync.Mutex
	closed   bool                     // guarded by mu
	known    map[string]holding       // guarded by mu; by workspace
	counting map[string]chan struct{} // guarded by mu; closed when the count is over
	running  sync.WaitGroup
}

// holding is what a workspace holds, and may hold; 0 when that has no limit.
type holding struct{ used, limit int64 }

// countPatience bounds one count.
const countPatience = 10 * time.Minute

func newHoldings(usage func(context.Context, string) (int64, int64, error), log *slog.Logger) *holdings {
	ctx, stop := context.WithCancel(context.Background())
	return &holdings{
		usage: usage, log: log, ctx: ctx, stop: stop, turn: make(chan struct{}, 1),
		known: map[string]holding{}, counting: map[string]chan struct{}{},
	}
}

// of returns what a workspace holds, or held the last time, when it takes longer
// than ctx to find out.
func (h *holdings) of(ctx context.Context, workspace string) (found holding, known bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	counted := h.counting[workspace]
	if counted == nil && !h.closed {
		counted = make(chan struct{})
		h.counting[workspace] = counted
		h.running.Go(func() { h.count(workspace, counted) })
	}
	h.mu.Unlock()
	select {
	case <-counted:
	case <-ctx.Done():
	}
	h.mu.Lock()
	found, known = h.known[workspace]
	return found, known
}

// count counts one workspace, and then closes counted.
func (h *holdings) count(workspace string, counted chan<- struct{}) {
	ctx, cancel := context.WithTimeout(h.ctx, countPatience)
	defer cancel()
	var found holding
	var err error
	select {
	case h.turn <- struct{}{}:
		if err = ctx.Err(); err == nil { // the turn may have come by the end of the server
			found.used, found.limit, err = h.usage(ctx, workspace)
		}
		<-h.turn
	case <-ctx.Done():
		err = ctx.Err()
	}
	if err != nil && h.ctx.Err() == nil {
		h.log.Warn("it is not known what a workspace holds", "workspace", workspace, "error", err)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if err == nil {
		h.known[workspace] = found
	}
	delete(h.counting, workspace)
	close(counted)
}

// close ends all counts.
func (h *holdings) close() {
	h.mu.Lock()
	h.closed = true
	h.mu.Unlock()
	h.stop()
	h.running.Wait()
}
