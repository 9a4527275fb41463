package egress

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync"
	"syscall"
	"time"
)

// maxAddresses is how many addresses of a name are looked at and tried.
const maxAddresses = 16

// refusal is the error of what the policy, or this proxy, does not allow.
type refusal struct {
	reason string
}

func (r *refusal) Error() string { return r.reason }

// failure is the error of what is allowed but did not work. Its text is for the
// client: it says no more of the network than that.
type failure struct {
	what string
}

func (f *failure) Error() string { return f.what }

// dial connects a client to a target. All addresses of a name are checked
// before one is tried, and no name is looked up twice: what was checked is what
// is dialled. The error is a *refusal or a *failure.
func (p *Proxy) dial(ctx context.Context, c *client, t target) (*outbound, error) {
	ctx, cancel := context.WithTimeout(ctx, p.limits.dial)
	defer cancel()
	rules := c.rules.Load()
	if why := rules.deny(t); why != "" {
		return nil, &refusal{why}
	}
	addrs, err := p.resolve(ctx, t)
	if err != nil {
		return nil, err
	}
	for _, addr := range addrs {
		if why := p.refuses(rules, t, addr); why != "" {
			if t.addr.IsValid() {
				return nil, &refusal{why + " are never reached"}
			}
			// Also when others of its addresses are public: such answers are made to
			// get past checks.
			return nil, &refusal{"its name leads to " + why + ", which are never reached"}
		}
	}
	for i, addr := range addrs {
		conn, err := p.dialAddress(ctx, netip.AddrPortFrom(addr, t.port), len(addrs)-i)
		if err != nil {
			if ctx.Err() != nil {
				break
			}
			continue
		}
		out := &outbound{idleConn: idleConn{Conn: conn, idle: p.limits.idle}, client: c}
		if !c.reach(out, t, addr) {
			conn.Close()
			return nil, &refusal{"its network policy has changed"}
		}
		return out, nil
	}
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return nil, &failure{"it did not answer in time"}
	}
	return nil, &failure{"it does not accept connections"}
}

// resolve returns the addresses of a target, unwrapped.
func (p *Proxy) resolve(ctx context.Context, t target) ([]netip.Addr, error) {
	if t.addr.IsValid() {
		return []netip.Addr{t.addr.Unmap()}, nil
	}
	// With a final dot: the host's search domains would make other names of it.
	addrs, err := p.resolver.LookupNetIP(ctx, "ip", t.host+".")
	if dns := (*net.DNSError)(nil); errors.As(err, &dns) && dns.IsNotFound {
		return nil, &failure{"its name has no address"}
	}
	if err != nil || len(addrs) == 0 {
		return nil, &failure{"its name could not be resolved"}
	}
	if len(addrs) > maxAddresses {
		addrs = addrs[:maxAddresses]
	}
	for i, addr := range addrs {
		addrs[i] = addr.Unmap()
	}
	return addrs, nil
}

// refuses says what an address is that a target must not lead to; "" when it
// may.
func (p *Proxy) refuses(rules *rules, t target, addr netip.Addr) string {
	if rules.isMirror(t) {
		return refusedToMirrors(addr)
	}
	if why := refused(addr); why != "" {
		return why
	}
	for _, prefix := range p.options.Refuse {
		if prefix.Contains(addr) || prefix.Contains(unwrap(addr)) {
			return "addresses of this site"
		}
	}
	if p.own.contains(addr) || p.own.contains(unwrap(addr)) {
		return "addresses of this host"
	}
	return ""
}

// dialAddress tries one address, for a fair part of the time that is left.
func (p *Proxy) dialAddress(ctx context.Context, addr netip.AddrPort, left int) (net.Conn, error) {
	if by, ok := ctx.Deadline(); ok && left > 1 {
		part, cancel := context.WithTimeout(ctx, max(time.Until(by)/time.Duration(left), p.limits.dial/8))
		defer cancel()
		ctx = part
	}
	want := p.route(addr).String()
	dialer := net.Dialer{
		KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: 30 * time.Second, Interval: 15 * time.Second, Count: 4},
		// The last word: whatever happened above, a socket is connected to the
		// address that was checked, or not at all.
		Control: func(_, address string, _ syscall.RawConn) error {
			if address != want {
				return fmt.Errorf("refusing to dial %s: %s was checked", address, want)
			}
			return nil
		},
	}
	return dialer.DialContext(ctx, "tcp", want)
}

// ownAddresses are those of this host, which are read again when they are a
// second old.
type ownAddresses struct {
	mu    sync.Mutex
	read  time.Time
	addrs map[netip.Addr]bool
}

// contains reports whether an address is this host's. When they cannot be read,
// every address is taken for one.
func (o *ownAddresses) contains(addr netip.Addr) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	if time.Since(o.read) > time.Second {
		list, err := net.InterfaceAddrs()
		if err != nil {
			return true
		}
		o.addrs = map[netip.Addr]bool{}
		for _, a := range list {
			if prefix, err := netip.ParsePrefix(strings.SplitN(a.String(), "%", 2)[0]); err == nil {
				o.addrs[prefix.Addr().Unmap()] = true
			}
		}
		o.read = time.Now()
	}
	return o.addrs[addr]
}
