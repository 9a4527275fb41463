package gvisor_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"kernelgw/sandboxes"
	"kernelgw/sandboxes/gvisor"
)

// ordinaryUser is nobody, on every Linux.
const ordinaryUser = 65534

// TestAsOrdinaryUser runs every other test of this package again as a user
// without any privilege, in rootless mode. It does not run beside the others:
// the ids of its sandboxes, which name control groups of the host, are the
// same.
func TestAsOrdinaryUser(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Log("this is an ordinary user: all the other tests are in rootless mode already")
		return
	}
	dir := shortTempDir(t)
	agent, err := testAgent()
	if err != nil {
		t.Fatalf("cannot build the test's agent: %v", err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	store := storeForAll(t, filepath.Join(dir, "images"))
	// Where the originals are, the user may not be able to look.
	for name, from := range map[string]string{"test": self, "agent": agent, "runsc": runsc(t), "kernelagent": realAgent(t)} {
		copyProgram(t, from, filepath.Join(dir, name))
	}
	tmp := filepath.Join(dir, "tmp")
	if err := errors.Join(os.Mkdir(tmp, 0o700), os.Chown(tmp, ordinaryUser, ordinaryUser), os.Chmod(dir, 0o755)); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), filepath.Join(dir, "test"), "-test.v=test2json", "-test.timeout=18m")
	cmd.Dir = tmp
	cmd.Env = []string{
		"PATH=" + os.Getenv("PATH"), "HOME=" + tmp, "TMPDIR=" + tmp,
		"KERNELGW_TEST_KERNELAGENT=" + filepath.Join(dir, "kernelagent"), "KERNELGW_TEST_IMAGES=" + store,
		"KERNELGW_TEST_SKIP_IMAGE=" + os.Getenv("KERNELGW_TEST_SKIP_IMAGE"),
		"KERNELGW_TEST_AGENT=" + filepath.Join(dir, "agent"), "KERNELGW_TEST_RUNSC=" + filepath.Join(dir, "runsc"),
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: ordinaryUser, Gid: ordinaryUser}}
	out, failed := cmd.CombinedOutput()
	if testing.Verbose() {
		t.Logf("as an ordinary user:\n%s", out)
	}
	tests := testsOf(t, out)
	if failed != nil {
		t.Errorf("the tests fail for an ordinary user: %v", failed)
	}
	for _, test := range tests {
		if test.result == "fail" || test.result == "" {
			t.Errorf("as an ordinary user, %q fails, or does not end:\n%s", test.name, test.printed.String())
		}
	}
	if !slices.ContainsFunc(tests, func(test *userTest) bool {
		return test.name == "TestKernelIsAnUnprivilegedUser" && test.result == "pass"
	}) {
		t.Errorf("the tests did not run for an ordinary user:\n%s", out)
	}
}

// userTest is a test that an ordinary user ran.
type userTest struct {
	name, result string // result is empty for one that did not end
	printed      strings.Builder
}

// testsOf returns the tests of what a test binary printed, and what each printed
// itself. The first has no name: it is the binary.
func testsOf(t *testing.T, out []byte) []*userTest {
	t.Helper()
	convert := exec.CommandContext(t.Context(), "go", "tool", "test2json")
	convert.Stdin = bytes.NewReader(out)
	events, err := convert.Output()
	if err != nil {
		t.Fatalf("cannot read what the tests printed: %v\n%s", err, out)
	}
	tests := []*userTest{{}}
	named := map[string]*userTest{"": tests[0]}
	for line := range bytes.Lines(events) {
		var event struct{ Action, Test, Output string }
		if err := json.Unmarshal(line, &event); err != nil {
			t.Fatalf("cannot read what the tests printed: %v: %s", err, line)
		}
		test := named[event.Test]
		if test == nil {
			test = &userTest{name: event.Test}
			tests = append(tests, test)
			named[event.Test] = test
		}
		switch event.Action {
		case "output":
			test.printed.WriteString(event.Output)
		case "pass", "fail", "skip":
			test.result = event.Action
		}
	}
	return tests
}

// storeForAll returns the image store if every user can get there, and else a
// copy of hard links in made: a checkout may be closed to others.
func storeForAll(t *testing.T, made string) string {
	t.Helper()
	store, err := filepath.Abs("../../.cache/images")
	if err != nil {
		t.Fatal(err)
	}
	open := true
	for p := store; p != "/"; p = filepath.Dir(p) {
		info, err := os.Stat(p)
		if errors.Is(err, fs.ErrNotExist) {
			return store // the tests say what is missing
		}
		if err != nil {
			t.Fatal(err)
		}
		open = open && info.Mode().Perm()&0o005 == 0o005
	}
	if open {
		return store
	}
	if err := os.Mkdir(made, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, part := range []string{"oci-layout", "index.json", "lock", "blobs", "rootfs"} {
		from := filepath.Join(store, part)
		if exec.Command("cp", "-al", from, made).Run() == nil {
			continue
		}
		// Another file system.
		if out, err := exec.Command("cp", "-a", from, made).CombinedOutput(); err != nil {
			t.Fatalf("cannot copy the image store: %v %s", err, out)
		}
	}
	return made
}

func copyProgram(t *testing.T, from, to string) {
	t.Helper()
	in, err := os.Open(from)
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_WRONLY, 0o755)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(out, in); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(out.Chmod(0o755), out.Close()); err != nil {
		t.Fatal(err)
	}
}

func TestExitCodeOfTheAgentIsReported(t *testing.T) {
	dir := shortTempDir(t)
	b := newBox(t, newDriver(t, dir), "exits", sandboxes.Resources{})
	b.attack("hello")
	_, _ = b.post(t.Context(), "/exit", nil) // the connection breaks, of course
	if exit := b.end(); exit.Code != 7 || exit.Reason != "" || time.Since(exit.At) > time.Minute {
		t.Errorf("Exit is %+v, want code 7 just now", exit)
	}
	if exit, err := newDriver(t, dir).Wait(t.Context(), "exits"); err != nil || exit.Code != 7 {
		t.Errorf("a new driver says %+v, %v; want code 7", exit, err)
	}
}

func TestKilledSentryIsReported(t *testing.T) {
	dir := shortTempDir(t)
	b := newBox(t, newDriver(t, dir), "killed", sandboxes.Resources{})
	b.attack("hello")
	if err := syscall.Kill(recorded(t, dir, "killed").Sentry.PID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if exit := b.end(); exit.Code != 137 || !strings.Contains(exit.Reason, "signal 9") {
		t.Errorf("Exit is %+v, want code 137 and the signal", exit)
	}
}

// A host that loses its power may leave files of which only the name is written.
func TestSandboxWhoseRecordWasCutShortCanBeDestroyed(t *testing.T) {
	dir := shortTempDir(t)
	record := filepath.Join(dir, "cut", "sandbox.json")
	if err := errors.Join(os.Mkdir(filepath.Dir(record), 0o700), os.WriteFile(record, nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	d := newDriver(t, dir)
	if list, err := d.List(t.Context()); err != nil || len(list) != 1 || list[0].Spec.ID != "cut" {
		t.Fatalf("List: %+v, %v", list, err)
	}
	if err := d.Destroy(t.Context(), "cut"); err != nil {
		t.Fatal(err)
	}
	if list, err := d.List(t.Context()); err != nil || len(list) != 0 {
		t.Errorf("List after Destroy: %+v, %v", list, err)
	}
}

// processes is what the driver records, as far as the tests look at it.
type processes struct {
	Supervisor, Sentry struct{ PID int }
	Others             []struct{ PID int }
}

func (p processes) pids() []int {
	pids := []int{p.Supervisor.PID, p.Sentry.PID}
	for _, o := range p.Others {
		pids = append(pids, o.PID)
	}
	return pids
}

func recorded(t *testing.T, stateDir, id string) processes {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(stateDir, id, "processes.json"))
	if err != nil {
		t.Fatal(err)
	}
	var p processes
	if err := json.Unmarshal(data, &p); err != nil {
		t.Fatal(err)
	}
	if p.Sentry.PID == 0 || p.Supervisor.PID == 0 || len(p.Others) == 0 {
		t.Fatalf("incomplete records of processes: %s", data)
	}
	return p
}

func TestKilledSupervisorDoesNotEndTheSandbox(t *testing.T) {
	dir := shortTempDir(t)
	d := newDriver(t, dir)
	b := newBox(t, d, "orphan", sandboxes.Resources{})
	b.attack("hello")
	if err := syscall.Kill(recorded(t, dir, "orphan").Supervisor.PID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if exit, err := d.Wait(ctx, "orphan"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Wait for a sandbox without supervisor: %+v, %v; want it to run on", exit, err)
	}
	b.attack("hello")
	_, _ = b.post(t.Context(), "/exit", nil)
	if exit := b.end(); exit.Code != -1 || exit.Reason == "" {
		t.Errorf("Exit is %+v, want code -1, for unknown, and a reason", exit)
	}
}

// A terminal's Ctrl-C, and a shell that hangs up, go to a process group.
func TestSignalsToTheGatewaysGroupPassBy(t *testing.T) {
	dir := shortTempDir(t)
	b := newBox(t, newDriver(t, dir), "group", sandboxes.Resources{})
	b.attack("hello")
	ours, err := syscall.Getpgid(0)
	if err != nil {
		t.Fatal(err)
	}
	for _, pid := range recorded(t, dir, "group").pids() {
		if pgid, err := syscall.Getpgid(pid); err != nil || pgid == ours {
			t.Errorf("process %d of the sandbox is in group %d, %v; the gateway's is %d", pid, pgid, err, ours)
		}
	}
}

// Secrets come to the gateway in its environment.
func TestGatewaysEnvironmentDoesNotReachTheSandbox(t *testing.T) {
	t.Setenv("KERNELGW_SECRET", "very-secret")
	dir := shortTempDir(t)
	b := newBox(t, newDriver(t, dir), "env", sandboxes.Resources{})
	b.attack("hello")
	for _, pid := range recorded(t, dir, "env").pids() {
		env, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid))
		if err == nil && bytes.Contains(env, []byte("very-secret")) {
			t.Errorf("process %d of the sandbox has the gateway's environment", pid)
		}
	}
	if got := b.attack("search", "very-", "secret"); !strings.HasSuffix(got, "found []") {
		t.Errorf("inside: %s", got)
	}
}

func TestDeepStateDirectory(t *testing.T) {
	dir := filepath.Join(shortTempDir(t), strings.Repeat("d", 100), strings.Repeat("e", 100))
	b := newBox(t, newDriver(t, dir), "deep", sandboxes.Resources{})
	if got := b.attack("hello"); !strings.HasPrefix(got, "uid 1000") {
		t.Errorf("inside: %s", got)
	}
}

func TestLogIsBoundedAndKeepsTheEnd(t *testing.T) {
	dir := shortTempDir(t)
	b := newBox(t, newDriver(t, dir), "prints", sandboxes.Resources{})
	if _, err := b.post(t.Context(), "/print", nil); err != nil {
		t.Fatal(err)
	}
	_, _ = b.post(t.Context(), "/exit", nil)
	b.end()
	waitGone(t, recorded(t, dir, "prints").Supervisor.PID)
	var size int
	var all []byte
	for _, name := range []string{"log.1", "log"} {
		data, err := os.ReadFile(filepath.Join(dir, "prints", name))
		if err != nil {
			t.Fatal(err)
		}
		size += len(data)
		all = append(all, data...)
	}
	if size > 512<<10 || !bytes.Contains(all, []byte("the last line")) {
		t.Errorf("the log has %d bytes of 4 MiB that were printed, and ends with %q", size, all[max(0, len(all)-50):])
	}
}

// waitGone waits until a process has ended, as a child of ours also a zombie.
func waitGone(t *testing.T, pid int) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil || bytes.Contains(stat, []byte(") Z ")) {
			return
		}
	}
	t.Fatalf("process %d did not end", pid)
}

func TestInvalidResourcesAreRefused(t *testing.T) {
	d := newDriver(t, shortTempDir(t))
	for name, limits := range map[string]sandboxes.Resources{
		"negative CPUs":      {CPUs: -1},
		"negative memory":    {MemoryBytes: -1},
		"negative processes": {Processes: -1},
		"negative disk":      {DiskBytes: -1},
		"too little memory":  {MemoryBytes: 1},
	} {
		if _, err := d.Create(t.Context(), sandboxes.Spec{ID: "invalid", Resources: limits}); !errors.Is(err, sandboxes.ErrInvalid) {
			t.Errorf("%s: %v, want ErrInvalid", name, err)
		}
	}
	if list, err := d.List(t.Context()); err != nil || len(list) > 0 {
		t.Errorf("List: %v, %v", list, err)
	}
}

func TestAgentThatCannotRunFailsCreateAndLeavesNothing(t *testing.T) {
	agent := filepath.Join(shortTempDir(t), "agent")
	if err := os.WriteFile(agent, []byte("not a program"), 0o755); err != nil {
		t.Fatal(err)
	}
	dir := shortTempDir(t)
	d, err := gvisor.New(gvisor.Options{StateDir: dir, Runsc: runsc(t), AgentPath: agent, Images: newImages(t)})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	before := host(t, dir)
	_, err = d.Create(t.Context(), sandboxes.Spec{ID: "life-broken"})
	if err == nil || !strings.Contains(err.Error(), "exec") {
		t.Errorf("Create: %v, want runsc's own words on why it cannot execute the agent", err)
	}
	leftBehind(t, before, host(t, dir))
}

func TestControlGroupsHoldTheLimits(t *testing.T) {
	report := gvisor.Probe(t.Context(), runsc(t))
	if report.Cgroups == "" {
		t.Logf("sandboxes have no control groups here: %s", report.CgroupsWhy)
		return
	}
	b := newBox(t, newDriver(t, shortTempDir(t)), "limits", sandboxes.Resources{CPUs: 0.5, MemoryBytes: 512 << 20, Processes: 50})
	b.attack("hello")
	want := map[string]string{"/sys/fs/cgroup/kernelgw-limits/cpu.max": "50000 100000", "/sys/fs/cgroup/kernelgw-limits/memory.max": "805306368"}
	if report.Cgroups == "v1" {
		want = map[string]string{
			"/sys/fs/cgroup/cpu/kernelgw-limits/cpu.cfs_quota_us":         "50000",
			"/sys/fs/cgroup/memory/kernelgw-limits/memory.limit_in_bytes": "805306368", // and 256 MiB for the sentry
			"/sys/fs/cgroup/pids/kernelgw-limits/pids.max":                "2448",
		}
	}
	for file, value := range want {
		got, err := os.ReadFile(file)
		if err != nil || strings.TrimSpace(string(got)) != value {
			t.Errorf("%s is %q, %v; want %s", file, got, err, value)
		}
	}
}

// With KERNELGW_TEST_LONG they are a hundred.
func TestTenLivesLeaveNothingBehind(t *testing.T) {
	dir := shortTempDir(t)
	d := newDriver(t, dir)
	lives := 10
	if os.Getenv("KERNELGW_TEST_LONG") != "" {
		lives = 100
	}
	before, memory := host(t, dir), liveBytes()
	for i := range lives {
		id := fmt.Sprintf("life-%d", i)
		b := newBox(t, d, id, sandboxes.Resources{})
		if i%2 == 0 { // destroyed also while it starts
			b.attack("write", "/home/jovyan/x")
		}
		if err := d.Destroy(t.Context(), id); err != nil {
			t.Fatal(err)
		}
	}
	after := host(t, dir)
	leftBehind(t, before, after)
	t.Logf("%d lives: %d processes, mounts, control groups, files and descriptors before, %d after; %d KiB of memory before, %d after",
		lives, len(before), len(after), memory>>10, liveBytes()>>10)
	if more := liveBytes() - memory; more > 4<<20 {
		t.Errorf("%d lives left %d KiB of memory in use", lives, more>>10)
	}
}

// liveBytes is the memory that this process uses after a collection.
func liveBytes() int64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// host lists what sandboxes could leave on a host: runsc's and supervisors'
// processes, mounts, control groups, files, descriptors of this process.
func host(t *testing.T, stateDir string) []string {
	t.Helper()
	var found []string
	procs, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, p := range procs {
		if cmdline, err := os.ReadFile(p); err == nil && bytes.Contains(cmdline, []byte(stateDir)) {
			found = append(found, p+" "+string(bytes.ReplaceAll(cmdline, []byte{0}, []byte{' '})))
		}
	}
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(mounts)) {
		// Other tests pin namespaces meanwhile, in state directories of their own.
		if !strings.HasPrefix(line, "nsfs ") || strings.Contains(line, stateDir) {
			found = append(found, line)
		}
	}
	for _, pattern := range []string{
		"/sys/fs/cgroup/kernelgw-life*", "/sys/fs/cgroup/*/kernelgw-life*", stateDir + "/*", stateDir + "/.*", "/tmp/runsc*", "/run/runsc*",
	} {
		paths, _ := filepath.Glob(pattern)
		found = append(found, paths...)
	}
	fds, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	for _, fd := range fds {
		// Numbers of sockets and pipes differ from one to the next.
		if target, err := os.Readlink("/proc/self/fd/" + fd.Name()); err == nil {
			kind, _, _ := strings.Cut(target, ":[")
			found = append(found, "open: "+kind)
		}
	}
	return found
}

// leftBehind compares two findings of host.
func leftBehind(t *testing.T, before, after []string) {
	t.Helper()
	for _, was := range before {
		if i := slices.Index(after, was); i >= 0 {
			after = slices.Delete(after, i, i+1)
		}
	}
	for _, what := range after {
		t.Errorf("left behind: %s", what)
	}
}
