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
	second        time.Duration // see Harness.second
	failed        error         // the first
}

// late reports whether something took longer than the second that is promised, and
// not because of the host. Who is really kept waiting by a flood waits until it ends.
func (a answers) late(d time.Duration) bool { return d > a.second && d > 4*a.idle }

// second is how long what is promised within a second may take on this host. What
// runs there beside the tests has its turns too, so it is three seconds, or as many
// as the host has threads for each CPU: 2.8 s were seen where there were fifteen,
// while an idle sandbox took 0.1 s.
func (h Harness) second() time.Duration {
	return h.patience(time.Duration(max(3, hostLoad()) * float64(time.Second)))
}

// probe asks two agents in turn until ctx ends.
func (b *bench) probe(ctx context.Context, agent, idle *client) (a answers) {
	a.second = b.h.second()
	defer func() { a.second = max(a.second, b.h.second()) }()
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
