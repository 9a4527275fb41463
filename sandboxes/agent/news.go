package agent

import "sync"

// news wakes those who wait for a change of the status.
type news struct {
	mu   sync.Mutex
	next chan struct{} // closed at the next change; guarded by mu
}

func newNews() *news { return &news{next: make(chan struct{})} }

// changed wakes all who wait.
func (n *news) changed() {
	n.mu.Lock()
	defer n.mu.Unlock()
	close(n.next)
	n.next = make(chan struct{})
}

// wait returns a channel that the next change closes.
func (n *news) wait() <-chan struct{} {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.next
}
