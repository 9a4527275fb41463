package kernelgw

import (
	"context"
	"net/http"
	"sync"
	"time"
)

// results bounds how many outputs of executions the server holds: they can be
// large, and are held until their client has them. A user's own wait for each
// other, and for nobody else's.
type results struct {
	mu     sync.Mutex
	byUser map[string]*resultPlaces // guarded by mu; of users with any
}

type resultPlaces struct {
	taken chan struct{} // holds a token for each
	users int           // guarded by results.mu: who have or want a place
}

const (
	maxResults     = 4 // at once, of a user
	resultPatience = 20 * time.Second
)

func newResults() *results { return &results{byUser: map[string]*resultPlaces{}} }

// enter waits for a place, which the caller must leave.
func (r *results) enter(ctx context.Context, user string) (leave func(), err error) {
	r.mu.Lock()
	p := r.byUser[user]
	if p == nil {
		p = &resultPlaces{taken: make(chan struct{}, maxResults)}
		r.byUser[user] = p
	}
	p.users++
	r.mu.Unlock()
	gone := func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		if p.users--; p.users == 0 {
			delete(r.byUser, user)
		}
	}
	ctx, cancel := context.WithTimeout(ctx, resultPatience)
	defer cancel()
	select {
	case p.taken <- struct{}{}:
		return func() { <-p.taken; gone() }, nil
	case <-ctx.Done():
		gone()
		return nil, &httpError{
			status: http.StatusTooManyRequests, retryAfter: 2,
			message: "Too many results are on their way to you already; read them, and try again",
		}
	}
}
