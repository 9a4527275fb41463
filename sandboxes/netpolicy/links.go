package netpolicy

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// inner is what the link inside of a slot is called.
const inner = "eth0"

// links makes and removes links of a host.
type links struct {
	plan plan
	host netns.NsHandle  // the namespace that is the host's
	conn *netlink.Handle // in it
	rate int64           // bytes per second of each slot, each way; 0 is without limit
}

func newLinks(p plan, host netns.NsHandle) (*links, error) {
	conn, err := netlink.NewHandleAt(host, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("cannot talk to the kernel about links: %w", err)
	}
	return &links{plan: p, host: host, conn: conn}, nil
}

func (l *links) close() { l.conn.Close() }

// addProxy makes the link that has the proxy's address, unless there is one. It
// is a bridge to which nothing is attached, because kernels that have no dummy
// links have bridges. Its hardware address says whose it is: that is there from
// the first moment, as an alias would not be.
func (l *links) addProxy(owner net.HardwareAddr) error {
	name := l.plan.proxyLink()
	link, err := l.conn.LinkByName(name)
	switch {
	case err == nil && !bytes.Equal(link.Attrs().HardwareAddr, owner):
		return fmt.Errorf("there is a link %s already, which is not of this state directory: choose another network name", name)
	case errors.As(err, new(netlink.LinkNotFoundError)):
		snooping := false // for members of groups, which it would ask for
		link = &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: name, HardwareAddr: owner}, MulticastSnooping: &snooping}
		err = l.conn.LinkAdd(link)
	}
	if err == nil {
		err = l.harden(name, setting{"ipv6/conf/" + name + "/disable_ipv6", "1"})
	}
	if err == nil {
		err = l.conn.AddrReplace(link, &netlink.Addr{IPNet: network(l.plan.proxy(), 32)})
	}
	if err == nil {
		err = l.conn.LinkSetUp(link)
	}
	if err != nil {
		return fmt.Errorf("cannot make link %s for the egress proxy: %w", name, err)
	}
	return nil
}

// owns reports whether the proxy's link is there and marked as the owner's.
func (l *links) owns(owner net.HardwareAddr) (bool, error) {
	link, err := l.conn.LinkByName(l.plan.proxyLink())
	if errors.As(err, new(netlink.LinkNotFoundError)) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("cannot look for link %s: %w", l.plan.proxyLink(), err)
	}
	return bytes.Equal(link.Attrs().HardwareAddr, owner), nil
}

// checkSubnet says whether somebody else uses addresses of the plan.
func (l *links) checkSubnet() error {
	routes, err := l.conn.RouteList(nil, netlink.FAMILY_V4)
	if err != nil {
		return fmt.Errorf("cannot list routes: %w", err)
	}
	for _, r := range routes {
		name := ""
		if link, err := l.conn.LinkByIndex(r.LinkIndex); err == nil {
			name = link.Attrs().Name
		}
		if err := l.plan.overlaps(r.Dst, name); err != nil {
			return err
		}
	}
	return nil
}

// add joins a pinned namespace to the host. Both ends know each other's
// hardware addresses for good, so that neither has to believe what it is told.
func (l *links) add(n number, pin string) error {
	ns, err := netns.GetFromPath(pin)
	if err != nil {
		return fmt.Errorf("cannot open the network namespace %s: %w", pin, err)
	}
	defer ns.Close()
	gateway, address := l.plan.gateway(n), l.plan.address(n)
	outer := netlink.NewVeth(netlink.LinkAttrs{Name: l.plan.link(n), HardwareAddr: hardware(gateway)})
	outer.PeerName, outer.PeerHardwareAddr, outer.PeerNamespace = inner, hardware(address), netlink.NsFd(ns)
	if err := l.conn.LinkAdd(outer); err != nil {
		return fmt.Errorf("cannot make link %s: %w", l.plan.link(n), err)
	}
	// IPv6 stays on, without an address: only so do the rules see what comes, and
	// count it. Who is without IPv6 drops it in silence.
	v6 := "ipv6/conf/" + l.plan.link(n) + "/"
	if err := l.harden(l.plan.link(n), setting{v6 + "addr_gen_mode", "1"}, setting{v6 + "accept_ra", "0"}, setting{v6 + "forwarding", "0"}); err != nil {
		return err
	}
	if err := setUp(l.conn, outer, gateway, address, l.rate); err != nil {
		return fmt.Errorf("cannot set up link %s: %w", l.plan.link(n), err)
	}
	if err := setUpInside(ns, gateway, address, l.rate); err != nil {
		return fmt.Errorf("cannot set up the inside of link %s: %w", l.plan.link(n), err)
	}
	return nil
}

// setUp gives one end of a slot's pair its address, its only neighbour, and the
// limit of what it sends.
func setUp(conn *netlink.Handle, link netlink.Link, own, neighbour netip.Addr, rate int64) error {
	if rate > 0 {
		if err := conn.QdiscAdd(bucket(link, rate)); err != nil {
			return fmt.Errorf("cannot limit its rate: %w", err)
		}
	}
	if err := conn.AddrAdd(link, &netlink.Addr{IPNet: network(own, 30)}); err != nil {
		return fmt.Errorf("cannot add address %s: %w", own, err)
	}
	if err := conn.LinkSetUp(link); err != nil {
		return fmt.Errorf("cannot set it up: %w", err)
	}
	err := conn.NeighSet(&netlink.Neigh{
		LinkIndex: link.Attrs().Index, Family: netlink.FAMILY_V4, State: netlink.NUD_PERMANENT,
		IP: neighbour.AsSlice(), HardwareAddr: hardware(neighbour),
	})
	if err != nil {
		return fmt.Errorf("cannot add neighbour %s: %w", neighbour, err)
	}
	return nil
}

func setUpInside(ns netns.NsHandle, gateway, address netip.Addr, rate int64) error {
	conn, err := netlink.NewHandleAt(ns, unix.NETLINK_ROUTE)
	if err != nil {
		return err
	}
	defer conn.Close()
	lo, err := conn.LinkByName("lo")
	if err != nil {
		return err
	}
	if err := conn.LinkSetUp(lo); err != nil {
		return err
	}
	link, err := conn.LinkByName(inner)
	if err != nil {
		return err
	}
	if err := setUp(conn, link, address, gateway, rate); err != nil {
		return err
	}
	// Static: Kata copies into the guest what the kernel has not made itself.
	return conn.RouteAdd(&netlink.Route{
		LinkIndex: link.Attrs().Index, Gw: gateway.AsSlice(), Protocol: unix.RTPROT_STATIC,
		Dst: &net.IPNet{IP: net.IPv4zero, Mask: net.CIDRMask(0, 32)},
	})
}

// bucket is a token bucket that holds a tenth of a second, and at least the
// largest packets that the kernel makes. Behind it as much waits.
func bucket(link netlink.Link, rate int64) netlink.Qdisc {
	holds := max(rate/10, 128<<10)
	fills := float64(holds) / float64(rate) * 1e6 // in microseconds
	return &netlink.Tbf{
		QdiscAttrs: netlink.QdiscAttrs{LinkIndex: link.Attrs().Index, Handle: netlink.MakeHandle(1, 0), Parent: netlink.HANDLE_ROOT},
		Rate:       uint64(rate), Buffer: uint32(fills * netlink.TickInUsec()), Limit: uint32(min(2*holds, 64<<20)),
	}
}

// harden takes from a link of the host what could be used from its other end
// should the packet filter ever be without our rules. It is done before the link is up.
func (l *links) harden(name string, more ...setting) error {
	v4 := "ipv4/conf/" + name + "/"
	return inside(l.host, func() error {
		return apply(append(more, []setting{
			{v4 + "forwarding", "0"}, // of packets that come in here
			{v4 + "rp_filter", "1"},
			{v4 + "accept_source_route", "0"},
			{v4 + "accept_redirects", "0"},
			{v4 + "send_redirects", "0"},
			{v4 + "route_localnet", "0"},
			{v4 + "proxy_arp", "0"},
			{v4 + "arp_ignore", "1"}, // for other addresses of the host
			{v4 + "arp_accept", "0"},
		}...))
	})
}

// hardenInside takes IPv6 from the namespace that the thread is in.
func hardenInside() error {
	return apply([]setting{
		{"ipv6/conf/all/disable_ipv6", "1"},
		{"ipv6/conf/default/disable_ipv6", "1"},
	})
}

// remove removes a link of the host, and with it its other end. It is no error
// when there is none.
func (l *links) remove(name string) error {
	link, err := l.conn.LinkByName(name)
	if err == nil {
		err = l.conn.LinkDel(link)
	}
	if err == nil || errors.As(err, new(netlink.LinkNotFoundError)) || errors.Is(err, unix.ENODEV) {
		return nil
	}
	return fmt.Errorf("cannot remove link %s: %w", name, err)
}

// list returns the slots that have a link on the host.
func (l *links) list() (map[number]netlink.Link, error) {
	for {
		all, err := l.conn.LinkList()
		if errors.Is(err, netlink.ErrDumpInterrupted) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("cannot list links: %w", err)
		}
		found := map[number]netlink.Link{}
		for _, link := range all {
			if n, ok := l.plan.numberOf(link.Attrs().Name); ok {
				found[n] = link
			}
		}
		return found, nil
	}
}

// index returns the index of a slot's link, by which the kernel names it.
func (l *links) index(n number) (int, error) {
	link, err := l.conn.LinkByName(l.plan.link(n))
	if err != nil {
		return 0, fmt.Errorf("cannot find link %s: %w", l.plan.link(n), err)
	}
	return link.Attrs().Index, nil
}

// traffic returns the bytes that came from the sandbox and went to it.
func (l *links) traffic(n number) (sent, received uint64, err error) {
	link, err := l.conn.LinkByName(l.plan.link(n))
	if err != nil {
		return 0, 0, fmt.Errorf("cannot find link %s: %w", l.plan.link(n), err)
	}
	if s := link.Attrs().Statistics; s != nil {
		sent, received = s.RxBytes, s.TxBytes
	}
	return sent, received, nil
}

func network(a netip.Addr, bits int) *net.IPNet {
	return &net.IPNet{IP: a.AsSlice(), Mask: net.CIDRMask(bits, 32)}
}
