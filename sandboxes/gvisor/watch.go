package gvisor

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"kernelgw/sandboxes/hostproc"
)

// limit is one that a watch enforces.
type limit int

const (
	noLimit limit = iota
	memoryLimit
	controlLimit
	unmeasured // not a limit: the watch could not see whether one is kept
)

// watch kills a sentry that takes more of the host than it may.
type watch struct {
	// set at construction
	sentry    hostproc.ID
	helpers   []hostproc.ID // the gofer
	memoryCap int64
	log       func(text string)
	control   string // the host's side of AgentDir

	ended  chan struct{} // closed by stop
	joined chan struct{} // closed when run has returned

	broken limit  // owned by run
	memory string // owned by run: path to the sentry's memory file, "" until it is found
}

// startWatch watches the sandbox in dir. log takes a line for the sandbox's log.
func startWatch(dir string, procs processes, memoryCap int64, log func(string)) *watch {
	w := &watch{
		sentry: procs.Sentry, helpers: procs.Others, memoryCap: memoryCap, log: log, control: filepath.Join(dir, runName),
		ended: make(chan struct{}), joined: make(chan struct{}),
	}
	go w.run()
	return w
}

// stop ends the watch and returns the limit that it killed the sentry for.
func (w *watch) stop() limit {
	close(w.ended)
	<-w.joined
	return w.broken
}

// checkEvery is how often all is looked at.
const checkEvery = 2 * time.Second

// maxUnmeasured is how many times in a row the memory may not be seen, before
// the sandbox has to end: without a control group nothing else holds it.
const maxUnmeasured = 5

func (w *watch) run() {
	defer close(w.joined)
	next := time.NewTimer(0)
	defer next.Stop()
	var controlChecked time.Time
	failed := 0
	for {
		select {
		case <-w.ended:
			return
		case <-next.C:
		}
		wait := checkEvery
		used, err := w.measure()
		if err == nil {
			failed = 0
			free := w.memoryCap - used
			if free < 0 {
				w.kill(memoryLimit)
				return
			}
			wait = untilMemoryCheck(free)
		} else if failed++; failed == maxUnmeasured {
			if alive, _ := w.sentry.Alive(); alive {
				w.log(fmt.Sprintf("kernelgw: cannot measure the sandbox's memory, so it has to end: %v", err))
				w.kill(unmeasured)
			}
			return
		}
		if time.Since(controlChecked) >= checkEvery {
			if overfull(w.control) {
				w.kill(controlLimit)
				return
			}
			controlChecked = time.Now()
		}
		next.Reset(wait)
	}
}

func (w *watch) kill(why limit) {
	w.broken = why
	_ = w.sentry.Kill() // what is left is that it has ended already
}

// Memory is looked at again before code that fills it as fast as it can, at
// memoryRate, could have used what was free; so an idle sandbox costs next to
// nothing, and one near its cap is held closely.
const (
	memoryRate     = 4 << 30 // bytes a second, more than was ever seen
	minMemoryCheck = 10 * time.Millisecond
)

func untilMemoryCheck(free int64) time.Duration {
	seconds := float64(free) / memoryRate
	return min(max(time.Duration(seconds*float64(time.Second)), minMemoryCheck), checkEvery)
}

// ownMemory is what the sentry and its gofer may take for themselves before it
// counts as the sandbox's: they begin with 20 MiB.
const ownMemory = 64 << 20

// measure returns how many bytes of the host's memory the sandbox takes. All
// memory of the processes inside, their tmpfs files and memfds included, are
// pages of one file of the sentry. What the sentry knows about them, such as
// their inodes, sockets and mappings, is in memory of its own: empty files take
// 3 KiB each.
func (w *watch) measure() (int64, error) {
	if w.memory == "" {
		memory, err := sentryMemory(w.sentry.PID)
		if err != nil {
			return 0, err
		}
		w.memory = memory
	}
	var stat unix.Stat_t
	if err := unix.Stat(w.memory, &stat); err != nil {
		w.memory = ""
		return 0, fmt.Errorf("cannot look at the sentry's memory file: %w", err)
	}
	own, err := privateMemory(w.sentry.PID)
	if err != nil {
		return 0, err
	}
	for _, p := range w.helpers {
		// One that has ended holds nothing, and that is not for this watch to tell.
		if n, err := privateMemory(p.PID); err == nil {
			own += n
		}
	}
	return stat.Blocks*512 + max(own-ownMemory, 0), nil
}

// sentryMemory returns a path to the sentry's memory file.
func sentryMemory(pid int) (string, error) {
	dir := fmt.Sprintf("/proc/%d/fd", pid)
	entries, err := os.ReadDir(dir)
	if err != nil {
		return "", fmt.Errorf("cannot look for the sentry's memory file: %w", err)
	}
	for _, e := range entries {
		path := filepath.Join(dir, e.Name())
		if target, err := os.Readlink(path); err == nil && strings.HasPrefix(target, "/memfd:runsc-memory") {
			return path, nil
		}
	}
	return "", errors.New("the sentry has no memory file that this version knows: use the runsc of scripts/build-runsc.sh")
}

// privateMemory returns how many bytes of memory a process has for itself, in
// RAM and swapped out.
func privateMemory(pid int) (int64, error) {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, fmt.Errorf("cannot look at the memory of process %d: %w", pid, err)
	}
	n, err := parsePrivateMemory(status)
	if err != nil {
		return 0, fmt.Errorf("cannot look at the memory of process %d: %w", pid, err)
	}
	return n, nil
}

// parsePrivateMemory reads a /proc/PID/status, proc_pid_status(5).
func parsePrivateMemory(status []byte) (int64, error) {
	var sum int64
	found := false
	for line := range bytes.Lines(status) {
		name, value, _ := bytes.Cut(line, []byte(":"))
		if string(name) != "RssAnon" && string(name) != "VmSwap" {
			continue
		}
		kib, err := strconv.ParseInt(string(bytes.TrimSuffix(bytes.TrimSpace(value), []byte(" kB"))), 10, 64)
		if err != nil || kib < 0 || kib > math.MaxInt64>>12 {
			return 0, fmt.Errorf("malformed %s %.40q", name, value)
		}
		sum += kib << 10
		found = found || string(name) == "RssAnon"
	}
	if !found {
		return 0, errors.New("its status has no RssAnon")
	}
	return sum, nil
}

// What the agent's directory may hold: the agent itself makes one socket.
const (
	maxControlBytes   = 4 << 20
	maxControlEntries = 100
)

// overfull reports whether the agent's directory holds more than an agent puts
// there. It is on the host's disk and outside the quota; only root inside can
// write to it, which the agent is, until somebody takes it over.
func overfull(dir string) bool {
	var bytes int64
	entries := 0
	_ = filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err != nil {
			return nil // it went away
		}
		if entries++; entries > maxControlEntries {
			return fs.SkipAll
		}
		if info, err := d.Info(); err == nil && info.Mode().IsRegular() {
			if stat, ok := info.Sys().(*syscall.Stat_t); ok {
				bytes += stat.Blocks * 512
			} else {
				bytes += info.Size()
			}
		}
		return nil
	})
	return entries > maxControlEntries || bytes > maxControlBytes
}
