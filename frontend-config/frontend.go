// Package frontend is JupyterLab and Notebook 7 in the browser, without Python
// behind them: their pages, static files, settings and layouts. It knows the
// shapes that those pages expect (contract sections 6 and 7); it knows nothing
// of kernels, of where files are kept, or of who may call.
package frontend

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"

	"golang.org/x/sync/semaphore"
)

// Documents keeps small texts per owner: settings, layouts, configuration.
// What is not there is an error for which errors.Is(err, fs.ErrNotExist) holds.
// What PutDocument has answered is seen by every read that begins afterwards.
type Documents interface {
	GetDocument(ctx context.Context, owner, name string) (body []byte, modified time.Time, err error)
	PutDocument(ctx context.Context, owner, name string, body []byte) error
	DeleteDocument(ctx context.Context, owner, name string) error
	ListDocuments(ctx context.Context, owner, prefix string) (names []string, err error)
}

// Options configure a Frontend. Dir and Documents are required.
type Options struct {
	// Dir is what scripts/setup-frontend.sh made. It may hold further federated
	// extensions in its labextensions.
	Dir string
	// Documents keeps what users change.
	Documents Documents
	// Log gets what goes wrong besides an answer; default is none.
	Log *slog.Logger
	// IsDirectory tells Notebook's /tree and /notebooks what a path is, so that
	// they send the browser to the right page; nil means that they do not. What
	// is not there is fs.ErrNotExist.
	IsDirectory func(ctx context.Context, workspace, path string) (bool, error)
	// Terminals says that the server has terminals.
	Terminals bool
	// AppName is in Lab's title bar; default JupyterLab.
	AppName string
	// Overrides replace defaults of settings: plugin id, then key. They win over
	// our secure ones.
	Overrides map[string]map[string]any
	// DisabledExtensions are plugins, or extensions with all their plugins, that
	// do not start, besides those that would not be safe or have no server here.
	DisabledExtensions []string
	// PageConfig is added to the page config of every page, and wins.
	PageConfig map[string]any
	// CustomCSS is served as custom/custom.css and linked in every page; "" means
	// none.
	CustomCSS string
}

// At says what a request is for, as its caller found out.
type At struct {
	Base      string // the mount's URL path, with a slash at the end
	User      string // who owns the settings: an opaque id, never reused
	Workspace string // the workspace at Base: layouts are per user and workspace
	Token     string // for the page to send with each request; "" means cookies
	Path      string // what the route's last parameter or * matched, decoded once; else ""
}

// Error is an answer that is not what was asked for.
type Error struct {
	Status     int
	Message    string // for the user
	RetryAfter int    // seconds; zero: no such header
	Cause      error  // for the log; may be nil
}

// Error implements error.
func (e *Error) Error() string {
	if e.Cause != nil {
		return e.Message + ": " + e.Cause.Error()
	}
	return e.Message
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Cause }

func errorf(status int, format string, args ...any) error {
	return &Error{Status: status, Message: fmt.Sprintf(format, args...)}
}

// Frontend serves the pages and what they need. Its handlers are methods, for
// the caller's route table. They set Content-Type and Cache-Control, and leave
// security headers to their caller, who must let pages, workers and styles
// load what they name (contract 1.6): no default-src on pages and static files.
// Those that take a body read it from the request, and bound it. An error is an
// *Error, and nothing was written then.
//
// Safe for concurrent use.
//
//	GET               lab, lab/*, doc, doc/*       Lab, Doc        page
//	GET               tree, tree/*, notebooks/*    Tree, Notebooks page
//	GET               edit/*, consoles/*           Edit, Consoles  page
//	GET               terminals/*                  Terminals       page
//	GET, HEAD         static/*                     Static          public
//	GET, HEAD         lab/extensions/*             LabExtension    public
//	GET, HEAD         lab/api/themes/*             Theme           public
//	GET, HEAD         custom/custom.css            CustomCSS       public
//	GET               lab/api/settings             ListSettings    API
//	GET, PUT          lab/api/settings/*           GetSetting, PutSetting
//	GET               lab/api/workspaces           ListWorkspaces
//	GET, PUT, DELETE  lab/api/workspaces/*         GetWorkspace, PutWorkspace, DeleteWorkspace
//	GET               lab/api/translations         ListTranslations
//	GET               lab/api/translations/*       GetTranslation
//	GET               lab/api/licenses             Licenses
//	GET               lab/api/build, news, update  Build, News, Update
//	GET               lab/api/listings/*           Listings
//	GET               lab/api/extensions, plugins  Extensions
//	POST              lab/api/extensions, plugins  ChangeExtensions
//	GET               lsp/status                   LSPStatus
//	GET, PUT, PATCH   api/config/*                 GetConfig, PutConfig, PatchConfig
type Frontend struct {
	// set at construction
	o          Options
	root       *os.Root
	files      files
	lab        app
	notebook   app
	extensions []extension
	settings   map[string]*setting
	ids        []string // of settings, sorted

	patching [64]sync.Mutex // by owner and section: see PatchConfig
	// listing holds one for each list of documents that is being made, which is
	// in memory several times meanwhile.
	listing *semaphore.Weighted
}

// maxListing is how many lists of documents are made at a time.
const maxListing = 4

// New reads the front end's files. Its error says what is missing in Dir.
func New(o Options) (*Frontend, error) {
	switch {
	case o.Dir == "":
		return nil, errors.New("no directory with the front end: run make frontend")
	case o.Documents == nil:
		return nil, errors.New("no place for settings and layouts")
	}
	o.Log = cmp.Or(o.Log, slog.New(slog.DiscardHandler))
	o.AppName = cmp.Or(o.AppName, "JupyterLab")
	root, err := os.OpenRoot(o.Dir)
	if err != nil {
		return nil, fmt.Errorf("cannot open the front end, which make frontend fetches: %w", err)
	}
	f := &Frontend{o: o, root: root, listing: semaphore.NewWeighted(maxListing)}
	if err := f.load(); err != nil {
		root.Close()
		return nil, fmt.Errorf("cannot read the front end in %s, which make frontend fetches: %w", o.Dir, err)
	}
	return f, nil
}

// load reads what answers are made of, in the order in which one part needs
// another.
func (f *Frontend) load() (err error) {
	if f.extensions, err = readExtensions(f.root.FS()); err != nil {
		return err
	}
	if f.files, err = readFiles(f.root.FS(), f.extensions); err != nil {
		return err
	}
	if f.lab, err = readLab(f.root.FS()); err != nil {
		return err
	}
	if f.notebook, err = readNotebook(f.root.FS()); err != nil {
		return err
	}
	f.settings, f.ids, err = readSettings(f.root.FS(), f.extensions, f.o)
	return err
}

// Close ends the use of Dir. Handlers must not be called afterwards.
func (f *Frontend) Close() error { return f.root.Close() }
