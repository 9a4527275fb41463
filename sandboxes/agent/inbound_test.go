package agent

import (
	"fmt"
	"net"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"kernelgw/jupyter"
	"kernelgw/jupyter/wsproto"
	"kernelgw/jupyter/zmq"
	"kernelgw/sandboxes/agentapi"
)

// refusing is a kernel that takes nothing.
type refusing struct{ err error }

func (r refusing) Send(*jupyter.Message) error { return r.err }

func executeRequest(t *testing.T, id string) *jupyter.Message {
	t.Helper()
	m, err := jupyter.NewMessage(jupyter.Shell, "execute_request", "s", map[string]any{"code": "1"})
	if err != nil {
		t.Fatal(err)
	}
	m.Header = fmt.Appendf(nil, `{"msg_id":%q,"session":"header session","msg_type":"execute_request"}`, id)
	return m
}

func newTestHub(t *testing.T) *hub {
	t.Helper()
	o, err := Options{Config: agentapi.Config{Token: "t", Spec: jupyter.Kernelspec{Argv: []string{"x"}}}, Listener: noListener{}}.withDefaults()
	if err != nil {
		t.Fatal(err)
	}
	return newHub(&o, func() {})
}

func outstanding(h *hub) int {
	var s agentapi.Status
	h.track.describe(&s)
	return s.Executions
}

func TestRefusedExecutionsAreNotOutstanding(t *testing.T) {
	for _, refusal := range []error{zmq.ErrBacklog, zmq.ErrTooLarge} {
		h := newTestHub(t)
		h.inbound.open(h, refusing{refusal})
		if err := h.inbound.send(h, executeRequest(t, "a"), "a"); err == nil {
			t.Errorf("%v: the client is not told", refusal)
		}
		if n := outstanding(h); n != 0 {
			t.Errorf("%v: %d executions are outstanding", refusal, n)
		}
	}
	h := newTestHub(t)
	var err error
	for i := 0; err == nil; i++ {
		id := fmt.Sprint(i)
		err = h.inbound.send(h, executeRequest(t, id), id)
	}
	if n := outstanding(h); n != maxHeld {
		t.Errorf("%d executions are outstanding, %d are held", n, maxHeld)
	}
	// The kernel ends while it is given them: they stay, and what does not fit
	// any more does not.
	h.inbound.open(h, refusing{zmq.ErrClosed})
	if err := h.inbound.send(h, executeRequest(t, "over"), "over"); err == nil {
		t.Error("one more was held")
	}
	if n := outstanding(h); n != maxHeld {
		t.Errorf("%d executions are outstanding, %d are held", n, maxHeld)
	}
}

func TestAnswerOfTheFirstIsAwaitedWhenARepetitionIsRefused(t *testing.T) {
	h := newTestHub(t)
	h.inbound.open(h, refusing{nil})
	if err := h.inbound.send(h, executeRequest(t, "a"), "a"); err != nil {
		t.Fatal(err)
	}
	h.inbound.open(h, refusing{zmq.ErrBacklog})
	h.inbound.send(h, executeRequest(t, "a"), "a")
	if n := outstanding(h); n != 1 {
		t.Errorf("%d executions are outstanding, want the first", n)
	}
}

func TestHeldExecutionThatTheKernelRefusesIsTold(t *testing.T) {
	h := newTestHub(t)
	s := &socket{hub: h, encoding: wsproto.V1, wake: make(chan struct{}, 1)}
	c := h.attach(s, "c")
	begin := h.events.Now(c.id)
	if err := h.fromClient(c, executeRequest(t, "a")); err != nil {
		t.Fatal(err)
	}
	h.inbound.open(h, refusing{zmq.ErrBacklog})
	if n := outstanding(h); n != 0 {
		t.Errorf("%d executions are outstanding", n)
	}
	items := h.events.Read(&begin, c.id, 10, 1<<20, nil)
	if len(items) != 1 {
		t.Fatalf("%d messages, want one", len(items))
	}
	m, err := decode(wsproto.V1, true, items[0].Entry.Value.v1)
	if err != nil {
		t.Fatal(err)
	}
	if m.Parent.MsgID != "a" || !strings.Contains(m.text(), "does not read") {
		t.Errorf("told %+v", m)
	}
	if end := s.end(); end == nil || !end.drain {
		t.Errorf("the connection ends with %+v", end)
	}
	s.cutter.Stop()
	h.detach(s)
}

// asking is a kernel that takes nothing, and while it is given the first message,
// code is to be executed that has its id.
type asking struct {
	h     *hub
	once  sync.Once
	asked chan error
}

func (k *asking) Send(*jupyter.Message) error {
	k.once.Do(func() {
		go func() {
			_, err := k.h.executions.submit(agentapi.ExecuteRequest{ID: "a"})
			k.asked <- err
		}()
		for k.h.executions.current.Load() == nil { // it then wants to send
			runtime.Gosched()
		}
	})
	return zmq.ErrBacklog
}

func TestRefusalsAndExecutionsDoNotWaitForEachOther(t *testing.T) {
	for range 300 {
		h := newTestHub(t)
		if err := h.inbound.send(h, executeRequest(t, "a"), "a"); err != nil {
			t.Fatal(err)
		}
		k := &asking{h: h, asked: make(chan error, 1)}
		opened := make(chan struct{})
		go func() {
			defer close(opened)
			h.inbound.open(h, k)
		}()
		for _, done := range []func() bool{
			func() bool { <-opened; return true },
			func() bool { return <-k.asked == nil },
		} {
			got := make(chan bool, 1)
			go func() { got <- done() }()
			select {
			case ok := <-got:
				if !ok {
					t.Error("the execution is not taken")
				}
			case <-time.After(patience):
				t.Fatal("they wait for each other")
			}
		}
		if e, _, err := h.executions.find("a"); err != nil || !strings.HasPrefix(e.Problem, "not executed: ") {
			t.Errorf("%+v %v", e, err)
		}
	}
}

type noListener struct{ net.Listener }

func TestOneMessageOfAnySizeWaitsForAKernelThatStarts(t *testing.T) {
	h := newTestHub(t)
	large := executeRequest(t, "large")
	large.Buffers = [][]byte{make([]byte, maxHeldBytes+1)}
	if err := h.inbound.send(h, large, "large"); err != nil {
		t.Error(err)
	}
	if err := h.inbound.send(h, executeRequest(t, "next"), "next"); err == nil {
		t.Error("another one was held beside it")
	}
}
