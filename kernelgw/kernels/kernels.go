// Package kernels is the life of kernels: it starts a sandbox for each, waits
// for its agent, follows its state, and ends it; it adopts again what an
// earlier gateway process left running. It knows nothing of HTTP routes.
package kernels

import (
	"context"
	"errors"
	"time"

	"kernelgw/jupyter"
	"kernelgw/sandboxes"
)

// Errors that callers test for.
var (
	ErrNotFound    = errors.New("kernel does not exist")
	ErrExists      = errors.New("kernel exists already")
	ErrUnknownSpec = errors.New("no such kernelspec")
	ErrInvalid     = errors.New("invalid request") // the text says what
	ErrNotReady    = errors.New("kernel is not ready")
	ErrDead        = errors.New("kernel is dead")
	ErrStart       = errors.New("kernel could not be started")
	ErrLimit       = errors.New("limit reached")
	ErrAgent       = errors.New("the kernel's sandbox did not answer")
)

// Kernel is a snapshot of one kernel.
type Kernel struct {
	ID             string
	Workspace      string
	Name           string // of the kernelspec
	ExecutionState jupyter.State
	LastActivity   time.Time
	Connections    int
	Reason         string // why it is dead or restarted; "" when nothing went wrong
}

// StartRequest describes a kernel to start.
type StartRequest struct {
	Workspace string
	Owner     string            // issuer and subject of the user
	Own       bool              // it is that user who asks, and not a capability
	KernelID  string            // "" means a new one
	Name      string            // "" means the default kernelspec; "python" also finds "python3"
	Cwd       string            // directory to start in, relative to the workspace
	Env       map[string]string // from the client, with limits checked: KERNEL_* is kept, the rest left out silently

	document string // path of the session's document, told to the kernel
}

// Specs is what can be started.
type Specs struct {
	Default string
	Specs   map[string]sandboxes.Kernelspec
}

// Connection is an admitted WebSocket's way to a kernel's agent.
type Connection struct {
	Agent sandboxes.Endpoint
	Token string
	// Close gives the place back; it must be called exactly once.
	Close func()
	// Dead waits at most until ctx ends for the kernel's end and reports it.
	Dead func(ctx context.Context) (reason string, dead bool)
}
