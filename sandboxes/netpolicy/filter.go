package netpolicy

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"maps"
	"slices"
	"sync"

	"github.com/google/nftables"
	"github.com/mdlayher/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// filter is our part of the host's packet filter: two tables of our name. Each
// change is one transaction, so that there is no moment with half of the rules.
type filter struct {
	plan  plan
	host  netns.NsHandle
	group uint16
	rate  int

	mu sync.Mutex // held while the filter is changed or read

	// guarded by mu
	admitted map[number]bool // the slots that may send and receive
}

func newFilter(p plan, host netns.NsHandle) *filter {
	return &filter{plan: p, host: host, admitted: map[number]bool{}}
}

func (f *filter) tables() (ip, arp *table) {
	return newTable(f.plan.Name, nftables.TableFamilyINet), newTable(f.plan.Name, nftables.TableFamilyARP)
}

// dial begins a transaction. Every one has a connection of its own: after an
// error, what is still to be read from one is not known.
func (f *filter) dial() (*nftables.Conn, error) {
	conn, err := nftables.New(nftables.WithNetNSFd(int(f.host)), nftables.WithSockOptions(func(c *netlink.Conn) error {
		return c.SetReadBuffer(1 << 20) // an acknowledgement of each message of a transaction
	}))
	if err != nil {
		return nil, fmt.Errorf("cannot talk to the kernel about packets: %w", err)
	}
	return conn, nil
}

// install makes the tables anew, with the rules, and lets slots send and
// receive. What was counted so far is forgotten.
func (f *filter) install(slots iter.Seq[number]) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	for n := range slots {
		f.admitted[n] = true
	}
	return f.installLocked()
}

func (f *filter) installLocked() error {
	conn, err := f.dial()
	if err != nil {
		return err
	}
	ip, arp := f.tables()
	for _, t := range []*table{ip, arp} {
		conn.AddTable(t.Table) // there is no other way to delete what may not be there
		conn.DelTable(t.Table)
		conn.AddTable(t.Table)
		for _, s := range t.sets {
			if err := conn.AddSet(s, nil); err != nil {
				return fmt.Errorf("cannot describe set %s: %w", s.Name, err)
			}
		}
	}
	batch{conn, ip, f.group, f.rate}.filter(f.plan)
	batch{conn, arp, f.group, f.rate}.filterARP(f.plan)
	for some := range slices.Chunk(slices.Collect(maps.Keys(f.admitted)), 200) { // a message holds 64 KiB
		if err := f.addElements(conn, ip, arp, some); err != nil {
			return err
		}
	}
	if err := conn.Flush(); err != nil {
		return fmt.Errorf("cannot make the packet filter's table %s: %w", f.plan.Name, err)
	}
	return nil
}

// addElements lets slots send and receive.
func (f *filter) addElements(conn *nftables.Conn, ip, arp *table, slots []number) error {
	var senders, receivers, arpSenders []nftables.SetElement
	for _, n := range slots {
		name := interfaceName(f.plan.link(n))
		address, gateway := f.plan.address(n), f.plan.gateway(n)
		mac := append(hardware(address), 0, 0) // to whole registers
		senders = append(senders, element(name, mac, address.AsSlice()))
		receivers = append(receivers,
			element(name, address.AsSlice(), gateway.AsSlice()),
			element(name, address.AsSlice(), f.plan.proxy().AsSlice()))
		arpSenders = append(arpSenders, element(name, mac, address.AsSlice(), gateway.AsSlice()))
	}
	return errors.Join(
		conn.SetAddElements(ip.senders, senders),
		conn.SetAddElements(ip.receivers, receivers),
		conn.SetAddElements(arp.senders, arpSenders),
	)
}

func element(key ...[]byte) nftables.SetElement {
	return nftables.SetElement{Key: bytes.Join(key, nil)}
}

// admit lets a slot send and receive.
func (f *filter) admit(n number) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	conn, err := f.dial()
	if err != nil {
		return err
	}
	ip, arp := f.tables()
	if err = f.addElements(conn, ip, arp, []number{n}); err == nil {
		err = conn.Flush()
	}
	f.admitted[n] = true
	if errors.Is(err, unix.ENOENT) { // somebody has just removed the tables
		err = f.installLocked()
	}
	if err != nil {
		delete(f.admitted, n)
		return fmt.Errorf("cannot let %s through the packet filter: %w", f.plan.link(n), err)
	}
	return nil
}

// dismiss removes all that is known of slots, whose links are gone already.
func (f *filter) dismiss(slots ...number) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, n := range slots {
		delete(f.admitted, n)
	}
	conn, err := f.dial()
	if err != nil {
		return err
	}
	err = f.each(conn, func(t *table, s *nftables.Set, elements []nftables.SetElement) error {
		elements = slices.DeleteFunc(elements, func(e nftables.SetElement) bool {
			n, ok := f.numberOf(e)
			return !ok || !slices.Contains(slots, n)
		})
		for some := range slices.Chunk(elements, 500) {
			for i := range some {
				some[i] = nftables.SetElement{Key: some[i].Key}
			}
			if err := conn.SetDeleteElements(s, some); err != nil {
				return err
			}
		}
		return nil
	})
	if err == nil {
		err = conn.Flush()
	}
	if err != nil {
		return fmt.Errorf("cannot remove slots from the packet filter: %w", err)
	}
	return nil
}

// each calls f with the elements of every set. Without tables there are none.
func (f *filter) each(conn *nftables.Conn, do func(*table, *nftables.Set, []nftables.SetElement) error) error {
	there, err := f.present(conn)
	if err != nil {
		return err
	}
	ip, arp := f.tables()
	for _, t := range []*table{ip, arp} {
		if !slices.Contains(there, t.Family) {
			continue
		}
		for _, s := range t.sets {
			elements, err := elementsOf(conn, s)
			if err != nil {
				return err
			}
			if err := do(t, s, elements); err != nil {
				return err
			}
		}
	}
	return nil
}

// elementsOf reads a set. A dump that somebody's change interrupts is repeated.
func elementsOf(conn *nftables.Conn, s *nftables.Set) (elements []nftables.SetElement, err error) {
	for range 20 {
		elements, err = conn.GetSetElements(s)
		if err == nil {
			return elements, nil
		}
	}
	return nil, fmt.Errorf("cannot read set %s: %w", s.Name, err)
}

// numberOf returns which slot an element is about.
func (f *filter) numberOf(e nftables.SetElement) (number, bool) {
	if len(e.Key) < len(interfaceName("")) {
		return 0, false
	}
	name, _, _ := bytes.Cut(e.Key[:len(interfaceName(""))], []byte{0})
	return f.plan.numberOf(string(name))
}

// known returns the slots that the filter has something of.
func (f *filter) known() ([]number, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	conn, err := f.dial()
	if err != nil {
		return nil, err
	}
	var found []number
	err = f.each(conn, func(_ *table, _ *nftables.Set, elements []nftables.SetElement) error {
		for _, e := range elements {
			if n, ok := f.numberOf(e); ok && !slices.Contains(found, n) {
				found = append(found, n)
			}
		}
		return nil
	})
	return found, err
}

// denied returns how many packets were refused, by slot and reason.
func (f *filter) denied() (map[number]map[Reason]uint64, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	conn, err := f.dial()
	if err != nil {
		return nil, err
	}
	counts := map[number]map[Reason]uint64{}
	there, err := f.present(conn)
	if err != nil {
		return nil, err
	}
	ip, arp := f.tables()
	for _, t := range []*table{ip, arp} {
		if !slices.Contains(there, t.Family) {
			continue
		}
		elements, err := elementsOf(conn, t.denied)
		if err != nil {
			return nil, err
		}
		for _, e := range elements {
			n, ok := f.numberOf(e)
			if !ok || e.Counter == nil {
				continue
			}
			reason := binary.NativeEndian.Uint32(e.Key[len(interfaceName("")):])
			if int(reason) >= len(reasons) {
				continue
			}
			if counts[n] == nil {
				counts[n] = map[Reason]uint64{}
			}
			counts[n][reasons[reason]] += e.Counter.Packets
		}
	}
	return counts, nil
}

// present returns the families in which our table is.
func (f *filter) present(conn *nftables.Conn) ([]nftables.TableFamily, error) {
	tables, err := conn.ListTables()
	if err != nil {
		return nil, fmt.Errorf("cannot list the tables of the packet filter: %w", err)
	}
	var found []nftables.TableFamily
	for _, t := range tables {
		if t.Name == f.plan.Name && (t.Family == nftables.TableFamilyINet || t.Family == nftables.TableFamilyARP) {
			found = append(found, t.Family)
		}
	}
	return found, nil
}

// restore installs the tables again if one is missing, and reports whether it did.
func (f *filter) restore() (bool, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	conn, err := f.dial()
	if err != nil {
		return false, err
	}
	there, err := f.present(conn)
	if err != nil || len(there) == 2 {
		return false, err
	}
	return true, f.installLocked()
}

// remove removes the tables.
func (f *filter) remove() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	conn, err := f.dial()
	if err != nil {
		return err
	}
	ip, arp := f.tables()
	for _, t := range []*table{ip, arp} {
		conn.AddTable(t.Table)
		conn.DelTable(t.Table)
	}
	if err := conn.Flush(); err != nil {
		return fmt.Errorf("cannot remove the packet filter's table %s: %w", f.plan.Name, err)
	}
	return nil
}
