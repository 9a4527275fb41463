package kernelgw_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"kernelgw/kernelgw/kernels"
	"kernelgw/sandboxes/agentapi"
)

// executor is the part of the double that runs code: what it was asked, and
// what it answers.
type executor struct {
	mu        sync.Mutex
	requests  []agentapi.ExecuteRequest
	now       agentapi.Execution // of any id
	outputs   string
	refuse    error
	changed   chan struct{} // closed and replaced when now changes
	cancelled []string
	inputs    []string
	waits     int  // questions that wait
	hold      bool // Execute waits for its context
	held      int  // Executes that wait
	late      int  // cancels that come before what they are for
	ended     bool // before a cancel
}

func newExecutor() *executor {
	return &executor{now: agentapi.Execution{State: agentapi.ExecutionQueued}, outputs: "[]", changed: make(chan struct{})}
}

func (x *executor) become(e agentapi.Execution, outputs string) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.now, x.outputs = e, outputs
	close(x.changed)
	x.changed = make(chan struct{})
}

func (x *executor) named(id string) agentapi.Execution {
	e := x.now
	e.ID = id
	return e
}

func (f *fakeKernels) Execute(ctx context.Context, workspace, id string, r agentapi.ExecuteRequest) (agentapi.Execution, error) {
	if _, err := f.Get(ctx, workspace, id); err != nil {
		return agentapi.Execution{}, err
	}
	x := f.executor
	x.mu.Lock()
	x.requests = append(x.requests, r)
	hold := x.hold
	if hold {
		x.held++
	}
	x.mu.Unlock()
	if hold {
		<-ctx.Done()
		return agentapi.Execution{}, ctx.Err()
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.named(r.ID), x.refuse
}

func (f *fakeKernels) Executions(ctx context.Context, workspace, id string) ([]agentapi.Execution, error) {
	if _, err := f.Get(ctx, workspace, id); err != nil {
		return nil, err
	}
	f.executor.mu.Lock()
	defer f.executor.mu.Unlock()
	return []agentapi.Execution{f.executor.named("a")}, f.executor.refuse
}

func (f *fakeKernels) Execution(ctx context.Context, workspace, id, execution string, room agentapi.Room) (agentapi.Execution, json.RawMessage, error) {
	if _, err := f.Get(ctx, workspace, id); err != nil {
		return agentapi.Execution{}, nil, err
	}
	f.executor.mu.Lock()
	defer f.executor.mu.Unlock()
	if n := len(f.executor.outputs); n > 1<<20 {
		if err := room(ctx, n); err != nil {
			return agentapi.Execution{}, nil, fmt.Errorf("%w: %w", kernels.ErrAgent, err)
		}
	}
	return f.executor.named(execution), json.RawMessage(f.executor.outputs), f.executor.refuse
}

func (f *fakeKernels) WaitExecution(ctx context.Context, _, _, execution string, wait time.Duration) (agentapi.Execution, error) {
	x := f.executor
	x.mu.Lock()
	changed, e := x.changed, x.named(execution)
	x.waits++
	x.mu.Unlock()
	if !e.State.Over() && e.State != agentapi.ExecutionInput {
		select {
		case <-ctx.Done():
			return e, ctx.Err()
		case <-time.After(wait):
		case <-changed:
		}
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.named(execution), x.refuse
}

func (f *fakeKernels) CancelExecution(ctx context.Context, workspace, id, execution string) error {
	if _, err := f.Get(ctx, workspace, id); err != nil {
		return err
	}
	f.executor.mu.Lock()
	f.executor.cancelled = append(f.executor.cancelled, execution)
	refuse, e := f.executor.refuse, f.executor.now
	early := len(f.executor.cancelled) <= f.executor.late
	e.State, e.Status = agentapi.ExecutionCancelled, "error"
	if f.executor.ended {
		e.State, e.Status = agentapi.ExecutionDone, "ok"
	}
	f.executor.mu.Unlock()
	if early {
		return kernels.ErrExecutionNotFound
	}
	f.executor.become(e, `[{"output_type":"stream","name":"stdout","text":"so far"}]`)
	return refuse
}

func (f *fakeKernels) ReplyInput(ctx context.Context, workspace, id, value string) error {
	if _, err := f.Get(ctx, workspace, id); err != nil {
		return err
	}
	f.executor.mu.Lock()
	defer f.executor.mu.Unlock()
	f.executor.inputs = append(f.executor.inputs, value)
	return f.executor.refuse
}

// same compares JSON.
func same(t *testing.T, what, got string, want any) {
	t.Helper()
	var g, w any
	b, err := json.Marshal(want)
	if err != nil {
		t.Fatal(err)
	}
	if json.Unmarshal([]byte(got), &g) != nil || json.Unmarshal(b, &w) != nil {
		t.Fatalf("%s: no JSON: %s", what, got)
	}
	if d := cmp.Diff(w, g); d != "" {
		t.Errorf("%s: %s", what, d)
	}
}

// The shape of jupyter-server-nbmodel.
func TestRequestsAreThoseOfNbmodel(t *testing.T) {
	g := start(t)
	kernel, x := g.kernel("math"), g.kernels.executor
	path := "/w/math/api/kernels/" + kernel
	accepted := g.want(g.ada("POST", path+"/execute", `{"code": "1", "metadata": {"cell_id": "c", "document_path": "a.ipynb", "document_id": "json:notebook:x", "record_timing": true}}`), http.StatusAccepted)
	location := accepted.Header.Get("Location")
	if !strings.HasPrefix(location, path+"/requests/") || !strings.Contains(accepted.Header.Get("Access-Control-Expose-Headers"), "Location") {
		t.Fatalf("Location %q, %v", location, accepted.Header)
	}
	id := strings.TrimPrefix(location, path+"/requests/")
	want := []agentapi.ExecuteRequest{{ID: id, Code: "1", CellID: "c", DocumentPath: "a.ipynb", AllowStdin: true, StopOnError: true, StoreHistory: true}}
	if d := cmp.Diff(want, x.requests); d != "" {
		t.Error(d)
	}
	common := func(state string, outputs string, more map[string]any) map[string]any {
		m := map[string]any{
			"request_id": id, "kernel_id": kernel, "cell_id": "c", "document_path": "a.ipynb", "request_url": location,
			"pending": state != "complete", "request_status": state, "outputs": outputs,
		}
		for k, v := range more {
			m[k] = v
		}
		return m
	}
	two := int64(2)
	known := agentapi.Execution{CellID: "c", DocumentPath: "a.ipynb"}
	for _, c := range []struct {
		name    string
		change  func(e *agentapi.Execution)
		outputs string
		status  int
		want    map[string]any
	}{
		{"queued", func(e *agentapi.Execution) { e.State = agentapi.ExecutionQueued }, "[]", 202, common("queued", "[]", nil)},
		{"running", func(e *agentapi.Execution) { e.State = agentapi.ExecutionRunning }, `[{"a":"\n"}]`, 202, common("running", `[{"a":"\n"}]`, nil)},
		{
			"input", func(e *agentapi.Execution) {
				e.State, e.Input = agentapi.ExecutionInput, &agentapi.InputRequest{Header: json.RawMessage(`{"msg_id":"i"}`), Prompt: "Age:"}
			}, "[]", 300,
			common("input", "[]", map[string]any{"parent_header": map[string]any{"msg_id": "i"}, "input_request": map[string]any{"prompt": "Age:", "password": false}}),
		},
		{
			"done", func(e *agentapi.Execution) { e.State, e.Status, e.ExecutionCount = agentapi.ExecutionDone, "ok", &two }, `[{"b":1}]`, 200,
			common("complete", `[{"b":1}]`, map[string]any{"status": "ok", "execution_count": 2}),
		},
		{
			"interrupted", func(e *agentapi.Execution) { e.State, e.Status = agentapi.ExecutionCancelled, "error" }, `[]`, 200,
			common("complete", `[]`, map[string]any{"status": "error", "execution_count": nil}),
		},
		{
			"not executed", func(e *agentapi.Execution) { e.State, e.Problem = agentapi.ExecutionDone, "not executed: why" }, `[]`, 500,
			common("complete", `[]`, map[string]any{"error": "not executed: why"}),
		},
	} {
		e := known
		c.change(&e)
		x.become(e, c.outputs)
		got := g.want(g.ada("GET", location, ""), c.status)
		same(t, c.name, got.body, c.want)
		if c.status == 300 && got.Header.Get("Location") != path+"/input" {
			t.Errorf("input goes to %q", got.Header.Get("Location"))
		}
	}
	if r := g.want(g.ada("POST", path+"/input", `{"input": "42"}`), http.StatusCreated); r.body != "" || !slices.Equal(x.inputs, []string{"42"}) {
		t.Errorf("%q, %v", r.body, x.inputs)
	}
	g.want(g.ada("DELETE", location, ""), http.StatusNoContent)
	if !slices.Equal(x.cancelled, []string{id}) {
		t.Errorf("cancelled is %v", x.cancelled)
	}
	x.become(agentapi.Execution{State: agentapi.ExecutionRunning}, "[]")
	same(t, "list", g.want(g.ada("GET", path+"/execute", ""), 200).body, map[string]any{"kernel_id": kernel, "requests": []any{map[string]any{
		"request_id": "a", "kernel_id": kernel, "cell_id": nil, "document_path": nil, "request_url": path + "/requests/a",
		"pending": true, "request_status": "running", "outputs": "[]",
	}}})
}

func TestExecuteRequestsThatCannotBe(t *testing.T) {
	g := start(t)
	kernel := g.kernel("math")
	path := "/api/kernels/" + kernel
	for _, c := range []struct {
		method, path, body string
		status             int
		says               string
	}{
		{"POST", path + "/execute", ``, 400, "Invalid JSON"},
		{"POST", path + "/execute", `{"cell_id": "c", "document_id": "d"}`, 400, "code"},
		{"POST", path + "/execute", `{"code": 1}`, 400, "code must not be a number"},
		{"POST", path + "/execute", `{"code": "1", "server": {"url": "http://x"}}`, 400, "another server"},
		{"POST", path + "/input", `{}`, 400, "input"},
		{"GET", path + "/requests/a%20b", ``, 404, "does not exist"},
		{"POST", "/v1/sessions/" + kernel + "/execute", `{}`, 400, "code"},
		{"POST", "/v1/sessions/" + kernel + "/execute", `{"code": "1", "timeout": 0}`, 400, "timeout"},
		{"POST", "/v1/sessions/" + kernel + "/execute", `{"code": "1", "id": "a"}`, 400, "UUID"},
		{"POST", "/v1/sessions/" + kernel + "/execute", `{"code": "1", "on_disconnect": "die"}`, 400, "continue or interrupt"},
		{"POST", "/api/kernels/5b6f0f0e-aaaa-bbbb-cccc-0123456789ab/execute", `{"code": "1"}`, 404, "does not exist"},
	} {
		got := g.want(g.ada(c.method, c.path, c.body), c.status)
		if !strings.Contains(got.body, c.says) {
			t.Errorf("%s %s %s: %s", c.method, c.path, c.body, got.body)
		}
	}
	for err, status := range map[error]int{
		kernels.ErrExecutionNotFound:               404,
		fmt.Errorf("%w: many", kernels.ErrLimit):   429,
		fmt.Errorf("%w: other", kernels.ErrExists): 409,
		kernels.ErrNoInput:                         409,
		fmt.Errorf("%w: out", kernels.ErrDead):     410,
		fmt.Errorf("%w: lies", kernels.ErrAgent):   503,
	} {
		g.kernels.executor.refuse = err
		g.want(g.ada("POST", path+"/execute", `{"code": "1"}`), status)
		g.want(g.ada("GET", path+"/requests/a", ""), status)
		g.want(g.ada("POST", path+"/input", `{"input": ""}`), status)
	}
}

func TestCodeRunsInOneCall(t *testing.T) {
	g := start(t)
	kernel, x := g.kernel("math"), g.kernels.executor
	session := g.session("math", kernel)
	begin := time.Date(2026, 11, 26, 11, 0, 0, 0, time.UTC)
	one := int64(1)
	go func() {
		g.until("asked", func(*fakeKernels) bool { x.mu.Lock(); defer x.mu.Unlock(); return x.waits > 0 })
		x.become(agentapi.Execution{
			State: agentapi.ExecutionDone, Status: "error", ExecutionCount: &one, Error: &agentapi.ExecutionError{Name: "E", Value: "v", Traceback: []string{"t"}},
			Queued: begin, Started: begin.Add(time.Second), Finished: begin.Add(3 * time.Second),
		}, `[{"output_type":"error"}]`)
	}()
	got := g.want(g.ada("POST", "/w/math/v1/sessions/"+session+"/execute", `{"code": "x", "store_history": false}`), 200)
	x.mu.Lock()
	asked := x.requests[0]
	x.mu.Unlock()
	same(t, "answer", got.body, map[string]any{
		"id": asked.ID, "status": "error", "execution_count": 1, "outputs": []any{map[string]any{"output_type": "error"}},
		"error":   map[string]any{"name": "E", "value": "v", "traceback": []string{"t"}},
		"started": "2026-11-26T11:00:01.000000Z", "finished": "2026-11-26T11:00:03.000000Z", "timing": map[string]any{"waited": 1, "ran": 2},
	})
	if asked.AllowStdin || !asked.StopOnError || asked.StoreHistory || asked.Code != "x" {
		t.Errorf("the agent was asked for %+v", asked)
	}
	// A kernel's id is as good, and what was not executed says so.
	x.become(agentapi.Execution{State: agentapi.ExecutionDone, Problem: "not executed: why"}, `[]`)
	var result struct {
		ID, Status string
		Error      struct{ Name, Value string }
		Started    *string
	}
	const id = "5b6f0f0e-aaaa-bbbb-cccc-0123456789ab"
	g.want(g.ada("POST", "/v1/sessions/"+kernel+"/execute", `{"code": "x", "id": "`+id+`"}`), 200).json(t, &result)
	if result.ID != id || result.Status != "aborted" || result.Error.Name != "NotExecuted" || result.Error.Value != "not executed: why" || result.Started != nil {
		t.Errorf("%+v", result)
	}
}

func TestCodeThatTakesTooLongIsInterrupted(t *testing.T) {
	g := start(t)
	kernel, x := g.kernel("math"), g.kernels.executor
	x.become(agentapi.Execution{State: agentapi.ExecutionRunning}, "[]")
	got := g.want(g.ada("POST", "/v1/sessions/"+kernel+"/execute", `{"code": "x", "timeout": 0.05}`), 200)
	if !strings.Contains(got.body, `"status":"timeout"`) || !strings.Contains(got.body, "so far") || len(x.cancelled) != 1 {
		t.Errorf("%s, %v", got.body, x.cancelled)
	}
}

// Code that ends in time with what was to cancel it has ended well.
func TestCodeThatEndsAsItsTimeIsUp(t *testing.T) {
	g := start(t)
	kernel, x := g.kernel("math"), g.kernels.executor
	x.become(agentapi.Execution{State: agentapi.ExecutionRunning}, "[]")
	x.ended = true
	got := g.want(g.ada("POST", "/v1/sessions/"+kernel+"/execute", `{"code": "x", "timeout": 0.05}`), 200)
	if !strings.Contains(got.body, `"status":"ok"`) || len(x.cancelled) != 1 {
		t.Errorf("%s, %v", got.body, x.cancelled)
	}
}

// An agent that answers at once is not asked again and again for ever.
func TestAgentThatNeverWaitsIsAskedSeldom(t *testing.T) {
	g := start(t)
	kernel, x := g.kernel("math"), g.kernels.executor
	x.become(agentapi.Execution{State: agentapi.ExecutionInput}, "[]")
	g.want(g.ada("POST", "/v1/sessions/"+kernel+"/execute", `{"code": "x", "timeout": 1.5}`), 200)
	if x.waits < 2 || x.waits > 8 {
		t.Errorf("it was asked %d times in 1.5 s", x.waits)
	}
}

// Who has no credentials any more does not learn what comes of the code, and
// counts as gone.
func TestRevokedCredentialsEndTheWaitForCode(t *testing.T) {
	for on, interrupted := range map[string]int{"continue": 0, "interrupt": 1} {
		t.Run(on, func(t *testing.T) {
			g := start(t)
			kernel, x := g.kernel("math"), g.kernels.executor
			x.become(agentapi.Execution{State: agentapi.ExecutionRunning}, "[]")
			capability := g.capability("math")
			done := make(chan reply, 1)
			go func() {
				done <- g.do("POST", capability+"/v1/sessions/"+kernel+"/execute", `{"code": "x", "on_disconnect": "`+on+`"}`)
			}()
			g.until("asked", func(*fakeKernels) bool { x.mu.Lock(); defer x.mu.Unlock(); return x.waits > 0 })
			var list []struct{ ID string }
			g.want(g.ada("GET", "/v1/capabilities", ""), 200).json(t, &list)
			g.want(g.ada("DELETE", "/v1/capabilities/"+list[0].ID, ""), 204)
			if r := <-done; r.StatusCode != http.StatusForbidden || !strings.Contains(r.body, "no longer valid") {
				t.Errorf("%d %s", r.StatusCode, r.body)
			}
			if len(x.cancelled) != interrupted {
				t.Errorf("%d were interrupted, want %d", len(x.cancelled), interrupted)
			}
		})
	}
}

// What is asked of the agent as its client leaves is interrupted all the same,
// also when it comes after that.
func TestCodeWhoseClientGoesBeforeItIsTaken(t *testing.T) {
	g := start(t)
	kernel, x := g.kernel("math"), g.kernels.executor
	x.hold, x.late = true, 2
	ctx, leave := context.WithCancel(context.Background())
	r, err := http.NewRequestWithContext(ctx, "POST", g.url+"/v1/sessions/"+kernel+"/execute", strings.NewReader(`{"code": "x", "on_disconnect": "interrupt"}`))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Authorization", "token "+adaToken)
	go func() {
		g.until("asked", func(*fakeKernels) bool { x.mu.Lock(); defer x.mu.Unlock(); return x.held > 0 })
		leave()
	}()
	if resp, err := g.client.Do(r); !errors.Is(err, context.Canceled) {
		t.Fatalf("%v %v", resp, err)
	}
	g.until("interrupted", func(*fakeKernels) bool { x.mu.Lock(); defer x.mu.Unlock(); return len(x.cancelled) == 3 })
}

func TestCodeWhoseClientGoes(t *testing.T) {
	for on, interrupted := range map[string]int{"continue": 0, "interrupt": 1} {
		t.Run(on, func(t *testing.T) {
			g := start(t)
			kernel, x := g.kernel("math"), g.kernels.executor
			ctx, leave := context.WithCancel(context.Background())
			r, err := http.NewRequestWithContext(ctx, "POST", g.url+"/v1/sessions/"+kernel+"/execute", strings.NewReader(`{"code": "x", "on_disconnect": "`+on+`"}`))
			if err != nil {
				t.Fatal(err)
			}
			r.Header.Set("Authorization", "token "+adaToken)
			go func() {
				g.until("asked", func(*fakeKernels) bool { x.mu.Lock(); defer x.mu.Unlock(); return x.waits > 0 })
				leave()
			}()
			if resp, err := g.client.Do(r); !errors.Is(err, context.Canceled) {
				t.Fatalf("%v %v", resp, err)
			}
			if interrupted > 0 {
				g.until("interrupted", func(*fakeKernels) bool { x.mu.Lock(); defer x.mu.Unlock(); return len(x.cancelled) > 0 })
			}
			if err := g.server.Drain(t.Context()); err != nil { // all handlers have ended
				t.Fatal(err)
			}
			if len(x.cancelled) != interrupted {
				t.Errorf("%d were interrupted, want %d", len(x.cancelled), interrupted)
			}
		})
	}
}

// A server that stops says so: the code goes on, and its result is had from the
// next one.
func TestDrainLeavesCodeRunning(t *testing.T) {
	g := start(t)
	kernel, x := g.kernel("math"), g.kernels.executor
	done := make(chan reply, 1)
	go func() {
		done <- g.ada("POST", "/v1/sessions/"+kernel+"/execute", `{"code": "x", "on_disconnect": "interrupt"}`)
	}()
	g.until("asked", func(*fakeKernels) bool { x.mu.Lock(); defer x.mu.Unlock(); return x.waits > 0 })
	if err := g.server.Drain(t.Context()); err != nil {
		t.Fatal(err)
	}
	if r := <-done; r.StatusCode != http.StatusServiceUnavailable || r.Header.Get("Retry-After") == "" || len(x.cancelled) > 0 {
		t.Errorf("%d %s, %d interrupted", r.StatusCode, r.body, len(x.cancelled))
	}
}

// Who does not read results has few of them held, and is told at some time; other
// users do not notice.
func TestResultsAreHeldAFewAtATime(t *testing.T) {
	g := start(t)
	kernel, x := g.kernel("math"), g.kernels.executor
	bobs := g.do("POST", "/api/kernels", "", "Authorization: token "+bobToken)
	var bob struct{ ID string }
	g.want(bobs, http.StatusCreated).json(t, &bob)
	// More than the buffers of a connection hold.
	const size = 15 << 20
	x.become(agentapi.Execution{State: agentapi.ExecutionDone, Status: "ok"}, `["`+strings.Repeat("<", size)+`"]`)
	var unread []*http.Response
	defer func() {
		for _, r := range unread {
			r.Body.Close()
		}
	}()
	ask := func(kernel, token string) *http.Response {
		t.Helper()
		r, err := http.NewRequest("GET", g.url+"/api/kernels/"+kernel+"/requests/a", nil)
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Authorization", "token "+token)
		resp, err := g.client.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		unread = append(unread, resp)
		return resp
	}
	for range 4 {
		if r := ask(kernel, adaToken); r.StatusCode != http.StatusOK {
			t.Fatalf("answered with %d", r.StatusCode)
		}
	}
	if r := ask(bob.ID, bobToken); r.StatusCode != http.StatusOK {
		t.Errorf("another user is answered with %d", r.StatusCode)
	}
	one := make(chan reply, 1)
	go func() { one <- g.ada("GET", "/api/kernels/"+kernel+"/requests/a", "") }()
	select {
	case r := <-one:
		t.Errorf("one more is answered with %d", r.StatusCode)
	case <-time.After(100 * time.Millisecond):
	}
	for _, r := range unread {
		r.Body.Close() // makes room
	}
	if r := <-one; r.StatusCode != http.StatusOK || len(r.body) < size || len(r.body) > size+1000 {
		t.Errorf("after they had left it is answered with %d and %d bytes", r.StatusCode, len(r.body))
	}
}
