package sandboxes

import (
	"cmp"
	"fmt"
)

// minMemory is less than any kernel needs, but lets a sandbox start.
const minMemory = 64 << 20

// Or returns r with what is zero taken from others.
func (r Resources) Or(others Resources) Resources {
	return Resources{
		CPUs:        cmp.Or(r.CPUs, others.CPUs),
		MemoryBytes: cmp.Or(r.MemoryBytes, others.MemoryBytes),
		Processes:   cmp.Or(r.Processes, others.Processes),
		DiskBytes:   cmp.Or(r.DiskBytes, others.DiskBytes),
		ShmBytes:    cmp.Or(r.ShmBytes, others.ShmBytes),
		OpenFiles:   cmp.Or(r.OpenFiles, others.OpenFiles),
	}
}

// Complete returns the limits of a sandbox whose Spec says r: what is zero is a
// driver's default, and /dev/shm without one a quarter of the memory. ErrInvalid
// when no sandbox could run with them.
func (r Resources) Complete(defaults Resources) (Resources, error) {
	if r.CPUs < 0 || min(r.MemoryBytes, r.Processes, r.DiskBytes, r.ShmBytes, r.OpenFiles) < 0 {
		return r, fmt.Errorf("%w: a limit is negative", ErrInvalid)
	}
	r = r.Or(defaults)
	r.ShmBytes = cmp.Or(r.ShmBytes, r.MemoryBytes/4)
	if r.MemoryBytes < minMemory {
		return r, fmt.Errorf("%w: %s of memory; the least is %s", ErrInvalid, FormatBytes(r.MemoryBytes), FormatBytes(minMemory))
	}
	return r, nil
}

// FormatBytes writes a size as people do: "2.0 GiB".
func FormatBytes(n int64) string {
	units := []string{"B", "KiB", "MiB", "GiB", "TiB"}
	size, unit := float64(n), 0
	for size >= 1024 && unit < len(units)-1 {
		size /= 1024
		unit++
	}
	if unit < 3 {
		return fmt.Sprintf("%.0f %s", size, units[unit])
	}
	return fmt.Sprintf("%.1f %s", size, units[unit])
}
