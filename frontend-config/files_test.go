package frontend_test

import (
	"compress/gzip"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"strings"
	"testing"

	frontend "kernelgw/frontend-config"
)

// writeTree makes a front end of few files.
func writeTree(t *testing.T, more map[string]string) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "frontend")
	all := map[string]string{
		"lab/static/index.html":                    `<script defer="defer" src="{{page_config.fullStaticUrl}}/main.0123456789abcdef.js?v=0123456789abcdef"></script>`,
		"lab/static/package.json":                  `{"version": "1.2.3"}`,
		"lab/static/main.0123456789abcdef.js":      "lab()",
		"lab/schemas/@x/y/package.json.orig":       `{"version": "7.8.9"}`,
		"lab/schemas/@x/y/plugin.json":             `{"type": "object", "additionalProperties": false, "properties": {"size": {"type": "integer", "default": 3}}}`,
		"lab/themes/@x/theme/index.css":            "a{}",
		"notebook/static/main.fedcba9876543210.js": "notebook()",
		"labextensions/@x/e/package.json":          `{"name": "@x/e", "jupyterlab": {"_build": {"load": "static/remoteEntry.0123456789abcdef.js"}}}`,
	}
	for name, text := range more {
		all[name] = text
	}
	for name, text := range all {
		name = filepath.Join(dir, filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestStaticFilesHaveTheTypesThatBrowsersDemand(t *testing.T) {
	more := map[string]string{}
	want := map[string]string{
		"js": "text/javascript; charset=utf-8", "mjs": "text/javascript; charset=utf-8", "css": "text/css; charset=utf-8",
		"json": "application/json", "map": "application/json", "wasm": "application/wasm", "svg": "image/svg+xml", "png": "image/png",
		"woff": "font/woff", "woff2": "font/woff2", "ttf": "font/ttf", "eot": "application/vnd.ms-fontobject", "bin": "application/octet-stream",
	}
	for ext := range want {
		more["lab/static/x."+ext] = "x"
		more["labextensions/@x/e/static/x."+ext] = "x"
	}
	c := newSite(t, frontend.Options{Dir: writeTree(t, more)})
	for ext, kind := range want {
		for _, below := range []string{"static/lab/x.", "lab/extensions/@x/e/static/x."} {
			if got := c.want(http.StatusOK, c.ask("GET", below+ext, "")).Header.Get("Content-Type"); got != kind {
				t.Errorf("%s%s is %q, want %q", below, ext, got, kind)
			}
		}
	}
}

// Every file of the wheels has a type, and every hashed one may be kept for ever.
func TestEveryRealFileIsServed(t *testing.T) {
	c := newSite(t, frontend.Options{})
	served, immutable := 0, 0
	for dir, below := range map[string]string{
		"lab/static": "static/lab/", "notebook/static": "static/notebook/", "lab/themes": "lab/api/themes/", "labextensions": "lab/extensions/",
	} {
		err := fs.WalkDir(os.DirFS(assets), dir, func(name string, entry fs.DirEntry, err error) error {
			if err != nil || entry.IsDir() || path.Ext(name) == ".gz" || path.Ext(name) == ".html" || strings.HasSuffix(name, ".orig") {
				return err
			}
			a := c.want(http.StatusOK, c.ask("HEAD", below+strings.TrimPrefix(name, dir+"/"), ""))
			if kind := a.Header.Get("Content-Type"); kind == "application/octet-stream" || kind == "" {
				t.Errorf("%s is %q", name, kind)
			}
			served++
			if strings.Contains(a.Header.Get("Cache-Control"), "immutable") {
				immutable++
			} else if a.Header.Get("ETag") == "" || a.Header.Get("Cache-Control") != "no-cache" {
				t.Errorf("%s is neither immutable nor to be asked for again: %v", name, a.Header)
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if served < 600 || immutable < served*9/10 {
		t.Errorf("%d files, %d of them immutable", served, immutable)
	}
}

func TestFilesWhoseNameStaysAreAskedForAgain(t *testing.T) {
	c := newSite(t, frontend.Options{})
	const name = "lab/api/themes/@jupyterlab/theme-light-extension/index.css"
	a := c.want(http.StatusOK, c.ask("GET", name, ""))
	if a.Header.Get("Cache-Control") != "no-cache" || a.Header.Get("ETag") == "" {
		t.Fatalf("headers %v", a.Header)
	}
	c.want(http.StatusNotModified, c.ask("GET", name, "", "If-None-Match", a.Header.Get("ETag")))
	c.want(http.StatusOK, c.ask("GET", name, "", "If-None-Match", `"other"`))
}

func TestCompressedFilesAreTheSame(t *testing.T) {
	c := newSite(t, frontend.Options{})
	found, err := filepath.Glob(assets + "/lab/static/main.*.js")
	if err != nil || len(found) != 1 {
		t.Fatal(found, err)
	}
	plain, err := os.ReadFile(found[0])
	if err != nil {
		t.Fatal(err)
	}
	name := "static/lab/" + filepath.Base(found[0])
	a := c.want(http.StatusOK, c.ask("GET", name, "", "Accept-Encoding", "br, gzip;q=0.8"))
	if a.Header.Get("Content-Encoding") != "gzip" || a.Header.Get("Vary") != "Accept-Encoding" || len(a.body) >= len(plain) {
		t.Fatalf("%d bytes, %v", len(a.body), a.Header)
	}
	reader, err := gzip.NewReader(strings.NewReader(a.body))
	if err != nil {
		t.Fatal(err)
	}
	if text, err := io.ReadAll(reader); err != nil || string(text) != string(plain) {
		t.Errorf("the compressed file is another: %v", err)
	}
	for _, accept := range []string{"", "br", "gzip;q=0", "gzip; q=0.00", "x-gzip"} {
		if a := c.ask("GET", name, "", "Accept-Encoding", accept); a.Header.Get("Content-Encoding") != "" || a.body != string(plain) {
			t.Errorf("Accept-Encoding %q: %v", accept, a.Header)
		}
	}
	a = c.want(http.StatusPartialContent, c.ask("GET", name, "", "Accept-Encoding", "gzip", "Range", "bytes=3-7"))
	if a.body != string(plain[3:8]) || a.Header.Get("Content-Encoding") != "" {
		t.Errorf("a range is %q %v", a.body, a.Header)
	}
}

func TestFaviconsAreThere(t *testing.T) {
	c := newSite(t, frontend.Options{Dir: writeTree(t, nil)})
	for _, name := range []string{"favicon.ico", "favicon-busy-1.ico", "favicon-notebook.ico"} {
		if a := c.want(http.StatusOK, c.ask("GET", "static/favicons/"+name, "")); a.Header.Get("Content-Type") != "image/svg+xml" {
			t.Errorf("%s is %q", name, a.Header.Get("Content-Type"))
		}
	}
	c.want(http.StatusNotFound, c.ask("GET", "static/favicons/../lab/package.json", ""))
}

// A secret lies beside the front end, in a directory whose name begins alike,
// and behind links: no path leads there.
func TestPathTraversalOnEveryFileRoute(t *testing.T) {
	const secret = "the secret"
	dir := writeTree(t, map[string]string{
		"secret.js": secret, "lab/secret.js": secret, "lab/static/sub/x.js": "x",
		"labextensions/secret.js": secret, "../secret.js": secret, "../frontend-secret/secret.js": secret,
	})
	if err := os.Symlink("../../../secret.js", filepath.Join(dir, "lab/static/link.js")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("../../..", filepath.Join(dir, "labextensions/@x/e/up")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/etc", filepath.Join(dir, "lab/themes/etc")); err != nil {
		t.Fatal(err)
	}
	f := newFrontend(t, frontend.Options{Dir: dir})
	attacks := []string{
		"", ".", "..", "/", "//", "lab", "lab/", "lab/.", "lab/..", "lab/index.html", "../secret.js", "../../secret.js", "lab/../../secret.js",
		"lab/sub/../../../../secret.js", "lab/../../../frontend-secret/secret.js", "/etc/passwd", "//etc/passwd", "lab//etc/passwd", "etc/passwd",
		"lab/link.js", "@x/e/up/secret.js", "@x/e/../../secret.js", "@x/theme/../../../../secret.js", `..\secret.js`, `lab\..\..\secret.js`,
		"lab/%2e%2e/%2e%2e/secret.js", "lab/..%2f..%2fsecret.js", "lab/..%252f..%252fsecret.js", "lab/%2e%2e%2fsecret.js", "lab/x.js\x00.png",
		"lab/..\x00/secret.js", "lab/main.0123456789abcdef.js/", "lab/main.0123456789abcdef.js/.", "lab/main.0123456789abcdef.js%00", "lab/./main.0123456789abcdef.js",
		"lab/main.0123456789abcdef.js ", "lab/main.0123456789abcdef.js.", "LAB/MAIN.0123456789ABCDEF.JS", "lab/․․/secret.js", "lab/．．/secret.js", "lab/..;/secret.js",
		"favicons/../../secret.js", "favicons/", "favicons/idle.svg", "C:/secret.js", "file:///etc/passwd", "lab/" + strings.Repeat("a", 4096), strings.Repeat("../", 100) + "etc/passwd",
		"lab/\xff\xfe.js", "lab/\u202e.js",
	}
	for name, serve := range map[string]func(http.ResponseWriter, *http.Request, frontend.At) error{
		"Static": f.Static, "LabExtension": f.LabExtension, "Theme": f.Theme,
	} {
		for _, attack := range attacks {
			w := &recorder{header: http.Header{}}
			err := serve(w, &http.Request{Method: "GET", Header: http.Header{}, URL: &url.URL{}}, frontend.At{Base: "/", Path: attack})
			chosen, ok := err.(*frontend.Error) //nolint:errorlint // exactly this, by contract
			if !ok || chosen.Status != http.StatusNotFound || w.body.Len() > 0 || len(w.header) > 0 {
				t.Errorf("%s %q: %v, %q %v", name, attack, err, w.body.String(), w.header)
			}
		}
	}
	// The same over the wire, where URLs are decoded on the way.
	server := newSite(t, frontend.Options{Dir: dir})
	for _, below := range []string{"static/lab/", "static/", "lab/extensions/@x/e/", "lab/api/themes/"} {
		for _, attack := range []string{"%2e%2e/%2e%2e/secret.js", "..%2f..%2fsecret.js", "%2fetc%2fpasswd", "..%5csecret.js", "link.js", "up/secret.js", "etc/passwd", "x%00.js"} {
			if a := server.ask("GET", below+attack, ""); a.StatusCode != http.StatusNotFound || strings.Contains(a.body, secret) {
				t.Errorf("%s%s: %d %q", below, attack, a.StatusCode, a.body)
			}
		}
	}
}

// A file that becomes a link after the start is not followed out of the front
// end's directory.
func TestLinkThatAppearsLaterIsNotFollowed(t *testing.T) {
	dir := writeTree(t, map[string]string{"lab/static/x.js": "x", "../secret.js": "the secret"})
	c := newSite(t, frontend.Options{Dir: dir})
	name := filepath.Join(dir, "lab/static/x.js")
	if err := os.Remove(name); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("../../../secret.js", name); err != nil {
		t.Fatal(err)
	}
	if a := c.ask("GET", "static/lab/x.js", ""); a.StatusCode != http.StatusInternalServerError || strings.Contains(a.body, "secret") {
		t.Errorf("%d %q", a.StatusCode, a.body)
	}
}

func TestNewSaysWhatIsMissing(t *testing.T) {
	for name, c := range map[string]struct{ dir, want string }{
		"no option":    {"", "make frontend"},
		"no directory": {"/nonexistent/frontend", "make frontend"},
		"empty":        {t.TempDir(), "lab/static"},
		"no script":    {writeTree(t, map[string]string{"lab/static/index.html": "<html>"}), "names no script"},
		"two mains":    {writeTree(t, map[string]string{"notebook/static/main.0000000000000000.js": ""}), "2 entry points"},
		"bad schema":   {writeTree(t, map[string]string{"lab/schemas/@x/y/bad.json": "{"}), "lab/schemas/@x/y/bad.json"},
		"bad name":     {writeTree(t, map[string]string{"labextensions/e/package.json": `{"name": "../e", "jupyterlab": {"_build": {"load": "x"}}}`}), "labextensions/e"},
	} {
		_, err := frontend.New(frontend.Options{Dir: c.dir, Documents: newDocuments()})
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
}
