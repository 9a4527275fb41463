package kernelgw

import (
	"net/http"
	"slices"
	"strings"

	"kernelgw/auth"
)

// Mount is a place under which a route is served. Every mount is a complete
// Jupyter base URL.
type Mount string

// The mounts. Host is the bare root of the host, outside the base URL, where
// probes of load balancers look.
const (
	Default    Mount = ""               // BASE/: the caller's default workspace
	Workspace  Mount = "w/:workspace/"  // BASE/w/NAME/: a workspace by name
	Capability Mount = "t/:capability/" // BASE/t/SECRET/: for clients that can send no credentials
	Host       Mount = "/"
)

var (
	everywhere = []Mount{Default, Workspace, Capability}
	browsers   = []Mount{Default, Workspace}
	baseOnly   = []Mount{Default}
	probes     = []Mount{Default, Host}
)

// Route is one row of the route table.
type Route struct {
	Method string
	Path   string // below a mount, in echo's notation
	Access auth.Access
	Mounts []Mount
	Doc    string

	handle  func(*Server, *call) error
	streams bool // the handler reads and bounds the request's body, and may take long
	form    bool // the page's form repeats the XSRF cookie
	private bool // a page of another site may not even read it with the user's cookie
}

// row returns a Route.
func row(method, path string, access auth.Access, mounts []Mount, doc string, handle func(*Server, *call) error) Route {
	return Route{Method: method, Path: path, Access: access, Mounts: mounts, Doc: doc, handle: handle}
}

func (r Route) streaming() Route { r.streams = true; return r }

// traits says what is special about a route, in words of docs/routes.md.
func (r Route) traits() (list []string) {
	if r.private {
		list = append(list, "same site")
	}
	if r.form {
		list = append(list, "form")
	}
	if r.streams {
		list = append(list, "streams")
	}
	return list
}

func (r Route) byForm() Route { r.form = true; return r }

func (r Route) sameSite() Route { r.private = true; return r }

// At returns the route's path under a mount and a base URL.
func (r Route) At(base string, m Mount) string {
	if m == Host {
		return "/" + r.Path
	}
	return base + string(m) + r.Path
}

// metricsPath is the route with a token of its own.
const metricsPath = "metrics"

// Routes returns the route table: everything that the server answers with
// anything but 404 or 405 is in it. A trailing slash is accepted everywhere.
// Each path also answers OPTIONS, as the last rows say.
func Routes() []Route {
	const get, post, patch, del = http.MethodGet, http.MethodPost, http.MethodPatch, http.MethodDelete
	table := []Route{
		row(get, "api", auth.Public, everywhere, "Version, as a jupyter_server tells it", (*Server).getVersion),
		row(get, "api/me", auth.API, everywhere, "Who the caller is and what it may do", (*Server).getMe),
		row(patch, "api/me", auth.API, everywhere, "Change the caller's color", (*Server).patchMe),
		row(get, "api/status", auth.API, everywhere, "Activity of the workspace", (*Server).getStatus),

		row(get, "api/kernelspecs", auth.API, everywhere, "Kernelspecs of the image", (*Server).listKernelspecs),
		row(get, "api/kernelspecs/:name", auth.API, everywhere, "One kernelspec", (*Server).getKernelspec),
		row(get, "kernelspecs/:name/:file", auth.API, everywhere, "Logo of a kernelspec", (*Server).getKernelspecFile),
		row(http.MethodHead, "kernelspecs/:name/:file", auth.API, everywhere, "Logo of a kernelspec, headers only", (*Server).getKernelspecFile),

		row(get, "api/kernels", auth.API, everywhere, "Kernels of the workspace", (*Server).listKernels),
		row(post, "api/kernels", auth.API, everywhere, "Start a kernel", (*Server).startKernel),
		row(get, "api/kernels/:id", auth.API, everywhere, "One kernel", (*Server).getKernel),
		row(del, "api/kernels/:id", auth.API, everywhere, "Shut a kernel down", (*Server).deleteKernel),
		row(post, "api/kernels/:id/interrupt", auth.API, everywhere, "Interrupt a kernel", (*Server).interruptKernel),
		row(post, "api/kernels/:id/restart", auth.API, everywhere, "Restart a kernel", (*Server).restartKernel),
		row(get, "api/kernels/:id/channels", auth.Socket, everywhere, "WebSocket to a kernel", (*Server).channels),

		row(get, "api/sessions", auth.API, everywhere, "Sessions of the workspace", (*Server).listSessions),
		row(post, "api/sessions", auth.API, everywhere, "Open a session", (*Server).createSession),
		row(get, "api/sessions/:id", auth.API, everywhere, "One session", (*Server).getSession),
		row(patch, "api/sessions/:id", auth.API, everywhere, "Rename a session or change its kernel", (*Server).patchSession),
		row(del, "api/sessions/:id", auth.API, everywhere, "End a session and its kernel", (*Server).deleteSession),

		row(get, "api/terminals", auth.API, everywhere, "Terminals of the workspace", (*Server).listTerminals),
		row(post, "api/terminals", auth.API, everywhere, "Start a terminal", (*Server).startTerminal),
		row(get, "api/terminals/:name", auth.API, everywhere, "One terminal", (*Server).getTerminal),
		row(del, "api/terminals/:name", auth.API, everywhere, "End a terminal and its processes", (*Server).deleteTerminal),
		row(get, "terminals/websocket/:name", auth.Socket, everywhere, "WebSocket to a terminal", (*Server).terminalSocket),

		row(post, "api/shutdown", auth.API, browsers, "Stop the server: for the single-user owner only", (*Server).postShutdown),
		row(post, "api/security/csp-report", auth.Public, browsers, "Takes reports of browsers and drops them", (*Server).postCSPReport),

		row(get, "v1/capabilities", auth.API, baseOnly, "The caller's capabilities, without their secrets", (*Server).listCapabilities),
		row(post, "v1/capabilities", auth.API, baseOnly, "Make a capability for one workspace; only this answer has its secret, in path and url. "+
			"nbclient lower-cases its base URL and replaces each http in it: a server whose own base URL has capitals or http does not work with it", (*Server).createCapability),
		row(del, "v1/capabilities/:id", auth.API, baseOnly, "Revoke a capability", (*Server).deleteCapability),

		row(get, "api/events/subscribe", auth.Socket, everywhere, "WebSocket of what happens in the workspace", (*Server).subscribeEvents),
		row(post, "api/events", auth.API, everywhere, "Tell an event to the workspace", (*Server).postEvent),
		row(get, "api/resolvePath", auth.API, everywhere, "The file that a path in an output means: ?path=PATH&kernel=ID", (*Server).resolvePath),

		row(get, "", auth.Page, browsers, "To JupyterLab, or to connect where it is not installed", (*Server).getDefault),
		row(get, "", auth.Page, []Mount{Capability}, "As connect", (*Server).connectPage),
		row(get, "", auth.Public, []Mount{Host}, "To the base URL, where that is not / itself", (*Server).getRoot),
		row(get, "login", auth.Public, browsers, "Login form", (*Server).getLogin),
		row(post, "login", auth.Public, browsers, "Log in with a token as the password", (*Server).postLogin),
		row(get, "logout", auth.Public, browsers, "Log out", (*Server).getLogout),
		row(get, "favicon.ico", auth.Public, baseOnly, "Icon", (*Server).getFavicon),
		row(get, "robots.txt", auth.Public, []Mount{Host}, "Keeps crawlers out", (*Server).getRobots),

		row(get, "healthz", auth.Public, probes, "200 while the process serves", (*Server).getHealth),
		row(http.MethodHead, "healthz", auth.Public, probes, "As GET, headers only", (*Server).getHealth),
		row(get, "readyz", auth.Public, probes, "200 when kernels are adopted and the server is not draining, else 503", (*Server).getReady),
		row(http.MethodHead, "readyz", auth.Public, probes, "As GET, headers only", (*Server).getReady),
		row(get, metricsPath, auth.API, probes, "Prometheus metrics: for the metrics token and the single-user owner; public if so configured", (*Server).getMetrics),
	}
	for _, more := range [][]Route{
		fileRoutes(), convertRoutes(), policyRoutes(), secretRoutes(), outputRoutes(), logRoutes(), frontendRoutes(), homeRoutes(), executeRoutes(),
		profileRoutes(),
	} {
		table = append(table, more...)
	}
	return append(table, preflights(table)...)
}

// preflights returns the OPTIONS rows: one for each path, with the mounts of
// all its methods.
func preflights(table []Route) []Route {
	var rows []Route
	for _, r := range table {
		i := slices.IndexFunc(rows, func(p Route) bool { return p.Path == r.Path })
		if i < 0 {
			rows = append(rows, Route{
				Method: http.MethodOptions, Path: r.Path, Access: auth.Public, Mounts: slices.Clone(r.Mounts),
				Doc: "CORS preflight", handle: (*Server).preflight,
			})
			continue
		}
		for _, m := range r.Mounts {
			if !slices.Contains(rows[i].Mounts, m) {
				rows[i].Mounts = append(rows[i].Mounts, m)
			}
		}
	}
	return rows
}

// RoutesDoc returns the route table as the Markdown of docs/routes.md.
func RoutesDoc() string {
	var b strings.Builder
	b.WriteString(`# Routes

Made from the route table (kernelgw/routes.go) by ` + "`go test ./kernelgw -run TestRoutesDoc -update`" + `; a test fails when it is stale.

Paths are relative to a mount. Mounts: **default** is the base URL, for the caller's default workspace; **workspace** is
` + "`w/NAME/`" + ` below it; **capability** is ` + "`t/SECRET/`" + ` below it; **host** is the root of the host, whatever the base URL.
A trailing slash is accepted everywhere, unknown query keys are ignored, and every path also answers OPTIONS (CORS preflight).

Access: **public** is served to anyone; without valid credentials, **api** answers 403 with a JSON body, **page** redirects
to the login page, **socket** answers 403 before the upgrade. **Admin** is for who runs the
server: the holder of the admin token and the single-user owner; it answers 403 without credentials and 404 to a user. Another user's workspace, kernel or session answers 404.
**Same site**: a page of another site may not even read it with the user's cookie. **Form**: the form repeats the XSRF cookie.
**Streams**: bodies are not bounded by the 1 MiB of others, and may take long as long as they move.

| Method | Path | Access | Mounts | What |
|---|---|---|---|---|
`)
	names := map[Mount]string{Default: "default", Workspace: "workspace", Capability: "capability", Host: "host"}
	for _, r := range Routes() {
		if r.Method == http.MethodOptions {
			continue
		}
		mounts := make([]string, len(r.Mounts))
		for i, m := range r.Mounts {
			mounts[i] = names[m]
		}
		b.WriteString("| " + strings.Join([]string{
			r.Method, "`/" + r.Path + "`", strings.Join(append([]string{string(r.Access)}, r.traits()...), ", "), strings.Join(mounts, ", "), r.Doc,
		}, " | ") + " |\n")
	}
	return b.String()
}
