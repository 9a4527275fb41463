package kernelgw

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"kernelgw/kernelgw/kernels"
	"kernelgw/sandboxes/agentapi"
)

// Whatever an agent sends, in whatever pieces, the gateway's own last words stand
// behind a whole event, or nowhere.
func FuzzEventsEndAtABoundary(f *testing.F) {
	f.Add([]byte("data: 1\n\ndata: 2\n\n"), uint8(3), uint8(1))
	f.Add([]byte("\n\n\n\n"), uint8(1), uint8(0))
	f.Add([]byte("a\n\nb"), uint8(1), uint8(4))
	f.Fuzz(func(t *testing.T, sent []byte, size, when uint8) {
		w := httptest.NewRecorder()
		p := &eventPump{out: w, control: http.NewResponseController(w), atEnd: true}
		const last = ": last\n\n"
		passed := 0
		for i := 0; passed < len(sent) && !p.done; i++ {
			if i == int(when) {
				if err := p.end(last); err != nil {
					t.Fatal(err)
				}
				if p.done {
					break
				}
			}
			n := min(1+int(size%7), len(sent)-passed)
			if err := p.pass(sent[passed : passed+n]); err != nil {
				t.Fatal(err)
			}
			passed += n
		}
		got := w.Body.Bytes()
		if !p.done {
			if !bytes.Equal(got, sent[:passed]) {
				t.Fatalf("%q crossed as %q", sent[:passed], got)
			}
			return
		}
		before, ok := strings.CutSuffix(string(got), last)
		if !ok || !strings.HasPrefix(string(sent), before) || before != "" && !strings.HasSuffix(before, "\n\n") {
			t.Fatalf("%q crossed as %q", sent, got)
		}
	})
}

// An agent that says nothing more at all is lost, whatever its connection does.
func TestStreamsOfAnAgentThatFallsSilentEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		events, agent := io.Pipe()
		w := httptest.NewRecorder()
		p := &eventPump{out: w, control: http.NewResponseController(w), atEnd: true}
		to := kernels.Connection{Dead: func(ctx context.Context) (string, bool) { <-ctx.Done(); return "", false }}
		began := time.Now()
		go func() {
			for range 10 {
				time.Sleep(2 * agentapi.StreamBeat) // late, but there
				_, _ = io.WriteString(agent, ": beat\n\n")
			}
		}()
		if err := new(Server).pumpEvents(t.Context(), p, events, to, nil, nil); !errors.Is(err, errStreamSilent) {
			t.Errorf("it ends with %v", err)
		}
		if got := w.Body.String(); got != strings.Repeat(": beat\n\n", 10)+sseLost {
			t.Errorf("the client got %q", got)
		}
		if took := time.Since(began); took != 10*2*agentapi.StreamBeat+streamSilence+lostPatience {
			t.Errorf("it ended after %v", took)
		}
	})
}
