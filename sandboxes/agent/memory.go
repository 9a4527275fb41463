package agent

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// endFirst has the system end a process and what it starts before all others, the
// agent above all, when memory runs out faster than the watch of the limits looks.
// Where that cannot be had the largest process is ended.
func endFirst(pid int) {
	const most = "1000" // proc(5): the process is always chosen
	f, err := os.OpenFile(fmt.Sprintf("/proc/%d/oom_score_adj", pid), os.O_WRONLY, 0)
	if err != nil {
		return
	}
	defer f.Close()
	_, _ = f.WriteString(most) // without it the choice is the system's
}

// yield makes what the calling thread starts, and the thread itself, run after the
// rest of this process: hundreds of processes at work would keep an agent waiting
// that is one of them. Between sandboxes nothing changes.
func yield() {
	const somewhat = 10 // nice(1)
	_ = unix.Setpriority(unix.PRIO_PROCESS, 0, somewhat)
}

// memoryKills is how many processes the system has ended since its start because
// memory had run out, in any control group. It is 0 where it is not told.
func memoryKills() int64 {
	b, err := os.ReadFile("/proc/vmstat")
	if err != nil {
		return 0
	}
	return parseMemoryKills(b)
}

func parseMemoryKills(vmstat []byte) int64 {
	for line := range bytes.Lines(vmstat) {
		name, value, _ := bytes.Cut(bytes.TrimSpace(line), []byte(" "))
		if string(name) != "oom_kill" {
			continue
		}
		n, err := strconv.ParseInt(string(value), 10, 64)
		if err != nil {
			return 0
		}
		return n
	}
	return 0
}

// killEarlier is how old the number of kills is that a death is compared with, at
// least: a large process takes its time from the kill to its end, on a busy host
// more than a second.
const killEarlier = 3 * time.Second

// killWatch tells a generation how many kills there were a while ago.
type killWatch struct {
	seen int64
	at   time.Time
	of   *generation
}

// look is called now and then.
func (w *killWatch) look(g *generation) {
	now := time.Now()
	if w.of == g && now.Sub(w.at) < killEarlier {
		return
	}
	if w.of == g {
		g.kills.Store(w.seen)
	}
	w.seen, w.at, w.of = memoryKills(), now, g
}

// outOfMemory returns the reason when the system ended the process because memory
// had run out, "" when it did not. Inside a sandbox nobody is told of such a kill:
// it is taken for one when the process was killed, by nobody here, and the system
// has just ended a process for memory.
func (g *generation) outOfMemory(limit int64) string {
	status, ok := g.proc.state.Sys().(syscall.WaitStatus)
	if !ok || !status.Signaled() || status.Signal() != unix.SIGKILL || memoryKills() <= g.kills.Load() {
		return ""
	}
	if limit == 0 {
		return "killed: out of memory"
	}
	return "killed: memory limit " + bytesText(limit)
}
