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
