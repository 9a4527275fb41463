package netpolicy

import (
	"slices"
	"testing"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
)

func leaksOn(t *testing.T, host netns.NsHandle, dir string, repair bool) []Leak {
	t.Helper()
	copied, err := netns.GetFromPath(fdPath(host))
	if err != nil {
		t.Fatal(err)
	}
	leaks, err := examineOn(Options{StateDir: dir}, copied, repair)
	if err != nil {
		t.Fatal(err)
	}
	return leaks
}

// While a gateway runs, what it does not know of is found and removed, and what
// it has stays.
func TestStraysAreRepairedBesideARunningGateway(t *testing.T) {
	t.Parallel()
	host, dir := newHost(t), t.TempDir()
	n := openOn(t, host, Options{StateDir: dir, Ready: 1})
	waitReady(t, n, 1)
	kept := acquire(t, n, "kept")
	if leaks := leaksOn(t, host, dir, false); len(leaks) > 0 {
		t.Fatalf("without leaks there are %v", leaks)
	}
	const stray = number(1000)
	if err := makeNamespace(n.state.pin(stray), hardenInside); err != nil {
		t.Fatal(err)
	}
	if err := n.links.add(stray, n.state.pin(stray)); err != nil {
		t.Fatal(err)
	}
	if err := n.filter.admit(stray); err != nil {
		t.Fatal(err)
	}
	delete(n.filter.admitted, stray)
	want := []Leak{{"link", "kgw-1000"}, {"network namespace", n.state.pin(stray)}, {"packet filter entry", "kgw-1000"}}
	if leaks := leaksOn(t, host, dir, false); !slices.Equal(leaks, want) {
		t.Errorf("found %v, want %v", leaks, want)
	}
	if leaks := leaksOn(t, host, dir, true); !slices.Equal(leaks, want) {
		t.Errorf("repaired %v, want %v", leaks, want)
	}
	if leaks := leaksOn(t, host, dir, false); len(leaks) > 0 {
		t.Errorf("after the repair there are %v", leaks)
	}
	if err := agentAnswers(n, kept); err != nil {
		t.Errorf("the repair has done harm: %v", err)
	}
}

// What a gateway that was killed has left is found and removed without a new one.
func TestRemainsOfAKilledGatewayAreRepaired(t *testing.T) {
	host, dir := newHost(t), t.TempDir()
	cmd, output := startActor(t, host, act{Gateway: &gatewayAct{StateDir: dir, DieAt: 12}})
	_ = cmd.Wait()
	wasKilled(t, cmd.ProcessState, output.String())
	n := openOn(t, host, Options{StateDir: dir})
	sandboxesLeft := len(n.List())
	if err := n.Close(); err != nil {
		t.Fatal(err)
	}
	if sandboxesLeft == 0 {
		t.Fatal("no sandbox is left, one was to be")
	}
	if leaks := leaksOn(t, host, dir, false); len(leaks) > 0 {
		t.Errorf("a sandbox's slot counts as leak: %v", leaks)
	}

	empty := t.TempDir()
	host = newHost(t)
	cmd, output = startActor(t, host, act{Gateway: &gatewayAct{StateDir: empty, DieAt: 6}})
	_ = cmd.Wait()
	wasKilled(t, cmd.ProcessState, output.String())
	if leaks := leaksOn(t, host, empty, true); len(leaks) < 5 {
		t.Errorf("repaired %v only", leaks)
	}
	for _, left := range leftovers(t, host, empty) {
		t.Errorf("left behind: %s", left)
	}
}

func TestNoLeaksWhereNothingWas(t *testing.T) {
	host := newHost(t)
	if leaks := leaksOn(t, host, t.TempDir()+"/none", true); len(leaks) > 0 {
		t.Errorf("found %v", leaks)
	}
	n := &Network{}
	err := n.inHost(func(conn *netlink.Handle) error {
		return conn.LinkAdd(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "kgw-1"}})
	}, host)
	if err != nil {
		t.Fatal(err)
	}
	if leaks := leaksOn(t, host, t.TempDir(), true); len(leaks) > 0 {
		t.Errorf("found somebody else's: %v", leaks)
	}
}
