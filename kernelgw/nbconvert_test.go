package kernelgw_test

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"kernelgw/kernelgw"
	"kernelgw/kernelgw/kernels"
	"kernelgw/sandboxes/agentapi"
)

// makes has the double make a document of every notebook.
func (g *gateway) makes(d agentapi.Document, content string) {
	d.Size = int64(len(content))
	g.kernels.set(func(f *fakeKernels) { f.document, f.made = kernels.Document{Document: d}, content })
}

func TestExportersAreListedAsInJupyter(t *testing.T) {
	g := start(t)
	const want = `{"custom":{"output_mimetype":""},"html":{"output_mimetype":"text/html"}}`
	if got := g.want(g.ada("GET", "/api/nbconvert", ""), 200).body; strings.TrimSpace(got) != want {
		t.Errorf("exporters %s", got)
	}
	// JupyterLab's page complains of an error.
	g.kernels.set(func(f *fakeKernels) { f.fail = errors.New("no sandbox") })
	if got := g.want(g.ada("GET", "/api/nbconvert", ""), 200).body; strings.TrimSpace(got) != "{}" {
		t.Errorf("without a sandbox %s", got)
	}
}

func TestSavedNotebooksAreConverted(t *testing.T) {
	g := start(t)
	e := g.file("math", "a b/nö.ipynb", `{"cells":[]}`)
	g.makes(agentapi.Document{Mimetype: "text/html", Filename: "nö.html"}, "<p>made</p>")
	got := g.want(g.ada("GET", "/nbconvert/html/a%20b/n%C3%B6.ipynb", ""), 200)
	if got.body != "<p>made</p>" || got.Header.Get("Content-Type") != "text/html; charset=utf-8" || got.Header.Get("Content-Length") != "11" ||
		got.Header.Get("Content-Disposition") != "" || got.Header.Get("Last-Modified") != e.Modified.UTC().Format(http.TimeFormat) ||
		!strings.Contains(got.Header.Get("Cache-Control"), "no-store") {
		t.Errorf("%q with %v", got.body, got.Header)
	}
	g.kernels.set(func(f *fakeKernels) {
		r := f.converts[0]
		if r.Workspace != "math" || !strings.Contains(r.Owner, "ada") || r.Exporter != "html" || r.Path != "a b/nö.ipynb" ||
			!r.Modified.Equal(e.Modified) || r.Posted || r.Sanitize != nil || f.sent != `{"cells":[]}` {
			t.Errorf("asked for %+v of %q", r, f.sent)
		}
	})
	got = g.want(g.ada("GET", "/w/math/nbconvert/html/a%20b/n%C3%B6.ipynb?download=true&sanitize_html=True", ""), 200)
	if d := got.Header.Get("Content-Disposition"); d != "attachment; filename*=utf-8''n%C3%B6.html" {
		t.Errorf("Content-Disposition %q", d)
	}
	for _, query := range []string{"?download=false", "?download=1", "?sanitize_html=false"} {
		got = g.want(g.ada("GET", "/nbconvert/html/a%20b/n%C3%B6.ipynb"+query, ""), 200)
		if d := got.Header.Get("Content-Disposition"); d != "" {
			t.Errorf("%s: Content-Disposition %q", query, d)
		}
	}
	g.kernels.set(func(f *fakeKernels) {
		if s := f.converts[1].Sanitize; s == nil || !*s {
			t.Error("it was not to be sanitized")
		}
		if s := f.converts[4].Sanitize; s == nil || *s {
			t.Error("it was to be sanitized")
		}
		if f.released != 5 {
			t.Errorf("%d of 5 sandboxes were let go", f.released)
		}
	})
}

func TestPostedNotebooksAreConverted(t *testing.T) {
	g := start(t)
	g.makes(agentapi.Document{Mimetype: "application/zip", Filename: `a"; x=' b.zip`, Attachment: true}, "PK")
	body := `{"name":"a.ipynb","content":{}}` + strings.Repeat(" ", 2<<20)
	got := g.want(g.ada("POST", "/nbconvert/markdown", body), 200)
	if got.body != "PK" || got.Header.Get("Content-Type") != "application/zip" ||
		got.Header.Get("Content-Disposition") != "attachment; filename*=utf-8''a%22%3B%20x%3D%27%20b.zip" {
		t.Errorf("%q with %v", got.body, got.Header)
	}
	g.kernels.set(func(f *fakeKernels) {
		if r := f.converts[0]; !r.Posted || r.Exporter != "markdown" || r.Path != "" || f.sent != body {
			t.Errorf("asked for %+v of %d bytes", r, len(f.sent))
		}
	})
}

// CVE-2026-44727 and CVE-2021-32862: what a notebook has in it must not run as a
// page of the server, not even in an error.
func TestAttackScriptsInConvertedNotebooks(t *testing.T) {
	g := start(t)
	g.file("math", "a.ipynb", "{}")
	g.file("math", "b.txt", "{}")
	g.makes(agentapi.Document{Mimetype: "text/html", Filename: "a.html"}, "<script>alert(document.cookie)</script>")
	confined := func(what string, r reply, policy string) {
		t.Helper()
		csp := r.Header.Get("Content-Security-Policy")
		if !strings.HasSuffix(csp, policy) || strings.Contains(csp, "allow-same-origin") || !strings.Contains(csp, "frame-ancestors 'self'") ||
			r.Header.Get("X-Content-Type-Options") != "nosniff" {
			t.Errorf("%s: %d with %q", what, r.StatusCode, csp)
		}
	}
	for _, query := range []string{"", "?download=true", "?download=1&sanitize_html=false"} {
		confined("saved"+query, g.want(g.ada("GET", "/nbconvert/html/a.ipynb"+query, ""), 200), "; sandbox allow-scripts")
	}
	confined("posted", g.want(g.ada("POST", "/nbconvert/html", "{}"), 200), "; sandbox allow-scripts")
	confined("missing", g.want(g.ada("GET", "/nbconvert/html/none.ipynb", ""), 404), "; sandbox allow-scripts")
	confined("no notebook", g.want(g.ada("GET", "/nbconvert/html/b.txt", ""), 302), "; sandbox allow-scripts")
	confined("by a capability", g.want(g.do("GET", g.capability("math")+"/nbconvert/html/a.ipynb", ""), 200), "; sandbox")
	g.kernels.set(func(f *fakeKernels) { f.fail = fmt.Errorf("%w: <script>", kernels.ErrConvert) })
	failed := g.want(g.ada("GET", "/nbconvert/html/a.ipynb", ""), 422)
	confined("failed", failed, "; sandbox allow-scripts")
	if kind := failed.Header.Get("Content-Type"); !strings.HasPrefix(kind, "application/json") {
		t.Errorf("an error is %s", kind)
	}
	// In a tab a person reads it, and it runs nothing.
	tab := g.want(g.navigate("/nbconvert/html/a.ipynb", "Authorization: token "+adaToken), 422)
	if kind := tab.Header.Get("Content-Type"); !strings.HasPrefix(kind, "text/html") || !strings.Contains(string(tab.body), "&lt;script&gt;") ||
		strings.Contains(string(tab.body), "<script") {
		t.Errorf("in a tab the error is %s:\n%s", kind, tab.body)
	}
	if csp := tab.Header.Get("Content-Security-Policy"); !strings.Contains(csp, "default-src 'none'") {
		t.Errorf("the policy of the page is %q", csp)
	}
}

// A page of another site may neither read a document with the user's cookie nor
// have one made.
func TestAttackConversionsForAnotherSite(t *testing.T) {
	g := start(t)
	g.file("math", "a.ipynb", "{}")
	g.makes(agentapi.Document{Filename: "a.txt"}, "secret")
	cookies, xsrf := g.login()
	for _, evil := range []string{"Sec-Fetch-Site: cross-site", "Origin: https://evil.test"} {
		if got := g.do("GET", "/nbconvert/html/a.ipynb", "", "Cookie: "+cookies, evil); got.StatusCode != 403 {
			t.Errorf("%s: GET %d", evil, got.StatusCode)
		}
		if got := g.do("POST", "/nbconvert/html", "{}", "Cookie: "+cookies, evil); got.StatusCode != 403 && got.StatusCode != 404 {
			t.Errorf("%s: POST %d", evil, got.StatusCode)
		}
	}
	g.want(g.do("POST", "/nbconvert/html", "{}", "Cookie: "+cookies), 403)
	g.kernels.set(func(f *fakeKernels) {
		if len(f.converts) > 0 {
			t.Errorf("converted %+v", f.converts)
		}
	})
	g.want(g.do("GET", "/nbconvert/html/a.ipynb", "", "Cookie: "+cookies), 200)
	g.want(g.do("POST", "/nbconvert/html", "{}", "Cookie: "+cookies, "X-XSRFToken: "+xsrf), 200)
}

func TestWhatIsNoNotebookIsNotConverted(t *testing.T) {
	g := start(t)
	g.file("math", "d/ü x.txt", "text")
	g.file("math", ".hidden.ipynb", "{}")
	for path, to := range map[string]string{
		"/nbconvert/html/d/%C3%BC%20x.txt":        "/files/d/%C3%BC%20x.txt",
		"/w/math/nbconvert/html/d/%C3%BC%20x.txt": "/w/math/files/d/%C3%BC%20x.txt",
		"/nbconvert/html/d":                       "/tree/d",
	} {
		if got := g.want(g.ada("GET", path, ""), 302).Header.Get("Location"); got != to {
			t.Errorf("%s leads to %q, want %q", path, got, to)
		}
	}
	for path, status := range map[string]int{
		"/nbconvert/html/none.ipynb": 404, "/nbconvert/html/.hidden.ipynb": 404, "/nbconvert/html/../bob/a.ipynb": 404,
		"/nbconvert/html/%2e%2e%2fbob%2fa.ipynb": 404, "/nbconvert/os.path/d/x.ipynb": 404, "/nbconvert/a%2fb/d/x.ipynb": 404,
		"/nbconvert/" + strings.Repeat("x", 65) + "/a.ipynb": 404, "/nbconvert/html": 405, "/nbconvert/html/a%5cb.ipynb": 400,
	} {
		g.want(g.ada("GET", path, ""), status)
	}
	g.want(g.ada("POST", "/nbconvert/os.path", "{}"), 404)
	g.want(g.do("GET", "/w/math/nbconvert/html/d", "", "Authorization: token "+bobToken), 404)
}

func TestFailuresOfConversionsSayWhatToDo(t *testing.T) {
	g := start(t)
	g.file("math", "a.ipynb", "{}")
	for failure, want := range map[error]struct {
		status int
		says   string
	}{
		fmt.Errorf("%w: The image has no nbconvert", kernels.ErrNoConverter): {501, `"The image has no nbconvert"`},
		fmt.Errorf("%w: No exporter for format: x", kernels.ErrNoExporter):   {404, `"No exporter for format: x"`},
		fmt.Errorf("%w: nbconvert failed: x", kernels.ErrConvert):            {422, `"Nbconvert failed: x"`},
		fmt.Errorf("%w: This is no notebook", kernels.ErrInvalid):            {400, `"This is no notebook"`},
		fmt.Errorf("%w: more than 1 byte", kernels.ErrTooLarge):              {413, "128 MiB"},
		fmt.Errorf("%w: 3 are being converted", kernels.ErrLimit):            {429, "3 are being converted"},
		fmt.Errorf("%w: runsc: /secret/path", kernels.ErrStart):              {503, "try again"},
		fmt.Errorf("%w: /secret/path", kernels.ErrAgent):                     {503, "try again"},
	} {
		g.kernels.set(func(f *fakeKernels) { f.fail = failure })
		got := g.want(g.ada("GET", "/nbconvert/html/a.ipynb", ""), want.status)
		if !strings.Contains(got.body, want.says) || strings.Contains(got.body, "/secret") {
			t.Errorf("%v: %s", failure, got.body)
		}
	}
}

// A document that breaks off is not taken for whole, and lets its sandbox go.
func TestADocumentThatBreaksOffIsSeenToBe(t *testing.T) {
	g := start(t)
	g.file("math", "a.ipynb", "{}")
	g.kernels.set(func(f *fakeKernels) {
		f.document, f.made = kernels.Document{Document: agentapi.Document{Filename: "a.txt", Size: 100}}, "half"
	})
	r, err := http.NewRequest("GET", g.url+"/nbconvert/html/a.ipynb", nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Authorization", "token "+adaToken)
	resp, err := g.client.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if n, err := resp.Body.Read(make([]byte, 200)); err == nil {
		if _, err = resp.Body.Read(make([]byte, 200)); err == nil {
			t.Errorf("%d bytes, and no error", n)
		}
	}
	for begin := time.Now(); ; time.Sleep(time.Millisecond) {
		released := 0
		g.kernels.set(func(f *fakeKernels) { released = f.released })
		if released == 1 {
			return
		}
		if time.Since(begin) > 10*time.Second {
			t.Fatal("the sandbox is held for ever")
		}
	}
}

func TestConversionsOfAServerWithoutFiles(t *testing.T) {
	g := start(t, func(o *kernelgw.Options) { o.Files = nil })
	g.want(g.ada("GET", "/nbconvert/html/a.ipynb", ""), 404)
	g.makes(agentapi.Document{Filename: "a.txt"}, "x")
	g.want(g.ada("POST", "/nbconvert/html", "{}"), 200)
}
