package token

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"kernelgw/auth"
	"kernelgw/kernelgw/registry"
)

// secrets are the records, by the hash of a secret, of what somebody was given
// at run time.
type secrets struct {
	kind registry.Kind
	one  string // what one is called
}

var (
	logins       = secrets{registry.Logins, "login"}
	capabilities = secrets{registry.Capabilities, "capability"}
)

// read returns one's document. The error is auth.ErrDenied when there is none
// that can be read.
func read[T any](ctx context.Context, store registry.Store, s secrets, id string) (T, error) {
	var doc, none T
	r, err := store.Get(ctx, s.kind, id)
	if errors.Is(err, registry.ErrNotFound) {
		return none, fmt.Errorf("unknown %s: %w", s.one, auth.ErrDenied)
	}
	if err != nil {
		return none, fmt.Errorf("cannot read a %s: %w", s.one, err)
	}
	if err := json.Unmarshal(r.Value, &doc); err != nil {
		return none, fmt.Errorf("unreadable %s: %w", s.one, auth.ErrDenied)
	}
	return doc, nil
}

// watch returns the channel that is closed when one that was read ends.
func (a *Authenticator) watch(ctx context.Context, s secrets, id string, o owner) (<-chan struct{}, error) {
	ended := a.live.watch(s.key(id), o)
	// Read again: had it ended between the first reading and now, the channel
	// would never close.
	if _, err := read[json.RawMessage](ctx, a.store, s, id); err != nil {
		if errors.Is(err, auth.ErrDenied) {
			a.live.end(s.key(id))
		}
		return nil, err
	}
	return ended, nil
}

// end removes one and tells those who use it.
func (a *Authenticator) end(ctx context.Context, s secrets, id string) error {
	if err := a.store.Delete(ctx, s.kind, id); err != nil {
		return err
	}
	a.live.end(s.key(id))
	return nil
}

// key is the name of one among all that is live.
func (s secrets) key(id string) string { return s.one + " " + id }
