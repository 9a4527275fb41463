package agent

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"kernelgw/jupyter"
	"kernelgw/jupyter/wsproto"
	"kernelgw/sandboxes/agentapi"
)

// runCell sends what JupyterLab sends for a cell of a notebook, and returns the
// msg_id.
func (p *peer) runCell(cell, code string) string {
	p.t.Helper()
	m, err := jupyter.NewMessage(jupyter.Shell, "execute_request", p.session, map[string]any{
		"code": code, "silent": false, "store_history": true, "user_expressions": map[string]any{}, "allow_stdin": true,
	})
	if err != nil {
		p.t.Fatal(err)
	}
	m.Metadata = []byte(fmt.Sprintf(`{"deletedCells":[],"cellId":%q}`, cell))
	p.sendMessage(m)
	return jupyter.PeekID(m.Header)
}

// tab connects as a page with that session_id does, and waits until it is there.
func (r *running) tab(session string) *peer {
	r.t.Helper()
	p := r.connect(session, wsproto.V1)
	r.clientOf(session, "there", func(c *client) bool { return c.socket != nil })
	return p
}

// leave closes the WebSocket of a session as a browser does whose tab is closed, and
// waits until the agent has seen it.
func (r *running) leave(p *peer, session string) {
	p.t.Helper()
	goodbye := websocket.FormatCloseMessage(websocket.CloseGoingAway, "")
	if err := p.ws.WriteControl(websocket.CloseMessage, goodbye, time.Now().Add(patience)); err != nil {
		p.t.Fatal(err)
	}
	r.clientOf(session, "gone", func(c *client) bool { return c.socket == nil })
}

// clientOf waits until the client of a session is as wanted.
func (r *running) clientOf(session, what string, want func(*client) bool) {
	r.t.Helper()
	h := r.agent.hub
	r.status("that of a client who is "+what, func(agentapi.Status) bool {
		h.mu.Lock()
		defer h.mu.Unlock()
		return h.clients[session] != nil && want(h.clients[session])
	})
}

// acknowledged waits until the client of a session has said that it has all.
func (r *running) acknowledged(session string) {
	r.t.Helper()
	r.clientOf(session, "up to date", func(c *client) bool { return c.acked.Seq() == r.agent.hub.events.End().Seq })
}

// resting waits until nothing runs.
func (r *running) resting() {
	r.t.Helper()
	r.status("idle", func(s agentapi.Status) bool { return s.Executions == 0 && s.ExecutionState == jupyter.Idle })
}

// later is what there is to save after some time.
func (r *running) later(d time.Duration) []agentapi.UnsavedCell {
	return r.agent.hub.collect(time.Now().Add(d), false, maxAnswer)
}

func outputsOf(t *testing.T, cells []agentapi.UnsavedCell) string {
	t.Helper()
	var all []string
	for _, c := range cells {
		var outputs []map[string]any
		if err := json.Unmarshal(c.Outputs, &outputs); err != nil {
			t.Fatalf("outputs %s: %v", c.Outputs, err)
		}
		count := 0
		if c.ExecutionCount != nil {
			count = *c.ExecutionCount
		}
		line := fmt.Sprintf("%s [%d]", c.Cell, count)
		for _, o := range outputs {
			line += fmt.Sprintf(" %v:%v", o["output_type"], firstOf(o["text"], o["evalue"], o["data"]))
		}
		if c.Running {
			line += " (running)"
		}
		if c.Seen {
			line += " (seen)"
		}
		all = append(all, line)
	}
	return strings.ReplaceAll(strings.Join(all, "; "), "\n", "|")
}

func firstOf(values ...any) any {
	for _, v := range values {
		if v != nil {
			return v
		}
	}
	return nil
}

// gate holds a cell until the test opens it: its code asks for input.
const gate = "input go on?"

func TestOutputsThatNobodyGotAreToldOnce(t *testing.T) {
	r := start(t, nil)
	r.ready()
	p := r.tab("tab")
	p.runCell("a", "say one\nsleep 300\nsay two\necho three")
	p.runCell("b", "error ValueError no")
	r.leave(p, "tab")
	r.resting()
	if got := r.later(leftGrace - time.Second); len(got) > 0 {
		t.Errorf("within the time in which a client may come back: %s", outputsOf(t, got))
	}
	if n := r.agent.Status().Unsaved; n != 0 {
		t.Errorf("the status tells of %d cells too early", n)
	}
	got := r.later(leftGrace)
	if want := "a [1] stream:one|two| execute_result:map[text/plain:three]; b [2] error:no"; outputsOf(t, got) != want {
		t.Fatalf("got %s, want %s", outputsOf(t, got), want)
	}
	sum := sha256.Sum256([]byte("error ValueError no"))
	if got[1].SourceSHA256 != hex.EncodeToString(sum[:]) {
		t.Errorf("cell b: its code has the hash %s", got[1].SourceSHA256)
	}
	r.agent.hub.cellsSaved(time.Now(), []agentapi.SavedCell{{Run: got[0].Run, Until: got[0].Until}, {Run: got[1].Run, Drop: true}})
	if got := r.later(24 * time.Hour); len(got) > 0 {
		t.Errorf("saved and told again: %s", outputsOf(t, got))
	}
}

func TestOutputsOfAClientThatStaysOrComesBackAreItsOwn(t *testing.T) {
	r := start(t, nil)
	r.ready()
	p := r.tab("tab")
	p.cell(p.runCell("a", "say one"))
	if got := r.later(24 * time.Hour); len(got) > 0 {
		t.Errorf("while the client is there: %s", outputsOf(t, got))
	}
	id := p.runCell("b", "sleep 200\nsay two")
	r.leave(p, "tab")
	r.resting()
	again := r.tab("tab")
	again.cell(id)
	r.acknowledged("tab")
	if got := r.later(24 * time.Hour); len(got) > 0 {
		t.Errorf("when the client is back: %s", outputsOf(t, got))
	}
}

func TestOutputsThatAClientGotMayBeUnsavedWhenItLeaves(t *testing.T) {
	r := start(t, nil)
	r.ready()
	p := r.tab("tab")
	p.cell(p.runCell("a", "say one"))
	r.acknowledged("tab")
	r.leave(p, "tab")
	if got := r.later(openingTime - time.Second); len(got) > 0 {
		t.Errorf("while the document may be opened again: %s", outputsOf(t, got))
	}
	if got, want := outputsOf(t, r.later(openingTime)), "a [1] stream:one| (seen)"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	r.tab("another tab")
	if got := r.later(openingTime); len(got) > 0 {
		t.Errorf("when another has opened the document: %s", outputsOf(t, got))
	}
}

func TestARunningCellIsSavedFromTimeToTime(t *testing.T) {
	r := start(t, nil)
	r.ready()
	p := r.tab("tab")
	p.runCell("a", "say one\n"+gate+"\nsay two")
	p.until("output", func(m received) bool { return m.MsgType == "input_request" })
	r.leave(p, "tab")
	if got := r.later(runningSave - time.Second); len(got) > 0 {
		t.Errorf("too early: %s", outputsOf(t, got))
	}
	got := r.later(runningSave + time.Second)
	if want := "a [1] stream:one| (running)"; outputsOf(t, got) != want {
		t.Fatalf("got %s, want %s", outputsOf(t, got), want)
	}
	r.agent.hub.cellsSaved(time.Now(), []agentapi.SavedCell{{Run: got[0].Run, Until: got[0].Until}})
	if got := r.later(time.Hour); len(got) > 0 {
		t.Errorf("nothing came since: %s", outputsOf(t, got))
	}
	other := r.tab("another tab")
	if got := r.later(time.Hour); len(got) > 0 {
		t.Errorf("while somebody looks at the document: %s", outputsOf(t, got))
	}
	r.leave(other, "another tab")
	back := r.tab("tab")
	back.send(jupyter.Stdin, "input_reply", map[string]any{"value": "yes"})
	r.leave(back, "tab")
	r.resting()
	if got, want := outputsOf(t, r.later(leftGrace)), "a [1] stream:one|yes|two|"; got != want {
		t.Errorf("at the end: %s, want %s", got, want)
	}
}

func TestOnlyTheLastRunOfACellCounts(t *testing.T) {
	r := start(t, nil)
	r.ready()
	p := r.tab("tab")
	p.runCell("a", "sleep 100\nsay one")
	r.leave(p, "tab")
	r.resting()
	p = r.tab("another tab")
	p.runCell("a", "sleep 100\nsay two")
	r.leave(p, "another tab")
	r.resting()
	if got, want := outputsOf(t, r.later(leftGrace)), "a [2] stream:two|"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

// What runs a cell through the API has its outputs from there: those of a run before
// it are not put over them.
func TestARunOfACellWithoutAClientIsNewerThanOneBefore(t *testing.T) {
	r := start(t, nil)
	r.ready()
	p := r.tab("tab")
	p.runCell("a", "say one")
	p.runCell("b", "say two")
	r.leave(p, "tab")
	r.resting()
	api := r.asked()
	api.settled(api.run("say three", func(e *agentapi.ExecuteRequest) { e.CellID = "a" }))
	if got, want := outputsOf(t, r.later(time.Hour)), "b [2] stream:two|"; got != want && got != want+" (seen)" {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestACellWhoseKernelDiesIsToldWithWhatThereIs(t *testing.T) {
	r := start(t, nil)
	r.ready()
	p := r.tab("tab")
	p.runCell("a", "sleep 100\nsay one\ndie 3")
	r.leave(p, "tab")
	r.status("restarted", func(s agentapi.Status) bool { return s.Starts == 2 && s.Ready })
	if got, want := outputsOf(t, r.later(leftGrace)), "a [1] stream:one| stream:the kernel ended before this cell did|"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestUnsavedCellsOverTheAPI(t *testing.T) {
	r := start(t, nil)
	r.ready()
	c := &agentapi.Client{Endpoint: agentapi.Endpoint{Network: "unix", Address: r.path}, Token: testToken}
	p := r.tab("tab")
	p.runCell("a", "sleep 100\nsay one")
	r.leave(p, "tab")
	r.status("telling of a cell", func(s agentapi.Status) bool { return s.Unsaved == 1 })
	cells, err := c.Unsaved(t.Context(), false)
	if err != nil || outputsOf(t, cells) != "a [1] stream:one|" {
		t.Fatalf("%+v, %v", cells, err)
	}
	p = r.tab("another tab")
	p.runCell("b", "say two\nsleep 60000")
	p.until("output", func(m received) bool { return m.text() == "two\n" })
	r.leave(p, "another tab")
	all, err := c.Unsaved(t.Context(), true)
	if err != nil || outputsOf(t, all) != "a [1] stream:one|; b [2] stream:two| (running)" {
		t.Errorf("all: %+v, %v", all, err)
	}
	if err := c.CellsSaved(t.Context(), []agentapi.SavedCell{{Run: cells[0].Run, Until: cells[0].Until}}); err != nil {
		t.Fatal(err)
	}
	r.status("telling of none", func(s agentapi.Status) bool { return s.Unsaved == 0 })
	if status, _ := r.call("POST", "/v1/unsaved"); status != 400 {
		t.Errorf("an empty body: %d", status)
	}
}

func TestWhenARunIsToBeSaved(t *testing.T) {
	t0 := time.Now()
	for name, c := range map[string]struct {
		left, running, seen, watched, all bool
		ran, away, saved                  time.Duration // before now; saved 0: never
		want                              bool
	}{
		"finished, just left":                     {left: true, away: 2 * time.Second, want: false},
		"finished, left":                          {left: true, away: 3 * time.Second, want: true},
		"finished, left, somebody else there":     {left: true, watched: true, away: 3 * time.Second, want: true},
		"finished, broken off":                    {away: 59 * time.Second, want: false},
		"finished, broken off for long":           {away: time.Minute, want: true},
		"running, left":                           {left: true, running: true, ran: 20 * time.Second, away: 9 * time.Second, want: false},
		"running for long, left":                  {left: true, running: true, ran: 20 * time.Second, away: 10 * time.Second, want: true},
		"running for long, broken off":            {running: true, ran: 20 * time.Hour, away: 59 * time.Second, want: false},
		"running, saved not long ago":             {left: true, running: true, ran: 50 * time.Second, away: 40 * time.Second, saved: 9 * time.Second, want: false},
		"running, saved a while ago":              {left: true, running: true, ran: 50 * time.Second, away: 40 * time.Second, saved: 10 * time.Second, want: true},
		"running for hours, saved a while ago":    {left: true, running: true, ran: 10 * time.Hour, away: 9 * time.Hour, saved: 59 * time.Minute, want: false},
		"running for hours, saved long ago":       {left: true, running: true, ran: 10 * time.Hour, away: 9 * time.Hour, saved: time.Hour, want: true},
		"running, somebody else there":            {left: true, running: true, watched: true, ran: time.Hour, away: time.Hour, want: false},
		"seen, just left":                         {left: true, seen: true, away: 9 * time.Second, want: false},
		"seen, left":                              {left: true, seen: true, away: 10 * time.Second, want: true},
		"seen, just left, somebody else there":    {left: true, seen: true, watched: true, away: 9 * time.Second, want: false},
		"seen, left, somebody else there":         {left: true, seen: true, watched: true, away: 10 * time.Second, want: false},
		"seen, broken off, somebody else there":   {seen: true, watched: true, away: 30 * time.Second, want: false},
		"seen, broken off for long, not alone":    {seen: true, watched: true, away: time.Minute, want: false},
		"seen, broken off for long, nobody there": {seen: true, away: time.Minute, want: true},
		"seen, left, not alone, the end":          {left: true, seen: true, watched: true, all: true, away: 10 * time.Second, want: true},
		"finished, just left, the end":            {left: true, all: true, want: true},
		"running, just broken off, the end":       {running: true, watched: true, all: true, want: true},
		"seen, just left, the end":                {left: true, seen: true, all: true, away: 9 * time.Second, want: false},
		"seen, left, the end":                     {left: true, seen: true, all: true, away: 10 * time.Second, want: true},
	} {
		t.Run(name, func(t *testing.T) {
			run := &cellRun{client: &client{left: c.left, away: t0.Add(-c.away)}, began: t0.Add(-c.ran), ended: t0, end: 7}
			if c.running {
				run.ended, run.end = time.Time{}, 0
			}
			if c.seen {
				run.end = 0 // as acknowledged as it gets
			}
			if c.saved > 0 {
				run.saved, run.savedAt = 5, t0.Add(-c.saved)
			}
			if got := run.isDue(t0, c.watched, 9, c.all); got != c.want {
				t.Errorf("due %v, want %v", got, c.want)
			}
		})
	}
}

// What clients make the agent remember of cells is bounded, and what makes no sense
// is not remembered.
func TestRunsOfCellsAreRememberedWithinBounds(t *testing.T) {
	h := newHub(&Options{Config: agentapi.Config{LogBytes: 1 << 20}}, func() {})
	c := &client{}
	request := func(cell, id string) {
		h.cellRequested(c, &jupyter.Message{Metadata: []byte(`{"cellId":"` + cell + `"}`), Content: []byte(`{"code":"x"}`)}, id)
	}
	for i := range 3 * maxCellRuns {
		id := fmt.Sprint(i)
		request("cell"+id, id)
		if i%2 == 0 {
			h.cellBegan(id)
		}
		if i%4 == 0 {
			h.cellEnded(id, uint64(i))
		}
	}
	if len(h.cells.asked) > maxCellRuns || len(h.cells.latest) > maxCellRuns {
		t.Errorf("%d and %d runs are remembered", len(h.cells.asked), len(h.cells.latest))
	}
	before := len(h.cells.asked)
	h.cellRefused(fmt.Sprint(3*maxCellRuns - 1))
	for _, cell := range []string{"", strings.Repeat("c", agentapi.MaxCellID+1)} {
		request(cell, "odd")
	}
	request("cell", "")
	request("cell", strings.Repeat("i", maxRememberedID+1))
	h.cellBegan("unknown")
	h.cellEnded("unknown", 1)
	if len(h.cells.asked) != before-1 {
		t.Errorf("%d runs are waited for, want %d", len(h.cells.asked), before-1)
	}
}

func TestUnsavedOutputsFitIntoAnAnswer(t *testing.T) {
	h := newHub(&Options{Config: agentapi.Config{LogBytes: 1 << 20}}, func() {})
	c := &client{left: true}
	const cells, room, large = 5, 30 << 10, "m4"
	for i := range cells {
		id := fmt.Sprint("m", i)
		h.cellRequested(c, &jupyter.Message{Metadata: []byte(`{"cellId":"` + id + `"}`), Content: []byte(`{"code":""}`)}, id)
		h.cellBegan(id)
		text := strings.Repeat("x", 10<<10)
		if id == large {
			text = strings.Repeat(`\u0001`, 10<<10)
		}
		h.events.Append(entry(&jupyter.Message{
			Channel: jupyter.IOPub, Header: []byte(`{"msg_type":"stream"}`), ParentHeader: []byte(`{"msg_id":"` + id + `"}`), Metadata: []byte("{}"),
			Content: []byte(`{"name":"stdout","text":"` + text + `"}`),
		}, "", kindStream, false))
		h.cellEnded(id, h.events.End().Seq)
	}
	var told []string
	for {
		some := h.collect(time.Now(), true, room)
		if len(some) == 0 {
			break
		}
		size := 0
		var saved []agentapi.SavedCell
		for _, cell := range some {
			size += len(cell.Outputs)
			told = append(told, cell.Cell)
			saved = append(saved, agentapi.SavedCell{Run: cell.Run, Until: cell.Until})
			if cell.Cell == large && !strings.Contains(string(cell.Outputs), "output truncated: 1 messages, ") {
				t.Errorf("outputs that are too large for an answer are %.200s", cell.Outputs)
			}
		}
		if size > room || len(some) == cells {
			t.Errorf("%d bytes of %d cells in one answer", size, len(some))
		}
		h.cellsSaved(time.Now(), saved)
	}
	if got := strings.Join(told, " "); got != "m0 m1 m2 m3 m4" {
		t.Errorf("told %s", got)
	}
}

func TestADisplayIsUpdatedByAnotherCell(t *testing.T) {
	h := newHub(&Options{Config: agentapi.Config{LogBytes: 1 << 20}}, func() {})
	c := &client{left: true}
	h.cellRequested(c, &jupyter.Message{Metadata: []byte(`{"cellId":"a"}`), Content: []byte(`{"code":""}`)}, "a")
	h.cellBegan("a")
	say := func(parent, msgType, value string) {
		h.events.Append(entry(&jupyter.Message{
			Channel: jupyter.IOPub, Header: []byte(`{"msg_type":"` + msgType + `"}`), ParentHeader: []byte(`{"msg_id":"` + parent + `"}`), Metadata: []byte("{}"),
			Content: []byte(`{"data":{"text/plain":"` + value + `"},"metadata":{},"transient":{"display_id":"d"}}`),
		}, "", kindDisplay, false))
	}
	say("a", "display_data", "0 %")
	say("b", "update_display_data", "50 %")
	h.cellEnded("a", h.events.End().Seq)
	say("b", "update_display_data", "100 %")
	if got, want := outputsOf(t, h.collect(time.Now(), true, maxAnswer)), "a [0] display_data:map[text/plain:100 %]"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}
