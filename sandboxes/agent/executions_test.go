package agent

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"strings"
	"testing"

	"github.com/google/uuid"

	"kernelgw/jupyter"
	"kernelgw/jupyter/wsproto"
	"kernelgw/sandboxes/agentapi"
)

// asked is a client of the agent's API, as the gateway is.
type asked struct {
	t      testing.TB
	client *agentapi.Client
}

func (r *running) asked() *asked {
	return &asked{r.t, &agentapi.Client{Endpoint: agentapi.Endpoint{Network: "unix", Address: r.path}, Token: testToken}}
}

// endless is room for every answer.
func endless(context.Context, int) error { return nil }

func (a *asked) context() context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 6*patience)
	a.t.Cleanup(cancel)
	return ctx
}

// run asks for code as notebooks do, and returns the execution's id.
func (a *asked) run(code string, change ...func(*agentapi.ExecuteRequest)) string {
	a.t.Helper()
	r := agentapi.ExecuteRequest{ID: uuid.NewString(), Code: code, AllowStdin: true, StopOnError: true, StoreHistory: true}
	for _, f := range change {
		f(&r)
	}
	if _, err := a.client.Execute(a.context(), r); err != nil {
		a.t.Fatalf("cannot ask for %q: %v", code, err)
	}
	return r.ID
}

// settled waits until an execution is over or wants input.
func (a *asked) settled(id string) (agentapi.Execution, string) {
	a.t.Helper()
	for {
		e, err := a.client.WaitExecution(a.context(), id, patience)
		if err != nil {
			a.t.Fatal(err)
		}
		if !e.State.Over() && e.State != agentapi.ExecutionInput {
			continue
		}
		e, list, err := a.client.Execution(a.context(), id, endless)
		if err != nil {
			a.t.Fatal(err)
		}
		return e, string(list)
	}
}

func (a *asked) status(id string) int {
	a.t.Helper()
	_, _, err := a.client.Execution(a.context(), id, endless)
	var refused *agentapi.StatusError
	switch {
	case err == nil:
		return http.StatusOK
	case errors.As(err, &refused):
		return refused.Code
	}
	a.t.Fatal(err)
	return 0
}

func TestCodeRunsWithoutAClient(t *testing.T) {
	r := start(t, nil)
	a := r.asked()
	// Before the kernel is ready, and several at once.
	ids := []string{a.run("say a\nwarn b"), a.run("echo 42", func(r *agentapi.ExecuteRequest) { r.CellID, r.DocumentPath = "c1", "a b.ipynb" }), a.run("display 8")}
	for i, want := range []string{
		`[{"output_type":"stream","name":"stdout","text":"a\n"},{"output_type":"stream","name":"stderr","text":"b\n"}]`,
		`[{"output_type":"execute_result","metadata":{},"data":{"text/plain":"42"},"execution_count":2}]`,
		`[{"output_type":"display_data","metadata":{},"data":{"image/png":"AAAAAAAA","text/plain":"\u003cFigure\u003e"}}]`,
	} {
		e, list := a.settled(ids[i])
		if e.State != agentapi.ExecutionDone || e.Status != "ok" || *e.ExecutionCount != int64(i+1) || e.Error != nil || list != want {
			t.Errorf("execution %d: %+v %s", i+1, e, list)
		}
		if e.Started.IsZero() || e.Started.Before(e.Queued) || e.Finished.Before(e.Started) {
			t.Errorf("queued %s, started %s, finished %s", e.Queued, e.Started, e.Finished)
		}
		if i == 1 && (e.CellID != "c1" || e.DocumentPath != "a b.ipynb") {
			t.Errorf("it is of cell %q of %q", e.CellID, e.DocumentPath)
		}
	}
	list, err := a.client.Executions(a.context())
	if err != nil || len(list) != 0 {
		t.Errorf("%d executions are not over (%v)", len(list), err)
	}
	if n := r.now().Executions; n != 0 {
		t.Errorf("%d executions are outstanding", n)
	}
}

// Clients see the output, as of any other client's cells, and no replies.
func TestClientsSeeWhatRunsWithoutThem(t *testing.T) {
	r := start(t, nil)
	r.ready()
	p := r.connect("s", wsproto.V1)
	p.cell(p.execute("say x")) // now it is there
	id := r.asked().run("say hello")
	for _, m := range p.until("idle", func(m received) bool { return isStatus(m, "idle") && m.Parent.MsgID == id }) {
		if m.Channel != "iopub" {
			t.Errorf("a client got %s on %s", m.MsgType, m.Channel)
		}
	}
	p.cell(p.execute("say x"))
}

func TestErrorStopsWhatWaits(t *testing.T) {
	r := start(t, nil)
	a := r.asked()
	keepGoing := func(r *agentapi.ExecuteRequest) { r.StopOnError = false }
	first := a.run("input go?")
	failing, after := a.run("say a\nerror E v", keepGoing), a.run("error F v")
	dropped := a.run("say never")
	a.settled(first)
	if err := a.client.ReplyInput(a.context(), "on"); err != nil {
		t.Fatal(err)
	}
	e, list := a.settled(failing)
	if e.Status != "error" || e.Error == nil || e.Error.Name != "E" || e.Error.Value != "v" || !strings.Contains(list, `"output_type":"error","ename":"E"`) {
		t.Errorf("%+v %s", e, list)
	}
	if e, _ := a.settled(after); e.Status != "error" || e.Problem != "" {
		t.Errorf("what follows an error that stops nothing: %+v", e)
	}
	e, list = a.settled(dropped)
	if e.State != agentapi.ExecutionDone || e.Status != "" || e.Problem != "not executed: a cell before it failed" || list != "[]" {
		t.Errorf("what follows an error: %+v %s", e, list)
	}
	if e, _ := a.settled(a.run("say again")); e.Status != "ok" {
		t.Errorf("what is asked after that: %+v", e)
	}
}

func TestInputIsAskedAndAnswered(t *testing.T) {
	r := start(t, nil)
	a := r.asked()
	id := a.run("input name?")
	e, _ := a.settled(id)
	if e.State != agentapi.ExecutionInput || e.Input.Prompt != "name?" || e.Input.Password || jupyter.PeekType(e.Input.Header) != "input_request" {
		t.Fatalf("%+v", e)
	}
	if err := a.client.ReplyInput(a.context(), "Ada"); err != nil {
		t.Fatal(err)
	}
	if e, list := a.settled(id); e.Status != "ok" || list != `[{"output_type":"stream","name":"stdout","text":"Ada\n"}]` {
		t.Errorf("%+v %s", e, list)
	}
	var refused *agentapi.StatusError
	if err := a.client.ReplyInput(a.context(), "late"); !errors.As(err, &refused) || refused.Code != http.StatusConflict {
		t.Errorf("an answer that nobody asked for: %v", err)
	}
}

func TestExecutionsAreCancelled(t *testing.T) {
	r := start(t, nil)
	a := r.asked()
	running, waiting := a.run("say a\nsleep 60000", func(r *agentapi.ExecuteRequest) { r.StopOnError = false }), a.run("say never")
	last := a.run("say last")
	r.status("busy", func(s agentapi.Status) bool { return s.ExecutionState == jupyter.Busy && s.Executions == 3 })
	pending, err := a.client.Executions(a.context())
	if err != nil || len(pending) != 3 || pending[0].ID != running || pending[0].State != agentapi.ExecutionRunning || pending[1].State != agentapi.ExecutionQueued {
		t.Errorf("not over are %+v (%v)", pending, err)
	}
	for _, id := range []string{waiting, running, waiting} {
		if err := a.client.CancelExecution(a.context(), id); err != nil {
			t.Error(err)
		}
	}
	if e, _ := a.settled(waiting); e.State != agentapi.ExecutionCancelled || e.Problem != "cancelled before it was executed" || e.Status != "" {
		t.Errorf("what waited: %+v", e)
	}
	e, list := a.settled(running)
	if e.State != agentapi.ExecutionCancelled || e.Status != "error" || e.Error.Name != "KeyboardInterrupt" || !strings.HasPrefix(list, `[{"output_type":"stream","name":"stdout","text":"a\n"}`) {
		t.Errorf("what ran: %+v %s", e, list)
	}
	if e, _ := a.settled(last); e.Status != "ok" {
		t.Errorf("what waited behind them: %+v", e)
	}
	var refused *agentapi.StatusError
	if err := a.client.CancelExecution(a.context(), "unknown"); !errors.As(err, &refused) || refused.Code != http.StatusNotFound {
		t.Errorf("what never was: %v", err)
	}
}

func TestDeathAndRestartEndExecutions(t *testing.T) {
	for name, c := range map[string]struct {
		code string
		end  func(r *running)
		why  string
	}{
		"death":    {"say a\ndie 7", func(*running) {}, "the kernel died: exit code 7"},
		"restart":  {"say a\nsleep 60000", func(r *running) { r.call(http.MethodPost, "/v1/kernel/restart") }, "the kernel was restarted"},
		"no reply": {"never answer", func(r *running) { r.call(http.MethodPost, "/v1/kernel/restart") }, "the kernel was restarted"},
	} {
		t.Run(name, func(t *testing.T) {
			r := start(t, nil)
			a := r.asked()
			running, waiting := a.run(c.code), a.run("say never")
			r.status("at it", func(s agentapi.Status) bool { return s.Ready && s.Executions == 2 || s.Starts > 1 })
			c.end(r)
			e, list := a.settled(running)
			if e.State != agentapi.ExecutionDone || e.Status != "error" || e.Error == nil || e.Error.Name != "DeadKernelError" || e.Error.Value != c.why ||
				!strings.Contains(list, `"ename":"DeadKernelError"`) {
				t.Errorf("what ran: %+v %s", e, list)
			}
			if e, _ := a.settled(waiting); e.Problem != "not executed: "+c.why {
				t.Errorf("what waited: %+v", e)
			}
			// The next kernel is as good.
			if e, _ := a.settled(a.run("say new")); e.Status != "ok" {
				t.Errorf("what is asked of the next kernel: %+v", e)
			}
		})
	}
}

func TestExecutionIsTheSameWhenAskedAgain(t *testing.T) {
	r := start(t, nil)
	a := r.asked()
	id := a.run("say once")
	a.settled(id)
	same := func(r *agentapi.ExecuteRequest) { r.ID = id }
	a.run("say once", same)
	if e, list := a.settled(id); *e.ExecutionCount != 1 || list != `[{"output_type":"stream","name":"stdout","text":"once\n"}]` {
		t.Errorf("%+v %s", e, list)
	}
	for name, other := range map[string]agentapi.ExecuteRequest{
		"code":    {ID: id, Code: "say other", AllowStdin: true, StopOnError: true, StoreHistory: true},
		"options": {ID: id, Code: "say once", StopOnError: true, StoreHistory: true},
	} {
		_, err := a.client.Execute(a.context(), other)
		var refused *agentapi.StatusError
		if !errors.As(err, &refused) || refused.Code != http.StatusConflict {
			t.Errorf("other %s under the same id: %v", name, err)
		}
	}
}

func TestExecutionsAreBounded(t *testing.T) {
	r := start(t, nil)
	a := r.asked()
	first := a.run("say first")
	a.settled(first)
	blocker := a.run("sleep 60000")
	last := ""
	for range maxQueued {
		last = a.run("echo 1")
	}
	_, err := a.client.Execute(a.context(), agentapi.ExecuteRequest{ID: "one-too-many", Code: "echo 1"})
	var refused *agentapi.StatusError
	if !errors.As(err, &refused) || refused.Code != http.StatusTooManyRequests {
		t.Errorf("one more than may wait: %v", err)
	}
	if err := a.client.CancelExecution(a.context(), blocker); err != nil {
		t.Fatal(err)
	}
	a.settled(last) // they are dropped with it
	if a.status(first) != http.StatusOK {
		t.Error("the first is forgotten already")
	}
	for range maxFinished - maxQueued - 1 {
		a.settled(a.run("echo 1"))
	}
	if got := []int{a.status(first), a.status(blocker), a.status(last)}; got[0] != http.StatusNotFound || got[1] != http.StatusOK || got[2] != http.StatusOK {
		t.Errorf("the first, the second and one of the last are answered with %v", got)
	}
}

// The oldest results make room.
func TestMemoryOfExecutionsIsBounded(t *testing.T) {
	r := start(t, nil)
	a := r.asked()
	var ids []string
	for range 4 {
		id := a.run("display 9000000")
		ids = append(ids, id)
		if e, list := a.settled(id); len(list) < 9_000_000 || e.Status != "ok" {
			t.Fatalf("%d bytes of outputs, %+v", len(list), e)
		}
	}
	if got := []int{a.status(ids[0]), a.status(ids[3])}; got[0] != http.StatusNotFound || got[1] != http.StatusOK {
		t.Errorf("the first and the last are answered with %v", got)
	}
	if e, list := a.settled(a.run("display 17000000\necho 1")); e.Status != "ok" || !strings.Contains(list, "output truncated: 1 messages, 17000") || !strings.Contains(list, `"execute_result"`) {
		t.Errorf("%.200s, %+v", list, e)
	}
}

// What grows too large as JSON is left out: the gateway would not take it.
func TestOutputsThatGrowAsJSON(t *testing.T) {
	h := newTestHub(t)
	h.inbound.open(h, refusing{nil})
	id := uuid.NewString()
	if _, err := h.executions.submit(agentapi.ExecuteRequest{ID: id}); err != nil {
		t.Fatal(err)
	}
	header, err := json.Marshal(map[string]string{"msg_id": id})
	if err != nil {
		t.Fatal(err)
	}
	for range 12 {
		m := jupyter.NewStream("stdout", strings.Repeat("\x01", 1<<20-100), "s", header)
		if !h.executions.take(m) {
			t.Fatal("the message is of another execution")
		}
	}
	_, list, err := h.executions.find(id)
	if err != nil || !strings.Contains(string(list), "output truncated: 7") || !json.Valid(list) || len(list) > 200 {
		t.Errorf("%.300s %v", list, err)
	}
}

// A message that is over the limit is told where it was missing, a reply, too,
// and what a hostile kernel sends ends nothing but itself.
func TestMessagesThatAreTooLargeAreToldWithTheOutputs(t *testing.T) {
	r := start(t, func(o *Options) { o.Config.MaxMessageBytes = 64 << 10 })
	a := r.asked()
	e, list := a.settled(a.run("say a\nbig 100000\nsay b\ninvalid-json\ninvalid-utf8\nbogus-status"))
	if e.Status != "ok" || !strings.Contains(list, "a\\n\"},{\"output_type\":\"stream\",\"name\":\"stderr\",\"text\":\"output truncated: 1 messages, 100") ||
		!strings.Contains(list, `"text":"b\ncaf`) {
		t.Errorf("%s, %+v", list, e)
	}
	e, _ = a.settled(a.run("error E " + strings.Repeat("x", 50_000)))
	if e.State != agentapi.ExecutionDone || e.Problem != "the kernel's reply cannot be read" {
		t.Errorf("%+v", e)
	}
	if e, _ := a.settled(a.run("say c")); e.Status != "ok" {
		t.Errorf("%+v", e)
	}
}

// What no honest gateway sends is refused, and nothing breaks.
func TestBadExecuteRequests(t *testing.T) {
	r := start(t, nil)
	for _, body := range []string{``, `[]`, `{}`, `{"id":"a/b","code":"x"}`, `{"id":"` + strings.Repeat("a", 65) + `"}`, `{"id":"a","code":"` + strings.Repeat("x", agentapi.MaxCodeBytes+1) + `"}`} {
		req, err := http.NewRequest(http.MethodPost, "http://agent/v1/executions", strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer "+testToken)
		resp, err := r.http.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != http.StatusBadRequest {
			t.Errorf("%.60q is answered with %d", body, resp.StatusCode)
		}
	}
	if status, _ := r.call(http.MethodGet, "/v1/executions/x?wait=NaN&outputs=1"); status != http.StatusNotFound {
		t.Errorf("an execution that never was: %d", status)
	}
}

// The real kernel is what others are compared with.
func TestRealKernelRunsWithoutAClient(t *testing.T) {
	r := start(t, func(o *Options) { o.Config.Spec = ipykernel(t) })
	a := r.asked()
	ids := []string{
		a.run("import time\nfor i in range(3): print(i); time.sleep(0.01)\ni"),
		a.run("h = display('one', display_id='x')"),
		a.run("h.update('two'); name = input('Age:'); print(name)"),
		a.run("1 / 0"),
		a.run("print('never')"),
	}
	if e, list := a.settled(ids[0]); e.Status != "ok" || list != `[{"output_type":"stream","name":"stdout","text":"0\n1\n2\n"},{"output_type":"execute_result","metadata":{},"data":{"text/plain":"2"},"execution_count":1}]` {
		t.Errorf("%+v %s", e, list)
	}
	if e, _ := a.settled(ids[2]); e.State != agentapi.ExecutionInput || e.Input.Prompt != "Age:" {
		t.Fatalf("%+v", e)
	}
	// The update reached the cell before.
	if _, list := a.settled(ids[1]); list != `[{"output_type":"display_data","metadata":{},"data":{"text/plain":"'two'"}}]` {
		t.Errorf("the display shows %s", list)
	}
	if err := a.client.ReplyInput(a.context(), "42"); err != nil {
		t.Fatal(err)
	}
	if e, list := a.settled(ids[2]); e.Status != "ok" || list != `[{"output_type":"stream","name":"stdout","text":"42\n"}]` {
		t.Errorf("%+v %s", e, list)
	}
	e, list := a.settled(ids[3])
	var failed []struct {
		Ename string
	}
	if json.Unmarshal([]byte(list), &failed) != nil || len(failed) != 1 || failed[0].Ename != "ZeroDivisionError" || e.Error.Value != "division by zero" {
		t.Errorf("%+v %s", e, list)
	}
	if e, _ := a.settled(ids[4]); e.Problem == "" {
		t.Errorf("%+v", e)
	}
	id := a.run("time.sleep(60)")
	r.status("busy", func(s agentapi.Status) bool { return s.Executions == 1 })
	if err := a.client.CancelExecution(a.context(), id); err != nil { // perhaps before it began
		t.Fatal(err)
	}
	if e, _ := a.settled(id); e.State != agentapi.ExecutionCancelled || e.Error == nil || e.Error.Name != "KeyboardInterrupt" {
		t.Errorf("%+v", e)
	}
}
