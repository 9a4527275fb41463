package token

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"kernelgw/auth"
	"kernelgw/kernelgw/registry"
)

// maxCapabilities is how many capabilities a user has at a time.
const maxCapabilities = 256

// capability is the stored document of a capability. Its record's id is the
// hash of its secret; its own id, which is shown, is the start of that hash.
type capability struct {
	ID         string    `json:"id"`
	User       string    `json:"user"`
	Credential string    `json:"credential"`
	Workspace  string    `json:"workspace"`
	Label      string    `json:"label"`
	Created    time.Time `json:"created"`
	Expires    time.Time `json:"expires,omitzero"`
}

// Grant implements auth.Capabilities.
func (a *Authenticator) Grant(ctx context.Context, p auth.Principal, c auth.Capability) (string, auth.Capability, error) {
	own, err := a.own(ctx, p)
	if err != nil {
		return "", auth.Capability{}, err
	}
	if len(own) >= maxCapabilities {
		return "", auth.Capability{}, fmt.Errorf("%w capabilities: at most %d, revoke some", auth.ErrTooMany, maxCapabilities)
	}
	secret := auth.NewSecret()
	id := Hash(secret)
	doc := capability{
		ID: id[:16], User: p.Subject, Credential: p.Credential, Workspace: c.Workspace, Label: c.Label,
		Created: time.Now().UTC(), Expires: c.Expires,
	}
	value, err := json.Marshal(doc)
	if err != nil {
		return "", auth.Capability{}, err
	}
	if _, err := a.store.Put(ctx, registry.Record{Kind: registry.Capabilities, ID: id, Value: value}); err != nil {
		return "", auth.Capability{}, fmt.Errorf("cannot grant a capability: %w", err)
	}
	return secret, doc.model(), nil
}

// Granted implements auth.Capabilities.
func (a *Authenticator) Granted(ctx context.Context, p auth.Principal) ([]auth.Capability, error) {
	own, err := a.own(ctx, p)
	if err != nil {
		return nil, err
	}
	list := make([]auth.Capability, 0, len(own))
	for _, c := range own {
		list = append(list, c.model())
	}
	slices.SortFunc(list, func(x, y auth.Capability) int { return x.Created.Compare(y.Created) })
	return list, nil
}

// Revoke implements auth.Capabilities.
func (a *Authenticator) Revoke(ctx context.Context, p auth.Principal, id string) error {
	own, err := a.own(ctx, p)
	if err != nil {
		return err
	}
	for record, c := range own {
		if c.ID == id {
			return a.endCapability(ctx, record)
		}
	}
	return auth.ErrNotFound
}

func (a *Authenticator) endCapability(ctx context.Context, record string) error {
	if err := a.end(ctx, capabilities, record); err != nil {
		return fmt.Errorf("cannot revoke a capability: %w", err)
	}
	return nil
}

// own returns the valid capabilities of a user by record id, and removes what
// is dead.
func (a *Authenticator) own(ctx context.Context, p auth.Principal) (map[string]capability, error) {
	records, err := a.store.List(ctx, registry.Capabilities)
	if err != nil {
		return nil, fmt.Errorf("cannot list capabilities: %w", err)
	}
	own := map[string]capability{}
	for _, r := range records {
		var c capability
		if json.Unmarshal(r.Value, &c) != nil || !a.capabilityAlive(c) {
			if err := a.endCapability(ctx, r.ID); err != nil {
				return nil, err
			}
			continue
		}
		if c.User == p.Subject {
			own[r.ID] = c
		}
	}
	return own, nil
}

func (a *Authenticator) capabilityAlive(c capability) bool {
	a.mu.RLock()
	defer a.mu.RUnlock()
	_, ok := a.capabilityUser(c)
	return ok
}

// capabilityUser returns the user that a capability acts for, if it may still.
// a.mu is held.
func (a *Authenticator) capabilityUser(c capability) (User, bool) {
	u, ok := a.user(c.User, c.Credential)
	return u, ok && slices.Contains(u.Workspaces, c.Workspace) && (c.Expires.IsZero() || time.Now().Before(c.Expires))
}

func (a *Authenticator) capability(ctx context.Context, secret string) (auth.Principal, error) {
	record := Hash(secret)
	c, err := read[capability](ctx, a.store, capabilities, record)
	if err != nil {
		return auth.Principal{}, err
	}
	a.mu.RLock()
	defer a.mu.RUnlock()
	u, ok := a.capabilityUser(c)
	if !ok {
		return auth.Principal{}, fmt.Errorf("the capability expired, or its user, token or workspace is gone: %w", auth.ErrDenied)
	}
	p := principal(u, auth.MethodCapability, c.Credential)
	p.Workspaces = []string{c.Workspace}
	p.Owner = false
	p.Revoked, err = a.watch(ctx, capabilities, record, owner{
		user: c.User, credential: c.Credential, workspaces: p.Workspaces, expires: c.Expires,
	})
	if err != nil {
		return auth.Principal{}, err
	}
	return p, nil
}

func (c capability) model() auth.Capability {
	return auth.Capability{ID: c.ID, Workspace: c.Workspace, Label: c.Label, Created: c.Created, Expires: c.Expires}
}
