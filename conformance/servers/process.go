// Package servers starts the servers under test as the processes that they
// are: bin/kernelgw and a stock jupyter_server, each with a home, a data
// directory and a port of its own. It knows them by their command lines only.
package servers

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"kernelgw/conformance/probe"
)

// Process is a running server.
type Process struct {
	probe.Server
	Dir string // all that the server keeps, its log and its home

	argv  []string
	env   []string
	cmd   *exec.Cmd
	exit  chan error // the result of cmd.Wait
	extra []string   // more tokens whose kernels Close shuts down
}

// Root returns the top of the checkout that the tests run in.
func Root() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir, nil
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			return "", errors.New("cannot find go.mod above the working directory")
		}
		dir = parent
	}
}

// Venv returns the directory of one of the Python environments that
// scripts/setup-clients.sh makes.
func Venv(name string) (string, error) {
	root, err := Root()
	if err != nil {
		return "", err
	}
	dir := filepath.Join(root, ".cache", "venv", name)
	if _, err := os.Stat(filepath.Join(dir, "stamp")); err != nil {
		return "", fmt.Errorf("there is no %s Python environment: run scripts/setup-clients.sh %s", name, name)
	}
	return dir, nil
}

// newDir makes a directory with a name short enough for Unix sockets in it.
func newDir() (string, error) {
	dir, err := os.MkdirTemp("", "kgwc")
	if err != nil {
		return "", err
	}
	return dir, os.Mkdir(filepath.Join(dir, "home"), 0o755)
}

// environ is this process's environment without what configures Jupyter or
// kernelgw, with a home of the server's own and its kernels' Python first.
func environ(dir, venv string, more ...string) []string {
	env := slices.DeleteFunc(os.Environ(), func(kv string) bool {
		for _, prefix := range []string{"JUPYTER", "KERNELGW_", "KERNEL_", "JPY_", "HOME=", "PATH=", "PYTHON", "XDG_", "IPYTHON", "TOKEN=", "BASE_URL="} {
			if strings.HasPrefix(kv, prefix) {
				return true
			}
		}
		return false
	})
	return append(append(env,
		"HOME="+filepath.Join(dir, "home"),
		"PATH="+filepath.Join(venv, "bin")+":"+os.Getenv("PATH"),
		"JUPYTER_PATH="+filepath.Join(venv, "share", "jupyter"),
	), more...)
}

// log is the file that holds the server's stderr, of all its starts.
func (p *Process) log() string { return filepath.Join(p.Dir, "server.log") }

// spawn starts the command; stdout is returned line by line through lines,
// which is closed when the server closes it.
func (p *Process) spawn() (lines <-chan string, err error) {
	log, err := os.OpenFile(p.log(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	cmd := exec.Command(p.argv[0], p.argv[1:]...)
	cmd.Env, cmd.Dir, cmd.Stderr = p.env, filepath.Join(p.Dir, "home"), log
	// A terminal's interrupt is for the tests, which then stop the server.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	read, write, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	cmd.Stdout = write
	if err := cmd.Start(); err != nil {
		read.Close()
		write.Close()
		return nil, fmt.Errorf("cannot start %s: %w", p.argv[0], err)
	}
	write.Close()
	p.cmd, p.exit = cmd, make(chan error, 1)
	go func() { p.exit <- cmd.Wait() }()
	out := make(chan string, 16)
	go pump(read, out)
	return out, nil
}

// pump ends when every process that holds the pipe has closed it, or a read
// fails; lines that nobody waits for are dropped.
func pump(read *os.File, out chan<- string) {
	defer read.Close()
	defer close(out)
	var rest []byte
	buf := make([]byte, 4096)
	for {
		n, err := read.Read(buf)
		rest = append(rest, buf[:n]...)
		for {
			line, after, found := bytes.Cut(rest, []byte("\n"))
			if !found {
				break
			}
			rest = after
			select {
			case out <- string(line):
			default:
			}
		}
		if err != nil {
			return
		}
	}
}

// PID returns the process id of the server.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Signal sends a signal to the server process alone.
func (p *Process) Signal(sig syscall.Signal) error { return p.cmd.Process.Signal(sig) }

// Kill ends the server as kill -9 does and waits until it is gone.
func (p *Process) Kill() error {
	if err := p.Signal(syscall.SIGKILL); err != nil {
		return err
	}
	<-p.exit
	p.exit <- nil // a later wait returns at once
	return nil
}

// Wait waits for the end of the server and returns its exit code.
func (p *Process) Wait(within time.Duration) (int, error) {
	select {
	case err := <-p.exit:
		p.exit <- err
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			return exit.ExitCode(), nil
		}
		return 0, err
	case <-time.After(within):
		return 0, fmt.Errorf("the server still ran after %v", within)
	}
}

// Log returns the end of what the server logged.
func (p *Process) Log() string {
	b, err := os.ReadFile(p.log())
	if err != nil {
		return err.Error()
	}
	return string(b[max(0, len(b)-4000):])
}

// Sweep kills what a killed server left and removes its directory.
func (p *Process) Sweep() error {
	for _, l := range Mentioning(p.Dir) {
		_ = syscall.Kill(l.PID, syscall.SIGKILL)
	}
	return os.RemoveAll(p.Dir)
}

// Stop stops a server that is not ours and removes its directory.
func (p *Process) Stop() error {
	if p.running() {
		if err := p.Signal(syscall.SIGTERM); err != nil {
			return err
		}
		// A stock server on a busy machine takes its time; how fast ours drains is a check
		// of its own.
		if _, err := p.Wait(time.Minute); err != nil {
			return errors.Join(err, p.Kill(), p.Sweep())
		}
	}
	return p.Sweep()
}

// Close shuts down all kernels and terminals, stops the server and removes its directory. It
// returns an error when a process of the server outlived it or a token is in
// its log. Leftovers are killed.
func (p *Process) Close() error {
	var problems []error
	if p.running() {
		for _, token := range append([]string{p.Token}, p.extra...) {
			s := probe.Server{Base: p.Base, Token: token}
			ids, err := s.KernelIDs()
			for _, id := range ids {
				err = errors.Join(err, s.DeleteKernel(id))
			}
			if err = errors.Join(err, s.DeleteTerminals()); err != nil {
				problems = append(problems, fmt.Errorf("cannot shut the kernels and terminals down: %w", err))
			}
		}
		if err := p.Signal(syscall.SIGTERM); err != nil {
			problems = append(problems, err)
		}
		if _, err := p.Wait(30 * time.Second); err != nil {
			problems = append(problems, err, p.Kill())
		}
	}
	if left := p.outlived(5 * time.Second); len(left) > 0 {
		for _, l := range left {
			_ = syscall.Kill(l.PID, syscall.SIGKILL)
		}
		problems = append(problems, fmt.Errorf("processes outlived the server and its kernels: %v", left))
	}
	if log, err := os.ReadFile(p.log()); err == nil {
		for _, token := range append([]string{p.Token}, p.extra...) {
			if token != "" && bytes.Contains(log, []byte(token)) {
				problems = append(problems, errors.New("a token is in the server's log"))
			}
		}
	}
	if len(problems) > 0 {
		return fmt.Errorf("%w\nlog:\n%s", errors.Join(problems...), p.Log())
	}
	return os.RemoveAll(p.Dir)
}

func (p *Process) running() bool {
	select {
	case err := <-p.exit:
		p.exit <- err
		return false
	default:
		return true
	}
}

// outlived waits until no process mentions the server's directory, and returns
// those that still do when the time is over.
func (p *Process) outlived(within time.Duration) []Seen {
	deadline := time.Now().Add(within)
	for {
		left := Mentioning(p.Dir)
		if len(left) == 0 || time.Now().After(deadline) {
			return left
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// Seen is a process of this machine.
type Seen struct {
	PID     int
	Command string // its arguments, joined by spaces
}

// Mentioning returns the processes whose arguments or environment mention a
// directory: all that descend from a server that was started in it.
func Mentioning(dir string) []Seen {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil
	}
	var found []Seen
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || pid == os.Getpid() {
			continue
		}
		cmdline, _ := os.ReadFile(filepath.Join("/proc", e.Name(), "cmdline"))
		env, _ := os.ReadFile(filepath.Join("/proc", e.Name(), "environ"))
		if len(cmdline) > 0 && (bytes.Contains(cmdline, []byte(dir)) || bytes.Contains(env, []byte(dir))) {
			found = append(found, Seen{pid, strings.TrimSpace(strings.ReplaceAll(string(cmdline), "\x00", " "))})
		}
	}
	return found
}

// sleep waits unless ctx ends first.
func sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}
