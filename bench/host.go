package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// Names of the kernelspecs: those that both servers find through JUPYTER_PATH,
// fakeKernel also in an image of the bench's own, imageKernel in the default one.
const (
	fakeKernel   = "bench-fake"
	pythonKernel = "bench-python"
	imageKernel  = "python3"
)

// host is what the servers under test share on this machine.
type host struct {
	root   string // of the checkout
	bin    string // of kernelgw
	dir    string // ours, removed by close
	python string // of the stock server and of the Python kernel
	path   string // JUPYTER_PATH
}

func newHost(ctx context.Context, bin string) (*host, error) {
	root, err := checkout()
	if err != nil {
		return nil, err
	}
	h := &host{root: root, bin: cmp.Or(bin, filepath.Join(root, "bin"))}
	if h.python, err = h.interpreter("stock"); err != nil {
		return nil, err
	}
	// A short name: Unix sockets have long ones behind it.
	if h.dir, err = os.MkdirTemp("", "kgwb"); err != nil {
		return nil, err
	}
	if err := h.kernels(ctx); err != nil {
		h.close()
		return nil, err
	}
	return h, nil
}

// interpreter is the one of a Python environment that scripts/setup-clients.sh
// makes.
func (h *host) interpreter(venv string) (string, error) {
	python := filepath.Join(h.root, ".cache", "venv", venv, "bin", "python")
	if _, err := os.Stat(python); err != nil {
		return "", fmt.Errorf("there is no Python in .cache/venv/%s: run scripts/setup-clients.sh %[1]s", venv)
	}
	return python, nil
}

// program is where one that bench builds is.
func (h *host) program(name string) string { return filepath.Join(h.dir, name) }

// kernels builds the fake kernel and the relay, and writes the kernelspecs.
func (h *host) kernels(ctx context.Context) error {
	build := exec.CommandContext(ctx, "go", "build", "-o", h.dir, "./jupyter/jupytertest/fakekernel", "./bench/relay")
	build.Dir, build.Env = h.root, append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("cannot build the fake kernel and the relay: %w\n%s", err, out)
	}
	h.path = filepath.Join(h.dir, "jupyter")
	for name, argv := range map[string][]string{
		fakeKernel:   {h.program("fakekernel"), "-f", "{connection_file}"},
		pythonKernel: {h.python, "-m", "ipykernel_launcher", "-f", "{connection_file}"},
	} {
		spec, err := kernelspec(name, argv...)
		if err != nil {
			return err
		}
		dir := filepath.Join(h.path, "kernels", name)
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(dir, "kernel.json"), spec, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// kernelspec is a kernel.json. The fake kernel runs on one thread: what it costs
// is added to every server's figure alike, and should be little.
func kernelspec(name string, argv ...string) ([]byte, error) {
	return json.Marshal(map[string]any{
		"argv": argv, "display_name": name, "language": "python", "env": map[string]string{"GOMAXPROCS": "1"},
	})
}

func (h *host) close() { _ = os.RemoveAll(h.dir) }

// checkout is the directory of go.mod, here or above.
func checkout() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir, nil
		}
		if dir == filepath.Dir(dir) {
			return "", errors.New("cannot find the checkout: run bench inside it")
		}
		dir = filepath.Dir(dir)
	}
}

// environ is our environment without what configures Jupyter or kernelgw, with
// a home for one server.
func (h *host) environ(home string) []string {
	env := slices.DeleteFunc(os.Environ(), func(kv string) bool {
		for _, prefix := range []string{"JUPYTER", "KERNELGW_", "KERNEL_", "HOME=", "PYTHON", "XDG_", "IPYTHON"} {
			if strings.HasPrefix(kv, prefix) {
				return true
			}
		}
		return false
	})
	return append(env, "HOME="+home, "JUPYTER_PATH="+h.path)
}
