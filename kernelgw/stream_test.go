package kernelgw

import (
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// A transfer that moves may take for ever; one that dribbles may not.
func TestDeadlineOfATransferMovesWithItsBytes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		begin := time.Now()
		for name, c := range map[string]struct {
			perSecond int
			survives  bool
		}{
			"a fast network":  {10 << 20, true},
			"a slow network":  {20 << 10, true},
			"a slow loris":    {1, false},
			"a dribble":       {4 << 10, false},
			"nothing at all":  {0, false},
			"exactly as slow": {slowestTransfer, true},
		} {
			deadline := begin.Add(bodyTimeout)
			pace := steady{
				set:      func(to time.Time) error { deadline = to; return nil },
				patience: bodyTimeout, started: begin,
			}
			survived := true
			for now := begin; now.Before(begin.Add(time.Hour)) && survived; now = now.Add(time.Second) {
				if survived = !now.After(deadline); survived {
					pace.moved(c.perSecond)
				}
			}
			if survived != c.survives {
				t.Errorf("%s goes on: %v", name, survived)
			}
		}
	})
}

// A copy of a large directory, or the last chunk of a large upload, takes longer
// than its small body, and than a small answer.
func TestHandlerMayTakeLongerThanItsBodyAndItsAnswer(t *testing.T) {
	const patience = 50 * time.Millisecond
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		now, connection := time.Now(), http.NewResponseController(w)
		if err := errors.Join(connection.SetReadDeadline(now.Add(patience)), connection.SetWriteDeadline(now.Add(patience))); err != nil {
			t.Error(err)
		}
		body := &steadyBody{r.Body, steady{set: connection.SetReadDeadline, patience: patience, started: now}}
		answer := &steadyWriter{w, steady{set: connection.SetWriteDeadline, patience: patience}}
		if _, err := io.ReadAll(body); err != nil {
			t.Error(err)
		}
		select {
		case <-r.Context().Done():
			t.Error("the deadline ended a request whose body was there")
		case <-time.After(10 * patience):
		}
		answer.WriteHeader(http.StatusNoContent)
	}))
	defer server.Close()
	r, err := http.Post(server.URL, "application/json", strings.NewReader("{}"))
	if err != nil {
		t.Fatal(err)
	}
	r.Body.Close()
}
