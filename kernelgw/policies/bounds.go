package policies

import (
	"cmp"
	"fmt"
	"net/url"
	"slices"
	"strings"

	"kernelgw/kernelgw/hosts"
	"kernelgw/sandboxes"
)

// Bounds are what the members of a workspace may choose. What the operator's
// default is may be chosen in any case.
type Bounds struct {
	Egress  []sandboxes.Egress // presets
	Hosts   bool               // hosts of their own
	Mirrors []string           // URLs of package indexes, which may be on private addresses
	Images  []string           // by the names or digests that a driver takes
	// Most is how much. Zero means as much as the default. Where that is zero, too,
	// there is no bound, but for /dev/shm, which gets as much as the memory, and open
	// files, of which there are 65,536.
	Most sandboxes.Resources
	// Output is how much kernels may show at most. Zero means as much as the default.
	Output Output
}

// mostFiles bounds what every process may hold open where the operator says
// nothing.
const mostFiles = 1 << 16

// maxHosts bounds the hosts of one policy.
const maxHosts = 100

// least is what a sandbox needs to run a kernel at all.
var least = sandboxes.Resources{
	CPUs: 0.1, MemoryBytes: 64 << 20, Processes: 16, DiskBytes: 1 << 20, ShmBytes: 1 << 20, OpenFiles: 64,
}

// presets are all that there are, the most closed first.
var presets = []sandboxes.Egress{sandboxes.EgressNone, sandboxes.EgressPackages, sandboxes.EgressOpen}

// limit is one kind of limit, wherever limits are.
type limit struct {
	key string // of the policy
	of  func(*sandboxes.Resources) number
}

// number is a limit in place: cores are fractions, the others are whole.
type number struct {
	fraction *float64
	whole    *int64
}

func (n number) get() float64 {
	if n.fraction != nil {
		return *n.fraction
	}
	return float64(*n.whole)
}

func (n number) set(from number) {
	if n.fraction != nil {
		*n.fraction = *from.fraction
		return
	}
	*n.whole = *from.whole
}

// String writes a limit as JSON does.
func (n number) String() string {
	if n.fraction != nil {
		return fmt.Sprint(*n.fraction)
	}
	return fmt.Sprint(*n.whole)
}

var limits = []limit{
	{"limits.cpus", func(r *sandboxes.Resources) number { return number{fraction: &r.CPUs} }},
	{"limits.memory_bytes", func(r *sandboxes.Resources) number { return number{whole: &r.MemoryBytes} }},
	{"limits.processes", func(r *sandboxes.Resources) number { return number{whole: &r.Processes} }},
	{"limits.disk_bytes", func(r *sandboxes.Resources) number { return number{whole: &r.DiskBytes} }},
	{"limits.shm_bytes", func(r *sandboxes.Resources) number { return number{whole: &r.ShmBytes} }},
	{"limits.open_files", func(r *sandboxes.Resources) number { return number{whole: &r.OpenFiles} }},
}

// resources are the limits as drivers take them.
func (l *Limits) resources() sandboxes.Resources {
	if l == nil {
		return sandboxes.Resources{}
	}
	return sandboxes.Resources{
		CPUs: l.CPUs, MemoryBytes: l.MemoryBytes, Processes: l.Processes, DiskBytes: l.DiskBytes, ShmBytes: l.ShmBytes, OpenFiles: l.OpenFiles,
	}
}

// most returns how much of a limit may be chosen; 0 means any amount.
func (b Bounds) most(l limit, d Settings) number {
	if n := l.of(&b.Most); n.get() != 0 {
		return n
	}
	return l.of(&d.Resources)
}

// consistent brings the operator's own settings to the form that policies have,
// or says what contradicts itself.
func (b *Bounds) consistent(d *Settings) error {
	for _, preset := range append(slices.Clone(b.Egress), d.Network.Egress) {
		if preset != "" && !slices.Contains(presets, preset) {
			return fmt.Errorf("egress %q is not one of %s", preset, listed(presets))
		}
	}
	var err error
	if d.Network.Allow, err = canonical(d.Network.Allow); err != nil {
		return fmt.Errorf("hosts that all workspaces may reach: %w", err)
	}
	for _, mirror := range append(slices.Clone(b.Mirrors), d.Network.Mirror) {
		u, err := url.Parse(mirror)
		if mirror != "" && (err != nil || u.Scheme != "https" && u.Scheme != "http" || u.Hostname() == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "") {
			return fmt.Errorf("mirror %q is not a URL like https://mirror.example.org/simple", mirror)
		}
	}
	if d.Resources.CPUs == 0 {
		d.Resources.CPUs = b.Most.CPUs // by itself a default of 0 has no limit
	}
	if d.Resources.ShmBytes == 0 && b.Most.ShmBytes == 0 {
		b.Most.ShmBytes = cmp.Or(b.Most.MemoryBytes, d.Resources.MemoryBytes)
	}
	if d.Resources.OpenFiles == 0 && b.Most.OpenFiles == 0 {
		b.Most.OpenFiles = mostFiles
	}
	if err := b.consistentOutput(&d.Output); err != nil {
		return err
	}
	for _, l := range limits {
		given, most := l.of(&d.Resources), l.of(&b.Most)
		if most.get() != 0 && given.get() > most.get() {
			return fmt.Errorf("%s: the default of %s is more than the most that a workspace may choose, %s", l.key, given, most)
		}
	}
	return nil
}

// check returns a policy in the form in which it is kept, or says why it is not
// allowed.
func (b Bounds) check(p Policy, d Settings) (Policy, error) {
	if p.Network != nil {
		n := *p.Network
		if err := b.checkNetwork(&n, d); err != nil {
			return Policy{}, err
		}
		p.Network = &n
	}
	if err := b.checkOutput(p.Output, d); err != nil {
		return Policy{}, err
	}
	wanted := p.Limits.resources()
	for _, l := range limits {
		n, few, many := l.of(&wanted), l.of(&least), b.most(l, d)
		switch {
		case n.get() == 0:
		case n.get() < few.get():
			return Policy{}, fmt.Errorf("%w: %s: %s; the least is %s", ErrInvalid, l.key, n, few)
		case many.get() != 0 && n.get() > many.get():
			return Policy{}, fmt.Errorf("%w: %s: %s; the most on this server is %s", ErrInvalid, l.key, n, many)
		}
	}
	if p.Image != "" && p.Image != d.Image && !slices.Contains(b.Images, p.Image) {
		return Policy{}, fmt.Errorf("%w: image: %q may not be chosen; this server offers %s", ErrInvalid, clip(p.Image), listed(b.Images))
	}
	return p, nil
}

func (b Bounds) checkNetwork(n *Network, d Settings) error {
	switch {
	case n.Egress == "":
	case !slices.Contains(presets, n.Egress):
		return fmt.Errorf("%w: network.egress: %q is not one of %s", ErrInvalid, clip(string(n.Egress)), listed(presets))
	case !slices.Contains(b.offered(d), n.Egress):
		return fmt.Errorf("%w: network.egress: %q may not be chosen; this server offers %s", ErrInvalid, n.Egress, listed(b.offered(d)))
	}
	if n.Mirror != "" && n.Mirror != d.Network.Mirror && !slices.Contains(b.Mirrors, n.Mirror) {
		return fmt.Errorf("%w: network.mirror: %q may not be chosen; this server offers %s", ErrInvalid, clip(n.Mirror), listed(b.Mirrors))
	}
	if len(n.Allow) > maxHosts {
		return fmt.Errorf("%w: network.allow: %d hosts; the limit is %d", ErrInvalid, len(n.Allow), maxHosts)
	}
	names, err := canonical(n.Allow)
	if err != nil {
		return fmt.Errorf("%w: network.allow: %w", ErrInvalid, err)
	}
	n.Allow = names
	for _, name := range names {
		if !b.Hosts && !slices.Contains(d.Network.Allow, name) {
			return fmt.Errorf("%w: network.allow: %q: a workspace may not list hosts of its own on this server", ErrInvalid, name)
		}
	}
	return nil
}

// offered are the presets that may be chosen. To shut a workspace off is always
// one of them, or an operator who takes a choice back would open it.
func (b Bounds) offered(d Settings) []sandboxes.Egress {
	var list []sandboxes.Egress
	for _, preset := range presets {
		if preset == sandboxes.EgressNone || preset == d.Network.Egress || slices.Contains(b.Egress, preset) {
			list = append(list, preset)
		}
	}
	return list
}

// settle returns what a policy means. What was allowed when it was set and is
// not any more is as if it had not been chosen, and a limit is lowered.
func (b Bounds) settle(p Policy, d Settings) Settings {
	s := d
	if p.Image != "" && slices.Contains(b.Images, p.Image) {
		s.Image = p.Image
	}
	wanted := p.Limits.resources()
	for _, l := range limits {
		n, many := l.of(&wanted), b.most(l, d)
		switch {
		case n.get() == 0:
		case many.get() != 0 && n.get() > many.get():
			l.of(&s.Resources).set(many)
		default:
			l.of(&s.Resources).set(n)
		}
	}
	s.Output = b.settleOutput(p.Output, d)
	if p.Network != nil {
		b.settleNetwork(&s.Network, *p.Network, d)
	}
	if s.Network.Egress != sandboxes.EgressPackages {
		s.Network.Mirror = "" // it has no meaning, and is refused
	}
	return s
}

func (b Bounds) settleNetwork(s *sandboxes.NetworkPolicy, n Network, d Settings) {
	s.Allow = nil
	for _, name := range n.Allow {
		if b.Hosts || slices.Contains(d.Network.Allow, name) {
			s.Allow = append(s.Allow, name)
		}
	}
	if slices.Contains(b.offered(d), n.Egress) {
		s.Egress = n.Egress
	}
	if slices.Contains(b.Mirrors, n.Mirror) {
		s.Mirror = n.Mirror
	}
}

// canonical brings host patterns to one form, each once.
func canonical(texts []string) ([]string, error) {
	var list []string
	for _, text := range texts {
		pattern, err := hosts.Parse(text)
		if err != nil {
			return nil, err
		}
		if name := pattern.String(); !slices.Contains(list, name) {
			list = append(list, name)
		}
	}
	return list, nil
}

// listed writes choices for a message.
func listed[T ~string](choices []T) string {
	texts := make([]string, len(choices))
	for i, c := range choices {
		texts[i] = string(c)
	}
	return cmp.Or(strings.Join(texts, ", "), "no other")
}
