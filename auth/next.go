package auth

import (
	"net/url"
	"path"
	"strings"
)

// SafeNext returns where to go after a login: next, if it is a path of this
// server under base (which ends with a slash), and base otherwise. A token in
// its query is dropped. What browsers read differently from Go is refused
// rather than repaired.
func SafeNext(base, next string) string {
	if !strings.HasPrefix(next, "/") || strings.HasPrefix(next, "//") || strings.Contains(next, "\\") || !visible(next) {
		return base
	}
	u, err := url.Parse(next)
	if err != nil || u.Scheme != "" || u.Host != "" || u.User != nil || u.Opaque != "" {
		return base
	}
	// A decoded path decides: %2f%2f and %5c are no way around, nor is "..".
	if strings.HasPrefix(u.Path, "//") || strings.Contains(u.Path, "\\") || hasControl(u.Path) {
		return base
	}
	if !strings.HasPrefix(path.Clean(u.Path)+"/", base) {
		return base
	}
	safe := u.EscapedPath()
	if q := WithoutToken(u.RawQuery); q != "" {
		safe += "?" + q
	}
	return safe
}

// WithoutToken returns a raw query without its token parameters; the others
// stay as they were written.
func WithoutToken(rawQuery string) string {
	var kept []string
	for part := range strings.SplitSeq(rawQuery, "&") {
		key, _, _ := strings.Cut(part, "=")
		if name, err := url.QueryUnescape(key); part == "" || (err == nil && name == "token") {
			continue
		}
		kept = append(kept, part)
	}
	return strings.Join(kept, "&")
}

// visible reports whether s is visible ASCII only, as a well-formed URL is.
func visible(s string) bool {
	return !strings.ContainsFunc(s, func(r rune) bool { return r <= 0x20 || r >= 0x7f })
}

func hasControl(s string) bool {
	return strings.ContainsFunc(s, func(r rune) bool { return r < 0x20 || r == 0x7f })
}
