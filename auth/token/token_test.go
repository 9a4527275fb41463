package token_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"kernelgw/auth"
	"kernelgw/auth/token"
	"kernelgw/kernelgw/registry"
	"kernelgw/kernelgw/registry/memory"
)

const (
	adaToken  = "ada-token-0123456789abcdef"
	ada2Token = "ada-second-0123456789abcdef"
	bobToken  = "bob-token-0123456789abcdef"
)

func users() []token.User {
	return []token.User{
		{Name: "ada", DisplayName: "Ada L", TokenHashes: []string{token.Hash(adaToken), token.Hash(ada2Token)}, Workspaces: []string{"math", "team"}},
		{Name: "bob", TokenHashes: []string{token.Hash(bobToken)}},
	}
}

type fixture struct {
	*token.Authenticator
	store registry.Store
	log   *bytes.Buffer
}

func start(t *testing.T, list []token.User) fixture {
	t.Helper()
	f := fixture{store: memory.New(), log: &bytes.Buffer{}}
	a, err := token.New(token.Options{Users: list, Store: f.store, Log: slog.New(slog.NewTextHandler(f.log, nil))})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(a.Close)
	f.Authenticator = a
	return f
}

func (f fixture) who(c auth.Credentials) (auth.Principal, error) {
	r := httptest.NewRequest("GET", "/", nil)
	return f.Authenticate(auth.WithCredentials(context.Background(), c), r)
}

func (f fixture) must(t *testing.T, c auth.Credentials) auth.Principal {
	t.Helper()
	p, err := f.who(c)
	if err != nil {
		t.Fatalf("refused: %v", err)
	}
	return p
}

func ended(p auth.Principal) bool {
	select {
	case <-p.Revoked:
		return true
	default:
		return false
	}
}

func tokens(t ...string) auth.Credentials { return auth.Credentials{Tokens: t} }

func TestEveryTokenOfAUserWorks(t *testing.T) {
	f := start(t, users())
	for _, secret := range []string{adaToken, ada2Token} {
		p := f.must(t, tokens(secret))
		if p.Subject != "ada" || p.DisplayName != "Ada L" || p.Workspaces[0] != "math" || p.Method != auth.MethodToken || p.Owner {
			t.Errorf("principal = %+v", p)
		}
	}
	if p := f.must(t, tokens(bobToken)); p.Subject != "bob" || p.DisplayName != "bob" || p.Workspaces[0] != "bob" {
		t.Errorf("principal = %+v", p)
	}
	if p := f.must(t, tokens("wrong", bobToken)); p.Subject != "bob" {
		t.Error("the second token given was not tried")
	}
}

func TestTheSingleUserIsTheOwner(t *testing.T) {
	f := start(t, []token.User{token.Single(adaToken)})
	if p := f.must(t, tokens(adaToken)); !p.Owner || !p.Member("default") || len(p.Workspaces) != 1 {
		t.Errorf("principal = %+v", p)
	}
}

func TestWrongCredentials(t *testing.T) {
	f := start(t, users())
	for name, c := range map[string]auth.Credentials{
		"wrong token":     tokens("nope"),
		"empty token":     tokens(""),
		"the hash itself": tokens(token.Hash(adaToken)),
		"a prefix":        tokens(adaToken[:10]),
		"wrong cookie":    {Cookie: "nope"},
		"wrong path":      {Capability: "nope"},
		"token as cookie": {Cookie: adaToken},
		"token as path":   {Capability: adaToken},
		"a wrong capability is not saved by a token": {Capability: "nope", Tokens: []string{adaToken}},
	} {
		if _, err := f.who(c); !errors.Is(err, auth.ErrDenied) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := f.who(auth.Credentials{}); !errors.Is(err, auth.ErrNoCredentials) {
		t.Errorf("no credentials: %v", err)
	}
}

func TestUsersThatCannotBe(t *testing.T) {
	h := token.Hash("x")
	for name, c := range map[string]struct {
		users []token.User
		says  string
	}{
		"none":              {nil, "no users"},
		"no token":          {[]token.User{{Name: "a"}}, "no token"},
		"single, no token":  {[]token.User{token.Single("")}, "no token"},
		"a token, unhashed": {[]token.User{{Name: "a", TokenHashes: []string{"secret"}}}, "SHA-256"},
		"upper case":        {[]token.User{{Name: "a", TokenHashes: []string{strings.ToUpper(h)}}}, "lower-case"},
		"hash of nothing":   {[]token.User{{Name: "a", TokenHashes: []string{token.Hash("")}}}, "nothing"},
		"twice":             {[]token.User{{Name: "a", TokenHashes: []string{h}}, {Name: "a", TokenHashes: []string{token.Hash("y")}}}, "twice"},
		"same token":        {[]token.User{{Name: "a", TokenHashes: []string{h}}, {Name: "b", TokenHashes: []string{h}}}, "same token"},
		"no name":           {[]token.User{{TokenHashes: []string{h}}}, "name"},
		"path as workspace": {[]token.User{{Name: "a", TokenHashes: []string{h}, Workspaces: []string{"../b"}}}, "workspace"},
		"dots as workspace": {[]token.User{{Name: "a", TokenHashes: []string{h}, Workspaces: []string{"a..b"}}}, "workspace"},
	} {
		_, err := token.New(token.Options{Users: c.users, Store: memory.New(), Log: slog.New(slog.DiscardHandler)})
		if err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestNothingSecretIsStored(t *testing.T) {
	f := start(t, users())
	ctx := context.Background()
	p := f.must(t, tokens(adaToken))
	login, err := f.Login(ctx, p)
	if err != nil {
		t.Fatal(err)
	}
	capability, _, err := f.Grant(ctx, p, auth.Capability{Workspace: "math"})
	if err != nil {
		t.Fatal(err)
	}
	for _, kind := range []registry.Kind{registry.Logins, registry.Capabilities} {
		list, err := f.store.List(ctx, kind)
		if err != nil || len(list) != 1 {
			t.Fatalf("%s: %v, %v", kind, list, err)
		}
		for _, secret := range []string{adaToken, login, capability} {
			if strings.Contains(list[0].ID+string(list[0].Value), secret) {
				t.Errorf("%s: a secret is stored: %s", kind, list[0].Value)
			}
		}
	}
}

func TestLogoutEndsALoginAndWhatHangsOnIt(t *testing.T) {
	f := start(t, users())
	ctx := context.Background()
	one, err := f.Login(ctx, f.must(t, tokens(adaToken)))
	if err != nil {
		t.Fatal(err)
	}
	other, err := f.Login(ctx, f.must(t, tokens(adaToken)))
	if err != nil {
		t.Fatal(err)
	}
	p, q := f.must(t, auth.Credentials{Cookie: one}), f.must(t, auth.Credentials{Cookie: other})
	if p.Method != auth.MethodCookie || p.Subject != "ada" || len(p.Workspaces) != 2 {
		t.Errorf("principal = %+v", p)
	}
	if err := f.Logout(ctx, one); err != nil {
		t.Fatal(err)
	}
	if !ended(p) || ended(q) {
		t.Errorf("after the logout of the first: first ended %v, second ended %v", ended(p), ended(q))
	}
	if _, err := f.who(auth.Credentials{Cookie: one}); !errors.Is(err, auth.ErrDenied) {
		t.Errorf("logged out: %v", err)
	}
	f.must(t, auth.Credentials{Cookie: other})
	if err := f.Logout(ctx, "unknown"); err != nil {
		t.Errorf("logging out what does not exist: %v", err)
	}
}

func TestLoginsExpireAfter30Days(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := start(t, users())
		defer f.Close()
		secret, err := f.Login(context.Background(), f.must(t, tokens(adaToken)))
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(auth.LoginLifetime - time.Second)
		p := f.must(t, auth.Credentials{Cookie: secret})
		time.Sleep(2 * time.Second)
		synctest.Wait()
		if !ended(p) {
			t.Error("an open WebSocket would outlive the login")
		}
		if _, err := f.who(auth.Credentials{Cookie: secret}); !errors.Is(err, auth.ErrDenied) {
			t.Errorf("expired: %v", err)
		}
	})
}

func TestCapabilitiesExpire(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := start(t, users())
		defer f.Close()
		ctx, ada := context.Background(), f.must(t, tokens(adaToken))
		secret, _, err := f.Grant(ctx, ada, auth.Capability{Workspace: "team", Expires: time.Now().Add(time.Hour)})
		if err != nil {
			t.Fatal(err)
		}
		p := f.must(t, auth.Credentials{Capability: secret})
		time.Sleep(time.Hour + time.Second)
		synctest.Wait()
		if !ended(p) {
			t.Error("an open WebSocket would outlive the capability")
		}
		if _, err := f.who(auth.Credentials{Capability: secret}); !errors.Is(err, auth.ErrDenied) {
			t.Errorf("expired: %v", err)
		}
		if list, err := f.Granted(ctx, ada); err != nil || len(list) != 0 {
			t.Errorf("expired capabilities are listed: %v, %v", list, err)
		}
	})
}

func TestACapabilityReachesOneWorkspaceOfOneUser(t *testing.T) {
	f := start(t, []token.User{token.Single(adaToken)})
	ctx := context.Background()
	secret, made, err := f.Grant(ctx, f.must(t, tokens(adaToken)), auth.Capability{Workspace: "default", Label: "papermill"})
	if err != nil {
		t.Fatal(err)
	}
	if len(secret) != 64 || strings.ToLower(secret) != secret || strings.Contains(secret, "http") {
		t.Errorf("nbclient would change the secret %q", secret)
	}
	p := f.must(t, auth.Credentials{Capability: secret})
	if p.Method != auth.MethodCapability || p.Owner || len(p.Workspaces) != 1 || !p.Member("default") {
		t.Errorf("principal = %+v", p)
	}
	if strings.Contains(secret, made.ID) {
		t.Error("the id is part of the secret")
	}
}

func TestRevokedCapabilitiesEndAtOnceAndOnlyByTheirUser(t *testing.T) {
	f := start(t, users())
	ctx := context.Background()
	ada, bob := f.must(t, tokens(adaToken)), f.must(t, tokens(bobToken))
	secret, made, err := f.Grant(ctx, ada, auth.Capability{Workspace: "math", Label: "nightly"})
	if err != nil {
		t.Fatal(err)
	}
	if list, err := f.Granted(ctx, ada); err != nil || len(list) != 1 || list[0] != made {
		t.Errorf("listed: %v, %v", list, err)
	}
	if list, err := f.Granted(ctx, bob); err != nil || len(list) != 0 {
		t.Errorf("bob sees %v, %v", list, err)
	}
	if err := f.Revoke(ctx, bob, made.ID); !errors.Is(err, auth.ErrNotFound) {
		t.Errorf("bob revokes: %v", err)
	}
	p := f.must(t, auth.Credentials{Capability: secret})
	if err := f.Revoke(ctx, ada, made.ID); err != nil {
		t.Fatal(err)
	}
	if !ended(p) {
		t.Error("an open WebSocket would outlive the revocation")
	}
	if _, err := f.who(auth.Credentials{Capability: secret}); !errors.Is(err, auth.ErrDenied) {
		t.Errorf("revoked: %v", err)
	}
}

// CVE-2026-40934, CVE-2021-41247: what was made with a token dies with it.
func TestRemovedTokensAndUsersTakeEverythingWithThem(t *testing.T) {
	for name, change := range map[string]func([]token.User) []token.User{
		"token removed": func(u []token.User) []token.User { u[0].TokenHashes = u[0].TokenHashes[1:]; return u },
		"user removed":  func(u []token.User) []token.User { return u[1:] },
		"renamed":       func(u []token.User) []token.User { u[0].Name = "eve"; return u },
	} {
		t.Run(name, func(t *testing.T) {
			f := start(t, users())
			ctx := context.Background()
			byToken := f.must(t, tokens(adaToken))
			login, err := f.Login(ctx, byToken)
			if err != nil {
				t.Fatal(err)
			}
			capability, _, err := f.Grant(ctx, byToken, auth.Capability{Workspace: "math"})
			if err != nil {
				t.Fatal(err)
			}
			byCookie, byPath := f.must(t, auth.Credentials{Cookie: login}), f.must(t, auth.Credentials{Capability: capability})
			bob := f.must(t, tokens(bobToken))
			if err := f.Update(change(users())); err != nil {
				t.Fatal(err)
			}
			if !ended(byToken) || !ended(byCookie) || !ended(byPath) {
				t.Errorf("still open: token %v, cookie %v, path %v", !ended(byToken), !ended(byCookie), !ended(byPath))
			}
			if ended(bob) {
				t.Error("another user was revoked")
			}
			for _, c := range []auth.Credentials{{Cookie: login}, {Capability: capability}} {
				if _, err := f.who(c); !errors.Is(err, auth.ErrDenied) {
					t.Errorf("%+v: %v", c, err)
				}
			}
		})
	}
}

func TestALostWorkspaceRevokes(t *testing.T) {
	f := start(t, users())
	ctx := context.Background()
	ada := f.must(t, tokens(adaToken))
	team, _, err := f.Grant(ctx, ada, auth.Capability{Workspace: "team"})
	if err != nil {
		t.Fatal(err)
	}
	math, _, err := f.Grant(ctx, ada, auth.Capability{Workspace: "math"})
	if err != nil {
		t.Fatal(err)
	}
	inTeam, inMath := f.must(t, auth.Credentials{Capability: team}), f.must(t, auth.Credentials{Capability: math})
	u := users()
	u[0].Workspaces = []string{"math"}
	if err := f.Update(u); err != nil {
		t.Fatal(err)
	}
	if !ended(inTeam) || ended(inMath) {
		t.Errorf("team ended %v, math ended %v", ended(inTeam), ended(inMath))
	}
	if _, err := f.who(auth.Credentials{Capability: team}); !errors.Is(err, auth.ErrDenied) {
		t.Errorf("a capability for a lost workspace: %v", err)
	}
	f.must(t, auth.Credentials{Capability: math})
}

func TestLoginsSurviveARestartWithTheSameUsers(t *testing.T) {
	f := start(t, users())
	secret, err := f.Login(context.Background(), f.must(t, tokens(adaToken)))
	if err != nil {
		t.Fatal(err)
	}
	again, err := token.New(token.Options{Users: users(), Store: f.store, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	f.Authenticator = again
	f.must(t, auth.Credentials{Cookie: secret})
}

func TestLoginsAndCapabilitiesAreBounded(t *testing.T) {
	f := start(t, users())
	ctx := context.Background()
	ada := f.must(t, tokens(adaToken))
	var first string
	for i := range 70 {
		secret, err := f.Login(ctx, ada)
		if err != nil {
			t.Fatal(err)
		}
		if i == 0 {
			first = secret
		}
	}
	if list, err := f.store.List(ctx, registry.Logins); err != nil || len(list) != 64 {
		t.Errorf("%d logins are kept, %v", len(list), err)
	}
	if _, err := f.who(auth.Credentials{Cookie: first}); !errors.Is(err, auth.ErrDenied) {
		t.Errorf("the oldest login: %v", err)
	}
	var err error
	for range 300 {
		if _, _, err = f.Grant(ctx, ada, auth.Capability{Workspace: "math"}); err != nil {
			break
		}
	}
	if !errors.Is(err, auth.ErrTooMany) {
		t.Errorf("300 capabilities: %v", err)
	}
}

// 64 logins that nobody uses would end the one that a browser works with.
func TestLoginsInUseOutliveThoseThatAreNot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := start(t, users())
		defer f.Close()
		ctx := context.Background()
		ada := f.must(t, tokens(adaToken))
		login := func() string {
			t.Helper()
			time.Sleep(time.Second)
			secret, err := f.Login(ctx, ada)
			if err != nil {
				t.Fatal(err)
			}
			return secret
		}
		browser, asleep := login(), login()
		f.must(t, auth.Credentials{Cookie: asleep})
		time.Sleep(time.Second)
		working := f.must(t, auth.Credentials{Cookie: browser})
		for range 70 {
			login()
		}
		if ended(working) {
			t.Fatal("the login in use was ended for ones that nobody used")
		}
		f.must(t, auth.Credentials{Cookie: asleep})
		f.must(t, auth.Credentials{Cookie: browser})
		// Among those in use, who was away longest goes first.
		used := map[string]bool{}
		for range 63 {
			secret := login()
			f.must(t, auth.Credentials{Cookie: secret})
			f.must(t, auth.Credentials{Cookie: browser})
			used[secret] = true
		}
		if _, err := f.who(auth.Credentials{Cookie: asleep}); !errors.Is(err, auth.ErrDenied) {
			t.Errorf("the login that was away longest: %v", err)
		}
		for secret := range used {
			f.must(t, auth.Credentials{Cookie: secret})
		}
		f.must(t, auth.Credentials{Cookie: browser})
	})
}

func TestDamagedRecordsAreRefused(t *testing.T) {
	f := start(t, users())
	ctx := context.Background()
	for _, kind := range []registry.Kind{registry.Logins, registry.Capabilities} {
		if _, err := f.store.Put(ctx, registry.Record{Kind: kind, ID: token.Hash("x"), Value: []byte(`{"user":7}`)}); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []auth.Credentials{{Cookie: "x"}, {Capability: "x"}} {
		if _, err := f.who(c); !errors.Is(err, auth.ErrDenied) {
			t.Errorf("%+v: %v", c, err)
		}
	}
}

type brokenStore struct{ registry.Store }

func (brokenStore) Get(context.Context, registry.Kind, string) (registry.Record, error) {
	return registry.Record{}, errors.New("the disk is gone")
}

func TestAStoreThatFailsIsNoRefusal(t *testing.T) {
	a, err := token.New(token.Options{Users: users(), Store: brokenStore{memory.New()}, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	f := fixture{Authenticator: a}
	for _, c := range []auth.Credentials{{Cookie: "x"}, {Capability: "x"}} {
		if _, err := f.who(c); err == nil || errors.Is(err, auth.ErrDenied) || errors.Is(err, auth.ErrNoCredentials) {
			t.Errorf("%+v: %v", c, err)
		}
	}
}

// CVE-2026-54338: an unbounded username was logged at each failed login.
func TestGuessingNeitherFillsTheLogNorAppearsInIt(t *testing.T) {
	f := start(t, users())
	huge := strings.Repeat("guess", 2<<20)
	if _, err := f.who(tokens(huge)); !errors.Is(err, auth.ErrDenied) {
		t.Fatal(err)
	}
	for i := range 1000 {
		guess := fmt.Sprintf("guess-%d", i)
		for _, c := range []auth.Credentials{tokens(guess), {Cookie: guess}, {Capability: guess}} {
			if _, err := f.who(c); !errors.Is(err, auth.ErrDenied) {
				t.Fatal(err)
			}
		}
	}
	if n := strings.Count(f.log.String(), "\n"); n == 0 || n > 50 {
		t.Errorf("3001 refusals made %d lines", n)
	}
	if f.log.Len() > 10000 || strings.Contains(f.log.String(), "guess") {
		t.Errorf("the log holds what was guessed, or is too long: %d bytes", f.log.Len())
	}
}
