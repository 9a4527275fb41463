package kernels

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sync/errgroup"

	"kernelgw/jupyter"
	"kernelgw/jupyter/kernelspec"
	"kernelgw/kernelgw/outputlog"
	"kernelgw/sandboxes"
	"kernelgw/sandboxes/agentapi"
)

// maxKernels bounds the kernels of one workspace, dead ones included.
const maxKernels = 1000

// kernelsOf counts a workspace's kernels. The caller holds mu.
func (m *Manager) kernelsOf(workspace string) (n int) {
	for _, k := range m.kernels {
		if k.workspace == workspace && !k.terminals {
			n++
		}
	}
	return n
}

// createPatience is how long Start waits to tell its caller that a sandbox
// cannot be made; after it the kernel is listed as starting, then dead.
const createPatience = 10 * time.Second

// Start starts a kernel and returns when its sandbox exists, or after ten
// seconds at the latest; the kernel answers later. When ctx ends first, the
// start is cancelled and nothing is left of it.
func (m *Manager) Start(ctx context.Context, req StartRequest) (Kernel, error) {
	policy, err := m.policy(ctx, req.Workspace)
	if err != nil {
		return Kernel{}, err
	}
	spec, err := m.spec(ctx, policy.Image, req.Name)
	if err != nil {
		return Kernel{}, err
	}
	env := m.filterEnv(req.Env)
	if req.document != "" {
		env["JPY_SESSION_NAME"] = req.document // as jupyter_server does
	}
	id := req.KernelID
	if id == "" {
		id = env["KERNEL_ID"] // as in Enterprise Gateway
	}
	if id == "" {
		id = uuid.NewString()
	} else if _, err := uuid.Parse(id); err != nil || len(id) != 36 {
		return Kernel{}, fmt.Errorf("%w: kernel id %q is not a UUID", ErrInvalid, printable(id))
	}
	id = strings.ToLower(id)

	now := time.Now()
	k := newKernel(record{
		ID: id, Driver: m.o.Driver.Name(), Workspace: req.Workspace, Owner: req.Owner, Own: req.Own, Name: spec.Name,
		Cwd: req.Cwd, Env: env, CreatedAt: now, key: req.Workspace + "/" + id,
	})
	m.mu.Lock()
	switch {
	case !m.ready || m.closed:
		m.mu.Unlock()
		return Kernel{}, fmt.Errorf("%w: the gateway is starting or stopping", ErrNotReady)
	case m.kernels[k.name()] != nil:
		m.mu.Unlock()
		return Kernel{}, fmt.Errorf("%w: %s", ErrExists, id)
	case m.kernelsOf(req.Workspace) >= maxKernels:
		m.mu.Unlock()
		return Kernel{}, fmt.Errorf("%w: %d kernels in workspace %s; shut some down", ErrLimit, maxKernels, req.Workspace)
	}
	// Before anyone can see it, so that nobody shuts it down half made.
	k.op <- struct{}{}
	m.kernels[k.name()] = k
	m.count(k, "", jupyter.Starting)
	m.mu.Unlock()

	created, err := m.provision(ctx, k, policy, spec)
	if err != nil {
		m.remove(ctx, k)
		k.release()
		return Kernel{}, err
	}
	k.release()

	patience := time.NewTimer(createPatience)
	defer patience.Stop()
	select {
	case err = <-created:
	case <-patience.C:
	case <-ctx.Done():
		err = ctx.Err()
	}
	if err != nil {
		// The caller hears of it now: nothing to keep for later questions.
		cleaning, cancel := context.WithTimeout(context.WithoutCancel(ctx), 30*time.Second)
		defer cancel()
		if err := m.Shutdown(cleaning, req.Workspace, id); err != nil && !errors.Is(err, ErrNotFound) {
			m.o.Log.Error("cannot clean up after a failed start", "kernel", id, "error", err)
		}
		return Kernel{}, fmt.Errorf("%w: %s: %w", ErrStart, spec.Name, err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	return k.snapshot(), nil
}

// provision records a new sandbox for a kernel and starts the keeper that makes
// it. The caller holds the kernel's operation, and its last keeper has ended.
func (m *Manager) provision(ctx context.Context, k *kernel, policy Policy, spec sandboxes.Kernelspec) (created <-chan error, err error) {
	r := k.record
	// The record names the sandbox before it exists, so that a gateway that
	// is killed in between finds out whose it is, or that it is nobody's.
	r.Sandbox = r.sandboxID()
	r.Dead, r.DeadAt, r.Reason = false, time.Time{}, ""
	r.Policy = &policy
	r.Run = ""
	if m.o.OutputLogs != nil && !r.isTerminals() {
		r.Run = outputlog.NewRun(time.Now(), r.Sandbox)
	}
	sandbox, err := m.sandboxSpec(ctx, r, spec)
	if err != nil {
		return nil, err
	}
	if err := m.save(ctx, k, r); err != nil {
		return nil, err
	}
	result := make(chan error, 1)
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		return nil, fmt.Errorf("%w: the gateway is stopping", ErrNotReady)
	}
	m.count(k, k.status.ExecutionState, jupyter.Starting)
	k.starting, k.network = time.Now(), nil
	k.status = agentapi.Status{KernelID: r.ID, ExecutionState: jupyter.Starting, LastActivity: k.starting}
	k.notify()
	m.startKeeper(k, func(ctx context.Context) { m.keep(ctx, k, sandbox, result) })
	return result, nil
}

// sandboxSpec describes the sandbox of a kernel.
func (m *Manager) sandboxSpec(ctx context.Context, r record, spec sandboxes.Kernelspec) (sandboxes.Spec, error) {
	told, err := m.agentConfig(ctx, r, spec)
	if err != nil {
		return sandboxes.Spec{}, err
	}
	return m.sandboxSpecOf(r, told)
}

// sandboxSpecOf describes a sandbox by what its agent is told.
func (m *Manager) sandboxSpecOf(r record, told agentapi.Config) (sandboxes.Spec, error) {
	var token [32]byte
	rand.Read(token[:]) //nolint:errcheck // never fails: crypto/rand ends the program instead
	told.Token = hex.EncodeToString(token[:])
	config, err := json.Marshal(told)
	if err != nil {
		return sandboxes.Spec{}, fmt.Errorf("cannot encode the agent configuration of kernel %s: %w", r.ID, err)
	}
	made := m.madeWith(r)
	return sandboxes.Spec{
		ID: r.Sandbox, Image: made.Image, AgentConfig: config, Resources: made.Resources, Network: made.Network,
		Labels: map[string]string{"kernel": r.ID, "workspace": r.Workspace, "owner": r.Owner, "kernelspec": r.Name},
	}, nil
}

// agentConfig is what the agent in a sandbox is told, without its token.
func (m *Manager) agentConfig(ctx context.Context, r record, spec sandboxes.Kernelspec) (agentapi.Config, error) {
	made := m.madeWith(r)
	limits := made.Resources
	c := agentapi.Config{MemoryBytes: limits.MemoryBytes, Processes: limits.Processes, Files: m.filesConfig(), Env: maps.Clone(r.Env)}
	if m.o.Environment != nil {
		env, err := m.o.Environment(ctx, r.Workspace)
		if err != nil {
			return c, fmt.Errorf("cannot find out the environment of workspace %s: %w", r.Workspace, err)
		}
		if c.Env == nil {
			c.Env = map[string]string{}
		}
		maps.Copy(c.Env, env)
	}
	if r.isTerminals() {
		c.MaxTerminals, c.TerminalIdle = m.o.MaxTerminals, m.o.TerminalIdle
		return c, nil
	}
	parsed, err := kernelspec.Parse(spec.JSON)
	if err != nil {
		return c, fmt.Errorf("%w: kernelspec %s: %w", ErrUnknownSpec, spec.Name, err)
	}
	c.KernelID, c.KernelName, c.Spec, c.ResourceDir = r.ID, r.Name, parsed, spec.Dir
	c.Cwd, c.MaxMessageBytes, c.Caps = r.Cwd, m.o.MaxMessageBytes, made.Caps
	if r.Run != "" {
		c.OutputLog = &agentapi.OutputLogConfig{
			SpoolBytes: spoolBytes(limits.MemoryBytes),
			Place:      m.o.BaseURL + "w/" + url.PathEscape(r.Workspace) + "/v1/sessions/" + r.ID + "/logs",
		}
	}
	return c, nil
}

// spoolBytes is how much of its output waits in a sandbox with so much memory, of which
// the kernel needs most: where it waits is memory. Zero is no limit.
func spoolBytes(memory int64) int64 {
	if memory == 0 {
		return agentapi.DefaultSpoolBytes
	}
	return min(agentapi.DefaultSpoolBytes, max(memory/8, 2*agentapi.MaxOutputPartSize))
}

// Interrupt interrupts what the kernel runs.
func (m *Manager) Interrupt(ctx context.Context, workspace, id string) error {
	m.mu.Lock()
	k, err := m.find(workspace, id)
	if err != nil {
		m.mu.Unlock()
		return err
	}
	agent, dead, reason := k.agent, k.dead(), k.status.Reason
	m.mu.Unlock()
	switch {
	case dead:
		return fmt.Errorf("%w: %s", ErrDead, reason)
	case agent == nil:
		return fmt.Errorf("%w: it is starting", ErrNotReady)
	}
	if err := agent.Interrupt(ctx); err != nil {
		m.o.Metrics.AgentErrors.WithLabelValues("request").Inc()
		return fmt.Errorf("%w: cannot interrupt kernel %s: %w", ErrAgent, id, err)
	}
	return nil
}

// Restart replaces the kernel process and returns when the old one is gone and
// the new one is spawned. A kernel whose sandbox has ended gets a new one.
func (m *Manager) Restart(ctx context.Context, workspace, id string) (Kernel, error) {
	m.mu.Lock()
	k, err := m.find(workspace, id)
	for err == nil && k.agent == nil && !k.dead() { // still starting
		if m.waitChange(ctx, k) != nil {
			err = fmt.Errorf("%w: it is still starting", ErrNotReady)
		}
	}
	m.mu.Unlock()
	if err != nil {
		return Kernel{}, err
	}
	if err := k.acquire(ctx); err != nil {
		return Kernel{}, err
	}
	defer k.release()

	m.mu.Lock()
	agent, dead, removed, old := k.agent, k.record.Dead, k.removed, k.record.Sandbox
	m.mu.Unlock()
	switch {
	case removed:
		return Kernel{}, fmt.Errorf("%w: %s", ErrNotFound, id)
	case dead:
		if err := m.revive(ctx, k, old); err != nil {
			return Kernel{}, fmt.Errorf("%w: %w", ErrStart, err)
		}
	case agent == nil:
		return Kernel{}, fmt.Errorf("%w: it is starting again", ErrNotReady)
	default:
		st, err := agent.Restart(ctx)
		if err != nil {
			m.o.Metrics.AgentErrors.WithLabelValues("request").Inc()
			return Kernel{}, fmt.Errorf("%w: cannot restart kernel %s: %w", ErrAgent, id, err)
		}
		m.observe(k, st)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	return k.snapshot(), nil
}

// revive gives a kernel whose sandbox has ended a new one. The caller holds the
// kernel's operation.
func (m *Manager) revive(ctx context.Context, k *kernel, old string) error {
	policy, err := m.policy(ctx, k.workspace)
	if err != nil {
		return err
	}
	spec, err := m.spec(ctx, policy.Image, k.record.Name)
	if err != nil {
		return err
	}
	k.stopKeeper() // it may be waiting to clean up, which is done here instead
	<-k.kept
	m.destroyOrReap(old)
	created, err := m.provision(ctx, k, policy, spec)
	if err != nil {
		return err
	}
	select {
	case err := <-created:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Shutdown ends the kernel, politely first, and removes it, its sandbox and its
// sessions. It completes even when ctx ends early.
func (m *Manager) Shutdown(ctx context.Context, workspace, id string) error {
	m.mu.Lock()
	k, err := m.find(workspace, id)
	m.mu.Unlock()
	if err != nil {
		return err
	}
	return m.shutdown(ctx, k)
}

func (m *Manager) shutdown(ctx context.Context, k *kernel) error {
	if err := k.acquire(ctx); err != nil {
		return err
	}
	defer k.release()
	return m.end(ctx, k)
}

// end is Shutdown for a caller that holds the kernel's operation.
func (m *Manager) end(ctx context.Context, k *kernel) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
	defer cancel()
	id := k.id

	m.mu.Lock()
	agent, removed, sandbox := k.agent, k.removed, k.record.Sandbox
	m.mu.Unlock()
	if removed {
		return fmt.Errorf("%w: %s", ErrNotFound, id)
	}
	k.ends()
	if agent != nil {
		m.flushFiles(ctx, k, agent)
		m.saveLastOutputs(ctx, k, agent)
		polite, cancel := context.WithTimeout(ctx, 20*time.Second)
		if err := agent.Shutdown(polite); err != nil {
			m.o.Log.Warn("a kernel did not shut down politely", "kernel", id, "error", err)
		}
		cancel()
	}
	k.stopKeeper()
	<-k.kept
	m.destroyOrReap(sandbox)
	m.remove(ctx, k)
	return nil
}

// Connect finds the agent for a client's WebSocket. It waits for the kernel to
// answer until ctx ends, then returns ErrNotReady: nbclient gives up a second
// after its upgrade when nothing comes. ErrDead when there is no kernel process
// to talk to.
func (m *Manager) Connect(ctx context.Context, workspace, id string) (Connection, error) {
	return m.connect(ctx, workspace, id, func(k *kernel) bool { return k.status.Ready && !k.dead() })
}

// ConnectLog finds the agent for a reader of what a kernel has said: that of a
// dead one, too, as long as there is one. Else it is as Connect.
func (m *Manager) ConnectLog(ctx context.Context, workspace, id string) (Connection, error) {
	return m.connect(ctx, workspace, id, withAgent)
}

// connect finds the agent of a kernel once it is ready, of which ready decides
// while the caller holds mu.
func (m *Manager) connect(ctx context.Context, workspace, id string, ready func(*kernel) bool) (Connection, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	k, err := m.reach(ctx, workspace, id, ready)
	if err != nil {
		return Connection{}, err
	}
	return m.connection(k), nil
}

// reach waits until a kernel has an agent and is ready, of which ready decides.
// The caller holds mu.
func (m *Manager) reach(ctx context.Context, workspace, id string, ready func(*kernel) bool) (*kernel, error) {
	k, err := m.find(workspace, id)
	if err != nil {
		return nil, err
	}
	for {
		switch {
		case k.removed:
			return nil, fmt.Errorf("%w: %s", ErrNotFound, id)
		case k.agent != nil && ready(k):
			return k, nil
		case k.dead():
			return nil, fmt.Errorf("%w: %s", ErrDead, k.status.Reason)
		}
		if m.waitChange(ctx, k) != nil {
			return nil, fmt.Errorf("%w: it is still starting", ErrNotReady)
		}
	}
}

// connection admits one WebSocket. The caller holds mu, and the kernel has an
// agent.
func (m *Manager) connection(k *kernel) Connection {
	k.connections++
	k.joined++
	m.o.Metrics.Sockets.Inc()
	return Connection{
		Agent: k.agent.Endpoint, Token: k.agent.Token,
		Close: func() { m.disconnected(k) },
		Dead:  func(ctx context.Context) (string, bool) { return m.waitDead(ctx, k) },
	}
}

func (m *Manager) disconnected(k *kernel) {
	m.mu.Lock()
	defer m.mu.Unlock()
	k.connections--
	m.o.Metrics.Sockets.Dec()
}

// waitDead waits until the kernel is dead or ctx ends.
func (m *Manager) waitDead(ctx context.Context, k *kernel) (reason string, dead bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for !k.dead() {
		if m.waitChange(ctx, k) != nil {
			return "", false
		}
	}
	return k.status.Reason, true
}

// waitChange waits for the next change of a kernel. The caller holds mu, which
// is let go while it waits.
func (m *Manager) waitChange(ctx context.Context, k *kernel) error {
	changed := k.changed
	m.mu.Unlock()
	defer m.mu.Lock()
	select {
	case <-changed:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Specs lists what can be started in a workspace.
func (m *Manager) Specs(ctx context.Context, workspace string) (Specs, error) {
	policy, err := m.policy(ctx, workspace)
	if err != nil {
		return Specs{}, err
	}
	return m.specs(ctx, policy.Image)
}

func (m *Manager) specs(ctx context.Context, image string) (Specs, error) {
	found, err := m.o.Driver.Kernelspecs(ctx, image)
	if err != nil {
		return Specs{}, fmt.Errorf("cannot list kernelspecs: %w", err)
	}
	if len(found) == 0 {
		return Specs{}, fmt.Errorf("%w: driver %s offers no kernelspec at all", ErrUnknownSpec, m.o.Driver.Name())
	}
	return Specs{Default: defaultSpec(found, m.o.DefaultKernel), Specs: found}, nil
}

func defaultSpec(found map[string]sandboxes.Kernelspec, wanted string) string {
	for _, name := range []string{wanted, "python3"} {
		if _, ok := found[name]; ok {
			return name
		}
	}
	first := ""
	for name := range maps.Keys(found) {
		if first == "" || name < first {
			first = name
		}
	}
	return first
}

// spec finds a kernelspec of an image by name; the empty name is the default's.
func (m *Manager) spec(ctx context.Context, image, name string) (sandboxes.Kernelspec, error) {
	specs, err := m.specs(ctx, image)
	if err != nil {
		return sandboxes.Kernelspec{}, err
	}
	if name == "" {
		name = specs.Default
	}
	spec, ok := specs.Specs[name]
	if !ok && name == "python" {
		// nbclient, papermill and old notebooks ask for "python".
		spec, ok = specs.Specs["python3"]
	}
	if !ok {
		return sandboxes.Kernelspec{}, fmt.Errorf("%w: %q", ErrUnknownSpec, printable(name))
	}
	return spec, nil
}

// ShutdownAll shuts every kernel down, several at a time.
func (m *Manager) ShutdownAll(ctx context.Context) error {
	m.mu.Lock()
	all := slices.Collect(maps.Values(m.kernels))
	m.mu.Unlock()
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(8)
	for _, k := range all {
		group.Go(func() error {
			err := m.shutdown(ctx, k)
			if errors.Is(err, ErrNotFound) {
				return nil
			}
			return err
		})
	}
	return group.Wait()
}
