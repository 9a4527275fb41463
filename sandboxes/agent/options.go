// Package agent is the process inside every sandbox: it runs one kernel, speaks
// ZeroMQ to it, keeps what it says in an event log, and serves it to WebSockets
// by the contract of package agentapi. It knows nothing of gateways, drivers or
// other kernels.
//
// Who owns what: Agent.Run is the supervisor, the only one that starts and ends
// kernel processes (supervisor.go). The hub (hub.go) takes messages both ways,
// numbers and routes them; it outlives each kernel process. A socket (socket.go)
// is one WebSocket, a client (client.go) its memory between two of them.
package agent

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"time"

	"kernelgw/sandboxes/agentapi"
)

// Options are what an Agent needs to run.
type Options struct {
	Config agentapi.Config

	// Listener is where the API is served. Run closes it.
	Listener net.Listener

	// User is who the kernel runs as; nil means the agent's own user.
	User *User

	// Home is the kernel's home directory, where a relative Config.Cwd begins.
	// Empty means $HOME, or / without one.
	Home string

	// RuntimeDir holds the kernel's connection files, each in a directory that
	// only the kernel's user can enter. Empty means os.TempDir().
	RuntimeDir string

	// OwnsDescendants says that each descendant of this process belongs to the
	// kernel: they are counted for limits and killed with it, also those that
	// left its process group. Only a process that calls Harden can say so.
	OwnsDescendants bool

	Log *slog.Logger // nil means no log
}

// User is an operating system user by number. Every process of its user id is
// taken for the kernel's, and killed with it.
type User struct{ UID, GID uint32 }

// noUser is what setresuid takes for "no change".
const noUser = 1<<32 - 1

// Times that rule a kernel's life.
const (
	politeExit     = 5 * time.Second  // from shutdown_request to SIGTERM
	termExit       = 1 * time.Second  // from SIGTERM to SIGKILL
	lastWords      = time.Second      // for what a dead kernel left in its sockets
	livedLong      = 60 * time.Second // a kernel that was ready so long starts the count of restarts anew
	maxRestarts    = 5                // in a row, by the agent itself
	nudgeEvery     = 500 * time.Millisecond
	portCollisions = 5 // starts that failed with "address in use", not counted as restarts
)

func (o Options) withDefaults() (Options, error) {
	c := &o.Config
	if c.Token == "" {
		return o, errors.New("the configuration has no token")
	}
	if c.HasKernel() && len(c.Spec.Argv) == 0 {
		return o, errors.New("the configuration has no kernelspec argv")
	}
	switch c.Spec.InterruptMode {
	case "", "signal", "message":
	default:
		return o, fmt.Errorf("interrupt_mode %q of the kernelspec is neither signal nor message", c.Spec.InterruptMode)
	}
	if c.LogBytes < 0 || c.MaxMessageBytes < 0 || c.MemoryBytes < 0 || c.Processes < 0 {
		return o, errors.New("a limit in the configuration is negative")
	}
	if c.Caps.CellBytes < 0 || c.Caps.SecondBytes < 0 || c.OutputLog != nil && c.OutputLog.SpoolBytes < 0 {
		return o, errors.New("a budget of output in the configuration is negative")
	}
	if log := c.OutputLog; log != nil && log.SpoolBytes == 0 {
		withRoom := *log
		withRoom.SpoolBytes = agentapi.DefaultSpoolBytes
		c.OutputLog = &withRoom
	}
	if c.MaxTerminals < 0 || c.TerminalIdle < 0 {
		return o, errors.New("a limit on terminals in the configuration is negative")
	}
	if c.MaxTerminals == 0 {
		c.MaxTerminals = agentapi.DefaultMaxTerminals
	}
	if c.TerminalIdle == 0 {
		c.TerminalIdle = agentapi.DefaultTerminalIdle
	}
	if c.LogBytes == 0 {
		c.LogBytes = agentapi.DefaultLogBytes
	}
	if c.MaxMessageBytes == 0 {
		c.MaxMessageBytes = agentapi.DefaultMaxMessageBytes
	}
	if o.User != nil && (o.User.UID == 0 || o.User.UID >= nobodyAtAll) {
		return o, fmt.Errorf("the kernel cannot run as user %d", o.User.UID)
	}
	if o.Listener == nil {
		return o, errors.New("no listener")
	}
	if o.Home == "" {
		o.Home = os.Getenv("HOME")
	}
	if o.Home == "" {
		o.Home = "/"
	}
	if o.RuntimeDir == "" {
		o.RuntimeDir = os.TempDir()
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return o, nil
}
