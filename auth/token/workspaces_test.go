package token_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"kernelgw/auth"
	"kernelgw/auth/token"
	"kernelgw/kernelgw/registry"
	"kernelgw/kernelgw/registry/memory"
)

func usersOf(t *testing.T, store registry.Store, users ...token.User) *token.Authenticator {
	t.Helper()
	a, err := token.New(token.Options{Users: users, Store: store, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(a.Close)
	return a
}

func principalOf(t *testing.T, a *token.Authenticator, secret string) auth.Principal {
	t.Helper()
	ctx := auth.WithCredentials(context.Background(), auth.Credentials{Tokens: []string{secret}})
	p, err := a.Authenticate(ctx, httptest.NewRequest("GET", "/", nil))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// User a-b with workspace c and user a with b-c once were the same place
// (CVE-2020-15110).
func TestMadeWorkspacesOfUsersDoNotCollide(t *testing.T) {
	store := memory.New()
	list := []token.User{
		{Name: "a", TokenHashes: []string{token.Hash("a")}, Workspaces: []string{"team"}},
		{Name: "a-b", TokenHashes: []string{token.Hash("a-b")}},
	}
	users := usersOf(t, store, list...)
	first, err := users.MakeWorkspace(t.Context(), principalOf(t, users, "a"), "b-c")
	if err != nil {
		t.Fatal(err)
	}
	second, err := users.MakeWorkspace(t.Context(), principalOf(t, users, "a-b"), "c")
	if err != nil {
		t.Fatal(err)
	}
	if first == second || strings.EqualFold(first, second) {
		t.Errorf("both are %q", first)
	}
	// The same name is free for everyone: that another has it is no news.
	if _, err := users.MakeWorkspace(t.Context(), principalOf(t, users, "a-b"), "b-c"); err != nil {
		t.Errorf("a name that another user took: %v", err)
	}
	for range 2 {
		p := principalOf(t, users, "a")
		if !slices.Equal(p.Workspaces, []string{"team", first}) || p.Member(second) {
			t.Errorf("a's workspaces are %q", p.Workspaces)
		}
		users = usersOf(t, store, list...) // and after a restart
	}
	if _, err := users.MakeWorkspace(t.Context(), principalOf(t, users, "a"), "b-c"); !errors.Is(err, auth.ErrTaken) {
		t.Errorf("a name of one's own again: %v", err)
	}
}

// A server of one user becomes one of many, and one of those is called as the one
// was.
func TestWorkspacesOfTheSingleUserAreNotThoseOfAUserOfItsName(t *testing.T) {
	store := memory.New()
	single := token.Single("secret")
	users := usersOf(t, store, single)
	if _, err := users.MakeWorkspace(t.Context(), principalOf(t, users, "secret"), "alice"); err != nil {
		t.Fatal(err)
	}
	users = usersOf(t, store,
		token.User{Name: single.Name, TokenHashes: []string{token.Hash("o")}}, token.User{Name: "alice", TokenHashes: []string{token.Hash("a")}})
	if p := principalOf(t, users, "o"); p.Member("alice") {
		t.Errorf("user %s is in %q", p.Subject, p.Workspaces)
	}
	if users = usersOf(t, store, single); !principalOf(t, users, "secret").Member("alice") {
		t.Error("the single user has lost a workspace")
	}
}

func TestMadeWorkspacesGoWithTheirUser(t *testing.T) {
	a := token.User{Name: "a", TokenHashes: []string{token.Hash("a")}}
	b := token.User{Name: "b", TokenHashes: []string{token.Hash("b")}}
	users := usersOf(t, memory.New(), a, b)
	p := principalOf(t, users, "a")
	made, err := users.MakeWorkspace(t.Context(), p, "x")
	if err != nil {
		t.Fatal(err)
	}
	secret, _, err := users.Grant(t.Context(), principalOf(t, users, "a"), auth.Capability{Workspace: made})
	if err != nil {
		t.Fatal(err)
	}
	through := auth.WithCredentials(t.Context(), auth.Credentials{Capability: secret})
	if got, err := users.Authenticate(through, httptest.NewRequest("GET", "/", nil)); err != nil || !got.Member(made) {
		t.Errorf("through a capability: %+v, %v", got, err)
	}
	if err := users.Update([]token.User{a, b}); err != nil {
		t.Fatal(err)
	}
	select {
	case <-p.Revoked:
		t.Error("reading the same users again revoked who made a workspace")
	default:
	}
	if err := users.Update([]token.User{b}); err != nil {
		t.Fatal(err)
	}
	if _, err := users.MakeWorkspace(t.Context(), p, "y"); !errors.Is(err, auth.ErrDenied) {
		t.Errorf("a user who is gone made a workspace: %v", err)
	}
	if _, err := users.Authenticate(through, httptest.NewRequest("GET", "/", nil)); !errors.Is(err, auth.ErrDenied) {
		t.Errorf("the capability of a user who is gone: %v", err)
	}
}

func TestNamesThatWorkspacesCannotHave(t *testing.T) {
	users := usersOf(t, memory.New(), token.User{Name: "a", TokenHashes: []string{token.Hash("a")}})
	p := principalOf(t, users, "a")
	for _, name := range []string{"", ".", "..", "../x", "a/b", `a\b`, "a~b", "a b", "-a", "é", "a\x00", "a%2fb", strings.Repeat("x", 41), "<b>"} {
		if made, err := users.MakeWorkspace(t.Context(), p, name); !errors.Is(err, auth.ErrName) {
			t.Errorf("%q made %q, %v", name, made, err)
		}
	}
	for i := range 100 {
		if _, err := users.MakeWorkspace(t.Context(), p, fmt.Sprint("w", i)); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := users.MakeWorkspace(t.Context(), p, "more"); !errors.Is(err, auth.ErrTooMany) {
		t.Errorf("number 101: %v", err)
	}
}
