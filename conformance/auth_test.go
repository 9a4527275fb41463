package conformance

import (
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"

	"kernelgw/conformance/probe"
)

var authChecks = []check{
	{name: "APIWithoutCredentialsIsJSON403", run: apiWithoutCredentials},
	{name: "WrongTokenIs403", run: wrongToken},
	{name: "EmptyTokenCountsAsNone", run: emptyToken},
	{name: "TokenInEveryAcceptedPlace", run: tokenInEveryPlace},
	{name: "SocketWithoutCredentialsIs403BeforeUpgrade", run: socketWithoutCredentials},
	{name: "SocketOfUnknownKernelIs404BeforeUpgrade", run: socketOfUnknownKernel},
	{name: "SocketTellsAStrangerNothingOfKernels", run: socketTellsNothing},
	{name: "TokenOnAPageSetsALoginCookie", run: loginCookieWorks},
	{name: "CookieNeedsXSRFForWrites", run: cookieNeedsXSRF},
	{name: "LoginByForm", run: loginByForm},
	{name: "LoginRefusesAWrongPassword", run: loginWrongPassword},
	{name: "LoginNeverRedirectsElsewhere", run: loginNeverRedirectsElsewhere},
	{
		name: "LoginNextWithLineBreaksAddsNoHeader", run: loginNextWithLineBreaks,
		extension: &extension{because: "it answers 500", fails: "answered 500"},
	},
	{name: "LogoutEndsTheCookie", run: logoutEndsTheCookie},
	{name: "PagesRedirectStrangersToLogin", run: pagesRedirectToLogin},
}

func apiWithoutCredentials(t testing.TB, s *target) {
	kernel := s.sharedKernel(t)
	for _, r := range [][2]string{
		{"GET", "api/kernels"},
		{"POST", "api/kernels"},
		{"GET", "api/kernels/" + kernel},
		{"DELETE", "api/kernels/" + kernel},
		{"POST", "api/kernels/" + kernel + "/interrupt"},
		{"POST", "api/kernels/" + kernel + "/restart"},
		{"GET", "api/kernels/" + probe.ID()},
		{"GET", "api/kernelspecs"},
		{"GET", "api/kernelspecs/python3"},
		{"GET", "api/sessions"},
		{"POST", "api/sessions"},
		{"GET", "api/status"},
		{"GET", "api/me"},
	} {
		answer := s.Do(t, r[0], r[1], nil, probe.Anonymous)
		if answer.Status != 403 {
			t.Errorf("%s %s answered %d, want 403", r[0], r[1], answer.Status)
			continue
		}
		if message, _ := answer.Object(t)["message"].(string); message == "" {
			t.Errorf("%s %s: no message in %s", r[0], r[1], answer.Body)
		}
	}
	s.Do(t, "GET", "api/kernels/"+kernel, nil).Want(t, 200)
}

func wrongToken(t testing.TB, s *target) {
	wrong := strings.Repeat("0", len(s.Token))
	s.Do(t, "GET", "api/me", nil, probe.With("Authorization", "token "+wrong)).Want(t, 403)
	s.Do(t, "GET", "api/me?token="+wrong, nil, probe.Anonymous).Want(t, 403)
	s.Do(t, "GET", "api/me", nil, probe.With("Authorization", "token "+s.Token+"x")).Want(t, 403)
	s.Do(t, "GET", "api/me", nil, probe.With("Authorization", "Basic "+s.Token)).Want(t, 403)
}

func emptyToken(t testing.TB, s *target) {
	for _, value := range []string{"token ", "Bearer ", "token", ""} {
		s.Do(t, "GET", "api/me", nil, probe.With("Authorization", value)).Want(t, 403)
		s.Do(t, "GET", "api/me?token="+s.Token, nil, probe.With("Authorization", value)).Want(t, 200)
	}
	s.Do(t, "GET", "api/me?token=", nil, probe.Anonymous).Want(t, 403)
}

func tokenInEveryPlace(t testing.TB, s *target) {
	for _, scheme := range []string{"token ", "Bearer ", "Token ", "bearer ", "TOKEN  "} {
		s.Do(t, "GET", "api/me", nil, probe.With("Authorization", scheme+s.Token)).Want(t, 200)
	}
	s.Do(t, "GET", "api/me?token="+s.Token, nil, probe.Anonymous).Want(t, 200)
	s.Do(t, "GET", "api/me?1795502306591&token="+s.Token, nil, probe.Anonymous).Want(t, 200)
	s.Dial(t, s.sharedKernel(t), probe.Dialing{Token: s.Token})
}

// refused tries to open a socket and returns the status that it got instead.
func refused(t testing.TB, s *target, kernel string, d probe.Dialing) int {
	t.Helper()
	w, resp, err := s.TryDial(t, kernel, d)
	switch {
	case err == nil:
		w.Drop()
		return http.StatusSwitchingProtocols
	case resp == nil:
		t.Fatalf("no answer at all: %v", err)
	}
	return resp.StatusCode
}

func socketWithoutCredentials(t testing.TB, s *target) {
	kernel := s.sharedKernel(t)
	for _, d := range []probe.Dialing{
		{NoToken: true},
		{NoToken: true, Legacy: true},
		{Token: "wrong"},
		{Token: strings.Repeat("0", len(s.Token))},
		{NoToken: true, RawQuery: "token="},
		{NoToken: true, Header: http.Header{"Authorization": {"token "}}},
	} {
		if got := refused(t, s, kernel, d); got != 403 {
			t.Errorf("%+v got %d, want 403", d, got)
		}
	}
}

func socketOfUnknownKernel(t testing.TB, s *target) {
	for _, kernel := range []string{probe.ID(), "not-an-id"} {
		if got := refused(t, s, kernel, probe.Dialing{}); got != 404 {
			t.Errorf("kernel %s got %d, want 404", kernel, got)
		}
	}
}

func socketTellsNothing(t testing.TB, s *target) {
	if got := refused(t, s, probe.ID(), probe.Dialing{NoToken: true}); got != 403 {
		t.Errorf("a stranger asking for a kernel that is not there got %d, want 403 as for one that is", got)
	}
}

// login returns the cookies that a browser has after it opened the URL with
// the token that the server printed.
func login(t testing.TB, s *target) []*http.Cookie {
	t.Helper()
	var cookies []*http.Cookie
	// The root of a stock server with JupyterLab leads to its page, which logs in.
	for _, path := range []string{"", "lab"} {
		cookies = s.Do(t, "GET", path+"?token="+s.Token, nil, probe.Anonymous, probe.With("Accept", "text/html,*/*;q=0.8")).Want(t, 200, 302).Cookies()
		if len(cookies) > 0 {
			return cookies
		}
	}
	t.Fatal("a page opened with the token set no cookie: JupyterLab's sockets and images need one")
	return cookies
}

func loginCookieWorks(t testing.TB, s *target) {
	cookies := login(t, s)
	for _, c := range cookies {
		if c.Name != "_xsrf" && (!c.HttpOnly || c.Path != "/") {
			t.Errorf("cookie %s: HttpOnly %v, Path %q", c.Name, c.HttpOnly, c.Path)
		}
		if strings.Contains(c.Value, s.Token) {
			t.Errorf("cookie %s holds the token", c.Name)
		}
	}
	s.Do(t, "GET", "api/me", nil, probe.WithCookies(cookies)).Want(t, 200)
	w := s.Dial(t, s.sharedKernel(t), probe.Dialing{NoToken: true, Header: cookieHeader(cookies)})
	w.Run(t, "1")
	for _, c := range cookies {
		if c.Name != "_xsrf" {
			forged := *c
			forged.Value = flip(c.Value)
			s.Do(t, "GET", "api/me", nil, probe.WithCookies([]*http.Cookie{&forged})).Want(t, 403)
		}
	}
}

// flip changes one character in the middle.
func flip(s string) string {
	b := []byte(s)
	if i := len(b) / 2; b[i] == 'a' {
		b[i] = 'b'
	} else {
		b[i] = 'a'
	}
	return string(b)
}

func cookieHeader(cookies []*http.Cookie) http.Header {
	r := &http.Request{Header: http.Header{}}
	for _, c := range cookies {
		r.AddCookie(c)
	}
	return r.Header
}

// xsrf adds the _xsrf cookie, which pages set, to those of a logged-in browser
// and returns its value too.
func xsrf(t testing.TB, s *target, cookies []*http.Cookie) ([]*http.Cookie, string) {
	t.Helper()
	for _, c := range s.Do(t, "GET", "login?", nil, probe.Anonymous).Want(t, 200).Cookies() {
		if c.Name == "_xsrf" {
			if c.HttpOnly {
				t.Error("_xsrf is HttpOnly: no page could echo it")
			}
			return append(slices.DeleteFunc(cookies, func(c *http.Cookie) bool { return c.Name == "_xsrf" }), c), c.Value
		}
	}
	t.Fatal("the login page sets no _xsrf cookie")
	return nil, ""
}

func cookieNeedsXSRF(t testing.TB, s *target) {
	cookies, value := xsrf(t, s, login(t, s))
	// Of its own: an interrupt that meets ipykernel just before or after a cell ends it.
	kernel := s.StartKernel(t).ID
	s.Dial(t, kernel, probe.Dialing{}).Run(t, "1") // one that starts takes no interrupts
	at := "api/kernels/" + kernel + "/interrupt"
	message, _ := s.Do(t, "POST", at, nil, probe.WithCookies(cookies)).Want(t, 403).Object(t)["message"].(string)
	if !strings.Contains(message, "_xsrf") {
		t.Errorf("message %q does not name _xsrf", message)
	}
	s.Do(t, "POST", at, nil, probe.WithCookies(cookies), probe.With("X-XSRFToken", flip(value))).Want(t, 403)
	s.Do(t, "POST", at, nil, probe.WithCookies(cookies), probe.With("X-XSRFToken", value)).Want(t, 204)
	s.Do(t, "POST", at+"?_xsrf="+url.QueryEscape(value), nil, probe.WithCookies(cookies)).Want(t, 204)
	s.Do(t, "POST", at, nil).Want(t, 204) // a token needs none
}

// form posts the login form as a browser does.
func form(t testing.TB, s *target, query, password string) *probe.Answer {
	t.Helper()
	page := s.Do(t, "GET", "login"+query, nil, probe.Anonymous).Want(t, 200)
	if kind := page.Header.Get("Content-Type"); !strings.HasPrefix(kind, "text/html") {
		t.Errorf("the login page is %s", kind)
	}
	value := ""
	for _, c := range page.Cookies() {
		if c.Name == "_xsrf" {
			value = c.Value
		}
	}
	if value == "" {
		t.Fatal("the login page sets no _xsrf cookie")
	}
	body := url.Values{"password": {password}, "_xsrf": {value}}.Encode()
	return s.Do(t, "POST", "login"+query, body, probe.WithCookies(page.Cookies()), probe.With("Content-Type", "application/x-www-form-urlencoded"))
}

func loginByForm(t testing.TB, s *target) {
	answer := form(t, s, "?next=%2Fapi%2Fstatus", s.Token).Want(t, 302)
	if location := answer.Header.Get("Location"); location != "/api/status" {
		t.Errorf("after the login the browser goes to %q", location)
	}
	cookies := answer.Cookies()
	if len(cookies) == 0 || cookies[0].Name == "_xsrf" {
		t.Fatalf("the first cookie must be the session's, as VS Code takes it: %v", cookies)
	}
	s.Do(t, "GET", "api/me", nil, probe.WithCookies(cookies[:1])).Want(t, 200)
}

func loginWrongPassword(t testing.TB, s *target) {
	answer := form(t, s, "", "wrong").Want(t, 401)
	for _, c := range answer.Cookies() {
		s.Do(t, "GET", "api/me", nil, probe.WithCookies([]*http.Cookie{c})).Want(t, 403)
	}
}

func loginNeverRedirectsElsewhere(t testing.TB, s *target) {
	for _, next := range []string{
		"//evil.example", `/\evil.example`, `\\evil.example`, "https:evil.example", "https://evil.example/", "///evil.example",
		"/\t/evil.example", "\t//evil.example", "http://user@evil.example", "javascript:alert(1)",
	} {
		answer := form(t, s, "?next="+url.QueryEscape(next), s.Token).Want(t, 302)
		location := answer.Header.Get("Location")
		u, err := url.Parse(strings.NewReplacer("\t", "", "\n", "", "\r", "", `\`, "/").Replace(location))
		if err != nil || u.Scheme != "" && !strings.HasPrefix(location, s.Base) || u.Host != "" && !strings.HasPrefix(location, s.Base) || !strings.HasPrefix(location, "/") && !strings.HasPrefix(location, s.Base) {
			t.Errorf("next=%q leads to %q", next, location)
		}
	}
}

func loginNextWithLineBreaks(t testing.TB, s *target) {
	answer := form(t, s, "?next="+url.QueryEscape("/a\r\nX-Evil: y"), s.Token).Want(t, 302, 400)
	if answer.Header.Get("X-Evil") != "" {
		t.Error("next added a header")
	}
}

func logoutEndsTheCookie(t testing.TB, s *target) {
	cookies := form(t, s, "", s.Token).Want(t, 302).Cookies()
	answer := s.Do(t, "GET", "logout", nil, probe.WithCookies(cookies)).Want(t, 200, 302)
	cleared := false
	for _, c := range answer.Cookies() {
		cleared = cleared || c.Name == cookies[0].Name && (c.Value == "" || c.MaxAge < 0 || !c.Expires.IsZero())
	}
	if !cleared {
		t.Errorf("logout does not clear %s: %v", cookies[0].Name, answer.Header["Set-Cookie"])
	}
}

func pagesRedirectToLogin(t testing.TB, s *target) {
	path := "?a=b"
	if s.stock {
		path = "files/x?a=b" // without JupyterLab its root is open
	}
	location := s.Do(t, "GET", path, nil, probe.Anonymous).Want(t, 302).Header.Get("Location")
	if !strings.HasPrefix(location, "/login?next=") || !strings.Contains(location, "a%3Db") {
		t.Errorf("a stranger is sent to %q, want /login?next= and where they were going", location)
	}
}
