package auth

import (
	"context"
	"errors"
	"time"
)

// Errors of Logins and Capabilities.
var (
	// ErrNotFound: there is no such capability, or it is another user's.
	ErrNotFound = errors.New("capability does not exist")
	// ErrTooMany: the user has as many capabilities, or workspaces, as it may.
	ErrTooMany = errors.New("too many")
)

// Logins makes and ends the logins of browsers. Safe for concurrent use.
type Logins interface {
	// Login makes a login for p and returns the cookie's value. It ends with
	// Logout, after LoginLifetime, and with p's user or credential.
	Login(ctx context.Context, p Principal) (secret string, err error)
	// Logout ends a login. Ending what does not exist is no error.
	Logout(ctx context.Context, secret string) error
}

// LoginLifetime is how long a login lasts, as in jupyter_server.
const LoginLifetime = 30 * 24 * time.Hour

// Capability is a grant to act as a user in one workspace for whoever knows its
// secret, which travels in URL paths: for clients that can send nothing else
// (nbclient sends no credentials on its WebSocket).
type Capability struct {
	ID        string
	Workspace string
	Label     string // what the user calls it
	Created   time.Time
	Expires   time.Time // zero: never
}

// Capabilities makes, lists and revokes capabilities. Safe for concurrent use.
type Capabilities interface {
	// Grant makes a capability for p in c.Workspace, of which p is a member,
	// with c's Label and Expires. The secret is lower-case hex: nbclient
	// lower-cases URLs, and replaces "http" in them. ErrTooMany.
	Grant(ctx context.Context, p Principal, c Capability) (secret string, made Capability, err error)
	// Granted lists p's capabilities that are valid, oldest first.
	Granted(ctx context.Context, p Principal) ([]Capability, error)
	// Revoke ends a capability of p at once. ErrNotFound.
	Revoke(ctx context.Context, p Principal, id string) error
}
