package netpolicy

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/vishvananda/netns"

	"kernelgw/sandboxes"
)

// newHost returns a network namespace that plays the host.
func newHost(t testing.TB) netns.NsHandle {
	t.Helper()
	var host netns.NsHandle
	err := onThread(func() (err error) {
		host, err = netns.New()
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = host.Close() })
	return host
}

// openOn opens a network on a host, until the end of the test at the latest.
func openOn(t testing.TB, host netns.NsHandle, o Options) *Network {
	t.Helper()
	if o.StateDir == "" {
		o.StateDir = t.TempDir()
	}
	if o.Log == nil {
		o.Log = slog.New(slog.NewTextHandler(t.Output(), nil))
	}
	copied, err := netns.GetFromPath(fdPath(host))
	if err != nil {
		t.Fatal(err)
	}
	n, err := open(o, copied, func(string) {})
	if err != nil {
		t.Fatal(err)
	}
	n.mu.Lock()
	n.next = 0 // to know which number comes next
	n.mu.Unlock()
	t.Cleanup(func() {
		for _, s := range n.List() {
			if err := n.Release(context.Background(), s.ID); err != nil && !errors.Is(err, os.ErrClosed) {
				t.Error(err)
			}
		}
		if err := n.Close(); err != nil {
			t.Error(err)
		}
		// What the test has left in a network that it closed: the links go with the host.
		pins, err := n.state.pins()
		if err != nil {
			t.Error(err)
		}
		for _, number := range pins {
			if err := unpin(n.state.pin(number)); err != nil {
				t.Error(err)
			}
		}
	})
	return n
}

// acquire gives a sandbox a slot.
func acquire(t testing.TB, n *Network, id string) Slot {
	t.Helper()
	s, err := n.Acquire(t.Context(), id, sandboxes.NetworkPolicy{Egress: sandboxes.EgressNone})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// auditor collects denials.
type auditor struct {
	mu   sync.Mutex
	seen []Denial
}

func (a *auditor) audit(d Denial) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.seen = append(a.seen, d)
}

func TestSelfTest(t *testing.T) {
	checks, err := SelfTest(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range checks {
		if c.Problem != "" {
			t.Errorf("%s: %s", c.Name, c.Problem)
		} else {
			t.Logf("%s: as it should be", c.Name)
		}
	}
}

// reachable connects from where the thread is.
func reachable(addr netip.Addr, port uint16) error {
	return connect(context.Background(), net.Dialer{Timeout: reachTime}, netip.AddrPortFrom(addr, port).String())
}

// agentAnswers connects from the host to the agent's port, on which it has
// something listen.
func agentAnswers(n *Network, s Slot) error {
	var l net.Listener
	err := n.in(s, func() (err error) {
		l, err = net.Listen("tcp4", netip.AddrPortFrom(netip.IPv4Unspecified(), AgentPort).String())
		return err
	})
	if err != nil {
		return err
	}
	defer l.Close()
	return inside(n.host, func() error { return reachable(s.Address, AgentPort) })
}

// waitReady waits until a number of namespaces are ready.
func waitReady(t testing.TB, n *Network, count int) {
	t.Helper()
	eventually(t, "namespaces are ready", func() bool {
		n.mu.Lock()
		defer n.mu.Unlock()
		return len(n.ready) >= count
	})
}

// eventually waits for what no event tells of.
func eventually(t testing.TB, what string, is func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !is(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain until %s", what)
		}
	}
}

func usage(t testing.TB, n *Network, id string) Usage {
	t.Helper()
	u, err := n.Usage(id)
	if err != nil {
		t.Fatal(err)
	}
	return u
}
