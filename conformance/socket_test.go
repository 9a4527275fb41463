package conformance

import (
	"fmt"
	"math"
	"strings"
	"testing"
	"time"

	"kernelgw/conformance/probe"
)

var socketChecks = []check{
	{name: "StdinReachesOnlyTheRequester", run: stdinReachesOnlyTheRequester},
	{name: "RepliesReachOnlyTheRequesterAndIopubAll", run: repliesReachOnlyTheRequester},
	{name: "StatusFollowsKernelInfo", run: statusFollowsKernelInfo},
	{name: "ControlChannelAnswersWhileBusy", run: controlWhileBusy},
	{name: "ErrorsArriveWhole", run: errorsArriveWhole},
	{
		name: "ManyPrintsAllArriveInOrder", run: manyPrints,
		extension: &extension{because: "it drops output above 1000 messages or 1 MB a second, and at times the idle after it", fails: "lines|reply true, idle false"},
	},
	{
		name: "ShutdownTellsOpenSockets", run: shutdownTellsSockets,
		extension: &extension{because: "it leaves sockets of a deleted kernel open, and silent", fails: "waiting 15s for dead"},
	},
}

func stdinReachesOnlyTheRequester(t testing.TB, s *target) {
	k := s.StartKernel(t)
	asker := s.Dial(t, k.ID, probe.Dialing{Session: probe.ID()})
	other := s.Dial(t, k.ID, probe.Dialing{Session: probe.ID(), Legacy: true})
	for _, pair := range [][2]*probe.Socket{{asker, other}, {other, asker}} {
		content := probe.ExecuteContent("print('got ' + input('name? '))")
		content["allow_stdin"] = true
		id := pair[0].Send(t, probe.Outgoing{Channel: "shell", Type: "execute_request", Content: content})
		request, _ := pair[0].Wait(t, probe.Patience, "the input_request", func(m probe.Message) bool { return m.Header.MsgType == "input_request" })
		if request.Channel != "stdin" || request.Field("prompt") != "name? " || request.Parent.MsgID != id {
			t.Errorf("input_request on %s, parent %s: %s", request.Channel, request.Parent.MsgID, request.Content)
		}
		pair[0].Send(t, probe.Outgoing{Channel: "stdin", Type: "input_reply", Parent: request.RawHeader, Content: map[string]string{"value": "ada"}})
		if got := pair[0].Finish(t, id, probe.Patience).Stdout; got != "got ada\n" {
			t.Errorf("stdout is %q", got)
		}
		// The other socket sees the cell's iopub up to idle, and no request.
		_, before := pair[1].Wait(t, probe.Patience, "the other's view of idle", func(m probe.Message) bool { return m.State() == "idle" && m.Parent.MsgID == id })
		for _, m := range before {
			if m.Channel == "stdin" {
				t.Errorf("the other socket got %s", m.Header.MsgType)
			}
		}
	}
}

func repliesReachOnlyTheRequester(t testing.TB, s *target) {
	k := s.StartKernel(t)
	a := s.Dial(t, k.ID, probe.Dialing{Session: probe.ID()})
	b := s.Dial(t, k.ID, probe.Dialing{Session: probe.ID()})
	id := a.Start(t, "print('for all')")
	if got := a.Finish(t, id, probe.Patience).Stdout; got != "for all\n" {
		t.Errorf("stdout is %q", got)
	}
	seen := false
	_, before := b.Wait(t, probe.Patience, "the other's idle", func(m probe.Message) bool { return m.State() == "idle" && m.Parent.MsgID == id })
	for _, m := range before {
		if m.Channel == "shell" && m.Parent.MsgID == id {
			t.Error("the reply reached the other socket")
		}
		seen = seen || m.Field("text") == "for all\n"
	}
	if !seen {
		t.Error("the output did not reach the other socket")
	}
}

func statusFollowsKernelInfo(t testing.TB, s *target) {
	w := s.Dial(t, s.sharedKernel(t), probe.Dialing{Session: probe.ID()})
	soonest := time.Duration(math.MaxInt64)
	for range 5 { // a busy machine may hold one up
		r := w.Finish(t, w.Send(t, probe.Outgoing{Channel: "shell", Type: "kernel_info_request"}), probe.Patience)
		busy := false
		for _, m := range r.Messages {
			busy = busy || m.State() == "busy"
		}
		if !busy || r.Reply.Header.MsgType != "kernel_info_reply" {
			t.Errorf("kernel_info gave %s", probe.Summary(r.Messages))
		}
		soonest = min(soonest, r.Messages[len(r.Messages)-1].At.Sub(r.Reply.At))
	}
	if soonest > 200*time.Millisecond {
		t.Errorf("status came %v after the kernel_info_reply: nbclient allows 200 ms", soonest)
	}
}

func controlWhileBusy(t testing.TB, s *target) {
	k := s.StartKernel(t)
	w := s.Dial(t, k.ID, probe.Dialing{Session: probe.ID()})
	w.Run(t, "import time")
	cell := w.Start(t, "time.sleep(4)")
	began := time.Now()
	info := w.Send(t, probe.Outgoing{Channel: "control", Type: "kernel_info_request"})
	reply, _ := w.Wait(t, probe.Patience, "the control reply", func(m probe.Message) bool {
		return m.Channel == "control" && m.Parent.MsgID == info
	})
	if took := reply.At.Sub(began); took > whileAsleep {
		t.Errorf("control answered after %v, behind the cell", took)
	}
	w.Finish(t, cell, probe.Patience)
}

func errorsArriveWhole(t testing.TB, s *target) {
	w := s.Dial(t, s.sharedKernel(t), probe.Dialing{Session: probe.ID()})
	r := w.Run(t, "1/0")
	var failure probe.Message
	for _, m := range r.Messages {
		if m.Header.MsgType == "error" {
			failure = m
		}
	}
	if failure.Field("ename") != "ZeroDivisionError" || !strings.Contains(string(failure.Content), "traceback") {
		t.Errorf("error message is %.200s", failure.Content)
	}
	if r.Reply.Field("status") != "error" {
		t.Errorf("reply is %.200s", r.Reply.Content)
	}
}

func manyPrints(t testing.TB, s *target) {
	k := s.StartKernel(t)
	w := s.Dial(t, k.ID, probe.Dialing{Session: probe.ID()})
	const n = 6000
	out := w.Run(t, fmt.Sprintf("for i in range(%d):\n    print(str(i).ljust(3000), flush=True)", n)).Stdout
	if problem := lines(out, n); problem != "" {
		t.Error(problem)
	}
}

// lines says what is wrong with output that should be the numbers below n in
// order, each once.
func lines(out string, n int) string {
	got := strings.Fields(out)
	for i := range n {
		switch {
		case i >= len(got):
			return fmt.Sprintf("lines end before %d of %d", i, n)
		case got[i] != fmt.Sprint(i):
			return fmt.Sprintf("line %d is %q (%d lines, want %d)", i, got[i], len(got), n)
		}
	}
	if len(got) > n {
		return fmt.Sprintf("%d lines, want %d", len(got), n)
	}
	return ""
}

func shutdownTellsSockets(t testing.TB, s *target) {
	k := s.StartKernel(t)
	w := s.Dial(t, k.ID, probe.Dialing{Session: probe.ID()})
	w.Run(t, "1")
	s.Do(t, "DELETE", "api/kernels/"+k.ID, nil).Want(t, 204)
	w.Wait(t, 15*time.Second, "dead", func(m probe.Message) bool { return m.State() == "dead" })
	if code, reason := w.WaitClosed(t, probe.Patience); code != 1000 {
		t.Errorf("closed with %d %q, want 1000: the kernel is gone", code, reason)
	}
}
