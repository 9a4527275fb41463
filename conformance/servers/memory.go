package servers

import (
	"fmt"
	"os"
	"regexp"
	"strconv"
)

var highWater = regexp.MustCompile(`VmHWM:\s+(\d+) kB`)

// PeakMemory returns the most bytes of memory that the server process has had at
// a time, those of its kernels not counted.
func (p *Process) PeakMemory() (int64, error) { return PeakMemory(p.PID()) }

// PeakMemory returns the most bytes of memory that a process has had at a time.
func PeakMemory(pid int) (int64, error) {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, fmt.Errorf("cannot tell the memory of process %d: %w", pid, err)
	}
	match := highWater.FindSubmatch(status)
	if match == nil {
		return 0, fmt.Errorf("cannot tell the memory of process %d: there is no VmHWM in %q", pid, status)
	}
	kilobytes, err := strconv.ParseInt(string(match[1]), 10, 64)
	return kilobytes << 10, err
}
