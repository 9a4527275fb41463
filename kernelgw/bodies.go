package kernelgw

import (
	"net/http"
	"sync"
	"time"
)

// leftover is how long net/http may read on in a body that nobody wants, so
// that its sender sees the answer rather than a reset connection; and how long
// one that is wanted may still take when the server drains.
const leftover = time.Second

// bodies are those that are being read: one that does not come must not hold a
// drain.
type bodies struct {
	mu       sync.Mutex
	draining bool                                  // guarded by mu
	reading  map[*http.ResponseController]struct{} // guarded by mu
}

func newBodies() *bodies { return &bodies{reading: map[*http.ResponseController]struct{}{}} }

// begin notes that a body is being read until done is called.
func (b *bodies) begin(connection *http.ResponseController) (done func()) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.reading[connection] = struct{}{}
	if b.draining {
		hurry(connection)
	}
	return func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		delete(b.reading, connection)
	}
}

// drain hurries all.
func (b *bodies) drain() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.draining = true
	for connection := range b.reading {
		hurry(connection)
	}
}

func hurry(connection *http.ResponseController) {
	_ = connection.SetReadDeadline(time.Now().Add(leftover)) // fails without a network only
}
