package kernelgw

import (
	"context"
	"fmt"
	"net/http"
	"sync"
	"time"

	"kernelgw/kernelgw/splice"
)

// sockets are the WebSockets that are open or being opened: an upgraded
// connection outlives http.Server.Shutdown.
type sockets struct {
	all sync.WaitGroup

	mu       sync.Mutex
	most     int                 // of one user; set at construction
	draining bool                // guarded by mu
	places   map[*place]struct{} // guarded by mu
	byUser   map[string]int      // guarded by mu; how many places a user has
}

// ender is an open WebSocket, which End ends in the background.
type ender interface{ End(splice.Farewell) }

// place is one WebSocket's.
type place struct {
	ctx    context.Context // ends when the server drains, while the upgrade is held
	cancel context.CancelFunc
	user   string
	joined ender // nil while the upgrade is held; guarded by sockets.mu
}

func newSockets(most int) *sockets {
	return &sockets{most: most, places: map[*place]struct{}{}, byUser: map[string]int{}}
}

// enter takes a place for a user, unless the server drains or the user has as
// many as it may. The place is given back by leave, or taken over by run.
func (s *sockets) enter(user string) (*place, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.draining {
		return nil, errDraining
	}
	if s.byUser[user] >= s.most {
		return nil, &httpError{status: http.StatusTooManyRequests, message: fmt.Sprintf(
			"You have %d open WebSockets and streams; the limit is %d: close some, or ask for a higher limit", s.byUser[user], s.most)}
	}
	p := &place{user: user}
	p.ctx, p.cancel = context.WithCancel(context.Background())
	s.places[p] = struct{}{}
	s.byUser[user]++
	s.all.Add(1)
	return p, nil
}

func (s *sockets) leave(p *place) {
	s.mu.Lock()
	delete(s.places, p)
	if s.byUser[p.user]--; s.byUser[p.user] == 0 {
		delete(s.byUser, p.user)
	}
	s.mu.Unlock()
	p.cancel()
	s.all.Done()
}

// run starts work, which runs joined, and gives the place back after it.
func (s *sockets) run(p *place, joined ender, work func()) {
	s.mu.Lock()
	p.joined = joined
	if s.draining {
		joined.End(restarting)
	}
	s.mu.Unlock()
	go func() {
		defer s.leave(p)
		work()
	}()
}

// restarting is the farewell of a drain. JupyterLab does not come back after
// 1000 or 1001.
var restarting = splice.Farewell{
	Code: closeRestart, Reason: "the server is restarting; reconnect",
	Settle: 2 * time.Second, // agents ping within 50 ms while output flows, and later where they have no turn
}

// drain refuses new WebSockets, ends held upgrades and closes open ones.
func (s *sockets) drain() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.draining = true
	for p := range s.places {
		p.cancel()
		if p.joined != nil {
			p.joined.End(restarting)
		}
	}
}

// wait waits until all WebSockets have ended, or ctx has.
func (s *sockets) wait(ctx context.Context) bool {
	done := make(chan struct{})
	go func() {
		s.all.Wait()
		close(done)
	}()
	select {
	case <-done:
		return true
	case <-ctx.Done():
		return false
	}
}

// traffic is what splices counted.
type traffic struct{ messagesOut, bytesOut, messagesIn, bytesIn int64 }

// flushTraffic moves what the splices counted into the metrics.
func (s *Server) flushTraffic() {
	s.flush.Lock()
	defer s.flush.Unlock()
	now := traffic{
		messagesOut: s.toClient.Messages.Load(), bytesOut: s.toClient.Bytes.Load(),
		messagesIn: s.toAgent.Messages.Load(), bytesIn: s.toAgent.Bytes.Load(),
	}
	m := s.o.Metrics
	m.Messages.WithLabelValues("out").Add(float64(now.messagesOut - s.flushed.messagesOut))
	m.Messages.WithLabelValues("in").Add(float64(now.messagesIn - s.flushed.messagesIn))
	m.Bytes.WithLabelValues("out").Add(float64(now.bytesOut - s.flushed.bytesOut))
	m.Bytes.WithLabelValues("in").Add(float64(now.bytesIn - s.flushed.bytesIn))
	s.flushed = now
}
