package containerd

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	tasks "github.com/containerd/containerd/api/services/tasks/v1"
	"github.com/containerd/containerd/api/types/task"
	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"

	"kernelgw/sandboxes"
)

// Name is the driver's name.
const Name = "containerd"

// Driver makes sandboxes through containerd. It implements sandboxes.Driver.
type Driver struct {
	// set at construction
	opts        Options
	runtime     runtime
	client      *containerd.Client
	tasks       tasks.TasksClient
	snapshotter string
	snapshots   snapshots.Snapshotter
	names       names
	version     string // of containerd

	images sync.Mutex // held while something common to all sandboxes is made in containerd

	stop     context.CancelFunc // ends what runs in the background
	watching sync.WaitGroup
}

var _ sandboxes.Driver = (*Driver)(nil)

// New returns a Driver that uses the containerd at opts.Address, and removes
// what a killed gateway had begun to create or to destroy. It fails when
// containerd does not answer, and when the runtime is Kata before 4.1.0 or has
// no network to be given.
func New(opts Options) (*Driver, error) {
	d, err := open(opts)
	if err != nil {
		return nil, fmt.Errorf("cannot use the containerd driver: %w", err)
	}
	return d, nil
}

// Inspect returns a Driver for Leaks, Repair and List alone, which may run beside
// the one that makes sandboxes: nothing is removed, and no network is needed.
func Inspect(opts Options) (*Driver, error) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	d, err := connect(ctx, opts)
	if err != nil {
		return nil, fmt.Errorf("cannot look into containerd: %w", err)
	}
	return d, nil
}

func open(opts Options) (*Driver, error) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	d, err := connect(ctx, opts)
	if err != nil {
		return nil, err
	}
	if d.runtime.kata && opts.Network == nil {
		err = errors.New("kata needs a network: a virtual machine can be reached in no other way")
	} else if err = d.checkRuntime(ctx); err == nil {
		err = d.sweep(ctx)
	}
	if err != nil {
		_ = d.client.Close()
		return nil, err
	}
	watch, stop := context.WithCancel(context.Background())
	d.stop = stop
	d.watching.Go(func() { d.watchMemory(watch) })
	return d, nil
}

// checkRuntime refuses sandboxes that run with a runtime of the other kind: taken
// over, they would pass for isolated or have their machines left behind.
func (d *Driver) checkRuntime(ctx context.Context) error {
	list, err := d.client.ContainerService().List(ctx, fmt.Sprintf("labels.%q==%q", ownerLabel, d.opts.StateDir))
	if err != nil {
		return fmt.Errorf("cannot list its containers: %w", trim(err))
	}
	for _, c := range list {
		id := c.Labels[sandboxLabel]
		if isKata(c.Runtime.Name) == d.runtime.kata || !d.exists(id) {
			continue
		}
		if p, err := d.state(ctx, c.ID); errdefs.IsNotFound(err) || err == nil && p.Status == task.Status_STOPPED {
			continue // it has ended, as when the host was restarted
		}
		return fmt.Errorf("sandbox %s runs with runtime %s and not with %s: end it with a gateway that is configured for that", id, c.Runtime.Name, d.runtime.name)
	}
	return nil
}

// connect reaches containerd and changes nothing.
func connect(ctx context.Context, opts Options) (*Driver, error) {
	if err := opts.complete(); err != nil {
		return nil, err
	}
	r, err := findRuntime(ctx, opts.Runtime, opts.RuntimeConfigPath)
	if err != nil {
		return nil, err
	}
	client, err := containerd.New(opts.Address, containerd.WithDefaultNamespace(opts.Namespace))
	if err != nil {
		return nil, err
	}
	d := &Driver{
		opts: opts, runtime: r, client: client, tasks: client.TaskService(),
		snapshotter: opts.Snapshotter, snapshots: client.SnapshotService(opts.Snapshotter), names: newNames(opts.StateDir),
	}
	d.stop = func() {}
	version, err := client.Version(ctx)
	if err != nil {
		_ = client.Close()
		return nil, fmt.Errorf("containerd at %s does not answer: %w", opts.Address, trim(err))
	}
	d.version = version.Version
	return d, nil
}

func (o *Options) complete() error {
	if o.Images == nil || o.AgentPath == "" {
		return errors.New("it needs images and an agent")
	}
	if !filepath.IsAbs(o.StateDir) {
		return fmt.Errorf("its state directory %q is not absolute", o.StateDir)
	}
	o.Address = orDefault(o.Address, defaultAddress)
	o.Namespace = orDefault(o.Namespace, defaultNamespace)
	o.Snapshotter = orDefault(o.Snapshotter, defaultSnapshotter)
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	o.Defaults.MemoryBytes = orDefault(o.Defaults.MemoryBytes, defaultMemory)
	o.Defaults.Processes = orDefault(o.Defaults.Processes, defaultProcesses)
	o.Defaults.OpenFiles = orDefault(o.Defaults.OpenFiles, defaultOpenFiles)
	if err := os.MkdirAll(o.StateDir, 0o700); err != nil {
		return fmt.Errorf("cannot make the state directory: %w", err)
	}
	// containerd and the shims are other processes: no links, no relative paths.
	for _, path := range []*string{&o.StateDir, &o.AgentPath} {
		absolute, err := filepath.Abs(*path)
		if err == nil {
			*path, err = filepath.EvalSymlinks(absolute)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func orDefault[T comparable](v, otherwise T) T {
	var zero T
	if v == zero {
		return otherwise
	}
	return v
}

// Name implements sandboxes.Driver.
func (d *Driver) Name() string { return Name }

// Capabilities implements sandboxes.Driver.
//
// The writable layer is a directory of the host's or, through virtiofs, seems to
// be one: neither has a quota.
func (d *Driver) Capabilities() sandboxes.Capabilities {
	network := d.opts.Network != nil
	return sandboxes.Capabilities{
		Isolated: d.runtime.kata, Network: network, NetworkPolicy: network,
		MemoryLimit: true, ProcessLimit: true, Freeze: true, Layers: true,
	}
}

// Versions says what a Driver works with.
type Versions struct {
	Containerd    string
	Runtime       string // as containerd takes it
	Kata          string // version; "" for other runtimes
	Configuration string // of the shim; "" when it chooses
	Snapshotter   string
}

// Versions returns what this Driver found at its start.
func (d *Driver) Versions() Versions {
	return Versions{
		Containerd: d.version, Runtime: d.runtime.name, Kata: d.runtime.version,
		Configuration: d.runtime.config, Snapshotter: d.snapshotter,
	}
}

// Kernelspecs implements sandboxes.Driver.
func (d *Driver) Kernelspecs(ctx context.Context, image string) (map[string]sandboxes.Kernelspec, error) {
	found, err := d.opts.Images.Resolve(ctx, image)
	if err != nil {
		return nil, fmt.Errorf("cannot list the kernelspecs of image %q: %w", image, err)
	}
	return found.Kernelspecs, nil
}

// List implements sandboxes.Driver.
func (d *Driver) List(ctx context.Context) ([]sandboxes.Sandbox, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	entries, err := os.ReadDir(d.opts.StateDir)
	if err != nil {
		return nil, fmt.Errorf("cannot list sandboxes: %w", err)
	}
	var list []sandboxes.Sandbox
	for _, e := range entries {
		if !sandboxes.ValidID(e.Name()) {
			continue
		}
		var sb sandboxes.Sandbox
		switch err := readJSON(d.dir(e.Name()), sandboxName, &sb); {
		case errors.Is(err, fs.ErrNotExist): // being created or destroyed
		case errors.As(err, new(*json.SyntaxError)):
			// Cut short when the host lost its power. Listed all the same, so that it can
			// be destroyed.
			list = append(list, sandboxes.Sandbox{Spec: sandboxes.Spec{ID: e.Name()}})
		case err != nil:
			return nil, fmt.Errorf("cannot list sandbox %s: %w", e.Name(), err)
		default:
			list = append(list, sb)
		}
	}
	return list, nil
}

// SetNetworkPolicy implements sandboxes.Driver.
func (d *Driver) SetNetworkPolicy(ctx context.Context, id string, policy sandboxes.NetworkPolicy) error {
	if err := d.setNetworkPolicy(ctx, id, policy); err != nil {
		return fmt.Errorf("cannot set the network policy of sandbox %q: %w", id, err)
	}
	return nil
}

func (d *Driver) setNetworkPolicy(ctx context.Context, id string, policy sandboxes.NetworkPolicy) error {
	if d.opts.Network == nil {
		return fmt.Errorf("%w: these sandboxes have no network", sandboxes.ErrInvalid)
	}
	if !d.exists(id) {
		return sandboxes.ErrNotFound
	}
	lock, err := lockDir(ctx, d.dir(id))
	if err != nil {
		return notFound(err)
	}
	defer lock.Close()
	var sb sandboxes.Sandbox
	if err := readJSON(d.dir(id), sandboxName, &sb); err != nil {
		return notFound(err)
	}
	if err := d.opts.Network.SetPolicy(ctx, id, policy); err != nil {
		return err
	}
	sb.Spec.Network = policy
	return writeJSON(d.dir(id), sandboxName, sb)
}

// Close implements sandboxes.Driver.
func (d *Driver) Close() error {
	d.stop()
	d.watching.Wait()
	if err := d.client.Close(); err != nil && !isClosed(err) {
		return fmt.Errorf("cannot close the connection to containerd: %w", err)
	}
	return nil
}

func (d *Driver) dir(id string) string { return filepath.Join(d.opts.StateDir, id) }

func (d *Driver) exists(id string) bool {
	if !sandboxes.ValidID(id) {
		return false
	}
	_, err := os.Stat(filepath.Join(d.dir(id), sandboxName))
	return err == nil
}

// notFound turns the absence of a file into that of a sandbox.
func notFound(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return sandboxes.ErrNotFound
	}
	return err
}
