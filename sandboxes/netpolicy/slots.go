package netpolicy

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"kernelgw/sandboxes"
	"kernelgw/sandboxes/netpolicy/egress"
)

// Acquire gives a sandbox its slot, which is complete when Acquire returns and
// was never used before. The zero policy is the network's default. The error
// wraps sandboxes.ErrExists when the sandbox has a slot, and
// sandboxes.ErrInvalid when the id or the policy makes no sense.
func (n *Network) Acquire(ctx context.Context, id string, policy sandboxes.NetworkPolicy) (Slot, error) {
	if !sandboxes.ValidID(id) {
		return Slot{}, fmt.Errorf("cannot make a network for sandbox %q: %w: not a sandbox's id", id, sandboxes.ErrInvalid)
	}
	if isZero(policy) {
		policy = n.options.Default
	}
	if err := egress.Check(policy); err != nil {
		return Slot{}, fmt.Errorf("cannot make a network for sandbox %s: %w", id, err)
	}
	leave, err := n.enter()
	if err != nil {
		return Slot{}, err
	}
	defer leave()
	s := &slot{id: id, policy: policy, trusted: n.options.Egress.Authority}
	s.mu.Lock()
	defer s.mu.Unlock()
	n.mu.Lock()
	_, exists := n.slots[id]
	if !exists {
		n.slots[id] = s
	}
	n.mu.Unlock()
	if exists {
		return Slot{}, fmt.Errorf("cannot make a network for sandbox %s: it %w", id, sandboxes.ErrExists)
	}

	if err := n.give(ctx, s); err != nil {
		s.ending = true
		if undo := n.end(s); undo != nil {
			n.log.Error("a network that could not be given to its sandbox could not be removed", "sandbox", id, "error", undo)
		}
		return Slot{}, fmt.Errorf("cannot make a network for sandbox %s: %w", id, err)
	}
	return n.describe(s), nil
}

// give makes a slot that of its sandbox. The record comes last: a slot without
// an id in its record is removed by whoever finds it.
func (n *Network) give(ctx context.Context, s *slot) (err error) {
	if s.number, err = n.take(ctx); err != nil {
		return err
	}
	if s.index, err = n.links.index(s.number); err != nil {
		return err
	}
	n.mu.Lock()
	n.byIndex[s.index] = s.id
	n.mu.Unlock()
	n.step("admit to the packet filter")
	if err := n.filter.admit(s.number); err != nil {
		return err
	}
	if err := n.proxy.Admit(n.identity.address(s.number), s.id, s.policy); err != nil {
		return err
	}
	n.step("record the sandbox")
	return n.state.write(s.number, s.record())
}

// Release removes a sandbox's slot with all that belongs to it. Nothing in the
// sandbox can send or receive from then on. Releasing what has no slot is no
// error, and a Release that failed may be called again.
func (n *Network) Release(_ context.Context, id string) error {
	leave, err := n.enter()
	if err != nil {
		return err
	}
	defer leave()
	s := n.find(id)
	if s == nil {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.number == 0 { // by another Release
		return nil
	}
	if !s.ending {
		n.step("record the end")
		if err := n.state.write(s.number, record{}); err != nil {
			return fmt.Errorf("cannot remove the network of sandbox %s: %w", id, err)
		}
		s.ending = true
	}
	if err := n.end(s); err != nil {
		return fmt.Errorf("cannot remove the network of sandbox %s: %w", id, err)
	}
	return nil
}

// end removes a slot that is no sandbox's any more. s.mu is held.
func (n *Network) end(s *slot) error {
	if s.number != 0 {
		n.proxy.Dismiss(n.identity.address(s.number))
		if err := n.demolish(s.number); err != nil {
			return err
		}
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.byIndex, s.index)
	delete(n.slots, s.id)
	s.number = 0
	return nil
}

// SetPolicy changes what a sandbox may reach, at once and for open connections
// too. The error wraps sandboxes.ErrNotFound or sandboxes.ErrInvalid.
func (n *Network) SetPolicy(_ context.Context, id string, policy sandboxes.NetworkPolicy) error {
	if isZero(policy) {
		policy = n.options.Default
	}
	if err := egress.Check(policy); err != nil {
		return fmt.Errorf("cannot change the network policy of sandbox %s: %w", id, err)
	}
	leave, err := n.enter()
	if err != nil {
		return err
	}
	defer leave()
	s := n.find(id)
	if s == nil {
		return fmt.Errorf("cannot change the network policy of sandbox %s: %w", id, sandboxes.ErrNotFound)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.number == 0 || s.ending {
		return fmt.Errorf("cannot change the network policy of sandbox %s: %w", id, sandboxes.ErrNotFound)
	}
	changed := s.record()
	changed.Policy = policy
	if err := n.state.write(s.number, changed); err != nil {
		return fmt.Errorf("cannot change the network policy of sandbox %s: %w", id, err)
	}
	s.policy = policy
	if err := n.proxy.Admit(n.identity.address(s.number), id, policy); err != nil {
		return fmt.Errorf("cannot change the network policy of sandbox %s: %w", id, err)
	}
	return nil
}

// List returns the slots of all sandboxes, by id.
func (n *Network) List() []Slot {
	n.mu.Lock()
	all := slices.Collect(maps.Values(n.slots))
	n.mu.Unlock()
	var list []Slot
	for _, s := range all {
		s.mu.Lock()
		if s.number != 0 {
			list = append(list, n.describe(s))
		}
		s.mu.Unlock()
	}
	slices.SortFunc(list, func(a, b Slot) int { return strings.Compare(a.ID, b.ID) })
	return list
}

// Usage says what a sandbox has used. The error wraps sandboxes.ErrNotFound.
func (n *Network) Usage(id string) (Usage, error) {
	leave, err := n.enter()
	if err != nil {
		return Usage{}, err
	}
	defer leave()
	s := n.find(id)
	if s == nil {
		return Usage{}, fmt.Errorf("cannot tell the network usage of sandbox %s: %w", id, sandboxes.ErrNotFound)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.number == 0 {
		return Usage{}, fmt.Errorf("cannot tell the network usage of sandbox %s: %w", id, sandboxes.ErrNotFound)
	}
	sent, received, err := n.links.traffic(s.number)
	if err != nil {
		return Usage{}, fmt.Errorf("cannot tell the network usage of sandbox %s: %w", id, err)
	}
	counted, err := n.filter.denied()
	if err != nil {
		return Usage{}, fmt.Errorf("cannot tell the network usage of sandbox %s: %w", id, err)
	}
	u := Usage{Sent: sent, Received: received, Denied: map[Reason]uint64{}, Egress: n.proxy.Usage(n.identity.address(s.number))}
	for _, counts := range []map[Reason]uint64{s.earlier, counted[s.number]} {
		for reason, packets := range counts {
			u.Denied[reason] += packets
		}
	}
	return u, nil
}

func (n *Network) find(id string) *slot {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.slots[id]
}

// describe tells others of a slot. s.mu is held.
func (n *Network) describe(s *slot) Slot {
	return Slot{
		ID: s.id, Namespace: n.state.pin(s.number),
		Address: n.identity.address(s.number), Gateway: n.identity.gateway(s.number),
		Env: n.identity.env(s.policy), Authority: s.certificate(),
	}
}

// record is what is kept of the slot. s.mu is held.
func (s *slot) record() record {
	r := record{ID: s.id, Policy: s.policy}
	if s.trusted != nil {
		r.Authority = s.trusted.Name()
	}
	return r
}

// certificate returns what the sandbox must trust, as PEM. s.mu is held.
func (s *slot) certificate() []byte {
	if s.trusted == nil {
		return nil
	}
	return s.trusted.PEM()
}
