package netpolicy

import (
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// An administrator loads rules that begin with "flush ruleset".
func TestRulesComeBackWhenTheyAreFlushed(t *testing.T) {
	s := newStage(t)
	conn, err := nftables.New(nftables.WithNetNSFd(int(s.host)))
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		conn.FlushRuleset()
		if err := conn.Flush(); err != nil {
			t.Fatal(err)
		}
		eventually(t, "the tables are back", func() bool {
			tables, err := conn.ListTables()
			return err == nil && len(tables) == 2
		})
	}
	err = s.in(s.pair[0], func() error { return reachable(s.at.host.Addr(), s.at.host.Port()) })
	if !errors.Is(err, unix.ECONNREFUSED) {
		t.Errorf("a port of the host: %v", err)
	}
	if err := s.in(s.pair[0], func() error { return reachable(s.at.proxy, ProxyPort) }); err != nil {
		t.Errorf("the proxy cannot be reached: %v", err)
	}
	if err := inside(s.host, func() error { return reachable(s.at.other, AgentPort) }); err != nil {
		t.Errorf("the agent cannot be reached: %v", err)
	}
	// Slots can be had and given back in the midst of it.
	conn.FlushRuleset()
	if err := conn.Flush(); err != nil {
		t.Fatal(err)
	}
	late := acquire(t, s.Network, "late")
	if err := agentAnswers(s.Network, late); err != nil {
		t.Errorf("the agent of a new slot cannot be reached: %v", err)
	}
}

// "nft flush table" leaves the table, and "nft delete rule" all the others.
func TestRulesComeBackWhenOnlyTheyAreRemoved(t *testing.T) {
	host := newHost(t)
	said := make(chan string, 100)
	n := openOn(t, host, Options{Log: slog.New(slog.NewTextHandler(lines(said), nil))})
	s := acquire(t, n, "a")
	conn, err := nftables.New(nftables.WithNetNSFd(int(host)))
	if err != nil {
		t.Fatal(err)
	}
	ip, arp := n.filter.tables()
	from := &nftables.Chain{Name: "from sandboxes", Table: ip.Table}
	for name, remove := range map[string]func() error{
		"all rules for IP":  func() error { conn.FlushTable(ip.Table); return nil },
		"all rules for ARP": func() error { conn.FlushTable(arp.Table); return nil },
		"a chain's rules":   func() error { conn.FlushChain(from); return nil },
		"one rule": func() error {
			rules, err := conn.GetRules(ip.Table, from)
			return errors.Join(err, conn.DelRule(rules[len(rules)-1]))
		},
		"one rule, with another in its place": func() error {
			rules, err := conn.GetRules(ip.Table, from)
			conn.AddRule(&nftables.Rule{Table: ip.Table, Chain: from, Exprs: accept()})
			return errors.Join(err, conn.DelRule(rules[0]))
		},
	} {
		t.Run(name, func(t *testing.T) {
			if err := errors.Join(remove(), conn.Flush()); err != nil {
				t.Fatal(err)
			}
			select {
			case line := <-said:
				if !strings.Contains(line, "they are back") {
					t.Errorf("the log says %q", line)
				}
			case <-time.After(time.Minute):
				t.Fatal("nobody noticed")
			}
			if err := n.in(s, func() error { return reachable(s.Gateway, 22) }); !errors.Is(err, unix.ECONNREFUSED) {
				t.Errorf("a port of the host: %v", err)
			}
			if usage(t, n, "a").Denied[ReasonDestination] == 0 {
				t.Error("not our rules have refused it")
			}
			if err := agentAnswers(n, s); err != nil {
				t.Errorf("the agent cannot be reached: %v", err)
			}
		})
	}
	// What was made again is not taken for removed.
	select {
	case line := <-said:
		t.Errorf("the log says more: %q", line)
	default:
	}
}

// lines passes on what is written, a line at a time.
type lines chan string

func (l lines) Write(line []byte) (int, error) {
	l <- string(line)
	return len(line), nil
}

// The self-test is one that can fail: here rules of ours have lost their effect.
func TestSelfTestFindsAHole(t *testing.T) {
	s := newStage(t)
	openHole(t, s.Network)
	found := map[string]string{
		"port of the host on the gateway's address": "it got through",
		"metadata service":                          "not because of our rules",
		"source address of another sandbox":         "it got through",
	}
	for _, a := range attempts {
		want, ok := found[a.name]
		if !ok {
			continue
		}
		delete(found, a.name)
		if err := s.refuses(t.Context(), s.pair[0], s.at, a); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", a.name, err, want)
		}
	}
	if len(found) > 0 {
		t.Errorf("not tried: %v", found)
	}
	if err := s.refusesHost(t.Context(), s.at); err == nil {
		t.Error("a port of a sandbox: no problem was found")
	}
}

// openHole takes the effect from our rules for IP.
func openHole(t *testing.T, n *Network) {
	t.Helper()
	conn, err := nftables.New(nftables.WithNetNSFd(int(n.host)))
	if err != nil {
		t.Fatal(err)
	}
	ip, _ := n.filter.tables()
	for _, chain := range []string{"from sandboxes", "to sandboxes", "through host"} {
		conn.InsertRule(&nftables.Rule{Table: ip.Table, Chain: &nftables.Chain{Name: chain}, Exprs: accept()})
	}
	if err := conn.Flush(); err != nil {
		t.Fatal(err)
	}
}

// A host that forwards, as one with Docker does: sandboxes and the world do not
// reach each other through it, with our rules and also without.
func TestAHostThatForwardsDoesNotForwardForSandboxes(t *testing.T) {
	host, world := newHost(t), newHost(t)
	err := inside(host, func() error { return os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0) })
	if err != nil {
		t.Fatal(err)
	}
	join(t, host, world)
	n := openOn(t, host, Options{})
	s := acquire(t, n, "a")
	var outside net.Listener
	err = inside(world, func() (err error) {
		outside, err = net.Listen("tcp4", "192.0.2.2:80")
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	defer outside.Close()
	if err := inside(host, func() error { return reachable(netip.MustParseAddr("192.0.2.2"), 80) }); err != nil {
		t.Fatalf("the host cannot reach the world: %v", err)
	}
	toWorld := func() error {
		return n.in(s, func() error { return connect(t.Context(), net.Dialer{Timeout: 300 * time.Millisecond}, "192.0.2.2:80") })
	}
	fromWorld := func() error {
		return inside(world, func() error {
			return connect(t.Context(), net.Dialer{Timeout: 300 * time.Millisecond}, netip.AddrPortFrom(s.Address, AgentPort).String())
		})
	}
	if toWorld() == nil {
		t.Error("the sandbox reached the world")
	}
	eventually(t, "what comes from the world is counted", func() bool {
		if fromWorld() == nil {
			t.Fatal("the world reached the agent")
		}
		return usage(t, n, "a").Denied[ReasonForwarded] > 0
	})
	openHole(t, n)
	if toWorld() == nil {
		t.Error("without our rules the sandbox reached the world")
	}
	if fromWorld() == nil {
		t.Error("without our rules the world reached the sandbox and got an answer")
	}
}

// join connects a host, 192.0.2.1, with the world, 192.0.2.2, which has its
// routes lead over the host.
func join(t *testing.T, host, world netns.NsHandle) {
	t.Helper()
	here, err := netlink.NewHandleAt(host, unix.NETLINK_ROUTE)
	if err != nil {
		t.Fatal(err)
	}
	defer here.Close()
	there, err := netlink.NewHandleAt(world, unix.NETLINK_ROUTE)
	if err != nil {
		t.Fatal(err)
	}
	defer there.Close()
	pair := netlink.NewVeth(netlink.LinkAttrs{Name: "uplink"})
	pair.PeerName, pair.PeerNamespace = "host", netlink.NsFd(world)
	if err := here.LinkAdd(pair); err != nil {
		t.Fatal(err)
	}
	for _, end := range []struct {
		conn *netlink.Handle
		name string
		addr string
	}{{here, "uplink", "192.0.2.1"}, {there, "host", "192.0.2.2"}} {
		link, err := end.conn.LinkByName(end.name)
		if err != nil {
			t.Fatal(err)
		}
		addr := netip.MustParseAddr(end.addr)
		if err := errors.Join(end.conn.AddrAdd(link, &netlink.Addr{IPNet: network(addr, 24)}), end.conn.LinkSetUp(link)); err != nil {
			t.Fatal(err)
		}
		if end.name == "host" {
			gateway := netip.MustParseAddr("192.0.2.1")
			err := end.conn.RouteAdd(&netlink.Route{LinkIndex: link.Attrs().Index, Gw: gateway.AsSlice(), Dst: network(netip.MustParseAddr("10.143.0.0"), 16)})
			if err != nil {
				t.Fatal(err)
			}
		}
	}
}
