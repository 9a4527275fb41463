package egress

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"time"

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

// Secret is a value that a client may use without having it: in headers of
// requests to Hosts over verified TLS, Placeholder becomes Value.
type Secret struct {
	Name        string
	Placeholder string   // what the client sends; at least 8 characters
	Value       string   // what the host gets
	Hosts       []string // as in sandboxes.NetworkPolicy.Allow; they must be allowed as well
}

// Proxy is the proxy. Its methods are safe for concurrent use.
type Proxy struct {
	options Options
}

// New makes a proxy without clients.
func New(options Options) (*Proxy, error) {
	if options.Secrets != nil && options.Authority == nil {
		return nil, errors.New("cannot make an egress proxy with secrets: it has no certificate authority")
	}
	return &Proxy{options: options}, nil
}

// Serve answers clients on a listener until ctx ends, then cuts all
// connections, waits for what it started and returns nil. Clients are told
// apart by their source address; whoever was not admitted is hung up on.
func (p *Proxy) Serve(ctx context.Context, listener net.Listener) error {
	<-ctx.Done()
	return listener.Close()
}

// Admit lets a client, known by its source address, reach what the policy
// names. Again for the same address and client it changes the policy: open
// connections that are no longer allowed are cut. The error wraps
// sandboxes.ErrInvalid when the policy makes no sense, and then nothing has changed.
func (p *Proxy) Admit(addr netip.Addr, client string, policy sandboxes.NetworkPolicy) error {
	if _, err := compile(policy); err != nil {
		return fmt.Errorf("cannot admit %s to the egress proxy: %w", client, err)
	}
	return nil
}

// Dismiss forgets a client and cuts its connections. Dismissing nobody is no
// error.
func (p *Proxy) Dismiss(addr netip.Addr) {}

// Usage says what a client has used; all zero when there is none.
func (p *Proxy) Usage(addr netip.Addr) Usage { return Usage{} }
