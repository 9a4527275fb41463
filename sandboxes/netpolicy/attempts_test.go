package netpolicy

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// stage is two sandboxes on a host on which everything listens that attempts
// could reach.
type stage struct {
	*Network
	at       scene
	pair     [2]Slot
	auditor  auditor
	accepted chan string // where something got through
}

func newStage(t *testing.T) *stage {
	s := &stage{accepted: make(chan string, 100)}
	host := newHost(t)
	s.Network = openOn(t, host, Options{Audit: s.auditor.audit})
	s.pair = [2]Slot{acquire(t, s.Network, "attacker"), acquire(t, s.Network, "victim")}
	s.at = scene{
		self: s.pair[0].Address, gateway: s.pair[0].Gateway, proxy: s.identity.proxy(), other: s.pair[1].Address,
		host:   s.listen(t, 0, "0.0.0.0:0"),
		beside: s.listen(t, 0, netip.AddrPortFrom(s.identity.proxy(), 0).String()),
	}
	s.at.host = netip.AddrPortFrom(s.at.gateway, s.at.host.Port())
	s.listen(t, 2, "0.0.0.0:8890")
	return s
}

// listen accepts connections: on the host, or in a sandbox counted from 1.
func (s *stage) listen(t *testing.T, sandbox int, address string) netip.AddrPort {
	t.Helper()
	var l net.Listener
	open := func() (err error) {
		l, err = net.Listen("tcp4", address)
		return err
	}
	err := inside(s.host, open)
	if sandbox > 0 {
		err = s.in(s.pair[sandbox-1], open)
	}
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			select {
			case s.accepted <- conn.RemoteAddr().String() + " to " + conn.LocalAddr().String():
			default:
			}
			_ = conn.Close()
		}
	}()
	t.Cleanup(func() { _ = l.Close(); <-done })
	return l.Addr().(*net.TCPAddr).AddrPort()
}

// attacker starts a process in the first sandbox. What it returns lets the
// process try something, and says what that was told: nothing when it believes
// that it got through.
func (s *stage) attacker(t *testing.T) func(t *testing.T, index int) string {
	t.Helper()
	cmd := newActor(t, act{Attempt: newAttempt(s.at)})
	orders, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	answers, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = t.Output()
	if err := s.in(s.pair[0], cmd.Start); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = orders.Close()
		if err := cmd.Wait(); err != nil {
			t.Errorf("the process in the sandbox: %v", err)
		}
	})
	lines := bufio.NewReader(answers)
	return func(t *testing.T, index int) string {
		t.Helper()
		if _, err := fmt.Fprintln(orders, index); err != nil {
			t.Fatal(err)
		}
		var said string
		if _, err := fmt.Fscanf(lines, "%q\n", &said); err != nil {
			t.Fatal(err)
		}
		return said
	}
}

// Each attempt comes from a process in the sandbox, with all privileges there.
// It is refused for its reason, counted for the sandbox that made it, and
// audited with its name; nothing that listens is reached.
func TestWhatASandboxMustNotReach(t *testing.T) {
	s := newStage(t)
	try := s.attacker(t)
	for i, a := range attempts {
		t.Run(a.name, func(t *testing.T) {
			before := usage(t, s.Network, "attacker").Denied[a.reason]
			said := try(t, i)
			eventually(t, "it is counted", func() bool {
				return usage(t, s.Network, "attacker").Denied[a.reason] > before
			})
			select {
			case where := <-s.accepted:
				t.Errorf("it got through: %s", where)
			default:
			}
			t.Logf("the process was told: %q", said)
		})
	}
	if denied := usage(t, s.Network, "victim").Denied; len(denied) > 0 {
		t.Errorf("counted for somebody else: %v", denied)
	}
}

// Reports are limited, so here each reason is tried once, after a while.
func TestDenialsAreAuditedWithTheirSandbox(t *testing.T) {
	s := newStage(t)
	expected := map[string]func(Denial) bool{
		"metadata service":                  func(d Denial) bool { return d.Protocol == "tcp" && d.Destination.String() == "169.254.169.254:80" },
		"DNS over UDP to a public resolver": func(d Denial) bool { return d.Protocol == "udp" && d.Destination.String() == "198.51.100.53:53" },
		"ICMP echo":                         func(d Denial) bool { return d.Protocol == "icmp" && d.Destination.Addr() == s.at.gateway },
		"source address of another sandbox": func(d Denial) bool { return d.Source.Addr() == s.at.other },
		"fragment":                          func(d Denial) bool { return d.Protocol == "tcp" && d.Source.Addr() == s.at.self },
		"source route":                      func(d Denial) bool { return d.Protocol == "tcp" && d.Destination.Port() == ProxyPort },
		"IPv6":                              func(d Denial) bool { return d.Protocol == "icmp" && d.Source.Addr().String() == "fe80::1" },
		"ARP for another sandbox":           func(d Denial) bool { return d.Protocol == "arp" && d.Source.Addr() == s.at.other },
	}
	tried, try := 0, s.attacker(t)
	for i, a := range attempts {
		is, ok := expected[a.name]
		if !ok {
			continue
		}
		tried++
		try(t, i)
		eventually(t, a.name+" is audited", func() bool {
			s.auditor.mu.Lock()
			defer s.auditor.mu.Unlock()
			for _, d := range s.auditor.seen {
				if d.ID == "attacker" && d.Reason == a.reason && is(d) && time.Since(d.At) < time.Minute {
					return true
				}
			}
			return false
		})
	}
	if tried != len(expected) {
		t.Errorf("tried %d of %d", tried, len(expected))
	}
}

func TestNewConnectionsAreLimited(t *testing.T) {
	s := newStage(t)
	if said := s.attacker(t)(t, -1); !strings.Contains(said, "connection refused") {
		t.Errorf("the process was told %q", said)
	}
	if usage(t, s.Network, "attacker").Denied[ReasonRate] == 0 {
		t.Error("nothing was counted")
	}
	// The other sandbox is not concerned.
	if err := s.in(s.pair[1], func() error { return reachable(s.at.proxy, ProxyPort) }); err != nil {
		t.Errorf("another sandbox cannot reach the proxy: %v", err)
	}
}

// A flood is counted whole, and reported and answered in small part.
func TestFloodCostsLittle(t *testing.T) {
	s := newStage(t)
	const flood = 20_000
	p := tcp(netip.AddrPortFrom(s.at.self, 4000), netip.MustParseAddrPort("198.51.100.7:443"), tcpSYN).bytes()
	const header = 14 // of Ethernet
	before, start := usage(t, s.Network, "attacker").Sent, time.Now()
	err := s.in(s.pair[0], func() error {
		return sendFrames(flood, hardware(s.at.gateway), hardware(s.at.self), unix.ETH_P_IP, p)
	})
	if err != nil {
		t.Fatal(err)
	}
	took := time.Since(start)
	// A busy host may drop frames before they are anybody's business.
	eventually(t, "all that came is counted", func() bool {
		u := usage(t, s.Network, "attacker")
		return u.Sent > before && u.Denied[ReasonDestination] >= (u.Sent-before)/uint64(header+len(p))
	})
	s.auditor.mu.Lock()
	defer s.auditor.mu.Unlock()
	if most := 4*loggedPerSec + int(took.Seconds()+2)*loggedPerSec; len(s.auditor.seen) > most {
		t.Errorf("%d reports of %d packets in %v, at most %d were to come", len(s.auditor.seen), flood, took, most)
	}
	u := usage(t, s.Network, "attacker")
	if most := uint64((4*answeredPerSec + int(took.Seconds()+2)*answeredPerSec) * 60); u.Received > most {
		t.Errorf("%d bytes were answered, at most %d were to be", u.Received, most)
	}
}

func TestWhatTheHostReaches(t *testing.T) {
	s := newStage(t)
	s.listen(t, 2, "0.0.0.0:8891")
	if err := inside(s.host, func() error { return reachable(s.at.other, AgentPort) }); err != nil {
		t.Errorf("the agent cannot be reached: %v", err)
	}
	if where := <-s.accepted; !strings.Contains(where, s.pair[1].Gateway.String()) {
		t.Errorf("the agent saw %s, not the gateway's address %s", where, s.pair[1].Gateway)
	}
	before := usage(t, s.Network, "victim").Denied[ReasonInbound]
	eventually(t, "what the host tries is counted", func() bool {
		d := net.Dialer{Timeout: 100 * time.Millisecond}
		if err := inside(s.host, func() error { return connect(context.Background(), d, s.at.other.String()+":8891") }); err == nil {
			t.Fatal("the host reached another port than the agent's")
		}
		return usage(t, s.Network, "victim").Denied[ReasonInbound] > before
	})
}

// What guests with IPv6 say by themselves is counted, and is no news.
func TestIPv6MannersAreNotReported(t *testing.T) {
	s := newStage(t)
	solicitation := func(kind byte) []byte {
		b := append([]byte(nil), routerAdvertisement...)
		b[40] = kind
		return b
	}
	listener := append([]byte(nil), routerAdvertisement...)
	listener[6], listener[40] = 0, unix.IPPROTO_ICMPV6
	for _, p := range [][]byte{solicitation(133), solicitation(135), listener, routerAdvertisement} {
		err := s.in(s.pair[0], func() error {
			return sendFrame(hardware(s.at.gateway), hardware(s.at.self), unix.ETH_P_IPV6, p)
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	reports := func() int {
		s.auditor.mu.Lock()
		defer s.auditor.mu.Unlock()
		return len(s.auditor.seen)
	}
	eventually(t, "all are counted", func() bool { return usage(t, s.Network, "attacker").Denied[ReasonFamily] == 4 })
	eventually(t, "the advertisement is reported", func() bool { return reports() > 0 })
	if reports() != 1 {
		t.Errorf("%d reports, want that of the advertisement", reports())
	}
}
