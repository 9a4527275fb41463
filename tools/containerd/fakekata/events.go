package main

import (
	"context"
	"strings"

	eventtypes "github.com/containerd/containerd/api/events"
	"github.com/containerd/containerd/v2/core/events"
	"github.com/containerd/containerd/v2/pkg/shim"
)

// odd publishes events as runtime-rs does: none of pausing and of further
// processes, the end twice, and of a deletion not whose.
type odd struct{ shim.Publisher }

func (o odd) Publish(ctx context.Context, topic string, event events.Event) error {
	if isGo() {
		return o.Publisher.Publish(ctx, topic, event)
	}
	switch e := event.(type) {
	case *eventtypes.TaskPaused, *eventtypes.TaskResumed, *eventtypes.TaskExecAdded, *eventtypes.TaskExecStarted:
		return nil
	case *eventtypes.TaskExit:
		if err := o.Publisher.Publish(ctx, topic, event); err != nil {
			return err
		}
	case *eventtypes.TaskDelete:
		if strings.TrimSpace(e.ID) == "" {
			e.ID = e.ContainerID
		}
		e.ContainerID = ""
	}
	return o.Publisher.Publish(ctx, topic, event)
}
