package kernelgw_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"kernelgw/auth"
	"kernelgw/auth/token"
	"kernelgw/kernelgw"
	"kernelgw/kernelgw/registry/memory"
	"kernelgw/kernelgw/telemetry"
)

// startSingle is start with the single user, whose token is adaToken.
func startSingle(t *testing.T, change func(*kernelgw.Options)) *gateway {
	t.Helper()
	return start(t, change, func(o *kernelgw.Options) {
		users, err := token.New(token.Options{Users: []token.User{token.Single(adaToken)}, Store: memory.New(), Log: o.Log})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(users.Close)
		o.Users = users
	})
}

// raw sends bytes and returns what comes back until the server closes.
func (g *gateway) raw(request string) string {
	g.t.Helper()
	conn, err := net.Dial("tcp", strings.TrimPrefix(g.url, "http://"))
	if err != nil {
		g.t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
	if _, err := io.WriteString(conn, request); err != nil {
		return err.Error()
	}
	got, err := io.ReadAll(conn)
	if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) {
		return string(got) + err.Error()
	}
	return string(got)
}

// Token leaks: CVE-2022-24757/24758, jupyter_server 1681, CVE-2023-49080. Every
// kind of answer is provoked with secrets everywhere, and then everything that
// was logged, counted or answered is searched for them.
func TestSecretsReachNoLogNoMetricAndNoBody(t *testing.T) {
	const secret = "S3CRETS3CRETS3CRETS3CRET"
	g := start(t)
	kernel := g.kernel("math")
	capability := g.capability("math")
	cookies, _ := g.login()
	g.kernels.set(func(f *fakeKernels) { f.explode = nil })
	headers := []string{
		"Cookie: " + cookies + "; other=" + secret, "Referer: http://h/lab?token=" + secret, "X-XSRFToken: " + secret,
		"User-Agent: " + secret, "X-Forwarded-For: " + secret,
	}
	var bodies strings.Builder
	send := func(method, path, body string, extra ...string) int {
		r := g.do(method, path, body, append(headers, extra...)...)
		fmt.Fprintln(&bodies, r.body, r.Header)
		return r.StatusCode
	}
	seen := map[int]bool{}
	for _, path := range []string{
		"/api", "/api/kernels", "/api/kernels/" + kernel, "/api/kernels/nope", "/api/kernels/" + kernel + "/channels", "/nothing/" + secret,
		"/lab", "/login", "/w/" + secret + "/api/kernels", "/t/" + secret + "/api/kernels", "/api/kernels/" + secret, capability + "/api/kernels",
		"/kernelspecs/python3/" + secret, "/api/sessions/" + secret,
	} {
		for _, query := range []string{"?token=" + secret, "?token=" + adaToken + "&x=" + secret, "?x=;" + secret} {
			for _, method := range []string{"GET", "POST", "DELETE", "PATCH", secret} {
				for _, authorization := range []string{"token " + secret, "token " + adaToken, "Bearer " + secret, "Basic " + secret} {
					seen[send(method, path+query, `{"`+secret+``, "Authorization: "+authorization)/100] = true
				}
			}
		}
	}
	// Panics that quote the request, and errors.
	g.kernels.set(func(f *fakeKernels) { f.explode = "panic at /api/kernels?token=" + secret })
	if s := send("GET", "/api/kernels?token="+secret, "", "Authorization: token "+adaToken); s != 500 {
		t.Errorf("a panic answered %d", s)
	}
	g.kernels.set(func(f *fakeKernels) { f.explode = fmt.Errorf("panic with %s", secret) })
	send("GET", "/api/kernels?token="+secret, "", "Authorization: token "+adaToken)
	g.kernels.set(func(f *fakeKernels) { f.explode, f.fail = nil, errors.New("the driver failed") })
	if s := send("GET", "/api/kernels?token="+secret, "", "Authorization: token "+adaToken); s != 500 {
		t.Errorf("an error answered %d", s)
	}
	for _, class := range []int{2, 3, 4} {
		if !seen[class] {
			t.Errorf("no %dxx was provoked", class)
		}
	}
	g.raw("GET /?token=" + secret + "\r\nBroken " + secret + "\r\n\r\n")
	g.kernels.set(func(f *fakeKernels) { f.fail = nil })
	metrics := g.scrape()

	secrets := []string{secret, adaToken, metricsToken, strings.TrimPrefix(capability, "/t/")}
	for _, part := range strings.Split(cookies, "; ") {
		_, value, _ := strings.Cut(part, "=")
		secrets = append(secrets, value)
	}
	for _, s := range secrets {
		for where, text := range map[string]string{"log": g.log.String(), "metrics": metrics} {
			if i := strings.Index(text, s); i >= 0 {
				t.Errorf("a secret is in the %s: …%s…", where, text[max(0, i-200):min(len(text), i+60)])
			}
		}
	}
	// Bodies may name the id that was asked for, as Jupyter's do; never a token.
	for _, s := range secrets[1:] {
		text := strings.ReplaceAll(bodies.String(), capability+"/", "")
		if i := strings.Index(text, s); i >= 0 && !strings.Contains(text[max(0, i-40):i], "Set-Cookie") {
			t.Errorf("a secret is in a body: …%s…", text[max(0, i-200):min(len(text), i+60)])
		}
	}
	log := g.log.String()
	if n := strings.Count(log, "panic in a handler"); n != 2 {
		t.Errorf("two panics were logged %d times", n)
	}
	for _, want := range []string{"route=/api/kernels/:id", "route=/t/:capability/api/kernels", "method=other", "route=none", "the driver failed"} {
		if !strings.Contains(log, want) {
			t.Errorf("the log does not have %q", want)
		}
	}
}

func TestAPanicAnswers500AndTheServerGoesOn(t *testing.T) {
	g := start(t)
	g.kernels.set(func(f *fakeKernels) { f.explode = []int{} })
	var e errorModel
	g.want(g.ada("GET", "/api/kernels", ""), 500).json(t, &e)
	if e.Message != "Unhandled error" || e.Traceback == nil || *e.Traceback != "" {
		t.Errorf("body %+v", e)
	}
	g.kernels.set(func(f *fakeKernels) { f.explode = nil })
	g.want(g.ada("GET", "/api/kernels", ""), 200)
}

// CVE-2026-44181, 44182 and enterprise_gateway 83f54a8: templates, YAML and
// shell in KERNEL_* are data.
func TestKernelEnvironmentIsData(t *testing.T) {
	g := start(t)
	for _, value := range []string{"{{7*7}}", "a\nb: !!python/object", "$(id)", "`id`", "${PATH}", "%(x)s", "'; rm -rf /", "ünï"} {
		body, err := json.Marshal(map[string]any{"env": map[string]string{"KERNEL_X": value, "KERNEL_USERNAME": value}})
		if err != nil {
			t.Fatal(err)
		}
		g.want(g.ada("POST", "/api/kernels", string(body)), 201)
		started := g.kernels.starts[len(g.kernels.starts)-1]
		if started.Env["KERNEL_X"] != value || started.Owner != "token:ada" {
			t.Errorf("value %q arrived as %q for %s", value, started.Env["KERNEL_X"], started.Owner)
		}
	}
}

func TestEnvironmentsThatCannotBeAreRefused(t *testing.T) {
	g := start(t)
	many := map[string]string{}
	for i := range 10000 {
		many[fmt.Sprintf("KERNEL_%d", i)] = "x"
	}
	large := map[string]string{}
	for i := range 20 {
		large[fmt.Sprintf("KERNEL_%d", i)] = strings.Repeat("x", 30<<10)
	}
	for name, env := range map[string]any{
		"NUL":            map[string]string{"KERNEL_X": "a\x00b"},
		"1 MiB value":    map[string]string{"KERNEL_X": strings.Repeat("x", 900<<10)},
		"10k variables":  many,
		"600 KiB in all": large,
		"= in a name":    map[string]string{"KERNEL_X=LD_PRELOAD": "x"},
		"empty name":     map[string]string{"": "x"},
		"newline":        map[string]string{"KERNEL_X\nLD_PRELOAD": "x"},
		"space":          map[string]string{"KERNEL X": "x"},
		"long name":      map[string]string{"KERNEL_" + strings.Repeat("X", 1000): "x"},
		"not a string":   map[string]any{"KERNEL_X": 7},
		"not an object":  []string{"KERNEL_X=1"},
	} {
		body, err := json.Marshal(map[string]any{"env": env})
		if err != nil {
			t.Fatal(err)
		}
		r := g.ada("POST", "/api/kernels", string(body))
		var e errorModel
		r.json(t, &e)
		if r.StatusCode != 400 || !strings.Contains(e.Message, "env") || len(e.Message) > 700 {
			t.Errorf("%s: %d %.300s", name, r.StatusCode, r.body)
		}
	}
	if len(g.kernels.starts) != 0 {
		t.Errorf("%d kernels were started", len(g.kernels.starts))
	}
}

func TestHostileBodies(t *testing.T) {
	g := start(t)
	for name, c := range map[string]struct {
		body   string
		status int
	}{
		"no JSON":             {`{`, 400},
		"two values":          {`{}{}`, 400},
		"null":                {`null`, 400},
		"array":               {`[]`, 400},
		"string":              {`"x"`, 400},
		"invalid UTF-8":       {"{\"path\":\"\xff\"}", 400},
		"100k deep":           {strings.Repeat(`{"a":`, 100000) + `1` + strings.Repeat(`}`, 100000), 400},
		"100k deep array":     {`{"path":` + strings.Repeat(`[`, 100000) + strings.Repeat(`]`, 100000) + `}`, 400},
		"lone surrogate":      {`{"path":"\ud800","type":"x"}`, 201},
		"2 MiB":               {`{"path":"` + strings.Repeat("x", 2<<20) + `"}`, 413},
		"huge number":         {`{"path":1e999999}`, 400},
		"prototype pollution": {`{"__proto__":{"path":"x"},"path":"p","type":"x"}`, 201},
		"NaN":                 {`{"path":NaN}`, 400},
		"byte order mark":     {"\ufeff{}", 400},
	} {
		r := g.ada("POST", "/api/sessions", c.body)
		var e errorModel
		r.json(t, &e)
		if r.StatusCode != c.status || len(r.body) > 2000 || (c.status != 201 && e.Message == "") {
			t.Errorf("%s: %d %.200s, want %d", name, r.StatusCode, r.body, c.status)
		}
	}
	limit := g.ada("POST", "/api/sessions", strings.Repeat("x", 2<<20))
	if !strings.Contains(limit.body, "1048576") {
		t.Errorf("the limit is not named: %s", limit.body)
	}
}

func TestAChunkedBodyIsLimitedToo(t *testing.T) {
	g := start(t)
	r, err := http.NewRequest("POST", g.url+"/api/sessions", io.MultiReader(strings.NewReader(strings.Repeat("x", 2<<20))))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Authorization", "token "+adaToken)
	resp, err := g.client.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != 413 {
		t.Errorf("status %d", resp.StatusCode)
	}
}

// A client that dribbles its header in must not keep a connection.
func TestSlowLorisIsCutOff(t *testing.T) {
	t.Parallel()
	g := start(t)
	conn, err := net.Dial("tcp", strings.TrimPrefix(g.url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	begin := time.Now()
	if _, err := io.WriteString(conn, "GET /api HTTP/1.1\r\nHost: x\r\n"); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() {
		_, err := conn.Read(make([]byte, 1))
		ended <- err
	}()
	for i := 0; ; i++ {
		_, _ = fmt.Fprintf(conn, "X-%d: y\r\n", i) // fails once it is cut off
		select {
		case <-ended:
			if d := time.Since(begin); d < 8*time.Second || d > 30*time.Second {
				t.Errorf("cut off after %v", d)
			}
			return
		case <-time.After(500 * time.Millisecond):
		}
		if time.Since(begin) > 40*time.Second {
			t.Fatal("still connected after 40 s")
		}
	}
}

func TestHugeHeadersAreRefused(t *testing.T) {
	g := start(t)
	got := g.raw("GET /api HTTP/1.1\r\nHost: x\r\nX-Huge: " + strings.Repeat("x", 200<<10) + "\r\n\r\n")
	if got != "" && !strings.Contains(got, " 431 ") && !strings.Contains(got, "reset") && !strings.Contains(got, "broken pipe") {
		t.Errorf("answer %.200q", got)
	}
	if strings.Contains(got, " 200 ") {
		t.Error("a header of 200 KiB was taken")
	}
	g.want(g.do("GET", "/api", ""), 200)
}

func TestSmugglingShapesAreRefused(t *testing.T) {
	g := start(t)
	for name, request := range map[string]string{
		"two lengths":          "POST /api/kernels HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd",
		"bad length":           "POST /api/kernels HTTP/1.1\r\nHost: x\r\nContent-Length: +3\r\n\r\nabc",
		"two hosts":            "GET /api HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n",
		"space before colon":   "GET /api HTTP/1.1\r\nHost: x\r\nX : y\r\n\r\n",
		"unknown transfer":     "POST /api/kernels HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: cow\r\n\r\n",
		"no host":              "GET /api HTTP/1.1\r\n\r\n",
		"absolute evil target": "GET http://[::1/api HTTP/1.1\r\nHost: x\r\n\r\n",
	} {
		got := g.raw(strings.Replace(request, "\r\n\r\n", "\r\nConnection: close\r\n\r\n", 1))
		line, _ := bufio.NewReader(strings.NewReader(got)).ReadString('\n')
		if !strings.Contains(line, " 400 ") && !strings.Contains(line, " 501 ") {
			t.Errorf("%s: %q", name, line)
		}
	}
}

type deadUsers struct{ kernelgw.Users }

func (deadUsers) Authenticate(context.Context, *http.Request) (auth.Principal, error) {
	return auth.Principal{}, errors.New("the registry is gone")
}

func TestUnknownIdentityIs503NotARefusal(t *testing.T) {
	g := start(t, func(o *kernelgw.Options) { o.Users = deadUsers{o.Users} })
	for _, path := range []string{"/api/kernels", "/lab"} {
		if r := g.want(g.do("GET", path, "", "Authorization: token "+adaToken), 503); r.Header.Get("Retry-After") == "" {
			t.Error("503 without Retry-After")
		}
	}
	if strings.Contains(g.want(g.do("GET", "/api/kernels", ""), 503).body, "registry") {
		t.Error("the body tells internals")
	}
}

func FuzzBodies(f *testing.F) {
	for _, s := range []string{
		`{"path":"a","type":"notebook","kernel":{"id":"x"}}`, `{"env":{"KERNEL_X":"y"}}`, `null`, `[]`, `{"color":"x"}`, `{"expires_in":5}`,
	} {
		f.Add(s)
	}
	log := slog.New(slog.NewTextHandler(io.Discard, nil))
	users, err := token.New(token.Options{Users: []token.User{token.Single(adaToken)}, Store: memory.New(), Log: log})
	if err != nil {
		f.Fatal(err)
	}
	server, err := kernelgw.New(kernelgw.Options{Users: users, Kernels: newFakeKernels(), Log: log, Metrics: telemetry.NewMetrics()})
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(users.Close)
	f.Fuzz(func(t *testing.T, body string) {
		for _, target := range []string{
			"POST /api/kernels", "POST /api/sessions", "PATCH /api/sessions/a-b-c-d-e", "PATCH /api/me", "POST /v1/capabilities",
		} {
			method, path, _ := strings.Cut(target, " ")
			r := httptest.NewRequest(method, path, bytes.NewReader([]byte(body)))
			r.Header.Set("Authorization", "token "+adaToken)
			w := httptest.NewRecorder()
			server.Handler().ServeHTTP(w, r)
			if w.Code >= 500 && w.Code != 501 {
				t.Fatalf("%s with %q: %d %s", target, body, w.Code, w.Body)
			}
			if !json.Valid(w.Body.Bytes()) {
				t.Fatalf("%s with %q: no JSON in %q", target, body, w.Body)
			}
		}
	})
}
