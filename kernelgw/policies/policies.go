// Package policies keeps what the members of each workspace chose for its
// sandboxes, within what the operator allows: what they may reach, how much they
// may use, and of which image they are. It says what is in force; it knows
// nothing of HTTP, of drivers, or of the sandboxes that run.
package policies

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"kernelgw/kernelgw/registry"
	"kernelgw/sandboxes"
)

// Errors that callers test for.
var (
	// ErrInvalid: the policy cannot be, or is not allowed here; the text names
	// the key and the bound.
	ErrInvalid = errors.New("invalid policy")
	// ErrChanged: somebody else changed the policy meanwhile.
	ErrChanged = errors.New("the policy was changed by someone else")
)

// Settings are all that a policy is about.
type Settings struct {
	Image     string // "" means the driver's default
	Resources sandboxes.Resources
	Network   sandboxes.NetworkPolicy
	Output    Output
}

// Options configure Policies. Store is required.
type Options struct {
	Store   registry.Store
	Default Settings // of a workspace whose members chose nothing
	Bounds  Bounds   // of what they may choose
}

// Policies are the policies of all workspaces. Safe for concurrent use.
type Policies struct{ o Options }

// New returns Policies, or says what of the operator's settings contradicts
// itself.
func New(o Options) (*Policies, error) {
	if err := o.Bounds.consistent(&o.Default); err != nil {
		return nil, err
	}
	return &Policies{o}, nil
}

// Kept is a workspace's policy as it is kept.
type Kept struct {
	Policy  Policy
	Changed time.Time // zero: nobody ever chose anything
	By      string    // who did
	// Version is another after each change; 0 before the first.
	Version uint64
}

// record is the stored document. Its id is the workspace's name.
type record struct {
	Policy  Policy    `json:"policy"`
	Changed time.Time `json:"changed"`
	By      string    `json:"by"`
}

// Get returns what the members of a workspace chose.
func (p *Policies) Get(ctx context.Context, workspace string) (Kept, error) {
	stored, err := p.o.Store.Get(ctx, registry.Policies, workspace)
	if errors.Is(err, registry.ErrNotFound) {
		return Kept{}, nil
	}
	if err != nil {
		return Kept{}, fmt.Errorf("cannot read the policy of workspace %s: %w", workspace, err)
	}
	var r record
	if err := json.Unmarshal(stored.Value, &r); err != nil {
		return Kept{}, fmt.Errorf("the policy of workspace %s in the registry is damaged: %w", workspace, err)
	}
	return Kept{Policy: r.Policy, Changed: r.Changed, By: r.By, Version: stored.Version}, nil
}

// Set replaces the policy of a workspace that is still at a version, on behalf
// of somebody. The zero Policy takes back all that was chosen; its record stays,
// so that versions never come again. ErrInvalid, ErrChanged.
func (p *Policies) Set(ctx context.Context, workspace string, policy Policy, version uint64, by string) (Kept, error) {
	policy, err := p.o.Bounds.check(policy, p.o.Default)
	if err != nil {
		return Kept{}, err
	}
	r := record{Policy: policy, Changed: time.Now().UTC(), By: by}
	value, err := json.Marshal(r)
	if err != nil {
		return Kept{}, fmt.Errorf("cannot encode the policy of workspace %s: %w", workspace, err)
	}
	version, err = p.o.Store.Put(ctx, registry.Record{Kind: registry.Policies, ID: workspace, Version: version, Value: value})
	if errors.Is(err, registry.ErrConflict) {
		return Kept{}, fmt.Errorf("workspace %s: %w", workspace, ErrChanged)
	}
	if err != nil {
		return Kept{}, fmt.Errorf("cannot save the policy of workspace %s: %w", workspace, err)
	}
	return Kept{Policy: r.Policy, Changed: r.Changed, By: r.By, Version: version}, nil
}

// Of returns what is in force for a workspace now. What was chosen when the
// operator allowed more is cut to what is allowed now.
func (p *Policies) Of(ctx context.Context, workspace string) (Settings, error) {
	kept, err := p.Get(ctx, workspace)
	if err != nil {
		return Settings{}, err
	}
	return p.Settle(kept.Policy), nil
}

// Settle returns what is in force under a policy.
func (p *Policies) Settle(policy Policy) Settings { return p.o.Bounds.settle(policy, p.o.Default) }

// Bounds returns what the members of workspaces may choose, the operator's own
// choice included; a limit of zero has no bound.
func (p *Policies) Bounds() Bounds {
	b := p.o.Bounds
	b.Egress = b.offered(p.o.Default)
	for _, l := range limits {
		l.of(&b.Most).set(b.most(l, p.o.Default))
	}
	b.Output = b.mostOutput(p.o.Default)
	return b
}
