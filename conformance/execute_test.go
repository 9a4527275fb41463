package conformance

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"kernelgw/conformance/probe"
	"kernelgw/conformance/servers"
)

// Code that runs without a client, in the shape of the extension
// jupyter-server-nbmodel 0.2.8, whose own tests these follow; and in one call.
var executeChecks = []check{
	{name: "ExecuteGivesOutputsAsAString", run: executeOutputs, extension: noExecute},
	{name: "ExecuteNeedsNoClient", run: executeAlone, extension: noExecute},
	{name: "ExecuteKeepsErrorsAmongTheOutputs", run: executeError, extension: noExecute},
	{name: "ExecuteAsksForInput", run: executeInput, extension: noExecute},
	{name: "ExecuteCancels", run: executeCancel, extension: noExecute},
	{name: "ExecuteOfUnknownKernelsIs404", run: executeUnknown, extension: noExecute},
	{name: "RunInOneCall", run: runInOneCall, extension: noExecute},
	{name: "RunTimesOut", run: runTimesOut, extension: noExecute},
}

var noExecute = &extension{because: "code runs for as long as a WebSocket asks for it, and its output is lost without one", fails: "answered 404"}

// submitted is code that a kernel was asked to run.
type submitted struct {
	s      *target
	kernel string
	at     string // where its result is
}

// submit asks a kernel to run code, and returns without its result.
func submit(t testing.TB, s *target, kernel, code string) submitted {
	t.Helper()
	answer := s.Do(t, "POST", "api/kernels/"+kernel+"/execute", map[string]any{"code": code, "metadata": map[string]any{"cell_id": "c"}}).Want(t, 202)
	location := answer.Header.Get("Location")
	_, at, found := strings.Cut(location, "/api/kernels/"+kernel+"/requests/")
	if !found || strings.Contains(at, "/") {
		t.Fatalf("Location is %q", location)
	}
	if got := answer.Object(t); got["request_id"] != at || got["request_url"] != location || got["pending"] != true {
		t.Errorf("accepted with %s", answer.Body)
	}
	return submitted{s, kernel, "api/kernels/" + kernel + "/requests/" + at}
}

// outcome is what came of it.
type outcome struct {
	Status         string
	ExecutionCount *int `json:"execution_count"`
	Outputs        string
	Error          string
	Pending        bool
	RequestStatus  string                     `json:"request_status"`
	ParentHeader   map[string]any             `json:"parent_header"`
	InputRequest   map[string]json.RawMessage `json:"input_request"`
	list           []map[string]any
}

// asks asks until the answer is another than 202, and returns it.
func (r submitted) asks(t testing.TB, want int) outcome {
	t.Helper()
	for end := time.Now().Add(probe.Patience); ; time.Sleep(50 * time.Millisecond) {
		answer := r.s.Do(t, "GET", r.at, nil)
		if answer.Status == http.StatusAccepted {
			if time.Now().After(end) {
				t.Fatalf("there is no result: %s", answer.Body)
			}
			continue
		}
		var o outcome
		answer.Want(t, want).Decode(t, &o)
		if err := json.Unmarshal([]byte(o.Outputs), &o.list); err != nil {
			t.Fatalf("outputs are no JSON in a string: %s", answer.Body)
		}
		return o
	}
}

// one checks the only output, with what has to be in it.
func (o outcome) one(t testing.TB, want map[string]any) {
	t.Helper()
	if len(o.list) != 1 {
		t.Fatalf("the outputs are %s", o.Outputs)
	}
	for key, value := range want {
		if got := o.list[0][key]; fmt.Sprint(got) != fmt.Sprint(value) {
			t.Errorf("%s is %v, want %v", key, got, value)
		}
	}
}

func executeOutputs(t testing.TB, s *target) {
	k := s.StartKernel(t)
	for i, c := range []struct {
		code string
		want map[string]any
	}{
		{"print('hello buddy')", map[string]any{"output_type": "stream", "name": "stdout", "text": "hello buddy\n"}},
		{
			"from IPython.display import HTML\nHTML('<p><b>Jupyter</b> rocks.</p>')",
			map[string]any{
				"output_type": "execute_result", "metadata": map[string]any{}, "execution_count": 2,
				"data": map[string]any{"text/plain": "<IPython.core.display.HTML object>", "text/html": "<p><b>Jupyter</b> rocks.</p>"},
			},
		},
		{"display('a')", map[string]any{"output_type": "display_data", "metadata": map[string]any{}, "data": map[string]any{"text/plain": "'a'"}}},
	} {
		r := submit(t, s, k.ID, c.code)
		o := r.asks(t, 200)
		if o.Status != "ok" || o.ExecutionCount == nil || *o.ExecutionCount != i+1 || o.Pending || o.RequestStatus != "complete" {
			t.Errorf("%q: %+v", c.code, o)
		}
		o.one(t, c.want)
		if again := r.asks(t, 200); again.Outputs != o.Outputs {
			t.Errorf("asked again: %+v", again)
		}
	}
	if o := submit(t, s, k.ID, "a = 1").asks(t, 200); o.Outputs != "[]" {
		t.Errorf("of nothing there is %s", o.Outputs)
	}
}

// Several at once, before the kernel has started; nobody listens.
func executeAlone(t testing.TB, s *target) {
	k := s.StartKernel(t)
	var all []submitted
	for i := range 3 {
		all = append(all, submit(t, s, k.ID, fmt.Sprintf("import time\nfor i in range(500):\n    print(%d, i, flush=True)\n    time.sleep(0.001)", i)))
	}
	var pending struct{ Requests []map[string]any }
	s.Do(t, "GET", "api/kernels/"+k.ID+"/execute", nil).Want(t, 200).Decode(t, &pending)
	if len(pending.Requests) == 0 || len(pending.Requests) > 3 {
		t.Errorf("to be done are %v", pending.Requests)
	}
	for i, r := range all {
		var want strings.Builder
		for line := range 500 {
			fmt.Fprintf(&want, "%d %d\n", i, line)
		}
		o := r.asks(t, 200)
		if o.ExecutionCount == nil || *o.ExecutionCount != i+1 {
			t.Errorf("request %d is execution %v", i+1, o.ExecutionCount)
		}
		o.one(t, map[string]any{"output_type": "stream", "name": "stdout", "text": want.String()})
	}
}

func executeError(t testing.TB, s *target) {
	k := s.StartKernel(t)
	first := submit(t, s, k.ID, "x = input('go?')")
	failing, behind := submit(t, s, k.ID, "1 / 0"), submit(t, s, k.ID, "print('never')")
	first.asks(t, 300)
	s.Do(t, "POST", "api/kernels/"+k.ID+"/input", map[string]any{"input": ""}).Want(t, 201)
	o := failing.asks(t, 200)
	if o.Status != "error" || o.ExecutionCount == nil || *o.ExecutionCount != 2 {
		t.Errorf("%+v", o)
	}
	o.one(t, map[string]any{"output_type": "error", "ename": "ZeroDivisionError", "evalue": "division by zero"})
	if lines, _ := o.list[0]["traceback"].([]any); len(lines) < 3 {
		t.Errorf("the traceback is %v", lines)
	}
	if o := behind.asks(t, 500); o.Error == "" || o.Outputs != "[]" {
		t.Errorf("what waited behind it: %+v", o)
	}
}

func executeInput(t testing.TB, s *target) {
	k := s.StartKernel(t)
	r := submit(t, s, k.ID, "input('Age:')")
	o := r.asks(t, 300)
	if string(o.InputRequest["prompt"]) != `"Age:"` || string(o.InputRequest["password"]) != "false" || o.ParentHeader["msg_type"] != "input_request" {
		t.Errorf("input is asked with %+v", o)
	}
	location := s.Do(t, "GET", r.at, nil).Want(t, 300).Header.Get("Location")
	if !strings.HasSuffix(location, "/api/kernels/"+k.ID+"/input") {
		t.Errorf("input goes to %q", location)
	}
	s.Do(t, "POST", "api/kernels/"+k.ID+"/input", map[string]any{"input": "42"}).Want(t, 201)
	o = r.asks(t, 200)
	if o.Status != "ok" {
		t.Errorf("%+v", o)
	}
	o.one(t, map[string]any{"output_type": "execute_result", "metadata": map[string]any{}, "data": map[string]any{"text/plain": "'42'"}, "execution_count": 1})
	s.Do(t, "POST", "api/kernels/"+k.ID+"/input", map[string]any{"input": "late"}).Want(t, 409)
}

func executeCancel(t testing.TB, s *target) {
	k := s.StartKernel(t)
	running := submit(t, s, k.ID, "import time\nprint('begin', flush=True)\ntime.sleep(60)\nprint('end')")
	waiting := submit(t, s, k.ID, "print('never')")
	s.Do(t, "DELETE", waiting.at, nil).Want(t, 204)
	if o := waiting.asks(t, 500); !strings.Contains(o.Error, "cancelled") {
		t.Errorf("what waited: %+v", o)
	}
	for end := time.Now().Add(probe.Patience); ; time.Sleep(50 * time.Millisecond) {
		if strings.Contains(string(s.Do(t, "GET", running.at, nil).Want(t, 202).Body), "begin") {
			break
		}
		if time.Now().After(end) {
			t.Fatal("nothing is said of code that runs")
		}
	}
	s.Do(t, "DELETE", running.at, nil).Want(t, 204)
	o := running.asks(t, 200)
	if o.Status != "error" || len(o.list) != 2 || o.list[0]["text"] != "begin\n" || o.list[1]["ename"] != "KeyboardInterrupt" {
		t.Errorf("what ran: %+v", o)
	}
	if o := submit(t, s, k.ID, "print('after')").asks(t, 200); o.Status != "ok" {
		t.Errorf("what comes after: %+v", o)
	}
}

func executeUnknown(t testing.TB, s *target) {
	kernel := s.sharedKernel(t)
	s.Do(t, "POST", "api/kernels/"+kernel+"/execute", map[string]any{"cell_id": "c", "document_id": "d"}).Want(t, 400)
	s.Do(t, "POST", "api/kernels/"+probe.ID()+"/execute", map[string]any{"code": "1"}).Want(t, 404)
	s.Do(t, "GET", "api/kernels/"+kernel+"/requests/"+probe.ID(), nil).Want(t, 404)
	s.Do(t, "DELETE", "api/kernels/"+kernel+"/requests/"+probe.ID(), nil).Want(t, 404)
}

// ran is the answer of a call that waits.
type ran struct {
	ID, Status        string
	ExecutionCount    *int `json:"execution_count"`
	Outputs           []map[string]any
	Error             *struct{ Name, Value string }
	Started, Finished *time.Time
	Timing            struct{ Waited, Ran float64 }
}

func runInOneCall(t testing.TB, s *target) {
	x := newSession(t, s, map[string]any{"path": probe.ID(), "type": "notebook", "name": "n"})
	id := probe.ID()
	for range 2 { // the second finds the result of the first
		var r ran
		s.Do(t, "POST", "v1/sessions/"+x.ID+"/execute", map[string]any{"code": "import time; time.sleep(0.2); print(1); 2", "id": id}).Want(t, 200).Decode(t, &r)
		if r.ID != id || r.Status != "ok" || r.Error != nil || len(r.Outputs) != 2 || r.Outputs[0]["text"] != "1\n" || r.ExecutionCount == nil || *r.ExecutionCount != 1 {
			t.Errorf("%+v", r)
		}
		if r.Started == nil || r.Finished == nil || r.Finished.Before(*r.Started) || r.Timing.Ran < 0.2 {
			t.Errorf("it ran from %v to %v, %v", r.Started, r.Finished, r.Timing)
		}
	}
	var r ran
	s.Do(t, "POST", "v1/sessions/"+x.Kernel.ID+"/execute", map[string]any{"code": "1 / 0"}).Want(t, 200).Decode(t, &r)
	if r.Status != "error" || r.Error == nil || r.Error.Name != "ZeroDivisionError" || len(r.Outputs) != 1 {
		t.Errorf("%+v", r)
	}
}

func runTimesOut(t testing.TB, s *target) {
	k := s.StartKernel(t)
	s.Do(t, "POST", "v1/sessions/"+k.ID+"/execute", map[string]any{"code": "import time"}).Want(t, 200)
	var r ran
	s.Do(t, "POST", "v1/sessions/"+k.ID+"/execute", map[string]any{"code": "print('begin')\ntime.sleep(60)", "timeout": 5}).Want(t, 200).Decode(t, &r)
	if r.Status != "timeout" || len(r.Outputs) != 2 || r.Outputs[0]["text"] != "begin\n" || r.Error == nil || r.Error.Name != "KeyboardInterrupt" {
		t.Errorf("%+v", r)
	}
}

// The code does not notice, and its result is there afterwards.
func TestKillOfTheGatewayKeepsExecutions(t *testing.T) {
	t.Parallel()
	s := own(t, servers.Options{})
	k := s.StartKernel(t)
	running := submit(t, s, k.ID, "import time\nfor i in range(1000):\n    print(i, flush=True)\n    time.sleep(0.005)")
	waiting := submit(t, s, k.ID, "'after'")
	for !strings.Contains(string(s.Do(t, "GET", running.at, nil).Want(t, 200, 202).Body), "5\\\\n") {
		time.Sleep(50 * time.Millisecond)
	}
	if err := s.process.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := s.process.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	var want strings.Builder
	for i := range 1000 {
		fmt.Fprintln(&want, i)
	}
	running.asks(t, 200).one(t, map[string]any{"text": want.String()})
	waiting.asks(t, 200).one(t, map[string]any{"output_type": "execute_result", "execution_count": 2})
}
