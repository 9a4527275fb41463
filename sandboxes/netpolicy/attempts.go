package netpolicy

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"
)

// scene is what attempts are about.
type scene struct {
	self, gateway, proxy netip.Addr
	other                netip.Addr     // another sandbox, which listens on AgentPort
	host                 netip.AddrPort // something that listens on the gateway's address
	beside               netip.AddrPort // something that listens on the proxy's address
}

// attempt is something that code in a sandbox may try. try is run on a thread
// in the sandbox's namespace, with all privileges, and returns nil when it got
// through, or cannot know.
type attempt struct {
	name   string
	reason Reason // for which it must be refused
	try    func(context.Context, scene) error
}

// attempts are those that must fail.
var attempts = []attempt{
	{"metadata service", ReasonDestination, dial(func(scene) string { return "169.254.169.254:80" })},
	{"metadata service of containers", ReasonDestination, dial(func(scene) string { return "169.254.170.2:80" })},
	{"metadata service in shared address space", ReasonDestination, dial(func(scene) string { return "100.100.100.200:80" })},
	{"public address", ReasonDestination, dial(func(scene) string { return "198.51.100.7:443" })},
	{"private network", ReasonDestination, dial(func(scene) string { return "192.168.0.1:443" })},
	{"another sandbox's agent", ReasonDestination, dial(func(s scene) string {
		return netip.AddrPortFrom(s.other, AgentPort).String()
	})},
	{"port of the host on the gateway's address", ReasonDestination, dial(func(s scene) string { return s.host.String() })},
	{"port of the host on the proxy's address", ReasonDestination, dial(func(s scene) string { return s.beside.String() })},
	{"port of the host from the agent's port", ReasonDestination, dialFromAgentPort},
	{"acknowledgement from the agent's port", ReasonDestination, send(func(s scene) ipv4 {
		return tcp(netip.AddrPortFrom(s.self, AgentPort), s.host, tcpACK)
	})},
	{"loopback of the host", ReasonDestination, send(func(s scene) ipv4 {
		return tcp(netip.AddrPortFrom(s.self, 4000), netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), s.host.Port()), tcpSYN)
	})},
	{"DNS over UDP to the host", ReasonProtocol, datagram(func(s scene) string { return netip.AddrPortFrom(s.gateway, 53).String() })},
	{"DNS over UDP to a public resolver", ReasonProtocol, datagram(func(scene) string { return "198.51.100.53:53" })},
	{"QUIC", ReasonProtocol, datagram(func(scene) string { return "198.51.100.7:443" })},
	{"DHCP by broadcast", ReasonProtocol, send(func(s scene) ipv4 {
		return ipv4{source: s.self, destination: netip.MustParseAddr("255.255.255.255"), protocol: unix.IPPROTO_UDP, payload: []byte{0, 68, 0, 67, 0, 8, 0, 0}}
	})},
	{"ICMP echo", ReasonProtocol, send(func(s scene) ipv4 {
		return ipv4{source: s.self, destination: s.gateway, protocol: unix.IPPROTO_ICMP, payload: []byte{8, 0, 0xf7, 0xff, 0, 0, 0, 0}}
	})},
	{"tunnel of another protocol", ReasonProtocol, send(func(s scene) ipv4 {
		return ipv4{source: s.self, destination: s.gateway, protocol: unix.IPPROTO_GRE, payload: make([]byte, 8)}
	})},
	{"source address of another sandbox", ReasonSpoofed, send(func(s scene) ipv4 {
		return tcp(netip.AddrPortFrom(s.other, 4000), netip.AddrPortFrom(s.proxy, ProxyPort), tcpSYN)
	})},
	{"source address of the host", ReasonSpoofed, send(func(s scene) ipv4 {
		return tcp(netip.AddrPortFrom(s.gateway, 4000), netip.AddrPortFrom(s.proxy, ProxyPort), tcpSYN)
	})},
	{"source hardware address of another sandbox", ReasonSpoofed, func(_ context.Context, s scene) error {
		p := tcp(netip.AddrPortFrom(s.self, 4000), netip.AddrPortFrom(s.proxy, ProxyPort), tcpSYN)
		return sendFrame(hardware(s.gateway), hardware(s.other), unix.ETH_P_IP, p.bytes())
	}},
	{"fragment", ReasonFragment, send(func(s scene) ipv4 {
		p := tcp(netip.AddrPortFrom(s.self, 4000), netip.AddrPortFrom(s.proxy, ProxyPort), tcpSYN)
		p.fragment = 0x2000 // more fragments
		return p
	})},
	{"later fragment", ReasonFragment, send(func(s scene) ipv4 {
		return ipv4{source: s.self, destination: s.proxy, protocol: unix.IPPROTO_TCP, fragment: 3, payload: make([]byte, 8)}
	})},
	{"source route", ReasonOptions, send(func(s scene) ipv4 {
		p := tcp(netip.AddrPortFrom(s.self, 4000), netip.AddrPortFrom(s.proxy, ProxyPort), tcpSYN)
		p.options = append([]byte{131, 7, 4}, append(s.other.AsSlice(), 0)...)
		return p
	})},
	{"IPv6", ReasonFamily, func(_ context.Context, s scene) error {
		return sendFrame(hardware(s.gateway), hardware(s.self), unix.ETH_P_IPV6, routerAdvertisement)
	}},
	{"ARP for another sandbox", ReasonARP, func(_ context.Context, s scene) error {
		return sendFrame(hardware(s.gateway), hardware(s.self), unix.ETH_P_ARP, arpReply(hardware(s.self), s.other, s.gateway))
	}},
	{"ARP with another hardware address", ReasonARP, func(_ context.Context, s scene) error {
		return sendFrame(hardware(s.gateway), hardware(s.self), unix.ETH_P_ARP, arpReply(hardware(s.other), s.self, s.gateway))
	}},
	{"ARP for other addresses of the host", ReasonARP, func(_ context.Context, s scene) error {
		return sendFrame(hardware(s.gateway), hardware(s.self), unix.ETH_P_ARP, arpReply(hardware(s.self), s.self, s.proxy))
	}},
}

const (
	// attemptTime bounds an attempt. What is refused is answered, mostly, so that
	// this passes only when something is wrong.
	attemptTime = time.Second
	reachTime   = 10 * time.Second // bounds what must get through
)

func dial(address func(scene) string) func(context.Context, scene) error {
	return func(ctx context.Context, s scene) error {
		return connect(ctx, net.Dialer{Timeout: attemptTime}, address(s))
	}
}

func connect(ctx context.Context, d net.Dialer, address string) error {
	conn, err := d.DialContext(ctx, "tcp4", address)
	if err != nil {
		return err
	}
	return conn.Close()
}

func dialFromAgentPort(ctx context.Context, s scene) error {
	from := &net.TCPAddr{IP: s.self.AsSlice(), Port: AgentPort}
	return connect(ctx, net.Dialer{Timeout: attemptTime, LocalAddr: from}, s.host.String())
}

// datagram waits for the refusal that the host answers.
func datagram(address func(scene) string) func(context.Context, scene) error {
	return func(ctx context.Context, s scene) error {
		conn, err := (&net.Dialer{}).DialContext(ctx, "udp4", address(s))
		if err != nil {
			return err
		}
		defer conn.Close()
		if _, err := conn.Write([]byte("anybody?")); err != nil {
			return err
		}
		_ = conn.SetReadDeadline(time.Now().Add(attemptTime))
		_, err = conn.Read(make([]byte, 1))
		return err
	}
}

func send(packet func(scene) ipv4) func(context.Context, scene) error {
	return func(_ context.Context, s scene) error {
		return sendFrame(hardware(s.gateway), hardware(s.self), unix.ETH_P_IP, packet(s).bytes())
	}
}

// routerAdvertisement claims to be everybody's router.
var routerAdvertisement = func() []byte {
	b := make([]byte, 40+16)
	b[0], b[5], b[6], b[7] = 6<<4, 16, unix.IPPROTO_ICMPV6, 255
	from, to := netip.MustParseAddr("fe80::1").As16(), netip.MustParseAddr("ff02::1").As16()
	copy(b[8:], from[:])
	copy(b[24:], to[:])
	b[40] = 134
	return b
}()

// floodProxy opens connections to the proxy until one is refused.
func floodProxy(ctx context.Context, s scene) error {
	for range 2000 {
		err := connect(ctx, net.Dialer{Timeout: reachTime}, netip.AddrPortFrom(s.proxy, ProxyPort).String())
		if errors.Is(err, unix.ECONNREFUSED) {
			return err
		}
		if err != nil {
			return fmt.Errorf("another error than expected: %w", err)
		}
	}
	return nil
}
