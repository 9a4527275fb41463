package containerd

import (
	"context"
	"fmt"
	"strings"
	"time"

	tasks "github.com/containerd/containerd/api/services/tasks/v1"
	"github.com/containerd/containerd/api/types/task"
	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"

	"kernelgw/sandboxes"
)

// Freeze implements sandboxes.Driver. Under Kata it is the guest's control group
// that is frozen, not the machine: connections to it still open.
func (d *Driver) Freeze(ctx context.Context, id string) error {
	err := d.change(ctx, id, task.Status_RUNNING, task.Status_PAUSED, func(ctx context.Context, name string) error {
		return pause(ctx, d.tasks, name)
	})
	if err != nil {
		return fmt.Errorf("cannot freeze sandbox %q: %w", id, err)
	}
	return nil
}

// pause asks again while runc could not: it gives up on a control group (of version
// 1) whose processes do not all come to rest within its thousand attempts, as they
// may not on a busy host, and has undone them then.
func pause(ctx context.Context, client tasks.TasksClient, name string) error {
	for attempt := 1; ; attempt++ {
		_, err := client.Pause(ctx, &tasks.PauseTaskRequest{ContainerID: name})
		if err == nil || attempt == pauses || !strings.Contains(err.Error(), "unable to freeze") {
			return err
		}
		select {
		case <-time.After(50 * time.Millisecond):
		case <-ctx.Done():
			return err
		}
	}
}

// pauses is how often runc is asked to freeze one sandbox.
const pauses = 10

// Thaw implements sandboxes.Driver.
func (d *Driver) Thaw(ctx context.Context, id string) error {
	err := d.change(ctx, id, task.Status_PAUSED, task.Status_RUNNING, func(ctx context.Context, name string) error {
		_, err := d.tasks.Resume(ctx, &tasks.ResumeTaskRequest{ContainerID: name})
		return err
	})
	if err != nil {
		return fmt.Errorf("cannot thaw sandbox %q: %w", id, err)
	}
	return nil
}

// change brings a sandbox's task from one state to another by one call, unless
// it is there. No event tells of it: runtime-rs sends none.
func (d *Driver) change(ctx context.Context, id string, from, to task.Status, call func(context.Context, string) error) error {
	// Not while it is destroyed, and one at a time.
	lock, err := d.records.Lock(ctx, id)
	if err != nil {
		return err
	}
	defer lock.Close()
	name := d.names.work(id)
	p, err := d.state(ctx, name)
	switch {
	case errdefs.IsNotFound(err):
		return fmt.Errorf("it has ended: %w", sandboxes.ErrNotFound)
	case err != nil:
		return trim(err)
	case p.Status == to:
		return nil
	case p.Status == task.Status_STOPPED:
		return fmt.Errorf("it has ended: %w", sandboxes.ErrNotFound)
	case p.Status != from:
		return fmt.Errorf("its task is %v", p.Status)
	}
	patience, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	failed := errgrpc.ToNative(call(patience, name))
	if failed == nil {
		return nil
	}
	// What it became counts, not what the call said.
	if p, err := d.state(ctx, name); err == nil && p.Status == to {
		return nil
	} else if errdefs.IsNotFound(err) || err == nil && p.Status == task.Status_STOPPED {
		return fmt.Errorf("it has ended: %w", sandboxes.ErrNotFound)
	}
	return trim(failed)
}
