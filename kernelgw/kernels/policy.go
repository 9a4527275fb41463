package kernels

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"kernelgw/sandboxes"
	"kernelgw/sandboxes/agentapi"
)

// Policy is what the sandboxes of a workspace are made of, may use and may reach.
type Policy struct {
	Image     string // "" means the driver's default
	Resources sandboxes.Resources
	Network   sandboxes.NetworkPolicy
	Caps      agentapi.OutputCaps // of what kernels show
}

// Outdated is a sandbox in which a part of its workspace's policy is not in
// force: it was made before that was changed.
type Outdated struct {
	Kernel  string // its id, or "terminals"
	Network bool   // the change failed; the log says why
	Limits  bool
	Image   bool
	Output  bool
}

// fixedPolicy is that of sandboxes of no workspace, and of all of them without
// Options.Policy.
func (m *Manager) fixedPolicy() Policy {
	return Policy{Image: m.o.Image, Resources: m.o.Resources, Caps: m.o.Caps}
}

// madeWith returns what the sandbox of a record was made with.
func (m *Manager) madeWith(r record) Policy {
	if r.Policy == nil {
		return m.fixedPolicy()
	}
	return *r.Policy
}

// policy returns what is in force for a new sandbox of a workspace, cut to what
// the driver can do.
func (m *Manager) policy(ctx context.Context, workspace string) (Policy, error) {
	fixed := m.fixedPolicy()
	if m.o.Policy == nil {
		return fixed, nil
	}
	p, err := m.o.Policy(ctx, workspace)
	if err != nil {
		return Policy{}, fmt.Errorf("cannot find out the policy of workspace %s: %w", workspace, err)
	}
	can := m.o.Driver.Capabilities()
	if !can.Isolated && !can.MemoryLimit && !can.ProcessLimit && !can.DiskLimit { // plain processes of the host
		p.Image, p.Resources = fixed.Image, fixed.Resources
	}
	if !can.NetworkPolicy {
		p.Network = sandboxes.NetworkPolicy{}
	}
	return p, nil
}

// Capabilities says what the driver enforces.
func (m *Manager) Capabilities() sandboxes.Capabilities { return m.o.Driver.Capabilities() }

// CheckImage returns ErrInvalid unless sandboxes can be made of an image.
func (m *Manager) CheckImage(ctx context.Context, image string) error {
	_, err := m.o.Driver.Kernelspecs(ctx, image)
	if errors.Is(err, sandboxes.ErrNotFound) {
		return fmt.Errorf("%w: image %s is not on this server", ErrInvalid, printable(image))
	}
	if err != nil {
		return fmt.Errorf("cannot look for image %s: %w", printable(image), err)
	}
	return nil
}

// Workspace returns whose a sandbox is.
func (m *Manager) Workspace(sandbox string) (workspace string, ok bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, k := range m.kernels {
		if k.record.Sandbox == sandbox && !k.record.Dead {
			return k.workspace, true
		}
	}
	return "", false
}

// ApplyPolicy makes what changed in a workspace's policy hold for the sandboxes
// that it has, as far as it can: the network. It returns those that go on under
// what was before.
func (m *Manager) ApplyPolicy(ctx context.Context, workspace string) ([]Outdated, error) {
	alive, err := m.alive(workspace)
	if err != nil {
		return nil, err
	}
	var all errgroup.Group
	all.SetLimit(8)
	for _, k := range alive {
		all.Go(func() error {
			if err := m.applyNetwork(ctx, k); err != nil {
				m.o.Log.Error("cannot change what a sandbox may reach", "kernel", k.id, "workspace", workspace, "error", err)
			}
			return nil
		})
	}
	_ = all.Wait() // each failure was logged, and Outdated tells of it
	return m.Outdated(ctx, workspace)
}

// Outdated returns the sandboxes of a workspace in which its policy is not in
// force, in order of their making.
func (m *Manager) Outdated(ctx context.Context, workspace string) ([]Outdated, error) {
	now, err := m.policy(ctx, workspace)
	if err != nil {
		return nil, err
	}
	alive, err := m.alive(workspace)
	if err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	var list []Outdated
	for _, k := range alive {
		made := m.madeWith(k.record)
		o := Outdated{
			Kernel: k.id, Limits: made.Resources != now.Resources, Image: made.Image != now.Image,
			Output:  made.Caps != now.Caps && !k.terminals,
			Network: k.network != nil && !sameNetwork(*k.network, now.Network),
		}
		if o.Network || o.Limits || o.Image || o.Output {
			list = append(list, o)
		}
	}
	return list, nil
}

// alive are the rows of a workspace whose sandboxes have not ended.
func (m *Manager) alive(workspace string) ([]*kernel, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.ready {
		return nil, fmt.Errorf("%w: the gateway is still adopting kernels", ErrNotReady)
	}
	var list []*kernel
	for _, k := range m.kernels {
		if k.workspace == workspace && !k.record.Dead && k.record.Sandbox != "" {
			list = append(list, k)
		}
	}
	slices.SortFunc(list, func(a, b *kernel) int {
		return cmp.Or(a.record.CreatedAt.Compare(b.record.CreatedAt), cmp.Compare(a.record.ID, b.record.ID))
	})
	return list, nil
}

// applyNetwork makes a sandbox reach what its workspace's policy says now. One
// at a time for each sandbox, and the policy is read meanwhile: so of two changes
// the later holds.
func (m *Manager) applyNetwork(ctx context.Context, k *kernel) error {
	if m.o.Policy == nil || !m.o.Driver.Capabilities().NetworkPolicy {
		return nil
	}
	select {
	case k.policing <- struct{}{}:
		defer func() { <-k.policing }()
	case <-ctx.Done():
		return ctx.Err()
	}
	m.mu.Lock()
	workspace, sandbox, known := k.workspace, k.record.Sandbox, k.network
	m.mu.Unlock()
	p, err := m.policy(ctx, workspace)
	if err != nil {
		return err
	}
	if known != nil && sameNetwork(*known, p.Network) {
		return nil
	}
	err = m.o.Driver.SetNetworkPolicy(ctx, sandbox, p.Network)
	if errors.Is(err, sandboxes.ErrNotFound) {
		return nil // it has ended; or it is being made, and its keeper looks again
	}
	if err != nil {
		return fmt.Errorf("cannot set the network policy of sandbox %s: %w", sandbox, err)
	}
	m.setNetwork(k, &p.Network)
	return nil
}

// networkOfNew makes up for a change of the policy while a sandbox was made.
func (m *Manager) networkOfNew(ctx context.Context, k *kernel, spec sandboxes.Spec) error {
	m.setNetwork(k, &spec.Network)
	return m.applyNetwork(ctx, k)
}

// networkOfAdopted makes up for a change of the policy that an earlier gateway
// process kept and did not live to apply, or that the operator made since. It
// tries until it works or ctx ends.
func (m *Manager) networkOfAdopted(ctx context.Context, k *kernel) {
	for pause := time.Second; ; pause = min(2*pause, time.Minute) {
		err := m.applyNetwork(ctx, k)
		if err == nil || ctx.Err() != nil {
			return
		}
		m.o.Log.Error("cannot set what an adopted sandbox may reach; trying again", "kernel", k.id, "in", pause, "error", err)
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause):
		}
	}
}

func (m *Manager) setNetwork(k *kernel, n *sandboxes.NetworkPolicy) {
	m.mu.Lock()
	defer m.mu.Unlock()
	k.network = n
}

func sameNetwork(a, b sandboxes.NetworkPolicy) bool {
	return a.Egress == b.Egress && a.Mirror == b.Mirror && slices.Equal(a.Allow, b.Allow)
}
