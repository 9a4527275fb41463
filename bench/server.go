package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Kinds of servers.
const (
	stock    = "stock"
	kernelgw = "kernelgw"
)

const token = "bench0123456789abcdef0123456789abcdef"

// server is a running server under test.
type server struct {
	kind string
	base *url.URL // ends in a slash
	dir  string   // all that it keeps
	cmd  *exec.Cmd
	done chan struct{} // closed when it has ended
	log  string
}

// startStock starts the jupyter_server of .cache/venv/stock. Its rate limit is
// lifted: by default it drops output over 1000 messages a second, and what is
// dropped costs nothing to send.
func (h *host) startStock(ctx context.Context) (*server, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	port := l.Addr().(*net.TCPAddr).Port
	_ = l.Close()
	s, err := h.newServer(stock)
	if err != nil {
		return nil, err
	}
	s.base = &url.URL{Scheme: "http", Host: net.JoinHostPort("127.0.0.1", strconv.Itoa(port)), Path: "/"}
	_, err = s.start(h, h.python, "-m", "jupyter_server", "--no-browser", "--allow-root",
		"--ServerApp.ip=127.0.0.1", "--ServerApp.port="+strconv.Itoa(port), "--ServerApp.port_retries=0",
		"--ServerApp.root_dir="+filepath.Join(s.dir, "home"), "--IdentityProvider.token="+token,
		"--ZMQChannelsWebsocketConnection.limit_rate=False")
	if err != nil {
		return nil, err
	}
	return s, s.ready(ctx, "api")
}

// startKernelgw starts bin/kernelgw with a driver and more flags.
func (h *host) startKernelgw(ctx context.Context, driver string, more ...string) (*server, error) {
	binary := filepath.Join(h.bin, "kernelgw")
	if _, err := os.Stat(binary); err != nil {
		return nil, fmt.Errorf("there is no kernelgw in %s: run make build", h.bin)
	}
	s, err := h.newServer(kernelgw)
	if err != nil {
		return nil, err
	}
	first, err := s.start(h, append([]string{
		binary, "serve", "--listen", "127.0.0.1:0", "--data-dir", filepath.Join(s.dir, "data"),
		"--token", token, "--driver", driver,
	}, more...)...)
	if err != nil {
		return nil, err
	}
	select {
	case line := <-first:
		at := strings.Index(line, "http://")
		if at < 0 {
			return nil, s.failed(fmt.Errorf("it printed no URL but %q", line))
		}
		u, err := url.Parse(strings.Fields(line[at:])[0])
		if err != nil {
			return nil, s.failed(err)
		}
		s.base = &url.URL{Scheme: u.Scheme, Host: u.Host, Path: strings.TrimSuffix(u.Path, "/") + "/"}
	case <-s.done:
		return nil, s.failed(errors.New("it ended"))
	case <-time.After(2 * time.Minute):
		return nil, s.failed(errors.New("it printed no URL within two minutes"))
	case <-ctx.Done():
		return nil, s.failed(ctx.Err())
	}
	return s, s.ready(ctx, "readyz")
}

func (h *host) newServer(kind string) (*server, error) {
	dir, err := os.MkdirTemp(h.dir, "s")
	if err != nil {
		return nil, err
	}
	s := &server{kind: kind, dir: dir, log: filepath.Join(dir, "log"), done: make(chan struct{})}
	return s, os.Mkdir(filepath.Join(dir, "home"), 0o755)
}

// start spawns the server; first gets the first line of its standard output.
func (s *server) start(h *host, argv ...string) (first <-chan string, err error) {
	log, err := os.Create(s.log)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	s.cmd = exec.Command(argv[0], argv[1:]...)
	s.cmd.Dir = filepath.Join(s.dir, "home")
	s.cmd.Env = h.environ(s.cmd.Dir)
	s.cmd.Stderr = log
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // an interrupt is for us; we stop it
	out, err := s.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := s.cmd.Start(); err != nil {
		return nil, err
	}
	line := make(chan string, 1)
	var reader sync.WaitGroup
	reader.Go(func() {
		lines := bufio.NewScanner(out)
		for lines.Scan() {
			select {
			case line <- lines.Text():
			default:
			}
		}
	})
	go func() {
		defer close(s.done)
		reader.Wait()
		_ = s.cmd.Wait()
	}()
	return line, nil
}

// ready waits until a path answers 200.
func (s *server) ready(ctx context.Context, path string) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	for {
		if status, _, err := s.call(ctx, http.MethodGet, path, nil); err == nil && status == http.StatusOK {
			return nil
		}
		select {
		case <-s.done:
			return s.failed(errors.New("it ended"))
		case <-ctx.Done():
			return s.failed(fmt.Errorf("it did not answer %s: %w", path, ctx.Err()))
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// failed stops the server and adds the end of its log to err.
func (s *server) failed(err error) error {
	s.stop()
	log, _ := os.ReadFile(s.log)
	return fmt.Errorf("cannot start: %w\n%s", err, log[max(0, len(log)-2000):])
}

// stop ends the server and what it has started. Kernels were deleted before.
func (s *server) stop() {
	_ = s.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-s.done:
	case <-time.After(20 * time.Second):
		_ = s.cmd.Process.Kill()
		<-s.done
	}
	for _, pid := range mentioning(s.dir, "") {
		_ = syscall.Kill(pid, syscall.SIGKILL)
	}
}

// pid is the process id of the server.
func (s *server) pid() int { return s.cmd.Process.Pid }

// agents are the process ids of kernelgw's agents that run on the host.
func (s *server) agents() []int { return mentioning(s.dir, "kernelagent") }

// mentioning lists the processes that have dir in their arguments or in their
// environment, and a certain name unless that is empty.
func mentioning(dir, name string) (pids []int) {
	entries, _ := os.ReadDir("/proc")
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || pid == os.Getpid() {
			continue
		}
		cmdline, _ := os.ReadFile(filepath.Join("/proc", e.Name(), "cmdline"))
		argv0, _, _ := bytes.Cut(cmdline, []byte{0})
		if name != "" && filepath.Base(string(argv0)) != name {
			continue
		}
		env, _ := os.ReadFile(filepath.Join("/proc", e.Name(), "environ"))
		if bytes.Contains(cmdline, []byte(dir)) || bytes.Contains(env, []byte(dir)) {
			pids = append(pids, pid)
		}
	}
	return pids
}
