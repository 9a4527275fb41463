package egress

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"kernelgw/sandboxes"
)

// Options are what a Proxy needs from outside. The zero value works: it
// resolves as the host does, trusts the host's roots and knows no secrets.
type Options struct {
	Log *slog.Logger // nil: slog.Default

	// Audit is told of denials, at most a few a second of each client. It must not
	// block.
	Audit func(Denial)

	// Secrets returns the secrets that a client may use, at each request that could
	// use one; it must be quick. When it fails, TLS connections are refused. It
	// needs an Authority.
	Secrets func(ctx context.Context, client string) ([]Secret, error)

	// Authority signs the certificates that are shown to clients instead of those of
	// the hosts that they have secrets for. Clients must trust it.
	Authority *Authority

	Resolver Resolver       // nil: the host's
	Roots    *x509.CertPool // trusted for upstream hosts of secrets; nil: the host's
	Refuse   []netip.Prefix // more networks never to reach: public addresses of this site

	Connections int // of one client at a time; 0 means 64
}

// Resolver finds the addresses of a name; *net.Resolver is one.
type Resolver interface {
	LookupNetIP(ctx context.Context, network, host string) ([]netip.Addr, error)
}

// Denial is a request that was refused. All text is printable ASCII, and none
// of it holds a secret's value.
type Denial struct {
	Client string // "" when the source address is nobody's
	Reason string // for people
	Host   string // as far as it was understood
	Port   uint16
	At     time.Time
	Unsaid uint64 // denials of this client before this one that Audit was not told of
}

// Usage is what a client has used since it was admitted. Bytes are those on
// connections to hosts outside, whatever they carry.
type Usage struct {
	Up, Down    uint64 // bytes sent and received
	Connections uint64 // made to hosts outside
	Open        int    // of them, now
	Denials     uint64
}

// limits bound what one client can take. What is buffered for one connection is
// at most its headers and two buffers of copySize, besides what the kernel buffers.
type limits struct {
	header time.Duration // for the headers of a request, and a handshake
	dial   time.Duration // to find and reach a host
	idle   time.Duration // of a connection on which nothing moves
	bytes  int           // of headers
}

var defaultLimits = limits{header: 10 * time.Second, dial: 15 * time.Second, idle: 10 * time.Minute, bytes: 64 << 10}

// Proxy is the proxy. Its methods are safe for concurrent use.
type Proxy struct {
	// set at construction
	options  Options
	log      *slog.Logger
	resolver Resolver
	limits   limits
	stranger *client // counts the denials of those who were not admitted
	own      ownAddresses
	route    func(netip.AddrPort) netip.AddrPort // the address itself, but in tests

	mu      sync.RWMutex
	clients map[netip.Addr]*client
}

// New makes a proxy without clients.
func New(options Options) (*Proxy, error) {
	if options.Secrets != nil && options.Authority == nil {
		return nil, errors.New("cannot make an egress proxy with secrets: it has no certificate authority")
	}
	p := &Proxy{
		options: options, log: options.Log, resolver: options.Resolver, limits: defaultLimits,
		stranger: &client{saying: newSaying()},
		route:    func(a netip.AddrPort) netip.AddrPort { return a },
		clients:  map[netip.Addr]*client{},
	}
	if p.log == nil {
		p.log = slog.Default()
	}
	if p.resolver == nil {
		p.resolver = net.DefaultResolver
	}
	if p.options.Connections == 0 {
		p.options.Connections = 64
	}
	return p, nil
}

// newSaying limits the denials of a client that the audit is told of.
func newSaying() *rate.Limiter { return rate.NewLimiter(2, 20) }

// Admit lets a client, known by its source address, reach what the policy
// names. Again for the same address and client it changes the policy: open
// connections that are no longer allowed are cut. The error wraps
// sandboxes.ErrInvalid when the policy makes no sense, and then nothing has changed.
func (p *Proxy) Admit(addr netip.Addr, client string, policy sandboxes.NetworkPolicy) error {
	r, err := compile(policy)
	if err != nil {
		return fmt.Errorf("cannot admit %s to the egress proxy: %w", client, err)
	}
	addr = addr.Unmap()
	p.mu.Lock()
	before := p.clients[addr]
	if before != nil && before.name == client {
		p.mu.Unlock()
		before.change(r)
		return nil
	}
	p.clients[addr] = p.newClient(client, r)
	p.mu.Unlock()
	if before != nil {
		before.end()
	}
	return nil
}

// Trusts says whom a client trusts that was told of another authority than
// Options.Authority. It changes nothing for connections that are open.
func (p *Proxy) Trusts(addr netip.Addr, a *Authority) {
	if c := p.lookup(addr.Unmap()); c != nil {
		c.authority.Store(a)
	}
}

// Dismiss forgets a client and cuts its connections. Dismissing nobody is no
// error.
func (p *Proxy) Dismiss(addr netip.Addr) {
	addr = addr.Unmap()
	p.mu.Lock()
	c := p.clients[addr]
	delete(p.clients, addr)
	p.mu.Unlock()
	if c != nil {
		c.end()
	}
}

// Usage says what a client has used; all zero when there is none.
func (p *Proxy) Usage(addr netip.Addr) Usage {
	if c := p.lookup(addr.Unmap()); c != nil {
		return c.usage()
	}
	return Usage{}
}

func (p *Proxy) lookup(addr netip.Addr) *client {
	p.mu.RLock()
	defer p.mu.RUnlock()
	return p.clients[addr]
}

func (p *Proxy) newClient(name string, r *rules) *client {
	c := &client{name: name, saying: newSaying(), links: map[*link]struct{}{}}
	c.rules.Store(r)
	c.authority.Store(p.options.Authority)
	dial := func(ctx context.Context, _, address string) (net.Conn, error) {
		t, err := parseTarget(address, 0)
		if err != nil {
			return nil, &refusal{err.Error()}
		}
		out, err := p.dial(ctx, c, t)
		if err != nil {
			return nil, err
		}
		return out, nil
	}
	c.plain = p.newTransport(dial)
	c.plain.Protocols = new(http.Protocols)
	c.plain.Protocols.SetHTTP1(true)
	c.verified = p.newTransport(dial)
	c.verified.TLSClientConfig = upstreamTLS(p.options.Roots)
	c.verified.ForceAttemptHTTP2 = true
	return c
}
