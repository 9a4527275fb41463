package netpolicy

import (
	"maps"
	"slices"

	"github.com/vishvananda/netlink"

	"kernelgw/sandboxes/netpolicy/egress"
)

// adopt takes over the slots of sandboxes that are whole and removes all else.
func (n *Network) adopt() error {
	records, err := n.state.records()
	if err != nil {
		return err
	}
	there, err := n.links.list()
	if err != nil {
		return err
	}
	counted, err := n.filter.denied()
	if err != nil {
		return err
	}
	for number, r := range records {
		if r.ID == "" {
			continue
		}
		link := there[number]
		if link == nil || !pinned(n.state.pin(number)) {
			n.log.Warn("a sandbox has lost its network", "sandbox", r.ID, "link", n.identity.link(number))
			continue
		}
		index := link.Attrs().Index
		n.slots[r.ID] = &slot{id: r.ID, number: number, index: index, policy: r.Policy, earlier: counted[number], trusted: n.trustedBy(r)}
		n.byIndex[index] = r.ID
		n.taken[number] = true
	}
	if err := n.sweep(); err != nil {
		return err
	}
	n.step("make the rules")
	if err := n.filter.install(maps.Keys(n.taken)); err != nil {
		return err
	}
	for _, s := range n.slots {
		if err := n.proxy.Admit(n.identity.address(s.number), s.id, s.policy); err != nil {
			return err
		}
		n.proxy.Trusts(n.identity.address(s.number), s.trusted)
	}
	return nil
}

// trustedBy returns the authority that a sandbox of an earlier process trusts.
func (n *Network) trustedBy(r record) *egress.Authority {
	present := n.options.Egress.Authority
	if present == nil || r.Authority == "" {
		return present
	}
	trusted := present.Named(r.Authority)
	if trusted == nil {
		n.log.Warn("a sandbox trusts an egress authority that is gone: it cannot reach hosts that it has secrets for", "sandbox", r.ID)
		return present
	}
	return trusted
}

// sweep removes all slots that are no sandbox's.
func (n *Network) sweep() error {
	records, err := n.state.records()
	if err != nil {
		return err
	}
	pins, err := n.state.pins()
	if err != nil {
		return err
	}
	there, ours, err := n.ownLinks()
	if err != nil {
		return err
	}
	all := slices.AppendSeq(slices.AppendSeq(pins, maps.Keys(records)), maps.Keys(there))
	slices.Sort(all)
	for _, number := range slices.Compact(all) {
		switch {
		case n.taken[number]:
		case ours:
			err = n.demolish(number)
		default:
			err = n.discard(number)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// ownLinks returns the slots that have a link on the host. ours is false when
// the proxy's link is not this network's: then none of them is, and what bears
// the same names may be another gateway's.
func (n *Network) ownLinks() (there map[number]netlink.Link, ours bool, err error) {
	if ours, err = n.links.owns(n.identity.Owner); err != nil || !ours {
		return nil, false, err
	}
	there, err = n.links.list()
	return there, true, err
}
