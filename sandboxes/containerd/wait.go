package containerd

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	tasks "github.com/containerd/containerd/api/services/tasks/v1"
	"github.com/containerd/containerd/api/types/task"
	"github.com/containerd/containerd/v2/pkg/protobuf"
	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"google.golang.org/protobuf/types/known/timestamppb"

	"kernelgw/sandboxes"
	"kernelgw/sandboxes/hostproc"
	"kernelgw/sandboxes/statedir"
)

// Wait implements sandboxes.Driver.
func (d *Driver) Wait(ctx context.Context, id string) (sandboxes.Exit, error) {
	if !d.records.Exists(id) {
		return sandboxes.Exit{}, fmt.Errorf("cannot wait for sandbox %q: %w", id, sandboxes.ErrNotFound)
	}
	exit, err := d.wait(ctx, id)
	if err != nil {
		return sandboxes.Exit{}, fmt.Errorf("cannot wait for sandbox %s: %w", id, statedir.NotFound(err))
	}
	return exit, nil
}

// rereadPause is the longest time between two looks at a task of which nobody
// can tell the end: containerd is being restarted, or its shim is not well.
const rereadPause = 500 * time.Millisecond

func (d *Driver) wait(ctx context.Context, id string) (sandboxes.Exit, error) {
	dir, name := d.records.Path(id), d.names.work(id)
	for pause := 10 * time.Millisecond; ; pause = min(2*pause, rereadPause) {
		if exit, err := statedir.ReadExit(dir); !errors.Is(err, fs.ErrNotExist) {
			return exit, err
		}
		r, err := d.tasks.Wait(ctx, &tasks.WaitRequest{ContainerID: name})
		if err == nil {
			return d.ended(ctx, id, r.ExitStatus, r.ExitedAt)
		}
		if ctx.Err() != nil {
			return sandboxes.Exit{}, ctx.Err()
		}
		if err := errgrpc.ToNative(err); isClosed(err) {
			return sandboxes.Exit{}, err
		}
		// That the wait failed says nothing of the task: containerd may have died,
		// and runtime-rs was seen to fail a Wait for a task that had ended.
		p, err := d.state(ctx, name)
		switch {
		case err == nil && p.Status == task.Status_STOPPED:
			return d.ended(ctx, id, p.ExitStatus, p.ExitedAt)
		case errdefs.IsNotFound(err):
			return d.vanished(id)
		}
		if _, err := os.Stat(dir); err != nil {
			return sandboxes.Exit{}, err
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return sandboxes.Exit{}, ctx.Err()
		}
	}
}

// How long after a kill the news of its reason may take. Out of a guest they have
// a longer way.
const (
	oomPatience      = 300 * time.Millisecond
	guestOOMPatience = 700 * time.Millisecond
)

// ended records the end of a sandbox of which containerd knows the exit code.
func (d *Driver) ended(ctx context.Context, id string, code uint32, at *timestamppb.Timestamp) (sandboxes.Exit, error) {
	exit := sandboxes.Exit{Code: int(code)}
	if at.IsValid() && at.AsTime().Unix() > 0 {
		exit.At = protobuf.FromTimestamp(at)
	}
	switch {
	case code == 137 && d.ranOutOfMemory(ctx, id, orNow(exit.At)):
		sb, err := d.records.Get(id)
		if err != nil {
			return exit, err
		}
		limits, _ := sb.Spec.Resources.Complete(d.opts.Defaults) // it was valid when it was created
		exit.Reason = "killed: memory limit " + sandboxes.FormatBytes(limits.MemoryBytes)
	case code > 128 && code < 128+65:
		exit.Reason = killedBy(int(code) - 128)
	case code == 255 && d.runtime.kata:
		exit.Reason = "its virtual machine ended"
	}
	return statedir.RecordExit(d.records.Path(id), exit)
}

// vanished records the end of a sandbox whose task is gone: its shim was killed
// and containerd tidied up, or the host was restarted.
func (d *Driver) vanished(id string) (sandboxes.Exit, error) {
	exit := sandboxes.Exit{Code: 137, Reason: "killed: the process that looks after it on the host ended"}
	var procs processes
	if err := statedir.Read(d.records.Path(id, processName), &procs); err == nil {
		if now, err := hostproc.Identify(os.Getpid()); err == nil && now.Boot != procs.Pod.Boot {
			exit = sandboxes.Exit{Code: -1, Reason: "unknown: the host restarted"}
		}
	}
	return statedir.RecordExit(d.records.Path(id), exit)
}

// ranOutOfMemory reports whether a process of the sandbox was killed for memory
// when it ended: one that was killed long before was a kernel, whose agent went
// on.
func (d *Driver) ranOutOfMemory(ctx context.Context, id string, end time.Time) bool {
	patience := oomPatience
	if d.runtime.kata {
		patience = guestOOMPatience
	}
	for deadline := time.Now().Add(patience); ; {
		if info, err := os.Stat(d.records.Path(id, oomName)); err == nil && info.ModTime().After(end.Add(-oomEarlier)) {
			return true
		}
		if time.Now().After(deadline) || ctx.Err() != nil {
			return false
		}
		time.Sleep(10 * time.Millisecond) // a file that another gateway may write
	}
}

// oomEarlier is how long before the end the news of the kill may have come.
const oomEarlier = 3 * time.Second

func orNow(t time.Time) time.Time {
	if t.IsZero() {
		return time.Now()
	}
	return t
}
