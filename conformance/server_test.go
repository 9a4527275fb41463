package conformance

import (
	"net/url"
	"regexp"
	"strings"
	"testing"

	"kernelgw/conformance/probe"
)

var serverChecks = []check{
	{name: "VersionNeedsNoCredentials", run: versionNeedsNoCredentials},
	{name: "StatusCountsKernelsAndConnections", run: statusCounts},
	{name: "MeNamesTheUser", run: meNamesTheUser},
	{name: "MeRefusesMalformedPermissions", run: meRefusesMalformedPermissions},
	{name: "TrailingSlashesWork", run: trailingSlashesWork},
	{name: "UnknownQueryKeysAreIgnored", run: unknownQueryKeysAreIgnored},
	{name: "ErrorsAreJSONWithAMessage", run: errorsAreJSON},
	{name: "WrongMethodIs405", run: wrongMethodIs405},
	{
		name: "UnknownAPIPathIsJSON404", run: unknownAPIPathIsJSON404,
		extension: &extension{because: "it sends a page, of which clients show only the status", fails: "body is no such JSON"},
	},
	{name: "APIHeadersForbidSniffingAndFraming", run: apiHeaders},
	{name: "StrangersCannotStopTheServer", run: shutdownNeedsCredentials},
	{
		name: "CapabilityPathCarriesItsOwnCredentials", run: capabilityPath,
		extension: &extension{because: "it has no address that works for clients without WebSocket credentials", fails: "POST v1/capabilities answered 404"},
	},
}

func versionNeedsNoCredentials(t testing.TB, s *target) {
	version, _ := s.Do(t, "GET", "api", nil, probe.Anonymous).Want(t, 200).Object(t)["version"].(string)
	if !regexp.MustCompile(`^2\.\d+\.\d+`).MatchString(version) {
		t.Errorf("version is %q, want one of jupyter_server 2.x", version)
	}
}

func statusCounts(t testing.TB, s *target) {
	kernel := s.sharedKernel(t)
	s.Dial(t, kernel, probe.Dialing{Session: probe.ID()})
	status := s.Do(t, "GET", "api/status", nil).Want(t, 200).Object(t)
	for _, key := range []string{"kernels", "connections"} {
		if n, ok := status[key].(float64); !ok || n < 1 {
			t.Errorf("%s is %v, want a number of at least 1", key, status[key])
		}
	}
	for _, key := range []string{"started", "last_activity"} {
		if _, ok := status[key].(string); !ok {
			t.Errorf("%s is missing", key)
		}
	}
}

func meNamesTheUser(t testing.TB, s *target) {
	wanted := url.QueryEscape(`{"kernels":["read","write"]}`)
	var me struct {
		Identity    map[string]any `json:"identity"`
		Permissions map[string]any `json:"permissions"`
	}
	s.Do(t, "GET", "api/me?permissions="+wanted, nil).Want(t, 200).Decode(t, &me)
	for _, key := range []string{"username", "name", "display_name", "initials"} {
		if _, ok := me.Identity[key].(string); !ok {
			t.Errorf("identity.%s is %v, want a string", key, me.Identity[key])
		}
	}
	for _, key := range []string{"avatar_url", "color"} {
		if _, ok := me.Identity[key]; !ok {
			t.Errorf("identity.%s is missing", key)
		}
	}
	if actions, ok := me.Permissions["kernels"].([]any); !ok || len(actions) != 2 {
		t.Errorf("permissions.kernels is %v, want both that were asked for", me.Permissions["kernels"])
	}
}

func meRefusesMalformedPermissions(t testing.TB, s *target) {
	s.Do(t, "GET", "api/me?permissions="+url.QueryEscape(`{"a`), nil).Want(t, 400)
}

func trailingSlashesWork(t testing.TB, s *target) {
	for _, path := range []string{"api/", "api/kernels/", "api/kernelspecs/", "api/sessions/", "api/status/"} {
		answer := s.Do(t, "GET", path, nil).Want(t, 200, 301, 302, 307, 308)
		if answer.Status != 200 {
			want := strings.TrimSuffix("/"+path, "/")
			if location := answer.Header.Get("Location"); !strings.HasSuffix(location, want) {
				t.Errorf("%s redirects to %q, want %s", path, location, want)
			}
		}
	}
}

func unknownQueryKeysAreIgnored(t testing.TB, s *target) {
	for _, path := range []string{
		"api?1795502306591", "api/kernels?1795502306591", "api/kernelspecs?a=b&1795502306591",
		"api/sessions?contentProviderId=undefined", "api/me?1795502306591",
	} {
		s.Do(t, "GET", path, nil).Want(t, 200)
	}
}

func errorsAreJSON(t testing.TB, s *target) {
	for _, path := range []string{
		"api/kernels/" + probe.ID(), "api/sessions/" + probe.ID(), "api/kernelspecs/no-such-kernel",
	} {
		answer := s.Do(t, "GET", path, nil).Want(t, 404)
		if kind := answer.Header.Get("Content-Type"); !strings.HasPrefix(kind, "application/json") {
			t.Errorf("GET %s: Content-Type is %q", path, kind)
		}
		body := answer.Object(t)
		if message, _ := body["message"].(string); message == "" {
			t.Errorf("GET %s: no message in %s", path, answer.Body)
		}
		if _, ok := body["reason"]; !ok {
			t.Errorf("GET %s: no reason (null or a string) in %s", path, answer.Body)
		}
	}
}

func wrongMethodIs405(t testing.TB, s *target) {
	s.Do(t, "PUT", "api/kernels", "{}").Want(t, 405)
	s.Do(t, "DELETE", "api/kernelspecs", nil).Want(t, 405)
}

func unknownAPIPathIsJSON404(t testing.TB, s *target) {
	body := s.Do(t, "GET", "api/no/such/path", nil).Want(t, 404).Object(t)
	if message, _ := body["message"].(string); message == "" {
		t.Errorf("no message in %v", body)
	}
}

func apiHeaders(t testing.TB, s *target) {
	answer := s.Do(t, "GET", "api/kernels", nil).Want(t, 200)
	if got := answer.Header.Get("X-Content-Type-Options"); got != "nosniff" {
		t.Errorf("X-Content-Type-Options is %q", got)
	}
	policy := answer.Header.Get("Content-Security-Policy")
	for _, want := range []string{"frame-ancestors 'self'", "default-src 'none'", "report-uri /api/security/csp-report"} {
		if !strings.Contains(policy, want) {
			t.Errorf("Content-Security-Policy %q has no %s", policy, want)
		}
	}
}

func shutdownNeedsCredentials(t testing.TB, s *target) {
	s.Do(t, "POST", "api/shutdown", nil, probe.Anonymous).Want(t, 403)
	s.Do(t, "GET", "api", nil).Want(t, 200)
}

func capabilityPath(t testing.TB, s *target) {
	var made struct{ ID, URL string }
	s.Do(t, "POST", "v1/capabilities", map[string]string{"label": "conformance"}).Want(t, 201).Decode(t, &made)
	// nbclient lower-cases the URL and replaces every "http" by "ws".
	path, found := strings.CutPrefix(made.URL, s.Base)
	if !found || !regexp.MustCompile(`^t/[0-9a-f]{32,}/?$`).MatchString(path) {
		t.Fatalf("url is %q, want %st/ and lower-case hex", made.URL, s.Base)
	}
	through := &probe.Server{Base: strings.TrimSuffix(made.URL, "/") + "/"}
	kernel := s.sharedKernel(t)
	through.Do(t, "GET", "api/kernels/"+kernel, nil).Want(t, 200)
	w := through.Dial(t, kernel, probe.Dialing{Legacy: true, NoToken: true})
	if got := w.Run(t, "print(6*7)").Stdout; got != "42\n" {
		t.Errorf("stdout through the capability is %q", got)
	}
	other := &probe.Server{Base: s.Base + "t/" + strings.Repeat("0", 64) + "/"}
	other.Do(t, "GET", "api/kernels", nil).Want(t, 403, 404)

	s.Do(t, "DELETE", "v1/capabilities/"+made.ID, nil).Want(t, 204)
	through.Do(t, "GET", "api/kernels", nil).Want(t, 403, 404)
	if _, _, err := through.TryDial(t, kernel, probe.Dialing{Legacy: true, NoToken: true}); err == nil {
		t.Error("a revoked capability still opens WebSockets")
	}
	if code, _ := w.WaitClosed(t, probe.Patience); code == 1000 {
		t.Error("the socket of a revoked capability was closed with 1000, which says that the kernel is gone")
	}
}
