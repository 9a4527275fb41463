package egress

import (
	"net/netip"
)

// Networks that are never reached, or by a policy's mirror only, and what to
// call them. After the IANA special-purpose registries and the clouds' manuals.
var (
	metadataNetworks = networks("addresses of cloud metadata",
		"169.254.0.0/16", "fd00:ec2::/32", "100.100.100.200/32", "168.63.129.16/32", "192.0.0.192/32", "fd20:ce::254/128")
	reservedNetworks = append(append(append(append(
		networks("loopback addresses", "127.0.0.0/8", "::1/128"),
		networks("unspecified addresses", "0.0.0.0/8", "::/128")...),
		networks("link-local addresses", "169.254.0.0/16", "fe80::/10")...),
		networks("multicast and broadcast addresses", "224.0.0.0/4", "255.255.255.255/32", "ff00::/8")...),
		networks("reserved addresses",
			"192.0.0.0/24", "192.0.2.0/24", "192.88.99.0/24", "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24", "240.0.0.0/4",
			"2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20", "fec0::/10")...)
	privateNetworks = append(
		networks("private addresses", "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7"),
		networks("addresses of carriers' networks", "100.64.0.0/10")...)

	publicV6 = netip.MustParsePrefix("2000::/3")
	nat64    = netip.MustParsePrefix("64:ff9b::/96")
)

type network struct {
	prefix netip.Prefix
	name   string
}

func networks(name string, prefixes ...string) []network {
	var list []network
	for _, p := range prefixes {
		list = append(list, network{netip.MustParsePrefix(p), name})
	}
	return list
}

// refused says what an address is that no client may reach, as in "private
// addresses"; "" for public ones. IPv4 addresses that are wrapped in IPv6 are
// unwrapped first; tunnels (6to4, Teredo) are refused whole.
func refused(addr netip.Addr) string {
	addr = unwrap(addr)
	if why := refusedToMirrors(addr); why != "" {
		return why
	}
	return find(addr, privateNetworks)
}

// refusedToMirrors is refused for a policy's package mirror, which may be at a
// private address.
func refusedToMirrors(addr netip.Addr) string {
	addr = unwrap(addr)
	if !addr.IsValid() || addr.Zone() != "" {
		return "addresses with a zone"
	}
	if why := find(addr, metadataNetworks); why != "" {
		return why
	}
	if why := find(addr, reservedNetworks); why != "" {
		return why
	}
	if addr.Is6() && !publicV6.Contains(addr) && find(addr, privateNetworks) == "" {
		return "reserved addresses"
	}
	return ""
}

func find(addr netip.Addr, list []network) string {
	for _, n := range list {
		if n.prefix.Contains(addr) {
			return n.name
		}
	}
	return ""
}

// unwrap returns the IPv4 address that a packet for addr would end at: mapped
// (::ffff:a.b.c.d) and NAT64 (64:ff9b::a.b.c.d).
func unwrap(addr netip.Addr) netip.Addr {
	addr = addr.Unmap()
	if addr.Is6() && nat64.Contains(addr) {
		b := addr.As16()
		return netip.AddrFrom4([4]byte(b[12:]))
	}
	return addr
}
