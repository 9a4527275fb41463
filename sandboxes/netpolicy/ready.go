package netpolicy

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"
)

// restFor is how long a number is not used again: so long that nobody who spoke
// to its last sandbox still does.
const restFor = 5 * time.Second

// rest is a number that rests.
type rest struct {
	number number
	since  time.Time
}

// take returns a slot that is complete but for its rules: a ready one, or else
// a new one.
func (n *Network) take(ctx context.Context) (number, error) {
	n.mu.Lock()
	if len(n.ready) > 0 {
		number := n.ready[0]
		n.ready = slices.Delete(n.ready, 0, 1)
		n.mu.Unlock()
		select {
		case n.wanted <- struct{}{}:
		default: // it knows already
		}
		return number, nil
	}
	n.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	return n.build()
}

// keepReady keeps namespaces ready until ctx ends.
func (n *Network) keepReady(ctx context.Context) {
	for {
		again := n.wanted
		var later <-chan time.Time
		for ctx.Err() == nil && n.missing() {
			number, err := n.build()
			if err != nil {
				n.log.Error("cannot keep a network namespace ready", "error", err)
				later = time.After(time.Second)
				break
			}
			n.mu.Lock()
			n.ready = append(n.ready, number)
			n.mu.Unlock()
		}
		select {
		case <-again:
		case <-later:
		case <-ctx.Done():
			return
		}
	}
}

func (n *Network) missing() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return len(n.ready) < n.options.Ready
}

// build makes a slot for nobody yet. Nothing can pass its link until the packet
// filter knows it.
func (n *Network) build() (number, error) {
	number, err := n.reserve()
	if err != nil {
		return 0, err
	}
	n.step("record a slot")
	if err = n.state.write(number, record{}); err == nil {
		n.step("make a namespace")
		err = makeNamespace(n.state.pin(number), hardenInside)
	}
	if err == nil {
		n.step("make a link")
		err = n.links.add(number, n.state.pin(number))
	}
	if err != nil {
		return 0, errors.Join(err, n.demolish(number))
	}
	return number, nil
}

// demolish removes all that there is of a slot, in whatever state it is. The
// link goes first: without it nothing passes, whoever holds the namespace.
func (n *Network) demolish(number number) error {
	n.step("remove the link")
	if err := n.links.remove(n.identity.link(number)); err != nil {
		return err
	}
	n.step("dismiss from the packet filter")
	if err := n.filter.dismiss(number); err != nil {
		return err
	}
	if err := n.discard(number); err != nil {
		return err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.taken, number)
	n.rested = append(n.rested, rest{number, time.Now()})
	return nil
}

// discard removes what there is of a slot in the state directory.
func (n *Network) discard(number number) error {
	n.step("unpin the namespace")
	if err := unpin(n.state.pin(number)); err != nil {
		return err
	}
	n.step("forget the slot")
	return n.state.forget(number)
}

// reserve picks a number of which nothing is there, and was not a moment ago.
func (n *Network) reserve() (number, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	awake := 0
	for awake < len(n.rested) && time.Since(n.rested[awake].since) >= restFor {
		awake++
	}
	n.rested = slices.Delete(n.rested, 0, awake)
	last := n.identity.last()
	for range last {
		n.next = n.next%last + 1
		candidate := n.next
		if !n.taken[candidate] && !slices.ContainsFunc(n.rested, func(r rest) bool { return r.number == candidate }) {
			n.taken[candidate] = true
			return candidate, nil
		}
	}
	return 0, fmt.Errorf("all %d slots of subnet %s are in use: choose a larger one", last, n.identity.Subnet)
}
