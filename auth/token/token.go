// Package token authenticates users by tokens that the configuration lists as
// hashes, and by what is made from them: browser logins and capabilities, which
// are kept in a registry.Store. It knows nothing of routes and cookies' names,
// and never logs what a request presents.
package token

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"sync"

	"kernelgw/auth"
	"kernelgw/kernelgw/registry"
)

// Issuer is the issuer of this package's principals.
const Issuer = "token"

// DefaultWorkspace is the workspace of the single user.
const DefaultWorkspace = "default"

// User is a user as the configuration has it.
type User struct {
	Name        string   // identifies the user; never reused for another person
	DisplayName string   // "" means Name
	TokenHashes []string // of the user's tokens, as Hash makes them
	Workspaces  []string // the first is the default; none means one named like the user

	owner bool
}

// Single returns the only user of a server without a user list: its owner.
func Single(token string) User {
	u := User{Name: "owner", DisplayName: "Owner", Workspaces: []string{DefaultWorkspace}, owner: true}
	if token != "" {
		u.TokenHashes = []string{Hash(token)}
	}
	return u
}

// Hash returns what the configuration keeps of a token: the hex of its SHA-256.
// A token is random and long, so that a fast hash is enough.
func Hash(token string) string {
	sum := sha256.Sum256([]byte(token))
	return hex.EncodeToString(sum[:])
}

// Options are what an Authenticator needs.
type Options struct {
	Users []User
	Store registry.Store // logins and capabilities
	Log   *slog.Logger
}

// Authenticator implements auth.Authenticator, auth.Logins, auth.Capabilities
// and auth.Workspaces for a list of users. Safe for concurrent use.
type Authenticator struct {
	store    registry.Store // set at construction
	log      *slog.Logger   // set at construction
	live     *live          // set at construction
	failures *failures      // set at construction

	mu    sync.RWMutex
	users []User              // guarded by mu
	made  map[string][]string // guarded by mu; full names of the workspaces that users made, by user
}

// New returns an Authenticator, or says what is wrong with the users. Close it.
func New(o Options) (*Authenticator, error) {
	users, err := checked(o.Users)
	if err != nil {
		return nil, err
	}
	made, err := madeWorkspaces(context.Background(), o.Store)
	if err != nil {
		return nil, err
	}
	return &Authenticator{store: o.Store, log: o.Log, live: newLive(), failures: newFailures(o.Log), users: users, made: made}, nil
}

// Close releases the Authenticator's timers. Principals are not revoked.
func (a *Authenticator) Close() { a.live.close() }

// Update replaces the users. Whoever is gone, or lost the token that it came
// with or a workspace, is revoked at once.
func (a *Authenticator) Update(users []User) error {
	users, err := checked(users)
	if err != nil {
		return err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.users = users
	a.live.endWhere(func(o owner) bool {
		u, ok := a.user(o.user, o.credential)
		return !ok || slices.ContainsFunc(o.workspaces, func(w string) bool { return !slices.Contains(u.Workspaces, w) })
	})
	return nil
}

var (
	validName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._@-]{0,62}$`)
	validHash = regexp.MustCompile(`^[0-9a-f]{64}$`)
)

// ValidWorkspace reports whether s may name a workspace: it is a segment of
// paths.
func ValidWorkspace(s string) bool { return validName.MatchString(s) && !strings.Contains(s, "..") }

func checked(users []User) ([]User, error) {
	if len(users) == 0 {
		return nil, errors.New("no users: nobody could log in; give a token or list users")
	}
	names, hashes := map[string]bool{}, map[string]string{}
	out := slices.Clone(users)
	for i := range out {
		u := &out[i]
		if !validName.MatchString(u.Name) {
			return nil, fmt.Errorf("user %q: the name must be 1 to 63 letters, digits, or any of . _ @ -, and begin with a letter or digit", u.Name)
		}
		if names[u.Name] {
			return nil, fmt.Errorf("user %q is listed twice", u.Name)
		}
		names[u.Name] = true
		if len(u.TokenHashes) == 0 {
			return nil, fmt.Errorf("user %q has no token: add a token hash", u.Name)
		}
		for _, h := range u.TokenHashes {
			if !validHash.MatchString(h) {
				return nil, fmt.Errorf("user %q: a token hash must be 64 lower-case hex digits, the SHA-256 of the token", u.Name)
			}
			if h == Hash("") {
				return nil, fmt.Errorf("user %q: a token hash is the hash of nothing", u.Name)
			}
			if other, taken := hashes[h]; taken {
				return nil, fmt.Errorf("users %q and %q have the same token", other, u.Name)
			}
			hashes[h] = u.Name
		}
		if u.DisplayName == "" {
			u.DisplayName = u.Name
		}
		if len(u.Workspaces) == 0 {
			u.Workspaces = []string{u.Name}
		}
		for _, w := range u.Workspaces {
			if !ValidWorkspace(w) {
				return nil, fmt.Errorf("user %q: %q cannot name a workspace", u.Name, w)
			}
		}
	}
	return out, nil
}

// Authenticate implements auth.Authenticator for the credentials that ctx
// carries. A wrong token falls back to the login cookie, as in jupyter_server;
// a wrong capability does not.
func (a *Authenticator) Authenticate(ctx context.Context, r *http.Request) (auth.Principal, error) {
	c := auth.CredentialsFrom(ctx)
	if c.Empty() {
		return auth.Principal{}, auth.ErrNoCredentials
	}
	p, err := a.authenticate(ctx, c)
	if errors.Is(err, auth.ErrDenied) {
		a.failures.add(r.RemoteAddr)
	}
	return p, err
}

func (a *Authenticator) authenticate(ctx context.Context, c auth.Credentials) (auth.Principal, error) {
	if c.Capability != "" {
		return a.capability(ctx, c.Capability)
	}
	for _, t := range c.Tokens {
		if p, ok := a.token(t, auth.MethodToken); ok {
			return p, nil
		}
	}
	if p, ok := a.token(c.Basic, auth.MethodBasic); ok {
		return p, nil
	}
	if c.Cookie != "" {
		return a.login(ctx, c.Cookie)
	}
	return auth.Principal{}, fmt.Errorf("wrong token: %w", auth.ErrDenied)
}

func (a *Authenticator) token(token string, m auth.Method) (auth.Principal, bool) {
	if token == "" {
		return auth.Principal{}, false
	}
	given := []byte(Hash(token))
	a.mu.RLock()
	defer a.mu.RUnlock()
	var found *User
	var credential string
	// Every hash is compared, so that time tells nothing about a match.
	for i := range a.users {
		for _, h := range a.users[i].TokenHashes {
			if subtle.ConstantTimeCompare(given, []byte(h)) == 1 {
				found, credential = &a.users[i], h
			}
		}
	}
	if found == nil {
		return auth.Principal{}, false
	}
	p := principal(a.withMade(*found), m, credential)
	p.Revoked = a.live.watch("token "+credential, owner{user: found.Name, credential: credential, workspaces: p.Workspaces})
	return p, true
}

// user returns the user of that name, with all workspaces, if it still has the
// credential. a.mu is held.
func (a *Authenticator) user(name, credential string) (User, bool) {
	for _, u := range a.users {
		if u.Name == name && slices.Contains(u.TokenHashes, credential) {
			return a.withMade(u), true
		}
	}
	return User{}, false
}

func principal(u User, m auth.Method, credential string) auth.Principal {
	return auth.Principal{
		Issuer: Issuer, Subject: u.Name, DisplayName: u.DisplayName, Workspaces: slices.Clone(u.Workspaces),
		Owner: u.owner, Method: m, Credential: credential,
	}
}
