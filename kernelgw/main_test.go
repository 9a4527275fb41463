package kernelgw_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"kernelgw/auth"
	"kernelgw/auth/token"
	"kernelgw/contents"
	"kernelgw/contents/contentstest"
	frontend "kernelgw/frontend-config"
	"kernelgw/kernelgw"
	"kernelgw/kernelgw/policies"
	"kernelgw/kernelgw/registry"
	"kernelgw/kernelgw/registry/memory"
	"kernelgw/kernelgw/secrets"
	"kernelgw/kernelgw/telemetry"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	adaToken = "ada5ecret0123456789abcdef0123456789"
	bobToken = "bob5ecret0123456789abcdef0123456789"

	metricsToken = "prom5ecret0123456789abcdef012345678"
)

// buffer is a log that handlers write while the test reads.
type buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// gateway is a Server on a real listener with two users, ada (workspaces math
// and team) and bob (workspace bob), over the double of package kernels.
type gateway struct {
	t       *testing.T
	server  *kernelgw.Server
	kernels *fakeKernels
	users   *token.Authenticator
	store   registry.Store
	metrics *telemetry.Metrics
	files   *contentstest.Fake
	events  *kernelgw.Events
	secrets *secrets.Secrets
	log     *buffer
	url     string // http://host:port
	client  *http.Client
}

func start(t *testing.T, change ...func(*kernelgw.Options)) *gateway {
	t.Helper()
	g := &gateway{
		t: t, kernels: newFakeKernels(), store: memory.New(), metrics: telemetry.NewMetrics(), log: &buffer{},
		files: contentstest.NewFake(), events: new(kernelgw.Events),
	}
	// No redaction: what the handlers log must hold no secret by itself.
	log := slog.New(slog.NewTextHandler(g.log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	users, err := token.New(token.Options{
		Users: []token.User{
			{Name: "ada", DisplayName: "Ada Lovelace", TokenHashes: []string{token.Hash(adaToken)}, Workspaces: []string{"math", "team"}},
			{Name: "bob", TokenHashes: []string{token.Hash(bobToken)}},
		}, Store: g.store, Log: log,
	})
	if err != nil {
		t.Fatal(err)
	}
	g.users = users
	handlers := contents.New(contents.Options{
		Store: g.files, Documents: contentstest.NewFakeDocuments(), Log: log, SpoolDir: t.TempDir(), Observe: g.events.Contents,
	})
	o := kernelgw.Options{
		Users: users, Kernels: g.kernels, Log: log, Metrics: g.metrics, MetricsToken: metricsToken, Files: handlers, Events: g.events,
		IsDirectory: func(ctx context.Context, workspace, path string) (bool, error) {
			e, err := g.files.Stat(ctx, workspace, path)
			if errors.Is(err, contents.ErrNotFound) || errors.Is(err, contents.ErrInvalid) {
				return false, fs.ErrNotExist
			}
			return e.Directory, err
		},
	}
	if o.Frontend, err = browserFiles(); err != nil {
		o.FrontendMissing = err.Error()
	}
	if o.Policies, err = policies.New(policies.Options{Store: g.store, Default: testDefault, Bounds: testBounds}); err != nil {
		t.Fatal(err)
	}
	keys, err := secrets.OpenIdentities(filepath.Join(t.TempDir(), "secrets.key"))
	if err != nil {
		t.Fatal(err)
	}
	g.secrets = secrets.New(secrets.Options{Store: g.store, Keeper: keys, Log: log})
	o.Secrets = g.secrets
	for _, f := range change {
		f(&o)
	}
	if g.server, err = kernelgw.New(o); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- g.server.Serve(l) }()
	g.url = "http://" + l.Addr().String()
	g.client = &http.Client{
		Transport:     &http.Transport{},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	t.Cleanup(func() {
		g.client.CloseIdleConnections()
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if err := g.server.Drain(ctx); err != nil {
			t.Errorf("drain: %v", err)
		}
		if err := <-served; err != nil {
			t.Errorf("serve: %v", err)
		}
		if err := handlers.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
		users.Close()
	})
	return g
}

// browserFiles is the real front end, where make frontend has fetched it. What
// it keeps in this package's tests is common to them.
var browserFiles = sync.OnceValues(func() (*frontend.Frontend, error) {
	return frontend.New(frontend.Options{Dir: "../.cache/frontend", Documents: contentstest.NewFakeDocuments()})
})

// needFrontend ends a test that cannot do without.
func needFrontend(t *testing.T) {
	t.Helper()
	if _, err := browserFiles(); err != nil {
		t.Fatalf("%v: run make frontend, which fetches what this test needs", err)
	}
}

// file puts a file into a workspace.
func (g *gateway) file(workspace, path, content string) contents.Entry {
	g.t.Helper()
	e, err := g.files.Put(context.Background(), workspace, path, strings.NewReader(content), contents.PutOptions{Author: "test", Parents: true})
	if err != nil {
		g.t.Fatal(err)
	}
	return e
}

// reply is an answer, read whole.
type reply struct {
	*http.Response
	body string
}

func (r reply) json(t *testing.T, v any) {
	t.Helper()
	if err := json.Unmarshal([]byte(r.body), v); err != nil {
		t.Fatalf("no JSON in %q: %v", r.body, err)
	}
}

// do sends a request; headers are "Name: value".
func (g *gateway) do(method, path, body string, headers ...string) reply {
	g.t.Helper()
	var in io.Reader
	if body != "" {
		in = strings.NewReader(body)
	}
	r, err := http.NewRequest(method, g.url+path, in)
	if err != nil {
		g.t.Fatal(err)
	}
	for _, h := range headers {
		name, value, _ := strings.Cut(h, ": ")
		if name == "Host" {
			r.Host = value
			continue
		}
		r.Header.Add(name, value)
	}
	resp, err := g.client.Do(r)
	if err != nil {
		g.t.Fatalf("%s %s: %v", method, path, err)
	}
	defer resp.Body.Close()
	if resp.StatusCode == http.StatusSwitchingProtocols {
		return reply{resp, ""} // there is no body to wait for
	}
	got, err := io.ReadAll(resp.Body)
	if err != nil {
		g.t.Fatalf("%s %s: %v", method, path, err)
	}
	return reply{resp, string(got)}
}

// ada sends a request with ada's token.
func (g *gateway) ada(method, path, body string, headers ...string) reply {
	g.t.Helper()
	return g.do(method, path, body, append([]string{"Authorization: token " + adaToken}, headers...)...)
}

// navigate opens a page as a browser does.
func (g *gateway) navigate(path string, headers ...string) reply {
	g.t.Helper()
	return g.do("GET", path, "", append([]string{"Accept: text/html,application/xhtml+xml,*/*;q=0.8"}, headers...)...)
}

func (g *gateway) want(r reply, status int) reply {
	g.t.Helper()
	if r.StatusCode != status {
		g.t.Fatalf("%s %s: %d %s, want %d", r.Request.Method, r.Request.URL.Path, r.StatusCode, r.body, status)
	}
	return r
}

// scrape reads the metrics.
func (g *gateway) scrape() string {
	g.t.Helper()
	return g.want(g.do("GET", "/metrics", "", "Authorization: Bearer "+metricsToken), http.StatusOK).body
}

// login logs ada in as a browser does, and returns the Cookie header's value
// and the XSRF token.
func (g *gateway) login() (cookies, xsrf string) {
	g.t.Helper()
	r := g.want(g.navigate("/?token="+adaToken), http.StatusFound)
	for _, c := range r.Cookies() {
		cookies += c.Name + "=" + c.Value + "; "
		if c.Name == auth.XSRFCookie {
			xsrf = c.Value
		}
	}
	return strings.TrimSuffix(cookies, "; "), xsrf
}

// capability makes a capability of ada for a workspace and returns the path of
// its mount, without a slash at the end.
func (g *gateway) capability(workspace string) string {
	g.t.Helper()
	var c struct{ URL string }
	g.want(g.ada("POST", "/v1/capabilities", fmt.Sprintf(`{"workspace": %q}`, workspace)), http.StatusCreated).json(g.t, &c)
	return strings.TrimSuffix(strings.TrimPrefix(c.URL, g.url), "/")
}
