package netpolicy

import (
	"encoding/binary"
	"net/netip"
	"strconv"

	"golang.org/x/sys/unix"
)

// packet is what a Denial says of a packet.
type packet struct {
	protocol            string
	source, destination netip.AddrPort
}

// parsePacket reads the beginning of a packet, which a sandbox may have made up:
// what is missing or makes no sense stays zero.
func parsePacket(family byte, b []byte) packet {
	switch family {
	case unix.NFPROTO_IPV4:
		return parseIPv4(b)
	case unix.NFPROTO_IPV6:
		return parseIPv6(b)
	case unix.NFPROTO_ARP:
		p := packet{protocol: "arp"}
		if len(b) >= 28 && string(b[:6]) == ethernetForIPv4 {
			p.source = netip.AddrPortFrom(netip.AddrFrom4([4]byte(b[14:18])), 0)
			p.destination = netip.AddrPortFrom(netip.AddrFrom4([4]byte(b[24:28])), 0)
		}
		return p
	}
	return packet{protocol: strconv.Itoa(int(family))}
}

func parseIPv4(b []byte) packet {
	const shortest = 20
	if len(b) < shortest {
		return packet{protocol: "ip"}
	}
	length := 4 * int(b[0]&0x0f)
	rest := b[min(len(b), max(length, shortest)):]
	if binary.BigEndian.Uint16(b[6:])&0x1fff != 0 { // not the first fragment
		rest = nil
	}
	return withPorts(b[9], rest, netip.AddrFrom4([4]byte(b[12:16])), netip.AddrFrom4([4]byte(b[16:20])))
}

// parseIPv6 takes what follows the first header for the payload: extension
// headers are named by their number.
func parseIPv6(b []byte) packet {
	const shortest = 40
	if len(b) < shortest {
		return packet{protocol: "ipv6"}
	}
	return withPorts(b[6], b[shortest:], netip.AddrFrom16([16]byte(b[8:24])), netip.AddrFrom16([16]byte(b[24:40])))
}

func withPorts(protocol byte, rest []byte, source, destination netip.Addr) packet {
	p := packet{protocol: protocolName(protocol)}
	var from, to uint16
	if (protocol == unix.IPPROTO_TCP || protocol == unix.IPPROTO_UDP) && len(rest) >= 4 {
		from, to = binary.BigEndian.Uint16(rest), binary.BigEndian.Uint16(rest[2:])
	}
	p.source, p.destination = netip.AddrPortFrom(source, from), netip.AddrPortFrom(destination, to)
	return p
}

func protocolName(protocol byte) string {
	switch protocol {
	case unix.IPPROTO_TCP:
		return "tcp"
	case unix.IPPROTO_UDP:
		return "udp"
	case unix.IPPROTO_ICMP, unix.IPPROTO_ICMPV6:
		return "icmp"
	}
	return strconv.Itoa(int(protocol))
}
