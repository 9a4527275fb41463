package kernelgw_test

import (
	"context"
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/websocket"
)

// listen opens ada's socket of events.
func (g *gateway) listen(path string) *websocket.Conn {
	g.t.Helper()
	ws, r, err := g.dial(path, "Authorization: token "+adaToken)
	if err != nil {
		g.t.Fatalf("%v: %d %s", err, r.StatusCode, r.body)
	}
	return ws
}

// event reads the next event.
func event(t *testing.T, ws *websocket.Conn) map[string]any {
	t.Helper()
	_, text, err := ws.ReadMessage()
	if err != nil {
		t.Fatal(err)
	}
	var e map[string]any
	if err := json.Unmarshal(text, &e); err != nil {
		t.Fatalf("%v in %s", err, text)
	}
	return e
}

func TestEventsOfAWorkspaceAreToldToItsListenersOnly(t *testing.T) {
	g := start(t)
	ws, team := g.listen("/api/events/subscribe"), g.listen("/w/team/api/events/subscribe")
	g.want(g.ada("PUT", "/api/contents/a.txt", `{"type":"file","format":"text","content":"x"}`), 201)
	g.want(g.ada("GET", "/api/contents/a.txt", ""), 200) // not told
	g.want(g.ada("PATCH", "/api/contents/a.txt", `{"path":"b.txt"}`), 200)
	kernel := g.kernel("math")
	g.want(g.ada("POST", "/api/kernels/"+kernel+"/interrupt", ""), 204)
	for _, want := range []map[string]any{
		{"schema_id": "https://events.jupyter.org/jupyter_server/contents_service/v1", "path": "a.txt"},
		{"action": "rename", "path": "b.txt", "source_path": "a.txt"},
		{"schema_id": "https://events.jupyter.org/jupyter_server/kernel_actions/v1", "action": "start", "kernel_id": kernel, "kernel_name": "python3", "status": "success"},
		{"action": "interrupt", "kernel_id": kernel},
	} {
		got := event(t, ws)
		for name, value := range want {
			if got[name] != value {
				t.Errorf("%s of %v is not %v", name, got, value)
			}
		}
	}
	g.want(g.ada("POST", "/w/team/api/events",
		`{"schema_id":"https://events.jupyter.org/jupyter_server/kernel_actions/v1","version":"1","data":{"action":"own","__x":1,"schema_id":"y"}}`), 204)
	if got := event(t, team); got["action"] != "own" || got["__x"] != nil || got["schema_id"] == "y" {
		t.Errorf("team hears %v", got)
	}
}

func TestEventsThatCannotBeTold(t *testing.T) {
	g := start(t)
	for _, body := range []string{
		"", "[]", "{}", `{"schema_id":"x","version":"1","data":{}}`, `{"schema_id":"https://events.jupyter.org/jupyter_server/kernel_actions/v1"}`,
		`{"schema_id":"https://events.jupyter.org/jupyter_server/kernel_actions/v1","version":"1","data":[]}`,
	} {
		g.want(g.ada("POST", "/api/events", body), 400)
	}
	// 256 of a megabyte each would wait for every listener that does not read.
	large := `{"schema_id":"https://events.jupyter.org/jupyter_server/kernel_actions/v1","version":"1","data":{"x":"` + strings.Repeat("x", 16<<10) + `"}}`
	g.want(g.ada("POST", "/api/events", large), http.StatusRequestEntityTooLarge)
}

// Listeners that do not read, and many of them, cost others nothing.
func TestListenerThatDoesNotReadHoldsNobodyUp(t *testing.T) {
	t.Parallel()
	g := start(t)
	g.listen("/api/events/subscribe")
	told := make(chan struct{})
	go func() {
		defer close(told)
		for range 100_000 {
			g.events.Contents("save", "math", "some/longer/path/of/a/file.txt", "")
		}
	}()
	select {
	case <-told:
	case <-time.After(2 * time.Minute):
		t.Fatal("telling waits for who does not read")
	}
}

func TestEventSocketsEndWithTheirLoginAndWithTheServer(t *testing.T) {
	g := start(t)
	cookies, _ := g.login()
	ws, _, err := g.dial("/api/events/subscribe", "Cookie: "+cookies)
	if err != nil {
		t.Fatal(err)
	}
	other := g.listen("/api/events/subscribe")
	g.want(g.do("GET", "/logout", "", "Cookie: "+cookies), http.StatusOK)
	if _, _, err := ws.ReadMessage(); !websocket.IsCloseError(err, 1008) {
		t.Errorf("after the logout: %v", err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	drained := make(chan error, 1)
	go func() { drained <- g.server.Drain(ctx) }()
	if _, _, err := other.ReadMessage(); !websocket.IsCloseError(err, 1012) {
		t.Errorf("at the drain: %v", err)
	}
	if err := <-drained; err != nil {
		t.Error(err)
	}
}
