package gvisor

import (
	"context"
	"fmt"
	"net/netip"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"kernelgw/sandboxes"
	"kernelgw/sandboxes/netpolicy"
)

// connection is how a sandbox is reached and what it reaches.
type connection struct {
	flag     string // runsc's --network
	listen   string // of the agent, inside
	endpoint sandboxes.Endpoint
	slot     netpolicy.Slot // zero without a network
}

// connect gives a sandbox its network, or its socket.
func (d *Driver) connect(ctx context.Context, spec sandboxes.Spec) (connection, error) {
	if d.opts.Network == nil {
		return connection{
			flag:     "none",
			listen:   "unix:" + AgentDir + "/" + socketName,
			endpoint: sandboxes.Endpoint{Network: "unix", Address: d.state.Path(spec.ID, runName, socketName)},
		}, nil
	}
	slot, err := d.opts.Network.Acquire(ctx, spec.ID, spec.Network)
	if err != nil {
		return connection{}, err
	}
	return connection{
		flag: "sandbox",
		// All addresses, so that it serves under another one when it is restored.
		listen:   fmt.Sprintf("tcp:0.0.0.0:%d", netpolicy.AgentPort),
		endpoint: sandboxes.Endpoint{Network: "tcp", Address: netip.AddrPortFrom(slot.Address, netpolicy.AgentPort).String()},
		slot:     slot,
	}, nil
}

// namespace is the network namespace of the sandbox. runsc takes the addresses
// and routes from its links into a network stack of its own.
func (c connection) namespace() specs.LinuxNamespace {
	return specs.LinuxNamespace{Type: specs.NetworkNamespace, Path: c.slot.Namespace}
}

// trust makes the agent trust whom the slot's proxy signs for.
func (c connection) trust() []string {
	if c.slot.Authority == nil {
		return nil
	}
	return []string{"--authority", AgentDir + "/" + authorityName}
}

// disconnect takes a sandbox's network away. It may never have had one.
func (d *Driver) disconnect(ctx context.Context, id string) error {
	if d.opts.Network == nil {
		return nil
	}
	return d.opts.Network.Release(ctx, id)
}

// sweepNetwork takes away the networks of sandboxes that are gone. A sandbox has
// its directory before its network, and after.
func (d *Driver) sweepNetwork(ctx context.Context) error {
	if d.opts.Network == nil {
		return nil
	}
	for _, slot := range d.opts.Network.List() {
		if d.state.Taken(slot.ID) {
			continue
		}
		if err := d.disconnect(ctx, slot.ID); err != nil {
			return err
		}
	}
	return nil
}

// SetNetworkPolicy implements sandboxes.Driver.
func (d *Driver) SetNetworkPolicy(ctx context.Context, id string, policy sandboxes.NetworkPolicy) error {
	if d.opts.Network == nil {
		return fmt.Errorf("%w: these sandboxes have no network", sandboxes.ErrInvalid)
	}
	err := d.state.Change(ctx, id, func(sb *sandboxes.Sandbox) error {
		sb.Spec.Network = policy
		return d.opts.Network.SetPolicy(ctx, id, policy)
	})
	if err != nil {
		return fmt.Errorf("cannot set the network policy of sandbox %q: %w", id, err)
	}
	return nil
}
