package containerd

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"syscall"
	"time"

	eventtypes "github.com/containerd/containerd/api/events"
	"github.com/containerd/typeurl/v2"

	"kernelgw/sandboxes"
)

// watchMemory notes, until ctx ends, in which sandboxes a process was killed for
// memory. It notes it in the sandbox's directory, so that whoever finds the end
// knows why, be it after a restart of the gateway. An event that comes twice is
// noted once.
func (d *Driver) watchMemory(ctx context.Context) {
	for ctx.Err() == nil {
		envelopes, errs := d.client.Subscribe(ctx, fmt.Sprintf("topic==%q,namespace==%q", "/tasks/oom", d.opts.Namespace))
		for open := true; open; {
			select {
			case e := <-envelopes:
				if e != nil {
					d.noteMemory(e.Event)
				}
			case <-errs:
				open = false // containerd ended, or ctx
			}
		}
		select {
		case <-time.After(rereadPause):
		case <-ctx.Done():
		}
	}
}

func (d *Driver) noteMemory(event typeurl.Any) {
	decoded, err := typeurl.UnmarshalAny(event)
	if err != nil {
		d.opts.Log.Warn("cannot read an event of containerd", "error", err)
		return
	}
	oom, ok := decoded.(*eventtypes.TaskOOM)
	if !ok {
		return
	}
	id, ours := d.names.sandbox(oom.ContainerID)
	if !ours || !sandboxes.ValidID(id) {
		return
	}
	err = os.WriteFile(d.records.Path(id, oomName), nil, 0o600)
	if err != nil && !errors.Is(err, fs.ErrNotExist) { // it is destroyed already
		d.opts.Log.Warn("cannot note that a sandbox ran out of memory", "sandbox", id, "error", err)
	}
}

// killedBy says by which signal a sandbox ended.
func killedBy(signal int) string {
	return fmt.Sprintf("killed: signal %d (%v)", signal, syscall.Signal(signal))
}
