package kernelgw_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"strings"
	"testing"

	"kernelgw/jupyter"
	"kernelgw/kernelgw"
	"kernelgw/kernelgw/kernels"
)

// timestamp is the only form that all stock clients parse (contract 1.2).
var timestamp = regexp.MustCompile(`^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z$`)

type kernelModel struct {
	ID             string
	Name           string
	LastActivity   string `json:"last_activity"`
	ExecutionState string `json:"execution_state"`
	Connections    *int
	Reason         *string
}

type sessionModel struct {
	ID, Path, Name, Type string
	Kernel               kernelModel
	Notebook             *struct{ Path, Name string }
}

type errorModel struct {
	Message      string
	Reason       *string
	ShortMessage string  `json:"short_message"`
	Traceback    *string `json:"traceback"`
}

func TestVersionAndProbes(t *testing.T) {
	g := start(t)
	if r := g.want(g.do("GET", "/api/", ""), 200); r.body != `{"version":"2.21.1"}`+"\n" {
		t.Errorf("body %q", r.body)
	}
	g.want(g.do("GET", "/healthz", ""), 200)
	g.want(g.do("GET", "/readyz", ""), 200)
	g.kernels.set(func(f *fakeKernels) { f.ready = false })
	if r := g.want(g.do("GET", "/readyz", ""), 503); r.Header.Get("Retry-After") == "" {
		t.Error("503 without Retry-After")
	}
	g.want(g.do("GET", "/healthz", ""), 200)
	g.want(g.do("GET", "/robots.txt", ""), 200)
	g.want(g.do("GET", "/favicon.ico", ""), 200)
	g.want(g.do("POST", "/api/security/csp-report", `{"csp-report":{}}`), 200)
}

func TestLifeOfAKernel(t *testing.T) {
	g := start(t)
	if r := g.want(g.ada("GET", "/api/kernels", ""), 200); r.body != "[]\n" {
		t.Errorf("an empty list is %q", r.body)
	}
	created := g.want(g.ada("POST", "/api/kernels", `{"name":"python3","path":null,"unknown":1}`), 201)
	var k kernelModel
	created.json(t, &k)
	if created.Header.Get("Location") != "/api/kernels/"+k.ID || k.Name != "python3" || k.ExecutionState != "starting" ||
		!timestamp.MatchString(k.LastActivity) || k.LastActivity != "2026-11-24T05:00:00.000000Z" || k.Connections == nil || k.Reason != nil {
		t.Errorf("created %s at %q", created.body, created.Header.Get("Location"))
	}
	if ct := created.Header.Get("Content-Type"); !strings.HasPrefix(ct, "application/json") {
		t.Errorf("content type %q", ct)
	}
	one := "/api/kernels/" + k.ID
	g.want(g.ada("GET", one, ""), 200)
	for _, body := range []string{"", "{}"} {
		if r := g.want(g.ada("POST", one+"/interrupt", body), 204); r.body != "" {
			t.Errorf("interrupt answered %q", r.body)
		}
		var again kernelModel
		g.want(g.ada("POST", one+"/restart", body), 200).json(t, &again)
		if again.ID != k.ID {
			t.Errorf("restarted as %q", again.ID)
		}
	}
	g.kernels.set(func(f *fakeKernels) {
		dead := f.kernels[k.ID]
		dead.ExecutionState, dead.Reason = jupyter.Dead, "killed: memory limit 2.0 GiB"
		f.kernels[k.ID] = dead
	})
	g.want(g.ada("GET", one, ""), 200).json(t, &k)
	if k.ExecutionState != "dead" || k.Reason == nil || *k.Reason != "killed: memory limit 2.0 GiB" {
		t.Errorf("dead kernel %+v", k)
	}
	g.want(g.ada("DELETE", one, ""), 204)
	var e errorModel
	g.want(g.ada("GET", one, ""), 404).json(t, &e)
	if e.Message != "Kernel does not exist: "+k.ID || e.Reason != nil {
		t.Errorf("error %+v", e)
	}
}

func TestKernelsBelongToWorkspaces(t *testing.T) {
	g := start(t)
	math, team := g.kernel("math"), g.kernel("team")
	for path, want := range map[string]string{
		"/": math, "/w/math/": math, "/w/team/": team, g.capability("math") + "/": math, g.capability("team") + "/": team,
	} {
		var list []kernelModel
		g.want(g.ada("GET", path+"api/kernels", ""), 200).json(t, &list)
		if len(list) != 1 || list[0].ID != want {
			t.Errorf("%s lists %+v, want %s", path, list, want)
		}
		other := team
		if want == team {
			other = math
		}
		g.want(g.ada("GET", path+"api/kernels/"+other, ""), 404)
		g.want(g.ada("DELETE", path+"api/kernels/"+other, ""), 404)
	}
	if r := g.do("GET", "/api/kernels", "", "Authorization: token "+bobToken); r.body != "[]\n" {
		t.Errorf("bob sees %q", r.body)
	}
	owner := g.kernels.starts[0].Owner
	if owner != "token:ada" {
		t.Errorf("owner %q", owner)
	}
}

func TestIDsThatCannotBeAreNotFound(t *testing.T) {
	g := start(t)
	for _, id := range []string{"x", "..", "a-b-c-d", "a-b-c-d-e-f", "a-b-c-d-%20", "%2e%2e", "a-b-c-d-%00", "<script>-b-c-d-e", strings.Repeat("x", 5000) + "-b-c-d-e"} {
		id = strings.NewReplacer("<", "%3C", ">", "%3E").Replace(id)
		for _, r := range []reply{
			g.ada("GET", "/api/kernels/"+id, ""), g.ada("DELETE", "/api/kernels/"+id, ""), g.ada("POST", "/api/kernels/"+id+"/restart", ""),
			g.ada("GET", "/api/sessions/"+id, ""), g.ada("DELETE", "/api/sessions/"+id, ""), g.ada("PATCH", "/api/sessions/"+id, "{}"),
		} {
			if r.StatusCode != 404 || strings.Contains(r.body, "<script>") || len(r.body) > 500 {
				t.Errorf("%s %q: %d %.200s", r.Request.Method, id, r.StatusCode, r.body)
			}
		}
	}
}

func TestClientsMayChooseTheKernelsID(t *testing.T) {
	g := start(t)
	const id = "5b6f0f0e-aaaa-bbbb-cccc-0123456789ab"
	var k kernelModel
	g.want(g.ada("POST", "/api/kernels", `{"kernel_id":"`+id+`"}`), 201).json(t, &k)
	if k.ID != id {
		t.Errorf("id %q", k.ID)
	}
	g.want(g.ada("POST", "/api/kernels", `{"kernel_id":"`+id+`"}`), 409)
	g.want(g.ada("POST", "/api/kernels", `{"env":{"KERNEL_ID":"`+id+`"}}`), 409)
	g.want(g.ada("POST", "/api/kernels", `{"kernel_id":"../../x"}`), 400)
	g.want(g.ada("POST", "/api/kernels", `{"env":{"KERNEL_ID":"$(id)"}}`), 400)
}

func TestUnknownKernelspecIs501WithAMessage(t *testing.T) {
	g := start(t)
	for path, body := range map[string]string{
		"/api/kernels": `{"name":"cobol"}`, "/api/sessions": `{"path":"a.ipynb","type":"notebook","kernel":{"name":"cobol"}}`,
	} {
		var e errorModel
		g.want(g.ada("POST", path, body), 501).json(t, &e)
		if e.Message != "No such kernelspec: cobol" || e.ShortMessage == "" {
			t.Errorf("%s: %+v", path, e)
		}
	}
}

func TestErrorsOfKernelsHaveTheirStatus(t *testing.T) {
	g := start(t)
	id := g.kernel("math")
	for _, c := range []struct {
		err     error
		status  int
		message string
		retry   bool
	}{
		{fmt.Errorf("%w: adopting", kernels.ErrNotReady), 503, "Kernel is not ready: adopting", true},
		{fmt.Errorf("%w: kernel id x is not a UUID", kernels.ErrInvalid), 400, "Kernel id x is not a UUID", false},
		{fmt.Errorf("%w: killed", kernels.ErrDead), 410, "Kernel is dead: killed", false},
		{fmt.Errorf("%w: 1000 kernels", kernels.ErrLimit), 429, "Limit reached: 1000 kernels", false},
		{fmt.Errorf("the store: %w", context.DeadlineExceeded), 503, "That took too long; try again", true},
		{errors.New("driver says token=/secret/path"), 500, "Unhandled error", false},
	} {
		g.kernels.set(func(f *fakeKernels) { f.fail = c.err })
		for _, r := range []reply{
			g.ada("GET", "/api/kernels", ""), g.ada("GET", "/api/kernels/"+id, ""), g.ada("POST", "/api/kernels", ""),
			g.ada("POST", "/api/kernels/"+id+"/interrupt", ""), g.ada("DELETE", "/api/kernels/"+id, ""),
			g.ada("GET", "/api/sessions", ""), g.ada("GET", "/api/kernelspecs", ""), g.ada("GET", "/api/status", ""),
		} {
			var e errorModel
			r.json(t, &e)
			if r.StatusCode != c.status || e.Message != c.message || (r.Header.Get("Retry-After") != "") != c.retry {
				t.Errorf("%s %s: %d %s", r.Request.Method, r.Request.URL.Path, r.StatusCode, r.body)
			}
			if (e.Traceback != nil) != (c.status == 500) {
				t.Errorf("traceback in %s", r.body)
			}
		}
	}
	var e errorModel
	g.want(g.ada("POST", "/api/kernels/"+id+"/restart", ""), 500).json(t, &e)
	if e.Message != "Exception restarting kernel" {
		t.Errorf("restart: %+v", e)
	}
}

// JupyterLab opens a session under a throw-away path, compares what comes back
// byte for byte, and then renames it by two PATCHes.
func TestLifeOfASession(t *testing.T) {
	g := start(t)
	const path = "dir/../  Ünï/5b6f0f0e-aaaa-bbbb-cccc-0123456789ab"
	created := g.want(g.ada("POST", "/api/sessions", `{"path":"`+path+`","name":"a.ipynb","type":"notebook","kernel":{"name":"python3"}}`), 201)
	var s sessionModel
	created.json(t, &s)
	if s.Path != path || s.Name != "a.ipynb" || s.Type != "notebook" || s.Notebook == nil || s.Notebook.Path != path ||
		created.Header.Get("Location") != "/api/sessions/"+s.ID || !timestamp.MatchString(s.Kernel.LastActivity) {
		t.Fatalf("created %s", created.body)
	}
	one := "/api/sessions/" + s.ID
	g.want(g.ada("PATCH", one, `{"path":"dir/a.ipynb","id":"ignored"}`), 200).json(t, &s)
	g.want(g.ada("PATCH", one, `{"name":"b.ipynb"}`), 200).json(t, &s)
	if s.Path != "dir/a.ipynb" || s.Name != "b.ipynb" {
		t.Errorf("renamed %+v", s)
	}
	g.want(g.ada("PATCH", one, `{}`), 200)
	var list []sessionModel
	g.want(g.ada("GET", "/api/sessions", ""), 200).json(t, &list)
	if len(list) != 1 || list[0].ID != s.ID {
		t.Errorf("listed %+v", list)
	}
	var again sessionModel
	g.want(g.ada("POST", "/api/sessions", `{"path":"dir/a.ipynb","type":"console","name":"z"}`), 201).json(t, &again)
	if again.ID != s.ID || again.Type != "notebook" {
		t.Errorf("the same path gave %+v", again)
	}
	other := g.kernel("math")
	g.want(g.ada("PATCH", one, `{"kernel":{"id":"`+other+`"}}`), 200).json(t, &s)
	if s.Kernel.ID != other {
		t.Errorf("kernel %+v", s.Kernel)
	}
	var e errorModel
	g.want(g.ada("PATCH", one, `{"kernel":{"id":"5b6f0f0e-aaaa-bbbb-cccc-000000000000"}}`), 400).json(t, &e)
	if !strings.HasPrefix(e.Message, "No such kernel") {
		t.Errorf("unknown kernel: %+v", e)
	}
	g.want(g.ada("DELETE", one, ""), 204)
	g.want(g.ada("GET", one, ""), 404)
	g.want(g.ada("DELETE", one, ""), 404)
	g.want(g.ada("PATCH", one, `{}`), 404)
	if r := g.want(g.ada("GET", "/api/sessions", ""), 200); r.body != "[]\n" {
		t.Errorf("no sessions are %q", r.body)
	}
}

func TestConsoleSessionsHaveNoNotebook(t *testing.T) {
	g := start(t)
	r := g.want(g.ada("POST", "/api/sessions", `{"path":"console-1-x","type":"console","kernel":null}`), 201)
	var s sessionModel
	r.json(t, &s)
	if s.Notebook != nil || !strings.Contains(r.body, `"name":""`) {
		t.Errorf("console %s", r.body)
	}
	g.want(g.ada("POST", "/api/sessions", `{"notebook":{"path":"old.ipynb"}}`), 201).json(t, &s)
	if s.Path != "old.ipynb" || s.Type != "notebook" {
		t.Errorf("the form of notebook 4 gave %+v", s)
	}
}

func TestMissingFieldsAre400WithAMessage(t *testing.T) {
	g := start(t)
	id := g.kernel("math")
	var s sessionModel
	g.want(g.ada("POST", "/api/sessions", `{"path":"p","type":"file"}`), 201).json(t, &s)
	for _, c := range []struct{ method, path, body, says string }{
		{"POST", "/api/sessions", ``, "No JSON data provided"},
		{"POST", "/api/sessions", `{}`, "Missing field in JSON data: path"},
		{"POST", "/api/sessions", `{"path":"x"}`, "Missing field in JSON data: type"},
		{"POST", "/api/sessions", `{"path":null,"type":"x"}`, "Missing field in JSON data: path"},
		{"POST", "/api/sessions", `{"path":7,"type":"x"}`, "path must not be a number"},
		{"POST", "/api/sessions", `{"path":"x","type":"x","kernel":"python3"}`, "kernel must not be a string"},
		{"POST", "/api/sessions", `{"path":"x","type":"x","kernel":{"id":"x"}}`, "kernel.id"},
		{"POST", "/api/sessions", `{"path":"` + strings.Repeat("x", 5000) + `","type":"x"}`, "limit"},
		{"PATCH", "/api/sessions/" + s.ID, ``, "No JSON data provided"},
		{"PATCH", "/api/sessions/" + s.ID, `{"kernel":{"id":"` + strings.Repeat("x", 50) + `"}}`, "kernel.id"},
		{"POST", "/api/kernels", `{"name":[]}`, "name must not be a array"},
		{"POST", "/api/kernels", `{"env":{"A":1}}`, "env"},
		{"POST", "/api/kernels", `{"path":"` + strings.Repeat("x", 5000) + `"}`, "limit"},
		{"PATCH", "/api/me", ``, "Invalid or missing JSON body"},
		{"PATCH", "/api/me", `{"username":"root"}`, "not updatable"},
		{"PATCH", "/api/me", `{"color":7}`, "color"},
		{"POST", "/v1/capabilities", `{"expires_in":0}`, "expires_in"},
		{"POST", "/v1/capabilities", `{"expires_in":9999999999999}`, "expires_in"},
		{"POST", "/v1/capabilities", `{"expires_in":1e300}`, "expires_in"},
		{"POST", "/v1/capabilities", `{"label":"a\nb"}`, "label"},
		{"GET", "/api/me?permissions=x", ``, "permissions"},
		{"GET", "/api/me?permissions=[]", ``, "permissions"},
		{"GET", "/api/me?permissions=null", ``, "permissions"},
		{"GET", `/api/me?permissions={"a":"b"}`, ``, "permissions"},
		{"GET", `/api/me?permissions={"a":null}`, ``, "permissions"},
		{"GET", "/api/kernels/" + id + "/channels", ``, "WebSocket"},
	} {
		r := g.ada(c.method, c.path, c.body)
		var e errorModel
		r.json(t, &e)
		if r.StatusCode != 400 || !strings.Contains(e.Message, c.says) || len(e.Message) > 400 {
			t.Errorf("%s %s %.60s: %d %.300s, want a 400 that says %q", c.method, c.path, c.body, r.StatusCode, r.body, c.says)
		}
	}
}

func TestKernelspecs(t *testing.T) {
	g := start(t)
	r := g.want(g.ada("GET", "/w/math/api/kernelspecs", ""), 200)
	var m struct {
		Default     string
		Kernelspecs map[string]struct {
			Name      string
			Spec      map[string]any
			Resources map[string]string
		}
	}
	r.json(t, &m)
	spec := m.Kernelspecs["python3"]
	if m.Default != "python3" || len(m.Kernelspecs) != 1 || spec.Name != "python3" || spec.Spec["interrupt_mode"] != "signal" ||
		spec.Spec["env"] == nil || spec.Spec["metadata"].(map[string]any)["debugger"] != true || len(spec.Spec["argv"].([]any)) != 5 {
		t.Errorf("specs %s", r.body)
	}
	want := map[string]string{
		"logo-64x64": "/w/math/kernelspecs/python3/logo-64x64.png", "logo-svg": "/w/math/kernelspecs/python3/logo-svg.svg",
	}
	if fmt.Sprint(spec.Resources) != fmt.Sprint(want) {
		t.Errorf("resources %v, want %v", spec.Resources, want)
	}
	var e errorModel
	g.want(g.ada("GET", "/api/kernelspecs/python3", ""), 200)
	g.want(g.ada("GET", "/api/kernelspecs/cobol", ""), 404).json(t, &e)
	if e.Message != "Kernel spec cobol not found" {
		t.Errorf("message %q", e.Message)
	}
}

func TestLogosAreServedAsDataOnly(t *testing.T) {
	g := start(t)
	for _, method := range []string{"GET", "HEAD"} {
		r := g.want(g.ada(method, "/kernelspecs/python3/logo-64x64.png", ""), 200)
		if r.Header.Get("Content-Type") != "image/png" || r.Header.Get("Content-Length") != "12" ||
			!strings.Contains(r.Header.Get("Cache-Control"), "max-age=2592000") || r.Header.Get("X-Content-Type-Options") != "nosniff" {
			t.Errorf("%s: %v", method, r.Header)
		}
	}
	svg := g.want(g.ada("GET", "/kernelspecs/python3/logo-svg.svg", ""), 200)
	if svg.Header.Get("Content-Type") != "image/svg+xml" || !strings.HasSuffix(svg.Header.Get("Content-Security-Policy"), "; sandbox") {
		t.Errorf("svg: %v", svg.Header)
	}
	// A hostile image's symbolic link, its code and its other files are not.
	for _, file := range []string{
		"logo-evil.png", "kernel.js", "kernel.json", "kernel.css", "logo-64x64.png.js", "..%2f..%2fetc%2fpasswd", "%2e%2e", "logo-none.png", ".",
	} {
		g.want(g.ada("GET", "/kernelspecs/python3/"+file, ""), 404)
	}
	g.want(g.ada("GET", "/kernelspecs/..%2fevil/logo-64x64.png", ""), 404)
}

func TestMeAndStatus(t *testing.T) {
	g := start(t)
	r := g.want(g.ada("GET", `/api/me?permissions={"contents":["write"],"kernels":[]}`, ""), 200)
	want := `{"identity":{"username":"ada","name":"Ada Lovelace","display_name":"Ada Lovelace","initials":"AL","avatar_url":null,"color":null},` +
		`"permissions":{"contents":["write"],"kernels":[],"updatable_fields":["color"]}}` + "\n"
	if r.body != want {
		t.Errorf("me is %s, want %s", r.body, want)
	}
	var patched struct {
		Status   string
		Identity struct{ Color string }
	}
	g.want(g.ada("PATCH", "/api/me", `{"color":"var(--x)"}`), 200).json(t, &patched)
	if patched.Status != "success" || patched.Identity.Color != "var(--x)" {
		t.Errorf("patched %+v", patched)
	}
	if r := g.do("GET", "/api/me", "", "Authorization: token "+bobToken); !strings.Contains(r.body, `"color":null`) {
		t.Errorf("bob is %s", r.body)
	}

	g.kernel("math")
	g.kernel("team")
	var status struct {
		Started      string
		LastActivity string `json:"last_activity"`
		Kernels      int
		Connections  *int
	}
	g.want(g.ada("GET", "/api/status", ""), 200).json(t, &status)
	if !timestamp.MatchString(status.Started) || !timestamp.MatchString(status.LastActivity) || status.Kernels != 1 || status.Connections == nil {
		t.Errorf("status %+v", status)
	}
}

func TestShutdownIsForTheSingleOwnerOnly(t *testing.T) {
	called := make(chan struct{}, 1)
	shutdown := func(o *kernelgw.Options) { o.Shutdown = func() { called <- struct{}{} } }
	g := start(t, shutdown)
	g.want(g.ada("POST", "/api/shutdown", ""), 403)
	single := startSingle(t, shutdown)
	single.want(single.ada("POST", single.capability("default")+"/api/shutdown", ""), 404)
	select {
	case <-called:
		t.Fatal("somebody else shut the server down")
	default:
	}
	single.want(single.ada("POST", "/api/shutdown", ""), 200)
	<-called
}

func TestHealthIsToldToHEADToo(t *testing.T) {
	g := start(t)
	g.kernels.set(func(f *fakeKernels) { f.ready = false })
	for path, want := range map[string]int{"/healthz": 200, "/readyz": 503} {
		if r := g.want(g.do("HEAD", path, ""), want); r.body != "" || r.ContentLength <= 0 {
			t.Errorf("HEAD %s: length %d, body %q", path, r.ContentLength, r.body)
		}
	}
}

func TestIDsMayBeInUpperCase(t *testing.T) {
	g := start(t)
	const id = "5B6F0F0E-AAAA-BBBB-CCCC-0123456789AB"
	lower := strings.ToLower(id)
	for n, c := range []struct{ path, body string }{
		{"/api/kernels", `{"kernel_id":"` + id + `"}`},
		{"/api/kernels", `{"env":{"KERNEL_ID":"` + id + `"}}`},
		{"/api/sessions", `{"path":"a","type":"x","kernel":{"id":"` + id + `"}}`},
	} {
		r := g.want(g.ada("POST", c.path, c.body), 201)
		if !strings.Contains(r.body, `"id":"`+lower+`"`) || strings.Contains(r.body, id) {
			t.Errorf("%d: created %s", n, r.body)
		}
		for _, id := range []string{id, lower} {
			g.want(g.ada("GET", "/api/kernels/"+id, ""), 200)
			g.want(g.ada("POST", "/api/kernels/"+id+"/interrupt", ""), 204)
		}
		g.want(g.ada("DELETE", "/api/kernels/"+id, ""), 204)
	}
	var s sessionModel
	g.want(g.ada("POST", "/api/sessions", `{"path":"b","type":"x"}`), 201).json(t, &s)
	g.want(g.ada("PATCH", "/api/sessions/"+strings.ToUpper(s.ID), `{"kernel":{"id":"`+strings.ToUpper(s.Kernel.ID)+`"}}`), 200)
	g.want(g.ada("DELETE", "/api/sessions/"+strings.ToUpper(s.ID), ""), 204)
}

// Drivers' errors name paths and programs of the host, which are no tenant's
// business. Their deadlines are not the request's: trying again does not help.
func TestHostsAreNotDescribedToTenants(t *testing.T) {
	const secret = "/var/lib/kernelgw/gvisor/k-1"
	failed := fmt.Errorf("%w: python3: cannot run %s: %w", kernels.ErrStart, secret, context.DeadlineExceeded)
	silent := fmt.Errorf("%w: dial unix %s: %w", kernels.ErrAgent, secret, context.DeadlineExceeded)
	tenants, single := start(t), startSingle(t, func(*kernelgw.Options) {})
	for _, g := range []*gateway{tenants, single} {
		var k kernelModel
		g.want(g.ada("POST", "/api/kernels", ""), 201).json(t, &k)
		for _, c := range []struct {
			method, path, body string
			err                error
			status             int
			says               string
		}{
			{"POST", "/api/kernels", "", failed, 501, "its sandbox could not be created. The gateway's log says why (kernel "},
			{"POST", "/api/sessions", `{"path":"p","type":"x"}`, failed, 501, "its sandbox could not be created. The gateway's log says why (kernel "},
			{"POST", "/api/kernels/" + k.ID + "/restart", "", failed, 501, "The gateway's log says why (kernel " + k.ID + ")"},
			{"POST", "/api/kernels/" + k.ID + "/interrupt", "", silent, 503, "did not answer; the gateway's log says why (kernel " + k.ID + ")"},
		} {
			g.kernels.set(func(f *fakeKernels) { f.fail = c.err })
			var e errorModel
			r := g.want(g.ada(c.method, c.path, c.body), c.status)
			r.json(t, &e)
			if g == single {
				if !strings.Contains(e.Message, secret) {
					t.Errorf("%s %s: the owner sees %q", c.method, c.path, e.Message)
				}
				continue
			}
			if !strings.Contains(e.Message, c.says) || strings.Contains(r.body, secret) {
				t.Errorf("%s %s: %s", c.method, c.path, r.body)
			}
			_, id, found := strings.Cut(e.Message, "(kernel ")
			if id = strings.TrimSuffix(id, ")"); !found || !strings.Contains(g.log.String(), "kernel="+id+" error=") {
				t.Errorf("%s %s: kernel %q is not in the log", c.method, c.path, id)
			}
		}
		if !strings.Contains(g.log.String(), secret) {
			t.Error("the log does not say why")
		}
	}
}

func TestMetricsAreForOperatorsOnly(t *testing.T) {
	g := start(t)
	bearer, query := "Authorization: Bearer "+metricsToken, "?token="+metricsToken
	g.want(g.do("GET", "/metrics", "", bearer), 200)
	g.want(g.do("GET", "/metrics"+query, ""), 200)
	cookies, _ := g.login()
	for name, r := range map[string]reply{
		"a user":        g.ada("GET", "/metrics", ""),
		"a login":       g.do("GET", "/metrics", "", "Cookie: "+cookies),
		"wrong":         g.do("GET", "/metrics", "", bearer+"x"),
		"empty":         g.do("GET", "/metrics?token=", "", "Authorization: Bearer "),
		"elsewhere":     g.do("GET", "/api/kernels", "", bearer),
		"by query":      g.do("GET", "/api/status"+query, ""),
		"on a mutation": g.do("POST", "/api/kernels", "", bearer),
	} {
		if r.StatusCode != 403 {
			t.Errorf("%s: %d %s", name, r.StatusCode, r.body)
		}
	}
	single := startSingle(t, func(*kernelgw.Options) {})
	single.want(single.ada("GET", "/metrics", ""), 200)
	single.want(single.do("GET", "/metrics", "", bearer), 200)
	single.want(single.do("GET", "/metrics", ""), 403)
	none := start(t, func(o *kernelgw.Options) { o.MetricsToken = "" })
	none.want(none.do("GET", "/metrics", "", "Authorization: Bearer "), 403)
	none.want(none.do("GET", "/metrics", "", "Authorization: Basic Og=="), 403)
	none.want(none.ada("GET", "/metrics", ""), 403)
}

func TestMetricsNeedATokenUnlessPublic(t *testing.T) {
	g := start(t)
	g.want(g.do("GET", "/metrics", ""), 403)
	g.want(g.do("GET", "/api", ""), 200)
	body := g.scrape()
	for _, want := range []string{
		`kernelgw_http_requests_total{route="/api",status="2xx"} 1`, `kernelgw_auth_failures_total{access="api"} 1`,
		`kernelgw_http_requests_total{route="/metrics",status="4xx"} 1`,
	} {
		if !strings.Contains(body, want) {
			t.Errorf("no %s in the metrics", want)
		}
	}
	public := start(t, func(o *kernelgw.Options) { o.MetricsPublic = true })
	public.want(public.do("GET", "/metrics", ""), http.StatusOK)
}

func TestCapabilitiesAreListedAndRevoked(t *testing.T) {
	g := start(t)
	var made struct {
		ID, Workspace, Label, Created, Path, URL string
		Expires                                  *string
	}
	r := g.want(g.ada("POST", "/v1/capabilities", `{"workspace":"team","label":"nightly","expires_in":3600}`), 201)
	r.json(t, &made)
	if !regexp.MustCompile(`^`+g.url+`/t/[0-9a-f]{64}/$`).MatchString(made.URL) || made.Workspace != "team" || made.Label != "nightly" ||
		made.Expires == nil || !timestamp.MatchString(*made.Expires) || !timestamp.MatchString(made.Created) ||
		r.Header.Get("Location") != "/v1/capabilities/"+made.ID {
		t.Errorf("made %s", r.body)
	}
	mount := strings.TrimPrefix(made.URL, g.url)
	if made.Path != mount {
		t.Errorf("path %q, url %q", made.Path, made.URL)
	}
	g.want(g.do("GET", mount+"api/kernels", ""), 200)
	list := g.want(g.ada("GET", "/v1/capabilities", ""), 200)
	if !strings.Contains(list.body, made.ID) || strings.Contains(list.body, "/t/") {
		t.Errorf("list %s", list.body)
	}
	if r := g.do("GET", "/v1/capabilities", "", "Authorization: token "+bobToken); r.body != "[]\n" {
		t.Errorf("bob sees %s", r.body)
	}
	g.want(g.do("DELETE", "/v1/capabilities/"+made.ID, "", "Authorization: token "+bobToken), 404)
	g.want(g.ada("DELETE", "/v1/capabilities/"+made.ID, ""), 204)
	g.want(g.do("GET", mount+"api/kernels", ""), 403)
	g.want(g.ada("DELETE", "/v1/capabilities/"+made.ID, ""), 404)
	g.want(g.ada("POST", "/v1/capabilities", `{"workspace":"bob"}`), 404)
}
