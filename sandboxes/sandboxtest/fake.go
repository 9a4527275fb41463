package sandboxtest

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"testing"
	"testing/fstest"
	"time"

	"kernelgw/jupyter"
	"kernelgw/sandboxes"
)

// Fake is a sandboxes.Driver in memory. Each sandbox is an Agent, served on a
// Unix socket by goroutines of this process. It passes Run, and breaks on
// demand: see OnCreate, OnDestroy, Kill and the methods of Agent. All methods
// are safe for concurrent use.
type Fake struct {
	host *fakeHost
}

// fakeHost is what outlives one Fake: the "machine" with its sandboxes.
type fakeHost struct {
	dir string // of the sockets

	mu        sync.Mutex
	caps      sandboxes.Capabilities
	images    map[string]map[string]sandboxes.Kernelspec
	boxes     map[string]*fakeBox
	ids       map[string]bool // every id that was ever used
	sockets   int
	onCreate  func(context.Context, sandboxes.Spec, *Agent) error
	onDestroy func(context.Context, string) error
}

// fakeBox is one sandbox of the fake.
type fakeBox struct {
	agent   *Agent
	created bool // false while Create still runs
	sandbox sandboxes.Sandbox
}

// NewFake returns a Fake with one image, the default, that has the kernelspec
// "python3". When the test ends, all its sandboxes are gone.
func NewFake(t testing.TB) *Fake {
	t.Helper()
	dir, err := os.MkdirTemp("", "fake-")
	if err != nil {
		t.Fatalf("cannot make a directory for the fake's sockets: %v", err)
	}
	h := &fakeHost{
		dir:    dir,
		caps:   sandboxes.Capabilities{Isolated: true},
		images: map[string]map[string]sandboxes.Kernelspec{},
		boxes:  map[string]*fakeBox{},
		ids:    map[string]bool{},
	}
	f := &Fake{host: h}
	f.SetKernelspecs("", FakeKernelspec("python3", "Python 3 (fake)", "python"))
	t.Cleanup(func() {
		f.OnDestroy(nil)
		h.mu.Lock()
		ids := make([]string, 0, len(h.boxes))
		for id := range h.boxes {
			ids = append(ids, id)
		}
		h.mu.Unlock()
		for _, id := range ids {
			if err := f.Destroy(context.Background(), id); err != nil {
				t.Errorf("cannot destroy fake sandbox %s: %v", id, err)
			}
		}
		if err := os.RemoveAll(dir); err != nil {
			t.Errorf("cannot remove the fake's sockets: %v", err)
		}
	})
	return f
}

// FakeKernelspec makes a kernelspec whose directory holds kernel.json and a
// logo.
func FakeKernelspec(name, displayName, language string) sandboxes.Kernelspec {
	spec, err := json.Marshal(jupyter.Kernelspec{
		Argv:        []string{"fake-kernel", "-f", "{connection_file}"},
		DisplayName: displayName,
		Language:    language,
	})
	if err != nil {
		panic(err) // strings always marshal
	}
	return sandboxes.Kernelspec{
		Name: name,
		JSON: spec,
		Dir:  "/usr/share/jupyter/kernels/" + name,
		Files: fs.FS(fstest.MapFS{
			"kernel.json":    &fstest.MapFile{Data: spec},
			"logo-64x64.png": &fstest.MapFile{Data: []byte("\x89PNG\r\n\x1a\nfake")},
		}),
	}
}

// SetKernelspecs makes specs the kernelspecs of image; without specs the image
// no longer exists. The empty image is the default one.
func (f *Fake) SetKernelspecs(image string, specs ...sandboxes.Kernelspec) {
	f.host.mu.Lock()
	defer f.host.mu.Unlock()
	delete(f.host.images, image)
	if len(specs) == 0 {
		return
	}
	f.host.images[image] = map[string]sandboxes.Kernelspec{}
	for _, s := range specs {
		f.host.images[image][s.Name] = s
	}
}

// SetCapabilities changes what Capabilities answers.
func (f *Fake) SetCapabilities(c sandboxes.Capabilities) {
	f.host.mu.Lock()
	defer f.host.mu.Unlock()
	f.host.caps = c
}

// OnCreate makes hook part of every later Create: it runs before the agent
// listens and may prepare it (Agent.NeverListen, Handle, ServeConns ...). Its
// error fails the Create. A hook that blocks is a host that hangs: Create
// returns when ctx ends, and the hook must then return too. Nil removes it.
func (f *Fake) OnCreate(hook func(context.Context, sandboxes.Spec, *Agent) error) {
	f.host.mu.Lock()
	defer f.host.mu.Unlock()
	f.host.onCreate = hook
}

// OnDestroy makes hook part of every later Destroy of a sandbox that exists;
// its error fails the Destroy and leaves the sandbox as it was. Nil removes it.
func (f *Fake) OnDestroy(hook func(ctx context.Context, id string) error) {
	f.host.mu.Lock()
	defer f.host.mu.Unlock()
	f.host.onDestroy = hook
}

// Agent returns the agent of a sandbox, or nil when there is no such sandbox.
func (f *Fake) Agent(id string) *Agent {
	f.host.mu.Lock()
	defer f.host.mu.Unlock()
	if b := f.host.boxes[id]; b != nil {
		return b.agent
	}
	return nil
}

// Kill ends a sandbox as if from outside: its connections break, and Wait
// returns exit. A zero exit.At becomes now. It reports whether such a sandbox
// was running.
func (f *Fake) Kill(id string, exit sandboxes.Exit) bool {
	a := f.Agent(id)
	return a != nil && a.end(exit)
}

// Reopen returns a new Driver that finds the sandboxes of this one, as a new
// gateway process does over the same state directory.
func (f *Fake) Reopen() *Fake { return &Fake{host: f.host} }

// Name implements sandboxes.Driver.
func (f *Fake) Name() string { return "fake" }

// Capabilities implements sandboxes.Driver.
func (f *Fake) Capabilities() sandboxes.Capabilities {
	f.host.mu.Lock()
	defer f.host.mu.Unlock()
	return f.host.caps
}

// SetNetworkPolicy implements sandboxes.Driver: List returns what was set.
func (f *Fake) SetNetworkPolicy(ctx context.Context, id string, policy sandboxes.NetworkPolicy) error {
	f.host.mu.Lock()
	defer f.host.mu.Unlock()
	b := f.host.boxes[id]
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case !f.host.caps.NetworkPolicy:
		return fmt.Errorf("%w: this fake has no network policies", sandboxes.ErrInvalid)
	case b == nil || !b.created:
		return fmt.Errorf("cannot set the network policy of fake sandbox %q: %w", id, sandboxes.ErrNotFound)
	}
	b.sandbox.Spec.Network = policy
	return nil
}

// Freeze implements sandboxes.Driver: goroutines cannot be stopped.
func (f *Fake) Freeze(context.Context, string) error {
	return fmt.Errorf("%w: a fake cannot freeze", sandboxes.ErrInvalid)
}

// Thaw implements sandboxes.Driver.
func (f *Fake) Thaw(context.Context, string) error {
	return fmt.Errorf("%w: a fake cannot freeze", sandboxes.ErrInvalid)
}

// ExportLayer implements sandboxes.Driver: there is no file system.
func (f *Fake) ExportLayer(context.Context, string, io.Writer) error {
	return fmt.Errorf("%w: a fake has no writable layers", sandboxes.ErrInvalid)
}

// Kernelspecs implements sandboxes.Driver.
func (f *Fake) Kernelspecs(ctx context.Context, image string) (map[string]sandboxes.Kernelspec, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	f.host.mu.Lock()
	defer f.host.mu.Unlock()
	specs, ok := f.host.images[image]
	if !ok {
		return nil, fmt.Errorf("cannot list the kernelspecs of image %q: %w", image, sandboxes.ErrNotFound)
	}
	return maps.Clone(specs), nil
}

// Create implements sandboxes.Driver.
func (f *Fake) Create(ctx context.Context, spec sandboxes.Spec) (sandboxes.Sandbox, error) {
	b, err := f.host.reserve(ctx, spec)
	if err != nil {
		return sandboxes.Sandbox{}, fmt.Errorf("cannot create fake sandbox %q: %w", spec.ID, err)
	}
	if err := f.host.start(ctx, b); err != nil {
		b.agent.end(sandboxes.Exit{Code: -1})
		b.agent.join()
		f.host.remove(spec.ID)
		return sandboxes.Sandbox{}, fmt.Errorf("cannot create fake sandbox %q: %w", spec.ID, err)
	}
	return cloneSandbox(b.sandbox), nil
}

// reserve enters a sandbox that does not run yet.
func (h *fakeHost) reserve(ctx context.Context, spec sandboxes.Spec) (*fakeBox, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if !sandboxes.ValidID(spec.ID) {
		return nil, fmt.Errorf("id %q: %w", spec.ID, sandboxes.ErrInvalid)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if _, ok := h.images[spec.Image]; !ok {
		return nil, fmt.Errorf("image %q: %w", spec.Image, sandboxes.ErrNotFound)
	}
	if h.ids[spec.ID] {
		return nil, sandboxes.ErrExists
	}
	h.ids[spec.ID] = true
	h.sockets++
	socket := filepath.Join(h.dir, strconv.Itoa(h.sockets))
	b := &fakeBox{
		agent: newAgent(spec.AgentConfig, socket),
		sandbox: sandboxes.Sandbox{
			Spec:      cloneSpec(spec),
			CreatedAt: time.Now().UTC(),
			Agent:     sandboxes.Endpoint{Network: "unix", Address: socket},
			Image:     "fake",
		},
	}
	h.boxes[spec.ID] = b
	return b, nil
}

// start runs the hook and lets the agent listen.
func (h *fakeHost) start(ctx context.Context, b *fakeBox) error {
	h.mu.Lock()
	hook := h.onCreate
	h.mu.Unlock()
	if hook != nil {
		if err := hook(ctx, cloneSpec(b.sandbox.Spec), b.agent); err != nil {
			return err
		}
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := b.agent.boot(); err != nil {
		return err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	b.created = true
	return nil
}

func (h *fakeHost) remove(id string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.boxes, id)
}

// List implements sandboxes.Driver.
func (f *Fake) List(ctx context.Context) ([]sandboxes.Sandbox, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	f.host.mu.Lock()
	defer f.host.mu.Unlock()
	var list []sandboxes.Sandbox
	for _, b := range f.host.boxes {
		if b.created {
			list = append(list, cloneSandbox(b.sandbox))
		}
	}
	return list, nil
}

// Wait implements sandboxes.Driver.
func (f *Fake) Wait(ctx context.Context, id string) (sandboxes.Exit, error) {
	f.host.mu.Lock()
	b := f.host.boxes[id]
	known := b != nil && b.created
	f.host.mu.Unlock()
	if !known {
		return sandboxes.Exit{}, fmt.Errorf("cannot wait for fake sandbox %q: %w", id, sandboxes.ErrNotFound)
	}
	select {
	case <-b.agent.ended:
		return b.agent.exit, nil
	default:
	}
	select {
	case <-b.agent.ended:
		return b.agent.exit, nil
	case <-ctx.Done():
		return sandboxes.Exit{}, ctx.Err()
	}
}

// Destroy implements sandboxes.Driver.
func (f *Fake) Destroy(ctx context.Context, id string) error {
	f.host.mu.Lock()
	b, hook := f.host.boxes[id], f.host.onDestroy
	f.host.mu.Unlock()
	if b == nil {
		return nil
	}
	if hook != nil {
		if err := hook(ctx, id); err != nil {
			return fmt.Errorf("cannot destroy fake sandbox %q: %w", id, err)
		}
	}
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("cannot destroy fake sandbox %q: %w", id, err)
	}
	b.agent.end(sandboxes.Exit{Code: 137, Reason: "destroyed"})
	b.agent.join()
	f.host.remove(id)
	return nil
}

// Close implements sandboxes.Driver.
func (f *Fake) Close() error { return nil }

func cloneSpec(s sandboxes.Spec) sandboxes.Spec {
	s.Labels = maps.Clone(s.Labels)
	s.AgentConfig = append([]byte(nil), s.AgentConfig...)
	s.Network.Allow = slices.Clone(s.Network.Allow)
	return s
}

func cloneSandbox(s sandboxes.Sandbox) sandboxes.Sandbox {
	s.Spec = cloneSpec(s.Spec)
	return s
}
