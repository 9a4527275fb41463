package kernelgw_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"kernelgw/kernelgw"
	"kernelgw/kernelgw/kernels"
	"kernelgw/sandboxes"
	"kernelgw/sandboxes/agentapi"
)

// httpAgent serves an agent that handle plays.
func httpAgent(t *testing.T, handle http.HandlerFunc) sandboxes.Endpoint {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var running sync.WaitGroup
	s := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		running.Add(1)
		defer running.Done()
		handle(w, r)
	})}
	served := make(chan error, 1)
	go func() { served <- s.Serve(l) }()
	t.Cleanup(func() {
		_ = s.Close()
		<-served
		running.Wait()
	})
	return sandboxes.Endpoint{Network: "tcp", Address: l.Addr().String()}
}

// told plays an agent whose stream has what is sent to say, until it is closed
// or the gateway leaves.
func told(t *testing.T, say <-chan string) sandboxes.Endpoint {
	return httpAgent(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/html") // it can say what it likes
		for {
			_ = http.NewResponseController(w).Flush()
			select {
			case text, ok := <-say:
				if !ok {
					return
				}
				_, _ = io.WriteString(w, text)
			case <-r.Context().Done():
				return
			}
		}
	})
}

// follow opens a stream of server-sent events, and must work.
func (g *gateway) follow(path string, headers ...string) *http.Response {
	g.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, g.url+path, nil)
	if err != nil {
		g.t.Fatal(err)
	}
	for _, h := range headers {
		name, value, _ := strings.Cut(h, ": ")
		r.Header.Add(name, value)
	}
	resp, err := g.client.Do(r)
	if err != nil {
		g.t.Fatal(err)
	}
	g.t.Cleanup(func() { cancel(); resp.Body.Close() })
	if resp.StatusCode != http.StatusOK {
		body, _ := io.ReadAll(resp.Body)
		g.t.Fatalf("%s: %d %s", path, resp.StatusCode, body)
	}
	return resp
}

const adaHeader = "Authorization: token " + adaToken

// rest reads a stream to its end.
func rest(t *testing.T, r io.Reader) string {
	t.Helper()
	all, err := io.ReadAll(r)
	if err != nil {
		t.Errorf("the stream breaks off: %v, after %q", err, all)
	}
	return string(all)
}

func TestEventsCrossAsTheyComeAndNoCredentialDoes(t *testing.T) {
	g := start(t)
	kernel := g.kernel("math")
	session := g.session("math", kernel)
	capability := g.capability("math")
	cookies, _ := g.login()
	say := make(chan string)
	var mu sync.Mutex
	var seen []*http.Request
	g.kernels.set(func(f *fakeKernels) {
		f.agent = httpAgent(t, func(w http.ResponseWriter, r *http.Request) {
			mu.Lock()
			seen = append(seen, r.Clone(context.Background()))
			mu.Unlock()
			_ = http.NewResponseController(w).Flush()
			for text := range say {
				_, _ = io.WriteString(w, text)
				_ = http.NewResponseController(w).Flush()
				if text == "end\n\n" {
					return
				}
			}
		})
	})
	for name, c := range map[string]struct {
		path    string
		headers []string
	}{
		"header":     {"/v1/sessions/" + session, []string{adaHeader, "Last-Event-ID: e-1-1-1-1-1"}},
		"query":      {"/v1/sessions/" + kernel, []string{adaHeader, "Origin: https://elsewhere.test"}},
		"cookie":     {"/w/math/v1/sessions/" + strings.ToUpper(session), []string{"Cookie: " + cookies, "Referer: " + g.url + "/lab?token=" + adaToken}},
		"capability": {capability + "/v1/sessions/" + session, nil},
	} {
		resp := g.follow(c.path+"/stream?last_event_id=7&channels=iopub,shell&from=3&limit=9&x=y", c.headers...)
		for header, want := range map[string]string{"Content-Type": "text/event-stream", "X-Accel-Buffering": "no", "Cache-Control": "no-store"} {
			if got := resp.Header.Get(header); got != want {
				t.Errorf("%s: %s is %q, want %q", name, header, got, want)
			}
		}
		lines := bufio.NewReader(resp.Body)
		for i := range 3 { // each is there before the next is said
			want := fmt.Sprintf("id: %d\n", i)
			say <- want
			if got, err := lines.ReadString('\n'); got != want {
				t.Fatalf("%s: %q %v, want %q", name, got, err, want)
			}
		}
		say <- "end\n\n"
		if got := rest(t, lines); got != "end\n\n" {
			t.Errorf("%s: the stream ends with %q", name, got)
		}
		mu.Lock()
		last := seen[len(seen)-1]
		mu.Unlock()
		place := map[bool]string{true: "e-1-1-1-1-1", false: "7"}[name == "header"]
		if got := last.URL.Path + " " + last.URL.RawQuery; got != "/v1/stream channels=iopub%2Cshell&last_event_id="+place {
			t.Errorf("%s: the agent was asked for %s", name, got)
		}
		text := fmt.Sprint(last.URL, last.Header, last.Host)
		for _, secret := range []string{adaToken, strings.TrimPrefix(capability, "/t/"), "kernelgw-", "Referer", "Cookie"} {
			if strings.Contains(text, secret) {
				t.Errorf("%s: the agent sees %q in %s", name, secret, text)
			}
		}
		if last.Header.Get("Authorization") != "Bearer agent-token" {
			t.Errorf("%s: the agent got %s", name, text)
		}
	}
	g.released(4)
}

// session makes a session of a kernel.
func (g *gateway) session(workspace, kernel string) string {
	g.t.Helper()
	var made struct{ ID string }
	g.want(g.ada("POST", "/w/"+workspace+"/api/sessions", `{"path":"a.ipynb","type":"notebook","kernel":{"id":"`+kernel+`"}}`), 201).json(g.t, &made)
	return made.ID
}

func TestDrainEndsEventsBetweenTwo(t *testing.T) {
	for name, c := range map[string]struct {
		before  []string // the drain
		after   string
		want    string
		dropped bool // the last event is not whole
	}{
		"in silence":    {[]string{"data: 1\n\n"}, "", "data: 1\n\n" + comeBack, false},
		"at the start":  {nil, "", comeBack, false},
		"in an event":   {[]string{"data: 1\n\ndata: 2"}, "2\n\ndata: 3\n\n", "data: 1\n\ndata: 22\n\n" + comeBack, false},
		"in a line end": {[]string{"data: 1\n"}, "\ndata: 2\n\n", "data: 1\n\n" + comeBack, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g := start(t)
			kernel := g.kernel("math")
			say := make(chan string)
			endpoint := told(t, say)
			g.kernels.set(func(f *fakeKernels) { f.agent = endpoint })
			resp := g.follow("/v1/sessions/"+kernel+"/stream", adaHeader)
			got := ""
			for _, text := range c.before {
				say <- text
				read := make([]byte, len(text))
				if _, err := io.ReadFull(resp.Body, read); err != nil {
					t.Fatal(err)
				}
				got += string(read)
			}
			drained := make(chan error, 1)
			go func() {
				ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
				defer cancel()
				drained <- g.server.Drain(ctx)
			}()
			if c.after != "" {
				for ask(g.server.Handler(), "/readyz").Code != 503 {
					time.Sleep(time.Millisecond)
				}
				select {
				case say <- c.after:
				case err := <-drained:
					t.Fatalf("the drain did not wait for the event: %v", err)
				}
			}
			if got += rest(t, resp.Body); got != c.want {
				t.Errorf("got %q, want %q", got, c.want)
			}
			if err := <-drained; err != nil {
				t.Error(err)
			}
			g.released(1)
		})
	}
}

const comeBack = ": the server is restarting\nretry: 1000\n\n"

func TestEventsEndWithWhatTheyLeadTo(t *testing.T) {
	broken := func(t *testing.T) sandboxes.Endpoint {
		return httpAgent(t, func(w http.ResponseWriter, _ *http.Request) {
			_, _ = io.WriteString(w, "data: 1\n\n")
			_ = http.NewResponseController(w).Flush()
			panic(http.ErrAbortHandler)
		})
	}
	g := start(t)
	kernel := g.kernel("math")
	endpoint := broken(t)
	g.kernels.set(func(f *fakeKernels) { f.agent = endpoint })
	if got := rest(t, g.follow("/v1/sessions/"+kernel+"/stream", adaHeader).Body); got != "data: 1\n\n: the connection to the kernel was lost\nretry: 1000\n\n" {
		t.Errorf("of a connection that broke: %q", got)
	}
	g.kernels.set(func(f *fakeKernels) {
		f.reason = "killed: memory\nlimit"
		close(f.dead)
	})
	if got := rest(t, g.follow("/v1/sessions/"+kernel+"/stream", adaHeader).Body); got != "data: 1\n\nevent: end\ndata: {\"reason\":\"killed: memory\\nlimit\"}\n\n" {
		t.Errorf("of a kernel that died: %q", got)
	}
	g.released(2)
}

func TestRevokedCredentialsEndEvents(t *testing.T) {
	g := start(t)
	kernel := g.kernel("math")
	endpoint := told(t, nil)
	g.kernels.set(func(f *fakeKernels) { f.agent = endpoint })
	capability := g.capability("math")
	resp := g.follow(capability + "/v1/sessions/" + kernel + "/stream")
	var list []struct{ ID string }
	g.want(g.ada("GET", "/v1/capabilities", ""), 200).json(t, &list)
	g.want(g.ada("DELETE", "/v1/capabilities/"+list[0].ID, ""), 204)
	if got := rest(t, resp.Body); got != ": the credentials are no longer valid\n\n" {
		t.Errorf("the stream ends with %q", got)
	}
}

func TestStreamsCountAsWebSockets(t *testing.T) {
	g := start(t, func(o *kernelgw.Options) { o.MaxSocketsPerUser = 1 })
	kernel := g.kernel("math")
	endpoint := told(t, nil)
	g.kernels.set(func(f *fakeKernels) { f.agent = endpoint })
	first := g.follow("/v1/sessions/"+kernel+"/stream", adaHeader)
	g.want(g.ada("GET", "/v1/sessions/"+kernel+"/stream", ""), 429)
	g.want(g.ada("GET", "/v1/sessions/"+kernel+"/output", ""), 429)
	g.want(g.ada("POST", "/v1/sessions/"+kernel+"/execute", `{"code": "1"}`), 429)
	first.Body.Close()
	g.released(1)
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		r, err := g.client.Do(mustRequest(t, g.url+"/v1/sessions/"+kernel+"/stream"))
		if err != nil {
			t.Fatal(err)
		}
		r.Body.Close()
		if r.StatusCode == 200 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("the place of a stream that ended is not given back: %d", r.StatusCode)
		}
	}
}

func TestStreamsAreAskedForWithoutABody(t *testing.T) {
	g := start(t)
	kernel := g.kernel("math")
	endpoint := told(t, nil)
	g.kernels.set(func(f *fakeKernels) { f.agent = endpoint })
	g.want(g.ada("GET", "/v1/sessions/"+kernel+"/stream", "x"), 400)
}

func mustRequest(t *testing.T, url string) *http.Request {
	t.Helper()
	r, err := http.NewRequest(http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Authorization", "token "+adaToken)
	return r
}

func TestOutputThatCannotBeReadIsAnsweredBeforeItBegins(t *testing.T) {
	g := start(t)
	kernel := g.kernel("math")
	status := func(code int) sandboxes.Endpoint {
		return httpAgent(t, func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(code)
			_, _ = io.WriteString(w, `{"message":"<b>the agent's own</b>"}`)
		})
	}
	check := func(name, path string, want int) {
		t.Helper()
		for _, end := range []string{"/stream", "/output", "socket"} {
			var r reply
			if end == "socket" {
				_, r, _ = g.dial(strings.Replace(path, "?", "/stream?", 1), adaHeader)
			} else {
				r = g.ada("GET", strings.Replace(path, "?", end+"?", 1), "")
			}
			var e errorModel
			r.json(t, &e)
			if r.StatusCode != want || e.Message == "" || strings.Contains(r.body, "own") || (r.Header.Get("Retry-After") != "") != (want == 503) {
				t.Errorf("%s, %s: %d %s, want %d", name, end, r.StatusCode, r.body, want)
			}
		}
	}
	path := "/v1/sessions/" + kernel + "?"
	check("unknown kernel", "/v1/sessions/5b6f0f0e-aaaa-bbbb-cccc-0123456789ab?", 404)
	check("not an id", "/v1/sessions/x?", 404)
	check("huge place", path+"from="+strings.Repeat("1", 300), 400)
	for code, want := range map[int]int{400: 400, 410: 410, 404: 503, 500: 503, 302: 503} {
		endpoint := status(code)
		g.kernels.set(func(f *fakeKernels) { f.agent = endpoint })
		check(fmt.Sprint("the agent says ", code), path, want)
	}
	g.kernels.set(func(f *fakeKernels) { f.agent.Address = "127.0.0.1:1" })
	check("agent does not listen", path, 503)
	g.kernels.set(func(f *fakeKernels) { f.refuse = kernels.ErrNotReady })
	check("never ready", path, 503)
	g.kernels.set(func(f *fakeKernels) { f.refuse = kernels.ErrDead })
	check("dead", path, 410)
	bob := []string{"Authorization: token " + bobToken}
	for _, end := range []string{"/stream", "/output"} {
		if r := g.do("GET", "/v1/sessions/"+kernel+end, "", bob...); r.StatusCode != 404 {
			t.Errorf("bob gets %d from ada's kernel", r.StatusCode)
		}
		if r := g.do("GET", "/w/math/v1/sessions/"+kernel+end, "", bob...); r.StatusCode != 404 {
			t.Errorf("bob gets %d from ada's workspace", r.StatusCode)
		}
	}
}

// A browser's EventSource ends for good at any status but 200, and says what it is.
func TestEventSourcesArePutOffByWhatIsSoonOver(t *testing.T) {
	g := start(t)
	path := "/v1/sessions/" + g.kernel("math") + "/stream"
	const source, curl = "Accept: text/event-stream", "Accept: */*"
	for _, passes := range []error{kernels.ErrNotReady, kernels.ErrAgent} {
		g.kernels.set(func(f *fakeKernels) { f.refuse = passes })
		resp := g.follow(path, adaHeader, source)
		if kind := resp.Header.Get("Content-Type"); kind != "text/event-stream" {
			t.Errorf("%v: the type is %q", passes, kind)
		}
		if got := rest(t, resp.Body); got != ": not now\nretry: 2000\n\n" {
			t.Errorf("%v: the stream is %q", passes, got)
		}
		if r := g.do("GET", path, "", adaHeader, curl); r.StatusCode != 503 {
			t.Errorf("%v: who accepts anything gets %d", passes, r.StatusCode)
		}
	}
	g.kernels.set(func(f *fakeKernels) { f.refuse = kernels.ErrDead })
	if r := g.do("GET", path, "", adaHeader, source); r.StatusCode != 410 {
		t.Errorf("the stream of a dead kernel answers %d", r.StatusCode)
	}
	if r := g.do("GET", path, "", "Authorization: token "+bobToken, source); r.StatusCode != 404 {
		t.Errorf("bob gets %d", r.StatusCode)
	}
	if r := g.do("GET", path, "", source); r.StatusCode != 403 {
		t.Errorf("a stranger gets %d", r.StatusCode)
	}
}

// A page of another site can open an EventSource, with the user's cookie.
func TestOtherSitesCannotFollow(t *testing.T) {
	g := start(t)
	kernel := g.kernel("math")
	cookies, _ := g.login()
	for name, headers := range map[string][]string{
		"origin": {"Origin: https://evil.test"}, "site": {"Sec-Fetch-Site: cross-site"}, "both": {"Origin: null", "Sec-Fetch-Site: cross-site"},
	} {
		for _, end := range []string{"/stream", "/output"} {
			r := g.do("GET", "/v1/sessions/"+kernel+end, "", append(headers, "Cookie: "+cookies)...)
			if r.StatusCode != 403 && r.StatusCode != 404 || r.Header.Get("Access-Control-Allow-Origin") != "" {
				t.Errorf("%s: %s is %d %v", name, end, r.StatusCode, r.Header)
			}
		}
	}
}

func TestStreamSocketsCrossAndDrainWith1012(t *testing.T) {
	g := start(t)
	session := g.session("math", g.kernel("math"))
	asked := make(chan string, 1)
	endpoint := agent(t, func(ws *websocket.Conn, r *http.Request) {
		asked <- r.URL.String()
		echo(ws, r)
	})
	g.kernels.set(func(f *fakeKernels) { f.agent = endpoint })
	ws, r, err := g.dial("/v1/sessions/"+session+"/stream?from=5&channels=shell", adaHeader)
	if err != nil {
		t.Fatalf("%v: %d %s", err, r.StatusCode, r.body)
	}
	if got := <-asked; got != "/v1/stream?channels=shell&last_event_id=5" {
		t.Errorf("the agent was asked for %s", got)
	}
	if err := ws.WriteMessage(websocket.TextMessage, []byte("hello")); err != nil {
		t.Fatal(err)
	}
	if _, data, err := ws.ReadMessage(); err != nil || string(data) != "hello" {
		t.Errorf("%q %v", data, err)
	}
	drained := make(chan error, 1)
	go func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		drained <- g.server.Drain(ctx)
	}()
	if code, _, _ := closing(t, ws); code != 1012 {
		t.Errorf("closed with %d", code)
	}
	if err := <-drained; err != nil {
		t.Error(err)
	}
}

func TestAPageThatBreaksOffIsNoPage(t *testing.T) {
	g := start(t)
	kernel := g.kernel("math")
	whole := `{"events":[],"next":"e-1","end":true}`
	answer := whole
	g.kernels.set(func(f *fakeKernels) {
		f.agent = httpAgent(t, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "text/html")
			_, _ = io.WriteString(w, answer)
			_ = http.NewResponseController(w).Flush()
			if answer != whole {
				panic(http.ErrAbortHandler)
			}
		})
	})
	r := g.want(g.ada("GET", "/v1/sessions/"+kernel+"/output?from=0&limit=5", ""), 200)
	if r.body != whole || r.Header.Get("Content-Type") != "application/json" {
		t.Errorf("%q %v", r.body, r.Header)
	}
	answer = `{"events":[{}`
	g.client.CloseIdleConnections() // or the client would ask again on a new one
	if resp, err := g.client.Do(mustRequest(t, g.url+"/v1/sessions/"+kernel+"/output")); err == nil {
		got, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err == nil {
			t.Errorf("a page that broke off is %q, and whole", got)
		}
	}
	g.released(2)
}

func TestAttackAgentSendsAnEndlessPage(t *testing.T) {
	g := start(t)
	kernel := g.kernel("math")
	g.kernels.set(func(f *fakeKernels) {
		f.agent = httpAgent(t, func(w http.ResponseWriter, _ *http.Request) {
			for chunk := make([]byte, 1<<20); ; {
				if _, err := w.Write(chunk); err != nil {
					return
				}
			}
		})
	})
	resp, err := g.client.Do(mustRequest(t, g.url+"/v1/sessions/"+kernel+"/output"))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if n, err := io.Copy(io.Discard, resp.Body); err == nil || n > agentapi.MaxPageBytes {
		t.Errorf("%d bytes crossed, and the end was %v", n, err)
	}
	g.released(1)
}
