package egress

import (
	"net"
	"sync"
	"time"
)

// idleConn is a connection that fails when nothing has moved on it, in either
// direction, for the idle time, or a sixteenth less. Deadlines that its user sets
// hold besides.
type idleConn struct {
	net.Conn
	idle time.Duration

	mu              sync.Mutex
	by              time.Time // when the idle time is over, as far as was last said
	readBy, wroteBy time.Time // set by the user; zero: none
}

func (c *idleConn) Read(b []byte) (int, error) {
	c.move()
	return c.Conn.Read(b)
}

func (c *idleConn) Write(b []byte) (int, error) {
	c.move()
	return c.Conn.Write(b)
}

// move sets the deadlines of what begins now, and of what the other direction
// is waiting for.
func (c *idleConn) move() {
	c.mu.Lock()
	defer c.mu.Unlock()
	// Not each time: to set a deadline costs as much as to copy a few kilobytes.
	if time.Until(c.by) < c.idle-c.idle/16 {
		c.set()
	}
}

func (c *idleConn) set() {
	c.by = time.Now().Add(c.idle)
	c.Conn.SetReadDeadline(earlier(c.by, c.readBy))
	c.Conn.SetWriteDeadline(earlier(c.by, c.wroteBy))
}

func earlier(by, user time.Time) time.Time {
	if user.IsZero() || by.Before(user) {
		return by
	}
	return user
}

// SetDeadline sets both deadlines.
func (c *idleConn) SetDeadline(t time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.readBy, c.wroteBy = t, t
	c.set()
	return nil
}

// SetReadDeadline sets a deadline for reads besides the idle time.
func (c *idleConn) SetReadDeadline(t time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.readBy = t
	c.set()
	return nil
}

// SetWriteDeadline sets a deadline for writes besides the idle time.
func (c *idleConn) SetWriteDeadline(t time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.wroteBy = t
	c.set()
	return nil
}

// inbound is a connection from a client.
type inbound struct {
	idleConn
	client *client
	link   *link
}

// Close closes the connection and frees its place. It may be called twice.
func (in *inbound) Close() error {
	in.client.forget(in.link)
	return in.Conn.Close()
}

// outbound is a connection to a host for a client, whose bytes it counts.
type outbound struct {
	idleConn
	client *client
	link   *link
}

func (out *outbound) Read(b []byte) (int, error) {
	n, err := out.idleConn.Read(b)
	out.client.down.Add(uint64(n))
	return n, err
}

func (out *outbound) Write(b []byte) (int, error) {
	n, err := out.idleConn.Write(b)
	out.client.up.Add(uint64(n))
	return n, err
}

// Close closes the connection. It may be called twice.
func (out *outbound) Close() error {
	out.client.forget(out.link)
	return out.Conn.Close()
}
