package kernelgw_test

import (
	"context"
	"encoding/json"
	"flag"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"kernelgw/auth"
	"kernelgw/auth/token"
	"kernelgw/kernelgw"
	"kernelgw/kernelgw/registry"
)

var update = flag.Bool("update", false, "rewrite docs/routes.md")

func TestRoutesDoc(t *testing.T) {
	const file = "../docs/routes.md"
	want := kernelgw.RoutesDoc()
	if *update {
		if err := os.WriteFile(file, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(file)
	if err != nil {
		t.Fatalf("%v; run go test ./kernelgw -run TestRoutesDoc -update", err)
	}
	if string(got) != want {
		t.Error("docs/routes.md is stale; run go test ./kernelgw -run TestRoutesDoc -update")
	}
}

// TestPublicRoutesAreTheseOnly is the review of what anyone may call.
func TestPublicRoutesAreTheseOnly(t *testing.T) {
	var public []string
	for _, r := range kernelgw.Routes() {
		if r.Access == auth.Public && r.Method != http.MethodOptions {
			public = append(public, r.Method+" "+r.Path)
		}
	}
	want := []string{
		"GET api", "POST api/security/csp-report", "GET ", "GET login", "POST login", "GET logout", "GET favicon.ico", "GET robots.txt",
		"GET healthz", "HEAD healthz", "GET readyz", "HEAD readyz",
		"GET static/*", "HEAD static/*", "GET lab/extensions/*", "HEAD lab/extensions/*", "GET lab/api/themes/*", "HEAD lab/api/themes/*",
		"GET custom/custom.css", "HEAD custom/custom.css",
	}
	if !slices.Equal(public, want) {
		t.Errorf("public routes are %q, want %q", public, want)
	}
}

// paths returns the concrete paths of a route: its parameters filled in, with a
// workspace and a capability mount.
func paths(r kernelgw.Route, workspace, capability, id string) map[kernelgw.Mount]string {
	all := map[kernelgw.Mount]string{}
	for _, m := range r.Mounts {
		all[m] = strings.NewReplacer(":workspace", workspace, ":capability", capability, ":id", id, ":name", "python3",
			":profile", "goroutine", ":file", "logo-64x64.png", "*", "a/b.ipynb").Replace(r.At("/", m))
	}
	return all
}

// socketHeaders make a request a WebSocket handshake, for routes that are one.
func socketHeaders(r kernelgw.Route) []string {
	if r.Access != auth.Socket {
		return nil
	}
	return upgradeHeaders
}

// TestEveryRouteRefusesWhoMayNotCall walks the whole table, WebSockets before
// the upgrade included, with every kind of bad credential.
func TestEveryRouteRefusesWhoMayNotCall(t *testing.T) {
	g := start(t)
	kernel := g.kernel("math")
	host := strings.NewReplacer(".", "-", ":", "-").Replace(strings.TrimPrefix(g.url, "http://"))
	cookie := "Cookie: kernelgw-" + host + "="
	expiredLogin, revokedPath, expiredPath := g.expiredLogin(), g.revokedCapability(), g.expiredCapability()
	bad := map[string]struct {
		query, capability string
		headers           []string
	}{
		"absent":                      {capability: "0000"},
		"empty header":                {capability: "0000", headers: []string{"Authorization: token "}},
		"empty query":                 {capability: "0000", query: "?token="},
		"wrong header":                {capability: "0000", headers: []string{"Authorization: token wrong"}},
		"wrong bearer":                {capability: "0000", headers: []string{"Authorization: Bearer wrong"}},
		"wrong query":                 {capability: "0000", query: "?token=wrong"},
		"wrong cookie":                {capability: "0000", headers: []string{cookie + "wrong"}},
		"expired cookie":              {capability: "0000", headers: []string{cookie + expiredLogin}},
		"expired capability":          {capability: expiredPath},
		"revoked capability":          {capability: revokedPath},
		"capability saved by a token": {capability: "0000", headers: []string{"Authorization: token " + adaToken}},
		"session id as token":         {capability: "0000", headers: []string{"Authorization: token " + kernel}},
	}
	checked := 0
	for _, r := range kernelgw.Routes() {
		if r.Access == auth.Public {
			continue
		}
		for mount, path := range paths(r, "math", "CAP", kernel) {
			for name, c := range bad {
				switch {
				case mount != kernelgw.Capability && (name == "capability saved by a token" || strings.HasSuffix(name, " capability")):
					continue
				}
				path := strings.Replace(path, "CAP", c.capability, 1)
				got := g.do(r.Method, path+c.query, "", append(socketHeaders(r), c.headers...)...)
				checked++
				switch {
				case r.Access == auth.Page && r.Method != http.MethodPost: // a form is not come back to
					location := got.Header.Get("Location")
					if got.StatusCode != http.StatusFound || !strings.Contains(location, "/login?next=") {
						t.Errorf("%s %s, %s: %d to %q", r.Method, path, name, got.StatusCode, location)
					}
					if strings.Contains(location, "wrong") || (c.capability != "0000" && strings.Contains(location, c.capability)) {
						t.Errorf("%s %s, %s: a credential in %q", r.Method, path, name, location)
					}
				default:
					if got.StatusCode != http.StatusForbidden {
						t.Errorf("%s %s, %s: %d %s", r.Method, path, name, got.StatusCode, got.body)
						continue
					}
					if r.Method == http.MethodHead {
						continue
					}
					var body struct{ Message string }
					if json.Unmarshal([]byte(got.body), &body) != nil || body.Message != "Forbidden" {
						t.Errorf("%s %s, %s: body %q", r.Method, path, name, got.body)
					}
				}
			}
		}
	}
	if checked < 400 {
		t.Errorf("only %d requests were made", checked)
	}
}

// TestForeignTokensSee404 walks the table with a valid token of somebody else:
// bob asks for ada's workspace, and for ada's kernel in his own.
func TestForeignTokensSee404(t *testing.T) {
	g := start(t)
	kernel := g.kernel("math")
	capability := strings.TrimPrefix(g.bobsCapability(), "/t/")
	g.file("math", "a/b.ipynb", "{}")
	g.file("bob", "a/b.ipynb", "{}")
	terminals := agent(t, func(*websocket.Conn, *http.Request) {})
	for _, r := range kernelgw.Routes() {
		if r.Access == auth.Public {
			continue
		}
		for mount, path := range paths(r, "math", capability, kernel) {
			g.kernels.set(func(f *fakeKernels) { f.agent, f.shells = terminals, []shell{{"bob", "python3", ""}} })
			foreign := mount == kernelgw.Workspace || r.Access == auth.Admin || strings.Contains(r.Path, ":id") || strings.Contains(r.Path, ":workspace")
			got := g.do(r.Method, path, "", append(socketHeaders(r), "Authorization: token "+bobToken)...)
			if foreign && got.StatusCode != http.StatusNotFound && r.Method != http.MethodPatch {
				t.Errorf("%s %s: %d %s, want 404", r.Method, path, got.StatusCode, got.body)
			}
			if foreign && r.Method == http.MethodPatch && got.StatusCode != http.StatusNotFound && got.StatusCode != http.StatusBadRequest {
				t.Errorf("%s %s: %d %s, want 404", r.Method, path, got.StatusCode, got.body)
			}
			absent := got.StatusCode == http.StatusNotFound && !strings.Contains(r.Path, "*") // of which only files are there
			if !foreign && (absent || got.StatusCode >= 500) {
				t.Errorf("%s %s: %d %s for bob himself", r.Method, path, got.StatusCode, got.body)
			}
		}
	}
	g.want(g.ada("GET", "/api/kernels/"+kernel, ""), http.StatusOK)
}

// TestTrailingSlashesAndUnknownKeysChangeNothing: clients send both.
func TestTrailingSlashesAndUnknownKeysChangeNothing(t *testing.T) {
	g := start(t)
	kernel := g.kernel("math")
	capability := strings.TrimPrefix(g.capability("math"), "/t/")
	for _, r := range kernelgw.Routes() {
		if r.Method != http.MethodGet || r.Access == auth.Socket || r.Path == "logout" {
			continue
		}
		for _, path := range paths(r, "math", capability, kernel) {
			plain := g.ada("GET", path, "")
			for _, variant := range []string{
				strings.TrimSuffix(path, "/") + "/", path + "?1795502306591", path + "?x=1&contentProviderId=undefined&1795502306591",
			} {
				if got := g.ada("GET", variant, ""); got.StatusCode != plain.StatusCode {
					t.Errorf("GET %s: %d, but %s: %d", path, plain.StatusCode, variant, got.StatusCode)
				}
			}
		}
	}
}

func TestWhatIsNotInTheTableIsNotThere(t *testing.T) {
	g := start(t)
	capability := g.capability("math")
	for _, path := range []string{
		"/hub/api", "/api/contents/x", "/files", "/api/config", "/lab/extensions/x", "/api/kernels/x/y/z", "/debug/pprof", "/debug/pprof/cmdline",
		"/debug/vars", "/static/x", "//api", "/api//kernels", "/API", "/v1/workspaces/math/files/x", "/w/math/home",
		"/w", "/w/math/w/math/api", "/w/math/v1/capabilities", "/t", capability + "/v1/capabilities", capability + "/login",
		capability + "/api/shutdown", capability + "/metrics", capability + "/healthz", "/w/..%2fmath/api/me", "/..", "/%2e%2e/api",
		"/api/kernels/..", "/.git/config", "/api/kernelspecs/python3/x",
	} {
		for name, got := range map[string]reply{"anonymous": g.do("GET", path, ""), "ada": g.ada("GET", path, "")} {
			if got.StatusCode != http.StatusNotFound && (name == "ada" || got.StatusCode != http.StatusForbidden) {
				t.Errorf("%s: GET %s: %d", name, path, got.StatusCode)
				continue
			}
			var body struct{ Message string }
			if json.Unmarshal([]byte(got.body), &body) != nil || body.Message == "" {
				t.Errorf("%s: GET %s: body %q is no error of ours", name, path, got.body)
			}
		}
	}
}

func TestWrongMethodsAnswer405(t *testing.T) {
	g := start(t)
	for path, method := range map[string]string{
		"/api": "DELETE", "/api/kernels": "PUT", "/api/sessions": "DELETE", "/api/kernelspecs": "POST", "/login": "PUT", "/api/me": "BREW",
	} {
		got := g.want(g.ada(method, path, ""), http.StatusMethodNotAllowed)
		var body struct{ Message string }
		got.json(t, &body)
		if body.Message != "Method Not Allowed" || got.Header.Get("Allow") == "" {
			t.Errorf("%s %s: %q, Allow %q", method, path, got.body, got.Header.Get("Allow"))
		}
	}
}

func TestEveryPathAnswersPreflights(t *testing.T) {
	g := start(t, func(o *kernelgw.Options) {
		o.AllowOrigins = []string{"https://editor.test"}
		o.AllowCredentials = true
	})
	for _, r := range kernelgw.Routes() {
		for _, path := range paths(r, "math", "0000", "5b6f0f0e-aaaa-bbbb-cccc-0123456789ab") {
			for origin, want := range map[string]string{"https://editor.test": "https://editor.test", "https://evil.test": ""} {
				got := g.do("OPTIONS", path, "", "Origin: "+origin, "Access-Control-Request-Method: "+r.Method)
				h := got.Header
				if got.StatusCode != http.StatusOK || h.Get("Access-Control-Allow-Origin") != want ||
					h.Get("Access-Control-Allow-Headers") != "accept, content-type, authorization, x-xsrftoken, if-match, if-none-match, last-event-id" ||
					h.Get("Access-Control-Allow-Methods") != "GET, PUT, POST, PATCH, DELETE, OPTIONS" ||
					(h.Get("Access-Control-Allow-Credentials") == "true") != (want != "") {
					t.Fatalf("OPTIONS %s from %s: %d %v", path, origin, got.StatusCode, h)
				}
			}
		}
	}
}

func TestBaseURLIsBeforeEverything(t *testing.T) {
	g := start(t, func(o *kernelgw.Options) { o.BaseURL = "/hub-x/" })
	g.want(g.do("GET", "/hub-x/api", ""), http.StatusOK)
	g.want(g.do("GET", "/api", ""), http.StatusNotFound)
	g.want(g.do("GET", "/healthz", ""), http.StatusOK)
	g.want(g.do("GET", "/hub-x/healthz", ""), http.StatusOK)
	for mount, base := range map[string]string{
		"/hub-x/": "/hub-x/", "/hub-x/w/team/": "/hub-x/w/team/", "/hub-x" + g.capabilityUnder("/hub-x") + "/": "",
	} {
		if base == "" {
			base = mount
		}
		created := g.want(g.ada("POST", mount+"api/kernels", ""), http.StatusCreated)
		if l := created.Header.Get("Location"); !strings.HasPrefix(l, base+"api/kernels/") {
			t.Errorf("under %s: Location %q", mount, l)
		}
		var specs struct {
			Kernelspecs map[string]struct{ Resources map[string]string }
		}
		g.want(g.ada("GET", mount+"api/kernelspecs", ""), http.StatusOK).json(t, &specs)
		logo := specs.Kernelspecs["python3"].Resources["logo-64x64"]
		if logo != base+"kernelspecs/python3/logo-64x64.png" {
			t.Errorf("under %s: logo %q", mount, logo)
		}
		g.want(g.ada("GET", logo, ""), http.StatusOK)
	}
	page := g.want(g.do("GET", "/hub-x/tree?token=old", ""), http.StatusFound)
	if l := page.Header.Get("Location"); l != "/hub-x/login?next=%2Fhub-x%2Ftree" {
		t.Errorf("login at %q", l)
	}
	if l := g.do("GET", "/hub-x/w/team/lab", "").Header.Get("Location"); l != "/hub-x/w/team/login?next=%2Fhub-x%2Fw%2Fteam%2Flab" {
		t.Errorf("login at %q", l)
	}
	csp := g.do("GET", "/hub-x/api", "").Header.Get("Content-Security-Policy")
	if csp != "frame-ancestors 'self'; report-uri /hub-x/api/security/csp-report; default-src 'none'" {
		t.Errorf("CSP %q", csp)
	}
	for from, to := range map[string]string{"/": "/hub-x/", "/?token=x&y": "/hub-x/?token=x&y"} {
		if got := g.want(g.navigate(from), 302).Header.Get("Location"); got != to {
			t.Errorf("the bare host's %s leads to %q, want %q", from, got, to)
		}
	}
	cookie := g.navigate("/hub-x/?token=" + adaToken).Header.Get("Set-Cookie")
	if !strings.Contains(cookie, "; Path=/hub-x/;") {
		t.Errorf("cookie %q", cookie)
	}
}

func TestBaseURLsThatCannotBe(t *testing.T) {
	for _, base := range []string{"prefix", "/prefix", "prefix/", "//", "/a//b/", "/:x/", "/*/", "/a b/", "/é/", "/a?b/"} {
		if _, err := kernelgw.New(kernelgw.Options{BaseURL: base}); err == nil || !strings.Contains(err.Error(), "base URL") {
			t.Errorf("base URL %q: %v", base, err)
		}
	}
}

// kernel starts a kernel in one of ada's workspaces.
func (g *gateway) kernel(workspace string) string {
	g.t.Helper()
	var k struct{ ID string }
	g.want(g.ada("POST", "/w/"+workspace+"/api/kernels", ""), http.StatusCreated).json(g.t, &k)
	return k.ID
}

func (g *gateway) principal(secret string) auth.Principal {
	g.t.Helper()
	ctx := auth.WithCredentials(context.Background(), auth.Credentials{Tokens: []string{secret}})
	p, err := g.users.Authenticate(ctx, &http.Request{})
	if err != nil {
		g.t.Fatal(err)
	}
	return p
}

// expiredLogin returns the secret of a login of ada's that expired a minute ago.
func (g *gateway) expiredLogin() string {
	g.t.Helper()
	secret, err := g.users.Login(context.Background(), g.principal(adaToken))
	if err != nil {
		g.t.Fatal(err)
	}
	record, err := g.store.Get(context.Background(), registry.Logins, token.Hash(secret))
	if err != nil {
		g.t.Fatal(err)
	}
	var login map[string]any
	if err := json.Unmarshal(record.Value, &login); err != nil {
		g.t.Fatal(err)
	}
	login["expires"] = time.Now().Add(-time.Minute)
	if record.Value, err = json.Marshal(login); err != nil {
		g.t.Fatal(err)
	}
	if _, err := g.store.Put(context.Background(), record); err != nil {
		g.t.Fatal(err)
	}
	return secret
}

func (g *gateway) expiredCapability() string {
	g.t.Helper()
	secret, _, err := g.users.Grant(context.Background(), g.principal(adaToken),
		auth.Capability{Workspace: "math", Expires: time.Now().Add(-time.Minute)})
	if err != nil {
		g.t.Fatal(err)
	}
	return secret
}

func (g *gateway) revokedCapability() string {
	g.t.Helper()
	ada := g.principal(adaToken)
	secret, made, err := g.users.Grant(context.Background(), ada, auth.Capability{Workspace: "math"})
	if err != nil {
		g.t.Fatal(err)
	}
	if err := g.users.Revoke(context.Background(), ada, made.ID); err != nil {
		g.t.Fatal(err)
	}
	return secret
}

func (g *gateway) bobsCapability() string {
	g.t.Helper()
	secret, _, err := g.users.Grant(context.Background(), g.principal(bobToken), auth.Capability{Workspace: "bob"})
	if err != nil {
		g.t.Fatal(err)
	}
	return "/t/" + secret
}

func (g *gateway) capabilityUnder(base string) string {
	g.t.Helper()
	var c struct{ URL string }
	g.want(g.ada("POST", base+"/v1/capabilities", ""), http.StatusCreated).json(g.t, &c)
	return strings.TrimSuffix(strings.TrimPrefix(c.URL, g.url+base), "/")
}
