package netpolicy

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"time"

	"github.com/google/uuid"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"kernelgw/sandboxes"
)

// Check is the outcome of one part of a self-test.
type Check struct {
	Name    string
	Problem string // "" when all is well
}

// SelfTest tries, in network namespaces that it makes and removes, whatever the
// rules must refuse or let through. It shows what this kernel can do, and does
// not touch the host's network; that of a running gateway is tested by
// Network.SelfTest. The error says why nothing could be tried.
func SelfTest(ctx context.Context) (checks []Check, err error) {
	host := netns.None()
	err = onThread(func() (err error) {
		host, err = netns.New()
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("cannot test the network of sandboxes: %w", err)
	}
	dir, err := os.MkdirTemp("", "kernelgw-network-")
	if err != nil {
		_ = host.Close()
		return nil, fmt.Errorf("cannot test the network of sandboxes: %w", err)
	}
	defer os.RemoveAll(dir)
	n, err := open(Options{StateDir: dir, Log: slog.New(slog.DiscardHandler)}, host, func(string) {})
	if err != nil {
		return nil, fmt.Errorf("cannot test the network of sandboxes: %w", err)
	}
	defer func() { err = errors.Join(err, n.Close()) }()
	return n.SelfTest(ctx)
}

// SelfTest tries, with two slots that it acquires and releases, whatever the
// rules must refuse or let through. It also finds rules of the host's own that
// are in the way. The error says why nothing could be tried.
func (n *Network) SelfTest(ctx context.Context) (checks []Check, err error) {
	var pair [2]Slot
	for i := range pair {
		id := "self-test-" + uuid.NewString()
		none := sandboxes.NetworkPolicy{Egress: sandboxes.EgressNone}
		if pair[i], err = n.Acquire(ctx, id, none); err != nil {
			return nil, err
		}
		defer func() { err = errors.Join(err, n.Release(context.WithoutCancel(ctx), id)) }()
	}
	s := scene{self: pair[0].Address, gateway: pair[0].Gateway, proxy: n.identity.proxy(), other: pair[1].Address}
	end, err := n.setScene(&s, pair)
	if err != nil {
		return nil, fmt.Errorf("cannot test the network of sandboxes: %w", err)
	}
	defer end()

	for _, a := range attempts {
		checks = append(checks, check("refused: "+a.name, n.refuses(ctx, pair[0], s, a)))
	}
	checks = append(checks,
		check("reached from the host: the agent", inside(n.host, func() error {
			return connect(ctx, net.Dialer{Timeout: reachTime}, netip.AddrPortFrom(s.other, AgentPort).String())
		})),
		check("refused from the host: another port of a sandbox", n.refusesHost(ctx, s)),
		check("reached from a sandbox: the egress proxy", n.in(pair[0], func() error {
			return connect(ctx, net.Dialer{Timeout: reachTime}, netip.AddrPortFrom(s.proxy, ProxyPort).String())
		})),
		check("refused: too many new connections", n.refuses(ctx, pair[0], s, attempt{reason: ReasonRate, try: floodProxy})),
	)
	return checks, ctx.Err()
}

func check(name string, err error) Check {
	if err != nil {
		return Check{name, err.Error()}
	}
	return Check{Name: name}
}

// setScene has something listen wherever attempts want to get.
func (n *Network) setScene(s *scene, pair [2]Slot) (end func(), err error) {
	var listeners []net.Listener
	end = func() {
		for _, l := range listeners {
			_ = l.Close()
		}
	}
	listen := func(address string) func() error {
		return func() error {
			l, err := net.Listen("tcp4", address)
			if err == nil {
				listeners = append(listeners, l)
			}
			return err
		}
	}
	err = errors.Join(
		n.in(pair[1], listen(netip.AddrPortFrom(netip.IPv4Unspecified(), AgentPort).String())),
		inside(n.host, listen(netip.AddrPortFrom(s.gateway, 0).String())),
		inside(n.host, listen(netip.AddrPortFrom(s.proxy, 0).String())),
	)
	if err != nil {
		end()
		return nil, err
	}
	s.host = listeners[1].Addr().(*net.TCPAddr).AddrPort()
	s.beside = listeners[2].Addr().(*net.TCPAddr).AddrPort()
	return end, nil
}

// in runs f on a thread in a slot's namespace.
func (n *Network) in(s Slot, f func() error) error {
	ns, err := netns.GetFromPath(s.Namespace)
	if err != nil {
		return fmt.Errorf("cannot open the network namespace %s: %w", s.Namespace, err)
	}
	defer ns.Close()
	return inside(ns, f)
}

// refuses returns nil if an attempt fails and is counted.
func (n *Network) refuses(ctx context.Context, slot Slot, s scene, a attempt) error {
	before, err := n.Usage(slot.ID)
	if err != nil {
		return err
	}
	tried := n.in(slot, func() error { return a.try(ctx, s) })
	// The kernel may take a frame a little after the sender has gone on.
	for deadline := time.Now().Add(attemptTime); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		after, err := n.Usage(slot.ID)
		if err != nil {
			return err
		}
		if after.Denied[a.reason] > before.Denied[a.reason] {
			return nil
		}
	}
	if tried != nil {
		return fmt.Errorf("it failed, but not because of our rules: %w", tried)
	}
	return errors.New("it got through")
}

// refusesHost returns nil if the host cannot reach a port of a sandbox that is
// not the agent's.
func (n *Network) refusesHost(ctx context.Context, s scene) error {
	err := inside(n.host, func() error {
		return connect(ctx, net.Dialer{Timeout: attemptTime}, netip.AddrPortFrom(s.other, AgentPort+1).String())
	})
	switch {
	case err == nil:
		return errors.New("it got through")
	case errors.Is(err, unix.ECONNREFUSED):
		return errors.New("the sandbox answered")
	}
	return nil
}
