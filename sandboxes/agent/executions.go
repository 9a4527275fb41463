package agent

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"kernelgw/jupyter"
	"kernelgw/jupyter/outputs"
	"kernelgw/sandboxes/agentapi"
)

// executions runs code without a client: it asks the kernel in a header session
// of its own, one request after the other, and collects what comes back from
// the messages that all clients get. It has no goroutine: what happens to an
// execution happens with the message that says so.
type executions struct {
	// set at construction
	hub     *hub
	session string
	news    *news // of states

	interrupt func() error // set before Run

	// current is what the kernel has; nil for none. Stored under mu.
	current atomic.Pointer[execution]

	mu       sync.Mutex
	byID     map[string]*execution // guarded by mu
	queue    []*execution          // guarded by mu
	finished []*execution          // guarded by mu; oldest first
	kept     int                   // guarded by mu: bytes of finished
}

// execution is one request and what came of it.
type execution struct {
	// set at construction
	request agentapi.ExecuteRequest // without the code
	digest  [sha256.Size]byte       // of the code
	rawID   []byte                  // its id as JSON
	queued  time.Time

	// guarded by executions.mu
	message       *jupyter.Message // nil when it is over
	state         agentapi.ExecutionState
	outputs       *outputs.Collector
	input         *agentapi.InputRequest
	problem       string
	died          bool // with the kernel
	cancelled     bool
	replied, idle bool
	started       time.Time
	ended         time.Time
}

// Limits of executions.
const (
	maxQueued      = 100
	maxQueuedBytes = 16 << 20
	maxFinished    = 200
	maxKept        = 32 << 20 // bytes of outputs of those that are over; the last is kept in any case
	maxPrompt      = 16 << 10
	interruptsMore = 5
	interruptEvery = time.Second
	maxShownError  = 64 << 10
)

// Reasons why a request is not taken.
var (
	errTaken    = errors.New("there is another execution of that id")
	errManyWait = fmt.Errorf("%d executions wait, which is as many as may", maxQueued)
	errUnknown  = errors.New("there is no such execution, or it was forgotten")
	errNoInput  = errors.New("nothing that runs waits for input")
)

func newExecutions(h *hub) *executions {
	return &executions{hub: h, session: jupyter.NewID(), news: newNews(), byID: make(map[string]*execution)}
}

// submit takes a request, or finds the execution that it has begun before.
func (x *executions) submit(r agentapi.ExecuteRequest) (agentapi.Execution, error) {
	e := &execution{
		digest: sha256.Sum256([]byte(r.Code)), rawID: strconv.AppendQuote(nil, r.ID), queued: time.Now(),
		state: agentapi.ExecutionQueued, outputs: outputs.New(outputs.Options{}),
	}
	var err error
	if e.message, err = x.requestMessage(r); err != nil {
		return agentapi.Execution{}, err
	}
	r.Code = ""
	e.request = r
	x.mu.Lock()
	defer x.mu.Unlock()
	if old := x.byID[r.ID]; old != nil {
		if old.digest != e.digest || old.request != r {
			return agentapi.Execution{}, errTaken
		}
		return old.describe(), nil
	}
	waiting := e.message.Size()
	for _, other := range x.queue {
		waiting += other.message.Size()
	}
	if len(x.queue) >= maxQueued || waiting > maxQueuedBytes {
		return agentapi.Execution{}, errManyWait
	}
	x.byID[r.ID] = e
	x.queue = append(x.queue, e)
	x.pump()
	x.changed()
	return e.describe(), nil
}

// requestMessage makes the execute_request. Its id is that of the execution, and
// the cell is named as JupyterLab names it.
func (x *executions) requestMessage(r agentapi.ExecuteRequest) (*jupyter.Message, error) {
	m, err := jupyter.NewMessage(jupyter.Shell, "execute_request", x.session, struct {
		Code            string   `json:"code"`
		Silent          bool     `json:"silent"`
		StoreHistory    bool     `json:"store_history"`
		UserExpressions struct{} `json:"user_expressions"`
		AllowStdin      bool     `json:"allow_stdin"`
		StopOnError     bool     `json:"stop_on_error"`
	}{r.Code, r.Silent, r.StoreHistory, struct{}{}, r.AllowStdin, r.StopOnError})
	if err != nil {
		return nil, err
	}
	header := jupyter.NewHeader("execute_request", x.session)
	header.MsgID = r.ID
	if m.Header, err = json.Marshal(header); err != nil {
		return nil, fmt.Errorf("cannot encode the header of an execution: %w", err)
	}
	if r.CellID != "" {
		m.Metadata, err = json.Marshal(map[string]string{"cellId": r.CellID})
	}
	return m, err
}

// pump gives the kernel the next request, if it can take one. It needs the lock.
func (x *executions) pump() {
	for x.current.Load() == nil && len(x.queue) > 0 {
		e := x.queue[0]
		x.current.Store(e) // before the kernel has it: the answer may be faster
		taken, err := x.hub.inbound.offer(x.hub, e.message, e.request.ID)
		if !taken {
			x.current.Store(nil)
		}
		switch {
		case err != nil:
			x.queue = x.queue[1:]
			e.problem = "not executed: " + err.Error()
			x.over(e, agentapi.ExecutionDone)
			continue
		case !taken:
			return // the kernel starts; kernelReady follows
		}
		x.queue = x.queue[1:]
		e.state = agentapi.ExecutionRunning
	}
}

// kernelReady is called when a kernel process begins to answer.
func (x *executions) kernelReady() {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.pump()
	x.changed()
}

// take takes a message of the kernel if it belongs to the execution that runs,
// and reports whether it does.
func (x *executions) take(m *jupyter.Message) bool {
	e := x.current.Load()
	if e == nil || !bytes.Equal(jupyter.PeekRaw(m.ParentHeader, "msg_id"), e.rawID) {
		return false
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.current.Load() != e {
		return true // it was over in this moment
	}
	switch m.Channel {
	case jupyter.Stdin:
		x.asked(e, m)
	case jupyter.Shell:
		e.outputs.Take(m)
		e.replied, e.ended = true, time.Now()
	case jupyter.IOPub:
		x.published(e, m)
	}
	if e.replied && e.idle {
		x.current.Store(nil)
		x.completed(e)
		x.pump()
		x.changed()
	}
	return true
}

// published takes an iopub message. It needs the lock.
func (x *executions) published(e *execution, m *jupyter.Message) {
	if kindOf(jupyter.PeekRaw(m.Header, "msg_type")) == kindStatus {
		switch jupyter.State(jupyter.PeekString(m.Content, "execution_state")) {
		case jupyter.Busy:
			if e.started.IsZero() {
				e.started = time.Now()
			}
		case jupyter.Idle:
			e.idle = true
		}
		return
	}
	shown := e.outputs.Take(m)
	if shown.ID == "" {
		return
	}
	for _, other := range x.finished {
		x.kept -= other.outputs.Size()
		other.outputs.Show(shown)
		x.kept += other.outputs.Size()
	}
	x.forgetOldest()
}

// asked takes an input_request. It needs the lock.
func (x *executions) asked(e *execution, m *jupyter.Message) {
	if !e.request.AllowStdin || !isType(m, `"input_request"`) || !json.Valid(m.Header) || len(m.Header) > maxRememberedParent {
		return
	}
	prompt := jupyter.PeekString(m.Content, "prompt")
	e.input = &agentapi.InputRequest{
		Header: bytes.Clone(m.Header), Prompt: prompt[:min(len(prompt), maxPrompt)],
		Password: string(jupyter.PeekRaw(m.Content, "password")) == "true",
	}
	e.state = agentapi.ExecutionInput
	x.changed()
}

// completed ends an execution that the kernel is done with, and what waits
// behind it if it failed. It needs the lock.
func (x *executions) completed(e *execution) {
	switch e.outputs.Status() {
	case "ok", "error":
	case "aborted", "abort":
		e.problem = "not executed: a cell before it failed"
	default:
		e.problem = "the kernel's reply cannot be read"
	}
	state := agentapi.ExecutionDone
	if e.cancelled {
		state = agentapi.ExecutionCancelled
	}
	x.over(e, state)
	if e.outputs.Status() == "error" && e.request.StopOnError {
		x.drop("not executed: a cell before it failed")
	}
}

// drop ends all that waits. It needs the lock.
func (x *executions) drop(problem string) {
	for _, e := range x.queue {
		e.problem = problem
		x.over(e, agentapi.ExecutionDone)
	}
	x.queue = nil
}

// broken is called when the kernel process has ended: what it ran ends with an
// error, and what waited for it is not executed, as its successor knows nothing
// of the cells before.
func (x *executions) broken(reason string) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if e := x.current.Load(); e != nil {
		x.current.Store(nil)
		e.died = true
		e.outputs.Fail(&outputs.Error{Name: "DeadKernelError", Value: reason, Traceback: []string{"DeadKernelError: " + reason}})
		x.over(e, agentapi.ExecutionDone)
	}
	x.drop("not executed: " + reason)
	x.changed()
}

// over ends an execution. It needs the lock.
func (x *executions) over(e *execution, state agentapi.ExecutionState) {
	e.state, e.input, e.message = state, nil, nil
	if e.ended.IsZero() {
		e.ended = time.Now()
	}
	if e.started.After(e.ended) { // replies and status come by different sockets
		e.started = e.ended
	}
	x.finished = append(x.finished, e)
	x.kept += e.outputs.Size()
	x.forgetOldest()
}

// forgetOldest forgets the oldest that are over when they are too many. It needs
// the lock.
func (x *executions) forgetOldest() {
	for len(x.finished) > maxFinished || x.kept > maxKept && len(x.finished) > 1 {
		oldest := x.finished[0]
		x.finished = slices.Delete(x.finished, 0, 1)
		x.kept -= oldest.outputs.Size()
		delete(x.byID, oldest.request.ID)
	}
}

// cancel drops an execution that waits and interrupts one that runs. One that
// is over stays as it is.
func (x *executions) cancel(id string) error {
	x.mu.Lock()
	defer x.mu.Unlock()
	e := x.byID[id]
	switch {
	case e == nil:
		return errUnknown
	case e.state.Over():
		return nil
	case e.state == agentapi.ExecutionQueued:
		x.queue = slices.DeleteFunc(x.queue, func(other *execution) bool { return other == e })
		e.problem = "cancelled before it was executed"
		x.over(e, agentapi.ExecutionCancelled)
		x.changed()
		return nil
	}
	e.cancelled = true
	return x.interruptUntilOver(e, interruptsMore)
}

// interruptUntilOver interrupts what runs, and does so again some times: a
// kernel that has not begun yet, or that catches it in the wrong place, goes on.
// It needs the lock.
func (x *executions) interruptUntilOver(e *execution, more int) error {
	err := x.interrupt()
	if err == nil && more > 0 {
		time.AfterFunc(interruptEvery, func() {
			x.mu.Lock()
			defer x.mu.Unlock()
			if x.current.Load() == e {
				_ = x.interruptUntilOver(e, more-1) // else it dies, which ends it
			}
		})
	}
	return err
}

// reply answers what the execution that runs asks.
func (x *executions) reply(value string) error {
	x.mu.Lock()
	defer x.mu.Unlock()
	e := x.current.Load()
	if e == nil || e.state != agentapi.ExecutionInput {
		return errNoInput
	}
	m, err := jupyter.NewMessage(jupyter.Stdin, "input_reply", x.session, map[string]string{"status": "ok", "value": value})
	if err != nil {
		return err
	}
	m.ParentHeader = e.input.Header
	if taken, err := x.hub.inbound.offer(x.hub, m, ""); err != nil || !taken {
		return errNoInput // its process is ending
	}
	e.state, e.input = agentapi.ExecutionRunning, nil
	x.changed()
	return nil
}

// changed tells all who wait that a state changed. It needs the lock, so that
// they find what they were told.
func (x *executions) changed() {
	x.news.changed()
	x.hub.track.changed()
}

// waiting is how many executions the kernel does not have yet.
func (x *executions) waiting() int {
	x.mu.Lock()
	defer x.mu.Unlock()
	return len(x.queue)
}

// describe returns an execution as it is now.
func (x *executions) describe(id string) (agentapi.Execution, error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	found := x.byID[id]
	if found == nil {
		return agentapi.Execution{}, errUnknown
	}
	return found.describe(), nil
}

// find returns an execution as it is now, and with it its outputs.
func (x *executions) find(id string) (e agentapi.Execution, list []byte, err error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	found := x.byID[id]
	if found == nil {
		return e, nil, errUnknown
	}
	list = found.outputs.Append(nil)
	if n := len(list); n > agentapi.MaxOutputBytes { // of control characters, each of which takes six bytes
		list = fmt.Appendf(nil, `[{"output_type":"stream","name":"stderr","text":"output truncated: %d bytes\n"}]`, n)
	}
	return found.describe(), list, nil
}

// pending returns the executions that are not over.
func (x *executions) pending() []agentapi.Execution {
	x.mu.Lock()
	defer x.mu.Unlock()
	list := []agentapi.Execution{}
	if e := x.current.Load(); e != nil {
		list = append(list, e.describe())
	}
	for _, e := range x.queue {
		list = append(list, e.describe())
	}
	return list
}

// describe needs the lock.
func (e *execution) describe() agentapi.Execution {
	d := agentapi.Execution{
		ID: e.request.ID, State: e.state, CellID: e.request.CellID, DocumentPath: e.request.DocumentPath,
		Problem: e.problem, Input: e.input, Queued: e.queued.UTC(), Started: e.started,
	}
	if n, ok := e.outputs.ExecutionCount(); ok {
		d.ExecutionCount = &n
	}
	if !e.started.IsZero() {
		d.Started = e.started.UTC()
	}
	if !e.state.Over() {
		return d
	}
	d.Finished = e.ended.UTC()
	if e.problem == "" {
		d.Status = "ok"
		if e.died || e.outputs.Status() == "error" {
			d.Status = "error"
		}
	}
	if failed := e.outputs.Failed(); failed != nil && d.Status == "error" {
		d.Error = (*agentapi.ExecutionError)(failed.Shortened(maxShownError))
	}
	return d
}
