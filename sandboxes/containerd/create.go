package containerd

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/pkg/cio"
	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"kernelgw/sandboxes"
	"kernelgw/sandboxes/hostproc"
	"kernelgw/sandboxes/netpolicy"
)

// The labels of all that is made for sandboxes in containerd. The rest of what
// is known of a sandbox is in its directory: labels hold 4 KiB.
const (
	ownerLabel   = "kernelgw/state-dir" // whose it is: several gateways may use one containerd
	sandboxLabel = "kernelgw/sandbox"   // the sandbox's id
)

// How long the runtime gets to start a sandbox: a virtual machine under software
// emulation on a busy host boots for half a minute.
const startDeadline = 120 * time.Second

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
	if err := ctx.Err(); err != nil {
		return sandboxes.Sandbox{}, err
	}
	if !sandboxes.ValidID(spec.ID) {
		return sandboxes.Sandbox{}, fmt.Errorf("%w: the id is not made of lower-case letters, digits and hyphens", sandboxes.ErrInvalid)
	}
	limits, err := d.limits(spec.Resources)
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
	lock, err := d.reserve(ctx, spec.ID)
	if err != nil {
		return sandboxes.Sandbox{}, err
	}
	defer lock.Close()
	sb := sandboxes.Sandbox{Spec: spec, CreatedAt: time.Now().UTC(), Image: image.Digest}
	if err := d.start(ctx, &sb, image, limits); err != nil {
		clean, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanDeadline)
		defer cancel()
		return sandboxes.Sandbox{}, errors.Join(err, d.destroy(clean, spec.ID))
	}
	return sb, nil
}

// limits completes r from the defaults.
func (d *Driver) limits(r sandboxes.Resources) (sandboxes.Resources, error) {
	if r.CPUs < 0 || r.MemoryBytes < 0 || r.Processes < 0 || r.DiskBytes < 0 || r.ShmBytes < 0 || r.OpenFiles < 0 {
		return r, fmt.Errorf("%w: a limit is negative", sandboxes.ErrInvalid)
	}
	r.CPUs = orDefault(r.CPUs, d.opts.Defaults.CPUs)
	r.MemoryBytes = orDefault(r.MemoryBytes, d.opts.Defaults.MemoryBytes)
	r.Processes = orDefault(r.Processes, d.opts.Defaults.Processes)
	r.DiskBytes = orDefault(r.DiskBytes, d.opts.Defaults.DiskBytes)
	r.ShmBytes = orDefault(r.ShmBytes, orDefault(d.opts.Defaults.ShmBytes, r.MemoryBytes/4))
	r.OpenFiles = orDefault(r.OpenFiles, d.opts.Defaults.OpenFiles)
	if r.MemoryBytes < minMemory {
		return r, fmt.Errorf("%w: %s of memory; the least is %s", sandboxes.ErrInvalid, formatBytes(r.MemoryBytes), formatBytes(minMemory))
	}
	return r, nil
}

// minMemory is less than any kernel needs, but lets a sandbox start.
const minMemory = 64 << 20

// reserve makes the sandbox's directory and locks it.
func (d *Driver) reserve(ctx context.Context, id string) (*os.File, error) {
	all, err := lockHow(ctx, d.opts.StateDir, unix.LOCK_SH)
	if err != nil {
		return nil, fmt.Errorf("cannot lock the state directory: %w", err)
	}
	defer all.Close()
	dir := d.dir(id)
	if err := os.Mkdir(dir, 0o700); errors.Is(err, fs.ErrExist) {
		return nil, sandboxes.ErrExists
	} else if err != nil {
		return nil, err
	}
	lock, err := lockDir(ctx, dir)
	if err == nil {
		// Kata does not start a machine whose name was used before.
		if left := machineDirs(d.names.pod(id)); d.runtime.kata && len(left) > 0 {
			err = fmt.Errorf("%w: %s is left of an earlier one", sandboxes.ErrExists, left[0])
			_ = lock.Close()
		}
	}
	if err != nil {
		_ = os.Remove(dir)
		return nil, err
	}
	return lock, nil
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
	var both errgroup.Group
	both.Go(func() error { return d.startPod(ctx, id, pod, limits, slot) })
	var work containerd.Container
	both.Go(func() (err error) {
		work, err = d.prepareWork(ctx, sb.Spec, base, image, limits, slot)
		return err
	})
	if err := both.Wait(); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	if _, err := d.run(ctx, work); err != nil {
		return fmt.Errorf("cannot start its agent: %w", err)
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	return writeJSON(d.dir(id), sandboxName, sb)
}

// startPod makes and starts the container that holds the pod.
func (d *Driver) startPod(ctx context.Context, id, root string, limits sandboxes.Resources, slot netpolicy.Slot) error {
	name := d.names.pod(id)
	if _, err := d.prepare(ctx, id, name, root); err != nil {
		return err
	}
	container, err := d.container(ctx, id, name, d.podSpec(id, limits, slot))
	if err != nil {
		return err
	}
	pid, err := d.run(ctx, container)
	if err != nil {
		return fmt.Errorf("cannot start its pod: %w", err)
	}
	// Written before there is more: of a machine whose shim dies only this and its
	// command line are left.
	if pod, err := hostproc.Identify(int(pid)); err == nil {
		return writeJSON(d.dir(id), processName, processes{Pod: pod})
	}
	return nil // it has ended already, which the next step finds out
}

// prepareWork makes the container with the agent, which is not started yet.
func (d *Driver) prepareWork(ctx context.Context, spec sandboxes.Spec, base string, image Image, limits sandboxes.Resources, slot netpolicy.Slot) (containerd.Container, error) {
	name := d.names.work(spec.ID)
	mounts, err := d.prepare(ctx, spec.ID, name, base)
	if err != nil {
		return nil, err
	}
	if spec.Layer != "" {
		if err := importLayer(ctx, spec.Layer, mounts, limits.DiskBytes); err != nil {
			return nil, err
		}
	}
	return d.container(ctx, spec.ID, name, d.workSpec(spec.ID, image, limits, slot))
}

// fillDir writes what the sandbox sees of its directory, and returns where its
// agent will listen.
func (d *Driver) fillDir(sb *sandboxes.Sandbox, slot netpolicy.Slot) (sandboxes.Endpoint, error) {
	run := filepath.Join(d.dir(sb.Spec.ID), runName)
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
	return map[string]string{ownerLabel: d.opts.StateDir, sandboxLabel: id}
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
func (d *Driver) container(ctx context.Context, id, name string, spec *specs.Spec) (containerd.Container, error) {
	container, err := d.client.NewContainer(ctx, name,
		containerd.WithRuntime(d.runtime.name, d.runtime.options),
		containerd.WithContainerLabels(d.labels(id)),
		containerd.WithSpec(spec),
		func(_ context.Context, _ *containerd.Client, c *containers.Container) error {
			c.Snapshotter, c.SnapshotKey = d.snapshotter, name
			return nil
		})
	if errdefs.IsAlreadyExists(err) {
		return nil, fmt.Errorf("%w: containerd has a container of its name", sandboxes.ErrExists)
	}
	if err != nil {
		return nil, fmt.Errorf("cannot make a container: %w", trim(err))
	}
	return container, nil
}

// run starts a container's task and returns the pid that containerd tells. It
// goes on to the end whatever becomes of the caller: a runtime that is
// interrupted leaves half a machine.
func (d *Driver) run(ctx context.Context, container containerd.Container) (uint32, error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), startDeadline)
	defer cancel()
	// No standard streams: what is not read for a while stops its writer, and no
	// gateway reads while it is restarted.
	task, err := container.NewTask(ctx, cio.NullIO)
	if err != nil {
		return 0, trim(err)
	}
	if err := task.Start(ctx); err != nil {
		return 0, trim(err)
	}
	return task.Pid(), nil
}
