package netpolicy

import (
	"net/netip"
	"testing"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

func TestPacketsAreDescribed(t *testing.T) {
	from, to := netip.MustParseAddrPort("10.143.0.6:4000"), netip.MustParseAddrPort("198.51.100.7:443")
	whole := tcp(from, to, tcpSYN).bytes()
	later := tcp(from, to, tcpSYN)
	later.fragment = 1
	routed := tcp(from, to, tcpSYN)
	routed.options = []byte{131, 3, 4, 0}
	noPort := func(a netip.AddrPort) netip.AddrPort { return netip.AddrPortFrom(a.Addr(), 0) }
	for name, c := range map[string]struct {
		family byte
		bytes  []byte
		want   packet
	}{
		"TCP":                {unix.NFPROTO_IPV4, whole, packet{"tcp", from, to}},
		"TCP behind options": {unix.NFPROTO_IPV4, routed.bytes(), packet{"tcp", from, to}},
		"without ports":      {unix.NFPROTO_IPV4, whole[:22], packet{"tcp", noPort(from), noPort(to)}},
		"later fragment":     {unix.NFPROTO_IPV4, later.bytes(), packet{"tcp", noPort(from), noPort(to)}},
		"too short":          {unix.NFPROTO_IPV4, whole[:19], packet{protocol: "ip"}},
		"nothing":            {unix.NFPROTO_IPV4, nil, packet{protocol: "ip"}},
		"IPv6":               {unix.NFPROTO_IPV6, routerAdvertisement, packet{"icmp", netip.MustParseAddrPort("[fe80::1]:0"), netip.MustParseAddrPort("[ff02::1]:0")}},
		"IPv6 too short":     {unix.NFPROTO_IPV6, routerAdvertisement[:39], packet{protocol: "ipv6"}},
		"ARP":                {unix.NFPROTO_ARP, arpReply(hardware(from.Addr()), from.Addr(), to.Addr()), packet{"arp", noPort(from), noPort(to)}},
		"ARP too short":      {unix.NFPROTO_ARP, []byte(ethernetForIPv4), packet{protocol: "arp"}},
		"something else":     {99, whole, packet{protocol: "99"}},
	} {
		if got := parsePacket(c.family, c.bytes); got != c.want {
			t.Errorf("%s: %+v, want %+v", name, got, c.want)
		}
	}
}

// A report's bytes are those of a packet that a sandbox has made up, in an
// envelope of the kernel's.
func FuzzReport(f *testing.F) {
	envelope := func(family byte, packet []byte) []byte {
		attributes, err := netlink.MarshalAttributes([]netlink.Attribute{
			{Type: nflogInIndex, Data: []byte{0, 0, 0, 7}},
			{Type: nflogPrefix, Data: []byte(ReasonFragment + "\x00")},
			{Type: nflogPayload, Data: packet},
		})
		if err != nil {
			f.Fatal(err)
		}
		return append([]byte{family, 0, 0, 1}, attributes...)
	}
	a, b := netip.MustParseAddrPort("10.143.0.6:4000"), netip.MustParseAddrPort("198.51.100.7:443")
	f.Add(envelope(unix.NFPROTO_IPV4, tcp(a, b, tcpSYN).bytes()))
	f.Add(envelope(unix.NFPROTO_IPV6, routerAdvertisement))
	f.Add(envelope(unix.NFPROTO_ARP, arpReply(hardware(a.Addr()), a.Addr(), b.Addr())))
	f.Add([]byte{2, 0, 0, 1, 4, 0, 9})
	f.Fuzz(func(t *testing.T, data []byte) {
		m := netlink.Message{Header: netlink.Header{Type: nflogSubsystem | nflogPacket}, Data: data}
		r, ok := parseReport(m)
		if !ok {
			return
		}
		if r.reason == "" || len(r.packet) > len(data) {
			t.Errorf("report %+v of %d bytes", r, len(data))
		}
		if p := parsePacket(r.family, r.packet); p.protocol == "" {
			t.Errorf("packet %+v has no protocol", p)
		}
	})
}

func TestOnlyPacketsAreReports(t *testing.T) {
	for name, m := range map[string]netlink.Message{
		"another message": {Header: netlink.Header{Type: nflogSubsystem | nflogConfig}, Data: make([]byte, 40)},
		"too short":       {Header: netlink.Header{Type: nflogSubsystem | nflogPacket}, Data: []byte{1}},
		"without reason":  {Header: netlink.Header{Type: nflogSubsystem | nflogPacket}, Data: make([]byte, 4)},
	} {
		if r, ok := parseReport(m); ok {
			t.Errorf("%s: taken for %+v", name, r)
		}
	}
}
