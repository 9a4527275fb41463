package kernels

import (
	"context"
	"fmt"
	"sync"
	"time"

	"kernelgw/sandboxes"
	"kernelgw/sandboxes/agentapi"
)

// What an image can make of notebooks is asked of an agent in a sandbox that is
// made for the question and in which no code of a user has run: the answer is for
// all workspaces of that image.

const (
	exportersPatience = 30 * time.Second // of a request
	askPatience       = 2 * time.Minute  // of the question
	// exportersPause is how long a failed question is not asked again, and, where
	// kernels run on the host, how long an answer holds: packages come and go there.
	exportersPause = time.Minute
)

// exporters is what is known of an image.
type exporters struct {
	latest string                       // the digest that the image had when a sandbox was made of it last
	digest string                       // the one that known is of; "" when nothing is known
	known  map[string]agentapi.Exporter // by name
	asked  time.Time                    // when the last question was answered, or failed
	failed error                        // of the last question
	asking chan struct{}                // closed when the question that is being asked is over; nil when none is
}

// exportersOf returns the row of an image. The caller holds mu.
func (m *Manager) exportersOf(image string) *exporters {
	x := m.exporters[image]
	if x == nil {
		x = &exporters{}
		m.exporters[image] = x
	}
	return x
}

// imageSeen notes which digest an image has now.
func (m *Manager) imageSeen(sandbox sandboxes.Sandbox) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.exportersOf(sandbox.Spec.Image).latest = sandbox.Image
}

// Exporters returns what the image of a workspace makes of notebooks, by the name
// of the exporter. The first to ask waits for a sandbox.
func (m *Manager) Exporters(ctx context.Context, workspace string) (map[string]agentapi.Exporter, error) {
	ctx, cancel := context.WithTimeout(ctx, exportersPatience)
	defer cancel()
	policy, err := m.policy(ctx, workspace)
	if err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for {
		if !m.ready || m.closed {
			return nil, fmt.Errorf("%w: the gateway is starting or stopping", ErrNotReady)
		}
		x := m.exportersOf(policy.Image)
		recent := time.Since(x.asked) < exportersPause
		switch {
		case x.digest != "" && x.digest == x.latest && (recent || m.o.Driver.Capabilities().Isolated):
			return x.known, nil
		case x.failed != nil && recent:
			return nil, x.failed
		case x.asking == nil:
			x.asking = make(chan struct{})
			m.wg.Go(func() { m.askExporters(policy) })
		}
		asking := x.asking
		m.mu.Unlock()
		select {
		case <-asking:
		case <-ctx.Done():
		}
		m.mu.Lock()
		if ctx.Err() != nil {
			return nil, fmt.Errorf("%w: an image is still being asked for its exporters", ErrNotReady)
		}
	}
}

// askExporters asks in a sandbox of nobody, which a gateway that is killed
// meanwhile leaves to the next to be reaped.
func (m *Manager) askExporters(policy Policy) {
	ctx, cancel := context.WithTimeout(m.ctx, askPatience)
	defer cancel()
	var found map[string]agentapi.Exporter
	sandbox, err := m.makeProbe(ctx, policy)
	if err == nil {
		defer m.destroyOrReap(sandbox.Spec.ID)
		found, err = m.askProbe(ctx, sandbox)
	}
	if err != nil {
		m.o.Log.Error("cannot find out what an image makes of notebooks", "image", policy.Image, "error", err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	x := m.exportersOf(policy.Image)
	if err == nil {
		x.digest, x.latest, x.known = sandbox.Image, sandbox.Image, found
	}
	x.asked, x.failed = time.Now(), err
	close(x.asking)
	x.asking = nil
}

// makeProbe makes a sandbox of the policy's image, without files and network.
func (m *Manager) makeProbe(ctx context.Context, policy Policy) (sandboxes.Sandbox, error) {
	policy.Network = sandboxes.NetworkPolicy{}
	if m.o.Driver.Capabilities().NetworkPolicy {
		policy.Network.Egress = sandboxes.EgressNone
	}
	r := record{ID: probeID, Policy: &policy}
	r.Sandbox = r.sandboxID()
	spec, err := m.sandboxSpecOf(r, agentapi.Config{MemoryBytes: policy.Resources.MemoryBytes, Processes: policy.Resources.Processes})
	if err != nil {
		return sandboxes.Sandbox{}, err
	}
	sandbox, err := m.o.Driver.Create(ctx, spec)
	if err != nil {
		m.o.Metrics.SandboxErrors.WithLabelValues("create").Inc()
		return sandbox, fmt.Errorf("%w: %w", ErrStart, err)
	}
	return sandbox, nil
}

// askProbe asks until there is an answer, or the sandbox has ended.
func (m *Manager) askProbe(ctx context.Context, sandbox sandboxes.Sandbox) (map[string]agentapi.Exporter, error) {
	agent, err := agentOf(sandbox)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	var watching sync.WaitGroup
	defer watching.Wait()
	defer cancel(nil)
	watching.Go(func() {
		if exit, err := m.wait(ctx, sandbox.Spec.ID); err == nil {
			cancel(fmt.Errorf("%w: its sandbox ended: %s (exit code %d)", ErrStart, exit.Reason, exit.Code))
		}
	})
	err = agent.WaitReady(ctx)
	var found map[string]agentapi.Exporter
	if err == nil {
		found, err = agent.Exporters(ctx)
	}
	switch {
	case err == nil, isMissing(err):
		return found, nil
	case ctx.Err() != nil:
		return nil, context.Cause(ctx)
	}
	return nil, fmt.Errorf("%w: %w", ErrAgent, err)
}
