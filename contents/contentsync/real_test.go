package contentsync_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"kernelgw/contents"
	"kernelgw/contents/contentstest"
	"kernelgw/contents/contentsync"
	"kernelgw/jupyter"
	"kernelgw/kernelgw/kernels"
	"kernelgw/kernelgw/registry"
	"kernelgw/kernelgw/registry/memory"
	"kernelgw/kernelgw/telemetry"
	"kernelgw/sandboxes"
	"kernelgw/sandboxes/process"
)

// The tests here are of all that moves a file: kernels, the process driver, a
// real agent process with a fake kernel, the link, and a fake store.

func TestMain(m *testing.M) {
	if len(os.Args) == 3 && os.Args[1] == process.SupervisorCommand {
		if err := process.Supervise(os.Args[2]); err != nil {
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Setenv("GORACE", "atexit_sleep_ms=0") // a supervisor would end late
	goleak.VerifyTestMain(m, goleak.Cleanup(func(code int) {
		if programs.dir != "" {
			os.RemoveAll(programs.dir)
		}
		os.Exit(code)
	}))
}

const patience = 30 * time.Second

// programs are built once for all tests.
var programs struct {
	once          sync.Once
	dir           string
	agent, kernel string
}

func build(t testing.TB) {
	t.Helper()
	programs.once.Do(func() {
		dir, err := os.MkdirTemp("", "programs")
		if err != nil {
			t.Fatal(err)
		}
		programs.dir = dir
		for name, pkg := range map[string]string{"agent": "kernelgw/cmd/kernelagent", "kernel": "kernelgw/jupyter/jupytertest/fakekernel"} {
			c := exec.Command("go", "build", "-o", filepath.Join(dir, name), pkg)
			c.Env = append(os.Environ(), "CGO_ENABLED=0")
			if out, err := c.CombinedOutput(); err != nil {
				t.Fatalf("cannot build %s: %v\n%s", pkg, err, out)
			}
		}
		programs.agent, programs.kernel = filepath.Join(dir, "agent"), filepath.Join(dir, "kernel")
	})
	if programs.kernel == "" {
		t.Fatal("the programs were not built")
	}
}

// host is what outlives a gateway: sandboxes, records and files.
type host struct {
	t        testing.TB
	state    string
	driver   sandboxes.Driver
	registry registry.Store
	store    *contentstest.Fake
	*kernels.Manager
	stop func() // ends the gateway; sandboxes stay
}

func newHost(t testing.TB) *host {
	t.Helper()
	build(t)
	specs := filepath.Join(t.TempDir(), "jupyter")
	// The kernel notes what is in its directory when it starts.
	kernel := fmt.Sprintf(`{"argv": ["/bin/sh", "-c", "ls -R > .seen; exec %s -f $0", "{connection_file}"], "display_name": "Fake", "language": "fake"}`, programs.kernel)
	for _, err := range []error{
		os.MkdirAll(filepath.Join(specs, "kernels", "python3"), 0o755),
		os.WriteFile(filepath.Join(specs, "kernels", "python3", "kernel.json"), []byte(kernel), 0o644),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	h := &host{t: t, state: t.TempDir(), registry: memory.New(), store: contentstest.NewFake()}
	driver, err := process.New(process.Options{StateDir: h.state, AgentPath: programs.agent, KernelPath: []string{specs}, Homes: true})
	if err != nil {
		t.Fatal(err)
	}
	h.driver = driver
	h.gateway()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if err := h.ShutdownAll(ctx); err != nil {
			t.Error(err)
		}
		h.stop()
		driver.Close()
	})
	return h
}

// gateway starts a gateway, after the one before has ended.
func (h *host) gateway() {
	h.t.Helper()
	m := kernels.New(kernels.Options{
		Driver: h.driver, Store: h.registry, Metrics: telemetry.NewMetrics(), Log: slog.New(slog.DiscardHandler),
		Files: contentsync.New(contentsync.Options{Store: h.store, SpoolDir: h.t.TempDir()}),
	})
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() {
		if err := m.Run(ctx); err != nil {
			h.t.Errorf("Run: %v", err)
		}
	})
	h.Manager = m
	h.stop = sync.OnceFunc(func() { cancel(); running.Wait() })
	h.until("the gateway is ready", m.Ready)
}

func (h *host) until(what string, holds func() bool) time.Duration {
	h.t.Helper()
	begin := time.Now()
	for !holds() {
		if time.Since(begin) > patience {
			h.t.Fatalf("never happened: %s", what)
		}
		time.Sleep(2 * time.Millisecond)
	}
	return time.Since(begin)
}

// kernel starts a kernel and returns its id and home when it is idle.
func (h *host) kernel() (id, home string) {
	h.t.Helper()
	k, err := h.Start(context.Background(), kernels.StartRequest{Workspace: "w", Owner: "someone"})
	if err != nil {
		h.t.Fatal(err)
	}
	h.until("the kernel is idle", func() bool {
		now, err := h.Get(context.Background(), "w", k.ID)
		return err == nil && now.ExecutionState == jupyter.Idle
	})
	homes, err := filepath.Glob(filepath.Join(h.state, "k-*", "home"))
	if err != nil || len(homes) != 1 {
		h.t.Fatalf("homes: %v, %v", homes, err)
	}
	return k.ID, homes[0]
}

func (h *host) save(p, content string) {
	h.t.Helper()
	if _, err := h.store.Put(context.Background(), "w", p, strings.NewReader(content), contents.PutOptions{Parents: true}); err != nil {
		h.t.Fatal(err)
	}
}

func (h *host) write(home, p, content string) {
	h.t.Helper()
	full := filepath.Join(home, p)
	if err := errors.Join(os.MkdirAll(filepath.Dir(full), 0o755), os.WriteFile(full, []byte(content), 0o644)); err != nil {
		h.t.Fatal(err)
	}
}

func (h *host) has(p, content string) time.Duration {
	h.t.Helper()
	return h.until(p+" is in the store", func() bool { return h.read(p) == content })
}

func (h *host) read(p string) string {
	body, _, err := h.store.Open(context.Background(), "w", p, "", 0, -1)
	if err != nil {
		return ""
	}
	defer body.Close()
	b, _ := io.ReadAll(body)
	return string(b)
}

func (h *host) holds(home, p, content string) time.Duration {
	h.t.Helper()
	return h.until(p+" is in the sandbox", func() bool {
		b, err := os.ReadFile(filepath.Join(home, p))
		return err == nil && string(b) == content
	})
}

func (h *host) end(id string) {
	h.t.Helper()
	if err := h.Shutdown(context.Background(), "w", id); err != nil {
		h.t.Fatal(err)
	}
}

func TestKernelSeesItsFilesWhenItStarts(t *testing.T) {
	h := newHost(t)
	h.save("data/table.csv", "1,2")
	h.save("nb.ipynb", "{}")
	id, home := h.kernel()
	seen, err := os.ReadFile(filepath.Join(home, ".seen"))
	if err != nil || !strings.Contains(string(seen), "table.csv") || !strings.Contains(string(seen), "nb.ipynb") {
		t.Errorf("the kernel saw %q, %v", seen, err)
	}
	h.write(home, "out/plot.png", "picture")
	out := h.has("out/plot.png", "picture")
	h.save("nb.ipynb", "{1}")
	in := h.holds(home, "nb.ipynb", "{1}")
	t.Logf("cell to store %v, store to kernel %v", out, in)
	if out > 20*time.Second || in > 10*time.Second { // two and one, where the host has nothing else to do
		t.Error("too slow")
	}
	e, err := h.store.Stat(t.Context(), "w", "out/plot.png")
	if err != nil || e.Author != "a kernel" {
		t.Errorf("written by %q, %v", e.Author, err)
	}
	h.end(id)
}

func TestShutdownSavesWhatWasJustWritten(t *testing.T) {
	h := newHost(t)
	id, home := h.kernel()
	for i := range 100 {
		h.write(home, fmt.Sprintf("d%d/f%d", i%7, i), fmt.Sprint("content ", i))
	}
	h.end(id)
	for i := range 100 {
		if p := fmt.Sprintf("d%d/f%d", i%7, i); h.read(p) != fmt.Sprint("content ", i) {
			t.Errorf("%s is %q", p, h.read(p))
		}
	}
	if left, _ := filepath.Glob(filepath.Join(h.state, "k-*")); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

func TestDrainThatStopsKernelsSavesTheirFiles(t *testing.T) {
	h := newHost(t)
	_, home := h.kernel()
	h.write(home, "last", "words")
	if err := h.ShutdownAll(t.Context()); err != nil {
		t.Fatal(err)
	}
	if h.read("last") != "words" {
		t.Errorf("lost: %q", h.read("last"))
	}
}

func TestGatewayThatComesBackFindsWhatChangedMeanwhile(t *testing.T) {
	h := newHost(t)
	h.save("both", "base")
	h.save("theirs", "base")
	_, home := h.kernel()
	h.until(".seen is saved", func() bool { return h.read(".seen") != "" })
	h.write(home, "later", "x")
	h.has("later", "x") // by now the agent knows that .seen is saved
	h.stop()
	h.write(home, "mine", "of the kernel")
	h.write(home, "both", "of the kernel, too")
	h.save("both", "of the browser")
	h.save("theirs", "of the browser, too")
	if err := h.store.Delete(t.Context(), "w", ".seen", "browser", contents.Match{}); err != nil {
		t.Fatal(err)
	}
	h.gateway()
	h.has("mine", "of the kernel")
	h.holds(home, "both", "of the browser")
	h.holds(home, "theirs", "of the browser, too")
	h.until("the other version is kept", func() bool {
		found := false
		h.store.Walk(t.Context(), "w", "", func(e contents.Entry) error {
			found = found || strings.HasPrefix(e.Path, "both (conflict ") && h.read(e.Path) == "of the kernel, too"
			return nil
		})
		return found
	})
	h.until(".seen is gone", func() bool {
		_, err := os.Stat(filepath.Join(home, ".seen"))
		return os.IsNotExist(err)
	})
}

func TestKernelsOfOneWorkspaceShareFilesAndOthersDoNot(t *testing.T) {
	h := newHost(t)
	_, home := h.kernel()
	other, err := h.Start(t.Context(), kernels.StartRequest{Workspace: "other"})
	if err != nil {
		t.Fatal(err)
	}
	h.until("the other is idle", func() bool {
		k, err := h.Get(t.Context(), "other", other.ID)
		return err == nil && k.ExecutionState == jupyter.Idle
	})
	h.write(home, "secret", "of w")
	h.has("secret", "of w")
	homes, _ := filepath.Glob(filepath.Join(h.state, "k-*", "home"))
	for _, dir := range homes {
		if dir != home {
			if err := h.Shutdown(t.Context(), "other", other.ID); err != nil {
				t.Error(err)
			}
			if _, err := os.Stat(filepath.Join(dir, "secret")); err == nil {
				t.Error("another workspace has it")
			}
		}
	}
	if _, err := h.store.Stat(t.Context(), "other", "secret"); !errors.Is(err, contents.ErrNotFound) {
		t.Errorf("in the other workspace: %v", err)
	}
}

// Stop and start, with random writes before each stop: what the next kernel finds
// is what the last one left. KERNELGW_SOAK_CYCLES makes it long.
func TestKernelsStopAndStartWithEqualTrees(t *testing.T) {
	cycles := 3
	if text := os.Getenv("KERNELGW_SOAK_CYCLES"); text != "" {
		var err error
		if cycles, err = strconv.Atoi(text); err != nil {
			t.Fatal(err)
		}
	}
	h := newHost(t)
	random := rand.New(rand.NewPCG(3, 4))
	want := map[string]string{}
	for cycle := range cycles {
		id, home := h.kernel()
		for p, content := range want {
			if b, err := os.ReadFile(filepath.Join(home, p)); err != nil || string(b) != content {
				t.Fatalf("cycle %d: %s is %.40q, %v; want %.40q", cycle, p, b, err, content)
			}
		}
		for i := range 20 {
			p := fmt.Sprintf("d%d/f%d", random.IntN(4), random.IntN(20))
			if random.IntN(4) == 0 {
				os.Remove(filepath.Join(home, p))
				delete(want, p)
				continue
			}
			want[p] = fmt.Sprint(cycle, " ", i, " ", strings.Repeat("x", random.IntN(100_000)))
			h.write(home, p, want[p])
		}
		h.end(id)
		for p, content := range want {
			if got := h.read(p); got != content {
				t.Fatalf("cycle %d: %s was saved as %.40q, want %.40q", cycle, p, got, content)
			}
		}
		n := 0
		h.store.Walk(t.Context(), "w", "", func(e contents.Entry) error {
			if _, ok := want[e.Path]; !ok && !e.Directory && e.Path != ".seen" {
				t.Errorf("cycle %d: %s should not be there", cycle, e.Path)
			}
			n++
			return nil
		})
	}
	t.Logf("%d cycles", cycles)
}
