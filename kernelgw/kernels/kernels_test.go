package kernels_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"go.uber.org/goleak"

	"kernelgw/jupyter"
	"kernelgw/kernelgw/kernels"
	"kernelgw/kernelgw/registry"
	"kernelgw/kernelgw/registry/file"
	"kernelgw/kernelgw/registry/memory"
	"kernelgw/kernelgw/telemetry"
	"kernelgw/sandboxes"
	"kernelgw/sandboxes/agentapi"
	"kernelgw/sandboxes/sandboxtest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience bounds every wait of these tests for something that must happen.
const patience = time.Minute

// gateway is a Manager that runs, over a driver and a store that outlive it.
type gateway struct {
	*kernels.Manager
	stop func()
}

func start(t *testing.T, driver sandboxes.Driver, store registry.Store, change ...func(*kernels.Options)) *gateway {
	t.Helper()
	o := kernels.Options{
		Driver: driver, Store: store, Metrics: telemetry.NewMetrics(),
		Log: slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelError + 1})),
	}
	for _, f := range change {
		f(&o)
	}
	m := kernels.New(o)
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() {
		if err := m.Run(ctx); err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	stop := sync.OnceFunc(func() { cancel(); running.Wait() })
	t.Cleanup(stop)
	eventually(t, "the gateway is ready", m.Ready)
	return &gateway{m, stop}
}

func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	deadline := time.After(patience)
	for !holds() {
		select {
		case <-deadline:
			t.Fatalf("never happened: %s", what)
		case <-time.After(2 * time.Millisecond):
		}
	}
}

func (g *gateway) start(t *testing.T, req kernels.StartRequest) kernels.Kernel {
	t.Helper()
	if req.Workspace == "" {
		req.Workspace = "w"
	}
	k, err := g.Start(t.Context(), req)
	if err != nil {
		t.Fatalf("Start: %v", err)
	}
	return k
}

func (g *gateway) awaitState(t *testing.T, id string, state jupyter.State) kernels.Kernel {
	t.Helper()
	var k kernels.Kernel
	eventually(t, "kernel is "+string(state), func() bool {
		var err error
		k, err = g.Get(t.Context(), "w", id)
		return err == nil && k.ExecutionState == state
	})
	return k
}

func onlySandbox(t *testing.T, driver sandboxes.Driver) sandboxes.Sandbox {
	t.Helper()
	list, err := driver.List(t.Context())
	if err != nil || len(list) != 1 {
		t.Fatalf("List = %d sandboxes, %v; want one", len(list), err)
	}
	return list[0]
}

func TestStartedKernelIsListedAtOnceAndBecomesIdle(t *testing.T) {
	g := start(t, sandboxtest.NewFake(t), memory.New())
	k := g.start(t, kernels.StartRequest{})
	list, err := g.List(t.Context(), "w")
	if err != nil || len(list) != 1 || list[0].ID != k.ID || list[0].Name != "python3" {
		t.Fatalf("List = %+v, %v", list, err)
	}
	g.awaitState(t, k.ID, jupyter.Idle)
}

func TestKernelsOfOtherWorkspacesDoNotExist(t *testing.T) {
	g := start(t, sandboxtest.NewFake(t), memory.New())
	s, err := g.CreateSession(t.Context(), kernels.SessionRequest{Workspace: "theirs", Path: "a.ipynb", Type: "notebook"})
	if err != nil {
		t.Fatal(err)
	}
	id := s.Kernel.ID
	ctx := t.Context()
	for name, call := range map[string]func() error{
		"get":       func() error { _, err := g.Get(ctx, "w", id); return err },
		"interrupt": func() error { return g.Interrupt(ctx, "w", id) },
		"restart":   func() error { _, err := g.Restart(ctx, "w", id); return err },
		"shutdown":  func() error { return g.Shutdown(ctx, "w", id) },
		"connect":   func() error { _, err := g.Connect(ctx, "w", id); return err },
		"session":   func() error { _, err := g.Session(ctx, "w", s.ID); return err },
		"delete":    func() error { return g.DeleteSession(ctx, "w", s.ID) },
		"update": func() error {
			_, err := g.UpdateSession(ctx, "w", s.ID, kernels.SessionUpdate{})
			return err
		},
	} {
		if err := call(); !errors.Is(err, kernels.ErrNotFound) && !errors.Is(err, kernels.ErrSessionNotFound) {
			t.Errorf("%s of another workspace's: %v", name, err)
		}
	}
	mine, err := g.CreateSession(ctx, kernels.SessionRequest{Workspace: "w", Path: "b.ipynb", Type: "notebook"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := g.UpdateSession(ctx, "w", mine.ID, kernels.SessionUpdate{KernelID: id}); !errors.Is(err, kernels.ErrInvalid) {
		t.Errorf("attaching another workspace's kernel: %v", err)
	}
	if list, _ := g.List(ctx, "w"); len(list) != 1 {
		t.Errorf("List shows %d kernels", len(list))
	}
}

// An id that is refused because another tenant's kernel has it tells that there
// is such a kernel.
func TestKernelIDOfAnotherWorkspaceIsAsFreeAsAnUnknownOne(t *testing.T) {
	driver, store := sandboxtest.NewFake(t), memory.New()
	g := start(t, driver, store)
	theirs := g.start(t, kernels.StartRequest{Workspace: "theirs"})
	mine := g.start(t, kernels.StartRequest{KernelID: theirs.ID})
	if mine.ID != theirs.ID || mine.Workspace != "w" {
		t.Fatalf("started %+v, want the id %s in w", mine, theirs.ID)
	}
	s, err := g.CreateSession(t.Context(), kernels.SessionRequest{Workspace: "theirs", Path: "a.ipynb", Type: "notebook", KernelID: theirs.ID})
	if err != nil {
		t.Fatal(err)
	}
	if err := g.Shutdown(t.Context(), "w", mine.ID); err != nil {
		t.Fatal(err)
	}
	g.stop()
	next := start(t, driver, store)
	if _, err := next.Get(t.Context(), "w", mine.ID); !errors.Is(err, kernels.ErrNotFound) {
		t.Errorf("the kernel that was shut down: %v", err)
	}
	if got, err := next.Session(t.Context(), "theirs", s.ID); err != nil || got.Kernel.ID != theirs.ID {
		t.Errorf("the other workspace's session: %+v, %v", got, err)
	}
}

func TestStartRefuses(t *testing.T) {
	g := start(t, sandboxtest.NewFake(t), memory.New())
	taken := g.start(t, kernels.StartRequest{}).ID
	for name, c := range map[string]struct {
		req  kernels.StartRequest
		want error
	}{
		"an unknown kernelspec":       {kernels.StartRequest{Name: "cobol"}, kernels.ErrUnknownSpec},
		"an id in use":                {kernels.StartRequest{KernelID: taken}, kernels.ErrExists},
		"an id that is no UUID":       {kernels.StartRequest{KernelID: "../../etc"}, kernels.ErrInvalid},
		"a KERNEL_ID that is no UUID": {kernels.StartRequest{Env: map[string]string{"KERNEL_ID": "$(id)"}}, kernels.ErrInvalid},
	} {
		c.req.Workspace = "w"
		if _, err := g.Start(t.Context(), c.req); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}
	if list, _ := g.List(t.Context(), "w"); len(list) != 1 {
		t.Errorf("a refused start left something: %+v", list)
	}
}

// Threats: template, shell, YAML and loader injection through KERNEL_*.
func TestKernelEnvironmentIsDataAndAllowListed(t *testing.T) {
	driver := sandboxtest.NewFake(t)
	g := start(t, driver, memory.New(), func(o *kernels.Options) { o.AllowedEnv = []string{"TZ"} })
	kept := map[string]string{
		"KERNEL_POD_NAME": "{{7*7}}", "KERNEL_YAML": "x\ny: z", "KERNEL_SHELL": "$(id)`id`", "TZ": "UTC",
	}
	asked := map[string]string{
		"LD_PRELOAD": "/tmp/x.so", "PYTHONSTARTUP": "/tmp/x.py", "PATH": "/tmp", "KERNEL_a": "lower", "KERNEL_X=Y": "z",
		"kernel_x": "lower", "XKERNEL_Y": "prefix", "": "empty",
	}
	for name, value := range kept {
		asked[name] = value
	}
	g.start(t, kernels.StartRequest{Env: asked})
	got := driver.Agent(onlySandbox(t, driver).Spec.ID).Config().Env
	for name, value := range kept {
		if got[name] != value {
			t.Errorf("%s = %q, want %q untouched", name, got[name], value)
		}
	}
	if len(got) != len(kept) {
		t.Errorf("environment of the kernel: %v", got)
	}
}

func TestPythonIsPython3(t *testing.T) {
	g := start(t, sandboxtest.NewFake(t), memory.New())
	if k := g.start(t, kernels.StartRequest{Name: "python"}); k.Name != "python3" {
		t.Errorf("started %s", k.Name)
	}
}

func TestFailedCreateLeavesNothingAndTellsTheCaller(t *testing.T) {
	driver := sandboxtest.NewFake(t)
	driver.OnCreate(func(context.Context, sandboxes.Spec, *sandboxtest.Agent) error {
		return errors.New("no room on the host")
	})
	store := memory.New()
	g := start(t, driver, store)
	_, err := g.Start(t.Context(), kernels.StartRequest{Workspace: "w"})
	if err == nil || !strings.Contains(err.Error(), "no room on the host") {
		t.Errorf("Start: %v", err)
	}
	if list, _ := g.List(t.Context(), "w"); len(list) != 0 {
		t.Errorf("left in the list: %+v", list)
	}
	if records, _ := store.List(t.Context(), registry.Kernels); len(records) != 0 {
		t.Errorf("left in the registry: %v", records)
	}
}

func TestAbandonedStartIsCancelled(t *testing.T) {
	driver := sandboxtest.NewFake(t)
	creating := make(chan struct{})
	driver.OnCreate(func(ctx context.Context, _ sandboxes.Spec, _ *sandboxtest.Agent) error {
		close(creating)
		<-ctx.Done()
		return ctx.Err()
	})
	g := start(t, driver, memory.New())
	ctx, abandon := context.WithCancel(t.Context())
	go func() { <-creating; abandon() }()
	if _, err := g.Start(ctx, kernels.StartRequest{Workspace: "w"}); !errors.Is(err, context.Canceled) {
		t.Errorf("Start: %v", err)
	}
	if list, _ := g.List(t.Context(), "w"); len(list) != 0 {
		t.Errorf("left in the list: %+v", list)
	}
	if left, _ := driver.List(t.Context()); len(left) != 0 {
		t.Errorf("left sandboxes: %v", left)
	}
}

func TestSandboxThatDiesIsReportedWithinASecond(t *testing.T) {
	driver := sandboxtest.NewFake(t)
	g := start(t, driver, memory.New())
	k := g.start(t, kernels.StartRequest{})
	g.awaitState(t, k.ID, jupyter.Idle)
	conn, err := g.Connect(t.Context(), "w", k.ID)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()

	driver.Kill(onlySandbox(t, driver).Spec.ID, sandboxes.Exit{Code: 137, Reason: "killed: memory limit 2.0 GiB"})
	within, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if reason, dead := conn.Dead(within); !dead || reason != "killed: memory limit 2.0 GiB" {
		t.Errorf("Dead = %q, %v", reason, dead)
	}
	got := g.awaitState(t, k.ID, jupyter.Dead)
	if got.Reason != "killed: memory limit 2.0 GiB" {
		t.Errorf("reason = %q", got.Reason)
	}
	if _, err := g.Connect(t.Context(), "w", k.ID); !errors.Is(err, kernels.ErrDead) {
		t.Errorf("Connect to a dead kernel: %v", err)
	}
	eventually(t, "the dead kernel's sandbox is destroyed", func() bool {
		left, _ := driver.List(t.Context())
		return len(left) == 0
	})
}

func TestLogOfADeadKernelIsThereWhileItsAgentIs(t *testing.T) {
	driver := sandboxtest.NewFake(t)
	g := start(t, driver, memory.New())
	k := g.start(t, kernels.StartRequest{})
	g.awaitState(t, k.ID, jupyter.Idle)
	id := onlySandbox(t, driver).Spec.ID
	driver.Agent(id).Update(func(st *agentapi.Status) {
		st.ExecutionState, st.Ready, st.Reason = jupyter.Dead, false, "after 5 restarts in a row"
	})
	g.awaitState(t, k.ID, jupyter.Dead)
	if _, err := g.Connect(t.Context(), "w", k.ID); !errors.Is(err, kernels.ErrDead) {
		t.Errorf("Connect to a dead kernel: %v", err)
	}
	conn, err := g.ConnectLog(t.Context(), "w", k.ID)
	if err != nil {
		t.Fatalf("ConnectLog: %v", err)
	}
	conn.Close()
	if _, err := g.ConnectLog(t.Context(), "other", k.ID); !errors.Is(err, kernels.ErrNotFound) {
		t.Errorf("ConnectLog from another workspace: %v", err)
	}
	driver.Kill(id, sandboxes.Exit{Code: 137})
	eventually(t, "the log is gone with the sandbox", func() bool {
		conn, err := g.ConnectLog(t.Context(), "w", k.ID)
		if err == nil {
			conn.Close()
		}
		return errors.Is(err, kernels.ErrDead)
	})
}

func TestRestartOfADeadKernelMakesANewSandbox(t *testing.T) {
	driver := sandboxtest.NewFake(t)
	g := start(t, driver, memory.New())
	k := g.start(t, kernels.StartRequest{})
	g.awaitState(t, k.ID, jupyter.Idle)
	first := onlySandbox(t, driver).Spec.ID
	driver.Kill(first, sandboxes.Exit{Code: 1})
	g.awaitState(t, k.ID, jupyter.Dead)
	if _, err := g.Restart(t.Context(), "w", k.ID); err != nil {
		t.Fatalf("Restart: %v", err)
	}
	if got := g.awaitState(t, k.ID, jupyter.Idle); got.Reason != "" {
		t.Errorf("a living kernel has reason %q", got.Reason)
	}
	if second := onlySandbox(t, driver).Spec.ID; second == first {
		t.Error("the sandbox id was used again")
	}
}

func TestKernelThatShutItselfDownIsGone(t *testing.T) {
	driver := sandboxtest.NewFake(t)
	g := start(t, driver, memory.New())
	s, err := g.CreateSession(t.Context(), kernels.SessionRequest{Workspace: "w", Path: "a.ipynb", Type: "notebook"})
	if err != nil {
		t.Fatal(err)
	}
	g.awaitState(t, s.Kernel.ID, jupyter.Idle)
	driver.Kill(onlySandbox(t, driver).Spec.ID, sandboxes.Exit{Code: 0})
	eventually(t, "the kernel is gone", func() bool {
		_, err := g.Get(t.Context(), "w", s.Kernel.ID)
		return errors.Is(err, kernels.ErrNotFound)
	})
	if list, err := g.Sessions(t.Context(), "w"); err != nil || len(list) != 0 {
		t.Errorf("its session remained: %v, %v", list, err)
	}
}

func TestNextGatewayAdoptsKernelsAndSessions(t *testing.T) {
	driver, store := sandboxtest.NewFake(t), memory.New()
	first := start(t, driver, store)
	s, err := first.CreateSession(t.Context(), kernels.SessionRequest{Workspace: "w", Path: "a.ipynb", Name: "n", Type: "notebook"})
	if err != nil {
		t.Fatal(err)
	}
	first.awaitState(t, s.Kernel.ID, jupyter.Idle)
	driver.Agent(onlySandbox(t, driver).Spec.ID).Update(func(st *agentapi.Status) { st.ExecutionState = jupyter.Busy })
	first.awaitState(t, s.Kernel.ID, jupyter.Busy)
	first.stop()

	second := start(t, driver.Reopen(), store)
	// No waiting: a gateway that is ready knows the state already.
	list, err := second.Sessions(t.Context(), "w")
	if err != nil || len(list) != 1 || list[0].ID != s.ID || list[0].Path != "a.ipynb" || list[0].Kernel.ExecutionState != jupyter.Busy {
		t.Errorf("Sessions = %+v, %v", list, err)
	}
	conn, err := second.Connect(t.Context(), "w", s.Kernel.ID)
	if err != nil {
		t.Fatalf("Connect: %v", err)
	}
	conn.Close()
	if err := second.Shutdown(t.Context(), "w", s.Kernel.ID); err != nil {
		t.Errorf("Shutdown: %v", err)
	}
	if left, _ := driver.List(t.Context()); len(left) != 0 {
		t.Errorf("left sandboxes: %v", left)
	}
}

func TestNextGatewayReapsSandboxesOfNobody(t *testing.T) {
	driver := sandboxtest.NewFake(t)
	if _, err := driver.Create(t.Context(), sandboxes.Spec{ID: "k-orphan", AgentConfig: []byte(`{"token":"t"}`)}); err != nil {
		t.Fatal(err)
	}
	start(t, driver, memory.New())
	eventually(t, "the orphan is reaped", func() bool {
		left, _ := driver.List(t.Context())
		return len(left) == 0
	})
}

func TestNextGatewayListsAKernelWhoseSandboxIsGoneAsDead(t *testing.T) {
	driver, store := sandboxtest.NewFake(t), memory.New()
	first := start(t, driver, store)
	k := first.start(t, kernels.StartRequest{})
	first.stop()
	if err := driver.Destroy(t.Context(), onlySandbox(t, driver).Spec.ID); err != nil {
		t.Fatal(err)
	}
	second := start(t, driver.Reopen(), store)
	got, err := second.Get(t.Context(), "w", k.ID)
	if err != nil || got.ExecutionState != jupyter.Dead || got.Reason == "" {
		t.Errorf("Get = %+v, %v", got, err)
	}
	if _, err := second.Restart(t.Context(), "w", k.ID); err != nil {
		t.Errorf("Restart: %v", err)
	}
	second.awaitState(t, k.ID, jupyter.Idle)
}

func TestDeadKernelsAreForgottenInTheEnd(t *testing.T) {
	driver := sandboxtest.NewFake(t)
	g := start(t, driver, memory.New(), func(o *kernels.Options) { o.DeadRetention = 20 * time.Millisecond })
	k := g.start(t, kernels.StartRequest{})
	driver.Kill(onlySandbox(t, driver).Spec.ID, sandboxes.Exit{Code: 1})
	eventually(t, "the dead kernel is forgotten", func() bool {
		_, err := g.Get(t.Context(), "w", k.ID)
		return errors.Is(err, kernels.ErrNotFound)
	})
}

func TestShutdownIsPoliteAndLeavesNothing(t *testing.T) {
	driver, store := sandboxtest.NewFake(t), memory.New()
	g := start(t, driver, store)
	k := g.start(t, kernels.StartRequest{})
	g.awaitState(t, k.ID, jupyter.Idle)
	agent := driver.Agent(onlySandbox(t, driver).Spec.ID)
	var wg sync.WaitGroup
	results := make(chan error, 4)
	for range 4 {
		wg.Go(func() { results <- g.Shutdown(t.Context(), "w", k.ID) })
	}
	wg.Wait()
	close(results)
	done := 0
	for err := range results {
		if err == nil {
			done++
		} else if !errors.Is(err, kernels.ErrNotFound) {
			t.Errorf("Shutdown: %v", err)
		}
	}
	if done != 1 {
		t.Errorf("%d of 4 calls shut it down", done)
	}
	if !strings.Contains(strings.Join(agent.Requests(), "\n"), "POST /v1/kernel/shutdown") {
		t.Errorf("the agent was not asked: %v", agent.Requests())
	}
	if records, _ := store.List(t.Context(), registry.Kernels); len(records) != 0 {
		t.Errorf("left records: %v", records)
	}
}

func TestDestroyThatFailsIsTriedAgain(t *testing.T) {
	driver := sandboxtest.NewFake(t)
	g := start(t, driver, memory.New())
	k := g.start(t, kernels.StartRequest{})
	var once sync.Once
	driver.OnDestroy(func(context.Context, string) (err error) {
		once.Do(func() { err = errors.New("device busy") })
		return err
	})
	if err := g.Shutdown(t.Context(), "w", k.ID); err != nil {
		t.Errorf("Shutdown: %v", err)
	}
	if left, _ := driver.List(t.Context()); len(left) != 0 {
		t.Errorf("left sandboxes: %v", left)
	}
}

func TestConnectWaitsForTheAgentAndThenGivesUp(t *testing.T) {
	driver := sandboxtest.NewFake(t)
	driver.OnCreate(func(_ context.Context, _ sandboxes.Spec, a *sandboxtest.Agent) error { a.NeverListen(); return nil })
	g := start(t, driver, memory.New(), func(o *kernels.Options) { o.StartTimeout = 300 * time.Millisecond })
	k := g.start(t, kernels.StartRequest{})
	short, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := g.Connect(short, "w", k.ID); !errors.Is(err, kernels.ErrNotReady) {
		t.Errorf("Connect while it starts: %v", err)
	}
	// An agent that never answers is given up: dead, with a reason.
	if got := g.awaitState(t, k.ID, jupyter.Dead); !strings.Contains(got.Reason, "did not answer") {
		t.Errorf("reason = %q", got.Reason)
	}
}

func TestConnectionsAreCounted(t *testing.T) {
	g := start(t, sandboxtest.NewFake(t), memory.New())
	k := g.start(t, kernels.StartRequest{})
	count := func() int {
		k, err := g.Get(t.Context(), "w", k.ID)
		if err != nil {
			t.Fatal(err)
		}
		return k.Connections
	}
	a, err := g.Connect(t.Context(), "w", k.ID)
	if err != nil {
		t.Fatal(err)
	}
	b, err := g.Connect(t.Context(), "w", k.ID)
	if err != nil {
		t.Fatal(err)
	}
	if count() != 2 {
		t.Errorf("connections = %d with two open", count())
	}
	a.Close()
	b.Close()
	if count() != 0 {
		t.Errorf("connections = %d after close", count())
	}
}

func TestAgentThatLiesAboutItsStatusIsBelievedOnlyInRange(t *testing.T) {
	driver := sandboxtest.NewFake(t)
	g := start(t, driver, memory.New())
	k := g.start(t, kernels.StartRequest{})
	g.awaitState(t, k.ID, jupyter.Idle)
	driver.Agent(onlySandbox(t, driver).Spec.ID).Update(func(st *agentapi.Status) {
		st.ExecutionState = "pwned"
		st.LastActivity = time.Now().Add(1000 * time.Hour)
		st.Reason = "line\nbreak\x1b[31m" + strings.Repeat("x", 10_000)
		st.Replayed, st.Dropped = 1, 1
	})
	var got kernels.Kernel
	eventually(t, "the lie arrives", func() bool {
		got, _ = g.Get(t.Context(), "w", k.ID)
		return got.Reason != ""
	})
	if got.ExecutionState != jupyter.Idle || got.LastActivity.After(time.Now()) ||
		len(got.Reason) > 400 || strings.ContainsAny(got.Reason, "\n\x1b") {
		t.Errorf("believed: %+v", got)
	}
}

func TestSessionOfAPathIsMadeOnce(t *testing.T) {
	driver := sandboxtest.NewFake(t)
	g := start(t, driver, memory.New())
	ids := make(chan string, 8)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			s, err := g.CreateSession(t.Context(), kernels.SessionRequest{Workspace: "w", Path: "same.ipynb", Type: "notebook"})
			if err != nil {
				t.Errorf("CreateSession: %v", err)
			}
			ids <- s.ID
		})
	}
	wg.Wait()
	close(ids)
	seen := map[string]bool{}
	for id := range ids {
		seen[id] = true
	}
	if len(seen) != 1 {
		t.Errorf("%d sessions for one path", len(seen))
	}
	onlySandbox(t, driver)
}

func TestSessionUpdates(t *testing.T) {
	driver := sandboxtest.NewFake(t)
	g := start(t, driver, memory.New())
	ctx := t.Context()
	s, err := g.CreateSession(ctx, kernels.SessionRequest{Workspace: "w", Path: "dir/8f3c-uuid", Name: "a.ipynb", Type: "notebook"})
	if err != nil {
		t.Fatal(err)
	}
	path := "dir/a.ipynb"
	if got, err := g.UpdateSession(ctx, "w", s.ID, kernels.SessionUpdate{Path: &path}); err != nil || got.Path != path || got.Name != "a.ipynb" {
		t.Errorf("new path: %+v, %v", got, err)
	}
	shared, err := g.CreateSession(ctx, kernels.SessionRequest{Workspace: "w", Path: "console", Type: "console", KernelID: s.Kernel.ID})
	if err != nil || shared.Kernel.ID != s.Kernel.ID {
		t.Fatalf("attach: %+v, %v", shared, err)
	}
	// A kernel that another session uses stays when a session leaves it.
	moved, err := g.UpdateSession(ctx, "w", s.ID, kernels.SessionUpdate{KernelName: "python3"})
	if err != nil || moved.Kernel.ID == s.Kernel.ID {
		t.Fatalf("new kernel: %+v, %v", moved, err)
	}
	if _, err := g.Get(ctx, "w", s.Kernel.ID); err != nil {
		t.Errorf("the shared kernel was shut down: %v", err)
	}
	// One that nobody uses any more is shut down.
	if _, err := g.UpdateSession(ctx, "w", shared.ID, kernels.SessionUpdate{KernelID: moved.Kernel.ID}); err != nil {
		t.Fatal(err)
	}
	if _, err := g.Get(ctx, "w", s.Kernel.ID); !errors.Is(err, kernels.ErrNotFound) {
		t.Errorf("the abandoned kernel is still there: %v", err)
	}
	if err := g.DeleteSession(ctx, "w", shared.ID); err != nil {
		t.Errorf("DeleteSession: %v", err)
	}
	if left, _ := driver.List(ctx); len(left) != 0 {
		t.Errorf("left sandboxes: %v", left)
	}
}

func TestSessionOfAnUnknownKernelIDStartsAKernelOfThatID(t *testing.T) {
	g := start(t, sandboxtest.NewFake(t), memory.New())
	id := uuid.NewString()
	s, err := g.CreateSession(t.Context(), kernels.SessionRequest{Workspace: "w", Path: "a", KernelID: id})
	if err != nil || s.Kernel.ID != id {
		t.Errorf("CreateSession = %+v, %v", s, err)
	}
}

func TestKernelsOfAGatewayThatIsNotReadyAreNotListed(t *testing.T) {
	m := kernels.New(kernels.Options{Driver: sandboxtest.NewFake(t), Store: memory.New(), Metrics: telemetry.NewMetrics(), Log: slog.Default()})
	if _, err := m.List(t.Context(), "w"); !errors.Is(err, kernels.ErrNotReady) {
		t.Errorf("List: %v", err)
	}
	if _, err := m.Sessions(t.Context(), "w"); !errors.Is(err, kernels.ErrNotReady) {
		t.Errorf("Sessions: %v", err)
	}
	if _, err := m.Start(t.Context(), kernels.StartRequest{Workspace: "w"}); !errors.Is(err, kernels.ErrNotReady) {
		t.Errorf("Start: %v", err)
	}
}

func TestStateOfAWorkingKernelIsAskedForNotRemembered(t *testing.T) {
	driver := sandboxtest.NewFake(t)
	g := start(t, driver, memory.New())
	k := g.start(t, kernels.StartRequest{})
	g.awaitState(t, k.ID, jupyter.Idle)
	agent := driver.Agent(onlySandbox(t, driver).Spec.ID)
	agent.Update(func(st *agentapi.Status) { st.ExecutionState = jupyter.Busy })
	g.awaitState(t, k.ID, jupyter.Busy)

	// What the agent tells when asked differs from what it told by itself last.
	agent.Handle("GET /v1/status", func(w http.ResponseWriter, _ *http.Request) {
		_ = json.NewEncoder(w).Encode(agentapi.Status{KernelID: k.ID, ExecutionState: jupyter.Idle, Ready: true})
	})
	if got, err := g.Get(t.Context(), "w", k.ID); err != nil || got.ExecutionState != jupyter.Idle {
		t.Errorf("Get = %+v, %v", got, err)
	}

	// An agent that hangs costs a moment, not the answer.
	agent.Handle("GET /v1/status", func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	agent.Update(func(st *agentapi.Status) { st.ExecutionState = jupyter.Busy })
	eventually(t, "busy again", func() bool {
		list, err := g.List(t.Context(), "w")
		return err == nil && len(list) == 1 && list[0].ExecutionState == jupyter.Busy
	})
}

// JupyterLab sends the two PATCHes of a rename at once.
func TestUpdatesOfOneSessionAtOnceAllTakeEffect(t *testing.T) {
	store, err := file.Open(filepath.Join(t.TempDir(), "r.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	g := start(t, sandboxtest.NewFake(t), store)
	defer g.stop()
	s, err := g.CreateSession(t.Context(), kernels.SessionRequest{Workspace: "w", Path: "a", Type: "notebook"})
	if err != nil {
		t.Fatal(err)
	}
	for i := range 20 {
		path, name := fmt.Sprintf("dir/%d.ipynb", i), fmt.Sprintf("%d.ipynb", i)
		var both sync.WaitGroup
		for _, u := range []kernels.SessionUpdate{{Path: &path}, {Name: &name}} {
			both.Go(func() {
				if _, err := g.UpdateSession(t.Context(), "w", s.ID, u); err != nil {
					t.Errorf("UpdateSession: %v", err)
				}
			})
		}
		both.Wait()
		if got, err := g.Session(t.Context(), "w", s.ID); err != nil || got.Path != path || got.Name != name {
			t.Fatalf("after both: %+v, %v", got, err)
		}
	}
}

func TestShutdownDuringStartOfTheSameIDLeavesNothing(t *testing.T) {
	driver, store := sandboxtest.NewFake(t), memory.New()
	g := start(t, driver, store)
	for range 100 {
		id := uuid.NewString()
		starting := make(chan struct{})
		var shutting sync.WaitGroup
		shutting.Go(func() {
			for {
				err := g.Shutdown(t.Context(), "w", id)
				if err == nil {
					return
				}
				if !errors.Is(err, kernels.ErrNotFound) {
					t.Errorf("Shutdown: %v", err)
					return
				}
				select {
				case <-starting: // and was not there: nothing to shut down any more
					return
				default:
				}
			}
		})
		_, startErr := g.Start(t.Context(), kernels.StartRequest{Workspace: "w", KernelID: id})
		close(starting)
		shutting.Wait()
		if _, err := g.Get(t.Context(), "w", id); err == nil && startErr == nil {
			if err := g.Shutdown(t.Context(), "w", id); err != nil {
				t.Fatal(err)
			}
		}
		eventually(t, "no sandbox is left", func() bool {
			left, _ := driver.List(t.Context())
			return len(left) == 0
		})
		if records, _ := store.List(t.Context(), registry.Kernels); len(records) != 0 {
			t.Fatalf("left records: %v", records)
		}
	}
}

func TestSandboxThatCannotBeDestroyedHoldsUpNobodyAndIsDestroyedLater(t *testing.T) {
	driver := sandboxtest.NewFake(t)
	g := start(t, driver, memory.New(), func(o *kernels.Options) { o.DestroyTimeout = 50 * time.Millisecond })
	k := g.start(t, kernels.StartRequest{})
	dead := g.start(t, kernels.StartRequest{})
	g.awaitState(t, k.ID, jupyter.Idle)
	g.awaitState(t, dead.ID, jupyter.Idle)
	driver.OnDestroy(func(context.Context, string) error { return errors.New("device busy") })

	list, err := driver.List(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range list {
		if s.Spec.Labels["kernel"] == dead.ID {
			driver.Kill(s.Spec.ID, sandboxes.Exit{Code: 1})
		}
	}
	g.awaitState(t, dead.ID, jupyter.Dead)
	for _, id := range []string{k.ID, dead.ID} {
		if err := g.Shutdown(t.Context(), "w", id); err != nil {
			t.Errorf("Shutdown: %v", err)
		}
	}
	if list, err := g.List(t.Context(), "w"); err != nil || len(list) != 0 {
		t.Errorf("List = %v, %v", list, err)
	}
	driver.OnDestroy(nil)
	eventually(t, "the sandboxes are destroyed in the end", func() bool {
		left, _ := driver.List(t.Context())
		return len(left) == 0
	})
}

func TestAnotherDriverOverTheSameDataIsRefused(t *testing.T) {
	driver, store := sandboxtest.NewFake(t), memory.New()
	first := start(t, driver, store)
	first.start(t, kernels.StartRequest{})
	first.stop()
	m := kernels.New(kernels.Options{
		Driver: renamed{driver.Reopen()}, Store: store, Metrics: telemetry.NewMetrics(), Log: slog.New(slog.DiscardHandler),
	})
	if err := m.Run(t.Context()); err == nil || !strings.Contains(err.Error(), "--driver fake") {
		t.Errorf("Run: %v", err)
	}
	onlySandbox(t, driver)
}

type renamed struct{ sandboxes.Driver }

func (renamed) Name() string { return "other" }

func TestOpeningTheDocumentOfADeadKernelRevivesIt(t *testing.T) {
	driver := sandboxtest.NewFake(t)
	g := start(t, driver, memory.New())
	req := kernels.SessionRequest{Workspace: "w", Path: "a.ipynb", Type: "notebook"}
	s, err := g.CreateSession(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	g.awaitState(t, s.Kernel.ID, jupyter.Idle)
	driver.Kill(onlySandbox(t, driver).Spec.ID, sandboxes.Exit{Code: 1})
	g.awaitState(t, s.Kernel.ID, jupyter.Dead)
	again, err := g.CreateSession(t.Context(), req)
	if err != nil || again.ID != s.ID || again.Kernel.ExecutionState == jupyter.Dead {
		t.Errorf("CreateSession = %+v, %v", again, err)
	}
	g.awaitState(t, s.Kernel.ID, jupyter.Idle)
}

func TestAdoptedKernelIsNotKilledForASilentAgent(t *testing.T) {
	driver, store := sandboxtest.NewFake(t), memory.New()
	first := start(t, driver, store)
	k := first.start(t, kernels.StartRequest{})
	first.awaitState(t, k.ID, jupyter.Idle)
	first.stop()
	agent := driver.Agent(onlySandbox(t, driver).Spec.ID)
	agent.Hang()
	second := start(t, driver.Reopen(), store, func(o *kernels.Options) { o.StartTimeout = 50 * time.Millisecond })
	if got, err := second.Get(t.Context(), "w", k.ID); err != nil || got.ExecutionState != jupyter.Starting {
		t.Errorf("Get = %+v, %v", got, err)
	}
	onlySandbox(t, driver) // it is well past the timeout: adoption took seconds
	agent.ServeConns(nil)
	second.awaitState(t, k.ID, jupyter.Idle)
}
