package kernelgw

import (
	"errors"
	"net/http"
	"net/url"
	"strings"

	"github.com/labstack/echo/v4"

	"kernelgw/auth"
)

// call is one request on its way through a route.
type call struct {
	echo.Context
	base      string         // of the mount, with a slash at the end
	who       auth.Principal // zero on public routes
	page      string         // the path of the page, escaped, as it should be asked for
	workspace string         // "" on public routes
	secure    bool           // the client speaks TLS
	named     bool           // the path names the workspace, wherever it is mounted
	body      []byte         // all of it, of routes that are not public and do not stream
	form      url.Values     // of routes that take one
}

// guard returns the handler of a route under a mount: it finds out who calls,
// whether a browser was tricked into calling, and for which workspace, and only
// then calls the route's own.
func (s *Server) guard(route Route, m Mount) echo.HandlerFunc {
	return func(ec echo.Context) error {
		ec.Set(matched, trimmed(route.At(s.base, m)))
		c := &call{Context: ec, base: s.base, secure: s.secure(ec.Request()), named: strings.Contains(route.Path, ":workspace")}
		if route.Access == auth.Page && ec.Request().Method == http.MethodGet && auth.Navigation(ec.Request()) {
			ec.Set(shown, c)
		}
		credentials := auth.ReadCredentials(ec.Request(), cookieName(ec.Request(), s.base, c.secure))
		switch m {
		case Workspace:
			c.base += "w/" + url.PathEscape(c.pathParam("workspace")) + "/"
		case Capability:
			credentials.Capability = c.pathParam("capability")
			c.base += "t/" + url.PathEscape(credentials.Capability) + "/"
		}
		if c.page = ec.Request().URL.EscapedPath(); route.Path == "" {
			c.page = c.base
		}
		s.allowOrigin(c, s.origins.Listed(ec.Request()) != "")
		if route.streams {
			s.stream(c)
		}
		if route.Access == auth.Public || s.operators(route, credentials) {
			return route.handle(s, c)
		}

		r := ec.Request()
		who, err := s.o.Users.Authenticate(auth.WithCredentials(r.Context(), credentials), r)
		if err != nil {
			return s.refuse(c, route, m, err)
		}
		c.who = who
		if who.Owner {
			ec.Set(owner, true)
		}
		if route.form {
			if err := s.readForm(c); err != nil {
				return err
			}
		}
		if who.Method == auth.MethodCookie || who.Method == auth.MethodBasic {
			if err := s.notTricked(c, route); err != nil {
				s.o.Metrics.AuthFailures.WithLabelValues(string(route.Access)).Inc()
				return err
			}
		} else {
			s.allowOrigin(c, true)
		}
		if route.Access == auth.Admin && !who.Owner {
			return notFound("Not Found")
		}
		if c.workspace, err = workspaceOf(c, m); err != nil {
			return err
		}
		if route.Access == auth.Page && m != Capability {
			if done, err := s.enterPage(c, credentials); done || err != nil {
				return err
			}
		}
		if route.Access != auth.Socket && !route.streams && !route.form {
			if c.body, err = s.readBody(c); err != nil {
				return err
			}
		}
		return route.handle(s, c)
	}
}

// workspaceOf returns the workspace that a call is for. One that is not the
// caller's is answered like one that does not exist.
func workspaceOf(c *call, m Mount) (string, error) {
	if m == Workspace || c.named {
		if w := c.pathParam("workspace"); c.who.Member(w) {
			return w, nil
		}
		return "", notFound("Not Found")
	}
	if len(c.who.Workspaces) == 0 {
		return "", notFound("Not Found")
	}
	return c.who.Workspaces[0], nil
}

// refuse answers a request whose caller is unknown.
func (s *Server) refuse(c *call, route Route, m Mount, err error) error {
	if !errors.Is(err, auth.ErrNoCredentials) && !errors.Is(err, auth.ErrDenied) {
		s.o.Log.Error("cannot check credentials", "route", c.Path(), "error", err)
		return &httpError{status: http.StatusServiceUnavailable, message: "Credentials cannot be checked now; try again", retryAfter: 2}
	}
	s.o.Metrics.AuthFailures.WithLabelValues(string(route.Access)).Inc()
	r := c.Request()
	if route.Access != auth.Page || (r.Method != http.MethodGet && r.Method != http.MethodHead) {
		return forbidden("Forbidden")
	}
	base, next := c.base, c.page
	if r.URL.RawQuery != "" {
		next += "?" + r.URL.RawQuery
	}
	if m == Capability {
		// A wrong secret in the path is no place to come back to.
		base, next = s.base, s.base
	}
	c.Response().Header().Set("Cache-Control", "no-store")
	return c.Redirect(http.StatusFound, base+"login?next="+url.QueryEscape(auth.SafeNext(s.base, next)))
}

// notTricked refuses what a browser sends with its cookie, or with the password
// for Basic that it remembers, although no page of ours asked for it (contract
// section 1.4 and 1.5). The programs that use Basic send no Origin and know no
// XSRF cookie.
func (s *Server) notTricked(c *call, route Route) error {
	r := c.Request()
	reads := (r.Method == http.MethodGet || r.Method == http.MethodHead) && route.Access != auth.Socket
	basic := c.who.Method == auth.MethodBasic
	if basic && reads && !route.private {
		return nil
	}
	if !s.trusted.Allow(r, c.secure) {
		if route.Access == auth.API {
			return notFound("Not Found")
		}
		return forbidden("Cross-origin requests are not allowed")
	}
	if (route.Access != auth.Page || route.private || !reads) && auth.CrossSite(r) && s.trusted.Listed(r) == "" {
		return forbidden("Cross-site requests are not allowed")
	}
	if basic || reads || route.Access == auth.Socket {
		return nil
	}
	if !auth.XSRFRepeated(r, c.form.Get("_xsrf")) {
		return forbidden("'_xsrf' argument missing from " + r.Method)
	}
	return nil
}

// enterPage turns a token in a page's URL into a login, and sends the browser
// to the same page without it: URLs end up in histories and Referer headers.
// A script, which would not keep the login, gets the page at once.
func (s *Server) enterPage(c *call, credentials auth.Credentials) (done bool, err error) {
	r := c.Request()
	if !r.URL.Query().Has("token") {
		s.ensureXSRF(c)
		return false, nil
	}
	target := c.page
	if q := auth.WithoutToken(r.URL.RawQuery); q != "" {
		target += "?" + q
	}
	target = auth.SafeNext(s.base, target)
	if c.who.Method == auth.MethodToken {
		if !auth.Navigation(r) {
			return false, nil
		}
		before, loggedIn := s.loggedInAs(c, credentials.Cookie)
		same := loggedIn && before.Issuer == c.who.Issuer && before.Subject == c.who.Subject
		switch {
		case loggedIn && !same && auth.CrossSite(r):
			// The link may be an attacker's, with a token of its own: what its
			// victim does next would happen in the attacker's workspace.
			return true, s.loginPage(c, http.StatusForbidden, target, s.ensureXSRF(c),
				"You are logged in as "+before.DisplayName+". A link on another site would log you in as somebody else. "+
					"If you want that, enter that user's token here.")
		case !same:
			if err := s.login(c, c.who); err != nil {
				return false, err
			}
		}
	}
	return true, c.Redirect(http.StatusFound, target)
}

// loggedInAs returns whose a login cookie is, if it is valid.
func (s *Server) loggedInAs(c *call, cookie string) (auth.Principal, bool) {
	if cookie == "" {
		return auth.Principal{}, false
	}
	r := c.Request()
	p, err := s.o.Users.Authenticate(auth.WithCredentials(r.Context(), auth.Credentials{Cookie: cookie}), r)
	return p, err == nil
}
