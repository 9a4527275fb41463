package kernels

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"time"

	"kernelgw/sandboxes/agentapi"
)

// Errors of executions that callers test for.
var (
	ErrExecutionNotFound = errors.New("execution does not exist, or its result was forgotten")
	ErrNoInput           = errors.New("no cell waits for input")
)

// Execute has code run in a kernel without a client. To ask again with the same
// id is safe. It waits for a kernel that starts until ctx ends, and not for the
// code. ErrExists when the id is that of other code, ErrLimit when too many wait.
func (m *Manager) Execute(ctx context.Context, workspace, id string, r agentapi.ExecuteRequest) (agentapi.Execution, error) {
	if err := r.Check(); err != nil {
		return agentapi.Execution{}, fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	agent, err := m.executor(ctx, workspace, id, func(k *kernel) bool { return !k.dead() })
	if err != nil {
		return agentapi.Execution{}, err
	}
	e, err := agent.Execute(ctx, r)
	if err != nil {
		return e, m.executionError(err, id, fmt.Errorf("%w: the id of this execution is that of another one", ErrExists))
	}
	return e, nil
}

// Executions lists those of a kernel that are not over.
func (m *Manager) Executions(ctx context.Context, workspace, id string) ([]agentapi.Execution, error) {
	agent, err := m.executor(ctx, workspace, id, withAgent)
	if err != nil {
		return nil, err
	}
	list, err := agent.Executions(ctx)
	if err != nil {
		return nil, m.executionError(err, id, ErrAgent)
	}
	return list, nil
}

// Execution returns one of a kernel's, and its outputs as far as there are any:
// a JSON array.
func (m *Manager) Execution(ctx context.Context, workspace, id, execution string, room agentapi.Room) (agentapi.Execution, json.RawMessage, error) {
	agent, err := m.executor(ctx, workspace, id, withAgent)
	if err != nil {
		return agentapi.Execution{}, nil, err
	}
	e, outputs, err := agent.Execution(ctx, execution, room)
	if err != nil {
		return e, nil, m.executionError(err, id, ErrAgent)
	}
	return e, outputs, nil
}

// WaitExecution returns one when it is over or wants input, or after so long, at
// most agentapi.MaxExecuteWait.
func (m *Manager) WaitExecution(ctx context.Context, workspace, id, execution string, wait time.Duration) (agentapi.Execution, error) {
	agent, err := m.executor(ctx, workspace, id, withAgent)
	if err != nil {
		return agentapi.Execution{}, err
	}
	e, err := agent.WaitExecution(ctx, execution, wait)
	if err != nil {
		return e, m.executionError(err, id, ErrAgent)
	}
	return e, nil
}

// CancelExecution drops an execution that waits, and interrupts one that runs.
func (m *Manager) CancelExecution(ctx context.Context, workspace, id, execution string) error {
	agent, err := m.executor(ctx, workspace, id, withAgent)
	if err != nil {
		return err
	}
	if err := agent.CancelExecution(ctx, execution); err != nil {
		return m.executionError(err, id, fmt.Errorf("%w: it cannot be interrupted", ErrDead))
	}
	return nil
}

// ReplyInput answers what the execution that runs asks. ErrNoInput when it asks
// nothing.
func (m *Manager) ReplyInput(ctx context.Context, workspace, id, value string) error {
	agent, err := m.executor(ctx, workspace, id, withAgent)
	if err != nil {
		return err
	}
	if err := agent.ReplyInput(ctx, value); err != nil {
		return m.executionError(err, id, ErrNoInput)
	}
	return nil
}

// withAgent is for what a dead kernel's agent has, too.
func withAgent(*kernel) bool { return true }

// executor finds the agent of a kernel.
func (m *Manager) executor(ctx context.Context, workspace, id string, ready func(*kernel) bool) (*agentapi.Client, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	k, err := m.reach(ctx, workspace, id, ready)
	if err != nil {
		return nil, err
	}
	return k.agent, nil
}

// executionError turns what an agent answered into an error of this package:
// 409 means conflict.
func (m *Manager) executionError(err error, kernel string, conflict error) error {
	var told *agentapi.StatusError
	var full *agentapi.RoomError
	if errors.As(err, &full) {
		return full
	}
	if errors.As(err, &told) {
		switch told.Code {
		case http.StatusNotFound:
			return ErrExecutionNotFound
		case http.StatusConflict:
			return conflict
		case http.StatusTooManyRequests:
			return fmt.Errorf("%w: too much waits to be executed in this kernel", ErrLimit)
		}
	}
	m.o.Metrics.AgentErrors.WithLabelValues("request").Inc()
	return fmt.Errorf("%w: kernel %s: %w", ErrAgent, kernel, err)
}
