package kernelgw_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"kernelgw/kernelgw/kernels"
	"kernelgw/sandboxes"
)

// shell is a terminal of the double.
type shell struct{ workspace, name, cwd string }

func (f *fakeKernels) Terminals(_ context.Context, workspace string) (list []kernels.Terminal, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, s := range f.shells {
		if s.workspace == workspace {
			list = append(list, kernels.Terminal{Name: s.name, LastActivity: time.Now()})
		}
	}
	return list, f.fail
}

func (f *fakeKernels) StartTerminal(_ context.Context, r kernels.TerminalRequest) (kernels.Terminal, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if r.Name == "" {
		r.Name = fmt.Sprint(len(f.shells) + 1)
	}
	f.shells = append(f.shells, shell{r.Workspace, r.Name, r.Cwd})
	return kernels.Terminal{Name: r.Name, LastActivity: time.Now()}, f.fail
}

func (f *fakeKernels) Terminal(_ context.Context, workspace, name string) (kernels.Terminal, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, s := range f.shells {
		if s.workspace == workspace && s.name == name {
			return kernels.Terminal{Name: name, LastActivity: time.Now()}, f.fail
		}
	}
	return kernels.Terminal{}, errors.Join(fmt.Errorf("%w: %s", kernels.ErrTerminalNotFound, name), f.fail)
}

func (f *fakeKernels) DeleteTerminal(ctx context.Context, workspace, name string) error {
	if _, err := f.Terminal(ctx, workspace, name); err != nil {
		return err
	}
	f.set(func(f *fakeKernels) {
		f.shells = slices.DeleteFunc(f.shells, func(s shell) bool { return s.workspace == workspace && s.name == name })
	})
	return nil
}

func (f *fakeKernels) ConnectTerminal(ctx context.Context, workspace, name string) (kernels.Connection, error) {
	if _, err := f.Terminal(ctx, workspace, name); err != nil {
		return kernels.Connection{}, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	return kernels.Connection{
		Agent: f.agent, Token: "agent-token",
		Close: func() { f.set(func(f *fakeKernels) { f.closed++ }) },
		Dead: func(ctx context.Context) (string, bool) {
			select {
			case <-f.dead:
				return f.reason, true
			case <-ctx.Done():
				return "", false
			}
		},
	}, nil
}

// terminal starts one of ada's.
func (g *gateway) terminal() string {
	g.t.Helper()
	var model struct{ Name string }
	g.want(g.ada("POST", "/api/terminals", `{}`), http.StatusOK).json(g.t, &model)
	return model.Name
}

func TestTerminalsAreStartedListedAndEnded(t *testing.T) {
	g := start(t)
	if got := g.want(g.ada("GET", "/api/terminals", ""), http.StatusOK).body; strings.TrimSpace(got) != "[]" {
		t.Errorf("no terminals are %s", got)
	}
	stamp := regexp.MustCompile(`^\{"name":"1","last_activity":"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z"\}\s*$`)
	if got := g.want(g.ada("POST", "/api/terminals", ""), http.StatusOK).body; !stamp.MatchString(got) {
		t.Errorf("a new terminal is %s", got)
	}
	g.want(g.ada("POST", "/api/terminals", `{"name":"work","cwd":"a/b"}`), http.StatusOK)
	g.kernels.set(func(f *fakeKernels) {
		if want := (shell{"math", "work", "a/b"}); f.shells[1] != want {
			t.Errorf("asked for %+v, want %+v", f.shells[1], want)
		}
	})
	var list []struct{ Name string }
	g.want(g.ada("GET", "/api/terminals?1795502306591", ""), http.StatusOK).json(t, &list)
	if len(list) != 2 || list[0].Name != "1" || list[1].Name != "work" {
		t.Errorf("terminals %+v", list)
	}
	g.want(g.ada("GET", "/api/terminals/work/", ""), http.StatusOK)
	g.want(g.ada("DELETE", "/api/terminals/work", ""), http.StatusNoContent)
	for _, method := range []string{"GET", "DELETE"} {
		r := g.want(g.ada(method, "/api/terminals/work", ""), http.StatusNotFound)
		var body struct{ Message string }
		r.json(t, &body)
		if body.Message == "" {
			t.Errorf("%s says nothing: %s", method, r.body)
		}
	}
}

func TestTerminalsOfOthersDoNotExist(t *testing.T) {
	g := start(t)
	name := g.terminal()
	bob := "Authorization: token " + bobToken
	for _, path := range []string{"/api/terminals/" + name, "/w/math/api/terminals/" + name, "/w/team/api/terminals/" + name} {
		g.want(g.do("GET", path, "", bob), http.StatusNotFound)
		g.want(g.do("DELETE", path, "", bob), http.StatusNotFound)
	}
	for _, path := range []string{"/terminals/websocket/" + name, "/w/math/terminals/websocket/" + name} {
		if _, r, err := g.dial(path, bob); err == nil || r.StatusCode != http.StatusNotFound {
			t.Errorf("%s: %d, %v", path, r.StatusCode, err)
		}
	}
	if got := g.want(g.do("GET", "/api/terminals", "", bob), http.StatusOK).body; strings.TrimSpace(got) != "[]" {
		t.Errorf("bob sees %s", got)
	}
	// Ada's other workspace has terminals of its own.
	g.want(g.ada("GET", "/w/team/api/terminals/"+name, ""), http.StatusNotFound)
	g.want(g.ada("GET", "/w/math/api/terminals/"+name, ""), http.StatusOK)
}

func TestHostileTerminalNamesAndBodies(t *testing.T) {
	g := start(t)
	g.terminal()
	long := strings.Repeat("x", 65)
	for _, name := range []string{"..", "%2e%2e", "%2e%2e%2fstatus", "1%2f..%2f1", "1/socket", "a%20b", "%00", "1%0d%0aX:%20y", long, "-1", "%C3%A9", "1%3Fx=1"} {
		for _, path := range []string{"/api/terminals/" + name, "/terminals/websocket/" + name} {
			if r := g.ada("GET", path, "", "Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13",
				"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA=="); r.StatusCode != http.StatusNotFound {
				t.Errorf("%s: %d %s", path, r.StatusCode, r.body)
			}
		}
	}
	for _, body := range []string{
		`[]`, `{"name":"../x"}`, `{"name":"a b"}`, `{"name":"` + long + `"}`, `{"name":1}`, `{"cwd":[]}`, `{"cwd":"` + strings.Repeat("x", 4097) + `"}`,
	} {
		g.want(g.ada("POST", "/api/terminals", body), http.StatusBadRequest)
	}
	g.kernels.set(func(f *fakeKernels) {
		if len(f.shells) != 1 {
			t.Errorf("terminals %+v", f.shells)
		}
	})
}

func TestATerminalsWebSocketReachesItsAgent(t *testing.T) {
	g := start(t)
	seen := make(chan *http.Request, 1)
	g.kernels.set(func(f *fakeKernels) {
		f.agent = agent(t, func(ws *websocket.Conn, r *http.Request) { seen <- r; echo(ws, r) })
	})
	name := g.terminal()
	ws, r, err := g.dial("/terminals/websocket/"+name+"?token="+adaToken+"&x", "Cookie: a=b", "Origin: "+g.url)
	if err != nil {
		t.Fatalf("%v %s", err, r.body)
	}
	defer ws.Close()
	at := <-seen
	if at.URL.String() != "/v1/terminals/"+name+"/socket" || at.Header.Get("Authorization") != "Bearer agent-token" {
		t.Errorf("the agent was asked for %s by %q", at.URL, at.Header.Get("Authorization"))
	}
	for header, values := range at.Header {
		if strings.Contains(strings.Join(values, " "), adaToken) || header == "Cookie" {
			t.Errorf("%s: %q crossed", header, values)
		}
	}
	typed := `["stdin","ls\r"]`
	if err := ws.WriteMessage(websocket.TextMessage, []byte(typed)); err != nil {
		t.Fatal(err)
	}
	if _, b, err := ws.ReadMessage(); err != nil || string(b) != typed {
		t.Errorf("back came %q, %v", b, err)
	}
	_ = ws.Close()
	g.released(1)
}

func TestTerminalWebSocketsThatCannotBeOpened(t *testing.T) {
	g := start(t)
	name := g.terminal()
	for what, c := range map[string]struct {
		path    string
		headers []string
		status  int
	}{
		"nobody":                  {"/terminals/websocket/" + name, nil, http.StatusForbidden},
		"a wrong token":           {"/terminals/websocket/" + name + "?token=x", nil, http.StatusForbidden},
		"an unknown terminal":     {"/terminals/websocket/77", []string{"Authorization: token " + adaToken}, http.StatusNotFound},
		"a cookie from elsewhere": {"/terminals/websocket/" + name, []string{"Origin: https://evil.example", "Cookie: " + first(g.login())}, http.StatusForbidden},
	} {
		if _, r, err := g.dial(c.path, c.headers...); err == nil || r.StatusCode != c.status {
			t.Errorf("%s: %d, %v", what, r.StatusCode, err)
		}
	}
	r := g.ada("GET", "/terminals/websocket/"+name, "")
	if r.StatusCode != http.StatusBadRequest && r.StatusCode != http.StatusUpgradeRequired {
		t.Errorf("no upgrade: %d", r.StatusCode)
	}
}

func first(a, _ string) string { return a }

func TestATerminalThatEndsBeforeTheUpgradeIs404(t *testing.T) {
	g := start(t)
	name := g.terminal()
	gone := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { http.NotFound(w, nil) })
	g.kernels.set(func(f *fakeKernels) { f.agent = plainAgent(t, gone) })
	if _, r, err := g.dial("/terminals/websocket/"+name, "Authorization: token "+adaToken); err == nil || r.StatusCode != http.StatusNotFound {
		t.Errorf("%d %s, %v", r.StatusCode, r.body, err)
	}
	g.released(1)
}

// After "disconnect" JupyterLab does not try to come back.
func TestATerminalWhoseSandboxEndsIsDisconnected(t *testing.T) {
	g := start(t)
	broken := make(chan struct{})
	g.kernels.set(func(f *fakeKernels) {
		f.agent = agent(t, func(ws *websocket.Conn, _ *http.Request) {
			<-broken
			_ = ws.NetConn().Close()
		})
		f.reason = "killed: memory limit 2.0 GiB"
	})
	ws, r, err := g.dial("/terminals/websocket/"+g.terminal(), "Authorization: token "+adaToken)
	if err != nil {
		t.Fatalf("%v %s", err, r.body)
	}
	defer ws.Close()
	g.kernels.set(func(f *fakeKernels) { close(f.dead) })
	close(broken)
	code, reason, before := closing(t, ws)
	if code != 1000 || !strings.Contains(reason, "memory limit") || len(before) != 1 {
		t.Fatalf("code %d, reason %q, messages %q", code, reason, before)
	}
	var m []any
	if json.Unmarshal(before[0], &m) != nil || m[0] != "disconnect" {
		t.Errorf("last came %s", before[0])
	}
}

func TestADrainSendsTerminalsBackLater(t *testing.T) {
	g := start(t)
	g.kernels.set(func(f *fakeKernels) { f.agent = agent(t, echo) })
	ws, r, err := g.dial("/terminals/websocket/"+g.terminal(), "Authorization: token "+adaToken)
	if err != nil {
		t.Fatalf("%v %s", err, r.body)
	}
	defer ws.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	drained := make(chan error, 1)
	go func() { drained <- g.server.Drain(ctx) }()
	if code, _, _ := closing(t, ws); code != 1012 {
		t.Errorf("code %d, want 1012", code)
	}
	if err := <-drained; err != nil {
		t.Error(err)
	}
}

func TestFailuresOfTerminalsSayWhatToDo(t *testing.T) {
	g := start(t)
	for failure, status := range map[error]int{
		fmt.Errorf("%w: 20 terminals; end some", kernels.ErrLimit):       http.StatusTooManyRequests,
		fmt.Errorf("%w: runsc: /secret/path", kernels.ErrStart):          http.StatusServiceUnavailable,
		fmt.Errorf("%w: /secret/path", kernels.ErrAgent):                 http.StatusServiceUnavailable,
		fmt.Errorf("%w: it is still starting", kernels.ErrNotReady):      http.StatusServiceUnavailable,
		fmt.Errorf("%w: %w", kernels.ErrAgent, context.DeadlineExceeded): http.StatusServiceUnavailable,
	} {
		g.kernels.set(func(f *fakeKernels) { f.fail = failure })
		r := g.want(g.ada("POST", "/api/terminals", "{}"), status)
		if strings.Contains(r.body, "/secret") || !strings.Contains(r.body, `"message":"`) {
			t.Errorf("%v: %s", failure, r.body)
		}
	}
}

// plainAgent is an agent that speaks HTTP only.
func plainAgent(t *testing.T, h http.Handler) sandboxes.Endpoint {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return sandboxes.Endpoint{Network: "tcp", Address: s.Listener.Addr().String()}
}
