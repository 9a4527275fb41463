package netpolicy

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strconv"

	"kernelgw/sandboxes"
	"kernelgw/sandboxes/statedir"
)

// state is a network's directory:
//
//	network.json  identity
//	slots/N       record of slot N: written before anything of it is made, removed after all is removed
//	ns/N          its namespace, pinned
type state struct {
	dir string
}

// identity says what a network's things are called, as long as there are any.
type identity struct {
	plan
	Owner net.HardwareAddr `json:"owner"` // marks the proxy's link
}

// record is what is kept of a slot. Without an id it belongs to no sandbox, and
// is removed at the next start.
type record struct {
	ID     string                  `json:"id,omitempty"`
	Policy sandboxes.NetworkPolicy `json:"policy,omitzero"`

	// Authority is the name of the egress authority that the sandbox was told to
	// trust. "" is the present one, or none.
	Authority string `json:"authority,omitempty"`
}

func openState(dir string) (state, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return state{}, fmt.Errorf("cannot use the state directory of a network: %w", err)
	}
	s := state{dir}
	for _, d := range []string{s.slots(), s.namespaces()} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			return state{}, fmt.Errorf("cannot make the state directory of a network: %w", err)
		}
	}
	return s, nil
}

func (s state) slots() string      { return filepath.Join(s.dir, "slots") }
func (s state) namespaces() string { return filepath.Join(s.dir, "ns") }

func (s state) pin(n number) string { return filepath.Join(s.namespaces(), strconv.Itoa(int(n))) }

func (s state) recordFile(n number) string { return filepath.Join(s.slots(), strconv.Itoa(int(n))) }

// patience is for what a gateway that was killed lets go of late.
const patience = statedir.Patience

// errInUse: another process has the state directory.
var errInUse = errors.New("another process uses it")

// lock keeps other processes from the state directory until it is closed.
func (s state) lock() (io.Closer, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	lock, err := statedir.LockDir(ctx, s.dir)
	if errors.Is(err, context.DeadlineExceeded) {
		err = errInUse
	}
	if err != nil {
		return nil, fmt.Errorf("cannot lock the state directory of a network, %s: %w", s.dir, err)
	}
	return lock, nil
}

// tidy removes files that were only half written.
func (s state) tidy() error {
	for _, dir := range []string{s.dir, s.slots()} {
		halves, err := filepath.Glob(filepath.Join(dir, ".*"))
		if err != nil {
			return fmt.Errorf("cannot tidy the state directory of a network: %w", err)
		}
		for _, half := range halves {
			if err := os.Remove(half); err != nil {
				return fmt.Errorf("cannot tidy the state directory of a network: %w", err)
			}
		}
	}
	return nil
}

// identity returns what the network is called; ok is false before the first time.
func (s state) identity() (i identity, ok bool, err error) {
	err = statedir.Read(filepath.Join(s.dir, "network.json"), &i)
	if errors.Is(err, fs.ErrNotExist) || statedir.IsCut(err) {
		return identity{}, false, nil
	}
	return i, err == nil, err
}

// identify decides what the network is called.
func (s state) identify(p plan) (identity, error) {
	i := identity{plan: p, Owner: net.HardwareAddr{0x0a, 0x59, 0, 0, 0, 0}} // locally administered
	_, _ = rand.Read(i.Owner[2:])
	return i, statedir.Write(filepath.Join(s.dir, "network.json"), i)
}

func (s state) write(n number, r record) error { return statedir.Write(s.recordFile(n), r) }

func (s state) forget(n number) error {
	if err := os.Remove(s.recordFile(n)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("cannot remove the record of a slot: %w", err)
	}
	return nil
}

// records returns what is kept of all slots.
func (s state) records() (map[number]record, error) {
	all, err := s.numbered(s.slots())
	if err != nil {
		return nil, err
	}
	records := map[number]record{}
	for _, n := range all {
		var r record
		if err := statedir.Read(s.recordFile(n), &r); errors.Is(err, fs.ErrNotExist) {
			continue // just removed
		} else if statedir.IsCut(err) {
			r = record{}
		} else if err != nil {
			return nil, err
		}
		records[n] = r
	}
	return records, nil
}

// pins returns the slots that have a namespace's file, pinned or not.
func (s state) pins() ([]number, error) { return s.numbered(s.namespaces()) }

func (s state) numbered(dir string) ([]number, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("cannot list slots: %w", err)
	}
	var found []number
	for _, e := range entries {
		if n, err := strconv.ParseUint(e.Name(), 10, 32); err == nil {
			found = append(found, number(n))
		}
	}
	return found, nil
}
