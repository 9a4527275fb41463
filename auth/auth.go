// Package auth says who may do what: principals, access classes of routes and
// what an authenticator must do. It knows nothing of routes, kernels or files.
package auth

import (
	"context"
	"errors"
	"net/http"
	"slices"
)

// Errors that callers test for.
var (
	// ErrNoCredentials: the request carries none (an empty token counts as none).
	ErrNoCredentials = errors.New("no credentials")
	// ErrDenied: the request carries credentials that are wrong, expired or revoked.
	ErrDenied = errors.New("credentials refused")
)

// Method is how a request proved who it is. It decides about XSRF and Origin:
// a cookie, and a password for Basic, are sent by a browser without the page's
// doing.
type Method string

// The methods, in the order in which a request is searched for credentials.
const (
	MethodCapability Method = "capability" // secret in the URL path
	MethodToken      Method = "token"      // query, or Authorization header but for Basic
	MethodBasic      Method = "basic"      // password of "Authorization: Basic"
	MethodCookie     Method = "cookie"     // login cookie
)

// Principal is an authenticated user. Identity is (Issuer, Subject), never a
// name or an e-mail address.
type Principal struct {
	Issuer      string
	Subject     string
	DisplayName string
	Workspaces  []string // those it may use; the first is its default
	Owner       bool     // the single user of a server without a user list
	Method      Method
	// Credential names the long-lived credential that this one comes from,
	// without revealing it: what is made with it dies with it.
	Credential string
	// Revoked is closed when the credential stops being valid (logout,
	// revocation); open WebSockets then end. Nil means it never is.
	Revoked <-chan struct{}
}

// Member reports whether the principal may use a workspace.
func (p Principal) Member(workspace string) bool {
	return slices.Contains(p.Workspaces, workspace)
}

// Authenticator finds out who made a request. Safe for concurrent use.
type Authenticator interface {
	// Authenticate returns ErrNoCredentials or ErrDenied (wrapped) when there
	// is no principal; any other error means that it could not be found out,
	// and the caller answers 503.
	Authenticate(ctx context.Context, r *http.Request) (Principal, error)
}

// Access is the access class of a route. Every route has exactly one.
type Access string

// The access classes and what an anonymous request gets from them.
const (
	Public Access = "public" // served to anyone
	API    Access = "api"    // 403 with a JSON body
	Page   Access = "page"   // 302 to the login page
	Socket Access = "socket" // 403 before the upgrade
	Admin  Access = "admin"  // 403, and 404 for users: it is for who runs the server
)
