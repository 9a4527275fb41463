package kernelgw_test

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"kernelgw/jupyter"
	"kernelgw/kernelgw"
	"kernelgw/kernelgw/kernels"
)

var hidden = regexp.MustCompile(`name="_xsrf" value="([0-9a-f]{64})"`)

func TestHomePageShowsAndStopsWhatRuns(t *testing.T) {
	g := start(t)
	kernel := g.kernel("math")
	cookies, _ := g.login()
	page := g.want(g.navigate("/home", "Cookie: "+cookies), 200)
	for _, want := range []string{">math<", ">team<", "64 MiB", "1.5 s", "starting", "<small>python3</small>"} {
		if !strings.Contains(page.body, want) {
			t.Errorf("no %q in:\n%s", want, page.body)
		}
	}
	if csp := page.Header.Get("Content-Security-Policy"); !strings.Contains(csp, "; default-src 'none'; style-src 'unsafe-inline'; ") || !strings.Contains(csp, "form-action 'self'") {
		t.Errorf("the page's policy is %q", csp)
	}
	if strings.Contains(page.body, "<script") || strings.Contains(page.body, "bob") {
		t.Errorf("the page holds what it should not:\n%s", page.body)
	}
	xsrf := hidden.FindStringSubmatch(page.body)[1]
	stop := "/home/math/kernels/" + kernel + "/stop"
	if !strings.Contains(page.body, `action="`+stop+`"`) {
		t.Fatalf("no way to stop %s in:\n%s", kernel, page.body)
	}
	form := "Content-Type: application/x-www-form-urlencoded"
	g.want(g.do("POST", stop, "", "Cookie: "+cookies, form), 403)
	g.want(g.do("POST", stop, "_xsrf=wrong", "Cookie: "+cookies, form), 403)
	g.want(g.do("POST", stop, "_xsrf="+xsrf, "Cookie: "+cookies, form, "Sec-Fetch-Site: cross-site"), 403)
	g.want(g.do("POST", stop, "_xsrf="+xsrf, "Cookie: "+cookies, form, "Origin: https://evil.test"), 403)
	g.want(g.do("POST", "/home/bob/kernels/"+kernel+"/stop", "_xsrf="+xsrf, "Cookie: "+cookies, form), 404)
	g.want(g.ada("GET", "/api/kernels/"+kernel, ""), 200)
	got := g.want(g.do("POST", stop, "_xsrf="+xsrf, "Cookie: "+cookies, form), 303)
	if to := got.Header.Get("Location"); to != "/home#math" {
		t.Errorf("then to %s", to)
	}
	g.want(g.ada("GET", "/api/kernels/"+kernel, ""), 404)
}

func TestWorkspacesAreMadeFromTheHomePage(t *testing.T) {
	g := start(t)
	cookies, xsrf := g.login()
	send := func(name string) reply {
		return g.do("POST", "/home/workspaces", url.Values{"_xsrf": {xsrf}, "name": {name}}.Encode(), "Cookie: "+cookies)
	}
	to := g.want(send(" new "), 303).Header.Get("Location")
	if to != "/home#ada~new" {
		t.Errorf("then to %s", to)
	}
	g.want(g.ada("PUT", "/w/ada~new/api/contents/a.txt", `{"type":"file","format":"text","content":"x"}`), 201)
	g.want(g.do("GET", "/w/ada~new/api/contents/a.txt", "", "Authorization: token "+bobToken), 404)
	for name, status := range map[string]int{"new": 409, "": 400, `"><script>alert(1)</script>`: 400} {
		got := g.want(send(name), status)
		if !strings.Contains(got.body, `role="alert"`) || strings.Contains(got.body, "<script") {
			t.Errorf("%q is answered with:\n%s", name, got.body)
		}
	}
	if strings.Contains(g.want(g.navigate("/home", "Authorization: token "+bobToken), 200).body, "ada~new") {
		t.Error("bob sees ada's workspace")
	}
}

func TestWorkspacesOfTheNativeAPI(t *testing.T) {
	g := start(t)
	var made struct{ Name, URL string }
	got := g.want(g.ada("POST", "/v1/workspaces", `{"name":"x"}`), 201)
	got.json(t, &made)
	if made.Name != "ada~x" || made.URL != "/w/ada~x/" || got.Header.Get("Location") != made.URL {
		t.Errorf("made %+v at %s", made, got.Header.Get("Location"))
	}
	var list []struct{ Name string }
	g.want(g.ada("GET", "/v1/workspaces", ""), 200).json(t, &list)
	if len(list) != 3 || list[0].Name != "math" || list[2].Name != "ada~x" {
		t.Errorf("workspaces are %+v", list)
	}
	g.want(g.ada("POST", "/v1/workspaces", `{"name":"x"}`), 409)
	g.want(g.ada("POST", "/v1/workspaces", `{"name":"../x"}`), 400)
	g.want(g.ada("POST", "/v1/workspaces", ``), 400)
}

// A page that nobody can open because one thing does not answer helps nobody.
func TestHomePageWithoutKernels(t *testing.T) {
	g := start(t)
	g.kernels.set(func(f *fakeKernels) { f.fail = errors.New("registry gone") })
	if got := g.want(g.ada("GET", "/home", ""), 200); !strings.Contains(got.body, "not known now") || strings.Contains(got.body, "registry") {
		t.Errorf("the page says:\n%s", got.body)
	}
	g.kernels.set(func(f *fakeKernels) { f.fail = kernels.ErrNotReady })
	g.want(g.ada("GET", "/home", ""), 200)
}

func TestPrintedURLOpensJupyterLab(t *testing.T) {
	needFrontend(t)
	g := start(t)
	to := g.want(g.navigate("/?token="+adaToken), 302)
	if to.Header.Get("Location") != "/" {
		t.Fatalf("to %s", to.Header.Get("Location"))
	}
	cookies, _ := g.login()
	for from, to := range map[string]string{"/": "/lab?", "/?reset": "/lab?reset", "/w/team/": "/w/team/lab?"} {
		if got := g.want(g.navigate(from, "Cookie: "+cookies), 302).Header.Get("Location"); got != to {
			t.Errorf("%s leads to %q, want %q", from, got, to)
		}
	}
	for _, path := range []string{"/lab", "/w/team/lab/tree/a%20b.ipynb", "/tree", "/lab/workspaces/x"} {
		page := g.want(g.navigate(path, "Cookie: "+cookies), 200)
		csp := page.Header.Get("Content-Security-Policy")
		if !strings.Contains(page.body, "jupyter-config-data") || strings.Contains(csp, "default-src") || !strings.Contains(csp, "frame-ancestors 'self'") {
			t.Errorf("%s with %q:\n%s", path, csp, page.body)
		}
		if strings.Contains(page.body, adaToken) {
			t.Errorf("%s shows a token", path)
		}
	}
	// VS Code takes "/login?" in the final URL for "needs a password".
	if got := g.want(g.navigate("/lab"), 302).Header.Get("Location"); !strings.HasPrefix(got, "/login?") {
		t.Errorf("without a login to %s", got)
	}
	g.want(g.ada("POST", "/lab/api/extensions", `{"cmd":"install","extension_name":"x"}`), 403)
}

func TestMissingFrontEndIsSaidWithItsRemedy(t *testing.T) {
	g := start(t, func(o *kernelgw.Options) { o.Frontend, o.FrontendMissing = nil, "Run make frontend." })
	if to := g.want(g.ada("GET", "/", ""), 302).Header.Get("Location"); to != "/connect" {
		t.Errorf("/ leads to %s", to)
	}
	for _, path := range []string{"/lab", "/tree", "/w/team/lab"} {
		got := g.want(g.ada("GET", path, ""), 404)
		if !strings.Contains(got.body, "not installed") || strings.Contains(got.body, "make frontend") {
			t.Errorf("%s tells a user who cannot mend it:\n%s", path, got.body)
		}
	}
	g.want(g.ada("GET", "/lab/api/settings", ""), 404)
	g.want(g.ada("GET", "/api/kernels", ""), 200)
}

// Whoever has many kernels, some of which died badly, wants to see and stop them.
func TestHomePageOfManyKernelsAndDeadAgentsIsSoonThere(t *testing.T) {
	g := start(t)
	const all, dead = 200, 20
	// Two seconds are meant, and a dead agent after the other would be minutes.
	const slowest = 20 * time.Second
	g.kernels.set(func(f *fakeKernels) {
		f.silent = map[string]bool{}
		for i := range all {
			id := uuid.NewString()
			f.kernels[id] = kernels.Kernel{ID: id, Workspace: "math", Name: "python3", ExecutionState: jupyter.Idle, LastActivity: time.Now()}
			f.silent[id] = i < dead
		}
	})
	begin := time.Now()
	page := g.want(g.ada("GET", "/home", ""), 200).body
	if took := time.Since(begin); took > slowest {
		t.Errorf("the page took %v", took)
	}
	if n := strings.Count(page, "64 MiB"); n != all-dead {
		t.Errorf("the memory of %d kernels of %d is shown", n, all-dead)
	}
	if n := strings.Count(page, ">Stop</button>"); n != all {
		t.Errorf("%d kernels can be stopped", n)
	}
	g.kernels.set(func(f *fakeKernels) {
		if f.mostAsked > 32 {
			t.Errorf("%d agents were asked at once", f.mostAsked)
		}
		for id := range f.kernels {
			f.silent[id] = true
		}
	})
	begin = time.Now()
	page = g.want(g.ada("GET", "/home", ""), 200).body
	if took := time.Since(begin); took > slowest {
		t.Errorf("with dead agents only, the page took %v", took)
	}
	if n := strings.Count(page, ">Stop</button>"); n != all {
		t.Errorf("%d kernels can be stopped", n)
	}
}

func TestHomePageShowsAndEndsTerminals(t *testing.T) {
	g := start(t)
	name := g.terminal()
	cookies, xsrf := g.login()
	stop := "/home/math/terminals/" + name + "/stop"
	if page := g.want(g.navigate("/home", "Cookie: "+cookies), 200).body; !strings.Contains(page, `action="`+stop+`"`) ||
		!strings.Contains(page, `aria-label="End terminal `+name+`"`) {
		t.Fatalf("no way to end %s in:\n%s", name, page)
	}
	form := "Content-Type: application/x-www-form-urlencoded"
	g.want(g.do("POST", stop, "", "Cookie: "+cookies, form), 403)
	g.want(g.do("POST", "/home/bob/terminals/"+name+"/stop", "_xsrf="+xsrf, "Cookie: "+cookies, form), 404)
	g.want(g.do("POST", "/home/math/terminals/a%20b/stop", "_xsrf="+xsrf, "Cookie: "+cookies, form), 404)
	for range 2 { // one that is gone is what is wanted
		if to := g.want(g.do("POST", stop, "_xsrf="+xsrf, "Cookie: "+cookies, form), 303).Header.Get("Location"); to != "/home#math" {
			t.Errorf("then to %s", to)
		}
	}
	if strings.Contains(g.want(g.navigate("/home", "Cookie: "+cookies), 200).body, stop) {
		t.Error("the terminal is still there")
	}
	name = g.terminal()
	g.kernels.set(func(f *fakeKernels) { f.fail = fmt.Errorf("%w: /secret/path", kernels.ErrAgent) })
	failed := g.want(g.do("POST", "/home/math/terminals/"+name+"/stop", "_xsrf="+xsrf, "Cookie: "+cookies, form), 503)
	if !strings.Contains(failed.body, `role="alert"`) || strings.Contains(failed.body, "/secret") {
		t.Errorf("the page says:\n%s", failed.body)
	}
}

// The first count of a large workspace takes longer than a person waits; the
// next page has it, and it is not begun anew for each.
func TestHomePageShowsWhatWorkspacesHoldOnceItIsCounted(t *testing.T) {
	counts, counted := make(chan string, 10), make(chan struct{})
	g := start(t, func(o *kernelgw.Options) {
		o.Usage = func(ctx context.Context, workspace string) (int64, int64, error) {
			if workspace == "team" {
				return 0, 0, errors.New("storage gone")
			}
			counts <- workspace
			select {
			case <-counted:
				return 5 << 30 / 2, 10 << 30, nil
			case <-ctx.Done():
				return 0, 0, ctx.Err()
			}
		}
	})
	for range 2 {
		if page := g.want(g.ada("GET", "/home", ""), 200).body; strings.Count(page, "not counted yet") != 2 || strings.Contains(page, "storage gone") {
			t.Errorf("the page says:\n%s", page)
		}
	}
	if n := len(counts); n != 1 {
		t.Errorf("it is counted %d times at once", n)
	}
	close(counted)
	if page := g.want(g.ada("GET", "/home", ""), 200).body; !strings.Contains(page, "2.5 GiB of 10.0 GiB") {
		t.Errorf("the page says:\n%s", page)
	}
}

func TestServerThatStopsEndsACount(t *testing.T) {
	counting := make(chan struct{})
	g := start(t, func(o *kernelgw.Options) {
		o.Usage = func(ctx context.Context, workspace string) (int64, int64, error) {
			if workspace == "math" {
				close(counting)
			}
			<-ctx.Done()
			return 0, 0, ctx.Err()
		}
	})
	g.want(g.do("GET", "/home", "", "Authorization: token "+bobToken), 200) // its turn is taken by bob's
	g.want(g.ada("GET", "/home", ""), 200)
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	if err := g.server.Drain(ctx); err != nil {
		t.Error(err)
	}
	select {
	case <-counting:
		t.Error("two workspaces are counted at once")
	default:
	}
}
