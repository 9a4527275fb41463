package conformance

import (
	"bytes"
	"encoding/json"
	"fmt"
	"html"
	"net/url"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"kernelgw/conformance/probe"
)

// The pages of JupyterLab and Notebook 7 and what they load.
var pageChecks = []check{
	{name: "PagesOfLab", run: pagesOfLab, lab: true},
	{name: "PagesTakeTheTokenOfALink", run: pagesTakeTheToken, lab: true},
	{name: "PagesOfNotebook", run: pagesOfNotebook, lab: true},
	{name: "PagesLoadTheirScripts", run: pagesLoadScripts, lab: true},
	{name: "PagesKeepPathsOutOfTheMarkup", run: pagesEscape, lab: true},
	{name: "PagesOfUnknownFilesAndDirectories", run: pagesRedirect, lab: true},
	{
		name: "PagesTellNoPathsOfTheHost", run: pagesTellNoPaths, lab: true,
		extension: &extension{because: "its page config names directories of the host", fails: "names the host's"},
	},
	{name: "PagesNeedCredentials", run: pagesNeedCredentials, lab: true},
	{name: "PagesLoadFederatedExtensions", run: federatedExtensions, lab: true},
	{name: "PagesThemes", run: themes, lab: true},
	{name: "PagesTranslations", run: translations, lab: true},
	{name: "PagesLicenses", run: licenses, lab: true},
	{name: "PagesAssetsStayInTheirDirectory", run: assetsTraversal, lab: true},
	{
		name: "PagesInstallNoExtensions", run: installNoExtensions, lab: true,
		extension: &extension{because: "its extension manager installs packages", fails: "answered"},
	},
	{name: "VSCodeSeesALabPage", run: vscodeSeesLab, lab: true},
}

var configElement = regexp.MustCompile(`(?s)<script[^>]*id="jupyter-config-data"[^>]*>(.*?)</script>`)

// page gets a page with the token and returns its body and page config.
func page(t testing.TB, s *target, path string) (body string, config map[string]any) {
	t.Helper()
	answer := s.Do(t, "GET", path, nil, probe.With("Accept", "text/html")).Want(t, 200)
	if kind := answer.Header.Get("Content-Type"); !strings.HasPrefix(kind, "text/html") {
		t.Errorf("%s is %s", path, kind)
	}
	match := configElement.FindSubmatch(answer.Body)
	if match == nil {
		t.Fatalf("%s has no page config: %.500s", path, answer.Body)
	}
	if err := json.Unmarshal(match[1], &config); err != nil {
		t.Fatalf("the page config of %s: %v: %.300s", path, err, match[1])
	}
	return string(answer.Body), config
}

func pagesOfLab(t testing.TB, s *target) {
	dir := folder(t, s)
	write(t, s, dir+"/a.txt", "x")
	for path, want := range map[string]map[string]any{
		"lab":                           {"mode": "multiple-document", "workspace": "default"},
		"lab/tree/" + dir + "/a.txt":    {"mode": "multiple-document", "treePath": dir + "/a.txt"},
		"lab/workspaces/w-1_a":          {"workspace": "w-1_a"},
		"lab/workspaces/w2/tree/" + dir: {"workspace": "w2", "treePath": dir},
		"doc":                           {"mode": "single-document"},
		"doc/tree/" + dir + "/a.txt":    {"mode": "single-document", "treePath": dir + "/a.txt"},
		"lab?reset&clone=default":       {"mode": "multiple-document"},
	} {
		body, config := page(t, s, path)
		for key, value := range want {
			if got := config[key]; got != value {
				t.Errorf("%s: %s is %v, want %v", path, key, got, value)
			}
		}
		for _, key := range []string{"baseUrl", "appUrl", "fullStaticUrl", "fullLabextensionsUrl", "settingsUrl", "workspacesApiUrl", "translationsApiUrl", "themesUrl"} {
			if _, ok := config[key]; !ok {
				t.Errorf("%s: the page config has no %s", path, key)
			}
		}
		if _, ok := config["federated_extensions"].([]any); !ok {
			t.Errorf("%s: federated_extensions is %v: the page stays blank without", path, config["federated_extensions"])
		}
		if !strings.Contains(body, `rel="icon"`) && !strings.Contains(body, "favicon") {
			t.Errorf("%s names no favicon", path)
		}
	}
}

// A link with the token may lead to the same page without it.
func pagesTakeTheToken(t testing.TB, s *target) {
	answer := s.Do(t, "GET", "lab/tree/a%20b.txt?reset&clone=default&token="+s.Token, nil, probe.Anonymous, probe.With("Accept", "text/html")).Want(t, 200, 302)
	if len(answer.Cookies()) == 0 {
		t.Error("a page with the token sets no cookie")
	}
	if location := answer.Header.Get("Location"); answer.Status == 302 && (!strings.Contains(location, "/lab/tree/a%20b.txt?") ||
		!strings.Contains(location, "reset") || !strings.Contains(location, "clone=default") || strings.Contains(location, s.Token)) {
		t.Errorf("it leads to %q, want the same without the token", location)
	}
}

func pagesOfNotebook(t testing.TB, s *target) {
	dir := folder(t, s)
	write(t, s, dir+"/a.txt", "x")
	put(t, s, dir+"/n.ipynb", map[string]any{"type": "notebook", "format": "json", "content": notebook("1", "x")}).Want(t, 201)
	for path, want := range map[string]string{
		"tree": "tree", "tree/" + dir: "tree", "notebooks/" + dir + "/n.ipynb": "notebooks", "edit/" + dir + "/a.txt": "edit",
		"consoles/c1": "consoles", "terminals/1": "terminals",
	} {
		body, config := page(t, s, path)
		if got := config["notebookPage"]; got != want {
			t.Errorf("%s: notebookPage is %v, want %s", path, got, want)
		}
		if (want == "notebooks" || want == "edit") && !regexp.MustCompile(`<body[^>]*data-notebook="`+want+`"`).MatchString(body) {
			t.Errorf("%s: the body does not say data-notebook=%q", path, want)
		}
		if static := fmt.Sprint(config["fullStaticUrl"]); !strings.HasSuffix(static, "/static/notebook") {
			t.Errorf("%s: fullStaticUrl is %s", path, static)
		}
	}
	if _, config := page(t, s, "tree/"+dir); config["treePath"] != dir {
		t.Errorf("treePath is %v, want %s", config["treePath"], dir)
	}
}

var scriptSource = regexp.MustCompile(`<script[^>]*src="([^"]+)"`)

func pagesLoadScripts(t testing.TB, s *target) {
	for _, path := range []string{"lab", "tree"} {
		body, _ := page(t, s, path)
		sources := scriptSource.FindAllStringSubmatch(body, -1)
		if len(sources) == 0 {
			t.Errorf("%s loads no script", path)
		}
		for _, source := range sources {
			answer := s.Do(t, "GET", html.UnescapeString(source[1]), nil, probe.Anonymous).Want(t, 200)
			if kind := answer.Header.Get("Content-Type"); !strings.Contains(kind, "javascript") {
				t.Errorf("%s is %s", source[1], kind)
			}
			if !strings.Contains(answer.Header.Get("Cache-Control"), "max-age") && answer.Header.Get("ETag") == "" {
				t.Errorf("%s cannot be cached: %v", source[1], answer.Header)
			}
		}
	}
	for _, icon := range []string{"static/favicons/favicon.ico", "static/favicons/favicon-busy-1.ico"} {
		s.Do(t, "GET", icon, nil, probe.Anonymous).Want(t, 200)
	}
	s.Do(t, "GET", "static/lab/no-such-file.js", nil).Want(t, 404)
}

func pagesEscape(t testing.TB, s *target) {
	const attack = `</script><script>alert(1)</script><img src=x onerror=alert(1)>"'{{7*7}}`
	for _, path := range []string{"lab/tree/", "doc/tree/", "tree/", "notebooks/", "edit/", "consoles/", "terminals/", "lab/workspaces/", "lab/nonsense/"} {
		answer := s.Do(t, "GET", path+url.PathEscape(attack), nil, probe.With("Accept", "text/html"))
		if answer.Status >= 500 {
			t.Errorf("%s answered %d", path, answer.Status)
		}
		for _, bad := range []string{"<script>alert", "<img src=x", "}49", `"49`} {
			if bytes.Contains(answer.Body, []byte(bad)) {
				t.Errorf("%s: %q is in the page", path, bad)
			}
		}
	}
	for _, path := range []string{"lab?token=", "lab?reset=", "login?next="} {
		if body := s.Do(t, "GET", path+url.QueryEscape(attack), nil).Body; bytes.Contains(body, []byte("<script>alert")) {
			t.Errorf("%s echoes what it was sent", path)
		}
	}
}

func pagesRedirect(t testing.TB, s *target) {
	dir := folder(t, s)
	write(t, s, dir+"/a.txt", "x")
	put(t, s, dir+"/n.ipynb", map[string]any{"type": "notebook", "format": "json", "content": notebook("1", "x")}).Want(t, 201)
	for path, want := range map[string]string{
		"tree/" + dir + "/n.ipynb": "/notebooks/" + dir + "/n.ipynb",
		"tree/" + dir + "/a.txt":   "/files/" + dir + "/a.txt",
		"notebooks/" + dir:         "/tree/" + dir,
	} {
		if location := s.Do(t, "GET", path, nil).Want(t, 301, 302).Header.Get("Location"); !strings.HasSuffix(location, want) {
			t.Errorf("%s leads to %s, want %s", path, location, want)
		}
	}
	if location := s.Do(t, "GET", "", nil).Want(t, 302).Header.Get("Location"); !strings.Contains(location, "/lab") {
		t.Errorf("the root leads to %q", location)
	}
}

func pagesTellNoPaths(t testing.TB, s *target) {
	for _, path := range []string{"lab", "tree"} {
		body, config := page(t, s, path)
		if s.process != nil && strings.Contains(body, s.process.Dir) {
			t.Errorf("%s names the host's directory %s", path, s.process.Dir)
		}
		for key, value := range config {
			if text, ok := value.(string); ok && filepath.IsAbs(text) && (strings.HasSuffix(key, "Dir") || strings.HasPrefix(text, "/home/") || strings.HasPrefix(text, "/root")) {
				t.Errorf("%s: %s names the host's %s", path, key, text)
			}
		}
	}
}

func pagesNeedCredentials(t testing.TB, s *target) {
	for _, path := range []string{"lab", "lab?reset", "lab/tree/a.txt", "doc", "tree", "notebooks/x.ipynb", "edit/x", "consoles/x", "terminals/1"} {
		answer := s.Do(t, "GET", path, nil, probe.Anonymous)
		if location := answer.Header.Get("Location"); answer.Status != 302 || !strings.HasPrefix(location, "/login?next=") {
			t.Errorf("%s answered a stranger %d, %q", path, answer.Status, location)
		}
	}
	for _, path := range []string{"lab/api/settings", "lab/api/workspaces", "lab/api/workspaces/default", "lab/api/translations"} {
		if answer := s.Do(t, "GET", path, nil, probe.Anonymous); answer.Status != 403 && !(s.stock && strings.HasSuffix(path, "translations")) {
			t.Errorf("%s answered a stranger %d, want 403", path, answer.Status)
		}
	}
	cookies := login(t, s)
	answer := s.Do(t, "GET", "lab", nil, probe.WithCookies(cookies), probe.With("Accept", "text/html")).Want(t, 200)
	if policy := answer.Header.Get("Content-Security-Policy"); !strings.Contains(policy, "frame-ancestors 'self'") {
		t.Errorf("the page may be framed: Content-Security-Policy is %q", policy)
	}
	if cache := answer.Header.Get("Cache-Control"); !s.stock && !strings.Contains(cache, "no-store") && !strings.Contains(cache, "no-cache") {
		t.Errorf("a page with credentials in it: Cache-Control is %q", cache)
	}
}

func federatedExtensions(t testing.TB, s *target) {
	_, config := page(t, s, "lab")
	base := strings.TrimPrefix(fmt.Sprint(config["fullLabextensionsUrl"]), "/")
	widgets := false
	for _, one := range config["federated_extensions"].([]any) {
		var e struct{ Name, Load string }
		raw, _ := json.Marshal(one)
		_ = json.Unmarshal(raw, &e)
		widgets = widgets || e.Name == "@jupyter-widgets/jupyterlab-manager"
		s.Do(t, "GET", base+"/"+e.Name+"/"+e.Load, nil).Want(t, 200)
	}
	if !widgets {
		t.Error("the manager of ipywidgets is not there")
	}
}

func themes(t testing.TB, s *target) {
	for _, name := range []string{"@jupyterlab/theme-light-extension", "@jupyterlab/theme-dark-extension"} {
		answer := s.Do(t, "GET", "lab/api/themes/"+name+"/index.css", nil).Want(t, 200)
		if kind := answer.Header.Get("Content-Type"); !strings.HasPrefix(kind, "text/css") || !bytes.Contains(answer.Body, []byte("--jp-")) {
			t.Errorf("%s is %s: %.100s", name, kind, answer.Body)
		}
	}
	s.Do(t, "GET", "lab/api/themes/@jupyterlab/no-such-theme/index.css", nil).Want(t, 404)
}

func translations(t testing.TB, s *target) {
	var got struct {
		Data    map[string]any
		Message *string
	}
	s.Do(t, "GET", "lab/api/translations?1795502306591", nil).Want(t, 200).Decode(t, &got)
	if got.Data["en"] == nil || got.Message == nil {
		t.Errorf("the translations are %+v", got)
	}
	for _, locale := range []string{"default", "en"} {
		s.Do(t, "GET", "lab/api/translations/"+locale, nil).Want(t, 200).Decode(t, &got)
		if got.Data == nil || got.Message == nil {
			t.Errorf("the translation %s is %+v", locale, got)
		}
	}
	for _, bad := range []string{"..%2f..%2fetc", "xx_XX", "%ff", strings.Repeat("a", 5000)} {
		if answer := s.Do(t, "GET", "lab/api/translations/"+bad, nil); answer.Status >= 500 && !s.stock {
			t.Errorf("the translation %.20s answered %d", bad, answer.Status)
		}
	}
}

func licenses(t testing.TB, s *target) {
	var got struct {
		Bundles map[string]struct {
			Packages []struct{ Name string }
		}
	}
	s.Do(t, "GET", "lab/api/licenses?format=json&full_text=1&bundles=.*", nil).Want(t, 200, 301, 302)
	s.Do(t, "GET", "lab/api/licenses/?format=json&full_text=1&bundles=.*", nil).Want(t, 200).Decode(t, &got)
	n := 0
	for _, b := range got.Bundles {
		n += len(b.Packages)
	}
	if n < 100 {
		t.Errorf("%d packages are listed with their licences", n)
	}
}

func assetsTraversal(t testing.TB, s *target) {
	for _, prefix := range []string{"static/lab/", "static/notebook/", "lab/extensions/", "lab/extensions/@jupyter-widgets/jupyterlab-manager/", "lab/api/themes/@jupyterlab/theme-light-extension/", "static/favicons/", "lab/api/settings/", "custom/"} {
		for _, up := range []string{
			strings.Repeat("../", 12) + "etc/passwd", strings.Repeat("%2e%2e/", 12) + "etc/passwd", strings.Repeat("..%2f", 12) + "etc%2fpasswd",
			"/etc/passwd", "%2fetc%2fpasswd", strings.Repeat(`..%5c`, 12) + "etc%5cpasswd", "%00", "..%00/" + "x", strings.Repeat("a", 5000),
		} {
			answer := s.Do(t, "GET", prefix+up, nil)
			if answer.Status == 200 && !bytes.HasPrefix(answer.Body, []byte("<!")) || bytes.Contains(answer.Body, []byte("root:x:")) {
				t.Errorf("%s%.40s answered %d: %.100s", prefix, up, answer.Status, answer.Body)
			}
			if answer.Status >= 500 && !s.stock {
				t.Errorf("%s%.40s answered %d", prefix, up, answer.Status)
			}
		}
	}
}

func installNoExtensions(t testing.TB, s *target) {
	body := map[string]string{"cmd": "nonsense", "extension_name": "--index-url=http://127.0.0.1:1/"}
	s.Do(t, "POST", "lab/api/extensions", body).Want(t, 403, 404, 405)
	s.Do(t, "POST", "lab/api/plugins", map[string]string{"cmd": "disable", "plugin_name": "x"}).Want(t, 403, 404, 405)
}

func vscodeSeesLab(t testing.TB, s *target) {
	at, answer := follow(t, s, "")
	if !strings.Contains(at, "/login?") || answer.Status != 200 {
		t.Errorf("the root leads a stranger to %q (%d), want /login?...", at, answer.Status)
	}
	location := s.Do(t, "GET", "?token="+s.Token, nil, probe.Anonymous).Want(t, 302).Header.Get("Location")
	if !strings.Contains(location, "/lab?") {
		t.Errorf("with the token the root leads to %q, want /lab?...", location)
	}
	if at, answer := follow(t, s, "tree?"); answer.Status != 200 || !strings.Contains(at, "/login?") {
		t.Errorf("tree? leads a stranger to %q (%d)", at, answer.Status)
	}
}
