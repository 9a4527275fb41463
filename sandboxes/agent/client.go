package agent

import (
	"sync"
	"time"

	"kernelgw/sandboxes/agent/eventlog"
)

// client is what the agent remembers of one session_id: who its replies are
// for, and how far it has everything. It outlives its socket.
type client struct {
	id        string // set at construction; the session_id
	anonymous bool   // set at construction; the id was made up here, so nobody can come back with it

	// guarded by hub.mu
	socket   *socket
	away     time.Time // since when it has no socket
	left     bool      // it said that it goes
	sessions []string  // header sessions that lead here
	acked    eventlog.Cursor

	mu   sync.Mutex
	sent uint64 // guarded by mu: the highest number ever written to it
	seen uint64 // guarded by mu: all up to here it has, although it did not acknowledge it
	told uint64 // guarded by mu: the number of the last "restarting" that was written to it
}

// Limits on what is remembered of clients that are away.
const (
	clientLifetime  = 24 * time.Hour
	maxAway         = 1000
	maxSessions     = 16  // header sessions of one client
	maxRememberedID = 256 // bytes of a session or message id; longer ones are not remembered
	maxRoutes       = 8192
)

// routes finds the client that a kernel's answer is for. guarded by hub.mu
type routes struct {
	bySession map[string]*client
	// By msg_id, for clients that use one header session for several
	// WebSockets. When the newer is full it becomes the older.
	newer, older map[string]*client
}

func newRoutes() routes {
	return routes{bySession: make(map[string]*client), newer: make(map[string]*client)}
}

// learn notes that a message with this id and header session came from c.
func (r *routes) learn(c *client, id, session string) {
	if id != "" && len(id) <= maxRememberedID {
		if len(r.newer) >= maxRoutes {
			r.older, r.newer = r.newer, make(map[string]*client)
		}
		r.newer[id] = c
	}
	if session == "" || len(session) > maxRememberedID || r.bySession[session] == c {
		return
	}
	if old := r.bySession[session]; old != nil {
		old.dropSession(session)
	}
	if len(c.sessions) == maxSessions {
		delete(r.bySession, c.sessions[0])
		c.sessions = c.sessions[1:]
	}
	r.bySession[session] = c
	c.sessions = append(c.sessions, session)
}

func (c *client) dropSession(session string) {
	for i, s := range c.sessions {
		if s == session {
			c.sessions = append(c.sessions[:i:i], c.sessions[i+1:]...)
			return
		}
	}
}

// find returns whom an answer to the message with this id and header session is
// for, nil when nobody is known.
func (r *routes) find(id, session string) *client {
	if c := r.newer[id]; c != nil {
		return c
	}
	if c := r.older[id]; c != nil {
		return c
	}
	return r.bySession[session]
}

// forget removes all ways to c.
func (r *routes) forget(c *client) {
	for _, s := range c.sessions {
		delete(r.bySession, s)
	}
	c.sessions = nil
	for _, ids := range []map[string]*client{r.newer, r.older} {
		for id, to := range ids {
			if to == c {
				delete(ids, id)
			}
		}
	}
}
