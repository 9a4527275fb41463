package agent

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
	"unicode"

	"golang.org/x/sys/unix"

	"kernelgw/jupyter"
)

// process is one kernel process, from its start to its end.
type process struct {
	// set at construction
	identity
	info jupyter.ConnectionInfo
	dir  string // holds the connection file; removed at the end
	said *tail  // end of what it wrote to stdout and stderr

	exited chan struct{} // closed when it is gone and collected
	state  *os.ProcessState
}

// startProcess starts a kernel process in a session and process group of its
// own. The caller must stay on its thread: the kernel dies with it.
func startProcess(o *Options, reaper *reaper) (*process, error) {
	info, err := newConnectionInfo(o.Config.KernelName)
	if err != nil {
		return nil, fmt.Errorf("cannot find free ports for the kernel: %w", err)
	}
	dir, file, err := writeConnectionFile(o, info)
	if err != nil {
		return nil, fmt.Errorf("cannot write the kernel's connection file: %w", err)
	}
	p := &process{info: info, dir: dir, exited: make(chan struct{}), said: &tail{}}
	if err := p.start(o, file, reaper); err != nil {
		os.RemoveAll(dir)
		return nil, err
	}
	return p, nil
}

func (p *process) start(o *Options, file string, reaper *reaper) error {
	argv := kernelArgv(o.Config.Spec.Argv, file, o.Config.ResourceDir)
	env := kernelEnv(os.Environ(), o.Config.Spec.Env, o.Config.Env, o)
	program, err := lookProgram(argv[0], env)
	if err != nil {
		return fmt.Errorf("cannot start the kernel: %w", err)
	}
	output, input, err := os.Pipe()
	if err != nil {
		return fmt.Errorf("cannot start the kernel: %w", err)
	}
	cmd := &exec.Cmd{
		Path:   program,
		Args:   argv,
		Env:    env,
		Dir:    kernelDir(o.Home, o.Config.Cwd),
		Stdout: input,
		Stderr: input,
		SysProcAttr: &syscall.SysProcAttr{
			Setsid:    true,
			Pdeathsig: syscall.SIGKILL,
		},
	}
	if o.User != nil {
		cmd.SysProcAttr.Credential = &syscall.Credential{Uid: o.User.UID, Gid: o.User.GID, Groups: []uint32{}}
	}
	err = reaper.start(func() (int, error) {
		if err := cmd.Start(); err != nil {
			return 0, err
		}
		return cmd.Process.Pid, nil
	})
	input.Close()
	if err != nil {
		output.Close()
		return fmt.Errorf("cannot start the kernel: %w", err)
	}
	if o.User != nil {
		endFirst(cmd.Process.Pid)
	}
	p.identity = identify(cmd.Process.Pid)
	drained := make(chan struct{})
	go func() {
		defer close(drained)
		p.said.readFrom(output)
	}()
	go func() {
		cmd.Wait() // its error is the state
		p.state = cmd.ProcessState
		reaper.collected(p.pid)
		// A child of the kernel may hold the pipe for ever.
		output.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
		<-drained
		output.Close()
		os.RemoveAll(p.dir)
		close(p.exited)
	}()
	return nil
}

// writeConnectionFile writes the connection file into a new directory that only
// the kernel's user can enter.
func writeConnectionFile(o *Options, info jupyter.ConnectionInfo) (dir, file string, err error) {
	if dir, err = os.MkdirTemp(o.RuntimeDir, "kernel-"); err != nil {
		return "", "", err
	}
	file = filepath.Join(dir, "connection.json")
	if err := fillConnectionDir(dir, file, info, o.User); err != nil {
		os.RemoveAll(dir)
		return "", "", err
	}
	return dir, file, nil
}

// fillConnectionDir gives the directory away last. Earlier, a process that
// survived another kernel of the user could put a link where the agent writes.
func fillConnectionDir(dir, file string, info jupyter.ConnectionInfo, user *User) error {
	b, err := json.MarshalIndent(info, "", "  ")
	if err != nil {
		return err
	}
	f, err := os.OpenFile(file, os.O_WRONLY|os.O_CREATE|os.O_EXCL|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	if err == nil && user != nil {
		err = f.Chown(int(user.UID), int(user.GID))
	}
	if err := errors.Join(err, f.Close()); err != nil || user == nil {
		return err
	}
	d, err := os.OpenFile(dir, os.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	return errors.Join(d.Chown(int(user.UID), int(user.GID)), d.Close())
}

// newConnectionInfo picks a key and five ports that are free now. Another
// process may take one before the kernel does; the supervisor then tries again.
func newConnectionInfo(kernelName string) (jupyter.ConnectionInfo, error) {
	info := jupyter.ConnectionInfo{
		Transport:       "tcp",
		IP:              "127.0.0.1",
		Key:             jupyter.NewID(),
		SignatureScheme: "hmac-sha256",
		KernelName:      kernelName,
	}
	// All are held at once, so that they differ.
	for _, port := range []*int{&info.ShellPort, &info.IOPubPort, &info.StdinPort, &info.ControlPort, &info.HBPort} {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return info, err
		}
		defer l.Close()
		*port = l.Addr().(*net.TCPAddr).Port
	}
	return info, nil
}

// lookProgram finds a kernelspec's program in the kernel's PATH. "python" also
// finds python3, as jupyter_client takes its own interpreter for it.
func lookProgram(name string, env []string) (string, error) {
	if strings.Contains(name, "/") {
		return name, nil
	}
	var path string
	for _, entry := range env {
		if value, ok := strings.CutPrefix(entry, "PATH="); ok {
			path = value
		}
	}
	candidates := []string{name}
	if name == "python" {
		candidates = append(candidates, "python3")
	}
	for _, candidate := range candidates {
		for _, dir := range filepath.SplitList(path) {
			file := filepath.Join(dir, candidate)
			if !filepath.IsAbs(file) { // never from the directory the kernel starts in
				continue
			}
			if info, err := os.Stat(file); err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0 {
				return file, nil
			}
		}
	}
	return "", fmt.Errorf("%q is not in PATH", name)
}

func userName(uid uint32) string {
	if u, err := user.LookupId(strconv.FormatUint(uint64(uid), 10)); err == nil {
		return u.Username
	}
	return "user"
}

// signal sends a signal to the kernel's process group.
func (p *process) signal(sig unix.Signal) error {
	select {
	case <-p.exited:
		return unix.ESRCH // the number may belong to somebody else by now
	default:
		return unix.Kill(-p.pid, sig)
	}
}

// reason says how the process ended, for users. It may be called after exited.
func (p *process) reason(wasReady bool) string {
	status, ok := p.state.Sys().(syscall.WaitStatus)
	switch {
	case ok && status.Signaled():
		return fmt.Sprintf("killed by signal %d", status.Signal())
	case wasReady:
		return fmt.Sprintf("exit code %d", p.state.ExitCode())
	}
	text := fmt.Sprintf("exit code %d", p.state.ExitCode())
	if last := p.said.lastLine(); last != "" {
		text += ": " + last
	}
	return text
}

// tail keeps the end of what a kernel writes to its terminal, which is where it
// says why it does not start.
type tail struct {
	mu sync.Mutex
	b  []byte
}

const tailBytes = 8 << 10

func (t *tail) readFrom(f *os.File) {
	buf := make([]byte, 4096)
	for {
		n, err := f.Read(buf)
		_, _ = t.Write(buf[:n])
		if err != nil {
			return
		}
	}
}

// Write implements io.Writer. It never fails.
func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.b = append(t.b, p[max(0, len(p)-tailBytes):]...)
	if len(t.b) > 2*tailBytes {
		t.b = append(t.b[:0], t.b[len(t.b)-tailBytes:]...)
	}
	return len(p), nil
}

func (t *tail) contains(s string) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return strings.Contains(strings.ToLower(string(t.b)), s)
}

// lastLine is the last line that is not empty, cut short and printable.
func (t *tail) lastLine() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	lines := strings.Split(strings.TrimSpace(string(t.b)), "\n")
	line := strings.Map(func(r rune) rune {
		if r == unicode.ReplacementChar || !unicode.IsPrint(r) {
			return -1
		}
		return r
	}, strings.TrimSpace(lines[len(lines)-1]))
	const most = 200
	if runes := []rune(line); len(runes) > most {
		line = string(runes[:most]) + "..."
	}
	return line
}
