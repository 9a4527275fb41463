package kernelgw

import (
	"errors"
	"net/http"

	"kernelgw/auth"
)

// login makes a login for a caller and gives it to the browser.
func (s *Server) login(c *call, who auth.Principal) error {
	secret, err := s.o.Users.Login(c.Request().Context(), who)
	if err != nil {
		return err
	}
	s.setLogin(c, secret)
	s.ensureXSRF(c)
	return nil
}

// cookieOnly returns the context of a request with only its login cookie as
// credentials.
func (s *Server) cookieOnly(c *call) auth.Credentials {
	k, err := c.Request().Cookie(cookieName(c.Request(), s.base, c.secure))
	if err != nil {
		return auth.Credentials{}
	}
	return auth.Credentials{Cookie: k.Value}
}

func (s *Server) getLogin(c *call) error {
	next := s.next(c)
	r := c.Request()
	if credentials := s.cookieOnly(c); !credentials.Empty() {
		if _, err := s.o.Users.Authenticate(auth.WithCredentials(r.Context(), credentials), r); err == nil {
			s.ensureXSRF(c)
			return c.Redirect(http.StatusFound, next)
		}
	}
	return s.loginPage(c, http.StatusOK, next, s.ensureXSRF(c), "")
}

// postLogin takes a token as the password, as jupyter_server does. VS Code
// needs exactly 302, and the session as the first cookie.
func (s *Server) postLogin(c *call) error {
	r := c.Request()
	if !s.trusted.Allow(r, c.secure) || auth.CrossSite(r) {
		return forbidden("Cross-site logins are not allowed")
	}
	if err := s.readForm(c); err != nil {
		return err
	}
	form := c.form
	if !auth.XSRFRepeated(r, form.Get("_xsrf")) {
		return forbidden("'_xsrf' argument missing from POST")
	}
	next := s.next(c)
	if n := form.Get("next"); n != "" {
		next = auth.SafeNext(s.base, n)
	}
	var credentials auth.Credentials
	if password := form.Get("password"); password != "" {
		credentials.Tokens = []string{password}
	}
	who, err := s.o.Users.Authenticate(auth.WithCredentials(r.Context(), credentials), r)
	switch {
	case errors.Is(err, auth.ErrDenied), errors.Is(err, auth.ErrNoCredentials):
		s.o.Metrics.AuthFailures.WithLabelValues(string(auth.Page)).Inc()
		return s.loginPage(c, http.StatusUnauthorized, next, s.ensureXSRF(c), "Invalid credentials")
	case err != nil:
		return err
	}
	// What the browser was logged in as before ends here.
	if old := s.cookieOnly(c); old.Cookie != "" {
		if err := s.o.Users.Logout(r.Context(), old.Cookie); err != nil {
			return err
		}
	}
	if err := s.login(c, who); err != nil {
		return err
	}
	return c.Redirect(http.StatusFound, next)
}

// getLogout ends the browser's login, and with it the WebSockets that it
// opened. Another site cannot make a browser do that.
func (s *Server) getLogout(c *call) error {
	if auth.CrossSite(c.Request()) {
		return forbidden("Cross-site logouts are not allowed")
	}
	if credentials := s.cookieOnly(c); credentials.Cookie != "" {
		if err := s.o.Users.Logout(c.Request().Context(), credentials.Cookie); err != nil {
			return err
		}
	}
	s.clearLogin(c)
	return s.loggedOutPage(c)
}

// next is where the browser goes after a login: what it asked for, if that is
// ours.
func (s *Server) next(c *call) string {
	if n := c.QueryParam("next"); n != "" {
		return auth.SafeNext(s.base, n)
	}
	return c.base
}
