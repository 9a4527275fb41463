package kernelgw

import (
	"net/http"
	"strings"

	"kernelgw/auth"
)

// cookieName returns the name of the login cookie. Cookies know no ports, so the
// host and port are in the name, as in jupyter_server: two servers on localhost
// must not log each other's users out.
func cookieName(r *http.Request, base string, secure bool) string {
	host := strings.Map(func(c rune) rune {
		if (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') {
			return c
		}
		return '-'
	}, strings.ToLower(r.Host))
	name := "kernelgw-" + host[:min(len(host), 100)]
	if secure && base == "/" {
		// Browsers take such a cookie only from this host itself, not from a
		// sibling domain.
		name = "__Host-" + name
	}
	return name
}

// setLogin gives the browser a login. It must be the first cookie of an answer:
// VS Code takes the first for the session.
func (s *Server) setLogin(c *call, secret string) {
	http.SetCookie(c.Response(), &http.Cookie{
		Name: cookieName(c.Request(), s.base, c.secure), Value: secret, Path: s.base,
		MaxAge: int(auth.LoginLifetime.Seconds()), HttpOnly: true, Secure: c.secure, SameSite: http.SameSiteLaxMode,
	})
}

// ensureXSRF gives the browser an XSRF cookie if it has none, and returns its
// value.
func (s *Server) ensureXSRF(c *call) string {
	if k, err := c.Request().Cookie(auth.XSRFCookie); err == nil && k.Value != "" {
		return k.Value
	}
	value := auth.NewSecret()
	http.SetCookie(c.Response(), &http.Cookie{
		Name: auth.XSRFCookie, Value: value, Path: s.base,
		MaxAge: int(auth.LoginLifetime.Seconds()), Secure: c.secure, SameSite: http.SameSiteLaxMode,
	})
	return value
}

// clearLogin makes the browser forget its login.
func (s *Server) clearLogin(c *call) {
	http.SetCookie(c.Response(), &http.Cookie{
		Name: cookieName(c.Request(), s.base, c.secure), Path: s.base,
		MaxAge: -1, HttpOnly: true, Secure: c.secure, SameSite: http.SameSiteLaxMode,
	})
}
