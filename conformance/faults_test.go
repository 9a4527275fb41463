package conformance

import (
	"strings"
	"syscall"
	"testing"
	"time"

	"kernelgw/conformance/probe"
	"kernelgw/conformance/servers"
)

// own starts a kernelgw for one test that does harm to it.
func own(t *testing.T, o servers.Options) *target {
	t.Helper()
	p := servers.ForTest(t, o)
	return newOwned(&p.Server, p, false)
}

const longPrinting = "for i in range(2000):\n    print(i, flush=True)\n    time.sleep(0.002)"

// Alone: what may come twice is what was in flight for a round trip, and that is
// as long as the machine is busy.
func TestKillOfTheGatewayLosesNoLine(t *testing.T) {
	s := own(t, servers.Options{})
	k := s.StartKernel(t)
	session := probe.ID()
	w := s.Dial(t, k.ID, probe.Dialing{Session: session})
	w.Run(t, "import time; kept = 1")
	r := &reader{id: w.Start(t, longPrinting)}
	for range 2 {
		r.take(t, w, 300)
		if err := s.process.Kill(); err != nil {
			t.Fatal(err)
		}
		r.rest(w)
		began := time.Now()
		if err := s.process.Restart(t.Context()); err != nil {
			t.Fatal(err)
		}
		t.Logf("ready again after %v", time.Since(began).Round(time.Millisecond))
		var all []probe.Kernel
		list(t, s, "api/kernels", &all)
		if len(all) != 1 || all[0].ID != k.ID {
			t.Fatalf("after the restart the list is %+v, want kernel %s", all, k.ID)
		}
		w = s.Dial(t, k.ID, probe.Dialing{Session: session})
	}
	r.take(t, w, 1<<20)
	problem, twice := probe.Lossless(r.stream, 2000)
	if problem != "" {
		t.Error(problem)
	}
	// What was in flight at a break may come twice: one round trip of lines.
	if twice > 2*128 {
		t.Errorf("%d lines came twice in 2 breaks", twice)
	}
	t.Logf("%d lines came twice in 2 breaks", twice)
	if got := w.Run(t, "print(kept)").Stdout; got != "1\n" {
		t.Errorf("the kernel lost its state: %q", got)
	}
}

func TestKillOfTheGatewayKeepsSessions(t *testing.T) {
	t.Parallel()
	s := own(t, servers.Options{})
	x := newSession(t, s, map[string]any{"path": "a/b.ipynb", "type": "notebook", "name": "b"})
	if err := s.process.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := s.process.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	again := decodeSession(t, s.Do(t, "GET", "api/sessions/"+x.ID, nil).Want(t, 200))
	if again.Kernel.ID != x.Kernel.ID || *again.Path != "a/b.ipynb" {
		t.Errorf("the session came back as %+v", again)
	}
	same := decodeSession(t, s.Do(t, "POST", "api/sessions", map[string]any{"path": "a/b.ipynb", "type": "notebook", "name": "b"}).Want(t, 201))
	if same.ID != x.ID {
		t.Errorf("the same path gave another session %s", same.ID)
	}
}

// agentProcess finds the process whose end is the end of the only sandbox.
func agentProcess(t *testing.T, s *target) servers.Seen {
	t.Helper()
	name := "kernelagent"
	if servers.Driver() == "gvisor" {
		name = "runsc-sandbox" // the agent is in there, PID 1
	}
	var found []servers.Seen
	for _, p := range servers.Mentioning(s.process.Dir) {
		if first, _, _ := strings.Cut(p.Command, " "); strings.HasSuffix(first, name) {
			found = append(found, p)
		}
	}
	if len(found) != 1 {
		t.Fatalf("%d processes are a %s: %v", len(found), name, servers.Mentioning(s.process.Dir))
	}
	return found[0]
}

func TestKillOfTheAgentIsToldAtOnce(t *testing.T) {
	t.Parallel()
	s := own(t, servers.Options{})
	k := s.StartKernel(t)
	w := s.Dial(t, k.ID, probe.Dialing{Session: probe.ID()})
	w.Run(t, "import time")
	w.Start(t, longPrinting)
	w.Wait(t, probe.Patience, "output", func(m probe.Message) bool { return m.Header.MsgType == "stream" })
	if err := syscall.Kill(agentProcess(t, s).PID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	w.Wait(t, probe.Patience, "dead", state("dead"))
	onSocket := time.Since(began)
	dead := eventually(t, s, k.ID, "dead", probe.Patience, func(k probe.Kernel) bool { return k.ExecutionState == "dead" })
	onModel := time.Since(began)
	// A second is promised; this machine may be busy.
	if onSocket > 20*time.Second || onModel > 20*time.Second {
		t.Errorf("dead on the socket after %v, on the model after %v", onSocket, onModel)
	}
	if dead.Reason == nil || *dead.Reason == "" {
		t.Fatal("the model of the dead kernel gives no reason")
	}
	t.Logf("dead on the socket after %v, on the model after %v: %s", onSocket.Round(time.Millisecond), onModel.Round(time.Millisecond), *dead.Reason)
	s.Do(t, "DELETE", "api/kernels/"+k.ID, nil).Want(t, 204)
}

// A sandbox that gets no processor for a while, as in a pause of its machine, is
// no broken connection: nothing is lost, and nothing comes twice.
func TestAPauseOfTheAgentLosesNothing(t *testing.T) {
	t.Parallel()
	s := own(t, servers.Options{})
	k := s.StartKernel(t)
	w := s.Dial(t, k.ID, probe.Dialing{Session: probe.ID()})
	w.Run(t, "import time")
	r := &reader{id: w.Start(t, longPrinting)}
	agent := agentProcess(t, s)
	for range 2 {
		r.take(t, w, 300)
		if err := syscall.Kill(agent.PID, syscall.SIGSTOP); err != nil {
			t.Fatal(err)
		}
		// It is the fault. A kernel beside a stopped agent drops what is more than
		// fits its queue, a thousand messages.
		time.Sleep(time.Second)
		if err := syscall.Kill(agent.PID, syscall.SIGCONT); err != nil {
			t.Fatal(err)
		}
	}
	r.take(t, w, 1<<20)
	problem, twice := probe.Lossless(r.stream, 2000)
	if problem != "" {
		t.Error(problem)
	}
	if twice > 0 {
		t.Errorf("%d lines came twice over a connection that was not cut", twice)
	}
}

func TestKillOfTheKernelMidCellIsToldAtOnce(t *testing.T) {
	t.Parallel()
	s := own(t, servers.Options{})
	k := s.StartKernel(t)
	w := s.Dial(t, k.ID, probe.Dialing{Session: probe.ID()})
	w.Run(t, "import time, threading, os, signal")
	// The kernel dies in the middle of its own printing.
	w.Start(t, "threading.Timer(0.3, lambda: os.kill(os.getpid(), signal.SIGKILL)).start()\n"+longPrinting)
	w.Wait(t, probe.Patience, "output", func(m probe.Message) bool { return m.Header.MsgType == "stream" })
	began := time.Now()
	w.Wait(t, probe.Patience, "restarting", state("restarting"))
	if took := time.Since(began); took > 20*time.Second {
		t.Errorf("restarting came %v after output", took)
	}
	if got := w.Run(t, "print('back')").Stdout; got != "back\n" {
		t.Errorf("stdout is %q", got)
	}
}

func TestDrainClosesSocketsWith1012AndExitsZero(t *testing.T) {
	t.Parallel()
	s := own(t, servers.Options{})
	k := s.StartKernel(t)
	session := probe.ID()
	v1 := s.Dial(t, k.ID, probe.Dialing{Session: session})
	legacy := s.Dial(t, k.ID, probe.Dialing{Session: probe.ID(), Legacy: true})
	v1.Run(t, "import time; kept = 1")
	legacy.Run(t, "1")
	r := &reader{id: v1.Start(t, longPrinting)}
	r.take(t, v1, 200)
	if err := s.process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	for _, w := range []*probe.Socket{v1, legacy} {
		if code, reason := w.WaitClosed(t, 20*time.Second); code != 1012 {
			t.Errorf("closed with %d %q, want 1012", code, reason)
		}
	}
	code, err := s.process.Wait(20 * time.Second)
	if err != nil || code != 0 {
		t.Errorf("exit code %d, %v, want 0", code, err)
	}
	r.rest(v1)
	if err := s.process.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	w := s.Dial(t, k.ID, probe.Dialing{Session: session})
	r.take(t, w, 1<<20)
	problem, twice := probe.Lossless(r.stream, 2000)
	if problem != "" {
		t.Error(problem)
	}
	if twice > 0 {
		t.Errorf("%d lines came twice over a drain", twice)
	}
	if got := w.Run(t, "print(kept)").Stdout; got != "1\n" {
		t.Errorf("the kernel lost its state: %q", got)
	}
}

func TestSecondTermStopsAtOnce(t *testing.T) {
	t.Parallel()
	s := own(t, servers.Options{})
	k := s.StartKernel(t)
	s.Dial(t, k.ID, probe.Dialing{}).Run(t, "1")
	for range 2 {
		if err := s.process.Signal(syscall.SIGTERM); err != nil {
			break // the first was enough
		}
	}
	if _, err := s.process.Wait(probe.Patience); err != nil {
		t.Error(err)
	}
	if err := s.process.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	if get(t, s, k.ID).ID != k.ID {
		t.Error("the kernel is gone")
	}
}
