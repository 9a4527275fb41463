package token

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"kernelgw/auth"
	"kernelgw/kernelgw/registry"
)

// maxLogins is how many logins a user has at a time. Those that nobody uses end
// first, the oldest of them before the others.
const maxLogins = 64

// login is the stored document of a login. Its id is the hash of its secret.
type login struct {
	User       string    `json:"user"`
	Credential string    `json:"credential"`
	Created    time.Time `json:"created"`
	Expires    time.Time `json:"expires"`
}

// Login implements auth.Logins.
func (a *Authenticator) Login(ctx context.Context, p auth.Principal) (string, error) {
	if err := a.trimLogins(ctx, p.Subject); err != nil {
		return "", fmt.Errorf("cannot log in: %w", err)
	}
	now := time.Now().UTC()
	value, err := json.Marshal(login{
		User: p.Subject, Credential: p.Credential, Created: now, Expires: now.Add(auth.LoginLifetime),
	})
	if err != nil {
		return "", err
	}
	secret := auth.NewSecret()
	if _, err := a.store.Put(ctx, registry.Record{Kind: registry.Logins, ID: Hash(secret), Value: value}); err != nil {
		return "", fmt.Errorf("cannot log in: %w", err)
	}
	return secret, nil
}

// Logout implements auth.Logins.
func (a *Authenticator) Logout(ctx context.Context, secret string) error {
	return a.endLogin(ctx, Hash(secret))
}

func (a *Authenticator) endLogin(ctx context.Context, id string) error {
	if err := a.end(ctx, logins, id); err != nil {
		return fmt.Errorf("cannot log out: %w", err)
	}
	return nil
}

func (a *Authenticator) login(ctx context.Context, secret string) (auth.Principal, error) {
	id := Hash(secret)
	l, err := a.readLogin(ctx, id)
	if err != nil {
		return auth.Principal{}, err
	}
	a.mu.RLock()
	defer a.mu.RUnlock()
	u, ok := a.user(l.User, l.Credential)
	if !ok {
		return auth.Principal{}, fmt.Errorf("the login's user or token is gone: %w", auth.ErrDenied)
	}
	p := principal(u, auth.MethodCookie, l.Credential)
	p.Revoked, err = a.watch(ctx, logins, id, owner{
		user: l.User, credential: l.Credential, workspaces: p.Workspaces, expires: l.Expires,
	})
	if err != nil {
		return auth.Principal{}, err
	}
	return p, nil
}

func (a *Authenticator) readLogin(ctx context.Context, id string) (login, error) {
	l, err := read[login](ctx, a.store, logins, id)
	if err == nil && !time.Now().Before(l.Expires) {
		return login{}, fmt.Errorf("expired login: %w", auth.ErrDenied)
	}
	return l, err
}

// trimLogins ends what is dead of all users, and makes room for one more login
// of the user.
func (a *Authenticator) trimLogins(ctx context.Context, user string) error {
	records, err := a.store.List(ctx, registry.Logins)
	if err != nil {
		return err
	}
	type own struct {
		id            string
		used, created time.Time
	}
	var mine []own
	for _, r := range records {
		var l login
		if json.Unmarshal(r.Value, &l) != nil || !a.loginAlive(l) {
			if err := a.endLogin(ctx, r.ID); err != nil {
				return err
			}
			continue
		}
		if l.User == user {
			mine = append(mine, own{r.ID, a.live.used("login " + r.ID), l.Created})
		}
	}
	slices.SortFunc(mine, func(x, y own) int {
		return cmp.Or(x.used.Compare(y.used), x.created.Compare(y.created))
	})
	for len(mine) >= maxLogins {
		if err := a.endLogin(ctx, mine[0].id); err != nil {
			return err
		}
		mine = mine[1:]
	}
	return nil
}

func (a *Authenticator) loginAlive(l login) bool {
	a.mu.RLock()
	defer a.mu.RUnlock()
	_, ok := a.user(l.User, l.Credential)
	return ok && time.Now().Before(l.Expires)
}
