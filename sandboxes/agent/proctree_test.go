package agent

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestParseStat(t *testing.T) {
	const rest = " 1 42 42 0 -1 4194560 1 2 3 4 150 50 7 8 20 0 1 0 100 1000000 256 18446744073709551615"
	for name, c := range map[string]struct {
		line string
		want procStat
		ok   bool
	}{
		"plain":       {"43 (python) S" + rest, procStat{pid: 43, parent: 1, group: 42, session: 42, cpuTicks: 215, started: 100, residentPages: 256}, true},
		"forged name": {"43 (x) Z 9 9 9 (y\n) R" + rest, procStat{pid: 43, parent: 1, group: 42, session: 42, cpuTicks: 215, started: 100, residentPages: 256}, true},
		"zombie":      {"43 (x) Z" + rest, procStat{pid: 43, parent: 1, group: 42, session: 42, zombie: true, cpuTicks: 215, started: 100, residentPages: 256}, true},
		"short":       {"43 (x) S 1 2 3", procStat{}, false},
		"no name":     {"43 x S" + rest, procStat{}, false},
		"no pid":      {"(x) S" + rest, procStat{}, false},
		"empty":       {"", procStat{}, false},
	} {
		got, ok := parseStat([]byte(c.line))
		if ok != c.ok || ok && got != c.want {
			t.Errorf("%s: got %+v, %v", name, got, ok)
		}
	}
	own, err := os.ReadFile("/proc/self/stat")
	if err != nil {
		t.Fatal(err)
	}
	if s, ok := parseStat(own); !ok || s.pid != os.Getpid() || s.parent != os.Getppid() || s.residentPages == 0 {
		t.Errorf("of this process: %+v, %v", s, ok)
	}
}

func TestMembersAreTheDescendants(t *testing.T) {
	cmd := exec.Command("/bin/sh", "-c", "sleep 1000 & sleep 1000 & echo; wait")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	out.Read(make([]byte, 1)) // both are there
	p := procs{ownsDescendants: true}
	kernel := identify(cmd.Process.Pid)
	if members := p.list(kernel); len(members) != 3 {
		t.Errorf("%d members, want 3", len(members))
	}
	if !p.kill(kernel, patience) {
		t.Error("not all were killed")
	}
	cmd.Wait()
	if members := p.list(kernel); len(members) != 0 {
		t.Errorf("still there: %v", members)
	}
}

func TestStrangerThatGotTheKernelsNumberIsLeftAlone(t *testing.T) {
	const self, kernel = 10, 20
	stranger := []procStat{
		{pid: self, parent: 1},
		{pid: kernel, parent: 1, group: kernel, session: kernel, started: 8},
		{pid: 21, parent: kernel, group: kernel, session: kernel, started: 9},
		{pid: 22, parent: kernel, group: 22, session: 22, started: 9},
	}
	orphan := procStat{pid: 23, parent: self, group: kernel, session: kernel, started: 7}
	for owns, want := range map[bool][]procStat{false: nil, true: {orphan}} {
		got := procs{ownsDescendants: owns}.choose(append(stranger, orphan), self, identity{kernel, 7})
		if !slices.Equal(got, want) {
			t.Errorf("owning descendants %v: %v, want %v", owns, got, want)
		}
	}
	// Its first process is gone: what has the number as its group may be anybody's.
	if got := (procs{ownsDescendants: true}).choose(stranger[2:], self, identity{kernel, 7}); got != nil {
		t.Errorf("without the first process of the group: %v", got)
	}
}

func TestMemoryOfProcessesThatForkedIsCountedOnce(t *testing.T) {
	pages := int64(500<<20) / int64(os.Getpagesize())
	family := []procStat{{pid: 1, residentPages: pages}, {pid: 2, residentPages: pages - 1}, {pid: 3, residentPages: pages - 1}}
	told := func(pid int) (int64, error) {
		if pid == 3 {
			return 0, os.ErrNotExist // gone meanwhile
		}
		return 170 << 20, nil
	}
	silent := func(int) (int64, error) { return 0, os.ErrNotExist } // gVisor
	if got := footprint(family, told); got != 340<<20 {
		t.Errorf("%d bytes where the system tells shares", got)
	}
	if got := footprint(family, silent); got != 500<<20 {
		t.Errorf("%d bytes where the system tells no shares, want those of the largest", got)
	}
}

// The processes of the kernel's user may signal what has their user id; the
// thread that kills them must not.
func TestKillerCannotBeKilledByThoseItKills(t *testing.T) {
	needRoot(t)
	u := User{UID: 61236, GID: 61236}
	asUser := &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: u.UID, Gid: u.GID}}
	victim, stranger := exec.Command("sleep", "1000"), exec.Command("sleep", "1000")
	victim.SysProcAttr = asUser
	for _, cmd := range []*exec.Cmd{victim, stranger} {
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		defer cmd.Wait()
		defer cmd.Process.Kill()
	}
	onItsOwnThread(func() {
		attack := exec.Command("/bin/sh", "-c", "kill -0 "+strconv.Itoa(unix.Gettid()))
		attack.SysProcAttr = asUser
		attacked := make(chan struct{}) // by another thread, which is still root's
		if err := becomeKillerOf(u); err != nil {
			t.Error(err)
		}
		// Signal 0 asks for permission only.
		if err := unix.Kill(victim.Process.Pid, 0); err != nil {
			t.Errorf("cannot kill the user's process: %v", err)
		}
		if err := unix.Kill(stranger.Process.Pid, 0); err != unix.EPERM {
			t.Errorf("can kill root's process: %v", err)
		}
		go func() {
			defer close(attacked)
			if out, err := attack.CombinedOutput(); err == nil || !strings.Contains(string(out), "ermitted") {
				t.Errorf("the user's process may signal the thread: %v %s", err, out)
			}
		}()
		<-attacked
	})
}

func FuzzParseStat(f *testing.F) {
	f.Add([]byte("43 (a) b) S 1 42 42 0 -1 4194560 1 2 3 4 150 50 7 8 20 0 1 0 100 1000000 256 0"))
	f.Add([]byte(")("))
	f.Fuzz(func(t *testing.T, b []byte) {
		if s, ok := parseStat(b); ok && s.pid <= 0 {
			t.Errorf("process %d in %q", s.pid, b)
		}
	})
}

func TestWhoIsTheKernels(t *testing.T) {
	const self, kernel = 10, 20
	all := []procStat{
		{pid: 1, parent: 0},
		{pid: self, parent: 1},
		{pid: kernel, parent: self, group: kernel, session: kernel, started: 7},
		{pid: 21, parent: kernel, group: 21, session: 21}, // left the session
		{pid: 22, parent: 1, group: kernel, session: kernel},
		{pid: 23, parent: self, group: 23, session: 23}, // an orphan that came to the agent
		{pid: 24, parent: 23, group: 23, session: 23},
		{pid: 25, parent: kernel, zombie: true},
		{pid: 30, parent: 31}, // a cycle of a torn snapshot
		{pid: 31, parent: 30},
		{pid: 40, parent: 1, group: 40, session: 40}, // a stranger
	}
	for owns, want := range map[bool][]int{false: {20, 21, 22}, true: {20, 21, 22, 23, 24}} {
		var got []int
		for _, s := range (procs{ownsDescendants: owns}).choose(all, self, identity{kernel, 7}) {
			got = append(got, s.pid)
		}
		if !slices.Equal(got, want) {
			t.Errorf("owning descendants %v: %v, want %v", owns, got, want)
		}
	}
}

// A bomb of processes is mostly one group, which is met at one instant; the group
// that this process is in is not the kernel's.
func TestAGroupIsSignalledAsAWhole(t *testing.T) {
	group := exec.Command("/bin/sh", "-c", "sleep 1000 & sleep 1000 & echo started; wait")
	group.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	printed, err := group.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	ours := exec.Command("sleep", "1000")
	for _, cmd := range []*exec.Cmd{group, ours} {
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := bufio.NewReader(printed).ReadString('\n'); err != nil {
		t.Fatal(err)
	}
	members := procs{}.list(identify(group.Process.Pid))
	if len(members) != 3 {
		t.Fatalf("the group has %+v, want three", members)
	}
	found := map[int]procStat{members[2].pid: members[2]} // one of them is enough
	for _, s := range (procs{}).list(identify(ours.Process.Pid)) {
		found[s.pid] = s
	}
	signalEach(found, unix.SIGKILL)
	for _, cmd := range []*exec.Cmd{group, ours} {
		if err := cmd.Wait(); err == nil || err.Error() != "signal: killed" {
			t.Errorf("%v ended with %v", cmd.Args, err)
		}
	}
	for _, s := range members {
		for began := time.Now(); unix.Kill(s.pid, 0) == nil && identify(s.pid).started == s.started; time.Sleep(5 * time.Millisecond) {
			if b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", s.pid)); bytes.Contains(b, []byte(") Z ")) {
				break // nobody has collected it yet
			}
			if time.Since(began) > time.Minute {
				t.Fatalf("process %d of the group lives", s.pid)
			}
		}
	}
}
