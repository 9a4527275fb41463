package conformance

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"kernelgw/conformance/probe"
	"kernelgw/conformance/servers"
)

// follower is one of the examples of docs/clients.md, which runs.
type follower struct {
	name   string
	cmd    *exec.Cmd
	stderr strings.Builder

	mu   sync.Mutex
	text []byte // guarded by mu
}

// Write takes what the example prints.
func (f *follower) Write(p []byte) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.text = append(f.text, p...)
	return len(p), nil
}

func (f *follower) printed() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return string(f.text)
}

// followers starts both examples on a session.
func followers(t *testing.T, s *target, session string) []*follower {
	t.Helper()
	root, err := servers.Root()
	if err != nil {
		t.Fatal(err)
	}
	venv, err := servers.Venv("stock")
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(root, "docs", "examples", "follow")
	program := filepath.Join(t.TempDir(), "follow")
	build := exec.Command("go", "build", "-o", program, ".")
	build.Dir = dir
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("cannot build the example: %v\n%s", err, out)
	}
	list := []*follower{
		{name: "Go", cmd: exec.Command(program, s.Base, session)},
		{name: "Python", cmd: exec.Command(filepath.Join(venv, "bin", "python"), filepath.Join(dir, "follow.py"), s.Base, session)},
	}
	for _, f := range list {
		f.cmd.Env = append(os.Environ(), "TOKEN="+s.Token)
		f.cmd.Stdout, f.cmd.Stderr = f, &f.stderr
		if err := f.cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = f.cmd.Process.Kill() }) // it has ended, unless the test failed
	}
	return list
}

// await waits until all have printed a line.
func await(t *testing.T, list []*follower, line string) {
	t.Helper()
	for _, f := range list {
		for deadline := time.Now().Add(probe.Patience); !strings.Contains(f.printed(), line); time.Sleep(20 * time.Millisecond) {
			if time.Now().After(deadline) {
				text := f.printed()
				t.Fatalf("the %s example has not printed %q, but %q; it says %s", f.name, line, text[max(0, len(text)-100):], &f.stderr)
			}
		}
	}
}

// The examples of docs/clients.md, through two kills of the gateway: each line
// once, and no connection of a Jupyter client while it is printed.
func TestKillOfTheGatewayLosesNoLineOfAFollower(t *testing.T) {
	s := own(t, servers.Options{})
	x := newSession(t, s, map[string]any{"path": "a.ipynb", "type": "notebook", "name": "a"})
	list := followers(t, s, x.ID)
	w := s.Dial(t, x.Kernel.ID, probe.Dialing{Session: probe.ID()})
	const lines = 20_000
	w.Run(t, "import time")
	w.Start(t, fmt.Sprintf("for i in range(%d):\n    print('line', i, flush=True)\n    if i %% 100 == 0: time.sleep(0.08)", lines))
	for _, seen := range []string{"line 2000\n", "line 8000\n"} {
		await(t, list, seen)
		if err := s.process.Kill(); err != nil {
			t.Fatal(err)
		}
		if err := s.process.Restart(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	await(t, list, fmt.Sprintf("line %d\n", lines-1))
	s.Do(t, "DELETE", "api/sessions/"+x.ID, nil).Want(t, 204)
	checkFollowers(t, list, "line ", lines)
}

// checkFollowers waits for the examples' ends, and wants each line once: its number
// behind a prefix.
func checkFollowers(t *testing.T, list []*follower, prefix string, lines int) {
	t.Helper()
	var want strings.Builder
	for i := range lines {
		fmt.Fprintf(&want, "%s%d\n", prefix, i)
	}
	for _, f := range list {
		if err := f.cmd.Wait(); err != nil {
			t.Errorf("the %s example ended with %v: %s", f.name, err, &f.stderr)
		}
		if got := f.printed(); got != want.String() {
			t.Errorf("the %s example printed %d bytes, want %d; line %s; it says %s", f.name, len(got), want.Len(), firstDifference(got, want.String()), &f.stderr)
		}
	}
}

func firstDifference(got, want string) string {
	g, w := strings.Split(got, "\n"), strings.Split(want, "\n")
	for i := range g {
		if i >= len(w) || g[i] != w[i] {
			return fmt.Sprintf("%d is %q", i, g[i:min(len(g), i+6)])
		}
	}
	return "the last is missing"
}
