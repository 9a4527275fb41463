package containerd

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	tasks "github.com/containerd/containerd/api/services/tasks/v1"
	"github.com/containerd/containerd/api/types/task"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// state returns a task as it is now. errdefs.ErrNotFound when there is none.
func (d *Driver) state(ctx context.Context, name string) (*task.Process, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	r, err := d.tasks.Get(ctx, &tasks.GetRequest{ContainerID: name})
	if err != nil {
		return nil, errgrpc.ToNative(err)
	}
	return r.Process, nil
}

const (
	// callTimeout bounds one call about a task that should take no time: a shim may
	// hang, and containerd waits for it.
	callTimeout = 15 * time.Second
	// killPatience is how long a killed task may take to end before it is looked
	// at and killed again.
	killPatience = 2 * time.Second
	// retryPause is the time between two attempts that need the shim to get on. The
	// Go shim of Kata says for a moment after an exit that the container cannot be
	// deleted.
	retryPause = 100 * time.Millisecond
	// endPatience is how long a task may resist before its shim is killed.
	endPatience = 30 * time.Second
)

// How long the runtime gets to start a sandbox: a virtual machine under software
// emulation on a busy host boots for half a minute.
const startDeadline = 120 * time.Second

// createTask has the runtime make what a container runs. Like startTask it goes on
// to the end whatever becomes of the caller: a runtime that is interrupted leaves
// half a machine.
func (d *Driver) createTask(ctx context.Context, name string, root []mount.Mount) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), startDeadline)
	defer cancel()
	// No standard streams: what is not read for a while stops its writer, and no
	// gateway reads while it is restarted.
	_, err := d.tasks.Create(ctx, &tasks.CreateTaskRequest{ContainerID: name, Rootfs: mount.ToProto(root)})
	return trim(errgrpc.ToNative(err))
}

// startTask starts a task and returns the pid that containerd tells.
func (d *Driver) startTask(ctx context.Context, name string) (uint32, error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), startDeadline)
	defer cancel()
	r, err := d.tasks.Start(ctx, &tasks.StartRequest{ContainerID: name})
	if err != nil {
		return 0, trim(errgrpc.ToNative(err))
	}
	return r.Pid, nil
}

// endTask kills a task, if it runs, and deletes it. It goes by what the task's
// state is afterwards, not by what kind of error a call returned: runtime-rs
// reports all failures as unknown.
func (d *Driver) endTask(ctx context.Context, name string) error {
	var last error
	for {
		p, err := d.state(ctx, name)
		switch {
		case errdefs.IsNotFound(err):
			return nil
		case err != nil:
			last = err
			if unreachable(err) {
				return fmt.Errorf("containerd does not answer: %w", trim(err))
			}
		case p.Status == task.Status_STOPPED:
			if err := d.deleteTask(ctx, name); err == nil {
				return nil
			} else {
				last = err
			}
		default:
			if err := d.killTask(ctx, name); err == nil {
				continue
			} else {
				last = err
			}
		}
		select {
		case <-time.After(retryPause):
		case <-ctx.Done():
			return fmt.Errorf("cannot end task %s: %w", name, trim(errors.Join(ctx.Err(), last)))
		}
	}
}

// killTask kills a task and waits a while for its end.
func (d *Driver) killTask(ctx context.Context, name string) error {
	call, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	if _, err := d.tasks.Kill(call, &tasks.KillRequest{ContainerID: name, Signal: uint32(unix.SIGKILL)}); err != nil {
		return errgrpc.ToNative(err)
	}
	wait, cancel := context.WithTimeout(ctx, killPatience)
	defer cancel()
	_, err := d.tasks.Wait(wait, &tasks.WaitRequest{ContainerID: name})
	return errgrpc.ToNative(err)
}

func (d *Driver) deleteTask(ctx context.Context, name string) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	_, err := d.tasks.Delete(ctx, &tasks.DeleteTaskRequest{ContainerID: name})
	if err = errgrpc.ToNative(err); errdefs.IsNotFound(err) {
		return nil
	}
	return err
}

// unreachable reports whether containerd, and not something in it, failed to
// answer.
func unreachable(err error) bool {
	return errdefs.IsUnavailable(err) && strings.Contains(err.Error(), "connection error") || isClosed(err)
}

// isClosed reports whether the Driver was closed meanwhile.
func isClosed(err error) bool {
	return status.Code(err) == codes.Canceled && strings.Contains(err.Error(), "closing")
}
