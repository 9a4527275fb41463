package containerd

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/errdefs"
)

// Destroy implements sandboxes.Driver.
func (d *Driver) Destroy(ctx context.Context, id string) error { return d.records.Destroy(ctx, id) }

// remove removes all of a sandbox but its directory, which is locked. Each step may
// have been done before. The container with the
// agent goes first: a shim of Kata that loses its pod before stays for ever.
func (d *Driver) remove(ctx context.Context, id string) error {
	pod, work := d.names.pod(id), d.names.work(id)
	for again := true; again; {
		for _, name := range []string{work, pod} {
			if err := d.removeContainer(ctx, name); err != nil {
				return err
			}
		}
		if err := d.cleanHost(ctx, id); err != nil {
			return err
		}
		// A gateway that was killed in the middle of a create may have left
		// containerd one that was still going on.
		again = false
		for _, name := range []string{work, pod} {
			if _, err := d.state(ctx, name); !errdefs.IsNotFound(err) {
				again = ctx.Err() == nil
			}
		}
	}
	if err := d.removeDisk(ctx, id); err != nil {
		return err
	}
	for _, key := range []string{work, pod} {
		if err := d.snapshots.Remove(ctx, key); err != nil && !errdefs.IsNotFound(err) {
			return fmt.Errorf("cannot remove snapshot %s: %w", key, trim(err))
		}
	}
	err := d.client.LeasesService().Delete(ctx, leases.Lease{ID: pod})
	if err != nil && !errdefs.IsNotFound(err) {
		return fmt.Errorf("cannot remove lease %s: %w", pod, trim(err))
	}
	if d.opts.Network != nil {
		if err := d.opts.Network.Release(ctx, id); err != nil {
			return fmt.Errorf("cannot take its network away: %w", err)
		}
	}
	return nil
}

// removeContainer ends a container's task and removes the container. A task that
// resists loses its shim, and with it its machine.
func (d *Driver) removeContainer(ctx context.Context, name string) error {
	patience, cancel := context.WithTimeout(ctx, endPatience)
	err := d.endTask(patience, name)
	cancel()
	if err != nil && errors.Is(patience.Err(), context.DeadlineExceeded) && ctx.Err() == nil {
		d.opts.Log.Warn("a task does not end, killing its shim", "task", name, "error", err)
		pod := strings.TrimSuffix(name, workSuffix)
		if err := killAll(ctx, func(args []string) bool { return isShimOf(args, pod) || isMachineOf(args, pod) }); err != nil {
			return err
		}
		// containerd notices and tidies up.
		patience, cancel := context.WithTimeout(ctx, endPatience)
		err = d.endTask(patience, name)
		cancel()
	}
	if err != nil {
		return err
	}
	if err := d.client.ContainerService().Delete(ctx, name); err != nil && !errdefs.IsNotFound(err) {
		return fmt.Errorf("cannot remove container %s: %w", name, trim(err))
	}
	return nil
}

// sweepNetwork takes away the networks of sandboxes that are gone. A sandbox has
// its directory before its network, and after.
func (d *Driver) sweepNetwork(ctx context.Context) error {
	if d.opts.Network == nil {
		return nil
	}
	for _, slot := range d.opts.Network.List() {
		if d.records.Taken(slot.ID) {
			continue
		}
		if err := d.opts.Network.Release(ctx, slot.ID); err != nil {
			return fmt.Errorf("cannot take the network of sandbox %s away: %w", slot.ID, err)
		}
	}
	return nil
}
