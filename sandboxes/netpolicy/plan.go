package netpolicy

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"strconv"
	"strings"

	"kernelgw/sandboxes"
)

// number names a slot, from 1 on: its links, addresses and files follow from it.
type number uint32

// plan says how a network's links and addresses are called.
type plan struct {
	Name   string       `json:"name"`
	Subnet netip.Prefix `json:"subnet"`
}

// last is the highest number that the subnet has room for. The first four
// addresses are the proxy's.
func (p plan) last() number { return 1<<(30-p.Subnet.Bits()) - 1 }

// prefix begins the names of the host's ends of all slots, and of no other link.
func (p plan) prefix() string { return p.Name + "-" }

func (p plan) link(n number) string { return p.prefix() + strconv.Itoa(int(n)) }

// numberOf is the reverse of link.
func (p plan) numberOf(link string) (number, bool) {
	digits, ok := strings.CutPrefix(link, p.prefix())
	if !ok {
		return 0, false
	}
	n, err := strconv.ParseUint(digits, 10, 32)
	if err != nil || n == 0 || p.link(number(n)) != link {
		return 0, false
	}
	return number(n), true
}

// proxyLink is the link that has the proxy's address. Slots are not connected
// to it: they reach the address because it is the host's.
func (p plan) proxyLink() string { return p.Name + "0" }

func (p plan) proxy() netip.Addr { return p.at(1) }

func (p plan) gateway(n number) netip.Addr { return p.at(4*uint32(n) + 1) }

func (p plan) address(n number) netip.Addr { return p.at(4*uint32(n) + 2) }

func (p plan) at(offset uint32) netip.Addr {
	base := p.Subnet.Addr().As4()
	var a [4]byte
	binary.BigEndian.PutUint32(a[:], binary.BigEndian.Uint32(base[:])+offset)
	return netip.AddrFrom4(a)
}

// hardware is the hardware address that goes with an address: locally
// administered, so that it is nobody else's.
func hardware(a netip.Addr) net.HardwareAddr {
	b := a.As4()
	return net.HardwareAddr{0x0a, 0x58, b[0], b[1], b[2], b[3]}
}

// env tells programs of the proxy, and package managers of the policy's mirror.
func (p plan) env(policy sandboxes.NetworkPolicy) []string {
	proxy := "http://" + netip.AddrPortFrom(p.proxy(), ProxyPort).String()
	const direct = "localhost,127.0.0.1,::1"
	env := []string{
		// Both spellings: curl ignores HTTP_PROXY, other programs http_proxy.
		"HTTP_PROXY=" + proxy, "http_proxy=" + proxy,
		"HTTPS_PROXY=" + proxy, "https_proxy=" + proxy,
		"NO_PROXY=" + direct, "no_proxy=" + direct,
	}
	if policy.Mirror != "" {
		env = append(env, "PIP_INDEX_URL="+policy.Mirror, "UV_DEFAULT_INDEX="+policy.Mirror)
		if u, err := url.Parse(policy.Mirror); err == nil && u.Scheme == "http" {
			env = append(env, "PIP_TRUSTED_HOST="+u.Host) // pip ignores an index without TLS otherwise
		}
	}
	return env
}

// overlaps returns an error when a route of the host, other than those that
// lead everywhere, has to do with addresses of the plan.
func (p plan) overlaps(route *net.IPNet, link string) error {
	if route == nil || link == p.proxyLink() || strings.HasPrefix(link, p.prefix()) {
		return nil
	}
	addr, ok := netip.AddrFromSlice(route.IP.To4())
	bits, _ := route.Mask.Size()
	if !ok || bits == 0 {
		return nil
	}
	if there := netip.PrefixFrom(addr, bits); there.Overlaps(p.Subnet) {
		return fmt.Errorf("subnet %s is in use: the host has a route to %s over %s; choose another one", p.Subnet, there, link)
	}
	return nil
}
