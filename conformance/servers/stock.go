package servers

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"kernelgw/conformance/probe"
)

// Stock starts the jupyter_server of .cache/venv/stock and waits until it
// answers.
func Stock(ctx context.Context) (*Process, error) {
	p, err := jupyter(ctx, "stock", "jupyter_server")
	if err != nil {
		return nil, fmt.Errorf("cannot start the stock jupyter_server: %w", err)
	}
	return p, nil
}

// Lab starts the JupyterLab of .cache/venv/clients, which has Notebook too, and
// waits until it answers. With a gateway it gets its kernels from there, as
// "jupyter lab --gateway-url" does; nil is for its own.
func Lab(ctx context.Context, gateway *probe.Server) (*Process, error) {
	var args []string
	if gateway != nil {
		args = []string{"--gateway-url=" + gateway.Base, "--GatewayClient.auth_token=" + gateway.Token}
	}
	p, err := jupyter(ctx, "clients", "jupyterlab", args...)
	if err != nil {
		return nil, fmt.Errorf("cannot start jupyter lab: %w", err)
	}
	return p, nil
}

// jupyter starts a Jupyter server program of a Python environment.
func jupyter(ctx context.Context, venvName, module string, args ...string) (*Process, error) {
	venv, err := Venv(venvName)
	if err != nil {
		return nil, err
	}
	dir, err := newDir()
	if err != nil {
		return nil, err
	}
	port, err := freePort()
	if err != nil {
		return nil, err
	}
	p := &Process{
		Server: probe.Server{Base: "http://127.0.0.1:" + strconv.Itoa(port) + "/", Token: probe.ID()},
		Dir:    dir,
	}
	p.argv = append([]string{
		filepath.Join(venv, "bin", "python"), "-m", module,
		"--no-browser", "--allow-root", "--ServerApp.ip=127.0.0.1",
		"--ServerApp.port=" + strconv.Itoa(port), "--ServerApp.port_retries=0",
		"--ServerApp.root_dir=" + filepath.Join(dir, "home"), "--IdentityProvider.token=" + p.Token,
	}, args...)
	p.env = environ(dir, venv)
	if _, err := p.spawn(); err != nil {
		return nil, err
	}
	if err := p.ready(ctx, "api", 3*time.Minute); err != nil {
		_ = p.Kill()
		return nil, fmt.Errorf("%w\n%s", err, p.Log())
	}
	return p, nil
}

// given are the ports that freePort has given out.
var given sync.Map

// freePort finds a port for a server that cannot be told to find its own, and gives
// none out twice: of two servers on one port, each would take the other's answers
// for its own.
func freePort() (int, error) {
	for {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return 0, err
		}
		port := l.Addr().(*net.TCPAddr).Port
		if err := l.Close(); err != nil {
			return 0, err
		}
		if _, taken := given.LoadOrStore(port, true); !taken {
			return port, nil
		}
	}
}

// ready waits until a path answers 200, or the process has ended.
func (p *Process) ready(ctx context.Context, path string, within time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	client := http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	for {
		if !p.running() {
			return fmt.Errorf("it ended before it answered %s", path)
		}
		resp, err := client.Get(p.Base + path)
		if err == nil {
			resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				return nil
			}
		}
		if err := sleep(ctx, 50*time.Millisecond); err != nil {
			return fmt.Errorf("it did not answer %s within %v", path, within)
		}
	}
}
