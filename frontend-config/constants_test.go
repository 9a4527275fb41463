package frontend_test

import (
	"encoding/csv"
	"net/http"
	"strings"
	"testing"

	frontend "kernelgw/frontend-config"
)

func TestWhatIsTheSameForEveryone(t *testing.T) {
	c := newSite(t, frontend.Options{})
	for path, want := range map[string]string{
		"lab/api/translations":         `{"data":{"en":{"displayName":"English","nativeName":"English"}},"message":""}`,
		"lab/api/translations/":        `{"data":{"en":{"displayName":"English","nativeName":"English"}},"message":""}`,
		"lab/api/translations/default": `{"data":{},"message":""}`,
		"lab/api/translations/de_DE":   `{"data":{},"message":"There is no language pack for de_DE"}`,
		"lab/api/build":                `{"message":"","status":"stable"}`,
		"lab/api/news":                 `{"news":[]}`,
		"lab/api/update":               `{"notification":null}`,
		"lab/api/listings/@jupyterlab/extensionmanager-extension/listings.json": `{"allowed_extensions":[],"allowed_extensions_uris":[],"blocked_extensions":[],"blocked_extensions_uris":[]}`,
		"lab/api/extensions?refresh=0&query=&page=1":                            "[]",
		"lab/api/plugins": "[]",
		"lsp/status":      `{"sessions":{},"specs":{},"version":2}`,
	} {
		if a := c.want(http.StatusOK, c.ask("GET", path, "")); a.body != want || a.Header.Get("Content-Type") != "application/json" {
			t.Errorf("%s: %s %v", path, a.body, a.Header)
		}
	}
	c.want(http.StatusNotFound, c.ask("GET", "lab/api/listings/other.json", ""))
}

func TestNobodyInstallsExtensions(t *testing.T) {
	c := newSite(t, frontend.Options{})
	for _, path := range []string{"lab/api/extensions", "lab/api/plugins"} {
		c.want(http.StatusForbidden, c.ask("POST", path, `{"cmd": "install", "extension_name": "--index-url=http://evil"}`))
	}
}

func TestLicencesOfAllThatRuns(t *testing.T) {
	c := newSite(t, frontend.Options{})
	var report struct {
		Bundles map[string]struct {
			Packages []struct{ Name, VersionInfo, LicenseID, ExtractedText string }
		}
	}
	c.json(c.want(http.StatusOK, c.ask("GET", "lab/api/licenses/?format=json", "")), &report)
	for _, name := range []string{"@jupyterlab/application-top", "@jupyter-notebook/app", "@jupyter-notebook/lab-extension", "@jupyter-widgets/jupyterlab-manager"} {
		if _, ok := report.Bundles[name]; !ok {
			t.Errorf("no licences of %s", name)
		}
	}
	lab := report.Bundles["@jupyterlab/application-top"].Packages
	if len(lab) < 50 || lab[0].Name == "" || lab[0].LicenseID == "" || lab[0].ExtractedText == "" {
		t.Fatalf("%d packages of Lab", len(lab))
	}
	a := c.want(http.StatusOK, c.ask("GET", "lab/api/licenses?format=csv&download=1&bundles=@jupyterlab/", ""))
	rows, err := csv.NewReader(strings.NewReader(a.body)).ReadAll()
	if err != nil || len(rows) != len(lab)+1 || !strings.HasPrefix(a.Header.Get("Content-Disposition"), "attachment;") {
		t.Errorf("%d rows, %v, %v", len(rows), err, a.Header)
	}
	short := c.want(http.StatusOK, c.ask("GET", "lab/api/licenses?format=markdown&full_text=false", "")).body
	long := c.want(http.StatusOK, c.ask("GET", "lab/api/licenses?format=markdown", "")).body
	if !strings.Contains(short, "# @jupyterlab/application-top\n") || len(long) < 2*len(short) {
		t.Errorf("Markdown of %d and %d bytes", len(short), len(long))
	}
	c.want(http.StatusBadRequest, c.ask("GET", "lab/api/licenses?format=xml", ""))
	c.want(http.StatusBadRequest, c.ask("GET", "lab/api/licenses?bundles=(", ""))
}
