package netpolicy

import (
	"errors"
	"fmt"

	"github.com/vishvananda/netns"
)

// End removes all that there is of the network of a state directory, the slots of
// sandboxes included, for a gateway whose sandboxes are to have none. First it
// has each of those sandboxes ended: a slot's address is anybody's afterwards,
// and whoever still spoke to an agent there would tell it to a stranger. It is no
// error when there never was a network.
func End(o Options, end func(sandbox string) error) error {
	host, err := netns.Get()
	if err != nil {
		return fmt.Errorf("cannot open the host's network namespace: %w", err)
	}
	return endOn(o, host, end)
}

// endOn closes host in the end.
func endOn(o Options, host netns.NsHandle, end func(sandbox string) error) (err error) {
	n := former(host)
	defer n.letGo()
	defer func() {
		if err != nil {
			err = fmt.Errorf("cannot end the sandboxes' network: %w", err)
		}
	}()
	if known, err := n.recognise(o.StateDir); err != nil || !known {
		return err
	}
	lock, err := n.state.lock()
	if err != nil {
		return err
	}
	n.held = append(n.held, lock)
	records, err := n.state.records()
	if err != nil {
		return err
	}
	for _, r := range records {
		if r.ID == "" {
			continue
		}
		if err := end(r.ID); err != nil {
			return err
		}
	}
	return errors.Join(n.state.tidy(), n.sweep(), n.removeRest())
}
