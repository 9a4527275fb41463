package frontend_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	frontend "kernelgw/frontend-config"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m)
}

// assets is what scripts/setup-frontend.sh made.
const assets = "../.cache/frontend"

// needAssets ends a test on a machine where make frontend never ran.
func needAssets(t testing.TB) {
	t.Helper()
	if _, err := os.Stat(assets + "/stamp"); err != nil {
		t.Fatal("no front end: run make frontend")
	}
}

// documents are Documents in memory. fail is what every call answers with.
type documents struct {
	mu   sync.Mutex
	kept map[string][]byte
	fail error
	wait chan struct{} // when set, reads wait until it is closed
}

func newDocuments() *documents { return &documents{kept: map[string][]byte{}} }

func key(owner, name string) string { return owner + "\x00" + name }

func (d *documents) GetDocument(ctx context.Context, owner, name string) ([]byte, time.Time, error) {
	if d.wait != nil {
		select {
		case <-d.wait:
		case <-ctx.Done():
			return nil, time.Time{}, ctx.Err()
		}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.fail != nil {
		return nil, time.Time{}, d.fail
	}
	body, ok := d.kept[key(owner, name)]
	if !ok {
		return nil, time.Time{}, fmt.Errorf("cannot read %s: %w", name, fs.ErrNotExist)
	}
	return bytes.Clone(body), time.Unix(1_700_000_000, 0), nil
}

func (d *documents) PutDocument(_ context.Context, owner, name string, body []byte) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(name) > 512 {
		return errors.New("the name is too long")
	}
	if d.fail == nil {
		d.kept[key(owner, name)] = bytes.Clone(body)
	}
	return d.fail
}

func (d *documents) DeleteDocument(_ context.Context, owner, name string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.fail == nil {
		delete(d.kept, key(owner, name))
	}
	return d.fail
}

func (d *documents) ListDocuments(_ context.Context, owner, prefix string) ([]string, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	var names []string
	for k := range d.kept {
		if name, ok := strings.CutPrefix(k, owner+"\x00"); ok && strings.HasPrefix(name, prefix) {
			names = append(names, name)
		}
	}
	return names, d.fail
}

// break makes every call fail from now on.
func (d *documents) breakWith(err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.fail = err
}

type handler func(f *frontend.Frontend, w http.ResponseWriter, r *http.Request, at frontend.At) error

// routes is the route table as its caller makes it: a pattern that ends with a
// slash gives what follows it to the handler.
var routes = map[string]handler{
	"GET lab": (*frontend.Frontend).Lab, "GET lab/": (*frontend.Frontend).Lab,
	"GET doc": (*frontend.Frontend).Doc, "GET doc/": (*frontend.Frontend).Doc,
	"GET tree": (*frontend.Frontend).Tree, "GET tree/": (*frontend.Frontend).Tree,
	"GET notebooks/": (*frontend.Frontend).Notebooks, "GET edit/": (*frontend.Frontend).Edit,
	"GET consoles/": (*frontend.Frontend).Consoles, "GET terminals/": (*frontend.Frontend).Terminals,
	"GET static/": (*frontend.Frontend).Static, "GET lab/extensions/": (*frontend.Frontend).LabExtension,
	"GET lab/api/themes/": (*frontend.Frontend).Theme, "GET custom/custom.css": (*frontend.Frontend).CustomCSS,
	"GET lab/api/settings": (*frontend.Frontend).ListSettings, "GET lab/api/settings/": (*frontend.Frontend).GetSetting,
	"PUT lab/api/settings/":  (*frontend.Frontend).PutSetting,
	"GET lab/api/workspaces": (*frontend.Frontend).ListWorkspaces, "GET lab/api/workspaces/": (*frontend.Frontend).GetWorkspace,
	"PUT lab/api/workspaces/": (*frontend.Frontend).PutWorkspace, "DELETE lab/api/workspaces/": (*frontend.Frontend).DeleteWorkspace,
	"GET lab/api/translations": (*frontend.Frontend).ListTranslations, "GET lab/api/translations/": (*frontend.Frontend).GetTranslation,
	"GET lab/api/licenses": (*frontend.Frontend).Licenses, "GET lab/api/licenses/": (*frontend.Frontend).Licenses,
	"GET lab/api/build": (*frontend.Frontend).Build, "GET lab/api/news": (*frontend.Frontend).News,
	"GET lab/api/update": (*frontend.Frontend).Update, "GET lab/api/listings/": (*frontend.Frontend).Listings,
	"GET lab/api/extensions": (*frontend.Frontend).Extensions, "POST lab/api/extensions": (*frontend.Frontend).ChangeExtensions,
	"GET lab/api/plugins": (*frontend.Frontend).Extensions, "POST lab/api/plugins": (*frontend.Frontend).ChangeExtensions,
	"GET lsp/status":  (*frontend.Frontend).LSPStatus,
	"GET api/config/": (*frontend.Frontend).GetConfig, "PUT api/config/": (*frontend.Frontend).PutConfig,
	"PATCH api/config/": (*frontend.Frontend).PatchConfig,
}

// route finds the longest pattern that a request matches, and what follows it.
func route(method, path string) (handler, string) {
	if method == http.MethodHead {
		method = http.MethodGet
	}
	if h := routes[method+" "+path]; h != nil {
		return h, ""
	}
	for i := strings.LastIndexByte(path, '/'); i > 0; i = strings.LastIndexByte(path[:i], '/') {
		if h := routes[method+" "+path[:i+1]]; h != nil {
			return h, path[i+1:]
		}
	}
	return nil, ""
}

// site is a Frontend on the way that a gateway would put it there.
type site struct {
	f    *frontend.Frontend
	at   frontend.At // of every request, without Path
	rest http.Handler
}

// ServeHTTP answers as the gateway does, without its security headers. rest gets
// what is not the front end's.
func (s *site) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	below, ok := strings.CutPrefix(r.URL.Path, s.at.Base)
	h, path := route(r.Method, below)
	if !ok || h == nil {
		if s.rest != nil {
			s.rest.ServeHTTP(w, r)
			return
		}
		http.Error(w, "no such route", http.StatusTeapot)
		return
	}
	at := s.at
	at.Path = path
	if user := r.Header.Get("Test-User"); user != "" {
		at.User = user
	}
	if workspace := r.Header.Get("Test-Workspace"); workspace != "" {
		at.Workspace = workspace
	}
	err := h(s.f, w, r, at)
	if err == nil {
		return
	}
	var chosen *frontend.Error
	if !errors.As(err, &chosen) {
		panic(fmt.Sprintf("not a *frontend.Error: %T %v", err, err))
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(chosen.Status)
	_ = json.NewEncoder(w).Encode(map[string]string{"message": chosen.Message})
}

// newFrontend makes a Frontend of the real files.
func newFrontend(t testing.TB, o frontend.Options) *frontend.Frontend {
	t.Helper()
	if o.Dir == "" {
		needAssets(t)
		o.Dir = assets
	}
	if o.Documents == nil {
		o.Documents = newDocuments()
	}
	f, err := frontend.New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := f.Close(); err != nil {
			t.Error(err)
		}
	})
	return f
}

// client asks one site.
type client struct {
	t    testing.TB
	base string
}

// newSite serves a Frontend under /prefix/w/team/.
func newSite(t testing.TB, o frontend.Options) client {
	t.Helper()
	const base = "/prefix/w/team/"
	server := httptest.NewServer(&site{
		f: newFrontend(t, o), at: frontend.At{Base: base, User: "local:alice", Workspace: "team"},
	})
	t.Cleanup(server.Close)
	return client{t, server.URL + base}
}

// answer is a response whose body was read.
type answer struct {
	*http.Response
	body string
}

// ask sends a request. headers are pairs of name and value.
func (c client) ask(method, path, body string, headers ...string) answer {
	c.t.Helper()
	r, err := http.NewRequest(method, c.base+path, strings.NewReader(body))
	if err != nil {
		c.t.Fatal(err)
	}
	for i := 0; i < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	transport := &http.Transport{DisableCompression: true}
	defer transport.CloseIdleConnections()
	response, err := transport.RoundTrip(r)
	if err != nil {
		c.t.Fatal(err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		c.t.Fatal(err)
	}
	return answer{response, string(text)}
}

// want ends the test when the answer has another status.
func (c client) want(status int, a answer) answer {
	c.t.Helper()
	if a.StatusCode != status {
		c.t.Fatalf("%s %s: %d, want %d: %.300s", a.Request.Method, a.Request.URL, a.StatusCode, status, a.body)
	}
	return a
}

// json reads an answer's body.
func (c client) json(a answer, into any) {
	c.t.Helper()
	if kind := a.Header.Get("Content-Type"); kind != "application/json" {
		c.t.Fatalf("%s: Content-Type %q, want JSON", a.Request.URL, kind)
	}
	if err := json.Unmarshal([]byte(a.body), into); err != nil {
		c.t.Fatalf("%s: %v: %.300s", a.Request.URL, err, a.body)
	}
}
