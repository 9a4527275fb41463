package agent

import (
	"context"
	"fmt"
	"time"
)

// How often the limits are looked at: rarely far from them, often near.
const (
	limitsFar  = 250 * time.Millisecond
	limitsNear = 20 * time.Millisecond
)

// watchLimits kills the kernel when it exceeds a limit.
func (a *Agent) watchLimits(ctx context.Context) {
	timer := time.NewTimer(limitsFar)
	defer timer.Stop()
	var kills killWatch
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		pause := limitsFar
		var reason string
		var all []procStat
		if a.terminals != nil {
			if all, reason, pause = a.checkLimits(nobody); reason != "" {
				a.terminals.exceeded(reason, all)
			}
		} else if g := a.current.Load(); g != nil {
			kills.look(g)
			if _, reason, pause = a.checkLimits(g.proc.identity); reason != "" {
				// Known before it is dead: the supervisor, which finds it dead, must
				// not take it for a crash.
				g.exceeded.CompareAndSwap(nil, &reason)
				a.killCurrent(g)
			}
		}
		timer.Reset(pause)
	}
}

// killCurrent kills the processes of g, and surely not those of its successor.
func (a *Agent) killCurrent(g *generation) {
	a.killing.Lock()
	defer a.killing.Unlock()
	if a.current.Load() == g {
		a.procs.kill(g.proc.identity, time.Second)
	}
}

// checkLimits returns the processes of the kernel whose first one is given, the
// limit that they exceed, if any, and when to look again.
func (a *Agent) checkLimits(first identity) (all []procStat, reason string, again time.Duration) {
	c := &a.opts.Config
	if c.MemoryBytes == 0 && c.Processes == 0 {
		return nil, "", limitsFar
	}
	all = a.procs.list(first)
	u := usageOf(all)
	// Before the memory of hundreds is looked at, which takes time that they have
	// for becoming more.
	if c.Processes > 0 && u.processes > c.Processes {
		return all, fmt.Sprintf("killed: process limit %d", c.Processes), limitsFar
	}
	memory := u.memory
	// Processes that forked share pages, which usage counts for each.
	if c.MemoryBytes > 0 && memory > c.MemoryBytes && u.processes > 1 {
		memory = a.procs.footprint(first)
	}
	if c.MemoryBytes > 0 && memory > c.MemoryBytes {
		return all, "killed: memory limit " + bytesText(c.MemoryBytes), limitsFar
	}
	if u.processes > c.Processes/2 && c.Processes > 0 || memory > c.MemoryBytes/2 && c.MemoryBytes > 0 {
		return all, "", limitsNear
	}
	return all, "", limitsFar
}

func bytesText(n int64) string {
	const mib, gib = 1 << 20, 1 << 30
	switch {
	case n >= gib:
		return fmt.Sprintf("%.1f GiB", float64(n)/gib)
	case n >= mib:
		return fmt.Sprintf("%.0f MiB", float64(n)/mib)
	}
	return fmt.Sprintf("%d bytes", n)
}
