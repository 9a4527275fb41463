// Package netpolicy gives sandboxes a network that is closed. A sandbox gets a
// slot: a network namespace that was made for it and is used once, joined to
// the host by a pair of links that leads to nobody else. From outside, only the
// host itself reaches it, and only the agent's port; from inside, it reaches the
// egress proxy and nothing else. Rules in the host's packet filter see to that,
// count what they refuse, and report it.
//
// Package netpolicy knows links, namespaces, packets and files of its own. It
// knows nothing of drivers and runtimes, which take a namespace's path, and
// leaves names, HTTP and what a policy allows to package egress. It never turns
// on forwarding, and touches no table, link or route that it has not made.
package netpolicy

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"regexp"
	"time"

	"kernelgw/sandboxes"
	"kernelgw/sandboxes/netpolicy/egress"
)

// AgentPort is the TCP port on which the agent listens in a slot, on all
// addresses. It is the only one that the host reaches.
const AgentPort = 8890

// ProxyPort is the TCP port of the egress proxy, on an address of the host that
// only sandboxes use. A firewall of the host's own must let it in on the links
// whose names begin with Options.Name and a hyphen.
const ProxyPort = 8891

// Options are what a Network needs. StateDir is required.
type Options struct {
	StateDir string // the network's own; a new Network over it adopts the slots of the old one

	// Name begins the names of links and is that of the packet filter's tables, so
	// that two gateways on one host do not meet: up to eight lower-case letters and
	// digits. "" means "kgw".
	Name string

	// Subnet is where slots get their addresses from, four each. It must not
	// overlap with a route of the host. The zero value means 10.143.0.0/16.
	Subnet netip.Prefix

	Ready   int                     // namespaces that are kept ready
	Default sandboxes.NetworkPolicy // what a zero policy means; itself zero: the common package indexes

	// ConnectionRate is how many new connections per second a sandbox may make to
	// the proxy on average; four times as many may come at once. 0 means 50.
	ConnectionRate int

	// Bandwidth is how many bytes per second a sandbox may send, and how many it may
	// receive. 0 is without limit.
	Bandwidth int64

	Egress egress.Options
	Log    *slog.Logger // nil: slog.Default

	// Audit is told of packets that were refused, at most a few per second of each
	// sandbox. It must not block.
	Audit func(Denial)
}

// Slot is the network of one sandbox.
type Slot struct {
	ID        string
	Namespace string     // path of the network namespace, to open or to put into an OCI spec
	Address   netip.Addr // of the sandbox
	Gateway   netip.Addr // of the host's end; the only one that connections to the agent come from

	// Env tells the programs inside to use the egress proxy. It is for the agent
	// and for its kernels.
	Env []string

	Authority []byte // certificate, as PEM, that the sandbox must trust; nil when there is none
}

// Reason says why a packet was refused.
type Reason string

// The reasons of Denial and Usage.
const (
	ReasonFamily      Reason = "not IPv4"
	ReasonOptions     Reason = "IP options"
	ReasonFragment    Reason = "fragment"
	ReasonSpoofed     Reason = "spoofed source"
	ReasonProtocol    Reason = "not TCP"
	ReasonDestination Reason = "destination not allowed"
	ReasonRate        Reason = "too many new connections"
	ReasonForwarded   Reason = "not from or for the host"
	ReasonInbound     Reason = "port of the sandbox not allowed"
	ReasonARP         Reason = "spoofed ARP"
)

// Denial is a packet that was refused.
type Denial struct {
	ID          string // of the sandbox; "" when it is gone already
	Reason      Reason
	Protocol    string         // "tcp", "udp", "icmp", "arp", or the number of another
	Source      netip.AddrPort // as the packet says; the port is 0 where there is none
	Destination netip.AddrPort
	At          time.Time
}

// Usage is what a sandbox has used since it got its slot.
type Usage struct {
	Sent     uint64            // bytes that left the sandbox, what was refused included
	Received uint64            // bytes that came in
	Denied   map[Reason]uint64 // packets refused
	Egress   egress.Usage      // since the gateway's start
}

var validName = regexp.MustCompile(`^[a-z][a-z0-9]{0,7}$`)

// complete fills in what a zero value means and says what makes no sense.
func (o Options) complete() (Options, error) {
	if o.StateDir == "" {
		return o, errors.New("a network needs a state directory")
	}
	if o.Name == "" {
		o.Name = "kgw"
	}
	if !validName.MatchString(o.Name) {
		return o, fmt.Errorf("network name %q: use up to eight lower-case letters and digits, a letter first", o.Name)
	}
	if !o.Subnet.IsValid() {
		o.Subnet = netip.MustParsePrefix("10.143.0.0/16")
	}
	if !o.Subnet.Addr().Is4() || o.Subnet != o.Subnet.Masked() || o.Subnet.Bits() < 12 || o.Subnet.Bits() > 28 {
		return o, fmt.Errorf("subnet %s: use an IPv4 network between /12 and /28, such as 10.143.0.0/16", o.Subnet)
	}
	if !o.Subnet.Addr().IsPrivate() && !sharedSpace.Contains(o.Subnet.Addr()) {
		return o, fmt.Errorf("subnet %s: use one of the private networks, such as 10.143.0.0/16", o.Subnet)
	}
	if o.ConnectionRate == 0 {
		o.ConnectionRate = 50
	}
	if o.ConnectionRate < 0 || o.Ready < 0 || o.Bandwidth < 0 {
		return o, errors.New("a network's connection rate, bandwidth and ready namespaces cannot be negative")
	}
	if isZero(o.Default) {
		o.Default = sandboxes.NetworkPolicy{Egress: sandboxes.EgressPackages}
	}
	if err := egress.Check(o.Default); err != nil {
		return o, fmt.Errorf("default network policy: %w", err)
	}
	if o.Log == nil {
		o.Log = slog.Default()
	}
	if o.Audit == nil {
		o.Audit = func(Denial) {}
	}
	return o, nil
}

// sharedSpace is the address space for providers' own use, RFC 6598.
var sharedSpace = netip.MustParsePrefix("100.64.0.0/10")

func isZero(p sandboxes.NetworkPolicy) bool {
	return p.Egress == "" && len(p.Allow) == 0 && p.Mirror == ""
}
