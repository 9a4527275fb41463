package agent

import (
	"bufio"
	"encoding/json"
	"errors"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	"golang.org/x/sys/unix"

	"kernelgw/jupyter"
	"kernelgw/jupyter/wsproto"
	"kernelgw/sandboxes/agentapi"
)

// killKernel kills the kernel process as something outside would.
func (r *running) killKernel() {
	r.t.Helper()
	g := r.agent.current.Load()
	if g == nil {
		r.t.Fatal("there is no kernel to kill")
	}
	if err := unix.Kill(g.proc.pid, unix.SIGKILL); err != nil {
		r.t.Fatal(err)
	}
}

func TestKernelDeathIsToldAndTheKernelRestarted(t *testing.T) {
	r := start(t, nil)
	r.ready()
	stays, leaves := r.connect("s", wsproto.V1), r.connect("", wsproto.LegacyText)
	id := stays.execute("sleep 100000")
	stays.until("busy", func(m received) bool { return isStatus(m, "busy") })
	begin := time.Now()
	r.killKernel()
	all := stays.until("restarting", func(m received) bool { return isStatus(m, "restarting") })
	if took := time.Since(begin); took > 10*time.Second { // a second, where the host has nothing else to do
		t.Errorf("it took %v to tell of the death", took)
	}
	m := all[len(all)-1]
	if m.Parent != (head{}) || m.Header.Session != all[0].Header.Session || m.Header.Date == nil || m.Header.Version == "" || m.MsgID == "" {
		t.Errorf("the status has parent %+v and header %+v", m.Parent, m.Header)
	}
	s := r.status("restarted", func(s agentapi.Status) bool { return s.Starts == 2 && s.Ready })
	if s.Reason != "killed by signal 9" || s.Executions != 0 {
		t.Errorf("the status is %+v", s)
	}
	// Clients that nothing else tells of the death find their connection closed,
	// after they were told.
	told, e := leaves.closed()
	if len(told) == 0 || !isStatus(told[len(told)-1], "restarting") || e.Code != websocket.CloseServiceRestart {
		t.Errorf("a client without session_id got %s and %v", summary(told), e)
	}
	// The other goes on, on the same connection. What was asked of the dead
	// kernel stays without an answer.
	next := stays.execute("say alive")
	for _, m := range stays.cell(next) {
		if m.Parent.MsgID == id {
			t.Errorf("the dead kernel's cell got %s", m.MsgType)
		}
	}
}

func TestExitCodeIsTheReason(t *testing.T) {
	r := start(t, nil)
	p := r.connect("s", wsproto.V1)
	p.execute("say x\ndie 7")
	p.until("restarting", func(m received) bool { return isStatus(m, "restarting") })
	s := r.status("restarted", func(s agentapi.Status) bool { return s.Starts == 2 && s.Ready })
	if s.Reason != "exit code 7" {
		t.Errorf("reason %q", s.Reason)
	}
}

func TestKernelIsDeadAfterFiveRestartsInARow(t *testing.T) {
	r := start(t, nil)
	p := r.connect("s", wsproto.V1)
	for i := range maxRestarts + 1 {
		r.status("ready again", func(s agentapi.Status) bool { return s.Starts == i+1 && s.Ready })
		r.killKernel()
	}
	restarting := 0
	for _, m := range p.until("dead", func(m received) bool { return isStatus(m, "dead") }) {
		if isStatus(m, "restarting") {
			restarting++
		}
	}
	s := r.status("dead", func(s agentapi.Status) bool { return s.ExecutionState == jupyter.Dead })
	if restarting != maxRestarts || s.Starts != maxRestarts+1 || !strings.HasPrefix(s.Reason, "killed by signal 9") {
		t.Errorf("%d times restarting, status %+v", restarting, s)
	}
	// A user can revive it.
	if code, body := r.call("POST", "/v1/kernel/restart"); code != http.StatusOK {
		t.Fatalf("restart: %d %s", code, body)
	}
	p.cell(p.execute("say alive"))
	if s := r.agent.Status(); s.Reason != "" || s.ExecutionState == jupyter.Dead {
		t.Errorf("after the restart: %+v", s)
	}
}

func TestExecutionBeginsTheCountOfRestartsAnew(t *testing.T) {
	r := start(t, nil)
	p := r.connect("s", wsproto.V1)
	for i := range maxRestarts + 2 {
		r.status("ready again", func(s agentapi.Status) bool { return s.Starts == i+1 && s.Ready })
		p.cell(p.execute("say x"))
		r.killKernel()
	}
	r.status("ready at the end", func(s agentapi.Status) bool { return s.Starts == maxRestarts+3 && s.Ready })
}

func TestKernelThatCannotStartIsDeadWithAReason(t *testing.T) {
	r := start(t, func(o *Options) { o.Config.Spec.Argv = []string{"/nonexistent/python", "-f", "{connection_file}"} })
	s := r.status("dead", func(s agentapi.Status) bool { return s.ExecutionState == jupyter.Dead })
	if !strings.Contains(s.Reason, "/nonexistent/python") {
		t.Errorf("reason %q", s.Reason)
	}
}

func TestKernelThatFailsAtItsStartSaysWhy(t *testing.T) {
	r := start(t, func(o *Options) {
		o.Config.Spec.Argv = []string{"/bin/sh", "-c", "echo starting; echo 'No module named \x1b[31mipykernel' >&2; exit 3"}
	})
	s := r.status("dead", func(s agentapi.Status) bool { return s.ExecutionState == jupyter.Dead })
	if want := "exit code 3: No module named [31mipykernel, after 5 restarts in a row"; s.Reason != want {
		t.Errorf("reason %q, want %q", s.Reason, want)
	}
}

func TestTakenPortIsNoRestart(t *testing.T) {
	r := start(t, func(o *Options) {
		// Fails twice as a kernel does that lost the race for a port.
		o.Config.Spec.Argv = []string{"/bin/sh", "-c", `
			if [ "$(cat n 2>/dev/null)" = 2 ]; then rm n; exec "$0" -f "$1"; fi
			echo $(( $(cat n 2>/dev/null || echo 0) + 1 )) > n
			echo "zmq.error.ZMQError: Address already in use" >&2; exit 1`, o.Config.Spec.Argv[0], "{connection_file}"}
	})
	p := r.connect("s", wsproto.V1)
	for _, m := range p.cell(p.execute("say x")) {
		if isStatus(m, "restarting") {
			t.Error("clients were told of a restart")
		}
	}
	if s := r.agent.Status(); s.Starts != 3 || s.Reason != "" {
		t.Errorf("status %+v", s)
	}
}

func TestUserRestart(t *testing.T) {
	r := start(t, nil)
	r.ready()
	p, gateway := r.connect("s", wsproto.V1), r.connect("", wsproto.LegacyText)
	p.execute("sleep 100000")
	p.until("busy", func(m received) bool { return isStatus(m, "busy") })
	code, body := r.call("POST", "/v1/kernel/restart")
	var s agentapi.Status
	if err := json.Unmarshal(body, &s); code != http.StatusOK || err != nil {
		t.Fatalf("restart: %d %s", code, body)
	}
	if s.Starts != 2 || s.ExecutionState != jupyter.Starting || s.Ready || s.Executions != 0 || s.Reason != "" {
		t.Errorf("restart answered %+v", s)
	}
	// On the same connections, and what is sent at once is not lost.
	next := p.execute("say after")
	for _, m := range p.cell(next) {
		if isStatus(m, "restarting") {
			t.Error("a user's restart was told as a crash")
		}
	}
	gateway.cell(gateway.execute("say after"))
}

func TestMessagesDuringARestartReachTheNewKernel(t *testing.T) {
	r := start(t, nil)
	r.ready()
	p := r.connect("s", wsproto.V1)
	done := make(chan struct{})
	go func() {
		defer close(done)
		r.call("POST", "/v1/kernel/restart")
	}()
	r.status("restarting", func(s agentapi.Status) bool { return !s.Ready })
	p.cell(p.execute("say held"))
	<-done
}

func TestMessagesForAStartingKernelAreBounded(t *testing.T) {
	r := start(t, func(o *Options) { o.Config.Spec.Argv = []string{"/bin/sleep", "1000"} })
	p := r.connect("s", wsproto.V1)
	for range maxHeld {
		p.execute("say x")
	}
	if s := r.status("full", func(s agentapi.Status) bool { return s.Executions == maxHeld }); s.Ready {
		t.Error("a kernel that never answers is ready")
	}
	p.execute("one more")
	if _, e := p.closed(); e.Code != websocket.CloseTryAgainLater || !strings.Contains(e.Text, "1000 messages") {
		t.Errorf("closed with %v", e)
	}
}

func TestShutdown(t *testing.T) {
	r := start(t, nil)
	r.ready()
	p := r.connect("s", wsproto.V1)
	p.cell(p.execute("say x"))
	pid := r.agent.current.Load().proc.pid
	if code, body := r.call("POST", "/v1/kernel/shutdown"); code != http.StatusNoContent {
		t.Fatalf("shutdown: %d %s", code, body)
	}
	if err := unix.Kill(pid, 0); !errors.Is(err, unix.ESRCH) {
		t.Errorf("the kernel's process is still there: %v", err)
	}
	all, e := p.closed()
	if len(all) == 0 || !isStatus(all[len(all)-1], "dead") || e.Code != websocket.CloseNormalClosure {
		t.Errorf("got %s, then %v; want dead, then 1000", summary(all), e)
	}
	<-r.ended
}

// JupyterLab's client leaves when it reads "restarting", before it has
// acknowledged that, and comes back at once.
func TestClientThatLeavesOnRestartingIsNotToldAgain(t *testing.T) {
	r := start(t, nil)
	r.ready()
	d := websocket.Dialer{NetDialContext: r.dialContext}
	connect := func() *websocket.Conn {
		ws, _, err := d.Dial("ws://agent/v1/channels?session_id=s", http.Header{"Authorization": {"Bearer " + testToken}})
		if err != nil {
			t.Fatal(err)
		}
		ws.SetReadDeadline(time.Now().Add(20 * time.Second))
		ws.SetPingHandler(func(string) error { return nil }) // acknowledges nothing
		return ws
	}
	next := func(ws *websocket.Conn) (state, parent string) {
		var m struct {
			ParentHeader jupyter.Header `json:"parent_header"`
			Content      struct {
				State string `json:"execution_state"`
			}
		}
		if err := ws.ReadJSON(&m); err != nil {
			t.Fatal(err)
		}
		return m.Content.State, m.ParentHeader.MsgID
	}
	execute := func(ws *websocket.Conn, id, code string) {
		err := ws.WriteJSON(map[string]any{
			"channel": "shell", "header": jupyter.Header{MsgID: id, MsgType: "execute_request", Session: "s"},
			"content": map[string]any{"code": code},
		})
		if err != nil {
			t.Fatal(err)
		}
	}

	ws := connect()
	execute(ws, "first", "die 3")
	for state := ""; state != "restarting"; state, _ = next(ws) {
	}
	goodbye := websocket.FormatCloseMessage(websocket.CloseNormalClosure, "")
	if err := ws.WriteControl(websocket.CloseMessage, goodbye, time.Now().Add(time.Second)); err != nil {
		t.Fatal(err)
	}
	for { // until the answer to the goodbye
		if _, _, err := ws.ReadMessage(); err != nil {
			break
		}
	}
	ws.Close()

	again := connect()
	defer again.Close()
	execute(again, "second", "say x")
	for {
		state, parent := next(again)
		if state == "restarting" {
			t.Fatal("told again that the kernel restarts")
		}
		if state == "idle" && parent == "second" {
			return
		}
	}
}

// A script that has not closed its WebSocket, and reads it no more, shuts its
// kernel down.
func TestClientThatReadsNothingDoesNotHoldUpTheEnd(t *testing.T) {
	r := start(t, nil)
	r.ready()
	d := websocket.Dialer{NetDialContext: r.dialContext}
	ws, _, err := d.Dial("ws://agent/v1/channels?session_id=s", http.Header{"Authorization": {"Bearer " + testToken}})
	if err != nil {
		t.Fatal(err)
	}
	defer ws.Close()
	if code, body := r.call("POST", "/v1/kernel/shutdown"); code != http.StatusNoContent {
		t.Fatalf("shutdown: %d %s", code, body)
	}
	select {
	case <-r.ended:
	case <-time.After(drainTime):
		t.Error("the agent waits as for a client that still has something to get")
	}
}

func TestShutdownRequestOfAClientEndsTheAgent(t *testing.T) {
	r := start(t, nil)
	r.ready()
	p, other := r.connect("s", wsproto.V1), r.connect("other", wsproto.Legacy)
	id := p.send("control", "shutdown_request", map[string]any{"restart": false})
	all, e := p.closed()
	replied := false
	for _, m := range all {
		replied = replied || m.MsgType == "shutdown_reply" && m.Parent.MsgID == id && m.Channel == "control"
		if isStatus(m, "restarting") {
			t.Error("told as a crash")
		}
	}
	if !replied || !isStatus(all[len(all)-1], "dead") || e.Code != websocket.CloseNormalClosure {
		t.Errorf("got %s, then %v; want shutdown_reply, dead, then 1000", summary(all), e)
	}
	if all, e := other.closed(); len(all) == 0 || !isStatus(all[len(all)-1], "dead") || e.Code != websocket.CloseNormalClosure {
		t.Errorf("another client got %s, then %v", summary(all), e)
	}
	<-r.ended
	if s := r.agent.Status(); s.ExecutionState != jupyter.Dead || s.Reason != "" {
		t.Errorf("status %+v", s)
	}
}

func TestShutdownRequestForARestartRestarts(t *testing.T) {
	r := start(t, nil)
	r.ready()
	p := r.connect("s", wsproto.V1)
	p.send("control", "shutdown_request", map[string]any{"restart": true})
	r.status("restarted", func(s agentapi.Status) bool { return s.Starts == 2 && s.Ready })
	p.cell(p.execute("say x"))
}

func TestStubbornKernelIsKilled(t *testing.T) {
	r := start(t, func(o *Options) {
		o.Config.Spec.Argv = []string{"/bin/sh", "-c", "trap '' TERM INT; sleep 1000 & wait; sleep 1000"}
	})
	begin := time.Now()
	if code, _ := r.call("POST", "/v1/kernel/shutdown"); code != http.StatusNoContent {
		t.Errorf("shutdown: %d", code)
	}
	if took := time.Since(begin); took > politeExit+termExit+5*time.Second {
		t.Errorf("shutdown took %v", took)
	}
	<-r.ended
}

func TestInterrupt(t *testing.T) {
	for _, mode := range []string{"signal", "message"} {
		t.Run(mode, func(t *testing.T) {
			r := start(t, func(o *Options) { o.Config.Spec.InterruptMode = mode })
			r.ready()
			p := r.connect("s", wsproto.V1)
			id := p.execute("sleep 100000")
			p.until("busy", func(m received) bool { return isStatus(m, "busy") })
			if code, body := r.call("POST", "/v1/kernel/interrupt"); code != http.StatusNoContent {
				t.Fatalf("interrupt: %d %s", code, body)
			}
			for _, m := range p.cell(id) {
				if m.MsgType == "error" && m.Content["ename"] == "KeyboardInterrupt" {
					return
				}
			}
			t.Error("the cell was not interrupted")
		})
	}
}

func TestWatchTellsOfChanges(t *testing.T) {
	r := start(t, nil)
	r.ready()
	req, _ := http.NewRequest("GET", "http://agent/v1/watch", nil)
	req.Header.Set("Authorization", "Bearer "+testToken)
	resp, err := r.http.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	lines := bufio.NewScanner(resp.Body)
	next := func(what string, want func(agentapi.Status) bool) {
		t.Helper()
		for lines.Scan() {
			var s agentapi.Status
			if err := json.Unmarshal(lines.Bytes(), &s); err != nil {
				t.Fatal(err)
			}
			if want(s) {
				return
			}
		}
		t.Fatalf("the watch ended before %s", what)
	}
	next("the state at once", func(s agentapi.Status) bool { return s.Ready && s.ExecutionState == jupyter.Idle })
	p := r.connect("s", wsproto.V1)
	next("the connection", func(s agentapi.Status) bool { return s.Connections == 1 })
	p.execute("sleep 100")
	next("busy", func(s agentapi.Status) bool { return s.ExecutionState == jupyter.Busy && s.Executions == 1 })
	next("idle", func(s agentapi.Status) bool { return s.ExecutionState == jupyter.Idle && s.Executions == 0 })
	p.ws.Close()
	next("no connection", func(s agentapi.Status) bool { return s.Connections == 0 })
	r.call("POST", "/v1/kernel/shutdown")
	next("dead", func(s agentapi.Status) bool { return s.ExecutionState == jupyter.Dead })
	if lines.Scan() {
		t.Error("the watch goes on after the end")
	}
}

func TestKernelInfoIsNoActivity(t *testing.T) {
	r := start(t, nil)
	r.ready()
	p := r.connect("s", wsproto.V1)
	p.cell(p.execute("say x"))
	before := r.agent.Status()
	p.cell(p.send("shell", "kernel_info_request", map[string]any{}))
	if after := r.agent.Status(); after.LastActivity != before.LastActivity || after.ExecutionState != jupyter.Idle {
		t.Errorf("kernel_info moved the activity from %v to %v, state %s", before.LastActivity, after.LastActivity, after.ExecutionState)
	}
	p.cell(p.execute("say x"))
	if after := r.agent.Status(); !after.LastActivity.After(before.LastActivity) {
		t.Error("an execution did not move the activity")
	}
}

func TestEveryRouteNeedsTheToken(t *testing.T) {
	r := start(t, nil)
	for _, route := range slices.Concat(routeTable, kernelRoutes, terminalRoutes, fileRoutes) {
		for _, authorization := range []string{
			"", "Bearer", "Bearer ", "Bearer wrong", "Bearer " + testToken + "x", "Bearer " + testToken[1:],
			"token " + testToken, "Basic " + testToken, testToken, "Bearer  " + testToken,
		} {
			req, _ := http.NewRequest(route.method, "http://agent"+route.path+"?token="+testToken, nil)
			if authorization != "" {
				req.Header.Set("Authorization", authorization)
			}
			resp, err := r.http.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			var body struct{ Message string }
			err = json.NewDecoder(resp.Body).Decode(&body)
			resp.Body.Close()
			if resp.StatusCode != http.StatusUnauthorized || err != nil || body.Message == "" {
				t.Errorf("%s %s with %q: %d, %v", route.method, route.path, authorization, resp.StatusCode, err)
			}
		}
	}
	req, _ := http.NewRequest("GET", "http://agent/nothing", nil)
	resp, err := r.http.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusUnauthorized {
		t.Errorf("a stranger learns that a path does not exist: %d", resp.StatusCode)
	}
}

func TestUsageAndStatusAnswer(t *testing.T) {
	r := start(t, nil)
	r.ready()
	code, body := r.call("GET", "/v1/usage")
	var u agentapi.Usage
	if err := json.Unmarshal(body, &u); code != http.StatusOK || err != nil || u.Processes != 1 || u.MemoryBytes < 1<<20 {
		t.Errorf("usage: %d %s", code, body)
	}
	code, body = r.call("GET", "/v1/status")
	var s agentapi.Status
	if err := json.Unmarshal(body, &s); code != http.StatusOK || err != nil || s.KernelID != "k1" || s.Starts != 1 {
		t.Errorf("status: %d %s", code, body)
	}
	if code, _ := r.call("GET", "/v1/kernel/restart"); code != http.StatusMethodNotAllowed {
		t.Errorf("GET of a POST route: %d", code)
	}
	if code, _ := r.call("GET", "/v1/channels?session_id="+strings.Repeat("x", 2000)); code != http.StatusBadRequest {
		t.Errorf("an endless session_id: %d", code)
	}
}

func TestClosingFrameHasAReasonThatFits(t *testing.T) {
	for _, c := range []struct{ in, want string }{
		{"short", "short"},
		{strings.Repeat("x", 200), strings.Repeat("x", 123)},
		{strings.Repeat("x", 122) + "é", strings.Repeat("x", 122)},
	} {
		if got := shorten(c.in); got != c.want {
			t.Errorf("shorten(%q) = %q", c.in, got)
		}
	}
}
