package process

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"kernelgw/sandboxes"
	"kernelgw/sandboxes/hostproc"
	"kernelgw/sandboxes/statedir"
)

// SupervisorCommand is the argument that makes a gateway binary act as the
// supervisor of one sandbox: its main calls Supervise with the argument that
// follows.
const SupervisorCommand = "supervise-process"

// What a supervisor inherits.
const (
	reportFD = 3 // takes started, or what went wrong; then it is closed
	lockFD   = 4 // the sandbox's directory, locked
)

const started = "started"

// lingering is how long a supervisor waits for killed processes to be gone.
const lingering = 2 * time.Second

// Supervise runs the agent of the sandbox in dir, and returns when it has
// ended, that is recorded, and its descendants are killed. It is the main of a
// process of its own, which Driver starts: it makes that process the parent of
// all orphans below it, and nothing else may run in it. SIGTERM is passed on to
// the agent.
func Supervise(dir string) error {
	unix.CloseOnExec(reportFD)
	unix.CloseOnExec(lockFD)
	report := os.NewFile(reportFD, "report")
	s := &supervisor{box: box{dir}}
	if err := s.start(); err != nil {
		// If nobody listens any more, then nobody believes that it was started.
		_, _ = fmt.Fprint(report, err)
		return err
	}
	_ = unix.Close(lockFD)
	_, _ = report.WriteString(started)
	_ = report.Close()
	return s.run()
}

type supervisor struct {
	box   box
	agent hostproc.ID
	log   *boundedLog
	terms chan os.Signal
}

// start starts the agent and records that.
func (s *supervisor) start() error {
	self, err := hostproc.Identify(os.Getpid())
	if err != nil {
		return err
	}
	var r record
	if err := statedir.Read(s.box.path(recordName), &r); err != nil {
		return err
	}
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("cannot become the parent of orphans: %w", err)
	}
	if err := os.Mkdir(s.box.path(runtimeName), 0o700); err != nil {
		return fmt.Errorf("cannot make the agent's directory: %w", err)
	}
	// Taken, so that the agent starts with the default action: in a background
	// job of a shell they are ignored, and a kernel could not be interrupted.
	signal.Notify(make(chan os.Signal, 1), unix.SIGINT, unix.SIGHUP, unix.SIGQUIT)
	// Before there is an agent, so that no SIGTERM ends this process instead.
	s.terms = make(chan os.Signal, 1)
	signal.Notify(s.terms, unix.SIGTERM)
	if s.log, err = openLog(s.box.path(logName)); err != nil {
		return err
	}
	cmd := exec.Command(r.Agent[0], r.Agent[1:]...)
	cmd.Dir = s.box.dir
	cmd.Stdout, cmd.Stderr = s.log.input, s.log.input
	// Pdeathsig: an agent without a supervisor would be one whose end nobody
	// sees. It is sent when the thread ends that started the agent, so that this
	// one is kept.
	runtime.LockOSThread()
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Pdeathsig: syscall.SIGKILL}
	err = cmd.Start()
	s.log.started()
	if err != nil {
		return fmt.Errorf("cannot start the agent: %w", err)
	}
	if s.agent, err = hostproc.Identify(cmd.Process.Pid); err == nil {
		err = statedir.WriteOnce(s.box.path(processesName), processes{Supervisor: self, Agent: s.agent})
	}
	if err != nil {
		_ = cmd.Process.Kill()
		s.killAll()
		return fmt.Errorf("cannot record the agent: %w", err)
	}
	return nil
}

// run waits for the agent's end.
func (s *supervisor) run() error {
	go func() { // ends with the process
		for range s.terms {
			_ = s.agent.Signal(unix.SIGTERM) // when it is gone, so are we soon
		}
	}()
	status, err := s.reapUntil(s.agent.PID)
	if err != nil {
		return err
	}
	s.killAll()
	s.log.join(time.Second)
	exit := sandboxes.Exit{Code: status.ExitStatus()}
	switch {
	case status.Signaled():
		exit.Code = 128 + int(status.Signal())
		exit.Reason = fmt.Sprintf("the agent was killed: signal %d (%v)", status.Signal(), status.Signal())
	case exit.Code != 0:
		exit.Reason = fmt.Sprintf("the agent failed: exit code %d: %s", exit.Code, s.log.lastLine())
	}
	if _, err = statedir.RecordExit(s.box.dir, exit); errors.Is(err, fs.ErrNotExist) {
		return nil // destroyed meanwhile
	}
	return err
}

// reapUntil reaps children, adopted ones too, until pid is among them.
func (s *supervisor) reapUntil(pid int) (unix.WaitStatus, error) {
	for {
		var status unix.WaitStatus
		got, err := unix.Wait4(-1, &status, 0, nil)
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return 0, fmt.Errorf("cannot wait for the agent: %w", err)
		case got == pid:
			return status, nil
		}
	}
}

// killAll kills all descendants. They are all below this process, for it is
// the parent of orphans. What cannot be killed is left to Destroy, which fails
// then and says why.
func (s *supervisor) killAll() {
	ctx, cancel := context.WithTimeout(context.Background(), lingering)
	defer cancel()
	if self, err := hostproc.Identify(os.Getpid()); err == nil {
		_ = hostproc.KillAll(ctx, hostproc.Descendants(self))
	}
	// Reaped here, since not every host has an init that does.
	for {
		pid, err := unix.Wait4(-1, nil, unix.WNOHANG, nil)
		if pid <= 0 && !errors.Is(err, unix.EINTR) {
			return
		}
	}
}
