package netpolicy

import (
	"context"
	"log/slog"
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
	t.Cleanup(func() {
		for _, s := range n.List() {
			if err := n.Release(context.Background(), s.ID); err != nil {
				t.Error(err)
			}
		}
		if err := n.Close(); err != nil {
			t.Error(err)
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

var (
	_ = os.Getpid
	_ = time.Second
)
