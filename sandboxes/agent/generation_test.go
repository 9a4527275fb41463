package agent

import (
	"testing"
	"time"

	"kernelgw/jupyter"
	"kernelgw/jupyter/zmq"
)

func TestShutdownRequestExplainsTheEndOfAKernel(t *testing.T) {
	asked := time.Now()
	for name, c := range map[string]struct {
		after    time.Duration
		exitCode int
		want     bool
	}{
		"at once":                {0, 0, true},
		"killed on the way":      {time.Second, -1, true},
		"after its cell":         {time.Hour, 0, true},
		"a crash hours later":    {time.Hour, -1, false},
		"an error, hours later":  {time.Hour, 1, false},
		"an error on the way":    {time.Second, 1, true},
		"a crash after the time": {wishLifetime + 1, -1, false},
	} {
		g := &generation{}
		g.asked.Store(&wish{at: asked})
		if got := g.wished(asked.Add(c.after), c.exitCode) != nil; got != c.want {
			t.Errorf("%s: %v", name, got)
		}
	}
	if (&generation{}).wished(asked, 0) != nil {
		t.Error("nobody asked")
	}
}

func TestShutdownRequestThatDidNotReachTheKernelIsNoWish(t *testing.T) {
	g := &generation{}
	g.conn.Store(&zmq.Client{}) // takes nothing
	m, err := jupyter.NewMessage(jupyter.Control, "shutdown_request", "s", map[string]bool{"restart": true})
	if err != nil {
		t.Fatal(err)
	}
	if g.Send(m) == nil {
		t.Fatal("it was sent")
	}
	if g.wished(time.Now(), 0) != nil {
		t.Error("it counts")
	}
}
