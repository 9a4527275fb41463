package agent

import (
	"fmt"
	"testing"

	"kernelgw/jupyter"
	"kernelgw/sandboxes/agentapi"
)

// status is an iopub status message with a parent of that type and id.
func status(state, parentType, parentID string) *jupyter.Message {
	m := jupyter.NewStatus(jupyter.State(state), "kernel")
	if parentType != "" {
		m.ParentHeader = fmt.Appendf(nil, `{"msg_id":%q,"msg_type":%q,"session":"s"}`, parentID, parentType)
	}
	return m
}

func TestExecutionState(t *testing.T) {
	type step struct{ state, parent string }
	for name, c := range map[string]struct {
		steps []step
		want  jupyter.State
	}{
		"at the start":                  {nil, jupyter.Starting},
		"starting":                      {[]step{{"starting", ""}}, jupyter.Starting},
		"kernel_info makes it idle":     {[]step{{"busy", "kernel_info_request"}}, jupyter.Idle},
		"kernel_info while idle":        {[]step{{"idle", "kernel_info_request"}, {"busy", "kernel_info_request"}}, jupyter.Idle},
		"kernel_info while busy":        {[]step{{"busy", "execute_request"}, {"busy", "kernel_info_request"}, {"idle", "kernel_info_request"}}, jupyter.Busy},
		"debugger while busy":           {[]step{{"busy", "execute_request"}, {"idle", "debug_request"}}, jupyter.Busy},
		"execution":                     {[]step{{"busy", "execute_request"}}, jupyter.Busy},
		"done":                          {[]step{{"busy", "execute_request"}, {"idle", "execute_request"}}, jupyter.Idle},
		"comms are tracked":             {[]step{{"idle", "x"}, {"busy", "comm_msg"}}, jupyter.Busy},
		"a kernel cannot say dead":      {[]step{{"idle", "x"}, {"dead", "execute_request"}}, jupyter.Idle},
		"nor restarting":                {[]step{{"busy", "execute_request"}, {"restarting", "execute_request"}}, jupyter.Busy},
		"starting of an untracked kind": {[]step{{"starting", "kernel_info_request"}}, jupyter.Starting},
	} {
		tr := newTracker(func() {})
		for _, s := range c.steps {
			m := status(s.state, s.parent, "1")
			tr.iopub(kindStatus, m, !untracked(jupyter.PeekRaw(m.ParentHeader, "msg_type")))
		}
		var got agentapi.Status
		tr.describe(&got)
		if got.ExecutionState != c.want {
			t.Errorf("%s: %s, want %s", name, got.ExecutionState, c.want)
		}
	}
}

func TestExecutionsAreCountedFromRequestToAnswer(t *testing.T) {
	tr := newTracker(func() {})
	count := func() int {
		var s agentapi.Status
		tr.describe(&s)
		return s.Executions
	}
	tr.request("a", nil)
	tr.request("b", nil)
	tr.request("c", nil)
	tr.reply("a")
	tr.iopub(kindStatus, status("idle", "execute_request", "b"), true)
	if n := count(); n != 1 {
		t.Errorf("%d executions, want 1", n)
	}
	tr.reply("b") // answered already
	tr.reply("x") // never asked
	tr.starting("exit code 1", []string{"held"})
	if n := count(); n != 1 {
		t.Errorf("%d executions after a restart, want the held one", n)
	}
	for i := range 2 * maxRunning {
		tr.request(fmt.Sprint(i), nil)
	}
	if n := count(); n > maxRunning {
		t.Errorf("%d executions are remembered", n)
	}
}

func TestRunningCell(t *testing.T) {
	tr := newTracker(func() {})
	if cell := tr.runningCell(); cell != nil {
		t.Errorf("a cell runs in a kernel that starts: %s", cell)
	}
	m := status("busy", "execute_request", "1")
	tr.iopub(kindStatus, m, true)
	if cell := tr.runningCell(); string(cell) != string(m.ParentHeader) {
		t.Errorf("the running cell is %s", cell)
	}
	tr.iopub(kindStatus, status("idle", "execute_request", "1"), true)
	if cell := tr.runningCell(); cell != nil {
		t.Errorf("a cell runs in an idle kernel: %s", cell)
	}
}

// A fork bomb can be the end of a kernel before that has said that it is busy.
func TestCellThatEndedItsKernelIsKnownBeforeItIsBusy(t *testing.T) {
	tr := newTracker(func() {})
	header := func(id string) []byte { return fmt.Appendf(nil, `{"msg_id":%q,"msg_type":"execute_request"}`, id) }
	want := func(when, id string) {
		t.Helper()
		if got := jupyter.PeekID(tr.deadlyCell()); got != id {
			t.Errorf("%s: the end of the kernel is told to cell %q, want %q", when, got, id)
		}
	}
	want("nothing was asked", "")
	tr.request("1", header("1"))
	tr.request("2", header("2"))
	if cell := tr.runningCell(); cell != nil {
		t.Errorf("a cell runs of which the kernel has said nothing: %s", cell)
	}
	want("given", "1")
	tr.iopub(kindStatus, status("busy", "execute_request", "1"), true)
	want("busy", "1")
	tr.iopub(kindStatus, status("idle", "execute_request", "1"), true)
	tr.iopub(kindStatus, status("busy", "execute_request", "2"), true)
	want("busy with the next", "2")
	tr.iopub(kindStatus, status("idle", "execute_request", "2"), true)
	want("all is answered", "")
	tr.request("3", header("3"))
	want("given after the others", "3")
	tr.died("killed")
	want("dead", "")
}

func TestRoutesAreBounded(t *testing.T) {
	r := newRoutes()
	a, b := &client{id: "a"}, &client{id: "b"}
	for i := range 10 * maxRoutes {
		r.learn(a, fmt.Sprint("id", i), fmt.Sprint("session", i))
	}
	if n := len(r.newer) + len(r.older); n > 2*maxRoutes || len(r.bySession) > maxSessions || len(a.sessions) > maxSessions {
		t.Errorf("%d ids and %d sessions are remembered", n, len(r.bySession))
	}
	if r.find(fmt.Sprint("id", 10*maxRoutes-1), "") != a || r.find("", fmt.Sprint("session", 10*maxRoutes-1)) != a {
		t.Error("the newest are forgotten")
	}
	r.learn(b, "b", fmt.Sprint("session", 10*maxRoutes-1)) // takes the session over
	if r.find("", fmt.Sprint("session", 10*maxRoutes-1)) != b {
		t.Error("the last who used a session does not get its replies")
	}
	long := fmt.Sprintf("%0300d", 1)
	r.learn(b, long, long)
	if r.find(long, long) != nil {
		t.Error("a long id is remembered")
	}
	r.forget(a)
	r.forget(b)
	if len(r.newer)+len(r.older)+len(r.bySession) != 0 {
		t.Error("something is left of clients that were forgotten")
	}
}
