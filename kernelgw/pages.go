package kernelgw

import (
	"bytes"
	"embed"
	"fmt"
	"html/template"
	"net/http"
	"regexp"
	"strings"

	"kernelgw/auth"
)

//go:embed pages
var pageFiles embed.FS

var pages = template.Must(template.ParseFS(pageFiles, "pages/*.html"))

// validHost is what we repeat of a Host header in a page.
var validHost = regexp.MustCompile(`^([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(:[0-9]{1,5})?$`)

// origin is how the client reached us, as scheme://host:port.
func (s *Server) origin(c *call) string {
	host := c.Request().Host
	if !validHost.MatchString(host) {
		host = "localhost"
	}
	if c.secure {
		return "https://" + host
	}
	return "http://" + host
}

// connectPage tells how to connect each client. It never shows a token.
func (s *Server) connectPage(c *call) error {
	origin := s.origin(c)
	return s.page(c, http.StatusOK, "connect.html", map[string]any{
		"User": c.who.DisplayName, "Workspace": c.workspace, "Workspaces": c.who.Workspaces,
		"URL": origin + c.base, "Socket": "ws" + strings.TrimPrefix(origin, "http") + c.base, "Base": s.base,
		"Lab": s.o.Frontend != nil && c.who.Method != auth.MethodCapability, "Mount": c.base, "Missing": s.missing(c),
		"Capabilities": origin + s.base + "v1/capabilities", "Root": origin + s.base,
	})
}

// missing says why there is no JupyterLab in the browser, to who can mend it.
func (s *Server) missing(c *call) string {
	if s.o.Frontend != nil || !c.who.Owner {
		return ""
	}
	return s.o.FrontendMissing
}

func (s *Server) loginPage(c *call, status int, next, xsrf, problem string) error {
	return s.page(c, status, "login.html", map[string]any{
		"Action": c.base + "login", "Next": next, "XSRF": xsrf, "Problem": problem,
	})
}

func (s *Server) loggedOutPage(c *call) error {
	return s.page(c, http.StatusOK, "logout.html", map[string]any{"Login": c.base + "login"})
}

func (s *Server) page(c *call, status int, name string, data any) error {
	var b bytes.Buffer
	if err := pages.ExecuteTemplate(&b, name, data); err != nil {
		return fmt.Errorf("cannot write page %s: %w", name, err)
	}
	// Our own pages have neither scripts nor anything from elsewhere.
	c.Response().Header().Set("Content-Security-Policy", s.csp+
		"; default-src 'none'; style-src 'unsafe-inline'; img-src 'self'; form-action 'self'; base-uri 'none'")
	return c.HTMLBlob(status, b.Bytes())
}

func (s *Server) getFavicon(c *call) error {
	icon, err := pageFiles.ReadFile("pages/favicon.svg")
	if err != nil {
		return fmt.Errorf("cannot read the icon: %w", err)
	}
	c.Response().Header().Set("Cache-Control", "public, max-age=86400")
	return c.Blob(http.StatusOK, "image/svg+xml", icon)
}

// getRoot sends whoever opens the bare host to where everything is.
func (s *Server) getRoot(c *call) error {
	target := s.base
	if q := c.Request().URL.RawQuery; q != "" {
		target += "?" + q // a token, too: it becomes a login there
	}
	return c.Redirect(http.StatusFound, target)
}

func (s *Server) getRobots(c *call) error {
	return c.String(http.StatusOK, "User-agent: *\nDisallow: /\n")
}
