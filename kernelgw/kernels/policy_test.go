package kernels_test

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	"kernelgw/jupyter"
	"kernelgw/kernelgw/kernels"
	"kernelgw/kernelgw/registry"
	"kernelgw/kernelgw/registry/memory"
	"kernelgw/sandboxes"
	"kernelgw/sandboxes/agentapi"
	"kernelgw/sandboxes/sandboxtest"
)

// chosen are the policies of workspaces, which a test changes.
type chosen struct {
	mu   sync.Mutex
	of   map[string]kernels.Policy
	fail error
}

func (c *chosen) policy(_ context.Context, workspace string) (kernels.Policy, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.of[workspace], c.fail
}

func (c *chosen) set(workspace string, p kernels.Policy) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.of[workspace] = p
}

func closed(hosts ...string) kernels.Policy {
	return kernels.Policy{
		Resources: sandboxes.Resources{MemoryBytes: 1 << 30, Processes: 64},
		Network:   sandboxes.NetworkPolicy{Egress: sandboxes.EgressNone, Allow: hosts},
	}
}

var everything = sandboxes.Capabilities{Isolated: true, Network: true, NetworkPolicy: true, MemoryLimit: true}

// governed returns a Manager with policies over a fake that enforces them.
func governed(t *testing.T, driver *sandboxtest.Fake, store registry.Store, c *chosen, change ...func(*kernels.Options)) *gateway {
	t.Helper()
	driver.SetCapabilities(everything)
	return start(t, driver, store, append([]func(*kernels.Options){func(o *kernels.Options) {
		o.Policy, o.Resources = c.policy, sandboxes.Resources{MemoryBytes: 2 << 30}
	}}, change...)...)
}

// networks are the hosts that the sandboxes of each workspace may reach.
func networks(t *testing.T, driver sandboxes.Driver) map[string][]string {
	t.Helper()
	all := map[string][]string{}
	for _, s := range sandboxesOf(t, driver) {
		all[s.Spec.Labels["workspace"]] = append(all[s.Spec.Labels["workspace"]], s.Spec.Network.Allow...)
	}
	return all
}

func TestSandboxIsMadeWithThePolicyOfItsWorkspace(t *testing.T) {
	driver := sandboxtest.NewFake(t)
	driver.SetKernelspecs("science", sandboxtest.FakeKernelspec("ir", "R", "R"))
	policy := closed("api.example.org")
	policy.Image = "science"
	c := &chosen{of: map[string]kernels.Policy{"w": policy}}
	g := governed(t, driver, memory.New(), c)
	k := g.start(t, kernels.StartRequest{})
	if k.Name != "ir" {
		t.Errorf("kernelspec %q of another image", k.Name)
	}
	box := onlySandbox(t, driver)
	var config agentapi.Config
	if err := json.Unmarshal(box.Spec.AgentConfig, &config); err != nil {
		t.Fatal(err)
	}
	if box.Spec.Image != "science" || box.Spec.Resources != policy.Resources || !slices.Equal(box.Spec.Network.Allow, []string{"api.example.org"}) ||
		box.Spec.Network.Egress != sandboxes.EgressNone || config.MemoryBytes != 1<<30 || config.Processes != 64 {
		t.Errorf("made %+v, told %+v", box.Spec, config)
	}
	specs, err := g.Specs(t.Context(), "w")
	if err != nil || specs.Default != "ir" {
		t.Errorf("Specs = %+v, %v", specs, err)
	}
	if specs, err := g.Specs(t.Context(), "other"); err != nil || specs.Default != "python3" {
		t.Errorf("Specs of another workspace = %+v, %v", specs, err)
	}
	if w, ok := g.Workspace(box.Spec.ID); !ok || w != "w" {
		t.Errorf("Workspace = %q, %v", w, ok)
	}
	if w, ok := g.Workspace("k-nobodys"); ok {
		t.Errorf("Workspace of nobody's sandbox = %q", w)
	}
	if err := g.CheckImage(t.Context(), "science"); err != nil {
		t.Error(err)
	}
	if err := g.CheckImage(t.Context(), "no-such"); !errors.Is(err, kernels.ErrInvalid) {
		t.Errorf("CheckImage: %v", err)
	}
}

func TestNetworkPolicyReachesRunningSandboxesAndLimitsTheNextOnes(t *testing.T) {
	driver := sandboxtest.NewFake(t)
	c := &chosen{of: map[string]kernels.Policy{"w": closed("old.example.org"), "other": closed("theirs.example.org")}}
	g := governed(t, driver, memory.New(), c)
	k := g.start(t, kernels.StartRequest{})
	g.start(t, kernels.StartRequest{Workspace: "other"})
	g.terminal(t, kernels.TerminalRequest{})
	if list, err := g.Outdated(t.Context(), "w"); err != nil || len(list) != 0 {
		t.Fatalf("Outdated = %+v, %v", list, err)
	}

	now := closed("new.example.org")
	now.Resources.MemoryBytes = 1 << 31
	c.set("w", now)
	outdated, err := g.ApplyPolicy(t.Context(), "w")
	want := []kernels.Outdated{{Kernel: k.ID, Limits: true}, {Kernel: "terminals", Limits: true}}
	if err != nil || !slices.Equal(outdated, want) {
		t.Errorf("ApplyPolicy = %+v, %v", outdated, err)
	}
	got := networks(t, driver)
	if !slices.Equal(got["w"], []string{"new.example.org", "new.example.org"}) || !slices.Equal(got["other"], []string{"theirs.example.org"}) {
		t.Errorf("sandboxes reach %v", got)
	}
	// A new sandbox has the new limits.
	if err := g.Shutdown(t.Context(), "w", k.ID); err != nil {
		t.Fatal(err)
	}
	g.start(t, kernels.StartRequest{})
	if outdated, err := g.Outdated(t.Context(), "w"); err != nil || len(outdated) != 1 || outdated[0].Kernel != "terminals" {
		t.Errorf("Outdated = %+v, %v", outdated, err)
	}
}

func TestRevivedKernelGetsThePolicyOfNow(t *testing.T) {
	driver := sandboxtest.NewFake(t)
	c := &chosen{of: map[string]kernels.Policy{"w": closed("old.example.org")}}
	g := governed(t, driver, memory.New(), c)
	k := g.start(t, kernels.StartRequest{})
	driver.Kill(onlySandbox(t, driver).Spec.ID, sandboxes.Exit{Code: 1, Reason: "killed by the test"})
	g.awaitState(t, k.ID, jupyter.Dead)
	c.set("w", closed("new.example.org"))
	if _, err := g.Restart(t.Context(), "w", k.ID); err != nil {
		t.Fatal(err)
	}
	if got := networks(t, driver)["w"]; !slices.Equal(got, []string{"new.example.org"}) {
		t.Errorf("it may reach %v", got)
	}
}

// The record of the policy is written before running sandboxes are looked for:
// one that is half made then must not keep what was before.
func TestPolicyThatChangesWhileASandboxIsMadeHolds(t *testing.T) {
	driver := sandboxtest.NewFake(t)
	c := &chosen{of: map[string]kernels.Policy{"w": closed("old.example.org")}}
	g := governed(t, driver, memory.New(), c)
	driver.OnCreate(func(context.Context, sandboxes.Spec, *sandboxtest.Agent) error {
		c.set("w", closed())
		if _, err := g.ApplyPolicy(t.Context(), "w"); err != nil {
			t.Error(err)
		}
		return nil
	})
	g.start(t, kernels.StartRequest{})
	if got := networks(t, driver)["w"]; len(got) != 0 {
		t.Errorf("it may reach %v", got)
	}
	if outdated, err := g.Outdated(t.Context(), "w"); err != nil || len(outdated) != 0 {
		t.Errorf("Outdated = %+v, %v", outdated, err)
	}
}

// policed is a Fake whose SetNetworkPolicy a test holds or fails.
type policed struct {
	*sandboxtest.Fake
	before func(sandboxes.NetworkPolicy) error
}

func (p *policed) SetNetworkPolicy(ctx context.Context, id string, n sandboxes.NetworkPolicy) error {
	if err := p.before(n); err != nil {
		return err
	}
	return p.Fake.SetNetworkPolicy(ctx, id, n)
}

func TestNewSandboxThatCannotBeClosedIsNotHandedOut(t *testing.T) {
	fake := sandboxtest.NewFake(t)
	fake.SetCapabilities(everything)
	c := &chosen{of: map[string]kernels.Policy{"w": closed("old.example.org")}}
	driver := &policed{fake, func(sandboxes.NetworkPolicy) error { return errors.New("nft broke") }}
	g := start(t, driver, memory.New(), func(o *kernels.Options) { o.Policy = c.policy })
	fake.OnCreate(func(context.Context, sandboxes.Spec, *sandboxtest.Agent) error {
		c.set("w", closed())
		return nil
	})
	if k, err := g.Start(t.Context(), kernels.StartRequest{Workspace: "w"}); !errors.Is(err, kernels.ErrStart) {
		t.Errorf("Start = %+v, %v", k, err)
	}
	eventually(t, "the sandbox is gone", func() bool { return len(sandboxesOf(t, fake)) == 0 })
}

func TestOfTwoChangesOfAPolicyTheLaterHolds(t *testing.T) {
	fake := sandboxtest.NewFake(t)
	fake.SetCapabilities(everything)
	c := &chosen{of: map[string]kernels.Policy{"w": closed("first.example.org")}}
	entered, goOn := make(chan struct{}), make(chan struct{})
	driver := &policed{fake, func(n sandboxes.NetworkPolicy) error {
		if slices.Equal(n.Allow, []string{"second.example.org"}) {
			close(entered)
			<-goOn
		}
		return nil
	}}
	g := start(t, driver, memory.New(), func(o *kernels.Options) { o.Policy = c.policy })
	g.start(t, kernels.StartRequest{})
	var changing sync.WaitGroup
	apply := func() {
		if _, err := g.ApplyPolicy(context.Background(), "w"); err != nil {
			t.Error(err)
		}
	}
	c.set("w", closed("second.example.org"))
	changing.Go(apply)
	<-entered // and it is slow
	c.set("w", closed("third.example.org"))
	changing.Go(apply)
	close(goOn)
	changing.Wait()
	if got := networks(t, fake)["w"]; !slices.Equal(got, []string{"third.example.org"}) {
		t.Errorf("in the end it may reach %v", got)
	}
}

func TestAFailureToChangeANetworkIsToldAndMadeUpFor(t *testing.T) {
	fake := sandboxtest.NewFake(t)
	fake.SetCapabilities(everything)
	c := &chosen{of: map[string]kernels.Policy{"w": closed("old.example.org")}}
	var broken error
	driver := &policed{fake, func(sandboxes.NetworkPolicy) error { return broken }}
	g := start(t, driver, memory.New(), func(o *kernels.Options) { o.Policy = c.policy })
	k := g.start(t, kernels.StartRequest{})
	c.set("w", closed())
	broken = errors.New("nft broke")
	outdated, err := g.ApplyPolicy(t.Context(), "w")
	if err != nil || !slices.Equal(outdated, []kernels.Outdated{{Kernel: k.ID, Network: true}}) {
		t.Errorf("ApplyPolicy = %+v, %v", outdated, err)
	}
	broken = nil
	if outdated, err := g.ApplyPolicy(t.Context(), "w"); err != nil || len(outdated) != 0 {
		t.Errorf("ApplyPolicy = %+v, %v", outdated, err)
	}
	if got := networks(t, fake)["w"]; len(got) != 0 {
		t.Errorf("it may reach %v", got)
	}
}

// A gateway is killed after a policy was kept and before it was applied; or the
// operator changed what is allowed while none ran.
func TestPolicyThatWasKeptAndNotAppliedHoldsAfterARestart(t *testing.T) {
	driver, store := sandboxtest.NewFake(t), memory.New()
	c := &chosen{of: map[string]kernels.Policy{"w": closed("old.example.org")}}
	first := governed(t, driver, store, c)
	k := first.start(t, kernels.StartRequest{})
	first.terminal(t, kernels.TerminalRequest{})
	first.awaitState(t, k.ID, jupyter.Idle)
	first.stop()
	now := closed()
	now.Resources.Processes = 32
	c.set("w", now)

	again := driver.Reopen()
	second := governed(t, again, store, c)
	eventually(t, "the adopted sandboxes are closed", func() bool { return len(networks(t, again)["w"]) == 0 })
	outdated, err := second.Outdated(t.Context(), "w")
	if err != nil || len(outdated) != 2 || outdated[0] != (kernels.Outdated{Kernel: k.ID, Limits: true}) {
		t.Errorf("Outdated = %+v, %v", outdated, err)
	}
}

func TestAnAdoptedSandboxIsClosedAsSoonAsItCanBe(t *testing.T) {
	fake, store := sandboxtest.NewFake(t), memory.New()
	c := &chosen{of: map[string]kernels.Policy{"w": closed("old.example.org")}}
	first := governed(t, fake, store, c)
	k := first.start(t, kernels.StartRequest{})
	first.awaitState(t, k.ID, jupyter.Idle)
	first.stop()
	c.set("w", closed())
	var mu sync.Mutex
	attempts := 0
	driver := &policed{fake.Reopen(), func(sandboxes.NetworkPolicy) error {
		mu.Lock()
		defer mu.Unlock()
		if attempts++; attempts == 1 {
			return errors.New("nft broke once")
		}
		return nil
	}}
	start(t, driver, store, func(o *kernels.Options) { o.Policy = c.policy })
	eventually(t, "the adopted sandbox is closed", func() bool { return len(networks(t, fake)["w"]) == 0 })
}

func TestAWorkspaceWhosePolicyIsUnknownStartsNothing(t *testing.T) {
	driver := sandboxtest.NewFake(t)
	c := &chosen{of: map[string]kernels.Policy{}, fail: errors.New("the registry is gone")}
	g := governed(t, driver, memory.New(), c)
	if _, err := g.Start(t.Context(), kernels.StartRequest{Workspace: "w"}); !errors.Is(err, c.fail) {
		t.Errorf("Start: %v", err)
	}
	if _, err := g.StartTerminal(t.Context(), kernels.TerminalRequest{Workspace: "w"}); !errors.Is(err, c.fail) {
		t.Errorf("StartTerminal: %v", err)
	}
	if list := sandboxesOf(t, driver); len(list) != 0 {
		t.Errorf("there are %v", list)
	}
}

func TestPlainProcessesGetNoLimitsAndNoPolicy(t *testing.T) {
	driver := sandboxtest.NewFake(t)
	policy := closed("api.example.org")
	policy.Image = "science"
	c := &chosen{of: map[string]kernels.Policy{"w": policy}}
	driver.SetCapabilities(sandboxes.Capabilities{})
	g := start(t, driver, memory.New(), func(o *kernels.Options) { o.Policy = c.policy })
	g.start(t, kernels.StartRequest{})
	spec := onlySandbox(t, driver).Spec
	if spec.Image != "" || spec.Resources != (sandboxes.Resources{}) || spec.Network.Egress != "" || spec.Network.Allow != nil {
		t.Errorf("made %+v", spec)
	}
	if outdated, err := g.ApplyPolicy(t.Context(), "w"); err != nil || len(outdated) != 0 {
		t.Errorf("ApplyPolicy = %+v, %v", outdated, err)
	}
}

// Placeholders of secrets win over what a client sets, so that a client that has
// the value itself does not take it inside; and they are not kept with the
// kernel: the next sandbox gets those of then.
func TestEnvironmentOfTheWorkspaceIsOfKernelsAndTerminals(t *testing.T) {
	driver, store := sandboxtest.NewFake(t), memory.New()
	env := map[string]string{"API_KEY": "kgw-secret-1"}
	g := start(t, driver, store, func(o *kernels.Options) {
		o.AllowedEnv = []string{"API_KEY"}
		o.Environment = func(_ context.Context, workspace string) (map[string]string, error) {
			if workspace != "w" {
				return nil, errors.New("not asked for")
			}
			return env, nil
		}
	})
	k := g.start(t, kernels.StartRequest{Env: map[string]string{"API_KEY": "the value itself", "KERNEL_X": "1"}})
	g.terminal(t, kernels.TerminalRequest{})
	for _, s := range sandboxesOf(t, driver) {
		var config agentapi.Config
		if err := json.Unmarshal(s.Spec.AgentConfig, &config); err != nil {
			t.Fatal(err)
		}
		if config.Env["API_KEY"] != "kgw-secret-1" || config.HasKernel() && config.Env["KERNEL_X"] != "1" {
			t.Errorf("told %v", config.Env)
		}
	}
	driver.Kill(onlyKernel(t, driver).Spec.ID, sandboxes.Exit{Code: 1, Reason: "killed by the test"})
	g.awaitState(t, k.ID, jupyter.Dead)
	env = map[string]string{"OTHER_KEY": "kgw-secret-2"}
	if _, err := g.Restart(t.Context(), "w", k.ID); err != nil {
		t.Fatal(err)
	}
	var config agentapi.Config
	if err := json.Unmarshal(onlyKernel(t, driver).Spec.AgentConfig, &config); err != nil || config.Env["OTHER_KEY"] != "kgw-secret-2" || config.Env["API_KEY"] == "kgw-secret-1" {
		t.Errorf("after a restart told %v, %v", config.Env, err)
	}
	if _, err := g.Start(t.Context(), kernels.StartRequest{Workspace: "other"}); err == nil {
		t.Error("a kernel started without the environment of its workspace")
	}
}

// onlyKernel returns the only sandbox that is of a kernel.
func onlyKernel(t *testing.T, driver sandboxes.Driver) sandboxes.Sandbox {
	t.Helper()
	list := slices.DeleteFunc(sandboxesOf(t, driver), func(s sandboxes.Sandbox) bool { return s.Spec.Labels["kernel"] == "terminals" })
	if len(list) != 1 {
		t.Fatalf("%d sandboxes of kernels, want one", len(list))
	}
	return list[0]
}

// Records of gateways that knew no policies are adopted.
func TestRecordsWithoutAPolicyAreOfWhatWasConfigured(t *testing.T) {
	driver, store := sandboxtest.NewFake(t), memory.New()
	first := start(t, driver, store)
	k := first.start(t, kernels.StartRequest{})
	first.awaitState(t, k.ID, jupyter.Idle)
	first.stop()
	records, err := store.List(t.Context(), registry.Kernels)
	if err != nil || len(records) != 1 {
		t.Fatalf("records: %v, %v", records, err)
	}
	var fields map[string]any
	if err := json.Unmarshal(records[0].Value, &fields); err != nil {
		t.Fatal(err)
	}
	delete(fields, "policy")
	if records[0].Value, err = json.Marshal(fields); err != nil {
		t.Fatal(err)
	}
	if _, err := store.Put(t.Context(), records[0]); err != nil {
		t.Fatal(err)
	}
	c := &chosen{of: map[string]kernels.Policy{"w": {Resources: sandboxes.Resources{MemoryBytes: 2 << 30}}}}
	second := governed(t, driver.Reopen(), store, c)
	if outdated, err := second.Outdated(t.Context(), "w"); err != nil || len(outdated) != 0 {
		t.Errorf("Outdated = %+v, %v", outdated, err)
	}
	if got := second.awaitState(t, k.ID, jupyter.Idle); got.ID != k.ID {
		t.Errorf("adopted %+v", got)
	}
}

func TestAKernelShowsAsMuchAsThePolicySaysWhenItIsMade(t *testing.T) {
	driver := sandboxtest.NewFake(t)
	var cell atomic.Int64
	cell.Store(1000)
	g := start(t, driver, memory.New(), func(o *kernels.Options) {
		o.Policy = func(context.Context, string) (kernels.Policy, error) {
			return kernels.Policy{Caps: agentapi.OutputCaps{CellBytes: cell.Load()}}, nil
		}
	})
	k := g.start(t, kernels.StartRequest{})
	var config agentapi.Config
	if err := json.Unmarshal(onlySandbox(t, driver).Spec.AgentConfig, &config); err != nil {
		t.Fatal(err)
	}
	if config.Caps.CellBytes != 1000 || config.OutputLog != nil {
		t.Errorf("the agent is told %+v, and %+v of a log that nobody keeps", config.Caps, config.OutputLog)
	}
	if list, err := g.Outdated(t.Context(), "w"); len(list) != 0 || err != nil {
		t.Errorf("outdated are %+v, %v", list, err)
	}
	cell.Store(2000)
	list, err := g.Outdated(t.Context(), "w")
	if err != nil || len(list) != 1 || list[0] != (kernels.Outdated{Kernel: k.ID, Output: true}) {
		t.Errorf("outdated are %+v, %v", list, err)
	}
}
