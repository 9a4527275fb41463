package kernelgw

import (
	"net/http"
	"net/netip"
	"strings"
)

// contentSecurityPolicy returns the policy of pages, in jupyter_server's words.
func contentSecurityPolicy(base string, ancestors []string) string {
	return "frame-ancestors " + strings.Join(append([]string{"'self'"}, ancestors...), " ") +
		"; report-uri " + base + "api/security/csp-report"
}

// safeHeaders sets what every answer has. Pages loosen it with pageHeaders.
func (s *Server) safeHeaders(h http.Header) {
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Content-Security-Policy", s.csp+"; default-src 'none'")
	h.Set("Referrer-Policy", "same-origin")
	h.Set("Cross-Origin-Resource-Policy", "same-origin")
	h.Set("Cache-Control", "no-store")
}

// pageHeaders sets what HTML pages have.
func (s *Server) pageHeaders(h http.Header) {
	h.Set("Content-Security-Policy", s.csp)
}

// allowOrigin lets the page of another origin read the answer, if allowed.
func (s *Server) allowOrigin(c *call, allowed bool) {
	h := c.Response().Header()
	h.Set("Vary", "Origin")
	origin := c.Request().Header.Values("Origin")
	if !allowed || len(origin) != 1 || origin[0] == "" {
		return
	}
	h.Set("Access-Control-Allow-Origin", origin[0])
	h.Set("Access-Control-Expose-Headers", "Location, Retry-After, ETag")
	if s.o.AllowCredentials && s.origins.Listed(c.Request()) != "" {
		h.Set("Access-Control-Allow-Credentials", "true")
	}
}

// preflight answers what a browser asks before a cross-origin request; the
// origin itself is only named when it is listed.
func (s *Server) preflight(c *call) error {
	h := c.Response().Header()
	h.Set("Access-Control-Allow-Headers", "accept, content-type, authorization, x-xsrftoken, if-match, if-none-match, last-event-id")
	h.Set("Access-Control-Allow-Methods", "GET, PUT, POST, PATCH, DELETE, OPTIONS")
	return c.NoContent(http.StatusOK)
}

// secure reports whether the client speaks TLS, to us or to a proxy whose word
// counts.
func (s *Server) secure(r *http.Request) bool {
	if r.TLS != nil {
		return true
	}
	peer, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		return false
	}
	for _, p := range s.o.TrustedProxies {
		if p.Contains(peer.Addr().Unmap()) {
			// Each proxy appends; the last value is from the one that we trust.
			values := r.Header.Values("X-Forwarded-Proto")
			if len(values) == 0 {
				return false
			}
			all := strings.Split(values[len(values)-1], ",")
			return strings.EqualFold(strings.TrimSpace(all[len(all)-1]), "https")
		}
	}
	return false
}
