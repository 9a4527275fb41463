package conformance

import (
	"fmt"
	"testing"
	"time"

	"kernelgw/conformance/probe"
)

var deathChecks = []check{
	{
		name: "KilledKernelRestartsAndSaysSo", run: killedKernelRestarts,
		extension: &extension{because: "it loses the idle of the first cell after a restart, for the client or for its own model", fails: "idle false|not idle within", atTimes: true},
	},
	{name: "DeadAfterFiveRestarts", run: deadAfterFiveRestarts},
	{
		name: "DeathClosesSocketsWithoutASession", run: deathClosesSessionless,
		extension: &extension{because: "nbclient waits for its timeout there", fails: "still open"},
	},
}

const kill = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"

func state(want string) func(probe.Message) bool {
	return func(m probe.Message) bool { return m.State() == want }
}

func killedKernelRestarts(t testing.TB, s *target) {
	k := s.StartKernel(t)
	session := probe.ID()
	w := s.Dial(t, k.ID, probe.Dialing{Session: session})
	w.Run(t, "marker = 1")
	w.Start(t, kill)
	m, _ := w.Wait(t, s.deathWithin, "restarting", state("restarting"))
	if string(m.RawParent) != "{}" || m.Header.MsgID == "" || m.Header.Session == "" {
		t.Errorf("restarting has header %s and parent %s", m.RawHeader, m.RawParent)
	}
	// Clients open the socket again when they see it.
	w.Close()
	w = s.Dial(t, k.ID, probe.Dialing{Session: session})
	if got := w.Run(t, "print('marker' in globals())").Stdout; got != "False\n" {
		t.Errorf("after the restart: %q", got)
	}
	eventually(t, s, k.ID, "idle", probe.Patience, func(k probe.Kernel) bool { return k.ExecutionState == "idle" })
}

func deadAfterFiveRestarts(t testing.TB, s *target) {
	// A kernel that cannot start again: its working directory, which it shares
	// with no other, shadows the module that starts it.
	dir := folder(t, s)
	var k probe.Kernel
	s.Do(t, "POST", "api/kernels", map[string]any{"path": dir}).Want(t, 201).Decode(t, &k)
	s.Adopt(t, k.ID)
	w := s.Dial(t, k.ID, probe.Dialing{Session: probe.ID()})
	out := w.Run(t, fmt.Sprintf(`import os, signal
alone = os.getcwd().endswith(%q)
if alone:
    open("ipykernel_launcher.py", "w").write("raise SystemExit(3)")
print(alone)`, dir)).Stdout
	if out != "True\n" {
		t.Fatalf("the kernel is not in its own directory: %q", out)
	}
	w.Start(t, "os.kill(os.getpid(), signal.SIGKILL)")
	restarts := 0
	w.Wait(t, 40*time.Second, "dead", func(m probe.Message) bool {
		if m.State() == "restarting" {
			restarts++
		}
		return m.State() == "dead"
	})
	if restarts != 5 {
		t.Errorf("dead after %d restarts, want 5", restarts)
	}
	if s.stock {
		s.Do(t, "GET", "api/kernels/"+k.ID, nil).Want(t, 200, 404) // it may forget the kernel
		return
	}
	dead := eventually(t, s, k.ID, "dead", probe.Patience, func(k probe.Kernel) bool { return k.ExecutionState == "dead" })
	if dead.Reason == nil || *dead.Reason == "" {
		t.Error("the model of the dead kernel gives no reason")
	}
}

func deathClosesSessionless(t testing.TB, s *target) {
	k := s.StartKernel(t)
	w := s.Dial(t, k.ID, probe.Dialing{Legacy: true})
	w.Run(t, "1")
	w.Start(t, kill)
	code, reason := w.WaitClosed(t, 2*s.deathWithin)
	t.Logf("closed with %d %q", code, reason)
}
