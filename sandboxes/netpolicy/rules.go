package netpolicy

import (
	"slices"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/userdata"
	"golang.org/x/sys/unix"
)

const (
	loggedBytes     = 64              // of a refused packet
	loggedPerSec    = 5               // packets of each sandbox
	answeredPerSec  = 50              // refusals of each sandbox that are answered, so that programs do not wait
	setSize         = 1 << 18         // elements
	dialledLasts    = 5 * time.Minute // of silence of the host on a connection to an agent; Go sends something every 15 s
	ethernetForIPv4 = "\x00\x01\x08\x00\x06\x04"
)

// reasons numbers what is counted: a reason's place is its number in the sets.
var reasons = []Reason{
	ReasonFamily, ReasonOptions, ReasonFragment, ReasonSpoofed, ReasonProtocol, ReasonDestination,
	ReasonRate, ReasonForwarded, ReasonInbound, ReasonARP,
}

func (r Reason) number() uint32 {
	for i, other := range reasons {
		if r == other {
			return uint32(i)
		}
	}
	panic("no such reason: " + r)
}

// What the parts of packets are, loaded into register 0 if nothing else is said.
var (
	inName      = load(expr.MetaKeyIIFNAME, 0)
	outName     = load(expr.MetaKeyOIFNAME, 0)
	family      = load(expr.MetaKeyNFPROTO, 0)
	firstByte   = header(0, 1, 0) // version and length of the header
	fragment    = header(6, 2, 0)
	protocol    = header(9, 1, 0)
	source      = header(12, 4, 0)
	destination = header(16, 4, 0)
	sourcePort  = transport(0, 2, 0)
	destPort    = transport(2, 2, 0)
	tcpFlags    = transport(13, 1, 0)
)

const (
	tcpFIN, tcpSYN, tcpRST, tcpACK = 0x01, 0x02, 0x04, 0x10
)

// Keys of sets.
var (
	sender   = key{inName, link(6, 6, 4), header(12, 4, 6)}                     // link, hardware address, address
	receiver = key{outName, header(16, 4, 4), header(12, 4, 5)}                 // link, its address, the host's
	dialling = key{outName, header(12, 4, 4), transport(0, 2, 5)}               // link, the host's address and port
	replying = key{inName, header(16, 4, 4), transport(2, 2, 5)}                // the same of the answer
	arpOf    = key{inName, header(8, 6, 4), header(14, 4, 6), header(24, 4, 7)} // link, hardware address, address, the address asked for

	senderType   = nftables.MustConcatSetType(nftables.TypeIFName, nftables.TypeEtherAddr, nftables.TypeIPAddr)
	receiverType = nftables.MustConcatSetType(nftables.TypeIFName, nftables.TypeIPAddr, nftables.TypeIPAddr)
	diallingType = nftables.MustConcatSetType(nftables.TypeIFName, nftables.TypeIPAddr, nftables.TypeInetService)
	arpType      = nftables.MustConcatSetType(nftables.TypeIFName, nftables.TypeEtherAddr, nftables.TypeIPAddr, nftables.TypeIPAddr)
	countType    = nftables.MustConcatSetType(nftables.TypeIFName, nftables.TypeMark)
)

// table is one of the two tables: one for IP and one for ARP, which the kernel
// keeps apart. Every set's keys begin with the name of a slot's link.
type table struct {
	*nftables.Table
	sets  []*nftables.Set
	rules map[string]int // how many a batch has written, by the name of their chain

	senders   *nftables.Set // who may send
	receivers *nftables.Set // to whom the host may send; IP only
	dialled   *nftables.Set // connections that the host opened to agents; IP only
	fresh     *nftables.Set // rate of new connections; IP only
	answered  *nftables.Set // rate of answers to refusals; IP only
	logged    *nftables.Set // rate of reports
	denied    *nftables.Set // counters, by link and reason
}

func (t *table) set(name string, of nftables.SetDatatype, concatenated bool) *nftables.Set {
	s := &nftables.Set{
		// Ids are given here: those that the library would give are no one's between goroutines.
		Table: t.Table, ID: uint32(len(t.sets) + 1), Name: name, KeyType: of, Concatenation: concatenated, Size: setSize,
	}
	t.sets = append(t.sets, s)
	return s
}

// rated is a set that rules fill.
func (t *table) rated(name string, of nftables.SetDatatype, concatenated bool) *nftables.Set {
	s := t.set(name, of, concatenated)
	s.Dynamic = true
	return s
}

func newTable(name string, family nftables.TableFamily) *table {
	t := &table{Table: &nftables.Table{Name: name, Family: family}, rules: map[string]int{}}
	if family == nftables.TableFamilyARP {
		t.senders = t.set("senders", arpType, true)
	} else {
		t.senders = t.set("senders", senderType, true)
		t.receivers = t.set("receivers", receiverType, true)
		t.dialled = t.rated("dialled", diallingType, true)
		t.dialled.HasTimeout, t.dialled.Timeout = true, dialledLasts
		t.fresh = t.rated("fresh", nftables.TypeIFName, false)
		t.answered = t.rated("answered", nftables.TypeIFName, false)
	}
	t.logged = t.rated("logged", nftables.TypeIFName, false)
	t.denied = t.rated("denied", countType, true)
	return t
}

// batch writes a table's rules into a transaction.
type batch struct {
	conn  *nftables.Conn
	table *table
	group uint16 // of reports
	rate  int    // of new connections
}

func (b batch) hook(name string, hook *nftables.ChainHook, priority nftables.ChainPriority) *nftables.Chain {
	policy := nftables.ChainPolicyAccept // of packets that have nothing to do with sandboxes
	return b.conn.AddChain(&nftables.Chain{
		Name: name, Table: b.table.Table, Type: nftables.ChainTypeFilter,
		Hooknum: hook, Priority: &priority, Policy: &policy,
	})
}

func (b batch) rule(c *nftables.Chain, parts ...part) {
	var all []expr.Any
	for _, p := range parts {
		all = append(all, p...)
	}
	b.conn.AddRule(&nftables.Rule{Table: b.table.Table, Chain: c, Exprs: all, UserData: mark})
	b.table.rules[c.Name]++
}

// mark is the comment that tells our rules from what others put among them.
var mark = userdata.AppendString(nil, userdata.TypeComment, "kernelgw")

// deny makes a chain that counts, reports and ends packets, and returns the way
// to it. With answer, TCP is reset and the rest told that it is prohibited. name
// says by which link the sandbox is known.
func (b batch) deny(r Reason, name expr.Any, answer bool) part {
	where := " to sandbox"
	if name == inName {
		where = " from sandbox"
	}
	c := b.conn.AddChain(&nftables.Chain{Name: string(r) + where, Table: b.table.Table})
	b.rule(c, note(b.table.denied, key{name, immediate(r.number(), 4)}, &expr.Counter{}))
	b.rule(c, note(b.table.logged, key{name}, below(loggedPerSec)), logTo(b.group, string(r)))
	if answer {
		b.rule(c, is(protocol, unix.IPPROTO_TCP), note(b.table.answered, key{name}, below(answeredPerSec)),
			part{&expr.Reject{Type: unix.NFT_REJECT_TCP_RST}})
		b.rule(c, isNot(protocol, unix.IPPROTO_TCP), note(b.table.answered, key{name}, below(answeredPerSec)),
			part{&expr.Reject{Type: unix.NFT_REJECT_ICMP_UNREACH, Code: icmpProhibited}})
	}
	b.rule(c, drop())
	return goTo(c.Name)
}

const (
	icmpUnreachable = 3
	icmpProhibited  = 13 // its code: communication administratively prohibited
)

// Our chains come before defragmentation and connection tracking, which packets
// of sandboxes do not take part in: so they cannot fill the host's table of
// connections, and what is kept of them goes with their slot.
const (
	first nftables.ChainPriority = -450
	final nftables.ChainPriority = 350
)

// filter writes the rules for IP.
func (b batch) filter(p plan) {
	t, ours, proxy := b.table, []byte(p.prefix()), p.proxy().AsSlice()

	// What sandboxes send.
	from := b.hook("from sandboxes", nftables.ChainHookPrerouting, first)
	b.rule(from, isNot(inName, ours...), accept())
	b.ignoreIPv6Manners(from)
	b.rule(from, isNot(family, unix.NFPROTO_IPV4), b.deny(ReasonFamily, inName, false))
	b.rule(from, isNot(firstByte, 0x45), b.deny(ReasonOptions, inName, false))
	b.rule(from, masked(fragment, []byte{0x3f, 0xff}, expr.CmpOpNeq, 0, 0), b.deny(ReasonFragment, inName, false))
	b.rule(from, notIn(t.senders, sender), b.deny(ReasonSpoofed, inName, false))
	b.rule(from, isNot(protocol, unix.IPPROTO_TCP), b.deny(ReasonProtocol, inName, true))
	toProxy := b.conn.AddChain(&nftables.Chain{Name: "to proxy", Table: t.Table})
	b.rule(from, is(destination, proxy...), is(destPort, port(ProxyPort)...), goTo(toProxy.Name))
	b.rule(from, is(sourcePort, port(AgentPort)...), in(t.dialled, replying),
		masked(tcpFlags, []byte{tcpRST | tcpACK}, expr.CmpOpNeq, 0), untracked(), accept())
	b.rule(from, b.deny(ReasonDestination, inName, true))

	b.rule(toProxy, masked(tcpFlags, []byte{tcpFIN | tcpSYN | tcpRST | tcpACK}, expr.CmpOpEq, tcpSYN),
		note(t.fresh, key{inName}, over(b.rate)), b.deny(ReasonRate, inName, true))
	b.rule(toProxy, untracked(), accept())

	// What the host sends to sandboxes.
	out := b.hook("from host", nftables.ChainHookOutput, first)
	b.rule(out, isNot(outName, ours...), accept())
	// Not what only answers a sandbox: it could open the way for itself.
	b.rule(out, is(protocol, unix.IPPROTO_TCP), is(destPort, port(AgentPort)...), isNot(source, proxy...),
		masked(tcpFlags, []byte{tcpRST}, expr.CmpOpEq, 0), masked(tcpFlags, []byte{tcpSYN | tcpACK}, expr.CmpOpNeq, tcpSYN|tcpACK),
		note(t.dialled, dialling), untracked(), accept())
	b.rule(out, untracked())

	// Last of all, so that no rewriting of addresses leads past it.
	to := b.hook("to sandboxes", nftables.ChainHookPostrouting, final)
	b.rule(to, isNot(outName, ours...), accept())
	b.rule(to, is(family, unix.NFPROTO_IPV4), is(protocol, unix.IPPROTO_TCP), is(destPort, port(AgentPort)...), in(t.receivers, receiver), accept())
	b.rule(to, is(family, unix.NFPROTO_IPV4), is(protocol, unix.IPPROTO_TCP), is(source, proxy...), is(sourcePort, port(ProxyPort)...), in(t.receivers, receiver), accept())
	// Answers to what was refused.
	b.rule(to, is(family, unix.NFPROTO_IPV4), is(protocol, unix.IPPROTO_TCP), masked(tcpFlags, []byte{tcpRST}, expr.CmpOpNeq, 0), accept())
	b.rule(to, is(family, unix.NFPROTO_IPV4), is(protocol, unix.IPPROTO_ICMP), is(transport(0, 1, 0), icmpUnreachable), accept())
	b.rule(to, b.deny(ReasonInbound, outName, false))

	// What goes through the host, should it forward.
	through := b.hook("through host", nftables.ChainHookForward, first)
	b.rule(through, is(inName, ours...), b.deny(ReasonForwarded, inName, false))
	b.rule(through, is(outName, ours...), b.deny(ReasonForwarded, outName, false))
}

// ignoreIPv6Manners drops, counted but not reported, what every guest with IPv6
// says when its link comes up: who is there, I listen, where is a router.
func (b batch) ignoreIPv6Manners(from *nftables.Chain) {
	const hopByHop, routerSolicitation, neighbourSolicitation = 0, 133, 135
	quiet := b.conn.AddChain(&nftables.Chain{Name: "IPv6 manners", Table: b.table.Table})
	b.rule(quiet, note(b.table.denied, key{inName, immediate(ReasonFamily.number(), 4)}, &expr.Counter{}))
	b.rule(quiet, drop())
	toLink := slices.Concat(is(family, unix.NFPROTO_IPV6), is(header(24, 2, 0), 0xff, 0x02))
	b.rule(from, toLink, is(header(6, 1, 0), hopByHop), is(header(40, 1, 0), unix.IPPROTO_ICMPV6), goTo(quiet.Name))
	for _, kind := range []byte{routerSolicitation, neighbourSolicitation} {
		b.rule(from, toLink, is(header(6, 1, 0), unix.IPPROTO_ICMPV6), is(header(40, 1, 0), kind), goTo(quiet.Name))
	}
}

// filterARP writes the rules for ARP: a sandbox speaks for itself, and asks
// for its gateway or announces itself.
func (b batch) filterARP(p plan) {
	from := b.hook("from sandboxes", nftables.ChainHookRef(nfARPIn), 0)
	b.rule(from, isNot(inName, []byte(p.prefix())...), accept())
	b.rule(from, is(header(0, 6, 0), []byte(ethernetForIPv4)...), in(b.table.senders, arpOf), accept())
	b.rule(from, b.deny(ReasonARP, inName, false))
}

// nfARPIn is NF_ARP_IN.
const nfARPIn = 0
