package netpolicy

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"slices"

	"github.com/vishvananda/netns"
)

// Leak is something on the host that should not be there any more.
type Leak struct {
	Kind string // "link", "network namespace", "packet filter entry", "packet filter table" or "record"
	Name string
}

// Leaks lists what is left of slots that are no sandbox's. It may be called
// while a gateway uses the state directory: what that has is no leak. The slots
// of sandboxes are none either, whether those live or not: their driver knows.
func Leaks(o Options) ([]Leak, error) {
	return examine(o, false)
}

// Repair removes what Leaks lists, and returns what that was.
func Repair(o Options) ([]Leak, error) {
	return examine(o, true)
}

func examine(o Options, repair bool) ([]Leak, error) {
	host, err := netns.Get()
	if err != nil {
		return nil, fmt.Errorf("cannot open the host's network namespace: %w", err)
	}
	return examineOn(o, host, repair)
}

// examineOn closes host in the end.
func examineOn(o Options, host netns.NsHandle, repair bool) (leaks []Leak, err error) {
	n := former(host)
	defer n.letGo()
	defer func() {
		if err != nil {
			err = fmt.Errorf("cannot look for what is left of sandboxes' networks: %w", err)
		}
	}()
	if known, err := n.recognise(o.StateDir); err != nil || !known {
		return nil, err
	}
	lock, err := n.state.lock()
	running := errors.Is(err, errInUse)
	switch {
	case running:
		return n.strays(repair)
	case err != nil:
		return nil, err
	}
	n.held = append(n.held, lock)
	return n.remains(repair)
}

// former is a Network that is not open, only looked at. It closes host in the end.
func former(host netns.NsHandle) *Network {
	return &Network{
		host: host, step: func(string) {}, log: slog.New(slog.DiscardHandler),
		slots: map[string]*slot{}, taken: map[number]bool{},
		held: []io.Closer{closer(func() { _ = host.Close() })},
	}
}

// recognise finds out what the network of a state directory is called. It
// reports false when there never was one.
func (n *Network) recognise(dir string) (known bool, err error) {
	if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if n.state, err = openState(dir); err != nil {
		return false, err
	}
	if n.identity, known, err = n.state.identity(); err != nil || !known {
		return false, err
	}
	return true, n.connect()
}

// strays finds what a gateway that runs does not know of: it has no record.
func (n *Network) strays(repair bool) ([]Leak, error) {
	first, err := n.things(true)
	if err != nil {
		return nil, err
	}
	// Again: between the looks at a thing and at its record both may have been removed.
	second, err := n.things(true)
	if err != nil {
		return nil, err
	}
	var leaks []Leak
	var numbers []number
	for t := range first {
		if second[t] {
			leaks, numbers = append(leaks, t.Leak), append(numbers, t.number)
		}
	}
	sortLeaks(leaks)
	if !repair {
		return leaks, nil
	}
	for _, number := range numbers {
		if err := n.links.remove(n.identity.link(number)); err != nil {
			return nil, err
		}
		if err := unpin(n.state.pin(number)); err != nil {
			return nil, err
		}
	}
	return leaks, n.filter.dismiss(numbers...)
}

// remains finds what a gateway that runs no more has left: all but the slots of
// sandboxes.
func (n *Network) remains(repair bool) ([]Leak, error) {
	records, err := n.state.records()
	if err != nil {
		return nil, err
	}
	for number, r := range records {
		if r.ID != "" {
			n.taken[number] = true
		}
	}
	found, err := n.things(false)
	if err != nil {
		return nil, err
	}
	var leaks []Leak
	for t := range found {
		leaks = append(leaks, t.Leak)
	}
	if len(n.taken) == 0 {
		ours, err := n.links.owns(n.identity.Owner)
		if err != nil {
			return nil, err
		}
		if ours {
			leaks = append(leaks, Leak{"link", n.identity.proxyLink()}, Leak{"packet filter table", n.identity.Name})
		}
	}
	sortLeaks(leaks)
	if !repair {
		return leaks, nil
	}
	if err := errors.Join(n.state.tidy(), n.sweep()); err != nil {
		return nil, err
	}
	if len(n.taken) == 0 {
		return leaks, n.removeRest()
	}
	return leaks, nil
}

// thing is a leak of a slot.
type thing struct {
	Leak
	number number
}

// things lists what there is of slots that are not taken; with recorded, of
// slots that have no record, else records as well.
func (n *Network) things(recorded bool) (map[thing]bool, error) {
	found := map[thing]bool{}
	links, ours, err := n.ownLinks()
	if err != nil {
		return nil, err
	}
	for number, link := range links {
		found[thing{Leak{"link", link.Attrs().Name}, number}] = true
	}
	pins, err := n.state.pins()
	if err != nil {
		return nil, err
	}
	for _, number := range pins {
		found[thing{Leak{"network namespace", n.state.pin(number)}, number}] = true
	}
	if ours {
		filtered, err := n.filter.known()
		if err != nil {
			return nil, err
		}
		for _, number := range filtered {
			found[thing{Leak{"packet filter entry", n.identity.link(number)}, number}] = true
		}
	}
	records, err := n.state.records()
	if err != nil {
		return nil, err
	}
	for number := range records {
		if recorded {
			n.taken[number] = true
		} else {
			found[thing{Leak{"record", n.state.recordFile(number)}, number}] = true
		}
	}
	for t := range found {
		if n.taken[t.number] {
			delete(found, t)
		}
	}
	return found, nil
}

func sortLeaks(leaks []Leak) {
	slices.SortFunc(leaks, func(a, b Leak) int {
		return cmp.Or(cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Name, b.Name))
	})
}
