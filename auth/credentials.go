package auth

import (
	"context"
	"encoding/base64"
	"net/http"
	"strings"
)

// Credentials are what a request presents, unchecked. The server finds them,
// because paths and cookie names are its business, and hands them to an
// Authenticator in the context.
type Credentials struct {
	// Capability is the secret in the URL path. When there is one, nothing
	// else counts.
	Capability string
	// Tokens are tried in order: query, then Authorization header.
	Tokens []string
	// Basic is the password of "Authorization: Basic", tried after Tokens.
	Basic string
	// Cookie is the login cookie's value. It is tried last.
	Cookie string
}

// Empty reports whether nothing was presented.
func (c Credentials) Empty() bool {
	return c.Capability == "" && len(c.Tokens) == 0 && c.Basic == "" && c.Cookie == ""
}

// ReadCredentials finds the credentials of a request in its query, its
// Authorization header and the cookie of that name. Empty ones count as absent:
// jupyter_server's gateway client sends "Authorization: token " when it has no
// token.
func ReadCredentials(r *http.Request, cookie string) Credentials {
	var c Credentials
	if t := r.URL.Query().Get("token"); t != "" {
		c.Tokens = append(c.Tokens, t)
	}
	switch secret, basic := ParseAuthorization(r.Header.Get("Authorization")); {
	case basic:
		c.Basic = secret
	case secret != "":
		c.Tokens = append(c.Tokens, secret)
	}
	if k, err := r.Cookie(cookie); err == nil {
		c.Cookie = k.Value
	}
	return c
}

// ParseAuthorization returns the token of an Authorization header: "token T",
// "Bearer T", or the password of "Basic" (what JUPYTER_GATEWAY_HTTP_PWD sends),
// and whether it is that. Schemes are case-insensitive. It returns "" when there
// is none.
func ParseAuthorization(header string) (secret string, basic bool) {
	scheme, rest, _ := strings.Cut(strings.TrimSpace(header), " ")
	rest = strings.TrimSpace(rest)
	switch strings.ToLower(scheme) {
	case "token", "bearer":
		return rest, false
	case "basic":
		pair, err := base64.StdEncoding.DecodeString(rest)
		if err != nil {
			return "", true
		}
		_, password, _ := strings.Cut(string(pair), ":")
		return password, true
	}
	return "", false
}

type credentialsKey struct{}

// WithCredentials returns a context that carries c.
func WithCredentials(ctx context.Context, c Credentials) context.Context {
	return context.WithValue(ctx, credentialsKey{}, c)
}

// CredentialsFrom returns the credentials that ctx carries, if any.
func CredentialsFrom(ctx context.Context) Credentials {
	c, _ := ctx.Value(credentialsKey{}).(Credentials)
	return c
}
