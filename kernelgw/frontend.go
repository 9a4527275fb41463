package kernelgw

import (
	"net/http"

	"kernelgw/auth"
	frontend "kernelgw/frontend-config"
)

// frontendRoutes are JupyterLab and Notebook 7 in the browser.
func frontendRoutes() []Route {
	const get, head, put, post, patch, del = http.MethodGet, http.MethodHead, http.MethodPut, http.MethodPost, http.MethodPatch, http.MethodDelete
	page := func(path, doc string, handle frontendHandler) Route {
		return row(get, path, auth.Page, browsers, doc, frontendPage(handle))
	}
	static := func(method, path, doc string, handle frontendHandler) Route {
		return row(method, path, auth.Public, browsers, doc, frontendStatic(handle))
	}
	api := func(method, path, doc string, handle frontendHandler) Route {
		return row(method, path, auth.API, browsers, doc, frontendAPI(handle)).streaming()
	}
	return []Route{
		page("lab", "JupyterLab", (*frontend.Frontend).Lab),
		page("lab/*", "JupyterLab at a path or with a layout", (*frontend.Frontend).Lab),
		page("doc", "JupyterLab with a single document", (*frontend.Frontend).Doc),
		page("doc/*", "As doc", (*frontend.Frontend).Doc),
		page("tree", "Notebook 7: the file browser", (*frontend.Frontend).Tree),
		page("tree/*", "Notebook 7: a directory", (*frontend.Frontend).Tree),
		page("notebooks/*", "Notebook 7: a notebook", (*frontend.Frontend).Notebooks),
		page("edit/*", "Notebook 7: a text file", (*frontend.Frontend).Edit),
		page("consoles/*", "Notebook 7: a console", (*frontend.Frontend).Consoles),
		page("terminals/*", "Notebook 7: a terminal", (*frontend.Frontend).Terminals),

		static(get, "static/*", "Scripts and styles of the pages", (*frontend.Frontend).Static),
		static(head, "static/*", "As GET, headers only", (*frontend.Frontend).Static),
		static(get, "lab/extensions/*", "Extensions of JupyterLab", (*frontend.Frontend).LabExtension),
		static(head, "lab/extensions/*", "As GET, headers only", (*frontend.Frontend).LabExtension),
		static(get, "lab/api/themes/*", "Themes of JupyterLab", (*frontend.Frontend).Theme),
		static(head, "lab/api/themes/*", "As GET, headers only", (*frontend.Frontend).Theme),
		static(get, "custom/custom.css", "The operator's own style", (*frontend.Frontend).CustomCSS),
		static(head, "custom/custom.css", "As GET, headers only", (*frontend.Frontend).CustomCSS),

		api(get, "lab/api/settings", "Settings of all plugins, as the caller has them", (*frontend.Frontend).ListSettings),
		api(get, "lab/api/settings/*", "Settings of one plugin", (*frontend.Frontend).GetSetting),
		api(put, "lab/api/settings/*", "Change settings", (*frontend.Frontend).PutSetting),
		api(get, "lab/api/workspaces", "The caller's layouts", (*frontend.Frontend).ListWorkspaces),
		api(get, "lab/api/workspaces/*", "One layout", (*frontend.Frontend).GetWorkspace),
		api(put, "lab/api/workspaces/*", "Save a layout", (*frontend.Frontend).PutWorkspace),
		api(del, "lab/api/workspaces/*", "Forget a layout", (*frontend.Frontend).DeleteWorkspace),
		api(get, "lab/api/translations", "Languages", (*frontend.Frontend).ListTranslations),
		api(get, "lab/api/translations/*", "One language", (*frontend.Frontend).GetTranslation),
		api(get, "lab/api/licenses", "Licences of what the pages are made of", (*frontend.Frontend).Licenses),
		api(get, "lab/api/build", "Nothing to build", (*frontend.Frontend).Build),
		api(get, "lab/api/news", "No news", (*frontend.Frontend).News),
		api(get, "lab/api/update", "No update", (*frontend.Frontend).Update),
		api(get, "lab/api/listings/*", "Extensions that may be installed: none", (*frontend.Frontend).Listings),
		api(get, "lab/api/extensions", "Extensions that could be installed: none", (*frontend.Frontend).Extensions),
		api(post, "lab/api/extensions", "Always 403: nothing is installed from a page", (*frontend.Frontend).ChangeExtensions),
		api(get, "lab/api/plugins", "As lab/api/extensions", (*frontend.Frontend).Extensions),
		api(post, "lab/api/plugins", "As lab/api/extensions", (*frontend.Frontend).ChangeExtensions),
		api(get, "lsp/status", "No language servers", (*frontend.Frontend).LSPStatus),
		api(get, "api/config/*", "A section of the caller's configuration", (*frontend.Frontend).GetConfig),
		api(put, "api/config/*", "Replace a section", (*frontend.Frontend).PutConfig),
		api(patch, "api/config/*", "Change a section", (*frontend.Frontend).PatchConfig),
	}
}

type frontendHandler = func(*frontend.Frontend, http.ResponseWriter, *http.Request, frontend.At) error

// at is what the front end is told about a call. The page has no token: a
// browser has its cookie.
func (c *call) at() frontend.At {
	return frontend.At{Base: c.base, User: c.owner(), Workspace: c.workspace, Path: c.pathParam("*")}
}

// frontendPage returns the route handler for a page.
func frontendPage(handle frontendHandler) func(*Server, *call) error {
	return func(s *Server, c *call) error {
		if s.o.Frontend == nil {
			// Not as an error of the gateway's: VS Code looks for these pages.
			return s.page(c, http.StatusNotFound, "missing.html", map[string]any{"Base": s.base, "Why": s.o.FrontendMissing, "Owner": c.who.Owner})
		}
		s.pageHeaders(c.Response().Header())
		return handle(s.o.Frontend, c.Response(), c.Request(), c.at())
	}
}

// frontendStatic returns the route handler for what pages load. A script of a
// worker has the policy that it is served with, so that it is that of pages.
func frontendStatic(handle frontendHandler) func(*Server, *call) error {
	return func(s *Server, c *call) error {
		if s.o.Frontend == nil {
			return notFound("Not Found")
		}
		s.pageHeaders(c.Response().Header())
		return handle(s.o.Frontend, c.Response(), c.Request(), c.at())
	}
}

// frontendAPI returns the route handler for what the pages ask.
func frontendAPI(handle frontendHandler) func(*Server, *call) error {
	return func(s *Server, c *call) error {
		if s.o.Frontend == nil {
			return notFound("Not Found")
		}
		return handle(s.o.Frontend, c.Response(), c.Request(), c.at())
	}
}

// getDefault opens JupyterLab. VS Code knows by "/lab?" that it needs no
// password.
func (s *Server) getDefault(c *call) error {
	target := c.base + "lab?" + auth.WithoutToken(c.Request().URL.RawQuery)
	if s.o.Frontend == nil {
		target = c.base + "connect"
	}
	return c.Redirect(http.StatusFound, target)
}
