package conformance

import (
	"encoding/json"
	"strings"
	"syscall"
	"testing"
	"time"

	"kernelgw/conformance/probe"
	"kernelgw/conformance/servers"
)

func TestKillOfTheGatewayKeepsTerminals(t *testing.T) {
	t.Parallel()
	s := own(t, servers.Options{})
	name := newTerminal(t, s).Name
	w := openTerminal(t, s, name)
	w.Send(t, []any{"stdin", "kept=$((40+2)); (for i in $(seq 100000); do echo tick$i; sleep 0.05; done) & echo began$((1+1))\r"})
	see(t, w, "began2")
	if err := s.process.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := s.process.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	w = openTerminal(t, s, name)
	see(t, w, `(?s)began2\r.*tick`) // what was printed while nobody looked, too
	w.Send(t, []any{"stdin", "kill %1; echo kept=$kept.\r"})
	see(t, w, `kept=42\.`)
	var kernels []any
	s.Do(t, "GET", "api/kernels", nil).Want(t, 200).Decode(t, &kernels)
	if len(kernels) > 0 {
		t.Errorf("the terminals are listed as kernels: %v", kernels)
	}
}

func TestDeathOfTheTerminalsSandboxIsToldAndOneCanStartAnew(t *testing.T) {
	t.Parallel()
	s := own(t, servers.Options{})
	name := newTerminal(t, s).Name
	w := openTerminal(t, s, name)
	w.Send(t, []any{"stdin", "echo up$((1+1))\r"})
	see(t, w, "up2")
	if err := syscall.Kill(agentProcess(t, s).PID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	begin := time.Now()
	for disconnected := false; !disconnected; {
		var frame []any
		if err := json.Unmarshal(w.Next(t, probe.Patience), &frame); err != nil {
			t.Fatal(err)
		}
		disconnected = frame[0] == "disconnect"
	}
	if code := w.WaitClosed(t, probe.Patience); code != 1000 {
		t.Errorf("close code %d, want 1000", code)
	}
	if took := time.Since(begin); took > 20*time.Second { // on a busy machine, too
		t.Errorf("it was told after %v", took)
	}
	// What a page that is opened again asks for.
	var made terminal
	s.Do(t, "POST", "api/terminals", map[string]string{"name": name}).Want(t, 200).Decode(t, &made)
	w = openTerminal(t, s, made.Name)
	w.Send(t, []any{"stdin", "echo again$((1+1))\r"})
	see(t, w, "again2")
}

// A program that prints without end costs itself: the server answers others.
func TestFloodingTerminalHarmsNobody(t *testing.T) {
	t.Parallel()
	s := own(t, servers.Options{})
	name := newTerminal(t, s).Name
	w := openTerminal(t, s, name)
	w.Send(t, []any{"stdin", "yes 0123456789012345678901234567890123456789012345678901234567890123 | cat\r"})
	for got, end := 0, time.Now().Add(probe.Patience); got < 16<<20; {
		if time.Now().After(end) {
			t.Fatalf("only %d bytes came", got)
		}
		got += len(w.Next(t, probe.Patience))
	}
	begin := time.Now()
	s.Do(t, "GET", "api/terminals", nil).Want(t, 200)
	other := openTerminal(t, s, newTerminal(t, s).Name)
	other.Send(t, []any{"stdin", "echo free$((1+1))\r"})
	see(t, other, "free2")
	if took := time.Since(begin); took > 30*time.Second { // on a busy machine, too
		t.Errorf("others waited %v", took)
	}
	w.Send(t, []any{"stdin", "\x03"})
	w.Send(t, []any{"stdin", "echo over$((1+1))\r"})
	if late := see(t, w, "over2"); len(late) > 16<<20 || strings.Count(late, "over2") != 1 {
		t.Errorf("%d bytes came after Ctrl-C", len(late))
	}
}
