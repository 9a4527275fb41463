package conformance

import (
	"encoding/json"
	"strings"
	"testing"

	"kernelgw/conformance/probe"
)

// What the VS Code Jupyter extension asks of an "existing Jupyter server"
// before it uses one.
var vscodeChecks = []check{
	{name: "VSCodeDoesNotTakeItForAHub", run: vscodeNoHub},
	{
		name: "VSCodeSeesThatAPasswordIsNeeded", run: vscodeNeedsPassword,
		extension: &extension{because: "without JupyterLab its root is open and VS Code asks for no password", fails: "leads a stranger to"},
	},
	{name: "VSCodeValidatesWithAToken", run: vscodeValidates},
	{name: "VSCodeLogsInWithAPassword", run: vscodeLogsIn},
}

func vscodeNoHub(t testing.TB, s *target) {
	answer := s.Do(t, "GET", "hub/api", nil, probe.Anonymous)
	var body map[string]any
	if answer.Status == 200 && json.Unmarshal(answer.Body, &body) == nil && body["version"] != nil {
		t.Errorf("looks like a JupyterHub: %s", answer.Body)
	}
}

// follow follows redirects on the server and returns where they end.
func follow(t testing.TB, s *target, path string) (at string, answer *probe.Answer) {
	t.Helper()
	for range 10 {
		answer = s.Do(t, "GET", path, nil, probe.Anonymous)
		if answer.Status < 300 || answer.Status >= 400 {
			return path, answer
		}
		path = strings.TrimPrefix(answer.Header.Get("Location"), strings.TrimSuffix(s.Base, "/"))
	}
	t.Fatalf("too many redirects, the last to %s", path)
	return "", nil
}

func vscodeNeedsPassword(t testing.TB, s *target) {
	if at, answer := follow(t, s, ""); !strings.Contains(at, "/login?") || answer.Status != 200 {
		t.Errorf("the root leads a stranger to %q (%d), want /login?...", at, answer.Status)
	}
	if answer := s.Do(t, "GET", "tree?", nil, probe.Anonymous); answer.Status == 200 || answer.Status == 404 {
		t.Errorf("tree? answered %d, which says that no password is needed", answer.Status)
	}
}

func vscodeValidates(t testing.TB, s *target) {
	for _, path := range []string{"api/kernels", "api/kernelspecs", "api/sessions"} {
		s.Do(t, "GET", path+"?token="+s.Token+"&1795502306591", nil).Want(t, 200)
	}
}

func vscodeLogsIn(t testing.TB, s *target) {
	cookies := form(t, s, "?", s.Token).Want(t, 302).Cookies()
	if len(cookies) == 0 {
		t.Fatal("the login sets no cookie")
	}
	cookies, value := xsrf(t, s, cookies[:1])
	both := probe.WithCookies(cookies)
	s.Do(t, "GET", "api/kernels", nil, both).Want(t, 200)
	s.Do(t, "GET", "api/kernelspecs", nil, both).Want(t, 200)
	answer := s.Do(t, "POST", "api/sessions", map[string]any{
		"path": "a-jvsc-" + probe.ID() + ".ipynb", "name": probe.ID(), "type": "notebook", "kernel": map[string]string{"name": "python3"},
	}, both, probe.With("X-XSRFToken", value)).Want(t, 201)
	s.Adopt(t, decodeSession(t, answer).Kernel.ID)
}
