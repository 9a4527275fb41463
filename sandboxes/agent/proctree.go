package agent

import (
	"bytes"
	"errors"
	"os"
	"runtime"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// procs finds the processes of the kernel through /proc.
type procs struct {
	// ownsDescendants: every descendant of this process is the kernel's.
	// Otherwise only the kernel's process group, session and descendants are.
	ownsDescendants bool
	// user is the kernel's alone; nil when it shares the agent's.
	user *User
}

// procStat is what is used of /proc/PID/stat.
type procStat struct {
	pid, parent, group, session int
	zombie                      bool
	cpuTicks                    int64 // of itself and of the children that it waited for
	residentPages               int64
	started                     int64 // ticks since the system's start
}

const noProcess = -1

// nobody is the first process where there is no kernel: what belongs to it are
// the descendants of this process, if those are all its own.
var nobody = identity{pid: noProcess}

// resident is the memory of the process, with what it shares.
func (s procStat) resident() int64 { return s.residentPages * int64(os.Getpagesize()) }

const ticksPerSecond = 100 // USER_HZ, the same on all Linux architectures that Go has

// parseStat reads a /proc/PID/stat line. The command name in it is the
// process's own choice, parentheses, spaces and newlines included.
func parseStat(b []byte) (procStat, bool) {
	open, end := bytes.IndexByte(b, '('), bytes.LastIndexByte(b, ')')
	if open < 2 || end < open {
		return procStat{}, false
	}
	fields := bytes.Fields(b[end+1:])
	if len(fields) < 22 {
		return procStat{}, false
	}
	ok := true
	number := func(text []byte) int64 {
		n, err := strconv.ParseInt(string(text), 10, 64)
		ok = ok && err == nil
		return n
	}
	// proc_pid_stat(5) counts from 1 and the state is 3; here it is 0.
	s := procStat{
		pid:           int(number(bytes.TrimSpace(b[:open]))),
		zombie:        fields[0][0] == 'Z' || fields[0][0] == 'X',
		parent:        int(number(fields[1])),
		group:         int(number(fields[2])),
		session:       int(number(fields[3])),
		cpuTicks:      number(fields[11]) + number(fields[12]) + number(fields[13]) + number(fields[14]),
		started:       number(fields[19]),
		residentPages: number(fields[21]),
	}
	return s, ok && s.pid > 0
}

// identity is a process, also after its number became another's.
type identity struct {
	pid     int
	started int64 // procStat.started
}

// identify returns who has a number now. The caller has not waited for it.
func identify(pid int) identity {
	b, _ := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat") // without it no process is taken for this one
	s, _ := parseStat(b)
	return identity{pid, s.started}
}

// list returns the live processes of the kernel whose first process is, or
// was, kernel.
func (p procs) list(kernel identity) []procStat {
	dir, err := os.Open("/proc")
	if err != nil {
		return nil
	}
	defer dir.Close()
	names, _ := dir.Readdirnames(-1) // what could be read is used
	all := make([]procStat, 0, len(names))
	buffer := make([]byte, maxStat)
	for _, name := range names {
		if name[0] < '1' || name[0] > '9' {
			continue
		}
		if s, ok := parseStat(readStat(name, buffer)); ok { // otherwise gone meanwhile
			all = append(all, s)
		}
	}
	return p.choose(all, os.Getpid(), kernel)
}

// maxStat is more than a line of /proc/PID/stat has: fifty numbers, and a name of
// sixty-four bytes.
const maxStat = 2048

// readStat reads a line of /proc/PID/stat in as few system calls as can be: where
// hundreds of processes are at work, each has its turn between two of them.
func readStat(pid string, buffer []byte) []byte {
	fd, err := unix.Open("/proc/"+pid+"/stat", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil
	}
	n, err := unix.Read(fd, buffer)
	_ = unix.Close(fd) // it was only read
	if err != nil {
		return nil
	}
	return buffer[:n]
}

// choose returns those of all that are the kernel's and alive.
func (p procs) choose(all []procStat, self int, kernel identity) []procStat {
	parent := make(map[int]int, len(all))
	here, reused := false, false // the first process, dead or alive; another with its number
	for _, s := range all {
		parent[s.pid] = s.parent
		if s.pid == kernel.pid {
			here = s.started == kernel.started
			reused = !here
		}
	}
	root, numbered := kernel.pid, !reused
	if p.ownsDescendants {
		// Those that the first process left are below the agent: no need to go
		// by a number that may be another's.
		root, numbered = self, here
	} else if reused {
		root = noProcess
	}
	var chosen []procStat
	for _, s := range all {
		if s.zombie || s.pid == self || s.pid == 1 {
			continue
		}
		if numbered && (s.group == kernel.pid || s.session == kernel.pid) || descends(parent, s.pid, root) {
			chosen = append(chosen, s)
		}
	}
	return chosen
}

// descends reports whether pid is root or below it. The map is a snapshot that
// was not taken at one instant: it may even contain a cycle.
func descends(parent map[int]int, pid, root int) bool {
	for range len(parent) + 1 {
		if pid == root {
			return true
		}
		next, ok := parent[pid]
		if !ok {
			return false
		}
		pid = next
	}
	return false
}

// kill ends every process of the kernel and returns true when none is left,
// false when some are after patience.
func (p procs) kill(kernel identity, patience time.Duration) bool {
	pause := time.Millisecond
	nobody := false
	for deadline := time.Now().Add(patience); ; {
		if p.user != nil {
			killAllOf(*p.user)
		}
		found := p.stopAll(kernel)
		if len(found) == 0 {
			if nobody {
				return true
			}
			// A process whose parent ends between two looks at /proc seems to
			// be nobody's for once.
			nobody = true
			continue
		}
		nobody = false
		if time.Now().After(deadline) {
			return false
		}
		signalEach(found, unix.SIGKILL)
		time.Sleep(pause) // the killed need a moment to be gone
		pause = min(2*pause, 20*time.Millisecond)
	}
}

// stopAll stops every process of the kernel and returns them. What is told to
// stop does not fork any more, so each round finds only what was born during
// the one before. Killing at once would make room for new ones instead.
func (p procs) stopAll(kernel identity) map[int]procStat {
	stopped := make(map[int]procStat)
	for range 1000 {
		found := p.list(kernel)
		news := make(map[int]procStat)
		for _, s := range found {
			if _, known := stopped[s.pid]; !known {
				news[s.pid], stopped[s.pid] = s, s
			}
		}
		if len(news) == 0 {
			break
		}
		signalEach(news, unix.SIGSTOP)
		if len(found) == 1 {
			break // it alone would be stopped only to be killed
		}
	}
	return stopped
}

// signalEach sends a signal to processes of a kernel. A process group gets it at
// one instant: it is of one session, and so as much the kernel's as its member is,
// unless it is the one that this process is in.
func signalEach(found map[int]procStat, signal unix.Signal) {
	done := map[int]bool{unix.Getpgrp(): false}
	for pid, s := range found {
		if done[s.group] {
			continue
		}
		to := pid
		if _, ours := done[s.group]; !ours && s.group > 1 {
			to, done[s.group] = -s.group, true
		}
		_ = unix.Kill(to, signal) // gone is what is wanted, or as good as stopped
	}
}

// killAllOf kills every process of a user, at one instant: the system holds up
// forks meanwhile. The user is the kernel's alone.
func killAllOf(u User) {
	onItsOwnThread(func() {
		if becomeKillerOf(u) == nil { // otherwise not root: then there are no other users either
			_ = unix.Kill(-1, unix.SIGKILL) // nobody there is what is wanted
		}
	})
}

// onItsOwnThread runs f on a thread that ends with it. Linux has user ids by
// thread.
func onItsOwnThread(f func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread()
		if unix.Gettid() == unix.Getpid() {
			// The first thread would stay, and be the process to the others.
			// While it is held here the next goroutine gets another.
			onItsOwnThread(f)
			runtime.UnlockOSThread()
			return
		}
		f()
	}()
	<-done
}

// nobodyAtAll is a user id that no process has: the highest there is.
const nobodyAtAll = noUser - 1

// becomeKillerOf lets the calling thread kill the processes of u, and no others.
// It must be locked to its goroutine.
//
// kill(2) lets a sender whose effective or real user is the target's real or
// saved one. So the effective user becomes u, which also takes the capability
// to kill others. Were the real or saved one u, too, the processes of u could
// kill this thread, and with it the agent, before it kills them; were either
// root, it would kill all of root's.
func becomeKillerOf(u User) error {
	_, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, nobodyAtAll, uintptr(u.UID), nobodyAtAll)
	if errno == unix.EINVAL { // a user namespace without that number
		_, _, errno = unix.RawSyscall(unix.SYS_SETRESUID, uintptr(u.UID), uintptr(u.UID), uintptr(u.UID))
	}
	if errno != 0 {
		return errno
	}
	return nil
}

// usage sums up processes.
type usage struct {
	cpu       time.Duration // of the living and of those that they waited for
	memory    int64         // pages that several share are counted for each
	processes int64
}

func (p procs) usage(kernel identity) usage { return usageOf(p.list(kernel)) }

func usageOf(all []procStat) usage {
	var u usage
	for _, s := range all {
		u.processes++
		u.cpu += time.Duration(s.cpuTicks) * time.Second / ticksPerSecond
		u.memory += s.resident()
	}
	return u
}

// footprint is the memory of the kernel with each page that several processes
// use counted once. It is slower by far than usage.
func (p procs) footprint(kernel identity) int64 {
	// A process that ends while others are looked at makes the shares of those
	// larger that come after it, so what counts is the smaller of two sums.
	return min(footprint(p.list(kernel), proportionalShare), footprint(p.list(kernel), proportionalShare))
}

// footprint takes the memory of the largest process where the system does not
// tell shares (gVisor): that much is used for certain. The sum would count for
// each child what it has from its parent, and kill those that only forked; who
// uses more in many processes meets the limit of the sandbox as a whole.
func footprint(all []procStat, share func(pid int) (int64, error)) int64 {
	var sum, largest int64
	told := false
	for _, s := range all {
		largest = max(largest, s.resident())
		if n, err := share(s.pid); err == nil {
			sum, told = sum+n, true
		}
	}
	if told { // who did not tell is gone
		return sum
	}
	return largest
}

// proportionalShare is the memory of a process, each page divided by the number
// of its users.
func proportionalShare(pid int) (int64, error) {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/smaps_rollup")
	if err != nil {
		return 0, err
	}
	for line := range bytes.Lines(b) {
		rest, ok := bytes.CutPrefix(line, []byte("Pss:"))
		if !ok {
			continue
		}
		fields := bytes.Fields(rest)
		if len(fields) == 0 {
			break
		}
		kib, err := strconv.ParseInt(string(fields[0]), 10, 64)
		return kib << 10, err
	}
	return 0, errors.New("smaps_rollup has no Pss")
}

// collectedCPU is the CPU time of all processes that were waited for.
func collectedCPU() time.Duration {
	var r unix.Rusage
	if unix.Getrusage(unix.RUSAGE_CHILDREN, &r) != nil {
		return 0
	}
	return time.Duration(r.Utime.Nano() + r.Stime.Nano())
}
