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

// Servers beside ours and the stock one, as in the flag -servers.
const (
	relay         = "relay"
	kernelGateway = "kernel_gateway"
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
	// needs is the server that this one keeps its files on, nil for none; offers
	// is the environment that a server gets which needs this one.
	needs  *server
	offers []string
	leaves []string // patterns of files outside of dir that it forgets
}

// startStock starts the jupyter_server of .cache/venv/stock. Its rate limit is
// lifted: by default it drops output over 1000 messages a second, and what is
// dropped costs nothing to send.
func (h *host) startStock(ctx context.Context) (*server, error) {
	return h.startJupyter(ctx, "stock", "jupyter_server", nil, "--ZMQChannelsWebsocketConnection.limit_rate=False")
}

// startLab starts the JupyterLab of .cache/venv/clients.
func (h *host) startLab(ctx context.Context) (*server, error) {
	return h.startJupyter(ctx, "clients", "jupyterlab", nil)
}

// startKernelGateway starts the Jupyter Kernel Gateway of .cache/venv/kernel_gateway,
// with the stock server's rate limit lifted as there.
func (h *host) startKernelGateway(ctx context.Context) (*server, error) {
	return h.startPython(ctx, kernelGateway, nil, func(port, _ string) []string {
		return []string{
			"-m", "kernel_gateway", "--KernelGatewayApp.ip=127.0.0.1", "--KernelGatewayApp.port=" + port, "--KernelGatewayApp.port_retries=0",
			"--KernelGatewayApp.auth_token=" + token, "--ZMQChannelsWebsocketConnection.limit_rate=False",
		}
	})
}

// startJupyter starts a Jupyter server program of a Python environment. It stops
// the server that it needs, if any, when it is stopped or cannot start.
func (h *host) startJupyter(ctx context.Context, venv, module string, needs *server, more ...string) (*server, error) {
	return h.startPython(ctx, venv, needs, func(port, home string) []string {
		return append([]string{
			"-m", module, "--no-browser", "--allow-root",
			"--ServerApp.ip=127.0.0.1", "--ServerApp.port=" + port, "--ServerApp.port_retries=0",
			"--ServerApp.root_dir=" + home, "--IdentityProvider.token=" + token,
		}, more...)
	})
}

// startPython starts a server of a Python environment, whose arguments depend on
// a port and its home.
func (h *host) startPython(ctx context.Context, venv string, needs *server, args func(port, home string) []string) (*server, error) {
	s, err := h.newServer(stock, needs)
	if err != nil {
		return nil, err
	}
	python, err := h.interpreter(venv)
	if err != nil {
		return nil, s.failed(err)
	}
	ports, err := freePorts(1)
	if err != nil {
		return nil, s.failed(err)
	}
	s.base = &url.URL{Scheme: "http", Host: "127.0.0.1:" + ports[0], Path: "/"}
	if _, err := s.start(h, append([]string{python}, args(ports[0], filepath.Join(s.dir, "home"))...)...); err != nil {
		return nil, s.failed(err)
	}
	return s, s.ready(ctx, http.MethodGet, "api")
}

// startRelay starts the bare relay, with the fake kernel.
func (h *host) startRelay(ctx context.Context) (*server, error) {
	s, err := h.newServer(kernelgw, nil)
	if err != nil {
		return nil, err
	}
	return s, h.listening(ctx, s, "api", h.program("relay"), "-token", token, h.program("fakekernel"), "-f", "{connection_file}")
}

// startKernelgw starts bin/kernelgw with a driver and more flags. It stops the
// server that it needs, if any, when it is stopped or cannot start.
func (h *host) startKernelgw(ctx context.Context, driver string, needs *server, more ...string) (*server, error) {
	s, err := h.newServer(kernelgw, needs)
	if err != nil {
		return nil, err
	}
	binary := filepath.Join(h.bin, "kernelgw")
	if _, err := os.Stat(binary); err != nil {
		return nil, s.failed(fmt.Errorf("there is no kernelgw in %s: run make build", h.bin))
	}
	return s, h.listening(ctx, s, "readyz", append([]string{
		binary, "serve", "--listen", "127.0.0.1:0", "--data-dir", filepath.Join(s.dir, "data"),
		"--token", token, "--driver", driver,
		"--output-cell", "0", "--output-second", "0", // the peers show all of it
	}, more...)...)
}

// listening starts a server that prints its URL, and waits until a path is
// answered.
func (h *host) listening(ctx context.Context, s *server, path string, argv ...string) error {
	first, err := s.start(h, argv...)
	if err != nil {
		return s.failed(err)
	}
	select {
	case line := <-first:
		at := strings.Index(line, "http://")
		if at < 0 {
			return s.failed(fmt.Errorf("it printed no URL but %q", line))
		}
		u, err := url.Parse(strings.Fields(line[at:])[0])
		if err != nil {
			return s.failed(err)
		}
		s.base = &url.URL{Scheme: u.Scheme, Host: u.Host, Path: strings.TrimSuffix(u.Path, "/") + "/"}
	case <-s.done:
		return s.failed(errors.New("it ended"))
	case <-time.After(2 * time.Minute):
		return s.failed(errors.New("it printed no URL within two minutes"))
	case <-ctx.Done():
		return s.failed(ctx.Err())
	}
	return s.ready(ctx, http.MethodGet, path)
}

// grpcAbove is how far above each of its ports SeaweedFS takes another.
const grpcAbove = 10_000

// freePorts finds ports for servers that cannot be told to find their own, each
// with the one that SeaweedFS takes besides.
func freePorts(n int) (ports []string, err error) {
	for range 1000 {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		defer l.Close()
		port := l.Addr().(*net.TCPAddr).Port
		above, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port+grpcAbove)))
		if err != nil {
			continue
		}
		defer above.Close()
		if ports = append(ports, strconv.Itoa(port)); len(ports) == n {
			return ports, nil
		}
	}
	return nil, fmt.Errorf("cannot find %d free ports", n)
}

func (h *host) newServer(kind string, needs *server) (*server, error) {
	s := &server{kind: kind, done: make(chan struct{}), needs: needs}
	var err error
	if s.dir, err = os.MkdirTemp(h.dir, "s"); err != nil {
		return nil, s.failed(err)
	}
	s.log = filepath.Join(s.dir, "log")
	if err := os.Mkdir(filepath.Join(s.dir, "home"), 0o755); err != nil {
		return nil, s.failed(err)
	}
	return s, nil
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
	if s.needs != nil {
		s.cmd.Env = append(s.cmd.Env, s.needs.offers...)
	}
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

// ready waits until a request is answered with 200.
func (s *server) ready(ctx context.Context, method, path string) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	for {
		if status, _, err := s.call(ctx, method, path, nil); err == nil && status == http.StatusOK {
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

// stop ends the server, what it has started and the server that it needs.
// Kernels were deleted before.
func (s *server) stop() {
	if s.needs != nil {
		defer s.needs.stop()
	}
	if s.cmd == nil || s.cmd.Process == nil {
		return // it was not started
	}
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
	for _, pattern := range s.leaves {
		left, _ := filepath.Glob(pattern)
		for _, path := range left {
			_ = os.Remove(path)
		}
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
