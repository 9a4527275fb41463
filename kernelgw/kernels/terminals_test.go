package kernels_test

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"sync"
	"testing"
	"time"

	"kernelgw/jupyter"
	"kernelgw/kernelgw/kernels"
	"kernelgw/kernelgw/registry"
	"kernelgw/kernelgw/registry/file"
	"kernelgw/kernelgw/registry/memory"
	"kernelgw/sandboxes"
	"kernelgw/sandboxes/agentapi"
	"kernelgw/sandboxes/sandboxtest"
)

func (g *gateway) terminal(t *testing.T, r kernels.TerminalRequest) kernels.Terminal {
	t.Helper()
	if r.Workspace == "" {
		r.Workspace = "w"
	}
	got, err := g.StartTerminal(t.Context(), r)
	if err != nil {
		t.Fatalf("StartTerminal: %v", err)
	}
	return got
}

func (g *gateway) terminalNames(t *testing.T, workspace string) (names []string) {
	t.Helper()
	list, err := g.Terminals(t.Context(), workspace)
	if err != nil {
		t.Fatalf("Terminals: %v", err)
	}
	for _, terminal := range list {
		names = append(names, terminal.Name)
	}
	return names
}

func sandboxesOf(t *testing.T, driver sandboxes.Driver) []sandboxes.Sandbox {
	t.Helper()
	list, err := driver.List(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return list
}

func TestTerminalsOfAWorkspaceShareOneSandboxThatIsNoKernel(t *testing.T) {
	driver := sandboxtest.NewFake(t)
	g := start(t, driver, memory.New(), func(o *kernels.Options) {
		o.MaxTerminals, o.TerminalIdle, o.Resources = 7, time.Hour, sandboxes.Resources{MemoryBytes: 1 << 30, Processes: 99}
	})
	if names := g.terminalNames(t, "w"); len(names) > 0 || len(sandboxesOf(t, driver)) > 0 {
		t.Fatalf("a list started %v", sandboxesOf(t, driver))
	}
	var all sync.WaitGroup
	for range 3 {
		all.Go(func() {
			if _, err := g.StartTerminal(t.Context(), kernels.TerminalRequest{Workspace: "w", Owner: "ada"}); err != nil {
				t.Errorf("StartTerminal: %v", err)
			}
		})
	}
	all.Wait()
	box := onlySandbox(t, driver)
	if names := g.terminalNames(t, "w"); len(names) != 3 || names[0] != "1" || names[2] != "3" {
		t.Errorf("terminals %v", names)
	}
	var config agentapi.Config
	if err := json.Unmarshal(box.Spec.AgentConfig, &config); err != nil || config.HasKernel() || config.MaxTerminals != 7 ||
		config.TerminalIdle != time.Hour || config.MemoryBytes != 1<<30 || config.Processes != 99 || len(config.Token) < 32 {
		t.Errorf("configuration %+v, %v", config, err)
	}
	if list, err := g.List(t.Context(), "w"); err != nil || len(list) > 0 {
		t.Errorf("kernels %+v, %v", list, err)
	}
	if _, err := g.Get(t.Context(), "w", "terminals"); !errors.Is(err, kernels.ErrNotFound) {
		t.Errorf("the sandbox of terminals is a kernel: %v", err)
	}
	if err := g.Shutdown(t.Context(), "w", "terminals"); !errors.Is(err, kernels.ErrNotFound) {
		t.Errorf("the sandbox of terminals can be shut down as a kernel: %v", err)
	}
	if _, err := g.Connect(t.Context(), "w", "terminals"); !errors.Is(err, kernels.ErrNotFound) {
		t.Errorf("the sandbox of terminals can be connected to as a kernel: %v", err)
	}
	g.terminal(t, kernels.TerminalRequest{Workspace: "other"})
	if n := len(sandboxesOf(t, driver)); n != 2 {
		t.Errorf("%d sandboxes for two workspaces", n)
	}
	if names := g.terminalNames(t, "other"); len(names) != 1 {
		t.Errorf("the other workspace has terminals %v", names)
	}
}

func TestTerminalsOfOtherWorkspacesDoNotExist(t *testing.T) {
	g := start(t, sandboxtest.NewFake(t), memory.New())
	g.terminal(t, kernels.TerminalRequest{Workspace: "theirs", Name: "secret"})
	g.terminal(t, kernels.TerminalRequest{})
	for _, name := range []string{"secret", "../theirs", "", "1/../secret", "9"} {
		for what, err := range map[string]error{
			"get":     func() error { _, err := g.Terminal(t.Context(), "w", name); return err }(),
			"delete":  g.DeleteTerminal(t.Context(), "w", name),
			"connect": func() error { _, err := g.ConnectTerminal(t.Context(), "w", name); return err }(),
		} {
			if !errors.Is(err, kernels.ErrTerminalNotFound) {
				t.Errorf("%s %q: %v", what, name, err)
			}
		}
	}
	if _, err := g.Terminal(t.Context(), "nowhere", "1"); !errors.Is(err, kernels.ErrTerminalNotFound) {
		t.Errorf("of a workspace without a sandbox: %v", err)
	}
	if _, err := g.StartTerminal(t.Context(), kernels.TerminalRequest{Workspace: "w", Name: "../x"}); !errors.Is(err, kernels.ErrInvalid) {
		t.Errorf("a name that cannot be: %v", err)
	}
}

func TestTooManyTerminalsAreALimit(t *testing.T) {
	g := start(t, sandboxtest.NewFake(t), memory.New(), func(o *kernels.Options) { o.MaxTerminals = 2 })
	g.terminal(t, kernels.TerminalRequest{})
	g.terminal(t, kernels.TerminalRequest{})
	if _, err := g.StartTerminal(t.Context(), kernels.TerminalRequest{Workspace: "w"}); !errors.Is(err, kernels.ErrLimit) {
		t.Errorf("the third: %v", err)
	}
	if err := g.DeleteTerminal(t.Context(), "w", "1"); err != nil {
		t.Fatal(err)
	}
	if got := g.terminal(t, kernels.TerminalRequest{}); got.Name != "1" {
		t.Errorf("the free name is %q", got.Name)
	}
}

func TestSandboxOfTerminalsEndsSomeTimeAfterTheLast(t *testing.T) {
	driver, store := sandboxtest.NewFake(t), memory.New()
	g := start(t, driver, store, func(o *kernels.Options) { o.TerminalLinger = 20 * time.Millisecond })
	g.terminal(t, kernels.TerminalRequest{})
	agent := driver.Agent(onlySandbox(t, driver).Spec.ID)
	// Several times the linger: in use, it stays.
	time.Sleep(100 * time.Millisecond)
	if names := g.terminalNames(t, "w"); len(names) != 1 {
		t.Fatalf("a sandbox in use is gone: %v", names)
	}
	if err := g.DeleteTerminal(t.Context(), "w", "1"); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the sandbox is gone", func() bool { return len(sandboxesOf(t, driver)) == 0 })
	polite := false
	for _, request := range agent.Requests() {
		polite = polite || request == "POST /v1/kernel/shutdown"
	}
	if !polite {
		t.Error("the agent was not asked to end first")
	}
	eventually(t, "the record is gone", func() bool {
		records, err := store.List(t.Context(), registry.Kernels)
		return err == nil && len(records) == 0
	})
	if got := g.terminal(t, kernels.TerminalRequest{}); got.Name != "1" {
		t.Errorf("a new sandbox begins with %q", got.Name)
	}
}

func TestNextGatewayAdoptsTerminals(t *testing.T) {
	driver := sandboxtest.NewFake(t)
	dir := t.TempDir()
	open := func() registry.Store {
		store, err := file.Open(dir + "/registry.db")
		if err != nil {
			t.Fatal(err)
		}
		return store
	}
	store := open()
	first := start(t, driver, store)
	first.terminal(t, kernels.TerminalRequest{Name: "work"})
	first.stop()
	if err := store.Close(); err != nil {
		t.Fatal(err)
	}
	store = open()
	defer store.Close()
	second := start(t, driver.Reopen(), store)
	defer second.stop()
	if names := second.terminalNames(t, "w"); len(names) != 1 || names[0] != "work" {
		t.Fatalf("terminals after the restart: %v", names)
	}
	if list, err := second.List(t.Context(), "w"); err != nil || len(list) > 0 {
		t.Errorf("kernels %+v, %v", list, err)
	}
	c, err := second.ConnectTerminal(t.Context(), "w", "work")
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
	if err := second.ShutdownAll(t.Context()); err != nil || len(sandboxesOf(t, driver)) > 0 {
		t.Errorf("ShutdownAll: %v, left %v", err, sandboxesOf(t, driver))
	}
}

func TestAGatewayThatStopsLeavesNoSandboxWithoutTerminals(t *testing.T) {
	driver := sandboxtest.NewFake(t)
	g := start(t, driver, memory.New())
	g.terminal(t, kernels.TerminalRequest{})
	if err := g.DeleteTerminal(t.Context(), "w", "1"); err != nil {
		t.Fatal(err)
	}
	g.stop()
	if left := sandboxesOf(t, driver); len(left) > 0 {
		t.Errorf("left %v", left)
	}
}

func TestNextGatewayForgetsTerminalsWhoseSandboxIsGone(t *testing.T) {
	driver, store := sandboxtest.NewFake(t), memory.New()
	first := start(t, driver, store)
	first.terminal(t, kernels.TerminalRequest{})
	first.stop()
	if err := driver.Destroy(t.Context(), onlySandbox(t, driver).Spec.ID); err != nil {
		t.Fatal(err)
	}
	second := start(t, driver.Reopen(), store)
	if names := second.terminalNames(t, "w"); len(names) > 0 {
		t.Errorf("terminals %v", names)
	}
	second.terminal(t, kernels.TerminalRequest{})
}

func TestTerminalsOfASandboxThatDiesAreGoneAndCanBeStartedAgain(t *testing.T) {
	driver := sandboxtest.NewFake(t)
	g := start(t, driver, memory.New())
	g.terminal(t, kernels.TerminalRequest{})
	c, err := g.ConnectTerminal(t.Context(), "w", "1")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	died := make(chan string, 1)
	go func() {
		reason, _ := c.Dead(context.WithoutCancel(t.Context()))
		died <- reason
	}()
	driver.Kill(onlySandbox(t, driver).Spec.ID, sandboxes.Exit{Code: 137, Reason: "killed: memory limit 2.0 GiB"})
	select {
	case reason := <-died:
		if reason != "killed: memory limit 2.0 GiB" {
			t.Errorf("reason %q", reason)
		}
	case <-time.After(patience):
		t.Fatal("nobody was told")
	}
	eventually(t, "no terminals", func() bool {
		list, err := g.Terminals(t.Context(), "w")
		return err == nil && len(list) == 0
	})
	if got := g.terminal(t, kernels.TerminalRequest{}); got.Name != "1" {
		t.Errorf("started again: %+v", got)
	}
	onlySandbox(t, driver)
}

func TestFailedStartOfTerminalsLeavesNothingAndTellsTheCaller(t *testing.T) {
	driver, store := sandboxtest.NewFake(t), memory.New()
	g := start(t, driver, store)
	driver.OnCreate(func(context.Context, sandboxes.Spec, *sandboxtest.Agent) error { return errors.New("no memory") })
	if _, err := g.StartTerminal(t.Context(), kernels.TerminalRequest{Workspace: "w"}); !errors.Is(err, kernels.ErrStart) {
		t.Errorf("StartTerminal: %v", err)
	}
	eventually(t, "the record is gone", func() bool {
		records, err := store.List(t.Context(), registry.Kernels)
		return err == nil && len(records) == 0
	})
	driver.OnCreate(nil)
	g.terminal(t, kernels.TerminalRequest{})
}

func TestAgentThatLiesAboutItsTerminalsIsBelievedOnlyInRange(t *testing.T) {
	driver := sandboxtest.NewFake(t)
	g := start(t, driver, memory.New())
	g.terminal(t, kernels.TerminalRequest{})
	agent := driver.Agent(onlySandbox(t, driver).Spec.ID)
	answers := func(route, body string) {
		agent.Handle(route, func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(body)) })
	}
	answers("GET /v1/terminals", `[{"name":"../x"},{"name":"ok","last_activity":"2999-01-01T00:00:00Z"},{"name":"ok"},{"name":""}]`)
	list, err := g.Terminals(t.Context(), "w")
	if err != nil || len(list) != 1 || list[0].Name != "ok" || list[0].LastActivity.After(time.Now()) {
		t.Errorf("terminals %+v, %v", list, err)
	}
	answers("POST /v1/terminals", `{"name":"<script>"}`)
	if _, err := g.StartTerminal(t.Context(), kernels.TerminalRequest{Workspace: "w"}); !errors.Is(err, kernels.ErrAgent) {
		t.Errorf("a name that cannot be: %v", err)
	}
	for _, body := range []string{`{}`, `"x"`, `{"a":`, ``} {
		answers("GET /v1/terminals", body)
		if _, err := g.Terminals(t.Context(), "w"); !errors.Is(err, kernels.ErrAgent) {
			t.Errorf("list %q: %v", body, err)
		}
	}
	agent.Update(func(s *agentapi.Status) { s.Terminals = -1 << 30 })
	// One that says that it is dead is replaced.
	agent.Update(func(s *agentapi.Status) { s.ExecutionState = jupyter.Dead })
	eventually(t, "no terminals", func() bool {
		list, err := g.Terminals(t.Context(), "w")
		return err == nil && len(list) == 0
	})
	g.terminal(t, kernels.TerminalRequest{})
	eventually(t, "one sandbox", func() bool { return len(sandboxesOf(t, driver)) == 1 })
}
