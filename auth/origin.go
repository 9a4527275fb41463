package auth

import (
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
)

// Origins are the other origins whose pages may call the server. The zero
// value allows none.
type Origins struct{ allowed []string }

// NewOrigins returns the origins of a fixed list such as "https://vscode.dev".
// There are no patterns: an unanchored one let trusted.example.com.evil.com in
// (CVE-2026-40110).
func NewOrigins(list []string) (Origins, error) {
	var o Origins
	for _, s := range list {
		n, ok := normalOrigin(s)
		if !ok {
			return Origins{}, fmt.Errorf("%q is no origin: write scheme://host or scheme://host:port, without a path or wildcard", s)
		}
		o.allowed = append(o.allowed, n)
	}
	return o, nil
}

// Listed returns the request's origin if the list holds it, else "".
func (o Origins) Listed(r *http.Request) string {
	values := r.Header.Values("Origin")
	if len(values) != 1 {
		return ""
	}
	if n, ok := normalOrigin(values[0]); ok && slices.Contains(o.allowed, n) {
		return values[0]
	}
	return ""
}

// Allow reports whether a request that a browser may have made without its
// user's doing comes from the server's own pages or from the list: it has no
// Origin, or one that names the request's host and port exactly. secure says
// that the client speaks TLS to us; its pages then do too.
func (o Origins) Allow(r *http.Request, secure bool) bool {
	values := r.Header.Values("Origin")
	if len(values) == 0 {
		return true
	}
	if len(values) > 1 {
		return false
	}
	if o.Listed(r) != "" {
		return true
	}
	n, ok := normalOrigin(values[0])
	if !ok {
		return false
	}
	scheme, host, _ := strings.Cut(n, "://")
	if secure && scheme != "https" {
		return false
	}
	own, ok := normalOrigin(scheme + "://" + r.Host)
	return ok && own == scheme+"://"+host
}

// normalOrigin returns the scheme, host and port of a web origin in lower case,
// without a default port, and whether s is one and nothing else.
func normalOrigin(s string) (string, bool) {
	u, err := url.Parse(s)
	if err != nil || u.Hostname() == "" || u.User != nil || u.Path != "" || u.RawQuery != "" || u.ForceQuery ||
		strings.ContainsAny(s, "#*\\ ") {
		return "", false
	}
	port := u.Port()
	switch {
	case u.Scheme != "http" && u.Scheme != "https":
		return "", false
	case u.Scheme == "http" && port == "80", u.Scheme == "https" && port == "443":
		port = ""
	}
	host := strings.ToLower(u.Hostname())
	if strings.Contains(host, ":") {
		host = "[" + host + "]"
	}
	if port != "" {
		host += ":" + port
	}
	return u.Scheme + "://" + host, true
}

// Navigation reports whether a browser asks for a page to show it. Old browsers,
// and all on plain HTTP, are known by what they accept.
func Navigation(r *http.Request) bool {
	if mode := r.Header.Get("Sec-Fetch-Mode"); mode != "" {
		return mode == "navigate"
	}
	for _, line := range r.Header.Values("Accept") {
		for one := range strings.SplitSeq(line, ",") {
			media, _, _ := strings.Cut(one, ";")
			if strings.EqualFold(strings.TrimSpace(media), "text/html") {
				return true
			}
		}
	}
	return false
}

// CrossSite reports whether the browser says that another site's page made the
// request. Sec-Fetch-Mode does not count: "no-cors" says nothing about the site
// (CVE-2026-40864).
func CrossSite(r *http.Request) bool {
	switch r.Header.Get("Sec-Fetch-Site") {
	case "", "same-origin", "none":
		return false
	}
	return true
}
