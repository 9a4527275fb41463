package containerd

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"sync"
	"time"

	tasks "github.com/containerd/containerd/api/services/tasks/v1"
	"github.com/containerd/containerd/api/types/task"
	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"

	"kernelgw/sandboxes"
	"kernelgw/sandboxes/statedir"
)

// Name is the driver's name.
const Name = "containerd"

// Driver makes sandboxes through containerd. It implements sandboxes.Driver.
type Driver struct {
	// set at construction
	opts        Options
	records     *statedir.Dir
	owner       string // identity of the state directory; labels all that is made in containerd
	runtime     runtime
	client      *containerd.Client
	tasks       tasks.TasksClient
	snapshotter string
	snapshots   snapshots.Snapshotter
	names       names
	version     string // of containerd
	layers      bool   // the snapshotter keeps a sandbox's writes apart
	disks       bool   // and they can be put on a disk of its own

	empty emptyDisk

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
	if err := d.takeOver(ctx); err != nil {
		_ = d.client.Close()
		return nil, err
	}
	watch, stop := context.WithCancel(context.Background())
	d.stop = stop
	d.watching.Go(func() { d.watchMemory(watch) })
	return d, nil
}

// takeOver begins with the sandboxes that there are.
func (d *Driver) takeOver(ctx context.Context) (err error) {
	if d.runtime.kata && d.opts.Network == nil {
		return errors.New("kata needs a network: a virtual machine can be reached in no other way")
	}
	if d.layers, err = d.keepsLayers(ctx); err != nil {
		return err
	}
	if err := diskProblem(); err != nil {
		d.opts.Log.Warn("what sandboxes write is not limited", "reason", err)
	} else {
		d.disks = d.layers
	}
	if err := d.checkRuntime(ctx); err != nil {
		return err
	}
	if err := d.records.Sweep(ctx); err != nil {
		return err
	}
	return d.sweepNetwork(ctx)
}

// checkRuntime refuses sandboxes that run with a runtime of the other kind: taken
// over, they would pass for isolated or have their machines left behind.
func (d *Driver) checkRuntime(ctx context.Context) error {
	list, err := d.client.ContainerService().List(ctx, fmt.Sprintf("labels.%q==%q", ownerLabel, d.owner))
	if err != nil {
		return fmt.Errorf("cannot list its containers: %w", trim(err))
	}
	for _, c := range list {
		id := c.Labels[sandboxLabel]
		if isKata(c.Runtime.Name) == d.runtime.kata || !d.records.Exists(id) {
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
		snapshotter: opts.Snapshotter, snapshots: client.SnapshotService(opts.Snapshotter), stop: func() {},
	}
	d.records, err = statedir.Open(opts.StateDir, statedir.Options{Remove: d.remove, Deadline: cleanDeadline, Log: opts.Log})
	if err == nil {
		d.owner, err = d.records.Identity()
	}
	if err != nil {
		_ = client.Close()
		return nil, err
	}
	d.names = newNames(d.owner)
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
	o.Address = cmp.Or(o.Address, defaultAddress)
	o.Namespace = cmp.Or(o.Namespace, defaultNamespace)
	o.Snapshotter = cmp.Or(o.Snapshotter, defaultSnapshotter)
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	o.Defaults = o.Defaults.Or(defaults)
	// containerd and the shims are other processes: no links, no relative paths.
	absolute, err := filepath.Abs(o.AgentPath)
	if err == nil {
		o.AgentPath, err = filepath.EvalSymlinks(absolute)
	}
	return err
}

// Name implements sandboxes.Driver.
func (d *Driver) Name() string { return Name }

// Capabilities implements sandboxes.Driver.
func (d *Driver) Capabilities() sandboxes.Capabilities {
	network := d.opts.Network != nil
	return sandboxes.Capabilities{
		Isolated: d.runtime.kata, Network: network, NetworkPolicy: network,
		MemoryLimit: true, ProcessLimit: true, DiskLimit: d.disks, Freeze: true, Layers: d.layers,
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
	return d.records.List(ctx)
}

// SetNetworkPolicy implements sandboxes.Driver.
func (d *Driver) SetNetworkPolicy(ctx context.Context, id string, policy sandboxes.NetworkPolicy) error {
	if d.opts.Network == nil {
		return fmt.Errorf("%w: these sandboxes have no network", sandboxes.ErrInvalid)
	}
	err := d.records.Change(ctx, id, func(sb *sandboxes.Sandbox) error {
		sb.Spec.Network = policy
		return d.opts.Network.SetPolicy(ctx, id, policy)
	})
	if err != nil {
		return fmt.Errorf("cannot set the network policy of sandbox %q: %w", id, err)
	}
	return nil
}

// Close implements sandboxes.Driver.
func (d *Driver) Close() error {
	d.stop()
	d.watching.Wait()
	d.empty.close()
	if err := d.client.Close(); err != nil && !isClosed(err) {
		return fmt.Errorf("cannot close the connection to containerd: %w", err)
	}
	return nil
}
