package main

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// cpu is the processor time that processes have used, user and system, all
// threads. It is what /proc/PID/stat tells in ticks of 10 ms, to the nanosecond:
// the clock id of a process is made as clock_getcpuclockid(3) makes it.
func cpu(pids ...int) (time.Duration, error) {
	var sum time.Duration
	for _, pid := range pids {
		var ts unix.Timespec
		if err := unix.ClockGettime(int32(^pid)<<3|2, &ts); err != nil {
			return 0, fmt.Errorf("cannot read the processor time of process %d: %w", pid, err)
		}
		sum += time.Duration(ts.Nano())
	}
	return sum, nil
}

// meter measures what a server and its agents on the host work from meter to stop.
type meter struct {
	server        int
	agents        []int
	before, spent [2]time.Duration // of the server, and of the agents
}

func (s *server) meter() (*meter, error) {
	m := &meter{server: s.pid(), agents: s.agents()}
	var err error
	m.before, err = m.read()
	return m, err
}

func (m *meter) read() (at [2]time.Duration, err error) {
	if at[0], err = cpu(m.server); err != nil {
		return at, err
	}
	at[1], err = cpu(m.agents...)
	return at, err
}

func (m *meter) stop() error {
	after, err := m.read()
	m.spent = [2]time.Duration{after[0] - m.before[0], after[1] - m.before[1]}
	return err
}

// each adds the seconds of work for one of n.
func (m *meter) each(n float64, s subject, server, agent *figure, out *figures) {
	out.add(s, server, m.spent[0].Seconds()/n)
	if len(m.agents) > 0 {
		out.add(s, agent, m.spent[1].Seconds()/n)
	}
}

// rss is the resident memory of processes in KiB.
func rss(pids ...int) (int, error) {
	sum := 0
	for _, pid := range pids {
		kib, err := memory(pid, "VmRSS:")
		if err != nil {
			return 0, err
		}
		sum += kib
	}
	return sum, nil
}

// peak is the most resident memory that a process has had, in KiB.
func peak(pid int) (int, error) { return memory(pid, "VmHWM:") }

func memory(pid int, field string) (int, error) {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, err
	}
	_, rest, ok := bytes.Cut(status, []byte(field))
	if !ok {
		return 0, fmt.Errorf("process %d has no memory", pid)
	}
	return strconv.Atoi(string(bytes.Fields(rest)[0]))
}
