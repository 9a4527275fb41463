package frontend

import (
	"bytes"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"html/template"
	"io/fs"
	"net/http"
	"net/url"
	"path"
	"regexp"
	"strings"
)

//go:embed page.html
var pageText string

var pageTemplate = template.Must(template.New("page").Parse(pageText))

// app is an application that was built for the browser.
type app struct {
	name    string   // its directory in Options.Dir, and below static/
	version string   // as its About box says; only Lab's has one
	entries []string // its scripts, below its static URL
}

// script is how Lab's template, which is for Python, names an entry point.
var script = regexp.MustCompile(`<script[^>]*\bsrc="\{\{\s*page_config\.fullStaticUrl\s*\}\}/([A-Za-z0-9._-]+\.js(?:\?v=[0-9a-f]+)?)"`)

// readLab finds JupyterLab's entry points and version.
func readLab(dir fs.FS) (app, error) {
	lab := app{name: "lab"}
	text, err := fs.ReadFile(dir, "lab/static/index.html")
	if err != nil {
		return app{}, err
	}
	for _, match := range script.FindAllSubmatch(text, -1) {
		lab.entries = append(lab.entries, string(match[1]))
	}
	if len(lab.entries) == 0 {
		return app{}, errors.New("lab/static/index.html names no script: it is of an unknown version")
	}
	var about struct{ Version string }
	if text, err = fs.ReadFile(dir, "lab/static/package.json"); err != nil {
		return app{}, err
	}
	if err := json.Unmarshal(text, &about); err != nil {
		return app{}, fmt.Errorf("lab/static/package.json: %w", err)
	}
	lab.version = about.Version
	return lab, nil
}

// readNotebook finds Notebook's entry point.
func readNotebook(dir fs.FS) (app, error) {
	found, err := fs.Glob(dir, "notebook/static/main.*.js")
	if err != nil {
		return app{}, err
	}
	if len(found) != 1 {
		return app{}, fmt.Errorf("notebook/static has %d entry points main.*.js, not one: it is of an unknown version", len(found))
	}
	return app{name: "notebook", entries: []string{path.Base(found[0])}}, nil
}

// layoutName is what a layout may be called in a page's URL.
var layoutName = regexp.MustCompile(`^[A-Za-z0-9_-]+$`)

// Lab serves JupyterLab: lab and lab/*.
func (f *Frontend) Lab(w http.ResponseWriter, _ *http.Request, at At) error {
	return f.labPage(w, at, "lab", "multiple-document")
}

// Doc serves JupyterLab with one document: doc and doc/*.
func (f *Frontend) Doc(w http.ResponseWriter, _ *http.Request, at At) error {
	return f.labPage(w, at, "doc", "single-document")
}

func (f *Frontend) labPage(w http.ResponseWriter, at At, page, mode string) error {
	config := f.pageConfig(at)
	config["mode"] = mode
	config["workspace"] = "default"
	config["treePath"] = ""
	rest := at.Path
	if below, ok := strings.CutPrefix(rest, "workspaces/"); ok {
		name, tree, _ := strings.Cut(below, "/")
		if layoutName.MatchString(name) {
			config["workspace"], rest = name, tree
		}
	}
	switch tree, ok := strings.CutPrefix(rest, "tree/"); {
	case ok:
		config["treePath"] = tree
	case rest != "" && rest != "tree":
		config["notFoundUrl"] = at.Base + page + "/" + escapePath(at.Path)
	}
	return f.page(w, at, f.lab, config, f.o.AppName, "")
}

// Tree serves Notebook's file browser: tree and tree/*. A path of a file leads
// to the file.
func (f *Frontend) Tree(w http.ResponseWriter, r *http.Request, at At) error {
	directory, err := f.isDirectory(r, at, true)
	if err != nil {
		return err
	}
	if !directory {
		page := "files/"
		if strings.HasSuffix(at.Path, ".ipynb") {
			page = "notebooks/"
		}
		redirect(w, at.Base+page+escapePath(at.Path))
		return nil
	}
	config := f.pageConfig(at)
	config["treePath"] = strings.Trim(at.Path, "/")
	return f.notebookPage(w, at, config, "tree", "Home")
}

// Notebooks serves Notebook: notebooks/*. A path of a directory leads to the
// file browser.
func (f *Frontend) Notebooks(w http.ResponseWriter, r *http.Request, at At) error {
	directory, err := f.isDirectory(r, at, false)
	if err != nil {
		return err
	}
	if directory {
		redirect(w, at.Base+"tree/"+escapePath(at.Path))
		return nil
	}
	return f.notebookPage(w, at, f.pageConfig(at), "notebooks", "Notebook")
}

// Edit serves Notebook's text editor: edit/*.
func (f *Frontend) Edit(w http.ResponseWriter, _ *http.Request, at At) error {
	return f.notebookPage(w, at, f.pageConfig(at), "edit", "Edit")
}

// Consoles serves Notebook's console: consoles/*.
func (f *Frontend) Consoles(w http.ResponseWriter, _ *http.Request, at At) error {
	return f.notebookPage(w, at, f.pageConfig(at), "consoles", "Console")
}

// Terminals serves Notebook's terminal: terminals/*.
func (f *Frontend) Terminals(w http.ResponseWriter, _ *http.Request, at At) error {
	return f.notebookPage(w, at, f.pageConfig(at), "terminals", "Terminal")
}

// isDirectory asks what a path is; unknown is the answer when nobody can tell.
func (f *Frontend) isDirectory(r *http.Request, at At, unknown bool) (bool, error) {
	name := strings.Trim(at.Path, "/")
	if f.o.IsDirectory == nil || name == "" {
		return unknown, nil
	}
	directory, err := f.o.IsDirectory(r.Context(), at.Workspace, name)
	switch {
	case errors.Is(err, fs.ErrNotExist) && unknown:
		return false, errorf(http.StatusNotFound, "No such file or directory: %s", name)
	case errors.Is(err, fs.ErrNotExist):
		return unknown, nil // the page itself says so, in its own way
	case err != nil:
		return false, &Error{Status: http.StatusServiceUnavailable, Message: "The files cannot be read now; try again", RetryAfter: 2, Cause: err}
	}
	return directory, nil
}

func (f *Frontend) notebookPage(w http.ResponseWriter, at At, config map[string]any, page, title string) error {
	config["notebookPage"] = page
	config["fullStaticUrl"] = at.Base + "static/notebook"
	config["frontendUrl"] = at.Base
	config["appName"] = "Jupyter Notebook"
	return f.page(w, at, f.notebook, config, title, page)
}

func (f *Frontend) page(w http.ResponseWriter, at At, of app, config map[string]any, title, notebook string) error {
	for key, value := range f.o.PageConfig {
		config[key] = value
	}
	urls := make([]string, len(of.entries))
	for i, entry := range of.entries {
		urls[i] = at.Base + "static/" + of.name + "/" + entry
	}
	var page bytes.Buffer
	// The template writes Config as JSON in which nothing can end the element.
	if err := pageTemplate.Execute(&page, map[string]any{
		"Title": title, "Base": at.Base, "Config": config, "Scripts": urls, "Notebook": notebook, "CustomCSS": f.o.CustomCSS != "",
	}); err != nil {
		return &Error{Status: http.StatusInternalServerError, Message: "The page cannot be made", Cause: err}
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	_, _ = w.Write(page.Bytes()) // a client that is gone needs no page
	return nil
}

// escapePath escapes a path for a URL, segment by segment.
func escapePath(name string) string {
	segments := strings.Split(strings.Trim(name, "/"), "/")
	for i, s := range segments {
		segments[i] = url.PathEscape(s)
	}
	return strings.Join(segments, "/")
}

func redirect(w http.ResponseWriter, location string) {
	w.Header().Set("Location", location)
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(http.StatusFound)
}
