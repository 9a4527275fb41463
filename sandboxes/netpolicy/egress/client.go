package egress

import (
	"context"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"

	"golang.org/x/time/rate"
)

// client is somebody who was admitted.
type client struct {
	// set at admission
	name string
	// Connections to hosts are pooled per client: none is ever another's, and all
	// can be cut with it.
	plain, verified *http.Transport
	saying          *rate.Limiter // of denials

	rules                          atomic.Pointer[rules]
	authority                      atomic.Pointer[Authority] // that it trusts; nil when there is none
	up, down, connections, denials atomic.Uint64
	unsaid                         atomic.Uint64

	mu      sync.Mutex
	gone    bool
	links   map[*link]struct{}
	inbound int // of links, those from the client
}

// link is an open connection from a client, or to a host for it.
type link struct {
	conn net.Conn
	out  bool // to a host
	// guarded by client.mu
	target target     // of a connection from the client: once it is for one target
	addr   netip.Addr // of a connection to a host
}

// hold registers a connection from the client. It reports false when there are
// too many or the client was dismissed. The link is set under the lock: from
// then on others may close the connection, and Close reads it.
func (c *client) hold(in *inbound, most int) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.gone || c.inbound >= most {
		return false
	}
	in.link = &link{conn: in}
	c.inbound++
	c.links[in.link] = struct{}{}
	return true
}

// bind says that a connection from the client is for one target from now on.
// It reports false when the rules that hold now deny that.
func (c *client) bind(l *link, t target) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	l.target = t
	return !c.gone && c.rules.Load().deny(t) == ""
}

// reach registers a connection to a host. It reports false when the rules have
// changed since they were asked, and deny it.
func (c *client) reach(out *outbound, t target, addr netip.Addr) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	l := &link{conn: out, out: true, target: t, addr: addr}
	if c.gone || !c.rules.Load().allows(l) {
		return false
	}
	out.link = l
	c.links[l] = struct{}{}
	c.connections.Add(1)
	return true
}

func (c *client) forget(l *link) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, ok := c.links[l]; !ok {
		return
	}
	delete(c.links, l)
	if !l.out {
		c.inbound--
	}
}

// allows reports whether an open connection may stay open.
func (r *rules) allows(l *link) bool {
	if l.target.host == "" {
		return true
	}
	if r.deny(l.target) != "" {
		return false
	}
	return !l.addr.IsValid() || r.isMirror(l.target) || refused(l.addr) == ""
}

// change gives the client other rules and cuts what they deny.
func (c *client) change(r *rules) {
	c.mu.Lock()
	c.rules.Store(r)
	var denied []net.Conn
	for l := range c.links {
		if !r.allows(l) {
			denied = append(denied, l.conn)
		}
	}
	c.mu.Unlock()
	// Outside of the lock: closing a connection forgets its link.
	for _, conn := range denied {
		conn.Close()
	}
}

// end cuts all that the client has and refuses what comes later.
func (c *client) end() {
	c.mu.Lock()
	c.gone = true
	c.mu.Unlock()
	c.cutAll()
}

// cutAll closes what is open; the client stays.
func (c *client) cutAll() {
	c.mu.Lock()
	var open []net.Conn
	for l := range c.links {
		open = append(open, l.conn)
	}
	c.mu.Unlock()
	for _, conn := range open {
		conn.Close()
	}
	c.plain.CloseIdleConnections()
	c.verified.CloseIdleConnections()
}

func (c *client) usage() Usage {
	c.mu.Lock()
	defer c.mu.Unlock()
	return Usage{
		Up: c.up.Load(), Down: c.down.Load(),
		Connections: c.connections.Load(), Open: len(c.links) - c.inbound,
		Denials: c.denials.Load(),
	}
}

// secretsFor returns the client's secrets for a target.
func (p *Proxy) secretsFor(ctx context.Context, c *client, t target) ([]Secret, error) {
	if p.options.Secrets == nil {
		return nil, nil
	}
	all, err := p.options.Secrets(ctx, c.name)
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(slices.Clone(all), func(s Secret) bool { return !s.isFor(t) }), nil
}
