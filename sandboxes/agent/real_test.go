package agent

import (
	"encoding/json"
	"errors"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"kernelgw/jupyter"
	"kernelgw/jupyter/wsproto"
	"kernelgw/sandboxes/agentapi"
)

// The tests here run the real program with a real ipykernel.

var program struct {
	once sync.Once
	path string
	err  error
}

// buildAgent builds kernelagent once for all tests.
func buildAgent(t *testing.T) string {
	t.Helper()
	program.once.Do(func() {
		dir, err := os.MkdirTemp("", "kernelagent")
		if err != nil {
			program.err = err
			return
		}
		program.path = filepath.Join(dir, "kernelagent")
		cmd := exec.Command("go", "build", "-o", program.path, "kernelgw/cmd/kernelagent")
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			program.err = errors.New(string(out))
		}
	})
	if program.err != nil {
		t.Fatal(program.err)
	}
	return program.path
}

// ipykernel is the kernelspec of the ipykernel that the tests have.
func ipykernel(t *testing.T) jupyter.Kernelspec {
	t.Helper()
	python, err := filepath.Abs("../../.cache/venv/stock/bin/python")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(python); err != nil {
		t.Fatalf("%v: run make clients, which installs ipykernel there", err)
	}
	return jupyter.Kernelspec{Argv: []string{python, "-Xfrozen_modules=off", "-m", "ipykernel_launcher", "-f", "{connection_file}"}, DisplayName: "Python 3", Language: "python"}
}

// forEveryUser changes a configuration so that users other than root can run
// its kernel: the interpreter of the virtual environment may lie in a home
// directory that is closed to them. Debian's is the same version.
func forEveryUser(t *testing.T, c *agentapi.Config) {
	t.Helper()
	const python = "/usr/bin/python3"
	packages, err := filepath.Glob("../../.cache/venv/stock/lib/python3.*/site-packages")
	if err != nil || len(packages) != 1 {
		t.Fatalf("no ipykernel: run make clients (%v)", err)
	}
	path := forAll(t, packages[0])
	version := filepath.Base(filepath.Dir(packages[0])) // as in python3.11
	if found, err := filepath.EvalSymlinks(python); err != nil || filepath.Base(found) != version {
		t.Fatalf("%s is not %s, which the virtual environment was made with (%v): install it", python, version, err)
	}
	c.Spec.Argv[0] = python
	c.Spec.Env = map[string]string{"PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"}
}

// forAll returns the directory's path if every user can get there, and else a
// copy that every user can read: a checkout may be closed to others.
func forAll(t *testing.T, dir string) string {
	t.Helper()
	path, err := filepath.Abs(dir)
	if err != nil {
		t.Fatal(err)
	}
	open := true
	for p := path; p != "/"; p = filepath.Dir(p) {
		info, err := os.Stat(p)
		if err != nil {
			t.Fatal(err)
		}
		open = open && info.Mode().Perm()&0o005 == 0o005
	}
	if open {
		return path
	}
	openCopies.Lock()
	defer openCopies.Unlock()
	if made := openCopies.of[path]; made != "" {
		return made
	}
	made, err := os.MkdirTemp("", "agent-packages")
	if err == nil {
		openCopies.of[path] = made // removed by TestMain
		err = os.Chmod(made, 0o755)
	}
	if err == nil {
		err = os.CopyFS(made, os.DirFS(path))
	}
	if err != nil {
		t.Fatal(err)
	}
	return made
}

var openCopies = struct {
	sync.Mutex
	of map[string]string // by the path of the original
}{of: map[string]string{}}

func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() == 0 {
		return
	}
	if os.Getenv("KERNELGW_TEST_SKIP_ROOT") == "1" {
		t.Skip("needs root; KERNELGW_TEST_SKIP_ROOT is set")
	}
	t.Fatal("needs root: run as root, or set KERNELGW_TEST_SKIP_ROOT=1")
}

// real is a kernelagent process.
type real struct {
	*running
	cmd    *exec.Cmd
	config string
}

// startReal runs kernelagent with ipykernel until the test ends.
func startReal(t *testing.T, change func(*agentapi.Config), args ...string) *real {
	t.Helper()
	dir, err := os.MkdirTemp("", "agent")
	if err != nil {
		t.Fatal(err)
	}
	home := filepath.Join(dir, "home")
	if err := errors.Join(os.Chmod(dir, 0o755), os.Mkdir(home, 0o777), os.Chmod(home, 0o777)); err != nil {
		t.Fatal(err)
	}
	config := agentapi.Config{Token: testToken, KernelID: "k1", KernelName: "python3", Spec: ipykernel(t)}
	if change != nil {
		change(&config)
	}
	b, err := json.Marshal(config)
	if err != nil {
		t.Fatal(err)
	}
	r := &real{running: &running{t: t, path: filepath.Join(dir, "s"), log: &syncBuffer{}, ended: make(chan struct{})}}
	r.config = filepath.Join(dir, "config.json")
	if err := os.WriteFile(r.config, b, 0o600); err != nil {
		t.Fatal(err)
	}
	r.http = &http.Client{Transport: &http.Transport{DialContext: r.dialContext}}
	r.cmd = exec.Command(buildAgent(t), append([]string{"--config", r.config, "--listen", "unix:" + r.path, "--home", home, "--runtime-dir", dir}, args...)...)
	r.cmd.Stderr = r.log
	r.cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "SECRET_OF_THE_AGENT=x"}
	if err := r.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(r.ended)
		r.cmd.Wait()
	}()
	client := &agentapi.Client{Endpoint: agentapi.Endpoint{Network: "unix", Address: r.path}, Token: testToken}
	if err := client.WaitReady(t.Context()); err != nil {
		t.Fatalf("%v\n%s", err, r.log)
	}
	r.now = func() agentapi.Status {
		s, err := client.Status(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	t.Cleanup(func() {
		r.http.CloseIdleConnections()
		r.cmd.Process.Signal(unix.SIGTERM)
		<-r.ended
		os.RemoveAll(dir)
		if strings.Contains(r.log.String(), testToken) {
			t.Error("the token is in the log")
		}
		if t.Failed() {
			t.Logf("log of the agent:\n%s", r.log)
		}
	})
	return r
}

// output runs a cell and returns what it printed, errors included.
func (p *peer) output(code string) string {
	p.t.Helper()
	var out strings.Builder
	for _, m := range p.cell(p.execute(code)) {
		out.WriteString(m.text())
		if m.MsgType == "error" {
			out.WriteString(m.Content["ename"].(string) + ": " + m.Content["evalue"].(string))
		}
	}
	return out.String()
}

func TestIPykernel(t *testing.T) {
	r := startReal(t, func(c *agentapi.Config) { c.Env = map[string]string{"KERNEL_X": "$(id) ${HOME} {{7*7}}\nY=1"} })
	p := r.connect("s", wsproto.V1) // before it is ready
	if got := p.output("print('hello')"); got != "hello\n" {
		t.Errorf("printed %q", got)
	}
	if got := p.output("1/0"); got != "ZeroDivisionError: division by zero" {
		t.Errorf("got %q", got)
	}
	if got := p.output("import os; print(os.environ['KERNEL_X'])"); got != "$(id) ${HOME} {{7*7}}\nY=1\n" {
		t.Errorf("KERNEL_X is %q", got)
	}
	if got := p.output("print(os.getcwd() == os.environ['HOME'], os.environ['KERNELGW_KERNEL_ID'])"); got != "True k1\n" {
		t.Errorf("home and id: %q", got)
	}
	id := p.execute("name = input('who? '); print('hi', name)")
	p.until("input_request", func(m received) bool { return m.MsgType == "input_request" })
	p.send("stdin", "input_reply", map[string]any{"value": "Ada"})
	text := ""
	for _, m := range p.cell(id) {
		text += m.text()
	}
	if text != "hi Ada\n" {
		t.Errorf("after input: %q", text)
	}
	id = p.execute("import time\nprint('on')\ntime.sleep(1000)")
	p.until("the print", func(m received) bool { return m.text() == "on\n" })
	r.call("POST", "/v1/kernel/interrupt")
	interrupted := false
	for _, m := range p.cell(id) {
		interrupted = interrupted || m.Content["ename"] == "KeyboardInterrupt"
	}
	if !interrupted {
		t.Error("no KeyboardInterrupt")
	}
	png := false
	for _, m := range p.cell(p.execute("%matplotlib inline\nimport matplotlib.pyplot as plt; plt.plot([1, 2]); plt.show()")) {
		data, _ := m.Content["data"].(map[string]any)
		_, ok := data["image/png"]
		png = png || ok
	}
	if !png {
		t.Error("no picture")
	}
	big := p.output("print('x' * 12_000_000)")
	if len(big) != 12_000_001 {
		t.Errorf("12 MB came as %d bytes", len(big))
	}
	if code, body := r.call("POST", "/v1/kernel/restart"); code != http.StatusOK {
		t.Fatalf("restart: %d %s", code, body)
	}
	if got := p.output("print('name' in globals())"); got != "False\n" {
		t.Errorf("after the restart: %q", got)
	}
	p.execute("import os, signal; os.kill(os.getpid(), signal.SIGKILL)")
	p.until("restarting", func(m received) bool { return isStatus(m, "restarting") })
	if got := p.output("print('back')"); got != "back\n" {
		t.Errorf("after the death: %q", got)
	}
}

const lookAround = `
import ctypes, json, os
def attempt(f):
    try:
        f()
        return "allowed"
    except Exception as e:
        return type(e).__name__
agent = os.getppid()
status = dict(line.split(":\t", 1) for line in open("/proc/self/status").read().splitlines() if ":\t" in line)
def ptrace():
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.ptrace(16, agent, 0, 0) != 0: # PTRACE_ATTACH
        raise PermissionError(ctypes.get_errno())
print(json.dumps({
    "uid": os.getuid(), "gid": os.getgid(), "groups": os.getgroups(), "umask": oct(os.umask(0o22)),
    "caps": [status[c].strip("0\n") for c in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")],
    "no_new_privs": status["NoNewPrivs"],
    "config": attempt(lambda: open(CONFIG).read()),
    "environ": attempt(lambda: open(f"/proc/{agent}/environ").read()),
    "mem": attempt(lambda: open(f"/proc/{agent}/mem", "rb").read(1)),
    "maps": attempt(lambda: open(f"/proc/{agent}/maps").read()),
    "fds": attempt(lambda: os.listdir(f"/proc/{agent}/fd")),
    "kill": attempt(lambda: os.kill(agent, 9)),
    "ptrace": attempt(ptrace),
    "su": attempt(lambda: os.setuid(0)),
    "home": os.environ["HOME"] == os.getcwd(), "user": os.environ.get("USER"),
    "session": os.getsid(0) == os.getpid() == os.getpgrp(),
    "connection": oct(os.stat([a for a in open("/proc/self/cmdline").read().split("\0") if a.endswith(".json")][0]).st_mode),
}))
`

func TestKernelReachesNeitherTokenNorAgent(t *testing.T) {
	needRoot(t)
	r := startReal(t, func(c *agentapi.Config) { forEveryUser(t, c) }, "--run-as", "61234:61234")
	p := r.connect("s", wsproto.V1)
	var got map[string]any
	out := p.output("CONFIG = " + strconv.Quote(r.config) + "\n" + lookAround)
	if err := json.Unmarshal([]byte(out), &got); err != nil {
		t.Fatalf("%v in %s", err, out)
	}
	for name, want := range map[string]any{
		"uid": 61234.0, "gid": 61234.0, "umask": "0o22", "no_new_privs": "1",
		"config": "PermissionError", "environ": "PermissionError", "mem": "PermissionError", "maps": "PermissionError",
		"fds": "PermissionError", "kill": "PermissionError", "ptrace": "PermissionError", "su": "PermissionError",
		"home": true, "user": "user", "session": true, "connection": "0o100600",
	} {
		if got[name] != want {
			t.Errorf("%s is %v, want %v", name, got[name], want)
		}
	}
	if groups := got["groups"].([]any); len(groups) > 0 {
		t.Errorf("the kernel is in groups %v", groups)
	}
	for i, c := range got["caps"].([]any) {
		if c != "" {
			t.Errorf("capability set %d is %v", i, c)
		}
	}
}

// In the process driver the kernel runs as the agent's own user. Its memory is
// out of reach all the same.
func TestKernelOfTheAgentsUserCannotDebugTheAgent(t *testing.T) {
	r := startReal(t, nil)
	p := r.connect("s", wsproto.V1)
	if os.Geteuid() == 0 {
		t.Log("as root nothing is out of reach; only the start is tested")
		p.output("print('x')")
		return
	}
	if out := p.output("import os\nopen(f'/proc/{os.getppid()}/environ').read()"); !strings.Contains(out, "PermissionError") {
		t.Errorf("reading the agent's environment: %s", out)
	}
}

func TestTenGigabyteAllocationEndsTheKernelWithAReason(t *testing.T) {
	r := startReal(t, func(c *agentapi.Config) { c.MemoryBytes = 256 << 20 })
	p := r.connect("s", wsproto.V1)
	p.output("print('ready')")
	id := p.execute("blocks = []\nfor i in range(10_000): blocks.append(bytearray(b'x') * (1 << 20))")
	all := p.until("dead", func(m received) bool { return isStatus(m, "dead") })
	told := false
	for _, m := range all {
		if isStatus(m, "restarting") {
			t.Error("it was restarted")
		}
		told = told || m.MsgType == "stream" && m.Parent.MsgID == id && m.text() == "killed: memory limit 256 MiB\n"
	}
	if !told {
		t.Errorf("the cell was not told: %s", summary(all))
	}
	s := r.now()
	if s.ExecutionState != jupyter.Dead || s.Reason != "killed: memory limit 256 MiB" || s.Starts != 1 {
		t.Errorf("status %+v", s)
	}
	if code, body := r.call("POST", "/v1/kernel/restart"); code != http.StatusOK {
		t.Fatalf("restart: %d %s", code, body)
	}
	if got := p.output("print('revived')"); got != "revived\n" {
		t.Errorf("after the restart: %q", got)
	}
}

func TestForkBombIsKilledWithAReason(t *testing.T) {
	needRoot(t) // for a user of its own, whose processes are counted
	r := startReal(t, func(c *agentapi.Config) { forEveryUser(t, c); c.Processes = 30 }, "--run-as", "61235:61235")
	p := r.connect("s", wsproto.V1)
	p.output("print('ready')")
	// Each child leaves the kernel's session and forks on. The limit of the
	// system is for this machine, which others use too.
	p.execute(`
import os, resource
resource.setrlimit(resource.RLIMIT_NPROC, (120, 120))
while True:
    try:
        if os.fork() == 0: os.setsid()
    except OSError: pass
`)
	begin := time.Now()
	p.until("dead", func(m received) bool { return isStatus(m, "dead") })
	t.Logf("killed after %v", time.Since(begin))
	if s := r.now(); s.Reason != "killed: process limit 30" {
		t.Errorf("status %+v", s)
	}
	if left := processesOf(t, 61235); len(left) > 0 {
		t.Errorf("still there: %v", left)
	}
	if code, body := r.call("POST", "/v1/kernel/restart"); code != http.StatusOK {
		t.Fatalf("restart: %d %s", code, body)
	}
	if got := p.output("print('revived')"); got != "revived\n" {
		t.Errorf("after the restart: %q", got)
	}
}

func TestProcessesThatShareMemoryAreCountedOnce(t *testing.T) {
	r := startReal(t, func(c *agentapi.Config) { c.MemoryBytes = 600 << 20 })
	p := r.connect("s", wsproto.V1)
	// Eight processes with 150 MiB in common.
	out := p.output(`
import os, time
block = bytearray(b'x') * (150 << 20)
children = []
for i in range(7):
    pid = os.fork()
    if pid == 0:
        time.sleep(1.5)
        os._exit(0)
    children.append(pid)
for pid in children: os.waitpid(pid, 0)
print('done')`)
	if !strings.HasSuffix(out, "done\n") {
		t.Errorf("printed %q, status %+v", out, r.now())
	}
}

// processesOf returns the live processes of a user.
func processesOf(t *testing.T, uid int) []string {
	t.Helper()
	var found []string
	dirs, _ := filepath.Glob("/proc/[0-9]*")
	for _, dir := range dirs {
		b, err := os.ReadFile(dir + "/status")
		if err != nil {
			continue
		}
		text := string(b)
		if strings.Contains(text, "\nUid:\t"+strconv.Itoa(uid)+"\t") && !strings.Contains(text, "State:\tZ") {
			found = append(found, filepath.Base(dir))
		}
	}
	return found
}

const daemons = `
import os, subprocess, sys
pids = []
for i in range(3):
    r, w = os.pipe()
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            os.write(w, str(os.getpid()).encode())
            os.close(w)
            os.execlp("sleep", "sleep", "1000" if i else "0.05")
        os._exit(0)
    os.close(w)
    pids.append(os.read(r, 100).decode())
    os.wait()
print(" ".join(pids))
`

func TestDaemonsOfTheKernelAreReapedAndKilledWithIt(t *testing.T) {
	r := startReal(t, nil)
	p := r.connect("s", wsproto.V1)
	pids := strings.Fields(p.output(daemons))
	if len(pids) != 3 {
		t.Fatalf("daemons: %v", pids)
	}
	exists := func(pid string) bool {
		_, err := os.Stat("/proc/" + pid)
		return err == nil
	}
	// The first ends by itself, and somebody must collect it.
	r.status("without zombies", func(agentapi.Status) bool { return !exists(pids[0]) })
	if !exists(pids[1]) || !exists(pids[2]) {
		t.Error("a daemon is gone too early")
	}
	if code, _ := r.call("POST", "/v1/kernel/restart"); code != http.StatusOK {
		t.Errorf("restart: %d", code)
	}
	r.status("without daemons", func(agentapi.Status) bool { return !exists(pids[1]) && !exists(pids[2]) })
	p.output("print('x')")
}

func TestKernelDiesWithItsAgent(t *testing.T) {
	r := startReal(t, nil)
	p := r.connect("s", wsproto.V1)
	pid := strings.TrimSpace(p.output("import os; print(os.getpid())"))
	r.cmd.Process.Kill()
	<-r.ended
	for end := time.Now().Add(patience); ; time.Sleep(5 * time.Millisecond) {
		if _, err := os.Stat("/proc/" + pid); err != nil {
			break
		}
		if time.Now().After(end) {
			t.Fatal("the kernel outlives its agent")
		}
	}
}

func TestTermEndsEverything(t *testing.T) {
	r := startReal(t, nil)
	p := r.connect("s", wsproto.V1)
	pids := strings.Fields(p.output(daemons))
	r.cmd.Process.Signal(unix.SIGTERM)
	all, e := p.closed()
	if len(all) == 0 || !isStatus(all[len(all)-1], "dead") || e.Code != 1000 {
		t.Errorf("got %s, then %v", summary(all), e)
	}
	<-r.ended
	if code := r.cmd.ProcessState.ExitCode(); code != 0 {
		t.Errorf("exit code %d", code)
	}
	for _, pid := range pids {
		if _, err := os.Stat("/proc/" + pid); err == nil {
			t.Errorf("daemon %s is left", pid)
		}
	}
	left, _ := filepath.Glob(filepath.Join(filepath.Dir(r.path), "kernel-*"))
	if len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}
