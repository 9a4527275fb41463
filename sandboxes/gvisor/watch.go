package gvisor

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
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
)

// watch kills a sentry that takes more of the host than it may.
type watch struct {
	// set at construction
	sentry    hostproc.ID
	memoryCap int64
	control   string // the host's side of AgentDir

	ended  chan struct{} // closed by stop
	joined chan struct{} // closed when run has returned

	broken limit // owned by run
}

func startWatch(dir string, sentry hostproc.ID, memoryCap int64) *watch {
	w := &watch{
		sentry: sentry, memoryCap: memoryCap, control: filepath.Join(dir, runName),
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

func (w *watch) run() {
	defer close(w.joined)
	next := time.NewTimer(0)
	defer next.Stop()
	var memory string
	var controlChecked time.Time
	for {
		select {
		case <-w.ended:
			return
		case <-next.C:
		}
		wait := checkEvery
		if memory == "" {
			memory = sentryMemory(w.sentry.PID)
		}
		var stat unix.Stat_t
		if memory != "" && unix.Stat(memory, &stat) == nil {
			free := w.memoryCap - stat.Blocks*512
			if free < 0 {
				w.kill(memoryLimit)
				return
			}
			wait = untilMemoryCheck(free)
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

// sentryMemory returns a path to the sentry's memory file, or "". All memory of
// the processes inside, their tmpfs files and memfds included, are pages of
// this one file, so that its size is the measure of a sandbox.
func sentryMemory(pid int) string {
	dir := fmt.Sprintf("/proc/%d/fd", pid)
	entries, err := os.ReadDir(dir)
	if err != nil {
		return ""
	}
	for _, e := range entries {
		path := filepath.Join(dir, e.Name())
		if target, err := os.Readlink(path); err == nil && strings.HasPrefix(target, "/memfd:runsc-memory") {
			return path
		}
	}
	return ""
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
