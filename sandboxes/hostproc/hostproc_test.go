package hostproc

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
)

func TestMain(m *testing.M) {
	if os.Getenv("HOSTPROC_HEADLESS") != "" {
		beHeadless()
	}
	if os.Getenv("HOSTPROC_BLANK") != "" {
		beBlank()
	}
	goleak.VerifyTestMain(m)
}

func init() {
	// The main goroutine stays on the process's first thread.
	runtime.LockOSThread()
}

// beHeadless ends the first thread of this process and not the others.
func beHeadless() {
	go func() {
		time.Sleep(time.Minute)
		os.Exit(1)
	}()
	_, _, _ = unix.Syscall(unix.SYS_EXIT, 0, 0, 0)
}

// beBlank forgets this process's arguments and environment, prctl(2)
// PR_SET_MM_MAP, says so and waits to be killed.
func beBlank() {
	stat, err := os.ReadFile("/proc/self/stat")
	if err != nil {
		panic(err)
	}
	fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	field := func(n int) uint64 {
		v, err := strconv.ParseUint(fields[n-3], 10, 64)
		if err != nil {
			panic(err)
		}
		return v
	}
	brk, _, _ := unix.Syscall(unix.SYS_BRK, 0, 0, 0)
	args := field(48)
	m := struct {
		startCode, endCode, startData, endData, startBrk, brk, startStack uint64
		argStart, argEnd, envStart, envEnd                                uint64
		auxv                                                              uint64
		auxvSize, exe                                                     uint32
	}{
		field(26), field(27), field(45), field(46), field(47), uint64(brk), field(28),
		args, args, args, args, 0, 0, ^uint32(0),
	}
	if _, _, errno := unix.Syscall6(unix.SYS_PRCTL, unix.PR_SET_MM, unix.PR_SET_MM_MAP, uintptr(unsafe.Pointer(&m)), unsafe.Sizeof(m), 0, 0); errno != 0 {
		panic(errno)
	}
	_, _ = os.Stdout.WriteString("blank\n")
	time.Sleep(time.Minute)
	os.Exit(1)
}

// gVisor has processes without arguments and environment, tens for a sandbox.
func TestProcessesThatStayBlankAreNotWaitedFor(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for range 5 {
		_, line, cmd := spawn(t, "exec "+self, "HOSTPROC_BLANK=yes")
		args, err := os.ReadFile("/proc/" + strconv.Itoa(cmd.Process.Pid) + "/cmdline")
		if line != "blank" || len(args) > 0 || err != nil {
			t.Fatalf("%q, arguments %q, %v", line, args, err)
		}
	}
	start := time.Now()
	if err := KillAll(t.Context(), WithEnv("HOSTPROC_NOBODY", "yes")); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(start); took > settle {
		t.Errorf("KillAll took %v", took)
	}
}

// spawn starts a shell script and returns its ID and the first line it prints.
func spawn(t *testing.T, script string, env ...string) (ID, string, *exec.Cmd) {
	t.Helper()
	cmd := exec.Command("sh", "-c", script)
	cmd.Env = append(os.Environ(), env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatalf("%s: %v", script, err)
	}
	id, err := Identify(cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	return id, strings.TrimSpace(line), cmd
}

func TestWaitSeesTheEndOfAChildAndOfSomebodyElses(t *testing.T) {
	child, line, _ := spawn(t, "sleep 3600 & echo $!; wait")
	pid, err := strconv.Atoi(line)
	if err != nil {
		t.Fatal(err)
	}
	grandchild, err := Identify(pid)
	if err != nil {
		t.Fatal(err)
	}
	for name, p := range map[string]ID{"grandchild": grandchild, "child": child} {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
		if err := p.Wait(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Wait for a running %s: %v, want the context's error", name, err)
		}
		cancel()
	}
	ended := make(chan error)
	go func() { ended <- grandchild.Wait(t.Context()) }()
	if err := grandchild.Signal(unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; err != nil {
		t.Errorf("Wait for a killed grandchild: %v", err)
	}
	// The shell ends now; nobody reaps it, so that it is a zombie.
	if err := child.Wait(t.Context()); err != nil {
		t.Errorf("Wait for a zombie: %v", err)
	}
	if alive, err := child.Alive(); alive || err != nil {
		t.Errorf("a zombie counts as alive: %v, %v", alive, err)
	}
}

func TestReusedPidIsAnotherProcess(t *testing.T) {
	p, _, cmd := spawn(t, "echo; exec sleep 3600")
	for name, other := range map[string]ID{
		"start time": {PID: p.PID, Start: p.Start + 1, Boot: p.Boot},
		"boot":       {PID: p.PID, Start: p.Start, Boot: "another"},
		"zero":       {},
	} {
		if err := other.Signal(unix.SIGKILL); !errors.Is(err, ErrGone) {
			t.Errorf("%s: Signal gave %v, want ErrGone", name, err)
		}
		if err := other.Kill(); err != nil {
			t.Errorf("%s: Kill gave %v", name, err)
		}
		if alive, err := other.Alive(); alive || err != nil {
			t.Errorf("%s: Alive gave %v, %v", name, alive, err)
		}
		if err := other.Wait(t.Context()); err != nil {
			t.Errorf("%s: Wait gave %v", name, err)
		}
		if err := KillAll(t.Context(), Descendants(other)); err != nil {
			t.Errorf("%s: KillAll gave %v", name, err)
		}
	}
	if alive, err := p.Alive(); !alive || err != nil {
		t.Fatalf("the process that has the pid now was harmed: %v, %v", alive, err)
	}
	if err := p.Kill(); err != nil {
		t.Errorf("Kill: %v", err)
	}
	if err := p.Wait(t.Context()); err != nil {
		t.Errorf("Wait for a killed process: %v", err)
	}
	_ = cmd.Wait()
	if err := p.Signal(unix.SIGTERM); !errors.Is(err, ErrGone) {
		t.Errorf("Signal to a reaped process gave %v, want ErrGone", err)
	}
	if err := p.Wait(t.Context()); err != nil {
		t.Errorf("Wait for a reaped process: %v", err)
	}
}

func TestLineOfTheTableNamesItsProcess(t *testing.T) {
	p, _, cmd := spawn(t, "echo; exec sleep 3600")
	table, err := Table()
	if err != nil {
		t.Fatal(err)
	}
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
	if id, err := table[p.PID].ID(); id != p || err != nil {
		t.Errorf("the line names %+v, %v; want %+v", id, err, p)
	}
}

func TestKillAllFindsWhatLeftTheSession(t *testing.T) {
	// A tree, and a daemon that has no living ancestor in it but the environment.
	p, line, _ := spawn(t, `(setsid sh -c 'sleep 3600 & echo $!; wait' &) ; sleep 3600 & wait`, "KILLALL_TEST=yes")
	pid, err := strconv.Atoi(line)
	if err != nil {
		t.Fatal(err)
	}
	daemon, err := Identify(pid)
	if err != nil {
		t.Fatal(err)
	}
	if has(t, pid, "KILLALL_TEST", "ye") || has(t, pid, "ALL_TEST", "yes") || !has(t, pid, "KILLALL_TEST", "yes") {
		t.Error("WithEnv does not match the whole variable")
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if err := KillAll(ctx, Descendants(p), WithEnv("KILLALL_TEST", "yes")); err != nil {
		t.Fatal(err)
	}
	for name, p := range map[string]ID{"root": p, "daemon": daemon} {
		if alive, err := p.Alive(); alive || err != nil {
			t.Errorf("%s is alive after KillAll: %v, %v", name, alive, err)
		}
	}
}

func TestKillAllWinsAgainstAForkBomb(t *testing.T) {
	// Eight lines of processes that live 20 ms each and leave a child: faster
	// than the process table is read. They end by themselves, after all.
	const bomb = `bomb() { [ $1 = 200 ] && exit; sleep 0.02; bomb $(($1 + 1)) & }
		for i in 1 2 3 4 5 6 7 8; do bomb 0 & done; echo up; sleep 60`
	p, _, _ := spawn(t, bomb, "KILLALL_BOMB=yes")
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if err := KillAll(ctx, Descendants(p), WithEnv("KILLALL_BOMB", "yes")); err != nil {
		t.Fatal(err)
	}
	left, _, err := look([]Matcher{WithEnv("KILLALL_BOMB", "yes")})
	if err != nil || len(left) > 0 {
		t.Errorf("%d processes survived, %v", len(left), err)
	}
}

func has(t *testing.T, pid int, name, value string) bool {
	t.Helper()
	found, _, err := look([]Matcher{WithEnv(name, value)})
	if err != nil {
		t.Fatal(err)
	}
	return slices.ContainsFunc(found, func(p Process) bool { return p.PID == pid })
}

func TestParseStatIsNotFooledByNames(t *testing.T) {
	const rest = " S 7 8 9 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 12345 1 2 3"
	for name, stat := range map[string]string{
		"plain":   "42 (sleep)" + rest,
		"parens":  "42 (a) Z 1 1 1 (b)" + rest,
		"spaces":  "42 (a b\nc)" + rest + "\n",
		"nothing": "42 ()" + rest,
	} {
		got, err := parseStat([]byte(stat))
		want := Process{PID: 42, Parent: 7, Group: 8, Session: 9, Start: 12345}
		if err != nil || got != want {
			t.Errorf("%s: %+v, %v; want %+v", name, got, err, want)
		}
	}
}

func FuzzParseStat(f *testing.F) {
	f.Add([]byte("42 (sleep) S 7 8 9 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 12345 1 2 3"))
	f.Add([]byte(")("))
	f.Add([]byte("1 () Z"))
	f.Fuzz(func(t *testing.T, stat []byte) {
		p, err := parseStat(stat)
		if err != nil && p != (Process{}) {
			t.Errorf("%+v beside error %v", p, err)
		}
	})
}

func TestProcessInTheMiddleOfExecveIsFound(t *testing.T) {
	for range 50 {
		cmd := exec.Command("sleep", "3600")
		cmd.Env = []string{"KILLALL_EXEC=yes"}
		cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
		// Start returns as soon as execve cannot fail any more, which is before
		// it is done.
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		if err := KillAll(t.Context(), WithEnv("KILLALL_EXEC", "yes")); err != nil {
			t.Error(err)
		}
		p, err := Identify(cmd.Process.Pid)
		if err != nil {
			t.Fatal(err)
		}
		if alive, err := p.Alive(); alive || err != nil {
			t.Errorf("alive after KillAll: %v, %v", alive, err)
			_ = cmd.Process.Kill()
		}
		_ = cmd.Wait()
	}
}

func TestProcessWithoutItsFirstThreadIsAlive(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), "HOSTPROC_HEADLESS=yes")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	var p Process
	for end := time.Now().Add(20 * time.Second); !p.headless; time.Sleep(time.Millisecond) {
		if p, err = readStat(cmd.Process.Pid); err != nil || time.Now().After(end) {
			t.Fatalf("the first thread has not ended: %+v, %v", p, err)
		}
	}
	id, err := Identify(p.PID)
	if err != nil {
		t.Fatal(err)
	}
	if alive, err := id.Alive(); p.Zombie || !alive || err != nil {
		t.Errorf("zombie: %v, alive: %v, %v", p.Zombie, alive, err)
	}
	if err := KillAll(t.Context(), WithEnv("HOSTPROC_HEADLESS", "yes")); err != nil {
		t.Fatal(err)
	}
	if alive, err := id.Alive(); alive || err != nil {
		t.Errorf("alive after KillAll: %v, %v", alive, err)
	}
}

// A host with many sandboxes has processes that end all the time.
func TestEndOfWhatWasSeenToBeAnothersLeavesNoDoubt(t *testing.T) {
	p, _, cmd := spawn(t, "echo; exec sleep 1000")
	stat, err := readStat(p.PID)
	if err != nil {
		t.Fatal(err)
	}
	match, table := withEnv("HOSTPROC_NOBODY", "yes", 0), map[int]Process{p.PID: stat}
	if found, sure := match(table); len(found) > 0 || !sure {
		t.Fatalf("found %v, sure %v of a process that lives", found, sure)
	}
	if err := errors.Join(cmd.Process.Kill(), p.Wait(t.Context())); err != nil {
		t.Fatal(err)
	}
	if _, sure := match(table); !sure {
		t.Error("its end leaves a doubt")
	}
	if _, sure := WithEnv("HOSTPROC_NOBODY", "yes")(table); sure {
		t.Error("the end of one that was never looked at leaves none")
	}
}

// Between fork and exec a process has the environment of its parent.
func TestAYoungProcessIsLookedAtAgain(t *testing.T) {
	signal := filepath.Join(t.TempDir(), "go")
	p, _, _ := spawn(t, "echo; while ! [ -e "+signal+" ]; do sleep 0.01; done; exec env HOSTPROC_LATE=yes sleep 1000")
	stat, err := readStat(p.PID)
	if err != nil {
		t.Fatal(err)
	}
	if age := stat.age(); age < -time.Second || age > time.Minute {
		t.Errorf("it is %v old", age)
	}
	match, table := withEnv("HOSTPROC_LATE", "yes", time.Hour), map[int]Process{p.PID: stat}
	if found, _ := match(table); len(found) > 0 {
		t.Fatalf("found %v before it has the variable", found)
	}
	if err := os.WriteFile(signal, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(time.Minute); ; time.Sleep(10 * time.Millisecond) {
		if found, _ := match(table); len(found) == 1 {
			return
		}
		if time.Now().After(end) {
			t.Fatal("it is not looked at again")
		}
	}
}
