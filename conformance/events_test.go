package conformance

import (
	"encoding/json"
	"net/http"
	"testing"
	"time"

	"kernelgw/conformance/probe"
)

var eventChecks = []check{
	{name: "EventsOfFilesAreTold", run: eventsOfFiles},
	{name: "EventsOfKernelsAreTold", run: eventsOfKernels},
	{name: "EventsNeedCredentials", run: eventsNeedCredentials},
	{name: "EventsOfUnknownSchemasAreRefused", run: eventsUnknownSchema},
	{name: "ConfigSectionsAreKept", run: configSections},
	{name: "LSPStatusIsHarmless", run: lspStatus},
}

// awaitEvent reads until an event of that schema matches.
func awaitEvent(t testing.TB, w *probe.Plain, what, schema string, match func(map[string]any) bool) {
	t.Helper()
	var seen []string
	for deadline := time.Now().Add(20 * time.Second); ; {
		select {
		case frame, ok := <-w.Frames():
			if !ok {
				t.Fatalf("the events ended; waiting for %s; got %s", what, seen)
			}
			var event map[string]any
			if err := json.Unmarshal(frame, &event); err != nil {
				t.Fatalf("%v: %s", err, frame)
			}
			if event["schema_id"] == schema && match(event) {
				return
			}
			seen = append(seen, string(frame))
		case <-time.After(time.Until(deadline)):
			t.Fatalf("no event of %s; got %.2000s", what, seen)
		}
	}
}

const (
	contentsSchema = "https://events.jupyter.org/jupyter_server/contents_service/v1"
	kernelSchema   = "https://events.jupyter.org/jupyter_server/kernel_actions/v1"
)

func eventsOfFiles(t testing.TB, s *target) {
	w := s.Plain(t, "api/events/subscribe")
	dir := folder(t, s)
	action := func(name, path string) func(map[string]any) bool {
		return func(e map[string]any) bool { return e["action"] == name && e["path"] == path }
	}
	write(t, s, dir+"/a.txt", "x")
	awaitEvent(t, w, "the save", contentsSchema, action("save", dir+"/a.txt"))
	patch(t, s, dir+"/a.txt", dir+"/b.txt").Want(t, 200)
	awaitEvent(t, w, "the rename", contentsSchema, func(e map[string]any) bool {
		return action("rename", dir+"/b.txt")(e) && e["source_path"] == dir+"/a.txt"
	})
	s.Do(t, "DELETE", contentsAt(dir+"/b.txt"), nil).Want(t, 204)
	awaitEvent(t, w, "the delete", contentsSchema, action("delete", dir+"/b.txt"))
}

func eventsOfKernels(t testing.TB, s *target) {
	w := s.Plain(t, "api/events/subscribe")
	k := s.StartKernel(t)
	awaitEvent(t, w, "the start", kernelSchema, func(e map[string]any) bool { return e["action"] == "start" && e["kernel_id"] == k.ID })
	s.Do(t, "DELETE", "api/kernels/"+k.ID, nil).Want(t, 204)
	awaitEvent(t, w, "the shutdown", kernelSchema, func(e map[string]any) bool { return e["action"] == "shutdown" && e["kernel_id"] == k.ID })
}

func eventsNeedCredentials(t testing.TB, s *target) {
	w, resp, err := s.TryPlain(t, "api/events/subscribe", http.Header{})
	if err == nil {
		w.Close()
		t.Error("a stranger reads the events")
	} else if resp == nil || resp.StatusCode != 403 {
		t.Errorf("a stranger gets %v (%+v), want 403", err, resp)
	}
	s.Do(t, "POST", "api/events", "{}", probe.Anonymous).Want(t, 403)
}

func eventsUnknownSchema(t testing.TB, s *target) {
	s.Do(t, "POST", "api/events", map[string]any{"schema_id": "https://example.com/none", "version": 1, "data": map[string]any{}}).Want(t, 400)
	s.Do(t, "POST", "api/events", "{").Want(t, 400)
}

func configSections(t testing.TB, s *target) {
	section := "api/config/conformance" + probe.ID()[:8]
	if got := s.Do(t, "GET", section, nil).Want(t, 200).Object(t); len(got) != 0 {
		t.Errorf("an unknown section is %v", got)
	}
	s.Do(t, "PUT", section, map[string]any{"a": 1, "b": map[string]any{"c": "ü", "d": 2}}).Want(t, 204)
	got := s.Do(t, "PATCH", section, `{"a": null, "b": {"c": "new"}}`).Want(t, 200).Object(t)
	inner, _ := got["b"].(map[string]any)
	if _, kept := got["a"]; kept || inner["c"] != "new" || inner["d"] != 2.0 {
		t.Errorf("a merged section is %v", got)
	}
	if got := s.Do(t, "GET", section, nil).Want(t, 200).Object(t); len(got) != 1 {
		t.Errorf("the section is %v", got)
	}
	s.Do(t, "PUT", section, "{").Want(t, 400)
	s.Do(t, "GET", "api/config/jupyterlabapputilsextensionannouncements?1795502306591", nil).Want(t, 200).Object(t)
}

func lspStatus(t testing.TB, s *target) {
	answer := s.Do(t, "GET", "lsp/status", nil).Want(t, 200, 404)
	if answer.Status == 200 {
		if _, ok := answer.Object(t)["sessions"].(map[string]any); !ok {
			t.Errorf("lsp/status is %s", answer.Body)
		}
	}
}
