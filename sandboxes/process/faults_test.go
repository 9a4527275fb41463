package process_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"kernelgw/sandboxes"
	"kernelgw/sandboxes/agentapi"
	"kernelgw/sandboxes/hostproc"
	"kernelgw/sandboxes/process"
)

// script makes an agent of a shell script, which is called with the agent's
// arguments.
func script(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "agent")
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"+text), 0o755); err != nil {
		t.Fatal(err)
	}
	return path
}

// newDriver is a driver over a directory of its own, emptied at the end.
func newDriver(t *testing.T, o process.Options) (d sandboxes.Driver, dir string) {
	t.Helper()
	if o.StateDir == "" {
		o.StateDir = t.TempDir()
	}
	if o.AgentPath == "" {
		o.AgentPath = self(t)
	}
	d = open(t, o)
	t.Cleanup(func() {
		ctx := context.Background()
		list, err := d.List(ctx)
		for _, sb := range list {
			err = errors.Join(err, d.Destroy(ctx, sb.Spec.ID))
		}
		if err := errors.Join(err, d.Close()); err != nil {
			t.Error(err)
		}
	})
	return d, o.StateDir
}

func create(t *testing.T, d sandboxes.Driver, id string) sandboxes.Sandbox {
	t.Helper()
	config, err := json.Marshal(agentapi.Config{Token: "token"})
	if err != nil {
		t.Fatal(err)
	}
	sb, err := d.Create(t.Context(), sandboxes.Spec{ID: id, AgentConfig: config})
	if err != nil {
		t.Fatal(err)
	}
	return sb
}

func wait(t *testing.T, d sandboxes.Driver, id string) sandboxes.Exit {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	exit, err := d.Wait(ctx, id)
	if err != nil {
		t.Fatal(err)
	}
	return exit
}

// eventually waits for what no event tells.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%s: not within 20 s", what)
		}
	}
}

func alive(pid int) bool {
	p, err := hostproc.Identify(pid)
	if err != nil {
		return false
	}
	runs, err := p.Alive()
	return runs || err != nil
}

func TestGatewaySecretsStayOutOfTheSandbox(t *testing.T) {
	for _, name := range []string{"KERNELGW_TOKEN", "KERNELGW_ANYTHING", "JUPYTER_TOKEN", "JUPYTER_GATEWAY_AUTH_TOKEN", "JUPYTERHUB_API_TOKEN", "JPY_API_TOKEN", "JUPYTER_PASSWORD"} {
		t.Setenv(name, "secret-of-the-gateway")
	}
	t.Setenv("JUPYTER_CONFIG_DIR", "/kept")
	t.Setenv("HARMLESS", "kept")
	d, _ := newDriver(t, process.Options{})
	sb := create(t, d, "a")
	env, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", agentPID(t, filepath.Dir(sb.Agent.Address))))
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(env, []byte("secret-of-the-gateway")) {
		t.Errorf("the agent's environment holds a secret of the gateway: %q", env)
	}
	for _, kept := range []string{"JUPYTER_CONFIG_DIR=/kept", "HARMLESS=kept", "KERNELGW_SANDBOX=a"} {
		if !slices.Contains(strings.Split(string(env), "\x00"), kept) {
			t.Errorf("the agent's environment is without %s: %q", kept, env)
		}
	}
}

func TestKernelspecsPythonComesFirstInPath(t *testing.T) {
	venv := t.TempDir()
	for _, dir := range []string{"bin", "share/jupyter/kernels"} {
		if err := os.MkdirAll(filepath.Join(venv, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(venv, "bin/python3"), []byte("#!/bin/sh\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	d, _ := newDriver(t, process.Options{
		KernelPath: []string{filepath.Join(venv, "share/jupyter"), "/elsewhere"},
		Env:        []string{"PATH=/usr/bin:/bin"},
		AgentPath:  script(t, `printf %s "$PATH" >path.tmp; mv path.tmp path; exec sleep 3600`),
	})
	dir := filepath.Dir(create(t, d, "a").Agent.Address)
	var got []byte
	eventually(t, "the agent writes down its PATH", func() bool {
		var err error
		got, err = os.ReadFile(filepath.Join(dir, "path"))
		return err == nil
	})
	if want := filepath.Join(venv, "bin") + ":/usr/bin:/bin"; string(got) != want {
		t.Errorf("PATH is %s, want %s", got, want)
	}
}

func TestInterruptsReachKernelsOfABackgroundGateway(t *testing.T) {
	// A shell starts background jobs with SIGINT ignored, and a kernel that
	// inherits that cannot be interrupted.
	signal.Ignore(unix.SIGINT)
	t.Cleanup(func() { signal.Reset(unix.SIGINT) })
	d, _ := newDriver(t, process.Options{AgentPath: script(t, `grep SigIgn /proc/self/status >sig.tmp; mv sig.tmp sig; exec sleep 3600`)})
	dir := filepath.Dir(create(t, d, "a").Agent.Address)
	var line []byte
	eventually(t, "the agent writes down what it ignores", func() bool {
		var err error
		line, err = os.ReadFile(filepath.Join(dir, "sig"))
		return err == nil
	})
	var ignored uint64
	if _, err := fmt.Sscanf(string(line), "SigIgn: %x", &ignored); err != nil {
		t.Fatalf("%q: %v", line, err)
	}
	if ignored&(1<<(unix.SIGINT-1)) != 0 {
		t.Errorf("the agent was started with SIGINT ignored: %s", line)
	}
}

func TestDeepStateDirectory(t *testing.T) {
	deep := filepath.Join(t.TempDir(), strings.Repeat("d", 120), strings.Repeat("e", 120))
	d, _ := newDriver(t, process.Options{StateDir: deep})
	sb := create(t, d, "a")
	eventually(t, "the agent listens on a path of "+fmt.Sprint(len(sb.Agent.Address))+" bytes", func() bool {
		conn, err := agentapi.DialUnix(t.Context(), sb.Agent.Address)
		if err == nil {
			err = conn.Close()
		}
		return err == nil
	})
}

func TestFilesAreForTheOwnerOnly(t *testing.T) {
	d, state := newDriver(t, process.Options{StateDir: filepath.Join(t.TempDir(), "made")})
	dir := filepath.Dir(create(t, d, "a").Agent.Address)
	for path, want := range map[string]os.FileMode{
		state: 0o700, dir: 0o700,
		filepath.Join(dir, "spec.json"): 0o600, filepath.Join(dir, "agent.json"): 0o600, filepath.Join(dir, "agent.log"): 0o600,
	} {
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode().Perm() != want {
			t.Errorf("%s has mode %o, want %o", path, info.Mode().Perm(), want)
		}
	}
}

func TestAgentFailureReachesTheUser(t *testing.T) {
	d, _ := newDriver(t, process.Options{AgentPath: script(t, `printf 'first line\ncannot \033[31mstart\033[0m: no \000 luck\n\n' >&2; exit 3`)})
	create(t, d, "a")
	exit := wait(t, d, "a")
	if exit.Code != 3 || exit.Reason != "the agent failed: exit code 3: cannot [31mstart[0m: no  luck" {
		t.Errorf("Wait: %+v", exit)
	}
}

func TestFloodOnStderrIsBounded(t *testing.T) {
	d, _ := newDriver(t, process.Options{AgentPath: script(t, `head -c 20000000 /dev/zero | tr '\0' x >&2; echo >&2; echo the end >&2; exit 1`)})
	dir := filepath.Dir(create(t, d, "a").Agent.Address)
	if exit := wait(t, d, "a"); !strings.HasSuffix(exit.Reason, ": the end") {
		t.Errorf("what the agent said last is lost: %+v", exit)
	}
	var total int64
	logs, err := filepath.Glob(filepath.Join(dir, "agent.log*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range logs {
		info, err := os.Stat(l)
		if err != nil {
			t.Fatal(err)
		}
		total += info.Size()
	}
	if total > 1<<20 || total < 500<<10 {
		t.Errorf("%d bytes of a flood are kept, want between half a MiB and one", total)
	}
}

func TestDestroyLetsTheAgentEndInOrder(t *testing.T) {
	witness := filepath.Join(t.TempDir(), "witness")
	d, _ := newDriver(t, process.Options{AgentPath: script(t, `
		trap 'sleep 0.2; echo done >`+witness+`; exit 0' TERM
		touch ready
		while :; do sleep 0.02; done`)})
	dir := filepath.Dir(create(t, d, "a").Agent.Address)
	eventually(t, "the agent is ready", func() bool { _, err := os.Stat(filepath.Join(dir, "ready")); return err == nil })
	if err := d.Destroy(t.Context(), "a"); err != nil {
		t.Fatal(err)
	}
	if text, err := os.ReadFile(witness); string(text) != "done\n" {
		t.Errorf("the agent was not given time to end: %q, %v", text, err)
	}
}

func TestDestroyKillsAnAgentThatDoesNotEnd(t *testing.T) {
	d, _ := newDriver(t, process.Options{
		Grace:     50 * time.Millisecond,
		AgentPath: script(t, `trap '' TERM INT HUP; touch ready; sleep 3600 & while :; do sleep 0.02; done`),
	})
	dir := filepath.Dir(create(t, d, "a").Agent.Address)
	eventually(t, "the agent is ready", func() bool { _, err := os.Stat(filepath.Join(dir, "ready")); return err == nil })
	pid := agentPID(t, dir)
	if err := d.Destroy(t.Context(), "a"); err != nil {
		t.Fatal(err)
	}
	if alive(pid) {
		t.Error("an agent that ignores SIGTERM outlived its sandbox")
	}
}

func TestKilledSupervisorEndsTheSandbox(t *testing.T) {
	d, _ := newDriver(t, process.Options{})
	dir := filepath.Dir(create(t, d, "a").Agent.Address)
	agent := agentPID(t, dir)
	if err := unix.Kill(supervisorPID(t, dir), unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	exit := wait(t, d, "a")
	if exit.Code != -1 || !strings.Contains(exit.Reason, "supervisor") {
		t.Errorf("Wait: %+v, want code -1 and a reason", exit)
	}
	eventually(t, "the agent follows its supervisor", func() bool { return !alive(agent) })
	if again := wait(t, d, "a"); again != exit {
		t.Errorf("Wait said %+v, then %+v", exit, again)
	}
}

func TestHostThatRestartedHasNoSandboxRunning(t *testing.T) {
	d, state := newDriver(t, process.Options{})
	dir := filepath.Dir(create(t, d, "a").Agent.Address)
	pid := agentPID(t, dir)
	// As if this record were from before a restart of the host, and the pids
	// were others' now.
	path := filepath.Join(dir, "processes.json")
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		t.Fatal(err)
	}
	old := bytes.ReplaceAll(text, bytes.TrimSpace(boot), []byte("00000000-0000-0000-0000-000000000000"))
	if err := os.WriteFile(path, old, 0o600); err != nil {
		t.Fatal(err)
	}
	d = open(t, process.Options{StateDir: state, AgentPath: self(t)})
	if exit := wait(t, d, "a"); exit.Code != -1 || !strings.Contains(exit.Reason, "host restarted") {
		t.Errorf("Wait: %+v, want code -1 and a reason", exit)
	}
	if !alive(pid) {
		t.Error("a process was harmed that only has the pid of an old one")
	}
	// Here it is the sandbox's after all, by its environment.
	if err := d.Destroy(t.Context(), "a"); err != nil || alive(pid) {
		t.Errorf("Destroy: %v; the agent is alive: %v", err, alive(pid))
	}
}

func TestHalfCreatedSandboxIsListedAsEnded(t *testing.T) {
	d, state := newDriver(t, process.Options{})
	// What a gateway leaves that is killed before it starts the supervisor.
	half := filepath.Join(state, "half")
	if err := os.Mkdir(half, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(half, "spec.json"), []byte(`{"spec":{"ID":"half","Labels":{"w":"x"}}}`), 0o600); err != nil {
		t.Fatal(err)
	}
	list, err := d.List(t.Context())
	if err != nil || len(list) != 1 || list[0].Spec.ID != "half" || list[0].Spec.Labels["w"] != "x" {
		t.Fatalf("List: %+v, %v", list, err)
	}
	if exit := wait(t, d, "half"); exit.Code != -1 || exit.Reason == "" {
		t.Errorf("Wait: %+v, want code -1 and a reason", exit)
	}
	if err := d.Destroy(t.Context(), "half"); err != nil {
		t.Error(err)
	}
}

func TestDamagedRecordCanBeDestroyed(t *testing.T) {
	d, _ := newDriver(t, process.Options{})
	dir := filepath.Dir(create(t, d, "a").Agent.Address)
	pid := agentPID(t, dir)
	for _, name := range []string{"spec.json", "processes.json"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("{\x00"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	list, err := d.List(t.Context())
	if err != nil || len(list) != 1 || list[0].Spec.ID != "a" {
		t.Fatalf("List: %+v, %v; want the sandbox by its id", list, err)
	}
	if exit := wait(t, d, "a"); exit.Code != -1 || exit.Reason == "" {
		t.Errorf("Wait: %+v, want code -1 and a reason", exit)
	}
	if err := d.Destroy(t.Context(), "a"); err != nil || alive(pid) {
		t.Errorf("Destroy: %v; the agent is alive: %v", err, alive(pid))
	}
}

func TestWhatADeadGatewayWasMakingOrRemovingIsSweptAway(t *testing.T) {
	state := t.TempDir()
	for _, name := range []string{".new-1234", ".gone-a"} {
		if err := os.MkdirAll(filepath.Join(state, name, "run"), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	newDriver(t, process.Options{StateDir: state})
	if left, err := os.ReadDir(state); err != nil || len(left) != 0 {
		t.Errorf("left in the state directory: %v, %v", left, err)
	}
}

func TestSupervisorThatIsNoneFailsCreate(t *testing.T) {
	d, state := newDriver(t, process.Options{Supervisor: "/bin/true"})
	_, err := d.Create(t.Context(), sandboxes.Spec{ID: "a"})
	if err == nil || !strings.Contains(err.Error(), "/bin/true supervise-process") {
		t.Errorf("Create: %v, want an error that names the supervisor", err)
	}
	if left, err := os.ReadDir(state); err != nil || len(left) != 0 {
		t.Errorf("left in the state directory: %v, %v", left, err)
	}
}

func TestAgentThatCannotBeStartedFailsCreate(t *testing.T) {
	agent := script(t, "exit 0")
	d, state := newDriver(t, process.Options{AgentPath: agent})
	if err := os.Remove(agent); err != nil {
		t.Fatal(err)
	}
	if _, err := d.Create(t.Context(), sandboxes.Spec{ID: "a"}); err == nil || !strings.Contains(err.Error(), agent) {
		t.Errorf("Create: %v, want an error that names the agent", err)
	}
	if left, err := os.ReadDir(state); err != nil || len(left) != 0 {
		t.Errorf("left in the state directory: %v, %v", left, err)
	}
	_, err := process.New(process.Options{StateDir: state, AgentPath: agent})
	if err == nil || !strings.Contains(err.Error(), "make build") {
		t.Errorf("New without an agent: %v, want an error with the remedy", err)
	}
}

func TestDriverSaysThatItDoesNotIsolate(t *testing.T) {
	var log bytes.Buffer
	d, _ := newDriver(t, process.Options{Log: slog.New(slog.NewTextHandler(&log, nil))})
	if d.Capabilities().Isolated || !strings.Contains(log.String(), "not isolated") {
		t.Errorf("capabilities %+v, log %q", d.Capabilities(), log.String())
	}
}
