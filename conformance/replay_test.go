package conformance

import (
	"strings"
	"testing"
	"time"

	"kernelgw/conformance/probe"
)

var replayChecks = []check{
	{name: "OutputWhileAwayIsReplayed", run: outputWhileAwayIsReplayed},
	{name: "ReplyWhileAwayIsReplayed", run: replyWhileAwayIsReplayed},
	{name: "AnotherSessionGetsNoReplay", run: anotherSessionGetsNoReplay},
	{name: "ReplayHappensOnce", run: replayHappensOnce},
	{name: "DuplicateSessionReplacesTheFirst", run: duplicateSessionReplaces},
	{
		name: "DropInFullFlowLosesNothing", run: dropInFullFlow,
		extension: &extension{because: "what was written to the dead socket is lost", fails: "where \\d+ was due"},
	},
	{
		name: "DropLosesNothingWhileAnotherWatches", run: dropWhileAnotherWatches,
		extension: &extension{because: "it buffers only when the last client leaves", fails: "where \\d+ was due"},
	},
}

// whileAsleep is less than the cells below sleep, and enough for a busy machine.
const whileAsleep = 3900 * time.Millisecond

func outputWhileAwayIsReplayed(t testing.TB, s *target) {
	for _, legacy := range []bool{false, true} {
		k := s.StartKernel(t)
		session := probe.ID()
		w := s.Dial(t, k.ID, probe.Dialing{Session: session, Legacy: legacy})
		w.Run(t, "import time")
		id := w.Start(t, "time.sleep(4)\nfor i in range(100):\n    print(i)\nprint('end')")
		w.Wait(t, probe.Patience, "the cell to begin", func(m probe.Message) bool { return m.Header.MsgType == "execute_input" })
		w.Close()
		eventually(t, s, k.ID, "busy and without sockets", whileAsleep, func(k probe.Kernel) bool {
			return *k.Connections == 0 && k.ExecutionState == "busy"
		})
		eventually(t, s, k.ID, "done", probe.Patience, func(k probe.Kernel) bool { return k.ExecutionState == "idle" })
		w = s.Dial(t, k.ID, probe.Dialing{Session: session, Legacy: legacy})
		out := w.Finish(t, id, probe.Patience).Stdout
		if problem := lines(strings.TrimSuffix(out, "end\n"), 100); problem != "" {
			t.Error(problem)
		}
	}
}

func replyWhileAwayIsReplayed(t testing.TB, s *target) {
	k := s.StartKernel(t)
	session := probe.ID()
	w := s.Dial(t, k.ID, probe.Dialing{Session: session})
	w.Run(t, "import time")
	id := w.Start(t, "time.sleep(4); 1/0")
	w.Wait(t, probe.Patience, "the cell to begin", func(m probe.Message) bool { return m.Header.MsgType == "execute_input" })
	w.Drop()
	eventually(t, s, k.ID, "busy", whileAsleep, func(k probe.Kernel) bool { return k.ExecutionState == "busy" })
	eventually(t, s, k.ID, "done", probe.Patience, func(k probe.Kernel) bool { return k.ExecutionState == "idle" })
	r := s.Dial(t, k.ID, probe.Dialing{Session: session}).Finish(t, id, probe.Patience)
	if r.Reply.Field("ename") != "ZeroDivisionError" {
		t.Errorf("reply is %.200s", r.Reply.Content)
	}
}

func anotherSessionGetsNoReplay(t testing.TB, s *target) {
	k := s.StartKernel(t)
	w := s.Dial(t, k.ID, probe.Dialing{Session: probe.ID()})
	w.Run(t, "import time")
	id := w.Start(t, "time.sleep(4); print('missed')")
	w.Wait(t, probe.Patience, "the cell to begin", func(m probe.Message) bool { return m.Header.MsgType == "execute_input" })
	w.Close()
	eventually(t, s, k.ID, "busy", whileAsleep, func(k probe.Kernel) bool { return k.ExecutionState == "busy" })
	eventually(t, s, k.ID, "done", probe.Patience, func(k probe.Kernel) bool { return k.ExecutionState == "idle" })
	r := s.Dial(t, k.ID, probe.Dialing{Session: probe.ID()}).Run(t, "print('mine')")
	for _, m := range r.Others {
		if m.Parent.MsgID == id {
			t.Errorf("another session got %s/%s of the cell", m.Channel, m.Header.MsgType)
		}
	}
	if r.Stdout != "mine\n" {
		t.Errorf("stdout is %q", r.Stdout)
	}
}

func replayHappensOnce(t testing.TB, s *target) {
	k := s.StartKernel(t)
	session := probe.ID()
	w := s.Dial(t, k.ID, probe.Dialing{Session: session})
	id := w.Start(t, "print('once')")
	w.Finish(t, id, probe.Patience)
	for range 3 {
		time.Sleep(300 * time.Millisecond) // the time to acknowledge, which no client can do once it has closed
		w.Close()
		w = s.Dial(t, k.ID, probe.Dialing{Session: session})
		for _, m := range w.Run(t, "2").Others {
			if m.Parent.MsgID == id {
				t.Errorf("%s/%s of a finished cell came again", m.Channel, m.Header.MsgType)
			}
		}
	}
}

func duplicateSessionReplaces(t testing.TB, s *target) {
	k := s.StartKernel(t)
	session := probe.ID()
	first := s.Dial(t, k.ID, probe.Dialing{Session: session, Legacy: true})
	first.Run(t, "1")
	second := s.Dial(t, k.ID, probe.Dialing{Session: session})
	if code, reason := first.WaitClosed(t, probe.Patience); code == 1000 {
		t.Errorf("the first was closed with 1000 (%s), which says that the kernel is gone", reason)
	}
	if got := second.Run(t, "print('second')").Stdout; got != "second\n" {
		t.Errorf("stdout is %q", got)
	}
	eventually(t, s, k.ID, "at one connection", probe.Patience, func(k probe.Kernel) bool { return *k.Connections == 1 })
}

// reader collects a cell's output over as many sockets as it takes.
type reader struct {
	id     string
	stream []probe.Piece // in the order of arrival
	idle   bool
}

// take reads until the cell has ended or n more messages of it have come.
func (r *reader) take(t testing.TB, w *probe.Socket, n int) {
	t.Helper()
	if err := r.read(w, n); err != nil {
		t.Fatalf("after %d messages of output: %v", len(r.stream), err)
	}
}

// rest takes what a broken socket had brought before it broke.
func (r *reader) rest(w *probe.Socket) { _ = r.read(w, 1<<20) }

func (r *reader) read(w *probe.Socket, n int) error {
	for !r.idle && n > 0 {
		m, err := w.TryNext(probe.Patience)
		if err != nil {
			return err
		}
		if m.Parent.MsgID != r.id || m.Channel != "iopub" {
			continue
		}
		n--
		switch {
		case m.State() == "idle":
			r.idle = true
		case m.Header.MsgType == "stream":
			r.stream = append(r.stream, probe.Piece{ID: m.Header.MsgID, Text: m.Field("text")})
		}
	}
	return nil
}

const printing = "for i in range(3000):\n    print(i, flush=True)\n    time.sleep(0.0005)"

func dropInFullFlow(t testing.TB, s *target) {
	k := s.StartKernel(t)
	session := probe.ID()
	w := s.Dial(t, k.ID, probe.Dialing{Session: session})
	w.Run(t, "import time")
	r := &reader{id: w.Start(t, printing)}
	for range 5 {
		r.take(t, w, 300)
		w.Drop()
		r.rest(w)
		w = s.Dial(t, k.ID, probe.Dialing{Session: session})
	}
	r.take(t, w, 1<<20)
	problem, twice := probe.Lossless(r.stream, 3000)
	if problem != "" {
		t.Error(problem)
	}
	t.Logf("%d messages came twice in 5 breaks", twice)
}

func dropWhileAnotherWatches(t testing.TB, s *target) {
	k := s.StartKernel(t)
	session := probe.ID()
	s.Dial(t, k.ID, probe.Dialing{Session: probe.ID()})
	w := s.Dial(t, k.ID, probe.Dialing{Session: session})
	w.Run(t, "import time")
	r := &reader{id: w.Start(t, printing)}
	r.take(t, w, 500)
	w.Close()
	r.rest(w)
	time.Sleep(300 * time.Millisecond) // output goes on meanwhile
	r.take(t, s.Dial(t, k.ID, probe.Dialing{Session: session}), 1<<20)
	problem, twice := probe.Lossless(r.stream, 3000)
	if problem != "" {
		t.Error(problem)
	}
	t.Logf("%d messages came twice", twice)
}
