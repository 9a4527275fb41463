package frontend

import (
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"path"
	"regexp"
	"strings"
	"time"
)

//go:embed icons
var icons embed.FS

// file is one static file.
type file struct {
	name    string // in Options.Dir
	kind    string // its Content-Type
	tag     string // ETag, "" when the name changes with the content
	gzipped bool   // there is a name.gz, too
}

// files are the static files by what follows their route, for each route. Only
// a name that is in here is ever opened.
type files struct{ static, extensions, themes map[string]file }

// kinds are the Content-Types by extension. They are not the host's: browsers
// refuse scripts and styles of a wrong type.
var kinds = map[string]string{
	".js": "text/javascript; charset=utf-8", ".mjs": "text/javascript; charset=utf-8",
	".css": "text/css; charset=utf-8", ".json": "application/json", ".map": "application/json",
	".wasm": "application/wasm", ".svg": "image/svg+xml", ".png": "image/png", ".jpg": "image/jpeg",
	".gif": "image/gif", ".ico": "image/x-icon", ".woff": "font/woff", ".woff2": "font/woff2", ".ttf": "font/ttf",
	".otf": "font/otf", ".eot": "application/vnd.ms-fontobject", ".txt": "text/plain; charset=utf-8",
}

// hashed are names that change with their content.
var hashed = regexp.MustCompile(`(^|[._-])[0-9a-f]{16,}\.`)

// readFiles finds the static files.
func readFiles(dir fs.FS, extensions []extension) (files, error) {
	all := files{static: map[string]file{}, extensions: map[string]file{}, themes: map[string]file{}}
	add := func(to map[string]file, below, prefix string) error {
		return fs.WalkDir(dir, below, func(name string, entry fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			ext := path.Ext(name)
			// index.html is a template for Python.
			if !entry.Type().IsRegular() || ext == ".gz" || ext == ".html" {
				return nil
			}
			one := file{name: name, kind: kinds[ext]}
			if one.kind == "" {
				one.kind = "application/octet-stream"
			}
			if _, err := fs.Stat(dir, name+".gz"); err == nil {
				one.gzipped = true
			}
			if !hashed.MatchString(path.Base(name)) {
				if one.tag, err = tagOf(dir, name); err != nil {
					return err
				}
			}
			to[prefix+strings.TrimPrefix(name, below+"/")] = one
			return nil
		})
	}
	if err := add(all.static, "lab/static", "lab/"); err != nil {
		return files{}, err
	}
	if err := add(all.static, "notebook/static", "notebook/"); err != nil {
		return files{}, err
	}
	if err := add(all.themes, "lab/themes", ""); err != nil {
		return files{}, err
	}
	for _, e := range extensions {
		if err := add(all.extensions, e.dir, e.name+"/"); err != nil {
			return files{}, err
		}
		if _, err := fs.Stat(dir, e.dir+"/themes"); err == nil {
			if err := add(all.themes, e.dir+"/themes", e.name+"/"); err != nil {
				return files{}, err
			}
		}
	}
	return all, nil
}

func tagOf(dir fs.FS, name string) (string, error) {
	from, err := dir.Open(name)
	if err != nil {
		return "", err
	}
	defer from.Close()
	sum := sha256.New()
	if _, err := io.Copy(sum, from); err != nil {
		return "", fmt.Errorf("cannot read %s: %w", name, err)
	}
	return hex.EncodeToString(sum.Sum(nil)[:12]), nil
}

// Static serves the files of Lab and Notebook, and icons: static/*.
func (f *Frontend) Static(w http.ResponseWriter, r *http.Request, at At) error {
	if name, ok := strings.CutPrefix(at.Path, "favicons/"); ok {
		return serveIcon(w, r, name)
	}
	return f.serve(w, r, f.files.static, at)
}

// LabExtension serves the files of federated extensions: lab/extensions/*.
func (f *Frontend) LabExtension(w http.ResponseWriter, r *http.Request, at At) error {
	return f.serve(w, r, f.files.extensions, at)
}

// Theme serves the styles of themes: lab/api/themes/*.
func (f *Frontend) Theme(w http.ResponseWriter, r *http.Request, at At) error {
	return f.serve(w, r, f.files.themes, at)
}

// CustomCSS serves custom/custom.css.
func (f *Frontend) CustomCSS(w http.ResponseWriter, r *http.Request, _ At) error {
	w.Header().Set("Content-Type", kinds[".css"])
	w.Header().Set("Cache-Control", "no-cache")
	http.ServeContent(w, r, "", time.Time{}, strings.NewReader(f.o.CustomCSS))
	return nil
}

func (f *Frontend) serve(w http.ResponseWriter, r *http.Request, from map[string]file, at At) error {
	one, ok := from[at.Path]
	if !ok {
		return errorf(http.StatusNotFound, "No such file")
	}
	name, tag := one.name, one.tag
	h := w.Header()
	if one.gzipped {
		h.Add("Vary", "Accept-Encoding")
		// A range would be one of the compressed bytes.
		if acceptsGzip(r) && r.Header.Get("Range") == "" {
			name, tag = name+".gz", tag+"-gz"
			h.Set("Content-Encoding", "gzip")
		}
	}
	body, err := f.root.Open(name)
	if err != nil {
		h.Del("Content-Encoding")
		return &Error{Status: http.StatusInternalServerError, Message: "The front end's files cannot be read", Cause: err}
	}
	defer body.Close()
	h.Set("Content-Type", one.kind)
	if one.tag == "" {
		h.Set("Cache-Control", "public, max-age=31536000, immutable")
	} else {
		h.Set("Cache-Control", "no-cache")
		h.Set("ETag", `"`+tag+`"`)
	}
	http.ServeContent(w, r, "", time.Time{}, body)
	return nil
}

// acceptsGzip reports whether the client said so in so many words.
func acceptsGzip(r *http.Request) bool {
	for _, coding := range strings.Split(r.Header.Get("Accept-Encoding"), ",") {
		name, parameters, _ := strings.Cut(coding, ";")
		if strings.TrimSpace(name) == "gzip" {
			q := strings.ReplaceAll(parameters, " ", "")
			return q != "q=0" && !strings.HasPrefix(q, "q=0.0")
		}
	}
	return false
}

// serveIcon serves one of our icons. Lab and Notebook know them as .ico.
func serveIcon(w http.ResponseWriter, r *http.Request, name string) error {
	one := "icons/idle.svg"
	switch name {
	case "favicon.ico", "favicon-notebook.ico", "favicon-file.ico", "favicon-terminal.ico":
	case "favicon-busy-1.ico", "favicon-busy-2.ico", "favicon-busy-3.ico":
		one = "icons/busy.svg"
	default:
		return errorf(http.StatusNotFound, "No such file")
	}
	icon, err := icons.ReadFile(one)
	if err != nil {
		return &Error{Status: http.StatusInternalServerError, Message: "The icon cannot be read", Cause: err}
	}
	w.Header().Set("Content-Type", kinds[".svg"])
	w.Header().Set("Cache-Control", "public, max-age=86400")
	http.ServeContent(w, r, "", time.Time{}, strings.NewReader(string(icon)))
	return nil
}
