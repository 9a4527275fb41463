package auth_test

import (
	"net/http"
	"net/http/httptest"
	"net/url"
	"path"
	"strings"
	"testing"

	"kernelgw/auth"
)

func TestParseAuthorization(t *testing.T) {
	for header, want := range map[string]string{
		"token abc":            "abc",
		"Token abc":            "abc",
		"TOKEN  abc ":          "abc",
		"bearer abc":           "abc",
		"Bearer abc":           "abc",
		"token ":               "", // what a gateway client without a token sends
		"token":                "",
		"":                     "",
		"Basic dXNlcjpwdw==":   "pw",
		"Basic dXNlcjpwOnc=":   "p:w",
		"Basic dXNlcg==":       "",
		"Basic !!":             "",
		"Digest username=x":    "",
		"tokenabc":             "",
		"Negotiate token abc":  "",
		"token abc def":        "abc def",
		"\ttoken abc":          "abc",
		"Bearer\u00a0abc":      "",
		"AWS4-HMAC-SHA256 a=b": "",
	} {
		got, basic := auth.ParseAuthorization(header)
		if got != want || basic != strings.HasPrefix(header, "Basic") {
			t.Errorf("ParseAuthorization(%q) = %q, %v, want %q", header, got, basic, want)
		}
	}
}

func TestReadCredentialsInTheOrderOfTheContract(t *testing.T) {
	r := httptest.NewRequest("GET", "/api?token=q&token=second", nil)
	r.Header.Set("Authorization", "Bearer h")
	r.AddCookie(&http.Cookie{Name: "login", Value: "c"})
	c := auth.ReadCredentials(r, "login")
	if len(c.Tokens) != 2 || c.Tokens[0] != "q" || c.Tokens[1] != "h" || c.Cookie != "c" {
		t.Errorf("credentials = %+v", c)
	}
	r.Header.Set("Authorization", "Basic dXNlcjpwdw==")
	if c := auth.ReadCredentials(r, "login"); len(c.Tokens) != 1 || c.Basic != "pw" || c.Cookie != "c" {
		t.Errorf("credentials = %+v", c)
	}
	r = httptest.NewRequest("GET", "/api?token=", nil)
	r.Header.Set("Authorization", "token ")
	if c := auth.ReadCredentials(r, "login"); !c.Empty() {
		t.Errorf("empty tokens count as credentials: %+v", c)
	}
}

// The open redirects of threats.md: CVE-2020-26232, 26275, CVE-2023-39968,
// CVE-2025-61669, CVE-2026-33709 and their variants.
func TestOpenRedirectsOfNext(t *testing.T) {
	for _, base := range []string{"/", "/prefix/"} {
		for _, next := range []string{
			"", "//evil", "///evil", "////evil", `/\evil`, `\\evil`, `\evil`, `/\/evil`, "https:evil", "https:/evil", "https://evil",
			"https:///evil", "HTTPS://evil", "http:evil", "javascript:alert(1)", "data:text/html,x", "//evil/prefix/",
			"/\t/evil", "/\n/evil", "/\r/evil", "\t//evil", " //evil", "/%09/evil", "/%0a/evil", "/%0d%0aSet-Cookie:x=y", "/%00",
			"/%2fevil", "/%2Fevil", "/%5cevil", "/%5Cevil", "/x\r\nLocation: //evil", "@evil", "user@evil", "//user@evil", "evil.com",
			"?next=x", "#//evil", "/\u2028/evil", "/é", "%2f%2fevil", "/prefix/../../\\evil", "/%zz",
		} {
			got := auth.SafeNext(base, next)
			if got == base {
				continue
			}
			t.Errorf("SafeNext(%q, %q) = %q, want the base", base, next, got)
		}
	}
	for _, next := range []string{"/", "/prefixevil", "/prefix/../evil", "/prefix/%2e%2e/evil", "/other"} {
		if got := auth.SafeNext("/prefix/", next); got != "/prefix/" {
			t.Errorf("SafeNext(/prefix/, %q) = %q leaves the base", next, got)
		}
	}
}

func TestNextKeepsWhatIsOurs(t *testing.T) {
	for next, want := range map[string]string{
		"/lab":                            "/lab",
		"/lab/tree/a%20b.ipynb?reset":     "/lab/tree/a%20b.ipynb?reset",
		"/lab?token=secret":               "/lab",
		"/lab?a=1&token=secret&b=2":       "/lab?a=1&b=2",
		"/lab?to%6ben=secret&x":           "/lab?x",
		"/lab/tree/%E2%82%AC.ipynb#x":     "/lab/tree/%E2%82%AC.ipynb",
		"/lab/tree/a%2Fb.ipynb":           "/lab/tree/a%2Fb.ipynb",
		"/w/team/?u=http://elsewhere/x:y": "/w/team/?u=http://elsewhere/x:y",
		"/prefix":                         "/prefix",
	} {
		if got := auth.SafeNext("/", next); got != want {
			t.Errorf("SafeNext(/, %q) = %q, want %q", next, got, want)
		}
	}
	if got := auth.SafeNext("/prefix/", "/prefix"); got != "/prefix" {
		t.Errorf("the base without its slash became %q", got)
	}
}

func FuzzSafeNext(f *testing.F) {
	for _, s := range []string{"/lab", "//evil", `/\evil`, "/%5cevil", "/a?token=x&b", "https:evil", "/prefix/../x", "/\t/x"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, next string) {
		for _, base := range []string{"/", "/prefix/"} {
			got := auth.SafeNext(base, next)
			u, err := url.Parse(got)
			if err != nil || u.Host != "" || u.Scheme != "" || u.User != nil {
				t.Fatalf("SafeNext(%q, %q) = %q leaves the server", base, next, got)
			}
			if !strings.HasPrefix(got, "/") || strings.HasPrefix(got, "//") || strings.ContainsAny(got, "\\\r\n\t \x00") {
				t.Fatalf("SafeNext(%q, %q) = %q is read differently by browsers", base, next, got)
			}
			if !strings.HasPrefix(path.Clean(u.Path)+"/", base) {
				t.Fatalf("SafeNext(%q, %q) = %q leaves the base", base, next, got)
			}
			if u.Query().Has("token") {
				t.Fatalf("SafeNext(%q, %q) = %q keeps a token", base, next, got)
			}
		}
	})
}

func FuzzParseAuthorization(f *testing.F) {
	for _, s := range []string{"token x", "Bearer x", "Basic dTpw", "token ", "Basic ===", "\x00 x"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, header string) {
		got, _ := auth.ParseAuthorization(header)
		if len(got) > len(header) {
			t.Fatalf("ParseAuthorization(%q) = %q is longer than the header", header, got)
		}
		if got != strings.TrimSpace(got) && !strings.HasPrefix(strings.ToLower(strings.TrimSpace(header)), "basic") {
			t.Fatalf("ParseAuthorization(%q) = %q keeps spaces", header, got)
		}
	})
}

func FuzzCookies(f *testing.F) {
	f.Add("login=abc; _xsrf=x", "x")
	f.Add("login=; login=b", "")
	f.Add("\x00;=;\"", "\"")
	f.Fuzz(func(t *testing.T, cookies, header string) {
		r := httptest.NewRequest("POST", "/", nil)
		r.Header["Cookie"] = []string{cookies}
		r.Header["X-Xsrftoken"] = []string{header}
		if c := auth.ReadCredentials(r, "login"); c.Cookie != "" && !strings.Contains(cookies, "login") {
			t.Fatalf("a login cookie out of %q", cookies)
		}
		if auth.XSRFRepeated(r, "") && (header == "" || !strings.Contains(cookies, "_xsrf")) {
			t.Fatalf("XSRF passed with cookies %q and header %q", cookies, header)
		}
	})
}

func originRequest(host string, origins ...string) *http.Request {
	r := httptest.NewRequest("GET", "/api/kernels", nil)
	r.Host = host
	for _, o := range origins {
		r.Header.Add("Origin", o)
	}
	return r
}

// The forgeries of threats.md (CVE-2026-40110 and its neighbours).
func TestOriginForgeries(t *testing.T) {
	origins, err := auth.NewOrigins([]string{"https://trusted.example.com", "http://localhost:3000"})
	if err != nil {
		t.Fatal(err)
	}
	for _, o := range []string{
		"https://trusted.example.com.evil.com", "https://eviltrusted.example.com", "https://trusted.example.com:8443",
		"http://trusted.example.com", "https://trusted.example.com@evil.com", "https://trusted-example.com",
		"https://trusted.example.com.", "https://trusted.example.com/", "https://trusted.example.com/x", "https://trusted.example.com#",
		"null", "", "*", "https://*", "https://", "file://", "chrome-extension://abc", "https://trusted.example.com, https://evil.com",
		"https://gateway.test.evil.com", "https://gateway.test:444", "http://gateway.test:8889", "https://evil.com\\.gateway.test",
		"http://localhost:3001", "http://localhost", "https://localhost:3000", "ws://gateway.test",
	} {
		if origins.Allow(originRequest("gateway.test", o), false) {
			t.Errorf("origin %q passed", o)
		}
		if got := origins.Listed(originRequest("gateway.test", o)); got != "" {
			t.Errorf("origin %q counts as listed", o)
		}
	}
	if origins.Allow(originRequest("gateway.test", "https://trusted.example.com", "https://evil.com"), false) {
		t.Error("two Origin headers passed")
	}
	if origins.Allow(originRequest("gateway.test", "http://gateway.test"), true) {
		t.Error("a plain-text page of the same host passed on a TLS server")
	}
}

func TestOriginsThatAreOurs(t *testing.T) {
	origins, err := auth.NewOrigins([]string{"https://trusted.example.com", "HTTPS://Upper.example.com:443"})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		host, origin string
		secure       bool
	}{
		{"gateway.test", "https://gateway.test", true},
		{"gateway.test", "https://gateway.test", false}, // behind a proxy that speaks TLS
		{"gateway.test:8888", "http://gateway.test:8888", false},
		{"gateway.test:443", "https://gateway.test", true},
		{"gateway.test", "http://gateway.test:80", false},
		{"Gateway.Test", "http://gateway.test", false},
		{"gateway.test", "HTTP://GATEWAY.TEST", false},
		{"[::1]:8888", "http://[::1]:8888", false},
		{"gateway.test", "https://trusted.example.com", true},
		{"gateway.test", "https://TRUSTED.example.com:443", true},
		{"gateway.test", "https://upper.example.com", true},
	} {
		if !origins.Allow(originRequest(c.host, c.origin), c.secure) {
			t.Errorf("origin %q on host %q was refused", c.origin, c.host)
		}
	}
	if !origins.Allow(originRequest("gateway.test"), true) {
		t.Error("a request without Origin was refused")
	}
}

func TestOriginListTakesNoPatterns(t *testing.T) {
	for _, s := range []string{"*", "https://*.example.com", "example.com", "https://example.com/path", "null", "", "ftp://x", "https://user@x"} {
		if _, err := auth.NewOrigins([]string{s}); err == nil {
			t.Errorf("NewOrigins took %q", s)
		}
	}
}

func FuzzOrigin(f *testing.F) {
	for _, s := range []string{"https://a.test", "null", "http://[::1]:1", "https://a.test@b", "https://a.test\\b"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, origin string) {
		var none auth.Origins
		r := originRequest("gateway.test:8888")
		r.Header["Origin"] = []string{origin}
		if none.Allow(r, false) && !strings.EqualFold(origin, "http://gateway.test:8888") && !strings.EqualFold(origin, "https://gateway.test:8888") {
			t.Fatalf("origin %q passed", origin)
		}
	})
}

// CVE-2026-40864: no-cors was taken for same-origin.
func TestSecFetchSiteDecidesNotMode(t *testing.T) {
	for site, want := range map[string]bool{
		"": false, "none": false, "same-origin": false, "same-site": true, "cross-site": true, "Same-Origin": true, "x": true,
	} {
		r := httptest.NewRequest("POST", "/", nil)
		r.Header.Set("Sec-Fetch-Site", site)
		r.Header.Set("Sec-Fetch-Mode", "no-cors")
		if got := auth.CrossSite(r); got != want {
			t.Errorf("Sec-Fetch-Site %q: cross-site = %v", site, got)
		}
	}
}

func TestXSRFMustBeRepeated(t *testing.T) {
	for _, c := range []struct {
		name, cookie, header, form, query string
		want                              bool
	}{
		{"nothing", "", "", "", "", false},
		{"cookie only", "x", "", "", "", false},
		{"header only", "", "x", "", "", false},
		{"header", "x", "x", "", "", true},
		{"form", "x", "", "x", "", true},
		{"query", "x", "", "", "x", true},
		{"wrong header, right form", "x", "y", "x", "", false},
		{"wrong", "x", "y", "", "", false},
		{"longer", "x", "xx", "", "", false},
	} {
		r := httptest.NewRequest("POST", "/?_xsrf="+c.query, nil)
		if c.cookie != "" {
			r.AddCookie(&http.Cookie{Name: auth.XSRFCookie, Value: c.cookie})
		}
		if c.header != "" {
			r.Header.Set("X-XSRFToken", c.header)
		}
		if got := auth.XSRFRepeated(r, c.form); got != c.want {
			t.Errorf("%s: %v", c.name, got)
		}
	}
}
