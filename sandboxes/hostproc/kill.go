package hostproc

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// Matcher selects processes of a table. KillAll asks it again after each round
// of killing, so that it can know parents that are gone by then. It is not
// sure when something escaped its look.
type Matcher func(table map[int]Process) (found []Process, sure bool)

// Descendants selects the given processes and all below them. It remembers
// what it selected: the children of a process that died since are still found
// by their own children.
func Descendants(roots ...ID) Matcher {
	known := map[int]uint64{} // pid to start time
	boot, err := bootID()
	for _, r := range roots {
		if err == nil && r.Boot == boot {
			known[r.PID] = r.Start
		}
	}
	return func(table map[int]Process) ([]Process, bool) {
		is := func(p Process) bool { start, ok := known[p.PID]; return ok && start == p.Start }
		for grew := true; grew; {
			grew = false
			for _, p := range table {
				if parent, ok := table[p.Parent]; ok && !is(p) && is(parent) {
					known[p.PID], grew = p.Start, true
				}
			}
		}
		var found []Process
		for _, p := range table {
			if is(p) {
				found = append(found, p)
			}
		}
		return found, true
	}
}

// WithEnv selects the processes that were started with name=value in their
// environment, as far as this process may read it. It reads that once of those that
// have been running for a while: who was started with another is not looked at again,
// and may end without leaving a doubt, so that to end one sandbox of many does not
// take a look at all for each round.
func WithEnv(name, value string) Matcher { return withEnv(name, value, young) }

// young is how long a process may be one that was forked and has its parent's
// environment, before it executes a program with its own.
const young = 10 * time.Second

func withEnv(name, value string, young time.Duration) Matcher {
	want := []byte(name + "=" + value)
	blank := map[int]uint64{}  // pid to start time of those that have no environment
	others := map[int]uint64{} // of those that have another
	return func(table map[int]Process) (found []Process, sure bool) {
		sure = true
		// One for all, and none for those that were waited for: a host may have
		// many that stay blank.
		deadline := time.Now().Add(settle)
		for _, p := range table {
			if start, ok := others[p.PID]; p.Zombie || p.kernelThread() || ok && start == p.Start {
				continue
			}
			patience := deadline
			if start, ok := blank[p.PID]; ok && start == p.Start {
				patience = time.Time{}
			}
			env, err := environ(p.PID, patience)
			if err == nil && len(env) == 0 {
				blank[p.PID] = p.Start
			}
			switch {
			case errors.Is(err, ErrGone):
				// It may have left a child that the table has not.
				sure = false
			case err == nil && slices.ContainsFunc(bytes.Split(env, []byte{0}),
				func(v []byte) bool { return bytes.Equal(v, want) }):
				found = append(found, p)
			case err == nil && len(env) > 0 && p.age() >= young:
				others[p.PID] = p.Start
			}
		}
		return found, sure
	}
}

// age is how long ago a process was forked.
func (p Process) age() time.Duration {
	var now unix.Timespec
	if unix.ClockGettime(unix.CLOCK_BOOTTIME, &now) != nil {
		return 0
	}
	return time.Duration(now.Nano()) - time.Duration(p.Start)*(time.Second/ticksPerSecond)
}

// ticksPerSecond is USER_HZ, the same on all Linux architectures that Go has.
const ticksPerSecond = 100

// settle bounds how long WithEnv waits for processes to be what they become.
const settle = 2 * time.Second

// environ reads the environment that a process was started with. In the middle
// of execve, which can last on a busy host, there is none; nor has a process
// that dies. ErrGone when it is dead. It waits until the deadline for a process
// whose environment has no place yet, and for no other: what has a place and
// stays empty has been given up, as by gVisor's stubs.
func environ(pid int, deadline time.Time) ([]byte, error) {
	placed := false
	for {
		env, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid))
		// ESRCH: the first thread has given up its memory, and with it, to
		// others than root, the right to ask: then it is a question of rights.
		if err != nil && !errors.Is(err, unix.ESRCH) && !errors.Is(err, os.ErrNotExist) && !errors.Is(err, os.ErrPermission) || len(env) > 0 {
			return env, err
		}
		p, statErr := readStat(pid)
		if statErr != nil || p.Zombie {
			return nil, ErrGone
		}
		if errors.Is(err, os.ErrPermission) && !p.headless {
			return nil, err
		}
		if p.headless {
			if env := threadEnviron(pid); len(env) > 0 {
				return env, nil
			}
		}
		if placed && p.placed || time.Now().After(deadline) {
			return nil, nil
		}
		// Once more when it got its place after it was read.
		if placed = p.placed; !placed {
			time.Sleep(time.Millisecond)
		}
	}
}

// threadEnviron reads the environment by way of a thread that lives.
func threadEnviron(pid int) []byte {
	files, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/environ", pid)) // the pattern is valid
	for _, name := range files {
		if env, err := os.ReadFile(name); err == nil && len(env) > 0 {
			return env
		}
	}
	return nil
}

// kernelThread reports whether p is a thread of the host's kernel: they have
// no environment, and all are kthreadd, pid 2, or its children.
func (p Process) kernelThread() bool { return p.Parent == 2 || p.PID == 2 && p.Parent == 0 }

// maxUnsure is how many rounds in a row may find nothing without being sure:
// on a host where some process or other ends all the time, none is ever sure.
const maxUnsure = 5

// KillAll sends SIGKILL to all processes that any matcher selects, this one
// excepted, and to their process groups where those are not of this process's
// session; and does so again until none of them runs. Zombies do not count:
// they are their parents' to reap. It fails when ctx ends before that.
//
// What forks and exits faster than the process table is read, and makes a
// process group of its own each time, may escape.
func KillAll(ctx context.Context, matchers ...Matcher) error {
	session, err := unix.Getsid(0)
	if err != nil {
		return fmt.Errorf("cannot tell this process's session: %w", err)
	}
	dying := map[int]uint64{} // pid to start time; a process that dies has lost its environment before it is dead
	matchers = append(slices.Clone(matchers), func(table map[int]Process) (found []Process, sure bool) {
		for pid, start := range dying {
			if p, ok := table[pid]; ok && p.Start == start {
				found = append(found, p)
			}
		}
		return found, true
	})
	for unsure := 0; ; {
		running, sure, err := look(matchers)
		if err != nil {
			return err
		}
		switch {
		case len(running) > 0:
			unsure = 0
		case sure || unsure == maxUnsure:
			return nil
		default:
			unsure++
		}
		for _, p := range running {
			dying[p.PID] = p.Start
			if err := p.kill(session); err != nil {
				return fmt.Errorf("cannot kill process %d: %w", p.PID, err)
			}
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("cannot make sure that all processes are killed, %v are left: %w", pids(running), ctx.Err())
		case <-time.After(5 * time.Millisecond): // nobody tells of the death of others' children
		}
	}
}

// kill kills p and its process group.
func (p Process) kill(ownSession int) error {
	err := p.signal(unix.SIGSTOP)
	if err != nil {
		return err
	}
	// Stopped, p can neither end nor leave its group, so that the number is
	// still that group's. One call for all: no member can fork its way out.
	now, err := readStat(p.PID)
	if err == nil && now.Start == p.Start && now.Session != ownSession && now.Group > 1 {
		if err := unix.Kill(-now.Group, unix.SIGKILL); err != nil && !errors.Is(err, unix.ESRCH) {
			return err
		}
	}
	return p.signal(unix.SIGKILL)
}

// look asks all matchers of the processes that run now.
func look(matchers []Matcher) (running []Process, sure bool, err error) {
	table, err := Table()
	if err != nil {
		return nil, false, err
	}
	sure = true
	for _, match := range matchers {
		found, ok := match(table)
		sure = sure && ok
		for _, p := range found {
			if !p.Zombie && p.PID != os.Getpid() {
				running = append(running, p)
			}
		}
	}
	return running, sure, nil
}

// signal sends sig. That the process is gone is no error.
func (p Process) signal(sig unix.Signal) error {
	id, err := p.ID()
	if err == nil {
		err = id.Signal(sig)
	}
	if errors.Is(err, ErrGone) {
		return nil
	}
	return err
}

func pids(processes []Process) []int {
	var list []int
	for _, p := range processes {
		list = append(list, p.PID)
	}
	slices.Sort(list)
	return slices.Compact(list)
}
