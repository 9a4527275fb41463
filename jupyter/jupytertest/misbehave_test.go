package jupytertest_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"kernelgw/jupyter"
	"kernelgw/jupyter/jupytertest"
	"kernelgw/jupyter/zmq"
)

// A cell that misbehaves without breaking ZeroMQ comes to its end, and the
// client has counted or relayed what it sent.
func TestMisbehaviourWithinTheProtocol(t *testing.T) {
	_, info := jupytertest.Start(t)
	for _, tc := range []struct {
		code    string
		stats   zmq.Stats
		content string // of what is relayed, "" when nothing is
	}{
		{"wrong-hmac", zmq.Stats{Unsigned: 1}, ""},
		{"truncated", zmq.Stats{Malformed: 1}, ""},
		{"no-delimiter", zmq.Stats{Malformed: 1}, ""},
		{"invalid-utf8", zmq.Stats{}, "caf\xe9"},
		{"invalid-json", zmq.Stats{}, `"text":`},
		{"bogus-status", zmq.Stats{}, "suspended"},
	} {
		t.Run(tc.code, func(t *testing.T) {
			c := dial(t, info)
			c.run(t, tc.code)
			found := false
			for _, m := range c.until(t, "idle") {
				found = found || tc.content != "" && strings.Contains(string(m.Content), tc.content)
			}
			if c.Stats() != tc.stats || found != (tc.content != "") {
				t.Errorf("stats %+v, want %+v; relayed: %v", c.Stats(), tc.stats, found)
			}
		})
	}
}

func TestMisbehaviourThatEndsTheConnection(t *testing.T) {
	for _, code := range []string{"huge-frame", "claim 8589934592"} {
		t.Run(code, func(t *testing.T) {
			_, info := jupytertest.Start(t)
			z, err := zmq.Dial(t.Context(), info, zmq.Options{})
			if err != nil {
				t.Fatal(err)
			}
			c := &client{Client: z}
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			defer cancel()
			err = z.Run(ctx, func(m *jupyter.Message) {
				if kind(m) == "iopub_welcome" { // before, nobody would hear it
					c.run(t, code)
				}
			})
			if !errors.Is(err, zmq.ErrProtocol) {
				t.Errorf("Run ended with %v, want ErrProtocol", err)
			}
		})
	}
}

func TestNeverAnswer(t *testing.T) {
	k, info := jupytertest.Start(t)
	c := dial(t, info)
	c.run(t, "never answer")
	c.run(t, "say next")
	for _, m := range c.until(t, "idle") {
		if strings.Contains(string(m.Content), "never") {
			t.Errorf("it answered: %s", m.Content)
		}
	}
	if k.Received() != 2 {
		t.Errorf("%d requests received, want 2", k.Received())
	}
}

// BenchmarkFlood shows what the fake kernel can produce: a load test of what
// stands before it needs more than that can relay.
func BenchmarkFlood(b *testing.B) {
	_, info := jupytertest.Start(b)
	z, err := zmq.Dial(b.Context(), info, zmq.Options{VerifyBytes: 1})
	if err != nil {
		b.Fatal(err)
	}
	c := &client{Client: z}
	n := 0
	var start time.Time
	z.Run(b.Context(), func(m *jupyter.Message) {
		switch kind(m) {
		case "iopub_welcome":
			c.run(b, "flood 100")
			start = time.Now()
		case "stream":
			if n++; n == b.N {
				z.Close()
			}
		}
	})
	b.ReportMetric(float64(n)/time.Since(start).Seconds(), "messages/s")
}
