package sandboxtest

import (
	"context"
	"fmt"
	"os"
	"runtime"
	"time"
)

// answers is how two agents answered while something went on.
type answers struct {
	count         int
	slowest, idle time.Duration
	load          float64 // of the host meanwhile: threads that want to run, for each CPU
	failed        error   // the first
}

// late reports whether something took longer than the second that is promised, and
// not because of the host. What runs there beside the tests has its turns too, so
// that a second is three of them, or as many as the host has threads for each CPU:
// 2.8 s were seen where there were fifteen, while an idle sandbox took 0.1 s. Who
// is really kept waiting by a flood waits until it ends.
func (a answers) late(d time.Duration) bool {
	promised := time.Duration(max(3, a.load) * float64(time.Second))
	return d > promised && d > 4*a.idle
}

// probe asks two agents in turn until ctx ends.
func probe(ctx context.Context, agent, idle *client) (a answers) {
	a.load = hostLoad()
	defer func() { a.load = max(a.load, hostLoad()) }()
	took := func(c *client) (time.Duration, error) {
		ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
		defer cancel()
		began := time.Now()
		_, err := c.status(ctx)
		return time.Since(began), err
	}
	next := time.NewTicker(50 * time.Millisecond)
	defer next.Stop()
	for {
		d, _ := took(idle) // it is only there to be compared with
		a.idle = max(a.idle, d)
		d, err := took(agent)
		if ctx.Err() != nil {
			return a // it may have ended while it was asked
		}
		a.slowest = max(a.slowest, d)
		if err != nil && a.failed == nil {
			a.failed = err
		} else if err == nil {
			a.count++
		}
		select {
		case <-next.C:
		case <-ctx.Done():
			return a
		}
	}
}

// hostLoad is how many threads wanted to run in the last minute, for each CPU; 0
// where that is not told.
func hostLoad() (load float64) {
	text, err := os.ReadFile("/proc/loadavg")
	if err == nil {
		_, err = fmt.Sscan(string(text), &load)
	}
	if err != nil {
		return 0
	}
	return load / float64(runtime.NumCPU())
}
