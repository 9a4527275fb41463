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
func (p *Process) PeakMemory() (int64, error) {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.PID()))
	if err != nil {
		return 0, fmt.Errorf("cannot tell the memory of the server: %w", err)
	}
	match := highWater.FindSubmatch(status)
	if match == nil {
		return 0, fmt.Errorf("cannot tell the memory of the server: there is no VmHWM in %q", status)
	}
	kilobytes, err := strconv.ParseInt(string(match[1]), 10, 64)
	return kilobytes << 10, err
}
