package containerd

import (
	"context"
	"errors"
	"testing"

	tasks "github.com/containerd/containerd/api/services/tasks/v1"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/emptypb"
)

// busyHost is a containerd whose runc fails to freeze so many times.
type busyHost struct {
	tasks.TasksClient
	fails int
	says  string
	asked int
}

func (h *busyHost) Pause(context.Context, *tasks.PauseTaskRequest, ...grpc.CallOption) (*emptypb.Empty, error) {
	if h.asked++; h.asked <= h.fails {
		return nil, errors.New(h.says)
	}
	return &emptypb.Empty{}, nil
}

func TestWhatCannotBeFrozenOnABusyHostIsTriedAgain(t *testing.T) {
	for _, c := range []struct {
		host  busyHost
		asked int
		fails bool
	}{
		{busyHost{}, 1, false},
		{busyHost{fails: 3, says: "OCI runtime pause failed: unable to freeze: unknown"}, 4, false},
		{busyHost{fails: pauses, says: "unable to freeze"}, pauses, true},
		{busyHost{fails: 3, says: "container not running"}, 1, true},
	} {
		if err := pause(t.Context(), &c.host, "x"); (err != nil) != c.fails || c.host.asked != c.asked {
			t.Errorf("%q, %d times: %v after %d calls", c.host.says, c.host.fails, err, c.host.asked)
		}
	}
	over, cancel := context.WithCancel(t.Context())
	cancel()
	if err := pause(over, &busyHost{fails: 1 << 30, says: "unable to freeze"}, "x"); err == nil {
		t.Error("nobody waits any more, and it goes on")
	}
}
