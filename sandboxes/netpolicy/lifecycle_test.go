package netpolicy

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"kernelgw/sandboxes"
)

func TestAHundredSlotsLeaveTheHostAsItWas(t *testing.T) {
	host, dir := newHost(t), t.TempDir()
	n := openOn(t, host, Options{StateDir: dir, Ready: 2})
	cycle := func(i int) {
		s := acquire(t, n, fmt.Sprintf("sandbox-%d", i))
		// Fills the sets that rules fill.
		if err := agentAnswers(n, s); err != nil {
			t.Fatal(err)
		}
		err := n.in(s, func() error {
			if err := reachable(n.identity.proxy(), ProxyPort); err != nil {
				return err
			}
			if err := reachable(s.Gateway, 22); !errors.Is(err, unix.ECONNREFUSED) {
				return fmt.Errorf("port 22 of the host: %v", err)
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		if err := n.Release(t.Context(), s.ID); err != nil {
			t.Fatal(err)
		}
	}
	count := func() string {
		waitReady(t, n, 2)
		known, err := n.filter.known()
		if err != nil {
			t.Fatal(err)
		}
		links, err := n.links.list()
		if err != nil {
			t.Fatal(err)
		}
		return fmt.Sprintf("%d slots in the packet filter, %d links, %d mounts", len(known), len(links), len(mountsBelow(t, dir)))
	}
	descriptors := func() int {
		open, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Fatal(err)
		}
		return len(open)
	}
	cycle(0)
	before, opened := count(), descriptors()
	cycles := 100
	if testing.Short() {
		cycles = 20
	}
	for i := range cycles {
		cycle(i + 1)
	}
	if after := count(); after != before {
		t.Errorf("before: %s; after %d slots: %s", before, cycles, after)
	}
	eventually(t, "descriptors are as few as before", func() bool { return descriptors() <= opened })
	if err := n.Close(); err != nil {
		t.Fatal(err)
	}
	for _, left := range leftovers(t, host, dir) {
		t.Errorf("left behind: %s", left)
	}
}

func TestRestartAdoptsSlots(t *testing.T) {
	host, dir := newHost(t), t.TempDir()
	n := openOn(t, host, Options{StateDir: dir, Ready: 1})
	s := acquire(t, n, "kept")
	policy := sandboxes.NetworkPolicy{Egress: sandboxes.EgressNone, Allow: []string{"example.org"}}
	if err := n.SetPolicy(t.Context(), "kept", policy); err != nil {
		t.Fatal(err)
	}
	_ = n.in(s, func() error { return reachable(s.Gateway, 22) })

	// A connection of the host's to the agent.
	var agent net.Listener
	err := n.in(s, func() (err error) {
		agent, err = net.Listen("tcp4", fmt.Sprintf("0.0.0.0:%d", AgentPort))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	defer agent.Close()
	var toAgent net.Conn
	err = inside(host, func() (err error) {
		toAgent, err = net.Dial("tcp4", netip.AddrPortFrom(s.Address, AgentPort).String())
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	defer toAgent.Close()
	fromHost, err := agent.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer fromHost.Close()

	if err := n.Close(); err != nil {
		t.Fatal(err)
	}
	n = openOn(t, host, Options{StateDir: dir})
	list := n.List()
	if len(list) != 1 || list[0].ID != s.ID || list[0].Namespace != s.Namespace || list[0].Address != s.Address {
		t.Fatalf("adopted %+v, want %+v", list, s)
	}
	if got := n.find("kept").policy; got.Egress != policy.Egress || !slices.Equal(got.Allow, policy.Allow) {
		t.Errorf("adopted with policy %+v, want %+v", got, policy)
	}
	if denied := usage(t, n, "kept").Denied[ReasonDestination]; denied == 0 {
		t.Error("what was counted is forgotten")
	}
	for _, conn := range []net.Conn{toAgent, fromHost} {
		_ = conn.SetDeadline(time.Now().Add(5 * time.Second))
	}
	if _, err := toAgent.Write([]byte("a")); err != nil {
		t.Fatal(err)
	}
	if _, err := fromHost.Read(make([]byte, 1)); err != nil {
		t.Errorf("the connection to the agent has not survived: %v", err)
	}
	if _, err := fromHost.Write([]byte("b")); err != nil {
		t.Fatal(err)
	}
	if _, err := toAgent.Read(make([]byte, 1)); err != nil {
		t.Errorf("the connection from the agent has not survived: %v", err)
	}
	if err := n.in(list[0], func() error { return reachable(n.identity.proxy(), ProxyPort) }); err != nil {
		t.Errorf("the proxy cannot be reached: %v", err)
	}
}

// Rebooting removes namespaces and links, and no file.
func TestSlotsThatAreGoneAreNotAdopted(t *testing.T) {
	host, dir := newHost(t), t.TempDir()
	n := openOn(t, host, Options{StateDir: dir})
	lost := acquire(t, n, "lost-its-link")
	acquire(t, n, "lost-its-namespace")
	acquire(t, n, "whole")
	if err := n.Close(); err != nil {
		t.Fatal(err)
	}
	if err := n.inHost(func(conn *netlink.Handle) error {
		link, err := conn.LinkByName(n.identity.link(n.find(lost.ID).number))
		if err != nil {
			return err
		}
		return conn.LinkDel(link)
	}, host); err != nil {
		t.Fatal(err)
	}
	if err := unix.Unmount(n.state.pin(n.find("lost-its-namespace").number), 0); err != nil {
		t.Fatal(err)
	}
	n = openOn(t, host, Options{StateDir: dir})
	if list := n.List(); len(list) != 1 || list[0].ID != "whole" {
		t.Errorf("adopted %+v", list)
	}
	if records, err := n.state.records(); err != nil || len(records) != 1 {
		t.Errorf("records %v, %v", records, err)
	}
}

func TestTwoNetworksSideBySide(t *testing.T) {
	host := newHost(t)
	one := openOn(t, host, Options{Name: "one", Subnet: netip.MustParsePrefix("10.201.0.0/24")})
	two := openOn(t, host, Options{Name: "two", Subnet: netip.MustParsePrefix("10.202.0.0/24")})
	a, b := acquire(t, one, "same-id"), acquire(t, two, "same-id")
	for _, x := range []struct {
		n     *Network
		s     Slot
		other *Network
		to    Slot
	}{{one, a, two, b}, {two, b, one, a}} {
		if err := agentAnswers(x.n, x.s); err != nil {
			t.Errorf("%s: the agent's port cannot be reached: %v", x.n.identity.Name, err)
		}
		if err := x.n.in(x.s, func() error { return reachable(x.n.identity.proxy(), ProxyPort) }); err != nil {
			t.Errorf("%s: the proxy cannot be reached: %v", x.n.identity.Name, err)
		}
		err := x.n.in(x.s, func() error {
			return errors.Join(reachable(x.other.identity.proxy(), ProxyPort), reachable(x.to.Address, AgentPort))
		})
		if !errors.Is(err, unix.ECONNREFUSED) || strings.Count(err.Error(), "refused") != 2 {
			t.Errorf("%s: the other network's proxy and sandbox: %v", x.n.identity.Name, err)
		}
	}
	if err := one.Release(t.Context(), "same-id"); err != nil {
		t.Fatal(err)
	}
	if err := one.Close(); err != nil {
		t.Fatal(err)
	}
	if err := agentAnswers(two, b); err != nil {
		t.Errorf("the second network has ended with the first: %v", err)
	}
}

func TestOpenRefusesWhatIsSomebodyElses(t *testing.T) {
	t.Parallel()
	host, dir := newHost(t), t.TempDir()
	first := openOn(t, host, Options{StateDir: dir})
	acquire(t, first, "a")
	refused := func(o Options, want string) {
		t.Helper()
		copied, err := netns.GetFromPath(fdPath(host))
		if err != nil {
			t.Fatal(err)
		}
		n, err := open(o, copied, func(string) {})
		if err == nil {
			_ = n.Close()
			t.Fatalf("opened, want an error with %q", want)
		}
		if !strings.Contains(err.Error(), want) {
			t.Errorf("error %q, want one with %q", err, want)
		}
	}
	refused(Options{StateDir: dir}, "another process uses it")
	refused(Options{StateDir: t.TempDir()}, "network name kgw")
	refused(Options{StateDir: t.TempDir(), Name: "other"}, "is in use")
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	refused(Options{StateDir: dir, Subnet: netip.MustParsePrefix("10.9.0.0/16")}, "end them")
	refused(Options{StateDir: t.TempDir(), Subnet: netip.MustParsePrefix("10.9.0.0/16")}, "choose another network name")
	again := openOn(t, host, Options{StateDir: dir})
	if err := agentAnswers(again, again.List()[0]); err != nil {
		t.Errorf("what was refused has done harm: %v", err)
	}
}

// A gateway is killed while it starts a program: its child has, for a moment
// more, all that it had.
func TestWhatAKilledGatewayLetsGoOfLateIsWaitedFor(t *testing.T) {
	host, dir := newHost(t), t.TempDir()
	lock, err := os.Open(dir)
	if err == nil {
		err = unix.Flock(int(lock.Fd()), unix.LOCK_EX)
	}
	if err != nil {
		t.Fatal(err)
	}
	name := lockFile(t, host, "kgw")
	if err := unix.Flock(int(name.Fd()), unix.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	for _, late := range []*os.File{lock, name} {
		child := exec.Command("sleep", "0.1")
		child.ExtraFiles = []*os.File{late}
		if err := child.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = child.Wait() })
		if err := late.Close(); err != nil {
			t.Fatal(err)
		}
	}
	openOn(t, host, Options{StateDir: dir})
}

// lockFile opens the file by which a name is locked on a host.
func lockFile(t *testing.T, host netns.NsHandle, name string) *os.File {
	t.Helper()
	if err := makeRuntimeDir(); err != nil {
		t.Fatal(err)
	}
	var namespace unix.Stat_t
	if err := unix.Fstat(int(host), &namespace); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(filepath.Join(runtimeDir, fmt.Sprintf("network-%s-%d", name, namespace.Ino)), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	return f
}

// A user who could have a network's name would keep the gateway from starting.
func TestOtherUsersCannotTakeANetworksName(t *testing.T) {
	host := newHost(t)
	n := openOn(t, host, Options{})
	file := lockFile(t, host, "kgw").Name()
	for _, script := range []string{"exec 9<" + file, "exec 9>>" + file, "exec 9>" + file + "2", "mkdir " + file + "3", "mv " + runtimeDir + " /run/elsewhere"} {
		cmd := exec.Command("sh", "-c", script)
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
		if said, err := cmd.CombinedOutput(); err == nil || !strings.Contains(string(said), "denied") {
			t.Errorf("%s: %v: %s", script, err, said)
		}
	}
	if err := n.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Lstat(file); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the lock is left behind: %v", err)
	}
	if err := os.Chmod(runtimeDir, 0o777); err != nil {
		t.Fatal(err)
	}
	defer os.Chmod(runtimeDir, 0o700)
	if lock, err := lockName(host, "kgw"); err == nil {
		_ = lock.Close()
		t.Error("a directory in which all can write was taken")
	}
}

// Of many who want a name one has it at a time, and the file of each is removed.
func TestANameIsOneNetworksAtATime(t *testing.T) {
	host := newHost(t)
	var had atomic.Int32
	var work sync.WaitGroup
	for range 3 {
		work.Go(func() {
			for range 20 {
				lock, err := lockName(host, "one")
				if err != nil {
					continue // others had it all the while
				}
				if had.Add(1) > 1 {
					t.Error("two have the name")
				}
				had.Add(-1)
				_ = lock.Close()
			}
		})
	}
	work.Wait()
}

// inHost talks to the kernel about links of a host whose Network is closed.
func (n *Network) inHost(f func(*netlink.Handle) error, host netns.NsHandle) error {
	conn, err := netlink.NewHandleAt(host, unix.NETLINK_ROUTE)
	if err != nil {
		return err
	}
	defer conn.Close()
	return f(conn)
}

func TestNameAndSubnetChangeWhenEmpty(t *testing.T) {
	host, dir := newHost(t), t.TempDir()
	n := openOn(t, host, Options{StateDir: dir, Ready: 1})
	waitReady(t, n, 1)
	if err := n.Close(); err != nil {
		t.Fatal(err)
	}
	n = openOn(t, host, Options{StateDir: dir, Name: "new", Subnet: netip.MustParsePrefix("10.9.0.0/28")})
	s := acquire(t, n, "a")
	if s.Address.String() != "10.9.0.6" {
		t.Errorf("the slot has address %s", s.Address)
	}
	acquire(t, n, "b")
	acquire(t, n, "c")
	if _, err := n.Acquire(t.Context(), "d", sandboxes.NetworkPolicy{}); err == nil || !strings.Contains(err.Error(), "choose a larger one") {
		t.Errorf("a fourth slot of a /28: %v", err)
	}
	if len(n.List()) != 3 {
		t.Errorf("list %v", n.List())
	}
}

// A gateway that ended had a name that another one has now.
func TestAnotherGatewaysSlotsUnderOurOldNameStay(t *testing.T) {
	host, dir := newHost(t), t.TempDir()
	if err := openOn(t, host, Options{StateDir: dir}).Close(); err != nil {
		t.Fatal(err)
	}
	other := openOn(t, host, Options{})
	s := acquire(t, other, "a")
	if leaks := leaksOn(t, host, dir, true); len(leaks) > 0 {
		t.Errorf("repaired what is another gateway's: %v", leaks)
	}
	openOn(t, host, Options{StateDir: dir, Name: "new", Subnet: netip.MustParsePrefix("10.9.0.0/28")})
	if err := agentAnswers(other, s); err != nil {
		t.Errorf("the other gateway's sandbox has lost its network: %v", err)
	}
}

// Of a host that was restarted the records are left, and no sandbox.
func TestNameAndSubnetChangeAfterARestartOfTheHost(t *testing.T) {
	dir := t.TempDir()
	n := openOn(t, newHost(t), Options{StateDir: dir})
	acquire(t, n, "a")
	if err := n.Close(); err != nil {
		t.Fatal(err)
	}
	if err := unix.Unmount(n.state.pin(n.find("a").number), 0); err != nil {
		t.Fatal(err)
	}
	n = openOn(t, newHost(t), Options{StateDir: dir, Name: "new", Subnet: netip.MustParsePrefix("10.9.0.0/28")})
	if records, err := n.state.records(); err != nil || len(records) > 0 {
		t.Errorf("records %v, %v", records, err)
	}
}

// A host that loses its power may leave files of which only the name is written.
func TestFilesThatWereCutShortAreNoObstacle(t *testing.T) {
	dir := t.TempDir()
	n := openOn(t, newHost(t), Options{StateDir: dir})
	acquire(t, n, "a")
	if err := n.Close(); err != nil {
		t.Fatal(err)
	}
	number := n.find("a").number
	if err := unix.Unmount(n.state.pin(number), 0); err != nil {
		t.Fatal(err)
	}
	for _, file := range []string{n.state.recordFile(number), dir + "/network.json"} {
		if err := os.Truncate(file, 0); err != nil {
			t.Fatal(err)
		}
	}
	n = openOn(t, newHost(t), Options{StateDir: dir})
	if records, err := n.state.records(); err != nil || len(records) > 0 {
		t.Errorf("records %v, %v", records, err)
	}
	acquire(t, n, "a")
}

func TestNumbersRestBeforeTheyAreUsedAgain(t *testing.T) {
	n := openOn(t, newHost(t), Options{Subnet: netip.MustParsePrefix("10.9.0.0/28")})
	acquire(t, n, "a")
	acquire(t, n, "b")
	c := acquire(t, n, "c")
	if err := n.Release(t.Context(), "c"); err != nil {
		t.Fatal(err)
	}
	if _, err := n.Acquire(t.Context(), "d", sandboxes.NetworkPolicy{}); err == nil {
		t.Fatal("an address was used again at once")
	}
	n.mu.Lock()
	n.rested[0].since = n.rested[0].since.Add(-restFor)
	n.mu.Unlock()
	if d := acquire(t, n, "d"); d.Address != c.Address {
		t.Errorf("after its rest %s was not used again, but %s", c.Address, d.Address)
	}
}

func TestReadyNamespacesAreUsedAndReplaced(t *testing.T) {
	n := openOn(t, newHost(t), Options{Ready: 3})
	waitReady(t, n, 3)
	n.mu.Lock()
	first := n.ready[0]
	n.mu.Unlock()
	s := acquire(t, n, "a")
	if s.Address != n.identity.address(first) {
		t.Errorf("got %s and not the ready %s", s.Address, n.identity.address(first))
	}
	waitReady(t, n, 3)
}

func TestManyAtOnce(t *testing.T) {
	n := openOn(t, newHost(t), Options{Ready: 4})
	var work sync.WaitGroup
	for i := range 12 {
		work.Go(func() {
			id := fmt.Sprintf("sandbox-%d", i%8) // some twice
			s, err := n.Acquire(context.Background(), id, sandboxes.NetworkPolicy{})
			if err != nil {
				if !errors.Is(err, sandboxes.ErrExists) {
					t.Error(err)
				}
				return
			}
			if err := agentAnswers(n, s); err != nil {
				t.Errorf("%s: %v", id, err)
			}
			if _, err := n.Usage(id); err != nil {
				t.Error(err)
			}
			n.List()
			if i%2 == 0 {
				if err := errors.Join(n.Release(context.Background(), id), n.Release(context.Background(), id)); err != nil {
					t.Error(err)
				}
			}
		})
	}
	work.Wait()
}

func TestErrorsOfSlots(t *testing.T) {
	n := openOn(t, newHost(t), Options{})
	acquire(t, n, "there")
	bad := sandboxes.NetworkPolicy{Egress: "anything"}
	ctx := t.Context()
	for name, c := range map[string]struct {
		err  error
		want error
	}{
		"an id twice":       {second(n.Acquire(ctx, "there", sandboxes.NetworkPolicy{})), sandboxes.ErrExists},
		"no id":             {second(n.Acquire(ctx, "", sandboxes.NetworkPolicy{})), sandboxes.ErrInvalid},
		"no policy":         {second(n.Acquire(ctx, "new", bad)), sandboxes.ErrInvalid},
		"policy of nobody":  {n.SetPolicy(ctx, "nobody", sandboxes.NetworkPolicy{}), sandboxes.ErrNotFound},
		"change to nothing": {n.SetPolicy(ctx, "there", bad), sandboxes.ErrInvalid},
		"usage of nobody":   {second(n.Usage("nobody")), sandboxes.ErrNotFound},
		"release of nobody": {n.Release(ctx, "nobody"), nil},
	} {
		if !errors.Is(c.err, c.want) {
			t.Errorf("%s: error %v, want %v", name, c.err, c.want)
		}
	}
	if err := n.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := n.Acquire(ctx, "late", sandboxes.NetworkPolicy{}); !errors.Is(err, os.ErrClosed) {
		t.Errorf("after Close: %v", err)
	}
}

func second[T any](_ T, err error) error { return err }

// What Acquire could not finish is gone.
func TestFailedAcquireLeavesNothing(t *testing.T) {
	host := newHost(t)
	n := openOn(t, host, Options{})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := n.Acquire(ctx, "cancelled", sandboxes.NetworkPolicy{}); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
	// A link that is in the way.
	err := n.inHost(func(conn *netlink.Handle) error {
		return conn.LinkAdd(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: n.identity.link(1)}})
	}, host)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := n.Acquire(t.Context(), "in-the-way", sandboxes.NetworkPolicy{}); !errors.Is(err, unix.EEXIST) {
		t.Errorf("error %v", err)
	}
	if list := n.List(); len(list) > 0 {
		t.Errorf("there is %v", list)
	}
	if pins, err := n.state.pins(); err != nil || len(pins) > 0 {
		t.Errorf("there are pins %v, %v", pins, err)
	}
	acquire(t, n, "in-the-way")
}

// Others' tables stay, also where they say the contrary of ours.
func TestTheHostsOwnRulesStay(t *testing.T) {
	host := newHost(t)
	conn, err := nftables.New(nftables.WithNetNSFd(int(host)))
	if err != nil {
		t.Fatal(err)
	}
	theirs := conn.AddTable(&nftables.Table{Name: "filter", Family: nftables.TableFamilyINet})
	policy := nftables.ChainPolicyAccept
	for name, hook := range map[string]*nftables.ChainHook{"in": nftables.ChainHookPrerouting, "out": nftables.ChainHookPostrouting} {
		chain := conn.AddChain(&nftables.Chain{
			Name: name, Table: theirs, Type: nftables.ChainTypeFilter, Hooknum: hook, Policy: &policy,
			Priority: nftables.ChainPriorityRef(-500),
		})
		batch{conn: conn, table: &table{Table: theirs, rules: map[string]int{}}}.rule(chain, accept())
	}
	if err := conn.Flush(); err != nil {
		t.Fatal(err)
	}
	n := openOn(t, host, Options{})
	s := acquire(t, n, "a")
	if err := n.in(s, func() error { return reachable(s.Gateway, 22) }); !errors.Is(err, unix.ECONNREFUSED) {
		t.Errorf("a port of the host: %v", err)
	}
	if usage(t, n, "a").Denied[ReasonDestination] != 1 {
		t.Error("not our rules have refused it")
	}
	if err := errors.Join(n.Release(t.Context(), "a"), n.Close()); err != nil {
		t.Fatal(err)
	}
	tables, err := conn.ListTables()
	if err != nil || len(tables) != 1 || tables[0].Name != "filter" {
		t.Errorf("tables %v, %v", tables, err)
	}
	if chains, err := conn.ListChains(); err != nil || len(chains) != 2 {
		t.Errorf("chains %v, %v", chains, err)
	}
}

// With connection tracking on, as on every host with a firewall or Docker.
func TestSandboxesAreNotInTheHostsTableOfConnections(t *testing.T) {
	host := newHost(t)
	conn, err := nftables.New(nftables.WithNetNSFd(int(host)))
	if err != nil {
		t.Fatal(err)
	}
	theirs := conn.AddTable(&nftables.Table{Name: "filter", Family: nftables.TableFamilyINet})
	policy := nftables.ChainPolicyAccept
	chain := conn.AddChain(&nftables.Chain{
		Name: "in", Table: theirs, Type: nftables.ChainTypeFilter, Hooknum: nftables.ChainHookInput, Policy: &policy,
		Priority: nftables.ChainPriorityFilter,
	})
	const invalid = 1 // NF_CT_STATE_INVALID_BIT
	tracked := &expr.Ct{Key: expr.CtKeySTATE, Register: register(0)}
	batch{conn: conn, table: &table{Table: theirs, rules: map[string]int{}}}.rule(chain, masked(tracked, []byte{invalid, 0, 0, 0}, expr.CmpOpNeq, 0, 0, 0, 0), drop())
	if err := conn.Flush(); err != nil {
		t.Fatal(err)
	}
	n := openOn(t, host, Options{})
	s := acquire(t, n, "a")
	connections := func() (count string) {
		err := inside(host, func() error {
			text, err := os.ReadFile("/proc/sys/net/netfilter/nf_conntrack_count")
			count = strings.TrimSpace(string(text))
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		return count
	}
	if err := agentAnswers(n, s); err != nil {
		t.Error(err)
	}
	if err := n.in(s, func() error { return reachable(n.identity.proxy(), ProxyPort) }); err != nil {
		t.Error(err)
	}
	_ = n.in(s, func() error { return reachable(s.Gateway, 22) })
	if count := connections(); count != "0" {
		t.Errorf("the host tracks %s connections", count)
	}
	// The host's own are tracked, or this would show nothing.
	if err := n.inHost(func(conn *netlink.Handle) error {
		lo, err := conn.LinkByName("lo")
		if err != nil {
			return err
		}
		return conn.LinkSetUp(lo)
	}, host); err != nil {
		t.Fatal(err)
	}
	err = inside(host, func() error {
		l, err := net.Listen("tcp4", "127.0.0.1:0")
		if err != nil {
			return err
		}
		defer l.Close()
		own := l.Addr().(*net.TCPAddr).AddrPort()
		return reachable(own.Addr(), own.Port())
	})
	if err != nil {
		t.Fatal(err)
	}
	if connections() == "0" {
		t.Error("the host tracks no connections at all")
	}
}
