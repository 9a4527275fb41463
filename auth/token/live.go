package token

import (
	"sync"
	"time"
)

// live tells the holders of principals that a credential ended. It has one
// channel per credential in use.
type live struct {
	mu      sync.Mutex
	entries map[string]*entry // guarded by mu
	closed  bool              // guarded by mu
}

type entry struct {
	ended  chan struct{}
	owner  owner
	used   time.Time   // when the credential was last presented
	expiry *time.Timer // nil: none
}

// owner says what a credential in use depends on.
type owner struct {
	user, credential string
	workspaces       []string
	expires          time.Time // zero: never
}

func newLive() *live { return &live{entries: map[string]*entry{}} }

// watch returns the channel that is closed when the credential of that key
// ends.
func (l *live) watch(key string, o owner) <-chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	e := l.entries[key]
	if e == nil {
		e = &entry{ended: make(chan struct{})}
		l.entries[key] = e
		if !o.expires.IsZero() && !l.closed {
			e.expiry = time.AfterFunc(time.Until(o.expires), func() { l.end(key) })
		}
	}
	e.owner, e.used = o, time.Now()
	return e.ended
}

// used returns when the credential of that key was last presented to this
// process; the zero time is never.
func (l *live) used(key string) time.Time {
	l.mu.Lock()
	defer l.mu.Unlock()
	if e := l.entries[key]; e != nil {
		return e.used
	}
	return time.Time{}
}

// end closes the channel of that key.
func (l *live) end(key string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.drop(key)
}

// endWhere closes the channels whose owner gone reports.
func (l *live) endWhere(gone func(owner) bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for key, e := range l.entries {
		if gone(e.owner) {
			l.drop(key)
		}
	}
}

// drop is end with l.mu held.
func (l *live) drop(key string) {
	e := l.entries[key]
	if e == nil {
		return
	}
	if e.expiry != nil {
		e.expiry.Stop()
	}
	close(e.ended)
	delete(l.entries, key)
}

// close stops the timers.
func (l *live) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed = true
	for _, e := range l.entries {
		if e.expiry != nil {
			e.expiry.Stop()
		}
	}
}
