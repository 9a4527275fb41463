package kernels

import (
	"context"
	"strings"
	"sync"
	"time"
	"unicode"

	"kernelgw/jupyter"
	"kernelgw/sandboxes"
	"kernelgw/sandboxes/agentapi"
)

// kernel is the Manager's view of one kernel.
type kernel struct {
	// set at construction; the first of them as in the record
	id, workspace, owner, key string
	terminals                 bool // it is the sandbox of a workspace's terminals

	op       chan struct{} // holds a token while an operation changes the kernel: one at a time
	reported chan struct{} // closed at the first word from the agent, or at the end of its keeper
	policing chan struct{} // holds a token while the sandbox's network policy is changed: one at a time
	saving   chan struct{} // holds a token while outputs are saved: one at a time
	storing  chan struct{} // holds a token while parts of output are stored: one at a time
	ending   chan struct{} // closed when it is being shut down
	sealing  *sealPace

	interims map[string]interim // by notebook; owned by the holder of saving

	reporting  sync.Once // closes reported
	endingOnce sync.Once // closes ending

	// guarded by Manager.mu
	record      record
	status      agentapi.Status          // the last that the agent told, made safe
	agent       *agentapi.Client         // nil while no agent listens
	network     *sandboxes.NetworkPolicy // what the sandbox has; nil when that is not known
	starting    time.Time                // when the current start was asked for; zero once it is ready
	deadSince   time.Time                // when the execution state became dead
	emptySince  time.Time                // since when a sandbox of terminals has none; zero while it has some
	held        int                      // who uses a sandbox of terminals without one
	connections int
	joined      uint64 // connections that there have ever been
	stored      int    // parts of its output
	removed     bool
	changed     chan struct{}      // closed and replaced at every change of the above
	stopKeeper  context.CancelFunc // of the current keeper
	kept        chan struct{}      // closed when the current keeper has ended
}

func newKernel(r record) *kernel {
	kept := make(chan struct{})
	close(kept)
	return &kernel{
		id: r.ID, workspace: r.Workspace, owner: r.Owner, key: r.key, terminals: r.isTerminals(),
		op: make(chan struct{}, 1), reported: make(chan struct{}), policing: make(chan struct{}, 1),
		saving: make(chan struct{}, 1), storing: make(chan struct{}, 1), ending: make(chan struct{}), sealing: newSealPace(), interims: map[string]interim{},
		record:  r,
		status:  agentapi.Status{KernelID: r.ID, ExecutionState: jupyter.Starting, LastActivity: r.CreatedAt},
		changed: make(chan struct{}), stopKeeper: func() {}, kept: kept,
	}
}

func (k *kernel) name() name { return name{k.workspace, k.id} }

// acquire waits for the right to change the kernel. The caller must release.
func (k *kernel) acquire(ctx context.Context) error {
	select {
	case k.op <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (k *kernel) release() { <-k.op }

func (k *kernel) waitReported(ctx context.Context) bool {
	select {
	case <-k.reported:
		return true
	case <-ctx.Done():
		return false
	}
}

// report marks that the kernel's state is known. Whoever asked the agent may do
// so while the keeper ends.
func (k *kernel) report() { k.reporting.Do(func() { close(k.reported) }) }

// ends marks that the kernel is being shut down.
func (k *kernel) ends() { k.endingOnce.Do(func() { close(k.ending) }) }

// isEnding reports whether the kernel is being shut down.
func (k *kernel) isEnding() bool {
	select {
	case <-k.ending:
		return true
	default:
		return false
	}
}

// notify wakes all who wait for a change. The caller holds Manager.mu.
func (k *kernel) notify() {
	close(k.changed)
	k.changed = make(chan struct{})
}

// snapshot is the kernel as callers see it. The caller holds Manager.mu.
func (k *kernel) snapshot() Kernel {
	return Kernel{
		ID: k.id, Workspace: k.workspace, Name: k.record.Name,
		ExecutionState: k.status.ExecutionState, LastActivity: k.status.LastActivity,
		Connections: k.connections, Reason: k.status.Reason,
	}
}

// dead reports whether the kernel process is gone for good. The caller holds
// Manager.mu.
func (k *kernel) dead() bool {
	return k.removed || k.status.ExecutionState == jupyter.Dead
}

// maxReason bounds what an agent may put into models, logs and pages.
const maxReason = 300

// trusted returns st with everything in range: an agent can say what it likes.
func trusted(st agentapi.Status, previous agentapi.Status, now time.Time) agentapi.Status {
	switch st.ExecutionState {
	case jupyter.Starting, jupyter.Idle, jupyter.Busy, jupyter.Dead:
	default:
		st.ExecutionState = previous.ExecutionState
	}
	if st.LastActivity.After(now) {
		st.LastActivity = now
	}
	if st.LastActivity.Before(previous.LastActivity) {
		st.LastActivity = previous.LastActivity
	}
	st.Replayed = counted(st.Replayed, previous.Replayed)
	st.Dropped = counted(st.Dropped, previous.Dropped)
	st.Reason = printable(st.Reason)
	st.Terminals = min(max(st.Terminals, 0), maxTerminalsTold)
	st.Unsaved = min(max(st.Unsaved, 0), maxUnsavedTold)
	st.LogParts = min(max(st.LogParts, 0), maxPartsTold)
	return st
}

// counted bounds a counter that an agent tells: it does not go back, and one
// status adds no more than a log can hold, or one lie would spoil the metric.
func counted(told, previous uint64) uint64 {
	const most = 1 << 20
	return min(max(told, previous), previous+most)
}

// printable returns s without control characters, cut to maxReason bytes.
func printable(s string) string {
	if len(s) > maxReason {
		s = s[:maxReason] + "..."
	}
	return strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return ' '
	}, strings.ToValidUTF8(s, " "))
}
