package frontend_test

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"net/http"
	"regexp"
	"strings"
	"testing"

	frontend "kernelgw/frontend-config"
)

var (
	configElement = regexp.MustCompile(`(?s)<script id="jupyter-config-data" type="application/json">(.*?)</script>`)
	scriptSource  = regexp.MustCompile(`<script defer src="([^"]+)"`)
)

// pageConfig reads the page config as the browser does.
func pageConfig(t *testing.T, page string) map[string]any {
	t.Helper()
	match := configElement.FindStringSubmatch(page)
	if match == nil {
		t.Fatalf("no page config in %s", page)
	}
	config := map[string]any{}
	if err := json.Unmarshal([]byte(match[1]), &config); err != nil {
		t.Fatalf("%v in %s", err, match[1])
	}
	return config
}

func TestLabPagesTellModeWorkspaceAndTreePath(t *testing.T) {
	c := newSite(t, frontend.Options{})
	for path, want := range map[string]map[string]any{
		"lab":                             {"mode": "multiple-document", "workspace": "default", "treePath": ""},
		"lab/":                            {"mode": "multiple-document", "workspace": "default", "treePath": ""},
		"lab?reset":                       {"workspace": "default"},
		"lab/tree":                        {"treePath": ""},
		"lab/tree/a%20b/%C3%BC.ipynb":     {"treePath": "a b/ü.ipynb"},
		"lab/tree/100%25.txt":             {"treePath": "100%.txt"},
		"lab/workspaces/mine":             {"workspace": "mine", "treePath": ""},
		"lab/workspaces/mine/tree/x.py":   {"workspace": "mine", "treePath": "x.py"},
		"doc":                             {"mode": "single-document", "workspace": "default"},
		"doc/tree/x.py":                   {"mode": "single-document", "treePath": "x.py"},
		"doc/workspaces/mine/tree/x":      {"mode": "single-document", "workspace": "mine", "treePath": "x"},
		"lab/nothing/here":                {"notFoundUrl": "/prefix/w/team/lab/nothing/here"},
		"lab/workspaces/a%20b":            {"notFoundUrl": "/prefix/w/team/lab/workspaces/a%20b", "workspace": "default"},
		"lab/workspaces/mine/nothing":     {"notFoundUrl": "/prefix/w/team/lab/workspaces/mine/nothing"},
		"lab/%2F%2Fevil.example/x%3Fy%23": {"notFoundUrl": "/prefix/w/team/lab/evil.example/x%3Fy%23"},
	} {
		a := c.want(http.StatusOK, c.ask("GET", path, ""))
		config := pageConfig(t, a.body)
		for key, value := range want {
			if config[key] != value {
				t.Errorf("%s: %s is %q, want %q", path, key, config[key], value)
			}
		}
		if _, ok := want["notFoundUrl"]; !ok && config["notFoundUrl"] != nil {
			t.Errorf("%s: not found", path)
		}
		if a.Header.Get("Content-Type") != "text/html; charset=utf-8" || a.Header.Get("Cache-Control") != "no-store" {
			t.Errorf("%s: headers %v", path, a.Header)
		}
	}
}

func TestNotebookPagesTellWhichTheyAre(t *testing.T) {
	c := newSite(t, frontend.Options{})
	for path, want := range map[string]string{
		"tree": "tree", "tree/a": "tree", "notebooks/a.ipynb": "notebooks", "edit/a.py": "edit", "consoles/x": "consoles", "terminals/1": "terminals",
	} {
		page := c.want(http.StatusOK, c.ask("GET", path, "")).body
		config := pageConfig(t, page)
		if config["notebookPage"] != want || !strings.Contains(page, `data-notebook="`+want+`"`) {
			t.Errorf("%s: page %q, want %q", path, config["notebookPage"], want)
		}
		if config["fullStaticUrl"] != "/prefix/w/team/static/notebook" || config["appUrl"] != "/lab" || config["frontendUrl"] != "/prefix/w/team/" {
			t.Errorf("%s: config %v", path, config)
		}
	}
	if got := pageConfig(t, c.ask("GET", "tree/a%20b/c/", "").body)["treePath"]; got != "a b/c" {
		t.Errorf("treePath is %q", got)
	}
}

// Every script and federated extension that a page names is there, as a script.
func TestPagesNameScriptsThatAreServed(t *testing.T) {
	c := newSite(t, frontend.Options{})
	for _, path := range []string{"lab", "tree"} {
		page := c.ask("GET", path, "").body
		var urls []string
		for _, match := range scriptSource.FindAllStringSubmatch(page, -1) {
			urls = append(urls, match[1])
		}
		if len(urls) == 0 {
			t.Errorf("%s loads no script", path)
		}
		config := pageConfig(t, page)
		var names []string
		for _, e := range config["federated_extensions"].([]any) {
			e := e.(map[string]any)
			names = append(names, e["name"].(string))
			urls = append(urls, config["fullLabextensionsUrl"].(string)+"/"+e["name"].(string)+"/"+e["load"].(string))
		}
		if got := strings.Join(names, " "); got != "@jupyter-notebook/lab-extension @jupyter-widgets/jupyterlab-manager" {
			t.Errorf("federated extensions: %s", got)
		}
		for _, u := range urls {
			a := c.want(http.StatusOK, c.ask("GET", strings.TrimPrefix(u, "/prefix/w/team/"), ""))
			if a.Header.Get("Content-Type") != "text/javascript; charset=utf-8" || a.Header.Get("Cache-Control") != "public, max-age=31536000, immutable" {
				t.Errorf("%s: %v", u, a.Header)
			}
		}
	}
}

func TestPageConfigIsSecureAndNamesNoHostPath(t *testing.T) {
	page := newSite(t, frontend.Options{DisabledExtensions: []string{"@x/y"}}).ask("GET", "lab", "").body
	config := pageConfig(t, page)
	if config["token"] != "" || config["appendToken"] != nil {
		t.Errorf("a page that relies on cookies has token %q, appendToken %v", config["token"], config["appendToken"])
	}
	disabled := config["disabledExtensions"].([]any)
	for _, want := range []string{
		"@jupyterlab/apputils-extension:announcements", "@jupyterlab/extensionmanager-extension", "@jupyterlab/pluginmanager-extension", "@x/y",
	} {
		found := false
		for _, d := range disabled {
			found = found || d == want
		}
		if !found {
			t.Errorf("%s is not disabled", want)
		}
	}
	for key, value := range config {
		text, _ := value.(string)
		if strings.HasSuffix(key, "Dir") || strings.Contains(text, ".cache") || strings.HasPrefix(text, "/root") || strings.HasPrefix(text, "/work") {
			t.Errorf("page config tells %s = %q", key, text)
		}
	}
	for _, key := range []string{"buildAvailable", "buildCheck", "quitButton", "exposeAppInBrowser", "terminalsAvailable", "allow_hidden_files"} {
		if config[key] != false {
			t.Errorf("%s is %v", key, config[key])
		}
	}
}

func TestPageWithTokenSendsItOnWebSocketsToo(t *testing.T) {
	f := newFrontend(t, frontend.Options{})
	w := &recorder{header: http.Header{}}
	if err := f.Lab(w, nil, frontend.At{Base: "/t/abc/", User: "u", Token: "s3cret"}); err != nil {
		t.Fatal(err)
	}
	if config := pageConfig(t, w.body.String()); config["token"] != "s3cret" || config["appendToken"] != "true" {
		t.Errorf("token %q, appendToken %q", config["token"], config["appendToken"])
	}
}

type recorder struct {
	header http.Header
	body   strings.Builder
}

func (r *recorder) Header() http.Header         { return r.header }
func (r *recorder) WriteHeader(int)             {}
func (r *recorder) Write(b []byte) (int, error) { return r.body.Write(b) }

// What ends a script element, or an attribute, stays text, wherever it comes from.
func TestNothingInAPageBecomesMarkup(t *testing.T) {
	const evil = `</script><script>alert(1)</script><!--'"` + "\u2028"
	f := newFrontend(t, frontend.Options{AppName: evil, PageConfig: map[string]any{"shareUrl": evil, evil: 1}})
	at := frontend.At{Base: `/w/"><script>alert(1)</script>/`, User: "u", Workspace: evil, Token: evil}
	for name, page := range map[string]func(*frontend.Frontend, http.ResponseWriter, *http.Request, frontend.At) error{
		"tree/" + evil: (*frontend.Frontend).Lab, evil: (*frontend.Frontend).Lab, "x/" + evil: (*frontend.Frontend).Edit,
	} {
		at.Path = name
		w := &recorder{header: http.Header{}}
		if err := page(f, w, nil, at); err != nil {
			t.Fatal(err)
		}
		text := w.body.String()
		if strings.Contains(text, "<script>alert") || strings.Contains(text, "<!--") || strings.Contains(configElement.FindString(text), "\u2028") {
			t.Errorf("%q became markup in %s", name, text)
		}
		if got := pageConfig(t, text)["token"]; got != evil {
			t.Errorf("the token came through as %q", got)
		}
	}
}

func TestNotebookPagesSendFilesAndDirectoriesToTheirPages(t *testing.T) {
	c := newSite(t, frontend.Options{IsDirectory: func(_ context.Context, workspace, path string) (bool, error) {
		switch {
		case workspace != "team":
			return false, errors.New("another workspace")
		case path == "broken":
			return false, errors.New("no storage")
		case strings.HasPrefix(path, "missing"):
			return false, fs.ErrNotExist
		}
		return strings.HasSuffix(path, "dir"), nil
	}})
	for path, want := range map[string]struct {
		status   int
		location string
	}{
		"tree":                       {200, ""},
		"tree/a%20dir":               {200, ""},
		"tree/a%20b.ipynb":           {302, "/prefix/w/team/notebooks/a%20b.ipynb"},
		"tree/x/%3Fy%23.txt":         {302, "/prefix/w/team/files/x/%3Fy%23.txt"},
		"tree//evil.example/x":       {302, "/prefix/w/team/files/evil.example/x"},
		"tree/%5Cevil.example":       {302, "/prefix/w/team/files/%5Cevil.example"},
		"tree/missing":               {404, ""},
		"tree/broken":                {503, ""},
		"notebooks/a.ipynb":          {200, ""},
		"notebooks/missing.ipynb":    {200, ""},
		"notebooks/a%20dir":          {302, "/prefix/w/team/tree/a%20dir"},
		"notebooks/broken":           {503, ""},
		"notebooks/x%0d%0aSet:1/dir": {302, "/prefix/w/team/tree/x%0D%0ASet:1/dir"},
	} {
		a := c.ask("GET", path, "")
		if a.StatusCode != want.status || a.Header.Get("Location") != want.location {
			t.Errorf("%s: %d %q, want %d %q", path, a.StatusCode, a.Header.Get("Location"), want.status, want.location)
		}
	}
}

func TestCustomCSSIsLinkedOnlyWhenThereIsSome(t *testing.T) {
	if strings.Contains(newSite(t, frontend.Options{}).ask("GET", "lab", "").body, "custom.css") {
		t.Error("a page links to an empty custom.css")
	}
	c := newSite(t, frontend.Options{CustomCSS: "body { color: red }"})
	if !strings.Contains(c.ask("GET", "tree", "").body, `href="/prefix/w/team/custom/custom.css"`) {
		t.Error("a page does not link to custom.css")
	}
	if a := c.want(http.StatusOK, c.ask("GET", "custom/custom.css", "")); a.body != "body { color: red }" || a.Header.Get("Content-Type") != "text/css; charset=utf-8" {
		t.Errorf("custom.css is %q %v", a.body, a.Header)
	}
}
