package frontend

import (
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net/http"
	"path"
	"regexp"
	"slices"
	"strings"
)

// license is of one package that went into an application or extension.
type license struct {
	Name      string `json:"name"`
	Version   string `json:"versionInfo"`
	LicenseID string `json:"licenseId"`
	Text      string `json:"extractedText"`
}

type bundle struct {
	Packages []license `json:"packages"`
}

// Licenses answers with the licences of all that runs in the browser, as JSON,
// CSV or Markdown: lab/api/licenses.
func (f *Frontend) Licenses(w http.ResponseWriter, r *http.Request, _ At) error {
	query := r.URL.Query()
	wanted, err := regexp.Compile("^(?:" + query.Get("bundles") + ")")
	if err != nil || len(query.Get("bundles")) > 1000 {
		return errorf(http.StatusBadRequest, "bundles is not a regular expression")
	}
	bundles, err := f.bundles(wanted)
	if err != nil {
		return internal(err)
	}
	var text, kind, ext string
	switch query.Get("format") {
	case "", "json":
		if download(query.Get("download")) {
			attach(w, ".json")
		}
		return writeJSON(w, r, map[string]any{"bundles": bundles})
	case "csv":
		text, kind, ext = licensesCSV(bundles), "text/csv; charset=utf-8", ".csv"
	case "markdown":
		text, kind, ext = licensesMarkdown(bundles, query.Get("full_text") != "false" && query.Get("full_text") != "0"), "text/markdown; charset=utf-8", ".md"
	default:
		return errorf(http.StatusBadRequest, "format is one of json, csv, markdown")
	}
	if download(query.Get("download")) {
		attach(w, ext)
	}
	return writeText(w, r, kind, []byte(text))
}

func download(value string) bool { return value == "1" || value == "true" }

func attach(w http.ResponseWriter, ext string) {
	w.Header().Set("Content-Disposition", `attachment; filename="jupyterlab-licenses`+ext+`"`)
}

// bundles reads the licences that the builders left.
func (f *Frontend) bundles(wanted *regexp.Regexp) (map[string]bundle, error) {
	from := map[string]string{"@jupyterlab/application-top": "lab/static", "@jupyter-notebook/app": "notebook/static"}
	for _, e := range f.extensions {
		from[e.name] = path.Join(e.dir, "static")
	}
	found := map[string]bundle{}
	for name, dir := range from {
		if !wanted.MatchString(name) {
			continue
		}
		b := bundle{Packages: []license{}}
		text, err := fs.ReadFile(f.root.FS(), dir+"/third-party-licenses.json")
		if err == nil {
			err = json.Unmarshal(text, &b)
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("cannot read the licences of %s: %w", name, err)
		}
		found[name] = b
	}
	return found, nil
}

func licensesCSV(bundles map[string]bundle) string {
	var b strings.Builder
	rows := csv.NewWriter(&b)
	write := func(fields ...string) { _ = rows.Write(fields) } // a Builder takes everything
	write("bundle", "name", "versionInfo", "licenseId", "extractedText")
	for _, name := range slices.Sorted(maps.Keys(bundles)) {
		for _, l := range bundles[name].Packages {
			write(name, l.Name, l.Version, l.LicenseID, l.Text)
		}
	}
	rows.Flush()
	return b.String()
}

func licensesMarkdown(bundles map[string]bundle, full bool) string {
	var b strings.Builder
	for _, name := range slices.Sorted(maps.Keys(bundles)) {
		fmt.Fprintf(&b, "# %s\n\n", name)
		for _, l := range bundles[name].Packages {
			fmt.Fprintf(&b, "## **%s** `%s` %s\n\n", l.Name, l.Version, l.LicenseID)
			if full && l.Text != "" {
				// Indented, a licence's text is no markup.
				fmt.Fprintf(&b, "    %s\n\n", strings.ReplaceAll(strings.TrimSpace(l.Text), "\n", "\n    "))
			}
		}
	}
	return b.String()
}
