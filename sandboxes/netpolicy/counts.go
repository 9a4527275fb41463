package netpolicy

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"slices"

	"github.com/google/nftables"
	"golang.org/x/sys/unix"
)

// present returns those of our tables that there are.
func (f *filter) present(conn *nftables.Conn) ([]*table, error) {
	all, err := conn.ListTables()
	if err != nil {
		return nil, fmt.Errorf("cannot list the tables of the packet filter: %w", err)
	}
	var found []*table
	ip, arp := f.tables()
	for _, t := range []*table{ip, arp} {
		if slices.ContainsFunc(all, func(a *nftables.Table) bool { return a.Name == t.Name && a.Family == t.Family }) {
			found = append(found, t)
		}
	}
	return found, nil
}

// whole reports whether all is there that was made last.
func (f *filter) whole(conn *nftables.Conn) (bool, error) {
	there, err := f.present(conn)
	if err != nil || len(there) < len(f.made) {
		return false, err
	}
	for _, t := range f.made {
		for chain, count := range t.rules {
			rules, err := conn.GetRules(t.Table, &nftables.Chain{Name: chain})
			if err != nil {
				return false, fmt.Errorf("cannot list the rules of the packet filter: %w", err)
			}
			for _, r := range rules {
				if bytes.Equal(r.UserData, mark) {
					count--
				}
			}
			if count > 0 {
				return false, nil
			}
		}
	}
	return true, nil
}

// each calls do with the elements of every set. Without tables there are none.
func (f *filter) each(conn *nftables.Conn, do func(*nftables.Set, []nftables.SetElement) error) error {
	there, err := f.present(conn)
	if err != nil {
		return err
	}
	for _, t := range there {
		for _, s := range t.sets {
			elements, err := conn.GetSetElements(s)
			if err != nil {
				return fmt.Errorf("cannot read set %s: %w", s.Name, err)
			}
			if err := do(s, elements); err != nil {
				return err
			}
		}
	}
	return nil
}

// numberOf returns which slot an element is about.
func (f *filter) numberOf(e nftables.SetElement) (number, bool) {
	if len(e.Key) < unix.IFNAMSIZ {
		return 0, false
	}
	name, _, _ := bytes.Cut(e.Key[:unix.IFNAMSIZ], []byte{0})
	return f.plan.numberOf(string(name))
}

// known returns the slots that the filter has something of.
func (f *filter) known() (found []number, err error) {
	err = f.with(func(conn *nftables.Conn) error {
		return f.each(conn, func(_ *nftables.Set, elements []nftables.SetElement) error {
			for _, e := range elements {
				if n, ok := f.numberOf(e); ok && !slices.Contains(found, n) {
					found = append(found, n)
				}
			}
			return nil
		})
	})
	return found, err
}

// denied returns how many packets were refused, by slot and reason.
func (f *filter) denied() (map[number]map[Reason]uint64, error) {
	counts := map[number]map[Reason]uint64{}
	err := f.with(func(conn *nftables.Conn) error {
		there, err := f.present(conn)
		if err != nil {
			return err
		}
		for _, t := range there {
			elements, err := conn.GetSetElements(t.denied)
			if err != nil {
				return fmt.Errorf("cannot read the counters of the packet filter: %w", err)
			}
			for _, e := range elements {
				f.count(counts, e)
			}
		}
		return nil
	})
	return counts, err
}

// count adds what an element of a set of counters says.
func (f *filter) count(counts map[number]map[Reason]uint64, e nftables.SetElement) {
	n, ok := f.numberOf(e)
	if !ok || e.Counter == nil || len(e.Key) < unix.IFNAMSIZ+4 {
		return
	}
	reason := binary.NativeEndian.Uint32(e.Key[unix.IFNAMSIZ:])
	if int(reason) >= len(reasons) {
		return
	}
	if counts[n] == nil {
		counts[n] = map[Reason]uint64{}
	}
	counts[n][reasons[reason]] += e.Counter.Packets
}
