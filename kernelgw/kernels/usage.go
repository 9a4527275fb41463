package kernels

import (
	"context"
	"fmt"

	"kernelgw/sandboxes/agentapi"
)

// Usage returns what a kernel's sandbox uses now, as its agent tells it.
// ErrNotReady while no agent listens, ErrDead when none will.
func (m *Manager) Usage(ctx context.Context, workspace, id string) (agentapi.Usage, error) {
	m.mu.Lock()
	k, err := m.find(workspace, id)
	if err != nil {
		m.mu.Unlock()
		return agentapi.Usage{}, err
	}
	agent, dead := k.agent, k.dead()
	m.mu.Unlock()
	switch {
	case dead:
		return agentapi.Usage{}, fmt.Errorf("%w: it uses nothing", ErrDead)
	case agent == nil:
		return agentapi.Usage{}, fmt.Errorf("%w: it is starting", ErrNotReady)
	}
	told, err := agent.Usage(ctx)
	if err != nil {
		m.o.Metrics.AgentErrors.WithLabelValues("request").Inc()
		return agentapi.Usage{}, fmt.Errorf("%w: cannot ask kernel %s what it uses: %w", ErrAgent, id, err)
	}
	// An agent can say what it likes: a page shows no negative sizes.
	told.CPUSeconds, told.MemoryBytes = max(told.CPUSeconds, 0), max(told.MemoryBytes, 0)
	told.Processes, told.LogBytes = max(told.Processes, 0), max(told.LogBytes, 0)
	return told, nil
}
