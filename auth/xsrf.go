package auth

import (
	"crypto/rand"
	"crypto/subtle"
	"encoding/hex"
	"net/http"
)

// XSRFCookie is the cookie that a page must repeat on every change that a login
// cookie authenticates. JupyterLab and VS Code know it by this name.
const XSRFCookie = "_xsrf"

// NewSecret returns 256 random bits as lower-case hex.
func NewSecret() string {
	var b [32]byte
	rand.Read(b[:]) // never fails
	return hex.EncodeToString(b[:])
}

// XSRFRepeated reports whether the request repeats its XSRF cookie in the
// X-XSRFToken header, or in the form or query, as only a page of ours can. A
// sibling domain may set cookies, too: what it sends is recognised by
// Origins.Allow and CrossSite.
func XSRFRepeated(r *http.Request, form string) bool {
	cookie, err := r.Cookie(XSRFCookie)
	if err != nil || cookie.Value == "" {
		return false
	}
	for _, given := range []string{r.Header.Get("X-XSRFToken"), form, r.URL.Query().Get("_xsrf")} {
		if given != "" {
			return subtle.ConstantTimeCompare([]byte(given), []byte(cookie.Value)) == 1
		}
	}
	return false
}
