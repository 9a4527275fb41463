package probe

import (
	"strings"
	"testing"
	"time"
)

// Patience is how long a cell, a kernel start or a restart may take.
const Patience = 60 * time.Second

// Kernel is the kernel model.
type Kernel struct {
	ID             string  `json:"id"`
	Name           string  `json:"name"`
	LastActivity   string  `json:"last_activity"`
	ExecutionState string  `json:"execution_state"`
	Connections    *int    `json:"connections"`
	Reason         *string `json:"reason"`
}

// StartKernel starts a kernel of the default spec and shuts it down when the
// test ends.
func (s *Server) StartKernel(t testing.TB) Kernel {
	t.Helper()
	var k Kernel
	s.Do(t, "POST", "api/kernels", nil).Want(t, 201).Decode(t, &k)
	s.deleteAfter(t, k.ID)
	return k
}

// Adopt shuts a kernel down when the test ends.
func (s *Server) Adopt(t testing.TB, kernel string) { s.deleteAfter(t, kernel) }

func (s *Server) deleteAfter(t testing.TB, kernel string) {
	t.Cleanup(func() {
		// t.Context is over by now.
		if err := s.DeleteKernel(kernel); err != nil {
			t.Logf("cannot shut kernel %s down: %v", kernel, err)
		}
	})
}

// Result is what one cell gave.
type Result struct {
	ID       string // of the execute_request
	Reply    Message
	Messages []Message // all with this cell as parent, the reply and idle included
	Others   []Message // all else that came meanwhile
	Stdout   string
}

// ExecuteContent is the content of an ordinary execute_request.
func ExecuteContent(code string) map[string]any {
	return map[string]any{
		"code": code, "silent": false, "store_history": true,
		"user_expressions": map[string]any{}, "allow_stdin": false, "stop_on_error": true,
	}
}

// Start sends a cell and returns the id of its request.
func (w *Socket) Start(t testing.TB, code string) string {
	t.Helper()
	return w.Send(t, Outgoing{Channel: "shell", Type: "execute_request", Content: ExecuteContent(code)})
}

// Finish reads until the reply and the idle of a cell have come.
func (w *Socket) Finish(t testing.TB, id string, within time.Duration) Result {
	t.Helper()
	r := Result{ID: id}
	var stdout strings.Builder
	replied, idle := false, false
	deadline := time.Now().Add(within)
	for !replied || !idle {
		m, err := w.TryNext(time.Until(deadline))
		if err != nil {
			t.Fatalf("waiting %v for a cell (reply %v, idle %v): %v; got %s; others %s", within, replied, idle, err, Summary(r.Messages), Summary(r.Others))
		}
		if m.Parent.MsgID != id {
			r.Others = append(r.Others, m)
			continue
		}
		r.Messages = append(r.Messages, m)
		switch {
		case m.Channel == "shell":
			r.Reply, replied = m, true
		case m.State() == "idle":
			idle = true
		case m.Header.MsgType == "stream" && m.Field("name") == "stdout":
			stdout.WriteString(m.Field("text"))
		}
	}
	r.Stdout = stdout.String()
	return r
}

// Run executes a cell and waits for its end.
func (w *Socket) Run(t testing.TB, code string) Result {
	t.Helper()
	return w.Finish(t, w.Start(t, code), Patience)
}
