package kernelgw_test

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"kernelgw/auth"
	"kernelgw/kernelgw"
	"kernelgw/kernelgw/kernels"
	"kernelgw/sandboxes"
	"kernelgw/sandboxes/agentapi"
)

const v1 = "v1.kernel.websocket.jupyter.org"

// dial opens a WebSocket; headers are "Name: value".
func (g *gateway) dial(path string, headers ...string) (*websocket.Conn, reply, error) {
	g.t.Helper()
	h := http.Header{}
	for _, line := range headers {
		name, value, _ := strings.Cut(line, ": ")
		h.Add(name, value)
	}
	d := websocket.Dialer{HandshakeTimeout: 10 * time.Second}
	ws, resp, err := d.Dial("ws"+strings.TrimPrefix(g.url, "http")+path, h)
	if resp == nil {
		g.t.Fatalf("%s: %v", path, err)
	}
	var body [1024]byte
	n, _ := resp.Body.Read(body[:])
	_ = resp.Body.Close()
	if err == nil {
		_ = ws.SetReadDeadline(time.Now().Add(10 * time.Second))
		g.t.Cleanup(func() { _ = ws.Close() })
	}
	return ws, reply{resp, string(body[:n])}, err
}

// open is dial with ada's token, and must work.
func (g *gateway) open(kernel string, headers ...string) *websocket.Conn {
	g.t.Helper()
	ws, r, err := g.dial("/api/kernels/"+kernel+"/channels?session_id=s", append(headers, "Authorization: token "+adaToken)...)
	if err != nil {
		g.t.Fatalf("%v: %d %s", err, r.StatusCode, r.body)
	}
	return ws
}

// closing reads until the WebSocket is closed, and returns the close code, its
// reason and the messages before it.
func closing(t *testing.T, ws *websocket.Conn) (code int, reason string, before [][]byte) {
	t.Helper()
	for {
		_, data, err := ws.ReadMessage()
		var closed *websocket.CloseError
		switch {
		case errors.As(err, &closed):
			return closed.Code, closed.Text, before
		case err != nil:
			t.Fatalf("no close frame: %v", err)
		}
		before = append(before, data)
	}
}

// released waits until n connections were given back.
func (g *gateway) released(n int) {
	g.t.Helper()
	g.until(fmt.Sprintf("%d connections are given back", n), func(f *fakeKernels) bool { return f.closed == n })
}

// until waits for a state of the double.
func (g *gateway) until(what string, is func(f *fakeKernels) bool) {
	g.t.Helper()
	for deadline := time.Now().Add(5 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		reached := false
		g.kernels.set(func(f *fakeKernels) { reached = is(f) })
		if reached {
			return
		}
		if time.Now().After(deadline) {
			g.t.Fatalf("waited in vain until %s", what)
		}
	}
}

func TestAWebSocketReachesTheAgentAndNoCredentialDoes(t *testing.T) {
	g := start(t)
	kernel := g.kernel("math")
	capability := g.capability("math")
	cookies, _ := g.login()
	var mu sync.Mutex
	var seen []*http.Request
	endpoint := agent(t, func(ws *websocket.Conn, r *http.Request) {
		mu.Lock()
		seen = append(seen, r)
		mu.Unlock()
		echo(ws, r)
	})
	g.kernels.set(func(f *fakeKernels) { f.agent = endpoint })
	const session = "a b&c=é"
	path := "/api/kernels/" + kernel + "/channels"
	for name, c := range map[string]struct {
		path    string
		headers []string
	}{
		"header":         {path + "?session_id=a+b%26c%3D%C3%A9", []string{"Authorization: token " + adaToken, "Sec-WebSocket-Protocol: other, " + v1}},
		"query":          {path + "?token=" + adaToken + "&session_id=a%20b%26c%3D%C3%A9", []string{"User-Agent: Tornado/6.5"}},
		"cookie":         {path + "?session_id=a+b%26c%3D%C3%A9", []string{"Cookie: " + cookies, "Origin: " + g.url, "Referer: " + g.url + "/lab?token=" + adaToken}},
		"capability":     {capability + path, nil},
		"foreign, token": {path, []string{"Authorization: Bearer " + adaToken, "Origin: https://elsewhere.test"}},
	} {
		ws, r, err := g.dial(c.path, c.headers...)
		if err != nil {
			t.Fatalf("%s: %v %d %s", name, err, r.StatusCode, r.body)
		}
		want := ""
		if name == "header" {
			want = v1
		}
		if got := r.Header.Get("Sec-WebSocket-Protocol"); got != want {
			t.Errorf("%s: subprotocol %q", name, got)
		}
		for _, kind := range []int{websocket.TextMessage, websocket.BinaryMessage} {
			if err := ws.WriteMessage(kind, []byte(name)); err != nil {
				t.Fatal(err)
			}
			gotKind, data, err := ws.ReadMessage()
			if err != nil || gotKind != kind || string(data) != name {
				t.Errorf("%s: %d %q %v", name, gotKind, data, err)
			}
		}
		mu.Lock()
		last := seen[len(seen)-1]
		mu.Unlock()
		text := fmt.Sprint(last.URL, last.Header, last.Host)
		for _, secret := range []string{adaToken, strings.TrimPrefix(capability, "/t/"), "kernelgw-", "_xsrf", "Referer"} {
			if strings.Contains(text, secret) {
				t.Errorf("%s: the agent sees %q in %s", name, secret, text)
			}
		}
		if last.Header.Get("Authorization") != "Bearer agent-token" || last.URL.Path != "/v1/channels" {
			t.Errorf("%s: the agent got %s", name, text)
		}
		if strings.Contains(c.path, "session_id") && last.URL.Query().Get("session_id") != session {
			t.Errorf("%s: session %q", name, last.URL.Query().Get("session_id"))
		}
		if name == "query" && last.UserAgent() != "Tornado/6.5" {
			t.Errorf("user agent %q", last.UserAgent())
		}
		_ = ws.Close()
	}
	g.released(5)
	metrics := g.scrape()
	for _, want := range []string{
		`kernelgw_socket_messages_total{direction="out"} 10`, `kernelgw_socket_messages_total{direction="in"} 10`,
		`kernelgw_http_requests_total{route="/api/kernels/:id/channels",status="1xx"} 4`,
	} {
		if !strings.Contains(metrics, want) {
			t.Errorf("no %s in the metrics", want)
		}
	}
}

// sun_path holds 107 bytes; a data directory may be deeper.
func TestAnAgentsSocketMayHaveALongPath(t *testing.T) {
	g := start(t)
	kernel := g.kernel("math")
	dir := filepath.Join(t.TempDir(), strings.Repeat("d", 120))
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "agent")
	l, err := agentapi.ListenUnix(path)
	if err != nil {
		t.Fatal(err)
	}
	serveAgent(t, l, echo)
	g.kernels.set(func(f *fakeKernels) { f.agent = sandboxes.Endpoint{Network: "unix", Address: path} })
	ws := g.open(kernel)
	if err := ws.WriteMessage(websocket.TextMessage, []byte("far")); err != nil {
		t.Fatal(err)
	}
	if _, data, err := ws.ReadMessage(); err != nil || string(data) != "far" {
		t.Errorf("%q %v", data, err)
	}
}

func TestOriginForgeriesOnWebSocketsAreRefusedBeforeTheUpgrade(t *testing.T) {
	g := start(t, func(o *kernelgw.Options) {
		o.AllowOrigins, o.AllowCredentials = []string{"https://trusted.example.com"}, true
	})
	kernel := g.kernel("math")
	endpoint := agent(t, echo)
	g.kernels.set(func(f *fakeKernels) { f.agent = endpoint })
	cookies, _ := g.login()
	path := "/api/kernels/" + kernel + "/channels"
	port := g.url[strings.LastIndex(g.url, ":"):]
	for _, origins := range [][]string{
		{"https://trusted.example.com.evil.com"},
		{"null"},
		{"http://trusted.example.com"},
		{"https://trusted.example.com:444"},
		{"http://127.0.0.1"},
		{"http://127.0.0.1" + port + "0"},
		{"http://localhost" + port},
		{"http://evil.com@127.0.0.1" + port},
		{g.url, "https://evil.com"},
		{"http://127.0.0.1.evil.com" + port},
	} {
		headers := []string{"Cookie: " + cookies}
		for _, o := range origins {
			headers = append(headers, "Origin: "+o)
		}
		if _, r, err := g.dial(path, headers...); err == nil || r.StatusCode != 403 {
			t.Errorf("origins %q: %v %d", origins, err, r.StatusCode)
		}
	}
	if _, r, err := g.dial(path, "Cookie: "+cookies, "Sec-Fetch-Site: same-site"); err == nil || r.StatusCode != 403 {
		t.Errorf("a sibling site without Origin: %v %d", err, r.StatusCode)
	}
	for _, headers := range [][]string{
		{"Cookie: " + cookies, "Origin: " + g.url},
		{"Cookie: " + cookies, "Origin: " + strings.ToUpper(g.url)},
		{"Cookie: " + cookies},
		{"Cookie: " + cookies, "Origin: https://trusted.example.com", "Sec-Fetch-Site: cross-site"},
	} {
		ws, r, err := g.dial(path, headers...)
		if err != nil {
			t.Errorf("%q: %v %d", headers, err, r.StatusCode)
			continue
		}
		_ = ws.Close()
	}
}

func TestWebSocketsThatCannotBeOpened(t *testing.T) {
	g := start(t, func(o *kernelgw.Options) { o.ConnectTimeout = 50 * time.Millisecond })
	kernel := g.kernel("math")
	path := "/api/kernels/" + kernel + "/channels"
	token := "Authorization: token " + adaToken
	check := func(name, path string, status int, retry bool) {
		t.Helper()
		_, r, err := g.dial(path, token)
		var e errorModel
		if err == nil || r.StatusCode != status || (r.Header.Get("Retry-After") != "") != retry || json.Unmarshal([]byte(r.body), &e) != nil {
			t.Errorf("%s: %v %d %v %s", name, err, r.StatusCode, r.Header, r.body)
		}
	}
	check("unknown kernel", "/api/kernels/5b6f0f0e-aaaa-bbbb-cccc-0123456789ab/channels", 404, false)
	check("not an id", "/api/kernels/x/channels", 404, false)
	check("huge session id", path+"?session_id="+strings.Repeat("x", 5000), 400, false)
	g.kernels.set(func(f *fakeKernels) { f.hold = true })
	check("never ready", path, 503, true)
	g.kernels.set(func(f *fakeKernels) { f.hold, f.refuse = false, kernels.ErrDead })
	check("dead", path, 410, false)
	g.kernels.set(func(f *fakeKernels) { f.refuse, f.agent = nil, deafAgent(t) })
	check("agent does not answer", path, 503, true)
	g.kernels.set(func(f *fakeKernels) { f.agent.Address = "127.0.0.1:1" })
	check("agent does not listen", path, 503, true)
	g.released(2)
	for name, headers := range map[string][]string{
		"old version": {"Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 8", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="},
		"bad key":     {"Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: x"},
		"no upgrade":  {"Sec-WebSocket-Version: 13"},
	} {
		r := g.ada("GET", path, "", headers...)
		if want := map[bool]int{true: 426, false: 400}[name == "old version"]; r.StatusCode != want {
			t.Errorf("%s: %d %s", name, r.StatusCode, r.body)
		}
	}
}

// JupyterLab does not come back after 1000 or 1001.
func TestDrainClosesWebSocketsWith1012(t *testing.T) {
	g := start(t)
	kernel := g.kernel("math")
	endpoint := agent(t, echo)
	g.kernels.set(func(f *fakeKernels) { f.agent = endpoint })
	var open []*websocket.Conn
	for range 5 {
		open = append(open, g.open(kernel))
	}
	g.kernels.set(func(f *fakeKernels) { f.hold = true })
	held := make(chan int, 1)
	go func() {
		_, r, _ := g.dial("/api/kernels/"+kernel+"/channels", "Authorization: token "+adaToken)
		held <- r.StatusCode
	}()
	g.until("an upgrade is held", func(f *fakeKernels) bool { return f.held == 1 })
	drained := make(chan error, 1)
	go func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		drained <- g.server.Drain(ctx)
	}()
	for _, ws := range open {
		if code, reason, _ := closing(t, ws); code != 1012 || reason == "" {
			t.Errorf("closed with %d %q", code, reason)
		}
	}
	if err := <-drained; err != nil {
		t.Error(err)
	}
	if status := <-held; status != 503 {
		t.Errorf("the held upgrade got %d", status)
	}
	g.released(5)
}

func TestWhileDrainingReadinessIsFalseAndUpgradesAreRefused(t *testing.T) {
	g := start(t)
	kernel := g.kernel("math")
	release := make(chan struct{})
	endpoint := agent(t, func(ws *websocket.Conn, _ *http.Request) {
		// Half a message keeps the splice from its boundary, and the drain
		// from its end.
		w, err := ws.NextWriter(websocket.TextMessage)
		if err == nil {
			_, err = w.Write(make([]byte, 100<<10))
		}
		if err != nil {
			t.Error(err)
		}
		<-release
		_ = w.Close()
		echo(ws, nil)
	})
	g.kernels.set(func(f *fakeKernels) { f.agent = endpoint })
	ws := g.open(kernel)
	if _, _, err := ws.NextReader(); err != nil {
		t.Fatal(err)
	}
	handler := g.server.Handler()
	drained := make(chan error, 1)
	go func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		drained <- g.server.Drain(ctx)
	}()
	// The listener closes at once, so the handler is asked directly.
	for deadline := time.Now().Add(5 * time.Second); ask(handler, "/readyz").Code != 503; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("readiness stays true")
		}
	}
	got := ask(handler, "/api/kernels/"+kernel+"/channels", append(upgradeHeaders, "Authorization: token "+adaToken)...)
	if got.Code != 503 || got.Header().Get("Retry-After") == "" {
		t.Errorf("a new upgrade got %d", got.Code)
	}
	if got := ask(handler, "/healthz"); got.Code != 200 {
		t.Errorf("healthz is %d", got.Code)
	}
	close(release)
	if code, _, _ := closing(t, ws); code != 1012 {
		t.Errorf("closed with %d", code)
	}
	if err := <-drained; err != nil {
		t.Error(err)
	}
}

// A public POST that never sends its body would hold every drain.
func TestBodiesThatNeverComeDoNotHoldADrain(t *testing.T) {
	for name, request := range map[string]string{
		"public report":     "POST /api/security/csp-report HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n",
		"chunked report":    "POST /api/security/csp-report HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n",
		"login":             "POST /login HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n",
		"without a token":   "POST /api/kernels HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n",
		"with a token":      "POST /api/kernels HTTP/1.1\r\nHost: x\r\nAuthorization: token " + adaToken + "\r\nContent-Length: 10\r\n\r\n{",
		"nowhere":           "POST /nothing HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n",
		"where none is due": "GET /healthz HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g := start(t)
			conn, err := net.Dial("tcp", strings.TrimPrefix(g.url, "http://"))
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			if _, err := io.WriteString(conn, request); err != nil {
				t.Fatal(err)
			}
			// Its handler has begun, or the connection would count as idle.
			time.Sleep(50 * time.Millisecond)
			ctx, cancel := context.WithTimeout(context.Background(), 40*time.Second)
			defer cancel()
			begin := time.Now()
			if err := g.server.Drain(ctx); err != nil {
				t.Errorf("drain: %v", err)
			}
			if d := time.Since(begin); d > 20*time.Second {
				t.Errorf("drained after %v", d)
			}
			if strings.Contains(g.log.String(), "requests were cut") {
				t.Error("the drain ran out of patience")
			}
		})
	}
}

func TestReportsAreAnsweredUnread(t *testing.T) {
	g := start(t)
	conn, err := net.Dial("tcp", strings.TrimPrefix(g.url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	begin := time.Now()
	_ = conn.SetDeadline(begin.Add(time.Minute))
	if _, err := io.WriteString(conn, "POST /api/security/csp-report HTTP/1.1\r\nHost: x\r\nContent-Length: 10000\r\n\r\n{"); err != nil {
		t.Fatal(err)
	}
	var head [1024]byte
	n, err := conn.Read(head[:])
	if got := string(head[:n]); err != nil || !strings.HasPrefix(got, "HTTP/1.1 200 ") || !strings.Contains(got, "\r\nConnection: close\r\n") {
		t.Errorf("answer %q, %v", got, err)
	}
	if d := time.Since(begin); d > 15*time.Second { // as long as a body may take
		t.Errorf("the answer waited %v for the body", d)
	}
	if _, err := io.Copy(io.Discard, conn); err != nil || time.Since(begin) > 20*time.Second {
		t.Errorf("the connection was kept for %v, %v", time.Since(begin), err)
	}
	g.want(g.do("POST", "/api/security/csp-report", strings.Repeat("x", 100<<10)), 200)
}

// Slow requests are no reason to call a drain failed: they are cut.
func TestRequestsThatOutlastADrainAreCut(t *testing.T) {
	g := start(t)
	kernel := g.kernel("math")
	entered, release := make(chan struct{}), make(chan struct{})
	g.kernels.set(func(f *fakeKernels) { f.block = func() { close(entered); <-release } })
	answered := make(chan error, 1)
	go func() {
		r, err := http.NewRequest("GET", g.url+"/api/kernels/"+kernel, nil)
		if err == nil {
			r.Header.Set("Authorization", "token "+adaToken)
			var resp *http.Response
			if resp, err = g.client.Do(r); err == nil {
				_ = resp.Body.Close()
			}
		}
		answered <- err
	}()
	<-entered
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	if err := g.server.Drain(ctx); err != nil {
		t.Errorf("drain: %v", err)
	}
	if !strings.Contains(g.log.String(), "requests were cut") {
		t.Error("nothing in the log says so")
	}
	close(release)
	if err := <-answered; err == nil {
		t.Error("the request was not cut")
	}
}

func TestADrainCutsWebSocketsThatOutlastIt(t *testing.T) {
	t.Parallel()
	g := start(t)
	kernel := g.kernel("math")
	release := make(chan struct{})
	endpoint := agent(t, func(ws *websocket.Conn, _ *http.Request) {
		w, err := ws.NextWriter(websocket.TextMessage)
		if err == nil {
			_, err = w.Write(make([]byte, 100<<10))
		}
		if err != nil {
			t.Error(err)
		}
		<-release
	})
	g.kernels.set(func(f *fakeKernels) { f.agent = endpoint })
	if _, _, err := g.open(kernel).NextReader(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	if err := g.server.Drain(ctx); err != nil {
		t.Errorf("drain: %v", err)
	}
	closed := 0
	g.kernels.set(func(f *fakeKernels) { closed = f.closed })
	if closed != 1 {
		t.Error("the WebSocket was not joined")
	}
	close(release)
}

func TestKernelDeathIsSeenOnEverySocketWithinASecond(t *testing.T) {
	for name, lost := range map[string]bool{"the agent's connection breaks": true, "the agent only falls silent": false} {
		t.Run(name, func(t *testing.T) {
			g := start(t)
			kernel := g.kernel("math")
			breakOff := make(chan struct{})
			endpoint := agent(t, func(ws *websocket.Conn, _ *http.Request) {
				go func() {
					<-breakOff
					if lost {
						_ = ws.NetConn().Close()
					}
				}()
				echo(ws, nil)
			})
			g.kernels.set(func(f *fakeKernels) { f.agent, f.reason = endpoint, "killed: memory limit 2.0 GiB" })
			plain, framed := g.open(kernel), g.open(kernel, "Sec-WebSocket-Protocol: "+v1)
			died := time.Now()
			close(breakOff)
			time.Sleep(50 * time.Millisecond) // the driver notices a little later
			close(g.kernels.dead)
			for _, ws := range []*websocket.Conn{plain, framed} {
				code, reason, before := closing(t, ws)
				if code != 1000 || !strings.Contains(reason, "memory limit 2.0 GiB") {
					t.Errorf("closed with %d %q", code, reason)
				}
				if d := time.Since(died); d > 10*time.Second { // a second, where the host has nothing else to do
					t.Errorf("seen after %v", d)
				}
				if len(before) != 1 {
					t.Fatalf("%d messages before the end", len(before))
				}
				checkDead(t, ws == framed, before[0])
			}
			g.released(2)
		})
	}
}

// checkDead checks a synthetic "dead" as clients do (contract 3.7).
func checkDead(t *testing.T, framed bool, data []byte) {
	t.Helper()
	var m struct {
		Channel      string
		Header       map[string]any
		ParentHeader map[string]any `json:"parent_header"`
		Metadata     map[string]any
		Content      map[string]any
		MsgID        string `json:"msg_id"`
		MsgType      string `json:"msg_type"`
		Buffers      []any
	}
	if framed {
		n := binary.LittleEndian.Uint64(data)
		part := func(i uint64) []byte {
			return data[binary.LittleEndian.Uint64(data[8*(i+1):]):binary.LittleEndian.Uint64(data[8*(i+2):])]
		}
		if n != 6 {
			t.Fatalf("%d offsets", n)
		}
		m.Channel, m.MsgType, m.MsgID, m.Buffers = string(part(0)), "status", "x", []any{}
		for i, to := range []any{&m.Header, &m.ParentHeader, &m.Metadata, &m.Content} {
			if err := json.Unmarshal(part(uint64(i)+1), to); err != nil {
				t.Fatal(err)
			}
		}
	} else if err := json.Unmarshal(data, &m); err != nil {
		t.Fatal(err)
	}
	for _, field := range []string{"msg_id", "msg_type", "session", "username", "date", "version"} {
		if v, ok := m.Header[field].(string); !ok || v == "" {
			t.Errorf("header.%s is %v", field, m.Header[field])
		}
	}
	if m.Channel != "iopub" || m.MsgType != "status" || m.MsgID == "" || m.Buffers == nil || m.ParentHeader == nil || len(m.ParentHeader) != 0 ||
		m.Content["execution_state"] != "dead" || m.Header["msg_type"] != "status" {
		t.Errorf("message %s", data)
	}
}

func TestALostAgentWhoseKernelLivesCloses1012(t *testing.T) {
	g := start(t)
	kernel := g.kernel("math")
	endpoint := agent(t, func(ws *websocket.Conn, _ *http.Request) {
		_, _, _ = ws.ReadMessage()
		_ = ws.NetConn().Close()
	})
	g.kernels.set(func(f *fakeKernels) { f.agent = endpoint })
	ws := g.open(kernel)
	if err := ws.WriteMessage(websocket.TextMessage, []byte("go")); err != nil {
		t.Fatal(err)
	}
	if code, _, before := closing(t, ws); code != 1012 || len(before) != 0 {
		t.Errorf("closed with %d after %q", code, before)
	}
}

// Each WebSocket takes two file descriptors of a process that serves everyone.
func TestOneUserCannotTakeEveryonesSockets(t *testing.T) {
	g := start(t, func(o *kernelgw.Options) { o.MaxSocketsPerUser = 3 })
	kernel := g.kernel("math")
	endpoint := agent(t, echo)
	g.kernels.set(func(f *fakeKernels) { f.agent = endpoint })
	first := g.open(kernel)
	g.open(kernel)
	path := g.capability("math") + "/api/kernels/" + kernel + "/channels"
	if _, r, err := g.dial(path); err != nil {
		t.Fatalf("the third: %d %s", r.StatusCode, r.body)
	}
	for _, path := range []string{path, "/api/kernels/" + kernel + "/channels"} {
		_, r, err := g.dial(path, "Authorization: token "+adaToken)
		if err == nil || r.StatusCode != 429 || !strings.Contains(r.body, "limit is 3") {
			t.Errorf("the fourth: %d %s", r.StatusCode, r.body)
		}
	}
	var bobs struct{ ID string }
	g.want(g.do("POST", "/api/kernels", "", "Authorization: token "+bobToken), 201).json(t, &bobs)
	if _, r, err := g.dial("/api/kernels/"+bobs.ID+"/channels", "Authorization: token "+bobToken); err != nil {
		t.Errorf("bob's first: %d %s", r.StatusCode, r.body)
	}
	_ = first.Close()
	g.released(1)
	for deadline := time.Now().Add(5 * time.Second); ; time.Sleep(time.Millisecond) {
		if _, _, err := g.dial(path); err == nil {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("a closed WebSocket still counts")
		}
	}
}

func TestTheAgentsOwnDeathNoticeIsNotRepeated(t *testing.T) {
	g := start(t)
	kernel := g.kernel("math")
	endpoint := agent(t, func(ws *websocket.Conn, _ *http.Request) {
		_, _, _ = ws.ReadMessage()
		close(g.kernels.dead)
		_ = ws.WriteMessage(websocket.TextMessage, []byte(`{"dead":true}`))
		_ = ws.WriteControl(websocket.CloseMessage, websocket.FormatCloseMessage(1000, "gone"), time.Now().Add(time.Second))
		_, _, _ = ws.ReadMessage()
	})
	g.kernels.set(func(f *fakeKernels) { f.agent = endpoint })
	ws := g.open(kernel)
	if err := ws.WriteMessage(websocket.TextMessage, []byte("go")); err != nil {
		t.Fatal(err)
	}
	code, reason, before := closing(t, ws)
	if code != 1000 || reason != "gone" || len(before) != 1 || string(before[0]) != `{"dead":true}` {
		t.Errorf("%d %q %q", code, reason, before)
	}
}

func TestRevocationEndsOpenWebSockets(t *testing.T) {
	g := start(t)
	kernel := g.kernel("math")
	endpoint := agent(t, echo)
	g.kernels.set(func(f *fakeKernels) { f.agent = endpoint })
	cookies, _ := g.login()
	secret, made, err := g.users.Grant(context.Background(), g.principal(adaToken), auth.Capability{Workspace: "math"})
	if err != nil {
		t.Fatal(err)
	}
	path := "/api/kernels/" + kernel + "/channels"
	byCookie, _, err := g.dial(path, "Cookie: "+cookies)
	if err != nil {
		t.Fatal(err)
	}
	byPath, _, err := g.dial("/t/" + secret + path)
	if err != nil {
		t.Fatal(err)
	}
	byToken := g.open(kernel)

	g.want(g.do("GET", "/logout", "", "Cookie: "+cookies), 200)
	if code, _, _ := closing(t, byCookie); code != 1008 {
		t.Errorf("after the logout: %d", code)
	}
	g.want(g.ada("DELETE", "/v1/capabilities/"+made.ID, ""), 204)
	if code, _, _ := closing(t, byPath); code != 1008 {
		t.Errorf("after the revocation: %d", code)
	}
	if err := byToken.WriteMessage(websocket.TextMessage, []byte("still here")); err != nil {
		t.Fatal(err)
	}
	if _, data, err := byToken.ReadMessage(); err != nil || string(data) != "still here" {
		t.Errorf("the token's own WebSocket: %q %v", data, err)
	}
}

func TestAMessageOverTheLimitClosesWith1009(t *testing.T) {
	g := start(t, func(o *kernelgw.Options) { o.MaxMessageBytes = 1 << 20 })
	kernel := g.kernel("math")
	endpoint := agent(t, echo)
	g.kernels.set(func(f *fakeKernels) { f.agent = endpoint })
	ws := g.open(kernel)
	_ = ws.WriteMessage(websocket.BinaryMessage, make([]byte, 2<<20))
	if code, reason, _ := closing(t, ws); code != 1009 || !strings.Contains(reason, "1 MiB (max_message)") {
		t.Errorf("closed with %d %q", code, reason)
	}
}

var upgradeHeaders = []string{
	"Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
}

// ask calls a handler without a network.
func ask(h http.Handler, path string, headers ...string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(http.MethodGet, path, nil)
	for _, line := range headers {
		name, value, _ := strings.Cut(line, ": ")
		r.Header.Add(name, value)
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

// deafAgent accepts connections and hangs up on them.
func deafAgent(t *testing.T) sandboxes.Endpoint {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			_ = conn.Close()
		}
	}()
	t.Cleanup(func() {
		_ = l.Close()
		<-done
	})
	return sandboxes.Endpoint{Network: "tcp", Address: l.Addr().String()}
}
