package containerd

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sync/errgroup"

	"kernelgw/sandboxes"
	"kernelgw/sandboxes/hostproc"
	"kernelgw/sandboxes/netpolicy"
	"kernelgw/sandboxes/statedir"
)

// The labels of all that is made for sandboxes in containerd. The rest of what
// is known of a sandbox is in its directory: labels hold 4 KiB.
const (
	ownerLabel   = "kernelgw/owner"   // whose it is: several gateways may use one containerd
	sandboxLabel = "kernelgw/sandbox" // the sandbox's id
)

// cleanDeadline is how long a failed Create has to remove what it made: two tasks
// may resist until their shim is killed.
const cleanDeadline = 150 * time.Second

// Create implements sandboxes.Driver.
func (d *Driver) Create(ctx context.Context, spec sandboxes.Spec) (sandboxes.Sandbox, error) {
	sb, err := d.create(ctx, spec)
	if err != nil {
		return sandboxes.Sandbox{}, fmt.Errorf("cannot create sandbox %q: %w", spec.ID, err)
	}
	return sb, nil
}

func (d *Driver) create(ctx context.Context, spec sandboxes.Spec) (sandboxes.Sandbox, error) {
	limits, err := spec.Resources.Complete(d.opts.Defaults)
	if err != nil {
		return sandboxes.Sandbox{}, err
	}
	image, err := d.opts.Images.Resolve(ctx, spec.Image)
	if err != nil {
		return sandboxes.Sandbox{}, fmt.Errorf("image %q: %w", spec.Image, err)
	}
	if image.UID == 0 {
		return sandboxes.Sandbox{}, fmt.Errorf("%w: image %q would run kernels as root", sandboxes.ErrInvalid, spec.Image)
	}
	// Kata does not start a machine whose name was used before.
	if left := machineDirs(d.names.pod(spec.ID)); d.runtime.kata && len(left) > 0 {
		return sandboxes.Sandbox{}, fmt.Errorf("%w: %s is left of an earlier one", sandboxes.ErrExists, left[0])
	}
	sb := sandboxes.Sandbox{Spec: spec, CreatedAt: time.Now().UTC(), Image: image.Digest}
	err = d.records.Create(ctx, spec.ID, func() error { return d.start(ctx, &sb, image, limits) })
	return sb, err
}

// start makes the sandbox and runs it. What it leaves behind when it fails is
// destroyed by the caller.
func (d *Driver) start(ctx context.Context, sb *sandboxes.Sandbox, image Image, limits sandboxes.Resources) error {
	id := sb.Spec.ID
	base, err := d.baseSnapshot(ctx, image)
	if err != nil {
		return err
	}
	pod, err := d.podSnapshot(ctx)
	if err != nil {
		return err
	}
	slot := netpolicy.Slot{}
	if d.opts.Network != nil {
		if slot, err = d.opts.Network.Acquire(ctx, id, sb.Spec.Network); err != nil {
			return fmt.Errorf("cannot give it a network: %w", err)
		}
	}
	if sb.Agent, err = d.fillDir(sb, slot); err != nil {
		return err
	}
	ctx, err = d.lease(ctx, id)
	if err != nil {
		return err
	}
	// The pod starts, which takes a virtual machine its time, while the rest is made
	// ready.
	both, making := errgroup.WithContext(ctx)
	started := make(chan error, 1)
	both.Go(func() error {
		err := d.startPod(making, id, pod, limits, slot)
		started <- err
		return err
	})
	both.Go(func() error { return d.makeWork(making, sb.Spec, base, image, limits, slot, started) })
	if err := both.Wait(); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	if _, err := d.startTask(ctx, d.names.work(id)); err != nil {
		return fmt.Errorf("cannot start its agent: %w", err)
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	return d.records.Put(*sb)
}

// startPod makes and starts the container that holds the pod.
func (d *Driver) startPod(ctx context.Context, id, root string, limits sandboxes.Resources, slot netpolicy.Slot) error {
	name := d.names.pod(id)
	mounts, err := d.prepare(ctx, id, name, root)
	if err != nil {
		return err
	}
	if err := d.container(ctx, id, name, d.podSpec(id, limits, slot)); err != nil {
		return err
	}
	if err := d.createTask(ctx, name, mounts); err != nil {
		return fmt.Errorf("cannot start its pod: %w", err)
	}
	pid, err := d.startTask(ctx, name)
	if err != nil {
		return fmt.Errorf("cannot start its pod: %w", err)
	}
	// Written before there is more: of a machine whose shim dies only this and its
	// command line are left.
	if pod, err := hostproc.Identify(int(pid)); err == nil {
		return statedir.Write(d.records.Path(id, processName), processes{Pod: pod})
	}
	return nil // it has ended already, which the next step finds out
}

// makeWork makes the container with the agent, which is not started yet. started
// tells what became of the pod.
func (d *Driver) makeWork(ctx context.Context, spec sandboxes.Spec, base string, image Image, limits sandboxes.Resources, slot netpolicy.Slot, started <-chan error) error {
	name := d.names.work(spec.ID)
	mounts, err := d.prepare(ctx, spec.ID, name, base)
	if err != nil {
		return err
	}
	if d.disks && limits.DiskBytes > 0 {
		if mounts, err = d.makeDisk(ctx, spec.ID, mounts, limits.DiskBytes); err != nil {
			return fmt.Errorf("cannot make its disk: %w", err)
		}
	}
	if spec.Layer != "" {
		if err := importLayer(ctx, spec.Layer, mounts, limits.DiskBytes); err != nil {
			return err
		}
	}
	if err := d.container(ctx, spec.ID, name, d.workSpec(spec.ID, image, limits, slot)); err != nil {
		return err
	}
	if err := d.joinPod(d.names.pod(spec.ID), started); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := d.createTask(ctx, name, mounts); err != nil {
		return fmt.Errorf("cannot make its agent's container: %w", err)
	}
	return nil
}

// joinPod returns when a container can be put into a pod: when the pod has
// started or, with runc, when its shim listens. runc's shims ask no more of a
// container than the pod's name, and a pod that is half made is no hindrance. Where
// the socket is another one, a pod takes longer to start, and that is all.
func (d *Driver) joinPod(pod string, started <-chan error) error {
	if d.runtime.kata {
		return <-started
	}
	socket := shimSocket(d.opts.Address, d.opts.Namespace, pod)
	look := time.NewTicker(time.Millisecond) // for a few: a watch would take longer to set up
	defer look.Stop()
	for {
		if _, err := os.Stat(socket); err == nil {
			return nil
		}
		select {
		case err := <-started:
			return err
		case <-look.C:
		}
	}
}

// fillDir writes what the sandbox sees of its directory, and returns where its
// agent will listen.
func (d *Driver) fillDir(sb *sandboxes.Sandbox, slot netpolicy.Slot) (sandboxes.Endpoint, error) {
	run := d.records.Path(sb.Spec.ID, runName)
	if err := os.Mkdir(run, 0o700); err != nil {
		return sandboxes.Endpoint{}, err
	}
	for name, content := range map[string][]byte{configName: sb.Spec.AgentConfig, authorityName: slot.Authority} {
		if err := os.WriteFile(filepath.Join(run, name), content, 0o600); err != nil {
			return sandboxes.Endpoint{}, err
		}
	}
	if slot.Namespace == "" {
		return sandboxes.Endpoint{Network: "unix", Address: filepath.Join(run, socketName)}, nil
	}
	return sandboxes.Endpoint{Network: "tcp", Address: netip.AddrPortFrom(slot.Address, netpolicy.AgentPort).String()}, nil
}

// lease makes the sandbox's lease, which holds its snapshots from before there is
// a container until Destroy, and returns a context in which things are made
// under it.
func (d *Driver) lease(ctx context.Context, id string) (context.Context, error) {
	_, err := d.client.LeasesService().Create(ctx, leases.WithID(d.names.pod(id)), leases.WithLabels(d.labels(id)))
	if errdefs.IsAlreadyExists(err) {
		return nil, fmt.Errorf("%w: containerd has a lease of its name", sandboxes.ErrExists)
	}
	if err != nil {
		return nil, fmt.Errorf("cannot make its lease: %w", trim(err))
	}
	return leases.WithLease(ctx, d.names.pod(id)), nil
}

func (d *Driver) labels(id string) map[string]string {
	return map[string]string{ownerLabel: d.owner, sandboxLabel: id}
}

// prepare makes a writable snapshot and returns how it is mounted.
func (d *Driver) prepare(ctx context.Context, id, key, parent string) ([]mount.Mount, error) {
	m, err := d.snapshots.Prepare(ctx, key, parent, snapshots.WithLabels(d.labels(id)))
	if err != nil {
		return nil, fmt.Errorf("cannot make its file system: %w", trim(err))
	}
	return m, nil
}

// container makes a container on the snapshot of its name.
func (d *Driver) container(ctx context.Context, id, name string, spec *specs.Spec) error {
	_, err := d.client.NewContainer(ctx, name,
		containerd.WithRuntime(d.runtime.name, d.runtime.options),
		containerd.WithContainerLabels(d.labels(id)),
		containerd.WithSpec(spec),
		func(_ context.Context, _ *containerd.Client, c *containers.Container) error {
			c.Snapshotter, c.SnapshotKey = d.snapshotter, name
			return nil
		})
	if errdefs.IsAlreadyExists(err) {
		return fmt.Errorf("%w: containerd has a container of its name", sandboxes.ErrExists)
	}
	if err != nil {
		return fmt.Errorf("cannot make a container: %w", trim(err))
	}
	return nil
}
