package kernels

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"kernelgw/jupyter"
	"kernelgw/kernelgw/registry"
	"kernelgw/kernelgw/telemetry"
	"kernelgw/sandboxes"
	"kernelgw/sandboxes/agentapi"
)

// Options configure a Manager. Driver, Store, Log and Metrics are required.
type Options struct {
	Driver    sandboxes.Driver
	Store     registry.Store
	Log       *slog.Logger
	Metrics   *telemetry.Metrics
	Image     string              // "" means the driver's default
	Resources sandboxes.Resources // of each sandbox
	// Policy says what the sandboxes of a workspace are and may do, instead of
	// Image and Resources: asked whenever one is made. When it fails, none is made.
	// Nil means the same for all workspaces, and the driver's network.
	Policy func(ctx context.Context, workspace string) (Policy, error)
	// Environment is what the kernels and terminals of a workspace get beside what
	// clients set, over which it wins. Nil means nothing.
	Environment   func(ctx context.Context, workspace string) (map[string]string, error)
	DefaultKernel string   // "" means python3, or else the first by name
	AllowedEnv    []string // names that clients may set beside KERNEL_*
	// MaxMessageBytes caps one message of a kernel or to it; 0 means the agent's
	// default.
	MaxMessageBytes int64
	StartTimeout    time.Duration // to make a sandbox and reach its agent; default 2 minutes
	DeadRetention   time.Duration // how long a dead kernel stays listed; default 24 hours
	// DestroyTimeout is how long a shutdown waits for the sandbox to be
	// destroyed before that goes on in the background; default 20 seconds.
	DestroyTimeout time.Duration

	MaxTerminals int           // of one workspace; 0 means the agent's default
	TerminalIdle time.Duration // after which the agent ends a terminal that nobody uses; 0 means its default
	// TerminalLinger is how long the sandbox of a workspace's terminals stays
	// after the last one has ended; default 5 minutes.
	TerminalLinger time.Duration

	// Files links sandboxes with the files of their workspaces; nil means that
	// each has its home directory for itself.
	Files       Files
	FilesConfig agentapi.FilesConfig // for agents, with Files
	// Notebooks is where outputs are saved that cells of notebooks put out while
	// nobody was there; nil means that they are not.
	Notebooks Notebooks
	// OutputLogs is where all that kernels print is kept; nil means that it is not.
	OutputLogs OutputLogs
	// BaseURL is the path under which users find it: "/prefix/"; default "/".
	BaseURL string
	// Caps are budgets of what a kernel shows, of workspaces without a policy.
	Caps agentapi.OutputCaps
}

// Manager owns all kernels of the gateway. All methods are safe for concurrent
// use. Before Run has adopted what an earlier process left, they return
// ErrNotReady: a list must never be incomplete, because clients take a missing
// kernel for a dead one.
type Manager struct {
	o Options

	// set at construction
	ctx    context.Context // ends all keepers
	cancel context.CancelFunc
	wg     sync.WaitGroup // keepers
	saves  *savePlaces
	stores *storePlaces

	mu        sync.Mutex
	ready     bool                   // guarded by mu
	closed    bool                   // guarded by mu: no keeper may start any more
	kernels   map[name]*kernel       // guarded by mu
	sessions  map[string]*sessionRow // guarded by mu; by id
	pending   map[string]chan struct{}
	exporters map[string]*exporters // guarded by mu; by image as policies name it
}

// adoptPatience bounds how long the start of the gateway waits for adopted
// agents to say how their kernels are.
const adoptPatience = 3 * time.Second

// New returns a Manager that does nothing until Run.
func New(o Options) *Manager {
	o.StartTimeout = cmp.Or(o.StartTimeout, 2*time.Minute)
	o.DestroyTimeout = cmp.Or(o.DestroyTimeout, 20*time.Second)
	o.DeadRetention = cmp.Or(o.DeadRetention, 24*time.Hour)
	o.TerminalLinger = cmp.Or(o.TerminalLinger, 5*time.Minute)
	o.BaseURL = cmp.Or(o.BaseURL, "/")
	ctx, cancel := context.WithCancel(context.Background())
	return &Manager{
		o: o, ctx: ctx, cancel: cancel, saves: newSavePlaces(), stores: newStorePlaces(),
		kernels: map[name]*kernel{}, sessions: map[string]*sessionRow{}, pending: map[string]chan struct{}{}, exporters: map[string]*exporters{},
	}
}

// Run adopts the kernels that an earlier gateway process left, reaps what
// belongs to nobody, and then keeps kernels until ctx ends. When it returns,
// all goroutines of the Manager have ended; kernels keep running.
func (m *Manager) Run(ctx context.Context) error {
	defer func() {
		m.mu.Lock()
		m.closed = true
		m.mu.Unlock()
		m.cancel()
		m.wg.Wait()
	}()
	if err := m.adopt(ctx); err != nil {
		return err
	}
	sweep := time.NewTicker(min(m.o.DeadRetention, time.Hour))
	defer sweep.Stop()
	linger := time.NewTicker(min(m.o.TerminalLinger/4+1, 30*time.Second))
	defer linger.Stop()
	for {
		select {
		case <-ctx.Done():
			m.endEmptyTerminals()
			return nil
		case <-linger.C:
			m.endUnusedTerminals()
		case <-sweep.C:
			m.forgetDead(ctx)
		}
	}
}

// Ready reports whether adoption is done and requests can be served.
func (m *Manager) Ready() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.ready && !m.closed
}

// List returns the kernels of a workspace in order of their creation.
func (m *Manager) List(ctx context.Context, workspace string) ([]Kernel, error) {
	m.refresh(ctx, func(k *kernel) bool { return k.workspace == workspace })
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.ready {
		return nil, fmt.Errorf("%w: the gateway is still adopting kernels", ErrNotReady)
	}
	var found []*kernel
	for _, k := range m.kernels {
		if k.workspace == workspace && !k.terminals {
			found = append(found, k)
		}
	}
	slices.SortFunc(found, func(a, b *kernel) int {
		return cmp.Or(a.record.CreatedAt.Compare(b.record.CreatedAt), cmp.Compare(a.record.ID, b.record.ID))
	})
	list := make([]Kernel, 0, len(found))
	for _, k := range found {
		list = append(list, k.snapshot())
	}
	return list, nil
}

// Get returns one kernel of a workspace.
func (m *Manager) Get(ctx context.Context, workspace, id string) (Kernel, error) {
	m.refresh(ctx, func(k *kernel) bool { return k.id == id && k.workspace == workspace })
	m.mu.Lock()
	defer m.mu.Unlock()
	k, err := m.find(workspace, id)
	if err != nil {
		return Kernel{}, err
	}
	return k.snapshot(), nil
}

// refreshPatience bounds how long an answer waits for agents.
const refreshPatience = 250 * time.Millisecond

// refresh asks the agents of the wanted kernels that were last seen working how
// they are: a client that has just seen a cell end must not be told that its
// kernel is busy, and what agents send by themselves comes in steps of 50 ms.
// An agent that does not answer leaves the last known state.
func (m *Manager) refresh(ctx context.Context, wanted func(*kernel) bool) {
	ctx, cancel := context.WithTimeout(ctx, refreshPatience)
	defer cancel()
	var asking sync.WaitGroup
	m.mu.Lock()
	for _, k := range m.kernels {
		working := k.status.ExecutionState == jupyter.Busy || k.status.ExecutionState == jupyter.Starting
		if agent := k.agent; agent != nil && working && wanted(k) {
			asking.Go(func() {
				if st, err := agent.Status(ctx); err == nil {
					m.observe(k, st)
				}
			})
		}
	}
	m.mu.Unlock()
	asking.Wait()
}

// find returns a kernel of a workspace. The caller holds mu. A kernel of
// another workspace is answered like one that does not exist.
func (m *Manager) find(workspace, id string) (*kernel, error) {
	if !m.ready {
		return nil, fmt.Errorf("%w: the gateway is still adopting kernels", ErrNotReady)
	}
	k, ok := m.kernels[name{workspace, id}]
	if !ok || k.terminals {
		return nil, fmt.Errorf("%w: %s", ErrNotFound, id)
	}
	return k, nil
}

// name names a kernel. Clients may choose ids, so that workspaces have ids of
// their own: one that is taken elsewhere must be free here, or its being refused
// would tell that it is taken.
type name struct{ workspace, id string }

// record is what the registry keeps of a kernel.
type record struct {
	ID        string            `json:"id"`
	Driver    string            `json:"driver"` // whose sandboxes these are
	Workspace string            `json:"workspace"`
	Owner     string            `json:"owner"`
	Name      string            `json:"name"` // of the kernelspec
	Cwd       string            `json:"cwd,omitempty"`
	Env       map[string]string `json:"env,omitempty"`
	CreatedAt time.Time         `json:"created_at"`
	Sandbox   string            `json:"sandbox"`          // the one that it has, had last or is about to get
	Policy    *Policy           `json:"policy,omitempty"` // what that was made with; nil in records of earlier gateways
	Run       string            `json:"run,omitempty"`    // of that in the output log; "" when it keeps none
	Own       bool              `json:"own,omitempty"`    // the owner started it himself, and nobody else has used it
	Dead      bool              `json:"dead,omitempty"`   // its sandbox has ended
	Reason    string            `json:"reason,omitempty"` // why it is dead
	DeadAt    time.Time         `json:"dead_at,omitzero"` // since when
	key       string            // of the registry record that holds this
	version   uint64            // of that record
}

func (r record) name() name { return name{r.Workspace, r.ID} }

// save writes the kernel's record and remembers its version. The caller holds
// the kernel's operation (see kernel.acquire), so there is one writer.
func (m *Manager) save(ctx context.Context, k *kernel, r record) error {
	value, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("cannot encode record of kernel %s: %w", r.ID, err)
	}
	version, err := m.o.Store.Put(ctx, registry.Record{Kind: registry.Kernels, ID: r.key, Version: r.version, Value: value})
	if err != nil {
		return fmt.Errorf("cannot save kernel %s: %w", r.ID, err)
	}
	r.version = version
	m.mu.Lock()
	k.record = r
	m.mu.Unlock()
	return nil
}

// adopt rebuilds the table of kernels from the registry and the driver.
func (m *Manager) adopt(ctx context.Context) error {
	records, err := m.o.Store.List(ctx, registry.Kernels)
	if err != nil {
		return fmt.Errorf("cannot read kernels from the registry: %w", err)
	}
	existing, err := m.o.Driver.List(ctx)
	if err != nil {
		m.o.Metrics.SandboxErrors.WithLabelValues("list").Inc()
		return fmt.Errorf("cannot list sandboxes of driver %s: %w", m.o.Driver.Name(), err)
	}
	byID := make(map[string]sandboxes.Sandbox, len(existing))
	for _, s := range existing {
		byID[s.Spec.ID] = s
	}

	var adopted []*kernel
	for _, stored := range records {
		var r record
		if err := json.Unmarshal(stored.Value, &r); err != nil || r.ID == "" {
			return fmt.Errorf("kernel record %s in the registry is damaged (%v)", stored.ID, err)
		}
		r.key, r.version = stored.ID, stored.Version
		if !r.Dead && r.Driver != m.o.Driver.Name() {
			return fmt.Errorf("kernel %s in this data directory runs in a sandbox of driver %s, not %s: start once with --driver %s --on-exit stop, or use another --data-dir",
				r.ID, r.Driver, m.o.Driver.Name(), r.Driver)
		}
		k := newKernel(r)
		sandbox, ok := byID[r.Sandbox]
		if !ok && r.isTerminals() { // nobody asks for a dead one
			if err := m.o.Store.Delete(ctx, registry.Kernels, stored.ID); err != nil {
				return fmt.Errorf("cannot forget the terminals of workspace %s: %w", r.Workspace, err)
			}
			m.reap(r.Sandbox)
			continue
		}
		if r.Dead || !ok {
			// A dead record's sandbox that is still there was not destroyed
			// in time: it stays in byID and is reaped below.
			if !r.Dead {
				r.Dead, r.DeadAt, r.Reason = true, time.Now(), "its sandbox was gone when the gateway started"
				if err := m.save(ctx, k, r); err != nil {
					return err
				}
				// It may be half made: then List does not show it yet.
				m.reap(r.Sandbox)
			}
			k.status.ExecutionState, k.status.Reason, k.deadSince = jupyter.Dead, r.Reason, r.DeadAt
		} else {
			delete(byID, r.Sandbox)
			adopted = append(adopted, k)
		}
		m.mu.Lock()
		m.kernels[r.name()] = k
		m.count(k, "", k.status.ExecutionState)
		if !k.record.Dead {
			m.startKeeper(k, func(ctx context.Context) { m.keepIn(ctx, k, sandbox, true) })
		}
		m.mu.Unlock()
	}
	for id := range byID {
		m.o.Log.Warn("reaping a sandbox that belongs to no kernel", "sandbox", id)
		m.reap(id)
	}
	if err := m.loadSessions(ctx); err != nil {
		return err
	}

	patience, cancel := context.WithTimeout(ctx, adoptPatience)
	defer cancel()
	for _, k := range adopted {
		if !k.waitReported(patience) {
			m.o.Log.Warn("an adopted kernel has not answered yet; it is listed as starting", "kernel", k.id)
		}
	}
	if ctx.Err() != nil {
		return nil
	}
	m.o.Log.Info("kernels adopted", "running", len(adopted), "dead", len(records)-len(adopted), "reaped", len(byID))
	m.mu.Lock()
	m.ready = true
	for _, k := range adopted {
		k.notify()
	}
	m.mu.Unlock()
	return nil
}

// startKeeper runs f as the keeper of k, unless the Manager is closed. The
// caller holds mu.
func (m *Manager) startKeeper(k *kernel, f func(ctx context.Context)) {
	if m.closed {
		return
	}
	ctx, cancel := context.WithCancel(m.ctx)
	k.stopKeeper, k.kept = cancel, make(chan struct{})
	kept := k.kept
	m.wg.Go(func() {
		defer close(kept)
		defer cancel()
		f(ctx)
	})
}

// reap destroys a sandbox in the background, with retries until the Manager
// closes; the next gateway process reaps what is left then.
func (m *Manager) reap(sandbox string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.closed {
		m.wg.Go(func() { m.destroy(m.ctx, sandbox) })
	}
}

// destroyOrReap destroys a sandbox, in the background if it takes long.
func (m *Manager) destroyOrReap(sandbox string) {
	ctx, cancel := context.WithTimeout(m.ctx, m.o.DestroyTimeout)
	defer cancel()
	if !m.destroy(ctx, sandbox) {
		m.reap(sandbox)
	}
}

// destroy destroys a sandbox, retrying until it works or ctx ends. It reports
// whether it worked.
func (m *Manager) destroy(ctx context.Context, sandbox string) bool {
	for wait := time.Second; ; wait = min(2*wait, time.Minute) {
		attempt, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute) // not left half done
		err := m.o.Driver.Destroy(attempt, sandbox)
		cancel()
		if err == nil {
			return true
		}
		m.o.Metrics.SandboxErrors.WithLabelValues("destroy").Inc()
		m.o.Log.Error("cannot destroy a sandbox; trying again", "sandbox", sandbox, "in", wait, "error", err)
		select {
		case <-ctx.Done():
			return false
		case <-time.After(wait):
		}
	}
}

// forgetDead removes kernels that have been dead for longer than the retention,
// so that a list does not grow for ever.
func (m *Manager) forgetDead(ctx context.Context) {
	m.mu.Lock()
	var old []*kernel
	for _, k := range m.kernels {
		if k.dead() && !k.terminals && time.Since(k.deadSince) > m.o.DeadRetention {
			old = append(old, k)
		}
	}
	m.mu.Unlock()
	for _, k := range old {
		if err := m.Shutdown(ctx, k.workspace, k.id); err != nil && !errors.Is(err, ErrNotFound) {
			m.o.Log.Error("cannot forget a dead kernel", "kernel", k.id, "error", err)
		}
	}
}

// count moves a kernel between the states of the kernels metric. The caller
// holds mu.
func (m *Manager) count(k *kernel, from, to jupyter.State) {
	if k.terminals {
		return
	}
	if from != "" {
		m.o.Metrics.Kernels.WithLabelValues(string(from)).Dec()
	}
	if to != "" {
		m.o.Metrics.Kernels.WithLabelValues(string(to)).Inc()
	}
}
