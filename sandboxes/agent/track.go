package agent

import (
	"bytes"
	"sync"
	"sync/atomic"
	"time"

	"kernelgw/jupyter"
	"kernelgw/sandboxes/agentapi"
)

// tracker derives a kernel's state from its messages, by the rules of
// jupyter_server (AsyncMappingKernelManager.start_watching_activity).
type tracker struct {
	activity atomic.Int64 // unix nanoseconds
	busy     atomic.Bool
	changed  func() // set at construction; called without the lock

	mu      sync.Mutex
	state   jupyter.State
	reason  string
	ready   bool
	starts  int
	running map[string]struct{} // msg_ids of execute requests without an answer
	cell    []byte              // header of the execute request that last became busy
	given   []byte              // header of the one that came last when all were answered
}

// maxRunning bounds what a client can make the tracker remember.
const maxRunning = 10_000

func newTracker(changed func()) *tracker {
	t := &tracker{changed: changed, state: jupyter.Starting, running: make(map[string]struct{})}
	t.activity.Store(time.Now().UnixNano())
	return t
}

// untracked tells whether messages with a parent of that type say nothing about
// what users do (jupyter_server, MappingKernelManager.untracked_message_types).
func untracked(rawType []byte) bool {
	switch string(rawType) {
	case `"comm_info_request"`, `"comm_info_reply"`,
		`"kernel_info_request"`, `"kernel_info_reply"`,
		`"shutdown_request"`, `"shutdown_reply"`,
		`"interrupt_request"`, `"interrupt_reply"`,
		`"debug_request"`, `"debug_reply"`:
		return true
	}
	return false
}

// iopub takes note of a message that the kernel published. tracked says that
// its parent is a request of a user.
func (t *tracker) iopub(kind kind, m *jupyter.Message, tracked bool) {
	if tracked || t.busy.Load() {
		t.activity.Store(time.Now().UnixNano())
	}
	if kind != kindStatus {
		return
	}
	state := jupyter.State(jupyter.PeekString(m.Content, "execution_state"))
	switch state {
	case jupyter.Starting, jupyter.Idle, jupyter.Busy:
	default:
		return // not a kernel's to say: the agent knows when it is dead
	}
	t.mu.Lock()
	before, executions := t.state, len(t.running)
	switch {
	case t.state == jupyter.Dead:
	case tracked:
		t.state = state
	case t.state == jupyter.Starting && state != jupyter.Starting:
		t.state = jupyter.Idle
	}
	t.busy.Store(t.state == jupyter.Busy)
	if tracked {
		switch state {
		case jupyter.Busy:
			if string(jupyter.PeekRaw(m.ParentHeader, "msg_type")) == `"execute_request"` {
				t.cell = bytes.Clone(m.ParentHeader)
			}
		case jupyter.Idle:
			delete(t.running, jupyter.PeekID(m.ParentHeader))
		}
	}
	changed := before != t.state || executions != len(t.running)
	t.mu.Unlock()
	if changed {
		t.changed()
	}
}

// reply takes note of an answer on shell.
func (t *tracker) reply(parentID string) {
	t.mu.Lock()
	_, known := t.running[parentID]
	delete(t.running, parentID)
	t.mu.Unlock()
	if known {
		t.activity.Store(time.Now().UnixNano())
		t.changed()
	}
}

// request takes note of an execute request and reports whether it is one more
// to be answered.
func (t *tracker) request(id string, header []byte) (news bool) {
	t.mu.Lock()
	if _, known := t.running[id]; !known && len(t.running) < maxRunning {
		if len(t.running) == 0 {
			t.given = bytes.Clone(header)
		}
		t.running[id] = struct{}{}
		news = true
	}
	t.mu.Unlock()
	t.activity.Store(time.Now().UnixNano())
	t.changed()
	return news
}

// refused: the kernel did not take an execute request.
func (t *tracker) refused(id string) {
	t.mu.Lock()
	delete(t.running, id)
	t.mu.Unlock()
	t.changed()
}

// started: a new kernel process is there.
func (t *tracker) started() {
	t.mu.Lock()
	t.starts++
	t.mu.Unlock()
	t.changed()
}

// starting: a new kernel process will follow, for which these requests wait.
func (t *tracker) starting(reason string, waiting []string) {
	t.mu.Lock()
	t.reason = reason
	t.begin(waiting)
	t.mu.Unlock()
	t.changed()
}

// begin needs the lock.
func (t *tracker) begin(waiting []string) {
	t.state, t.ready, t.cell = jupyter.Starting, false, nil
	t.busy.Store(false)
	clear(t.running)
	for _, id := range waiting {
		t.running[id] = struct{}{}
	}
}

// answered: the kernel process is ready.
func (t *tracker) answered() {
	t.mu.Lock()
	t.ready = true
	if t.state == jupyter.Starting {
		t.state = jupyter.Idle
	}
	t.mu.Unlock()
	t.changed()
}

// died: the kernel is dead and stays so.
func (t *tracker) died(reason string) {
	t.mu.Lock()
	t.begin(nil)
	t.state, t.reason = jupyter.Dead, reason
	t.mu.Unlock()
	t.changed()
}

func (t *tracker) currentReason() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.reason
}

func (t *tracker) clearReason() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.reason = ""
}

// describe fills in what the tracker knows.
func (t *tracker) describe(s *agentapi.Status) {
	t.mu.Lock()
	defer t.mu.Unlock()
	s.ExecutionState = t.state
	s.Ready = t.ready
	s.Reason = t.reason
	s.Executions = len(t.running)
	s.Starts = t.starts
	s.LastActivity = time.Unix(0, t.activity.Load()).UTC()
}

// runningCell is the header of the execute request that is being executed, nil
// when there is none.
func (t *tracker) runningCell() []byte {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.state != jupyter.Busy {
		return nil
	}
	return t.cell
}

// deadlyCell is the header of the execute request during which a kernel ended: the
// one that is being executed or, where none is known to be, the one that is to be.
// A cell can be the end of a kernel before that has said that it is busy with it.
func (t *tracker) deadlyCell() []byte {
	if cell := t.runningCell(); cell != nil {
		return cell
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if _, unanswered := t.running[jupyter.PeekID(t.given)]; !unanswered {
		return nil
	}
	return t.given
}
