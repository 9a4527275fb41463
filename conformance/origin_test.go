package conformance

import (
	"net/http"
	"strings"
	"testing"

	"kernelgw/conformance/probe"
)

var originChecks = []check{
	{name: "ForeignOriginWithCookieIsRefused", run: foreignOriginWithCookie},
	{name: "SameOriginWithCookieIsServed", run: sameOriginWithCookie},
	{name: "TokenNeedsNoOrigin", run: tokenNeedsNoOrigin},
	{name: "PreflightIsAnswered", run: preflight},
}

// forgeries are origins that are not the server's, close as they may look.
func forgeries(s *target) []string {
	host := strings.TrimSuffix(strings.TrimPrefix(s.Base, "http://"), "/")
	name, port, _ := strings.Cut(host, ":")
	return []string{
		"http://evil.example", "null", "http://" + host + ".evil.example", "http://evil.example/" + host,
		"http://" + name + ":1", "http://" + name, "http://localhost.evil.example:" + port, "file://",
	}
}

func foreignOriginWithCookie(t testing.TB, s *target) {
	cookies := login(t, s)
	kernel := s.sharedKernel(t)
	for _, origin := range forgeries(s) {
		header := cookieHeader(cookies)
		header.Set("Origin", origin)
		if got := refused(t, s, kernel, probe.Dialing{NoToken: true, Header: header}); got != 403 {
			t.Errorf("socket with Origin %s got %d, want 403", origin, got)
		}
		answer := s.Do(t, "GET", "api/kernels", nil, probe.WithCookies(cookies), probe.With("Origin", origin))
		if answer.Status != 404 && answer.Status != 403 {
			t.Errorf("API with Origin %s answered %d, want 404", origin, answer.Status)
		}
		if allowed := answer.Header.Get("Access-Control-Allow-Origin"); allowed != "" {
			t.Errorf("Origin %s is allowed as %q", origin, allowed)
		}
	}
}

func sameOriginWithCookie(t testing.TB, s *target) {
	cookies := login(t, s)
	origin := strings.TrimSuffix(s.Base, "/")
	header := cookieHeader(cookies)
	header.Set("Origin", origin)
	s.Dial(t, s.sharedKernel(t), probe.Dialing{NoToken: true, Header: header})
	s.Do(t, "GET", "api/kernels", nil, probe.WithCookies(cookies), probe.With("Origin", origin)).Want(t, 200)
}

func tokenNeedsNoOrigin(t testing.TB, s *target) {
	const origin = "http://elsewhere.example"
	s.Dial(t, s.sharedKernel(t), probe.Dialing{Token: s.Token, Header: http.Header{"Origin": {origin}}})
	answer := s.Do(t, "GET", "api/kernels", nil, probe.With("Origin", origin)).Want(t, 200)
	if got := answer.Header.Get("Access-Control-Allow-Origin"); got != origin {
		t.Errorf("Access-Control-Allow-Origin is %q for a request with the token", got)
	}
}

func preflight(t testing.TB, s *target) {
	answer := s.Do(t, "OPTIONS", "api/kernels", nil, probe.Anonymous,
		probe.With("Origin", "http://elsewhere.example"), probe.With("Access-Control-Request-Method", "POST")).Want(t, 200, 204)
	allowed := strings.ToLower(answer.Header.Get("Access-Control-Allow-Headers"))
	for _, want := range []string{"accept", "content-type", "authorization", "x-xsrftoken"} {
		if !strings.Contains(allowed, want) {
			t.Errorf("Access-Control-Allow-Headers %q has no %s", allowed, want)
		}
	}
	methods := answer.Header.Get("Access-Control-Allow-Methods")
	for _, want := range []string{"GET", "PUT", "POST", "PATCH", "DELETE", "OPTIONS"} {
		if !strings.Contains(methods, want) {
			t.Errorf("Access-Control-Allow-Methods %q has no %s", methods, want)
		}
	}
	if origin := answer.Header.Get("Access-Control-Allow-Origin"); origin != "" {
		t.Errorf("an origin that nobody configured is allowed as %q", origin)
	}
}
