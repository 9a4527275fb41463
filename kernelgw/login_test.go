package kernelgw_test

import (
	"encoding/base64"
	"html"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"testing"

	"kernelgw/kernelgw"
)

// VS Code's probes of a server without a token (contract section 8).
func TestVSCodeProbesAndPasswordLogin(t *testing.T) {
	g := start(t)
	for _, page := range []string{"/lab", "/tree/a%20b.ipynb", "/w/math/tree"} {
		r := g.want(g.do("GET", page, ""), 302)
		base, _, found := strings.Cut(r.Header.Get("Location"), "login?")
		if !found || !strings.HasPrefix(page, base) {
			t.Errorf("%s redirects to %q", page, r.Header.Get("Location"))
		}
	}
	g.want(g.do("GET", "/hub/api", ""), 404)
	if l := g.want(g.do("GET", "/", ""), 302).Header.Get("Location"); !strings.HasPrefix(l, "/login?") {
		t.Errorf("/ redirects to %q", l)
	}
	if s := g.do("GET", "/tree?", "").StatusCode; s == 200 || s == 404 {
		t.Errorf("/tree? says that there is no password: %d", s)
	}

	form := g.want(g.do("GET", "/login?", ""), 200)
	xsrf := form.Cookies()[0]
	if xsrf.Name != "_xsrf" || xsrf.HttpOnly || xsrf.Path != "/" || !strings.Contains(form.body, html.EscapeString(xsrf.Value)) {
		t.Fatalf("login page set %v", form.Cookies())
	}
	post := func(password string) reply {
		return g.do("POST", "/login?", url.Values{"password": {password}, "_xsrf": {xsrf.Value}}.Encode(),
			"Cookie: _xsrf="+xsrf.Value, "Content-Type: application/x-www-form-urlencoded;charset=UTF-8")
	}
	g.want(post("wrong"), 401)
	g.want(post(""), 401)
	in := g.want(post(adaToken), 302)
	session := in.Cookies()[0]
	if session.Name == "_xsrf" || !session.HttpOnly || session.SameSite != http.SameSiteLaxMode || session.Path != "/" || session.MaxAge != 30*24*3600 {
		t.Fatalf("the first cookie is %v", session)
	}
	cookies := "Cookie: _xsrf=" + xsrf.Value + "; " + session.Name + "=" + session.Value
	header := "X-XSRFToken: " + xsrf.Value
	g.want(g.do("GET", "/api/kernels?1795502306591", "", cookies, header), 200)
	g.want(g.do("GET", "/api/kernelspecs", "", cookies, header), 200)
	g.want(g.do("POST", "/api/sessions", `{"path":"x-jvsc-1.ipynb","name":"x","type":"notebook","kernel":{"name":"python3"}}`, cookies, header), 201)
	if l := g.want(g.do("GET", "/login?next=%2Flab", "", cookies), 302).Header.Get("Location"); l != "/lab" {
		t.Errorf("a logged-in browser goes to %q", l)
	}

	out := g.want(g.do("GET", "/logout", "", cookies), 200)
	if c := out.Cookies()[0]; c.Name != session.Name || c.MaxAge >= 0 {
		t.Errorf("logout sets %v", c)
	}
	g.want(g.do("GET", "/api/kernels", "", cookies, header), 403)
}

func TestATokenInAPagesURLBecomesALogin(t *testing.T) {
	g := start(t)
	r := g.want(g.navigate("/lab/tree/a%20b.ipynb?token="+adaToken+"&reset"), 302)
	if l := r.Header.Get("Location"); l != "/lab/tree/a%20b.ipynb?reset" {
		t.Errorf("redirected to %q", l)
	}
	first := r.Header.Values("Set-Cookie")[0]
	if !strings.HasPrefix(first, "kernelgw-127-0-0-1-") || !strings.Contains(first, "; HttpOnly") || !strings.Contains(first, "; SameSite=Lax") ||
		strings.Contains(first, "Secure") {
		t.Errorf("cookie %q", first)
	}
	cookies, _ := g.login()
	page := g.want(g.do("GET", "/lab", "", "Cookie: "+cookies), 200)
	if page.Header.Get("Content-Security-Policy") != "frame-ancestors 'self'; report-uri /api/security/csp-report" {
		t.Errorf("CSP %q", page.Header.Get("Content-Security-Policy"))
	}
	// Loading the same URL again keeps the login that the browser has.
	if c := g.navigate("/?token="+adaToken, "Cookie: "+cookies).Header.Values("Set-Cookie"); len(c) != 0 {
		t.Errorf("a second login was made: %q", c)
	}
	// The API sets no cookies: clients with a token need none.
	if c := g.do("GET", "/api/kernels?token="+adaToken, "").Header.Values("Set-Cookie"); len(c) != 0 {
		t.Errorf("the API sets %q", c)
	}
	// An old token beside a valid login: the login counts, the token goes.
	old := g.want(g.do("GET", "/lab?token=old", "", "Cookie: "+cookies), 302)
	if l := old.Header.Get("Location"); l != "/lab" {
		t.Errorf("redirected to %q", l)
	}
}

// 64 requests of a script with the token would end the browser's login, and
// its WebSockets: a user has no more logins than that.
func TestScriptsWithATokenEndNoLogins(t *testing.T) {
	g := start(t)
	cookies, _ := g.login()
	g.want(g.do("GET", "/api/kernels", "", "Cookie: "+cookies), 200)
	for i := range 70 {
		r := g.want(g.do("GET", "/connect?token="+adaToken, "", "Accept: */*"), 200)
		if c := r.Header.Values("Set-Cookie"); len(c) != 0 {
			t.Fatalf("request %d of a script sets %q", i, c)
		}
	}
	for range 70 {
		g.want(g.navigate("/?token="+adaToken), 302) // and throws the cookie away
	}
	g.want(g.do("GET", "/api/kernels", "", "Cookie: "+cookies), 200)
}

func TestOnlyNavigationsMakeLogins(t *testing.T) {
	g := start(t)
	for name, c := range map[string]struct {
		headers []string
		login   bool
	}{
		"browser":             {[]string{"Accept: text/html", "Sec-Fetch-Mode: navigate", "Sec-Fetch-Site: none"}, true},
		"old browser":         {[]string{"Accept: application/xml;q=0.9, Text/HTML;level=1"}, true},
		"curl":                {[]string{"Accept: */*"}, false},
		"nothing":             {nil, false},
		"fetch of a page":     {[]string{"Accept: text/html", "Sec-Fetch-Mode: cors", "Sec-Fetch-Site: same-origin"}, false},
		"image of a page":     {[]string{"Accept: text/html", "Sec-Fetch-Mode: no-cors", "Sec-Fetch-Site: cross-site"}, false},
		"similar media types": {[]string{"Accept: text/htmlx, x-text/html, text/*"}, false},
	} {
		r := g.do("GET", "/lab?token="+adaToken, "", c.headers...)
		if got := len(r.Header.Values("Set-Cookie")) > 0; got != c.login || (r.StatusCode == 302) != c.login {
			t.Errorf("%s: %d, cookies %q", name, r.StatusCode, r.Header.Values("Set-Cookie"))
		}
	}
}

// Login CSRF: a link with the attacker's token, and the victim goes on to work
// in the attacker's workspace.
func TestALinkOfAnotherSiteDoesNotReplaceALogin(t *testing.T) {
	g := start(t)
	cookies, _ := g.login()
	for _, site := range []string{"cross-site", "same-site"} {
		r := g.want(g.navigate("/lab?reset&token="+bobToken, "Cookie: "+cookies, "Sec-Fetch-Mode: navigate", "Sec-Fetch-Site: "+site), 403)
		if c := r.Header.Values("Set-Cookie"); len(c) != 0 {
			t.Errorf("%s: sets %q", site, c)
		}
		if !strings.Contains(r.body, "as Ada Lovelace") || !strings.Contains(r.body, `value="/lab?reset"`) || strings.Contains(r.body, bobToken) {
			t.Errorf("%s: %s", site, r.body)
		}
	}
	// Where it is not another site's doing, or replaces nothing, it is a login.
	for name, headers := range map[string][]string{
		"typed":       {"Cookie: " + cookies, "Sec-Fetch-Mode: navigate", "Sec-Fetch-Site: none"},
		"dead cookie": {"Cookie: " + strings.Replace(cookies, "=", "=x", 1), "Sec-Fetch-Mode: navigate", "Sec-Fetch-Site: cross-site"},
		"no cookie":   {"Sec-Fetch-Mode: navigate", "Sec-Fetch-Site: cross-site"},
	} {
		r := g.want(g.navigate("/lab?token="+bobToken, headers...), 302)
		if c := r.Header.Values("Set-Cookie"); len(c) == 0 || !strings.HasPrefix(c[0], "kernelgw-") {
			t.Errorf("%s: sets %q", name, c)
		}
	}
	own := g.want(g.navigate("/lab?token="+adaToken, "Cookie: "+cookies, "Sec-Fetch-Mode: navigate", "Sec-Fetch-Site: cross-site"), 302)
	if c := own.Header.Values("Set-Cookie"); len(c) != 0 {
		t.Errorf("a link with the user's own token sets %q", c)
	}
}

func TestPagesNeverShowTheToken(t *testing.T) {
	g := start(t)
	for _, r := range []reply{
		g.ada("GET", "/", ""), g.ada("GET", "/lab", ""), g.ada("GET", "/connect", ""), g.ada("GET", "/home", ""), g.do("GET", "/login?token="+adaToken+"&next=/lab?token="+adaToken, ""),
		g.do("GET", "/?token="+adaToken, ""), g.navigate("/?token=" + adaToken), g.do("GET", "/lab?token=x"+adaToken, ""),
	} {
		if strings.Contains(r.body, adaToken) || strings.Contains(r.Header.Get("Location"), adaToken) {
			t.Errorf("%s shows the token", r.Request.URL.Path)
		}
	}
	page := g.want(g.ada("GET", "/w/team/connect", ""), 200)
	for _, want := range []string{
		"--gateway-url=" + g.url + "/w/team/", g.url + "/w/team/?token=TOKEN", "JUPYTER_GATEWAY_URL=" + g.url + "/t/SECRET",
		"ws://" + strings.TrimPrefix(g.url, "http://") + "/w/team/api/kernels/ID/channels", "Ada Lovelace", `href="/w/math/"`,
	} {
		if !strings.Contains(page.body, want) {
			t.Errorf("the page does not say %q: %s", want, page.body)
		}
	}
}

func TestHostHeaderIsNotRepeatedUnchecked(t *testing.T) {
	g := start(t)
	for _, host := range []string{"a<script>alert(1)</script>", "a b", "x'onload=1", "evil.com/x"} {
		r := g.raw("GET /connect HTTP/1.1\r\nHost: " + host + "\r\nAuthorization: token " + adaToken + "\r\nConnection: close\r\n\r\n")
		if strings.Contains(r, "<script>alert") || strings.Contains(r, "onload=1") || strings.Contains(r, "evil.com") {
			t.Errorf("host %q: %s", host, r)
		}
	}
}

func TestOpenRedirectsAfterLogin(t *testing.T) {
	g := start(t)
	cookies, _ := g.login()
	for _, next := range []string{"//evil.com", `/\evil.com`, "https:evil.com", "https://evil.com", "///evil.com", "/\t/evil.com", "@evil.com", "/%5cevil.com"} {
		r := g.do("GET", "/login?next="+url.QueryEscape(next), "", "Cookie: "+cookies)
		if l := r.Header.Get("Location"); r.StatusCode != 302 || l != "/" {
			t.Errorf("next=%q leads to %q", next, l)
		}
		form := g.want(g.do("GET", "/login?next="+url.QueryEscape(next), ""), 200)
		if strings.Contains(form.body, "evil.com") {
			t.Errorf("next=%q is in the form", next)
		}
		xsrf := form.Cookies()[0].Value
		r = g.do("POST", "/login", url.Values{"password": {adaToken}, "_xsrf": {xsrf}, "next": {next}}.Encode(), "Cookie: _xsrf="+xsrf)
		if l := r.Header.Get("Location"); r.StatusCode != 302 || l != "/" {
			t.Errorf("posted next=%q leads to %q", next, l)
		}
	}
	for _, path := range []string{"/tree//evil.com", "/tree/%5c%5cevil.com", "/lab/tree/..%2f..%2f/evil.com"} {
		r := g.navigate(path + "?token=" + adaToken)
		u, err := url.Parse(r.Header.Get("Location"))
		if err != nil || u.Host != "" || !strings.HasPrefix(u.EscapedPath(), "/") || strings.HasPrefix(r.Header.Get("Location"), "//") {
			t.Errorf("%s leads to %q", path, r.Header.Get("Location"))
		}
	}
}

// CSRF of threats.md: text/plain forms, no-cors (CVE-2026-40864), cookie
// tossing (CVE-2024-28233).
func TestCookiesAloneChangeNothing(t *testing.T) {
	g := start(t)
	cookies, xsrf := g.login()
	own := g.url
	for name, c := range map[string]struct {
		headers []string
		status  int
	}{
		"no XSRF":                  {[]string{"Cookie: " + cookies}, 403},
		"text/plain form":          {[]string{"Cookie: " + cookies, "Content-Type: text/plain"}, 403},
		"wrong XSRF":               {[]string{"Cookie: " + cookies, "X-XSRFToken: x"}, 403},
		"no-cors":                  {[]string{"Cookie: " + cookies, "X-XSRFToken: " + xsrf, "Sec-Fetch-Site: cross-site", "Sec-Fetch-Mode: no-cors"}, 403},
		"tossed cookie":            {[]string{"Cookie: " + strings.Replace(cookies, xsrf, "tossed", 1), "X-XSRFToken: tossed", "Origin: http://sub.127.0.0.1", "Sec-Fetch-Site: same-site"}, 404},
		"tossed, old browser":      {[]string{"Cookie: " + strings.Replace(cookies, xsrf, "tossed", 1), "X-XSRFToken: tossed", "Sec-Fetch-Site: same-site"}, 403},
		"other origin":             {[]string{"Cookie: " + cookies, "X-XSRFToken: " + xsrf, "Origin: https://evil.test"}, 404},
		"null origin":              {[]string{"Cookie: " + cookies, "X-XSRFToken: " + xsrf, "Origin: null"}, 404},
		"two origins":              {[]string{"Cookie: " + cookies, "X-XSRFToken: " + xsrf, "Origin: " + own, "Origin: https://evil.test"}, 404},
		"ours":                     {[]string{"Cookie: " + cookies, "X-XSRFToken: " + xsrf, "Origin: " + own, "Sec-Fetch-Site: same-origin"}, 201},
		"ours, not a browser":      {[]string{"Cookie: " + cookies, "X-XSRFToken: " + xsrf}, 201},
		"a token needs no XSRF":    {[]string{"Authorization: token " + adaToken, "Origin: https://evil.test"}, 201},
		"a token beside a cookie":  {[]string{"Authorization: token " + adaToken, "Cookie: " + cookies}, 201},
		"wrong token, good cookie": {[]string{"Authorization: token wrong", "Cookie: " + cookies}, 403},
	} {
		if r := g.do("POST", "/api/kernels", "", c.headers...); r.StatusCode != c.status {
			t.Errorf("%s: %d %s, want %d", name, r.StatusCode, r.body, c.status)
		}
	}
	r := g.do("POST", "/api/kernels", "", "Cookie: "+cookies)
	if !strings.Contains(r.body, "'_xsrf' argument missing from POST") {
		t.Errorf("body %s", r.body)
	}
}

// A browser that was once given a password for Basic sends it by itself, with
// every request and whoever's page makes it. Programs send no Origin.
func TestBasicIsNoProofOfIntent(t *testing.T) {
	basic := "Authorization: Basic " + base64.StdEncoding.EncodeToString([]byte("user:"+adaToken))
	for _, credentials := range []bool{false, true} {
		g := start(t, func(o *kernelgw.Options) {
			o.AllowOrigins, o.AllowCredentials = []string{"https://editor.test"}, credentials
		})
		kernel := g.kernel("math")
		endpoint := agent(t, echo)
		g.kernels.set(func(f *fakeKernels) { f.agent = endpoint })
		listed := map[bool]int{false: 404, true: 201}[credentials]
		for name, c := range map[string]struct {
			headers []string
			status  int
		}{
			"a gateway client":    {nil, 201},
			"our own page":        {[]string{"Origin: " + g.url, "Sec-Fetch-Site: same-origin"}, 201},
			"another page":        {[]string{"Origin: https://evil.test"}, 404},
			"a form, no Origin":   {[]string{"Content-Type: text/plain", "Sec-Fetch-Site: cross-site"}, 403},
			"a sibling":           {[]string{"Sec-Fetch-Site: same-site"}, 403},
			"null":                {[]string{"Origin: null"}, 404},
			"a listed page":       {[]string{"Origin: https://editor.test", "Sec-Fetch-Site: cross-site"}, listed},
			"wrong token as well": {[]string{"Origin: https://evil.test", "Cookie: a=b"}, 404},
		} {
			headers := append(c.headers, basic)
			if r := g.do("POST", "/api/kernels", "", headers...); r.StatusCode != c.status {
				t.Errorf("POST by %s: %d %s, want %d", name, r.StatusCode, r.body, c.status)
			}
			ws, r, err := g.dial("/api/kernels/"+kernel+"/channels", headers...)
			if want := map[bool]int{true: 101, false: 403}[c.status == 201]; r.StatusCode != want {
				t.Errorf("WebSocket by %s: %d %s, want %d", name, r.StatusCode, r.body, want)
			}
			if err == nil {
				_ = ws.Close()
			}
		}
		r := g.want(g.do("GET", "/api/kernels", "", basic, "Origin: https://evil.test"), 200)
		if allowed := r.Header.Get("Access-Control-Allow-Origin"); allowed != "" {
			t.Errorf("%q may read what Basic got", allowed)
		}
		// A token beside it was put there by a program.
		g.want(g.do("POST", "/api/kernels?token="+adaToken, "", basic, "Origin: https://any.test"), 201)
	}
}

// CVE-2023-40170, CVE-2019-9644: another site's page reads with the cookie.
func TestCrossSiteReadsWithACookieAreRefused(t *testing.T) {
	g := start(t)
	cookies, _ := g.login()
	for _, site := range []string{"cross-site", "same-site"} {
		g.want(g.do("GET", "/api/kernels", "", "Cookie: "+cookies, "Sec-Fetch-Site: "+site), 403)
		g.want(g.do("GET", "/kernelspecs/python3/logo-64x64.png", "", "Cookie: "+cookies, "Sec-Fetch-Site: "+site), 403)
		g.want(g.do("GET", "/logout", "", "Cookie: "+cookies, "Sec-Fetch-Site: "+site), 403)
		// A link from elsewhere to a page works.
		g.want(g.do("GET", "/lab", "", "Cookie: "+cookies, "Sec-Fetch-Site: "+site, "Sec-Fetch-Mode: navigate"), 200)
	}
	g.want(g.do("GET", "/api/kernels", "", "Cookie: "+cookies, "Sec-Fetch-Site: same-origin"), 200)
}

func TestLoginNeedsOurForm(t *testing.T) {
	g := start(t)
	form := url.Values{"password": {adaToken}, "_xsrf": {"x"}}.Encode()
	g.want(g.do("POST", "/login", form), 403)
	g.want(g.do("POST", "/login", form, "Cookie: _xsrf=y"), 403)
	g.want(g.do("POST", "/login", form, "Cookie: _xsrf=x", "Origin: https://evil.test"), 403)
	g.want(g.do("POST", "/login", form, "Cookie: _xsrf=x", "Sec-Fetch-Site: cross-site"), 403)
	g.want(g.do("POST", "/login", form+"&x=%zz", "Cookie: _xsrf=x"), 400)
	g.want(g.do("POST", "/login", form, "Cookie: _xsrf=x"), 302)
	huge := url.Values{"password": {strings.Repeat("p", 2<<20)}, "_xsrf": {"x"}}.Encode()
	g.want(g.do("POST", "/login", huge, "Cookie: _xsrf=x"), 413)
	name := url.Values{"username": {strings.Repeat("name", 200000)}, "password": {"x"}, "_xsrf": {"x"}}.Encode()
	g.want(g.do("POST", "/login", name, "Cookie: _xsrf=x"), 401)
	if strings.Contains(g.log.String(), "namename") {
		t.Error("the name of a failed login is in the log")
	}
}

func TestCookiesAreSecureUnderTLSOnly(t *testing.T) {
	for name, c := range map[string]struct {
		trusted string
		proto   []string
		secure  bool
	}{
		"no proxy":               {"", []string{"X-Forwarded-Proto: https"}, false},
		"trusted":                {"127.0.0.0/8", []string{"X-Forwarded-Proto: https"}, true},
		"trusted, says http":     {"127.0.0.0/8", []string{"X-Forwarded-Proto: http"}, false},
		"another peer":           {"10.0.0.0/8", []string{"X-Forwarded-Proto: https"}, false},
		"the last word counts":   {"127.0.0.0/8", []string{"X-Forwarded-Proto: https, http"}, false},
		"the last header counts": {"127.0.0.0/8", []string{"X-Forwarded-Proto: https", "X-Forwarded-Proto: http"}, false},
		"none":                   {"127.0.0.0/8", nil, false},
	} {
		t.Run(name, func(t *testing.T) {
			g := start(t, func(o *kernelgw.Options) {
				if c.trusted != "" {
					o.TrustedProxies = []netip.Prefix{netip.MustParsePrefix(c.trusted)}
				}
			})
			r := g.want(g.navigate("/?token="+adaToken, c.proto...), 302)
			cookie := r.Header.Values("Set-Cookie")[0]
			if strings.Contains(cookie, "; Secure") != c.secure || strings.HasPrefix(cookie, "__Host-") != c.secure {
				t.Errorf("cookie %q", cookie)
			}
			for what, got := range map[string]reply{"page": r, "error": g.do("GET", "/no-such", "", c.proto...)} {
				if hsts := got.Header.Get("Strict-Transport-Security"); (hsts != "") != c.secure {
					t.Errorf("Strict-Transport-Security of a %s: %q", what, hsts)
				}
			}
		})
	}
}

func TestCORSOfTokensAndLists(t *testing.T) {
	g := start(t, func(o *kernelgw.Options) { o.AllowOrigins = []string{"https://editor.test"} })
	cookies, _ := g.login()
	for name, c := range map[string]struct {
		headers []string
		want    string
		status  int
	}{
		"token":              {[]string{"Authorization: token " + adaToken, "Origin: https://any.test"}, "https://any.test", 200},
		"capability":         {[]string{"Origin: https://any.test"}, "https://any.test", 200},
		"listed, no token":   {[]string{"Origin: https://editor.test"}, "https://editor.test", 403},
		"unlisted, no token": {[]string{"Origin: https://any.test"}, "", 403},
		"listed, cookie":     {[]string{"Cookie: " + cookies, "Origin: https://editor.test", "Sec-Fetch-Site: cross-site"}, "https://editor.test", 404},
		"listed, cookie, v2": {[]string{"Cookie: " + cookies, "Origin: https://editor.test"}, "https://editor.test", 404},
		"unlisted, cookie":   {[]string{"Cookie: " + cookies, "Origin: https://any.test"}, "", 404},
		"forged, cookie":     {[]string{"Cookie: " + cookies, "Origin: https://editor.test.evil.test"}, "", 404},
	} {
		path := "/api/kernels"
		if name == "capability" {
			path = g.capability("math") + path
		}
		r := g.do("GET", path, "", c.headers...)
		if r.StatusCode != c.status || r.Header.Get("Access-Control-Allow-Origin") != c.want || r.Header.Get("Vary") != "Origin" ||
			r.Header.Get("Access-Control-Allow-Credentials") != "" {
			t.Errorf("%s: %d %v", name, r.StatusCode, r.Header)
		}
	}
}

// Without AllowCredentials a listed page may send tokens, not the cookie.
func TestCookiesOfListedOriginsNeedAllowCredentials(t *testing.T) {
	for _, allow := range []bool{false, true} {
		g := start(t, func(o *kernelgw.Options) {
			o.AllowOrigins, o.AllowCredentials = []string{"https://editor.test"}, allow
		})
		kernel := g.kernel("math")
		endpoint := agent(t, echo)
		g.kernels.set(func(f *fakeKernels) { f.agent = endpoint })
		cookies, xsrf := g.login()
		headers := []string{"Cookie: " + cookies, "X-XSRFToken: " + xsrf, "Origin: https://editor.test", "Sec-Fetch-Site: cross-site"}
		status := func(yes, no int) int {
			if allow {
				return yes
			}
			return no
		}
		g.want(g.do("GET", "/api/kernels", "", headers...), status(200, 404))
		g.want(g.do("POST", "/api/kernels", "", headers...), status(201, 404))
		ws, r, err := g.dial("/api/kernels/"+kernel+"/channels", headers...)
		if r.StatusCode != status(101, 403) {
			t.Errorf("WebSocket, credentials allowed %v: %d", allow, r.StatusCode)
		}
		if err == nil {
			_ = ws.Close()
		}
		ws, r, err = g.dial("/api/kernels/"+kernel+"/channels?token="+adaToken, headers...)
		if err != nil {
			t.Errorf("WebSocket with a token: %d", r.StatusCode)
			continue
		}
		_ = ws.Close()
	}
}

func TestAnswersHaveTheSafeHeaders(t *testing.T) {
	g := start(t)
	for _, r := range []reply{
		g.do("GET", "/api", ""), g.ada("GET", "/api/kernels", ""), g.do("GET", "/api/kernels", ""), g.do("GET", "/nothing", ""),
		g.do("PUT", "/api", ""), g.do("GET", "/healthz", ""), g.do("GET", "/", ""),
	} {
		h := r.Header
		if h.Get("X-Content-Type-Options") != "nosniff" || h.Get("Referrer-Policy") != "same-origin" || h.Get("Cache-Control") != "no-store" ||
			h.Get("Content-Security-Policy") != "frame-ancestors 'self'; report-uri /api/security/csp-report; default-src 'none'" || h.Get("Server") != "" {
			t.Errorf("%s %s: %v", r.Request.Method, r.Request.URL.Path, h)
		}
	}
}
