package kernels

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"kernelgw/jupyter"
	"kernelgw/kernelgw/registry"
	"kernelgw/sandboxes"
	"kernelgw/sandboxes/agentapi"
)

// keep makes the sandbox that spec describes and then keeps the kernel in it.
// The result of making it goes to created, which has room for it.
func (m *Manager) keep(ctx context.Context, k *kernel, spec sandboxes.Spec, created chan<- error) {
	defer k.report()
	making, cancel := context.WithTimeout(ctx, m.o.StartTimeout)
	sandbox, err := m.o.Driver.Create(making, spec)
	if err == nil {
		err = m.networkOfNew(making, k, spec) // else it is destroyed below
	}
	cancel()
	created <- err
	if err != nil {
		m.countStart(k, "failed")
		m.o.Metrics.SandboxErrors.WithLabelValues("create").Inc()
		m.o.Log.Error("cannot create a sandbox", "kernel", k.id, "sandbox", spec.ID, "error", err)
		// The cause is for the operator's log: it names the host's paths.
		reason := "its sandbox could not be created"
		if m.ctx.Err() != nil {
			reason = "the gateway stopped while the kernel was starting"
		}
		m.ended(ctx, k, spec.ID, reason)
		return
	}
	m.imageSeen(sandbox)
	m.keepIn(ctx, k, sandbox, false)
}

// keepIn keeps a kernel whose sandbox exists until the sandbox ends or ctx
// does. An adopted one is older than this process.
func (m *Manager) keepIn(ctx context.Context, k *kernel, sandbox sandboxes.Sandbox, adopted bool) {
	defer k.report()
	following, stop := context.WithCancel(ctx)
	var failure string // owned by the follower until it is joined
	var follower sync.WaitGroup
	follower.Go(func() { failure = m.follow(following, k, sandbox, adopted) })
	if adopted {
		follower.Go(func() { m.networkOfAdopted(following, k) })
	}

	exit, err := m.wait(ctx, sandbox.Spec.ID)
	stop()
	follower.Wait()
	if err != nil {
		return // the gateway stops, or the kernel is being shut down
	}
	switch {
	case failure != "":
		m.ended(ctx, k, sandbox.Spec.ID, failure)
	case exit.Reason != "":
		m.ended(ctx, k, sandbox.Spec.ID, exit.Reason)
	case exit.Code == 0:
		// The agent ends so when its kernel was shut down, by whichever way.
		m.terminated(ctx, k, sandbox.Spec.ID)
	default:
		m.ended(ctx, k, sandbox.Spec.ID, fmt.Sprintf("its sandbox ended with exit code %d", exit.Code))
	}
}

// wait waits for a sandbox's end. Its error is only ever that of ctx.
func (m *Manager) wait(ctx context.Context, sandbox string) (sandboxes.Exit, error) {
	for {
		exit, err := m.o.Driver.Wait(ctx, sandbox)
		if err == nil {
			return exit, nil
		}
		if ctx.Err() != nil {
			return sandboxes.Exit{}, ctx.Err()
		}
		if errors.Is(err, sandboxes.ErrNotFound) {
			return sandboxes.Exit{Code: -1, Reason: "its sandbox disappeared", At: time.Now()}, nil
		}
		m.o.Log.Error("cannot watch a sandbox; trying again", "sandbox", sandbox, "error", err)
		select {
		case <-ctx.Done():
		case <-time.After(time.Second):
		}
	}
}

// follow keeps the kernel's status up to date from its agent until ctx ends.
// When the agent of a new sandbox cannot be reached at all, it destroys the
// sandbox and says why. One that an earlier gateway reached may be cut off or
// frozen for a while: its kernel is not killed for that.
func (m *Manager) follow(ctx context.Context, k *kernel, sandbox sandboxes.Sandbox, adopted bool) (failure string) {
	client, err := agentOf(sandbox)
	for err == nil {
		reaching, cancel := context.WithTimeout(ctx, m.o.StartTimeout)
		err = client.WaitReady(reaching)
		cancel()
		if err == nil || !adopted || ctx.Err() != nil {
			break
		}
		m.o.Metrics.AgentErrors.WithLabelValues("ready").Inc()
		m.o.Log.Error("the agent of an adopted kernel does not answer; asking on", "kernel", k.id, "error", err)
		select {
		case <-ctx.Done():
		case <-time.After(time.Second):
		}
		err = nil
	}
	if ctx.Err() != nil {
		return ""
	}
	if err != nil {
		m.o.Metrics.AgentErrors.WithLabelValues("ready").Inc()
		m.countStart(k, "failed")
		m.o.Log.Error("the agent of a new sandbox does not answer", "kernel", k.id, "sandbox", sandbox.Spec.ID, "error", err)
		m.destroy(ctx, sandbox.Spec.ID)
		return "its sandbox did not answer"
	}
	m.mu.Lock()
	k.agent = client
	k.notify()
	m.mu.Unlock()
	var linker sync.WaitGroup
	linker.Go(func() { m.linkFiles(ctx, k, client) })
	linker.Go(func() { m.keepOutputs(ctx, k, client) })
	linker.Go(func() { m.keepOutputLog(ctx, k, client) })
	defer linker.Wait() // ctx has ended by then

	const shortest, longest = 100 * time.Millisecond, 2 * time.Second
	for pause := shortest; ; pause = min(2*pause, longest) {
		err := client.Watch(ctx, func(st agentapi.Status) {
			pause = shortest
			m.observe(k, st)
		})
		select {
		case <-ctx.Done():
			return ""
		case <-time.After(pause):
		}
		m.o.Metrics.AgentErrors.WithLabelValues("watch").Inc()
		m.o.Log.Debug("lost an agent's status; asking again", "kernel", k.id, "error", err)
	}
}

// agentOf returns the client for a sandbox's agent.
func agentOf(s sandboxes.Sandbox) (*agentapi.Client, error) {
	var config agentapi.Config
	if err := json.Unmarshal(s.Spec.AgentConfig, &config); err != nil {
		return nil, fmt.Errorf("cannot read the agent configuration of sandbox %s: %w", s.Spec.ID, err)
	}
	return &agentapi.Client{Endpoint: s.Agent, Token: config.Token}, nil
}

// observe takes over a status that the agent told.
func (m *Manager) observe(k *kernel, told agentapi.Status) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if k.record.Dead || k.removed {
		return // a last word that arrived after the end
	}
	before := k.status
	k.status = trusted(told, before, time.Now())
	m.count(k, before.ExecutionState, k.status.ExecutionState)
	if k.dead() && before.ExecutionState != jupyter.Dead {
		k.deadSince = time.Now()
	}
	m.o.Metrics.Replayed.Add(float64(k.status.Replayed - before.Replayed))
	m.o.Metrics.Dropped.Add(float64(k.status.Dropped - before.Dropped))
	if k.status.Ready && !k.starting.IsZero() {
		m.countStart(k, "ready")
		k.starting = time.Time{}
	}
	if k.status.Terminals > 0 {
		k.emptySince = time.Time{}
	} else if k.emptySince.IsZero() {
		k.emptySince = time.Now()
	}
	k.report()
	k.notify()
}

// countStart counts how the start of a kernel went.
func (m *Manager) countStart(k *kernel, how string) {
	if k.terminals {
		return
	}
	m.o.Metrics.KernelStarts.WithLabelValues(how).Inc()
	if how == "ready" {
		m.o.Metrics.StartSeconds.Observe(time.Since(k.starting).Seconds())
	}
}

// ended marks a kernel dead after its sandbox has ended, and removes what is
// left of the sandbox. Clients learn of it first.
func (m *Manager) ended(ctx context.Context, k *kernel, sandbox, reason string) {
	m.o.Log.Warn("a kernel died", "kernel", k.id, "sandbox", sandbox, "reason", reason)
	if k.terminals { // nobody restarts it
		m.mu.Lock()
		k.status.Reason = printable(reason)
		m.mu.Unlock()
		m.terminated(ctx, k, sandbox)
		return
	}
	m.mu.Lock()
	m.count(k, k.status.ExecutionState, jupyter.Dead)
	k.agent, k.starting = nil, time.Time{}
	k.status.ExecutionState, k.status.Reason, k.status.Ready = jupyter.Dead, printable(reason), false
	k.record.Dead = true // at once, so that a restart makes a new sandbox
	k.deadSince = time.Now()
	k.notify()
	m.mu.Unlock()

	if k.acquire(ctx) != nil {
		return // a shutdown or the gateway's end is on it
	}
	r := k.record
	r.Dead, r.DeadAt, r.Reason = true, k.deadSince, printable(reason)
	if err := m.save(context.WithoutCancel(ctx), k, r); err != nil {
		m.o.Log.Error("cannot record that a kernel died", "kernel", r.ID, "error", err)
	}
	// Not while it is destroyed: that may take long, and a restart or a
	// shutdown need not wait for it.
	k.release()
	m.destroy(ctx, sandbox)
}

// terminated removes a kernel that was shut down from inside or by a client's
// shutdown_request.
func (m *Manager) terminated(ctx context.Context, k *kernel, sandbox string) {
	if k.acquire(ctx) != nil {
		return
	}
	m.o.Log.Info("a kernel ended", "kernel", k.id, "sandbox", sandbox)
	m.remove(ctx, k)
	k.release()
	m.destroyOrReap(sandbox)
}

// remove takes a kernel and its sessions out of the table and the registry.
// The caller holds the kernel's operation.
func (m *Manager) remove(ctx context.Context, k *kernel) {
	ctx = context.WithoutCancel(ctx)
	m.mu.Lock()
	if !k.removed {
		m.count(k, k.status.ExecutionState, "")
	}
	k.removed, k.agent = true, nil
	delete(m.kernels, k.name())
	var orphans []string
	for id, s := range m.sessions {
		if s.kernel() == k.name() {
			orphans = append(orphans, id)
			delete(m.sessions, id)
		}
	}
	k.notify()
	m.mu.Unlock()

	for _, id := range orphans {
		if err := m.o.Store.Delete(ctx, registry.Sessions, id); err != nil {
			m.o.Log.Error("cannot delete a session record", "session", id, "error", err)
		}
	}
	if err := m.o.Store.Delete(ctx, registry.Kernels, k.key); err != nil {
		m.o.Log.Error("cannot delete a kernel record", "kernel", k.id, "error", err)
	}
}
