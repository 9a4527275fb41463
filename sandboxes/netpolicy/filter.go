package netpolicy

import (
	"bytes"
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
	conn     *nftables.Conn  // nil when there is none
	admitted map[number]bool // the slots that may send and receive
	made     []*table        // as they were made last
}

func newFilter(p plan, host netns.NsHandle) *filter {
	return &filter{plan: p, host: host, admitted: map[number]bool{}}
}

func (f *filter) tables() (ip, arp *table) {
	return newTable(f.plan.Name, nftables.TableFamilyINet), newTable(f.plan.Name, nftables.TableFamilyARP)
}

// with lends the connection. It is kept, because to close one the kernel waits
// until what was removed last is out of use; after an error, when what is still
// to be read from it is not known, it is not used again.
func (f *filter) with(do func(*nftables.Conn) error) (err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.conn == nil {
		f.conn, err = nftables.New(nftables.AsLasting(), nftables.WithNetNSFd(int(f.host)), nftables.WithSockOptions(func(c *netlink.Conn) error {
			return c.SetReadBuffer(1 << 20) // an acknowledgement of each message of a transaction
		}))
		if err != nil {
			return fmt.Errorf("cannot talk to the kernel about packets: %w", err)
		}
	}
	if err := do(f.conn); err != nil {
		f.hangUp()
		return err
	}
	return nil
}

func (f *filter) hangUp() {
	if f.conn != nil {
		_ = f.conn.CloseLasting()
		f.conn = nil
	}
}

func (f *filter) close() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.hangUp()
}

// install makes the tables anew, with the rules, and lets slots send and
// receive. What was counted so far is forgotten.
func (f *filter) install(slots iter.Seq[number]) error {
	return f.with(func(conn *nftables.Conn) error {
		for n := range slots {
			f.admitted[n] = true
		}
		return f.make(conn)
	})
}

// make makes the tables. f.mu is held.
func (f *filter) make(conn *nftables.Conn) error {
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
	f.made = []*table{ip, arp}
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
		arpSenders = append(arpSenders,
			element(name, mac, address.AsSlice(), gateway.AsSlice()),
			element(name, mac, address.AsSlice(), address.AsSlice()))
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
	err := f.with(func(conn *nftables.Conn) error {
		f.admitted[n] = true
		ip, arp := f.tables()
		if err := f.addElements(conn, ip, arp, []number{n}); err != nil {
			return err
		}
		return conn.Flush()
	})
	if errors.Is(err, unix.ENOENT) { // somebody has just removed the tables
		err = f.with(f.make)
	}
	if err != nil {
		return fmt.Errorf("cannot let %s through the packet filter: %w", f.plan.link(n), err)
	}
	return nil
}

// dismiss removes all that is known of slots, whose links are gone already.
func (f *filter) dismiss(slots ...number) error {
	err := f.with(func(conn *nftables.Conn) error {
		for _, n := range slots {
			delete(f.admitted, n)
		}
		err := f.each(conn, func(s *nftables.Set, elements []nftables.SetElement) error {
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
		if err != nil {
			return err
		}
		return conn.Flush()
	})
	if err != nil {
		return fmt.Errorf("cannot remove slots from the packet filter: %w", err)
	}
	return nil
}

// restore installs the tables again if one of them, or of their rules, is
// missing, and reports whether it did.
func (f *filter) restore() (restored bool, err error) {
	err = f.with(func(conn *nftables.Conn) error {
		whole, err := f.whole(conn)
		if err != nil || whole {
			return err
		}
		restored = true
		return f.make(conn)
	})
	return restored, err
}

// remove removes the tables.
func (f *filter) remove() error {
	err := f.with(func(conn *nftables.Conn) error {
		ip, arp := f.tables()
		for _, t := range []*table{ip, arp} {
			conn.AddTable(t.Table)
			conn.DelTable(t.Table)
		}
		return conn.Flush()
	})
	if err != nil {
		return fmt.Errorf("cannot remove the packet filter's table %s: %w", f.plan.Name, err)
	}
	return nil
}
