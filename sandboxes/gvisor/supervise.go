package gvisor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"kernelgw/sandboxes"
	"kernelgw/sandboxes/hostproc"
	"kernelgw/sandboxes/statedir"
)

// plan tells a supervisor what to do.
type plan struct {
	Runsc  []string `json:"runsc"`            // command, run in the sandbox's directory
	Cgroup string   `json:"cgroup,omitempty"` // name of the control group, "" for none
	Memory int64    `json:"memory"`           // the limit as the user knows it
	// MemoryCap is what the memory of all processes inside is held to by the
	// supervisor.
	MemoryCap int64 `json:"memory_cap"`
}

// report is what a supervisor says on its standard output, once.
type report struct {
	Error string `json:"error,omitempty"`
}

// committed is the byte that a driver writes to its supervisor's standard input
// once the sandbox is on record.
const committed = 'c'

// Supervise runs the sandbox in dir and returns when it has ended. It is the
// main of a process of its own, started by the driver with pipes as standard
// input and output: it reports on the output when the sandbox runs, and ends
// the sandbox when the input closes before the driver has committed it, so
// that a gateway that dies while it creates a sandbox leaves no process.
// After that it lives until the sandbox ends and records how.
//
// It makes its process the parent of all orphans below it, and waits for any
// child: nothing else may start processes in it.
func Supervise(dir string) error {
	s := &supervisor{dir: dir}
	if err := s.start(); err != nil {
		s.report(err)
		return fmt.Errorf("cannot start the sandbox in %s: %w", dir, err)
	}
	s.report(nil)
	s.lifeline()
	s.watch = startWatch(s.dir, s.procs, s.plan.MemoryCap, s.log.println)
	return s.reap()
}

type supervisor struct {
	dir    string
	plan   plan
	groups cgroups
	procs  processes
	log    *boundedLog

	watch *watch
}

func (s *supervisor) report(err error) {
	var r report
	if err != nil {
		r.Error = err.Error()
	}
	data, _ := json.Marshal(r) // a string always marshals
	// A driver that no longer listens is noticed by lifeline.
	_, _ = os.Stdout.Write(append(data, '\n'))
	_ = os.Stdout.Close()
}

// start runs runsc until the sandbox runs.
func (s *supervisor) start() error {
	self, err := hostproc.Identify(os.Getpid())
	if err != nil {
		return err
	}
	s.procs.Supervisor = self
	if err := statedir.Write(filepath.Join(s.dir, processesName), s.procs); err != nil {
		return err
	}
	if err := statedir.Read(filepath.Join(s.dir, planName), &s.plan); err != nil {
		return err
	}
	if s.groups, err = readCgroups(); err != nil {
		return err
	}
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("cannot become the parent of orphans: %w", err)
	}

	output, sandboxOutput, err := os.Pipe()
	if err != nil {
		return fmt.Errorf("cannot make a pipe for the log: %w", err)
	}
	s.log = newBoundedLog(filepath.Join(s.dir, logName), output)
	cmd := exec.Command(s.plan.Runsc[0], s.plan.Runsc[1:]...)
	cmd.Dir = s.dir
	cmd.Env = []string{"PATH=" + safePath}
	cmd.Stdout, cmd.Stderr = sandboxOutput, sandboxOutput
	err = cmd.Run()
	_ = sandboxOutput.Close()
	if err != nil {
		s.killChildren()
		s.log.join()
		return fmt.Errorf("runsc: %w: %s", err, s.log.tail())
	}
	if s.plan.Cgroup != "" {
		s.groups.killTogether(s.plan.Cgroup)
	}
	if err := s.recordProcesses(); err != nil {
		s.killChildren()
		s.log.join()
		return err
	}
	return nil
}

// recordProcesses writes down who runs the sandbox.
func (s *supervisor) recordProcesses() error {
	text, err := os.ReadFile(filepath.Join(s.dir, pidName))
	if err != nil {
		return fmt.Errorf("cannot find the sentry: %w", err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		return fmt.Errorf("cannot find the sentry: %w", err)
	}
	if s.procs.Sentry, err = hostproc.Identify(pid); err != nil {
		return fmt.Errorf("cannot find the sentry: %w", err)
	}
	list, err := children()
	if err != nil {
		return fmt.Errorf("cannot find the sentry's helpers: %w", err)
	}
	for _, child := range list {
		if child != s.procs.Sentry {
			s.procs.Others = append(s.procs.Others, child)
		}
	}
	return statedir.Write(filepath.Join(s.dir, processesName), s.procs)
}

// lifeline ends the sandbox if the driver goes away before it has committed.
func (s *supervisor) lifeline() {
	var b [1]byte
	n, _ := os.Stdin.Read(b[:])
	_ = os.Stdin.Close()
	if n == 1 && b[0] == committed {
		return
	}
	_ = s.procs.Sentry.Kill()
}

// reap waits until the sentry has ended, then ends all other children and
// records the end.
func (s *supervisor) reap() error {
	var status unix.WaitStatus
	for {
		var ws unix.WaitStatus
		pid, err := unix.Wait4(-1, &ws, 0, nil)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return fmt.Errorf("cannot wait for the sandbox in %s: %w", s.dir, err)
		}
		if pid == s.procs.Sentry.PID {
			status = ws
			break
		}
	}
	at := time.Now().UTC()
	exit := s.exit(status, s.watch.stop())
	exit.At = at
	// Recorded before the clean-up, so that who waits for this process or for
	// the sentry finds it.
	_, err := statedir.RecordExit(s.dir, exit)
	s.killChildren()
	s.log.join()
	if errors.Is(err, os.ErrNotExist) {
		return nil // destroyed meanwhile
	}
	return err
}

// exit makes out how the sandbox ended from the sentry's wait status.
func (s *supervisor) exit(ws unix.WaitStatus, broken limit) sandboxes.Exit {
	exit := sandboxes.Exit{Code: ws.ExitStatus()}
	if ws.Signaled() {
		exit.Code = 128 + int(ws.Signal())
		exit.Reason = fmt.Sprintf("killed: signal %d (%v)", ws.Signal(), syscall.Signal(ws.Signal()))
	}
	// A control group's count of kills only explains a death that is not the
	// agent's own exit.
	outOfMemory := s.plan.Cgroup != "" && exit.Code >= 128 && s.groups.oomKills(s.plan.Cgroup) > 0
	switch {
	case broken == memoryLimit || outOfMemory:
		exit.Reason = "killed: memory limit " + sandboxes.FormatBytes(s.plan.Memory)
	case broken == controlLimit:
		exit.Reason = "killed: it wrote to the agent's directory"
	case broken == unmeasured:
		exit.Reason = "killed: its memory could not be measured; the sandbox's log says why"
	}
	return exit
}

// killChildren kills and reaps every child.
func (s *supervisor) killChildren() {
	for {
		list, err := children()
		if err != nil {
			return // Destroy will look for them
		}
		for _, child := range list {
			_ = child.Kill()
		}
		_, err = unix.Wait4(-1, nil, 0, nil)
		if err != nil && !errors.Is(err, unix.EINTR) {
			return // no child is left
		}
	}
}

// waitEnd blocks until the sandbox in dir has ended and says how.
func waitEnd(ctx context.Context, dir string) (sandboxes.Exit, error) {
	if exit, err := statedir.ReadExit(dir); err == nil {
		return exit, nil
	}
	var procs processes
	if err := statedir.Read(filepath.Join(dir, processesName), &procs); err != nil {
		return sandboxes.Exit{}, err
	}
	// The sentry last: the supervisor records the end, and then ends itself. If
	// it was killed before, the sentry's end is all that can be seen.
	for _, p := range []hostproc.ID{procs.Supervisor, procs.Sentry} {
		if err := p.Wait(ctx); err != nil {
			return sandboxes.Exit{}, err
		}
		if exit, err := statedir.ReadExit(dir); err == nil {
			return exit, nil
		}
	}
	return statedir.RecordExit(dir, sandboxes.Exit{Code: -1, Reason: "unknown: the sandbox's supervisor was killed, or the host restarted"})
}
