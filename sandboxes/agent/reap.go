package agent

import (
	"context"
	"os"
	"os/signal"
	"sync"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// reaper collects dead processes that came to the agent as orphans. Those that
// the agent started itself are left to whoever waits for them.
type reaper struct {
	mu   sync.Mutex
	mine map[int]bool // pids that somebody waits for; guarded by mu
}

func newReaper() *reaper { return &reaper{mine: make(map[int]bool)} }

// start calls begin, which starts a process and returns its pid, so that the
// process cannot die and be collected before it is known as started here.
func (r *reaper) start(begin func() (int, error)) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	pid, err := begin()
	if err == nil {
		r.mine[pid] = true
	}
	return err
}

// collected says that the process was waited for.
func (r *reaper) collected(pid int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.mine, pid)
}

// run reaps until ctx ends.
func (r *reaper) run(ctx context.Context) {
	children := make(chan os.Signal, 1)
	signal.Notify(children, unix.SIGCHLD)
	defer signal.Stop(children)
	// A zombie of ours in front hides the orphans behind it until it is
	// collected; nothing signals that, so look again after a while.
	again := time.NewTicker(time.Second)
	defer again.Stop()
	for {
		for r.reapOne() {
		}
		select {
		case <-ctx.Done():
			return
		case <-children:
		case <-again.C:
		}
	}
}

// drain collects the orphans that are still dying, for some time. It is for the
// end, when whoever adopts them might not.
func (r *reaper) drain(patience time.Duration) {
	for end := time.Now().Add(patience); time.Now().Before(end); {
		if !r.reapOne() {
			if err := waitable(nil); err == unix.ECHILD {
				return
			}
			time.Sleep(time.Millisecond)
		}
	}
}

// reapOne collects one orphan and reports whether there may be another.
func (r *reaper) reapOne() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	var info unix.Siginfo
	// Look first: waiting for any child would take the exit status of the
	// kernel from the one who waits for it.
	if waitable(&info) != nil {
		return false
	}
	pid := siginfoPid(&info)
	if pid == 0 || r.mine[pid] {
		return false
	}
	_, err := unix.Wait4(pid, nil, unix.WNOHANG, nil)
	return err == nil
}

// waitable looks for a dead child and leaves it.
func waitable(info *unix.Siginfo) error {
	for {
		err := unix.Waitid(unix.P_ALL, 0, info, unix.WEXITED|unix.WNOHANG|unix.WNOWAIT, nil)
		if err != unix.EINTR {
			return err
		}
	}
}

// siginfoPid is the si_pid that waitid filled in, 0 when there was no child. In
// the C structure it follows three words and, on 64-bit machines, padding to
// the alignment of a pointer; unix.Siginfo does not name it.
func siginfoPid(info *unix.Siginfo) int {
	offset := (3*unsafe.Sizeof(int32(0)) + unsafe.Sizeof(uintptr(0)) - 1) &^ (unsafe.Sizeof(uintptr(0)) - 1)
	return int(*(*int32)(unsafe.Add(unsafe.Pointer(info), offset)))
}
