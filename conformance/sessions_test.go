package conformance

import (
	"slices"
	"strings"
	"testing"

	"kernelgw/conformance/probe"
)

var sessionChecks = []check{
	{name: "SessionByThrowAwayPathAndTwoPatches", run: sessionByThrowAwayPath},
	{name: "SessionPathIsEchoedByteForByte", run: sessionPathIsEchoed},
	{name: "SamePathGivesTheSameSession", run: samePathSameSession},
	{name: "SessionAttachesToARunningKernel", run: sessionAttaches},
	{name: "SessionWithUnknownKernelIDStartsIt", run: sessionStartsKernelWithID},
	{name: "SessionWithoutNeededFieldsIs400", run: sessionMissingFields},
	{name: "SessionWithUnknownSpecIs501", run: sessionUnknownSpec},
	{name: "SessionChangesItsKernel", run: sessionChangesKernel},
	{name: "SessionDeleteStopsItsKernel", run: sessionDelete},
	{name: "SessionWithoutKernelLeavesTheList", run: sessionWithoutKernel},
	{name: "UnknownSessionIs404", run: unknownSession},
}

type session struct {
	ID       string       `json:"id"`
	Path     *string      `json:"path"`
	Name     *string      `json:"name"`
	Type     string       `json:"type"`
	Kernel   probe.Kernel `json:"kernel"`
	Notebook *struct{ Path, Name string }
}

// newSession posts a session, which must be answered with 201, and shuts its
// kernel down when the test ends.
func newSession(t testing.TB, s *target, body any) session {
	t.Helper()
	answer := s.Do(t, "POST", "api/sessions", body).Want(t, 201)
	x := decodeSession(t, answer)
	s.Adopt(t, x.Kernel.ID)
	if location := answer.Header.Get("Location"); !strings.HasSuffix(location, "/api/sessions/"+x.ID) {
		t.Errorf("Location is %q", location)
	}
	return x
}

func decodeSession(t testing.TB, answer *probe.Answer) session {
	t.Helper()
	var x session
	answer.Decode(t, &x)
	if x.ID == "" || x.Path == nil || x.Name == nil || x.Type == "" {
		t.Fatalf("session model lacks a field: %s", answer.Body)
	}
	model(t, x.Kernel)
	if x.Type == "notebook" && (x.Notebook == nil || x.Notebook.Path != *x.Path) {
		t.Errorf("notebook of a session for one is %+v", x.Notebook)
	}
	return x
}

func sessionByThrowAwayPath(t testing.TB, s *target) {
	throwAway := "work/" + probe.ID()
	x := newSession(t, s, map[string]any{
		"path": throwAway, "type": "notebook", "name": "Untitled.ipynb", "kernel": map[string]string{"name": "python3"},
	})
	if *x.Path != throwAway {
		t.Fatalf("path is %q, want %q: JupyterLab would shut it down", *x.Path, throwAway)
	}
	path, name := "work/"+probe.ID()+".ipynb", "Renamed.ipynb"
	x = decodeSession(t, s.Do(t, "PATCH", "api/sessions/"+x.ID, map[string]string{"id": x.ID, "path": path}).Want(t, 200))
	if *x.Path != path {
		t.Errorf("path is %q after the first PATCH", *x.Path)
	}
	x = decodeSession(t, s.Do(t, "PATCH", "api/sessions/"+x.ID, map[string]string{"id": x.ID, "name": name}).Want(t, 200))
	if *x.Path != path || *x.Name != name {
		t.Errorf("after both PATCHes path is %q and name %q", *x.Path, *x.Name)
	}
	again := decodeSession(t, s.Do(t, "GET", "api/sessions/"+x.ID, nil).Want(t, 200))
	if *again.Path != path || *again.Name != name || again.Kernel.ID != x.Kernel.ID {
		t.Errorf("GET gives %+v", again)
	}
	if got := s.Dial(t, x.Kernel.ID, probe.Dialing{Session: probe.ID()}).Run(t, "print(1)").Stdout; got != "1\n" {
		t.Errorf("stdout is %q", got)
	}
}

func sessionPathIsEchoed(t testing.TB, s *target) {
	kernel := s.sharedKernel(t)
	for _, path := range []string{"a b/ü?#%41.ipynb", "x//y/./z.ipynb", "console-1-" + probe.ID(), strings.Repeat("p", 3000)} {
		path += probe.ID()
		answer := s.Do(t, "POST", "api/sessions", map[string]any{"path": path, "type": "console", "name": "", "kernel": map[string]string{"id": kernel}})
		x := decodeSession(t, answer.Want(t, 201))
		if *x.Path != path || *x.Name != "" {
			t.Errorf("path %q came back as %q, name as %q", path, *x.Path, *x.Name)
		}
	}
}

func samePathSameSession(t testing.TB, s *target) {
	path := probe.ID() + ".ipynb"
	first := newSession(t, s, map[string]any{"path": path, "type": "notebook", "name": "a"})
	second := decodeSession(t, s.Do(t, "POST", "api/sessions", map[string]any{"path": path, "type": "console", "name": "b"}).Want(t, 201))
	if second.ID != first.ID || second.Kernel.ID != first.Kernel.ID || second.Type != "notebook" || *second.Name != "a" {
		t.Errorf("the second POST gave %+v, want the first: %+v", second, first)
	}
}

func sessionAttaches(t testing.TB, s *target) {
	kernel := s.sharedKernel(t)
	var ids []string
	for range 2 {
		x := decodeSession(t, s.Do(t, "POST", "api/sessions", map[string]any{
			"path": probe.ID(), "type": "notebook", "name": "", "kernel": map[string]string{"id": kernel},
		}).Want(t, 201))
		if x.Kernel.ID != kernel {
			t.Fatalf("kernel is %s, want %s", x.Kernel.ID, kernel)
		}
		ids = append(ids, x.ID)
	}
	var all []session
	list(t, s, "api/sessions", &all)
	for _, id := range ids {
		if !slices.ContainsFunc(all, func(x session) bool { return x.ID == id }) {
			t.Errorf("session %s is not in the list", id)
		}
	}
}

func sessionStartsKernelWithID(t testing.TB, s *target) {
	id := probe.ID()
	x := newSession(t, s, map[string]any{"path": probe.ID(), "type": "notebook", "name": "", "kernel": map[string]string{"id": id, "name": "python3"}})
	if x.Kernel.ID != id {
		t.Errorf("kernel is %s, want %s", x.Kernel.ID, id)
	}
}

func sessionMissingFields(t testing.TB, s *target) {
	for _, body := range []any{nil, "", "{}", `{"type":"notebook"}`, `{"path":"x"}`, `{"path":`} {
		s.Do(t, "POST", "api/sessions", body).Want(t, 400)
	}
	x := newSession(t, s, map[string]any{"path": probe.ID(), "type": "notebook", "name": ""})
	s.Do(t, "PATCH", "api/sessions/"+x.ID, `{"path":`).Want(t, 400)
	s.Do(t, "PATCH", "api/sessions/"+x.ID, "{}").Want(t, 200)
}

func sessionUnknownSpec(t testing.TB, s *target) {
	body := s.Do(t, "POST", "api/sessions", map[string]any{
		"path": probe.ID(), "type": "notebook", "name": "", "kernel": map[string]string{"name": "no-such-kernel"},
	}).Want(t, 501).Object(t)
	for _, key := range []string{"message", "short_message"} {
		if text, _ := body[key].(string); text == "" {
			t.Errorf("no %s in %v", key, body)
		}
	}
}

func sessionChangesKernel(t testing.TB, s *target) {
	x := newSession(t, s, map[string]any{"path": probe.ID(), "type": "notebook", "name": ""})
	at := "api/sessions/" + x.ID
	s.Do(t, "PATCH", at, map[string]any{"kernel": map[string]string{"id": probe.ID()}}).Want(t, 400)
	s.Do(t, "PATCH", at, map[string]any{"kernel": map[string]string{"name": "no-such-kernel"}}).Want(t, 500, 501)
	y := decodeSession(t, s.Do(t, "PATCH", at, map[string]any{"kernel": map[string]string{"name": "python3"}}).Want(t, 200))
	s.Adopt(t, y.Kernel.ID)
	if y.Kernel.ID == x.Kernel.ID {
		t.Fatal("kernel.name did not start another kernel")
	}
	s.Do(t, "GET", "api/kernels/"+x.Kernel.ID, nil).Want(t, 404)
	z := s.StartKernel(t)
	y = decodeSession(t, s.Do(t, "PATCH", at, map[string]any{"kernel": map[string]string{"id": z.ID}}).Want(t, 200))
	if y.Kernel.ID != z.ID {
		t.Errorf("kernel is %s, want %s", y.Kernel.ID, z.ID)
	}
}

func sessionDelete(t testing.TB, s *target) {
	x := newSession(t, s, map[string]any{"path": probe.ID(), "type": "notebook", "name": ""})
	s.Do(t, "DELETE", "api/sessions/"+x.ID, nil).Want(t, 204)
	s.Do(t, "GET", "api/sessions/"+x.ID, nil).Want(t, 404)
	s.Do(t, "GET", "api/kernels/"+x.Kernel.ID, nil).Want(t, 404)
	s.Do(t, "DELETE", "api/sessions/"+x.ID, nil).Want(t, 404)
}

func sessionWithoutKernel(t testing.TB, s *target) {
	x := newSession(t, s, map[string]any{"path": probe.ID(), "type": "notebook", "name": ""})
	s.Do(t, "DELETE", "api/kernels/"+x.Kernel.ID, nil).Want(t, 204)
	var all []session
	list(t, s, "api/sessions", &all)
	if slices.ContainsFunc(all, func(y session) bool { return y.ID == x.ID }) {
		t.Error("a session whose kernel is gone is still in the list")
	}
}

func unknownSession(t testing.TB, s *target) {
	id := probe.ID()
	s.Do(t, "GET", "api/sessions/"+id, nil).Want(t, 404)
	s.Do(t, "DELETE", "api/sessions/"+id, nil).Want(t, 404)
	s.Do(t, "PATCH", "api/sessions/"+id, "{}").Want(t, 404)
}
