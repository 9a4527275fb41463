package agent

import (
	"context"
	"fmt"
	"log/slog"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"kernelgw/jupyter"
	"kernelgw/jupyter/wsproto"
	"kernelgw/sandboxes/agent/eventlog"
	"kernelgw/sandboxes/agentapi"
)

// capped runs messages through caps and notes what comes out, in order.
type capped struct {
	t    *testing.T
	caps *caps
	seen []string
}

func newCapped(t *testing.T, limits agentapi.OutputCaps) *capped {
	c := &capped{t: t}
	c.caps = newCaps(limits, "", func(text string, parent []byte) {
		c.seen = append(c.seen, jupyter.PeekID(parent)+": "+text)
	})
	return c
}

// say has a cell publish a message of so many bytes of content.
func (c *capped) say(cell, msgType string, size int) {
	c.t.Helper()
	m := &jupyter.Message{
		Channel: jupyter.IOPub, Header: fmt.Appendf(nil, `{"msg_type":%q}`, msgType), Content: make([]byte, size),
		ParentHeader: fmt.Appendf(nil, `{"msg_id":%q}`, cell),
	}
	if !c.caps.take(kindOf(jupyter.PeekRaw(m.Header, "msg_type")), m, cell, time.Now()) {
		c.seen = append(c.seen, cell+": "+msgType)
	}
}

func (c *capped) want(want ...string) {
	c.t.Helper()
	if !slices.Equal(c.seen, want) {
		c.t.Errorf("what came is\n%s\nwant\n%s", strings.Join(c.seen, "\n"), strings.Join(want, "\n"))
	}
	c.seen = nil
}

const pastCell = " past the 100 bytes that a cell may show (output_cell)"

func TestOutputPastTheBudgetOfACellIsOneMarker(t *testing.T) {
	c := newCapped(t, agentapi.OutputCaps{CellBytes: 100})
	c.say("a", "stream", 60)
	c.say("a", "display_data", 60) // it begins within the budget
	c.say("a", "stream", 7)
	c.say("a", "comm_msg", 1000)
	c.say("b", "stream", 60) // each cell has its own
	c.say("a", "execute_result", 8)
	c.say("a", "debug_event", 8)
	c.say("a", "error", 50)
	c.say("a", "status", 10)
	c.say("a", "stream", 9)
	c.want("a: stream", "a: display_data", "a: comm_msg", "b: stream", "a: debug_event",
		"a: output truncated: 2 messages, 15 bytes"+pastCell, "a: error", "a: status")
	c.caps.asks("b")
	c.caps.asks("a")
	c.want("a: output truncated: 1 messages, 9 bytes" + pastCell)
}

func TestWhatIsReplacedDoesNotCountInTheBudgetOfACell(t *testing.T) {
	c := newCapped(t, agentapi.OutputCaps{CellBytes: 100})
	for range 3 {
		c.say("a", "display_data", 60)
		c.say("a", "update_display_data", 90)
		c.say("a", "clear_output", 14)
	}
	c.say("a", "stream", 100)
	c.say("a", "stream", 1)
	c.say("a", "update_display_data", 1) // the output that is let through ends the run
	c.say("a", "stream", 2)
	c.say("a", "clear_output", 14)
	c.say("a", "stream", 100)
	round := []string{"a: display_data", "a: update_display_data", "a: clear_output"}
	c.want(slices.Concat(round, round, round, []string{
		"a: stream",
		"a: output truncated: 1 messages, 1 bytes" + pastCell, "a: update_display_data",
		"a: output truncated: 1 messages, 2 bytes" + pastCell, "a: clear_output", "a: stream",
	})...)
}

func TestTheBudgetOfACellComesBackSlowly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const most = 10 * capRefill // ten bytes a second
		c := newCapped(t, agentapi.OutputCaps{CellBytes: most})
		for range 20_000 { // more than two days of a progress bar
			c.say("a", "stream", 90)
			time.Sleep(10 * time.Second)
		}
		c.want(slices.Repeat([]string{"a: stream"}, 20_000)...)
		c.say("a", "stream", most)
		c.say("a", "stream", 1)
		for range 1000 { // a flood stays held back
			c.say("a", "stream", 11)
			time.Sleep(time.Second)
		}
		c.want("a: stream")
		time.Sleep((capRefill/capReopen - 2) * time.Second)
		c.say("a", "stream", 1)
		c.want()
		time.Sleep(3 * time.Second) // quiet for a minute
		c.say("a", "display_data", 1)
		c.say("a", "stream", most/capReopen+100)
		c.say("a", "stream", 3)
		c.say("a", "error", 1)
		const past = " past the 40960 bytes that a cell may show (output_cell)"
		c.want("a: output truncated: 1002 messages, 11002 bytes"+past, "a: display_data", "a: stream",
			"a: output truncated: 1 messages, 3 bytes"+past, "a: error")
	})
}

func TestAMarkerSaysWhereTextIsAndNothingElse(t *testing.T) {
	c := newCapped(t, agentapi.OutputCaps{CellBytes: 100})
	c.caps.where = "; the text is in there"
	c.say("a", "display_data", 100)
	c.say("a", "display_data", 1)
	c.say("a", "status", 1)
	c.say("a", "display_data", 1)
	c.say("a", "stream", 1)
	c.caps.tick(time.Now().Add(capFirst))
	c.say("a", "status", 1)
	c.say("a", "execute_result", 1)
	c.caps.flush()
	c.want("a: display_data", "a: output truncated: 1 messages, 1 bytes"+pastCell, "a: status",
		"a: output is being truncated: 2 messages, 2 bytes so far"+pastCell+"; the text is in there",
		"a: output truncated: 2 messages, 2 bytes"+pastCell+"; the text is in there", "a: status",
		"a: output truncated: 1 messages, 1 bytes"+pastCell)
}

func TestOutputPastTheBudgetOfASecondComesAgainAfterIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCapped(t, agentapi.OutputCaps{SecondBytes: 100})
		for range 12 { // as much as in CapSeconds, and then no more
			c.say("a", "stream", 100)
		}
		time.Sleep(900 * time.Millisecond)
		c.say("a", "stream", 1) // not before there is a whole second's
		c.say("", "stream", 5)  // nor of what belongs to no cell
		time.Sleep(101 * time.Millisecond)
		c.say("a", "stream", 2)
		c.say("", "status", 2)
		const past = " past the 100 bytes that a kernel may show in a second (output_second)"
		want := slices.Repeat([]string{"a: stream"}, 10)
		c.want(append(want, "a: output truncated: 3 messages, 201 bytes"+past, "a: stream", ": output truncated: 1 messages, 5 bytes"+past, ": status")...)
		time.Sleep(time.Hour)
		c.say("a", "stream", 100_000) // one large message is let through
		c.say("a", "stream", 1)
		time.Sleep(2001 * time.Millisecond) // and not held against others for long
		c.say("a", "stream", 2)
		c.want("a: stream", "a: output truncated: 1 messages, 1 bytes"+past, "a: stream")
	})
}

func TestALongRunIsToldOfWhileItGoesOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCapped(t, agentapi.OutputCaps{CellBytes: 1})
		c.say("a", "stream", 1)
		for range 14 { // 70 seconds
			c.say("a", "stream", 10)
			time.Sleep(5 * time.Second)
			c.caps.tick(time.Now())
		}
		c.caps.flush()
		c.caps.tick(time.Now().Add(time.Hour))
		const past = " past the 1 bytes that a cell may show (output_cell)"
		c.want("a: stream",
			"a: output is being truncated: 2 messages, 20 bytes so far"+past, "a: output is being truncated: 6 messages, 60 bytes so far"+past,
			"a: output is being truncated: 14 messages, 140 bytes so far"+past, "a: output truncated: 14 messages, 140 bytes"+past)
	})
}

func TestCapsRememberBoundedCells(t *testing.T) {
	c := newCapped(t, agentapi.OutputCaps{CellBytes: 1})
	c.say("0", "stream", 1)
	c.say("0", "stream", 1)
	for i := range 3 * maxCapCells {
		c.say(strconv.Itoa(i+1), "stream", 1)
	}
	if len(c.caps.cells) != maxCapCells || len(c.caps.order) != maxCapCells {
		t.Errorf("%d cells are remembered, %d in order", len(c.caps.cells), len(c.caps.order))
	}
	if !slices.Contains(c.seen, "0: output truncated: 1 messages, 1 bytes past the 1 bytes that a cell may show (output_cell)") {
		t.Error("what was held back of a cell that is forgotten was not told")
	}
}

var cellMarker = regexp.MustCompile(`^output truncated: (\d+) messages, (\d+) bytes past the 20000 bytes that a cell may show \(output_cell\); the text is in /v1/sessions/k1/logs\n$`)

// smallCaps are options with a budget of 20,000 bytes for a cell and an output log.
func smallCaps(o *Options) {
	o.Config.Caps.CellBytes = 20_000
	o.Config.OutputLog = &agentapi.OutputLogConfig{Place: "/v1/sessions/k1/logs"}
}

func TestACellFarPastItsBudgetEndsAsOthersDo(t *testing.T) {
	r := start(t, smallCaps)
	p := r.connect("s", wsproto.V1)
	for _, end := range []string{"", "\nerror ValueError x", "\necho 42"} {
		id := p.execute("print 2000 1000" + end)
		var order []string
		lines, lost := 0, 0
		for _, m := range p.cell(id) {
			what := m.MsgType
			match := cellMarker.FindStringSubmatch(m.text())
			switch {
			case match != nil:
				what = "marker"
				lost, _ = strconv.Atoi(match[1])
				if size, _ := strconv.Atoi(match[2]); size < lost*1000 && end == "" || m.Content["name"] != "stderr" || m.Parent.MsgID != id {
					t.Errorf("the marker is %+v", m)
				}
			case what == "stream":
				lines += strings.Count(m.text(), "\n")
			}
			if m.Channel == "iopub" && (len(order) == 0 || order[len(order)-1] != what) {
				order = append(order, what)
			}
		}
		results := strings.Count(end, "echo")
		if lines == 0 || lines+lost != 2000+results {
			t.Errorf("%d lines came and %d are told to be lost, of %d", lines, lost, 2000+results)
		}
		want := "status execute_input stream marker " + map[bool]string{true: "error "}[strings.Contains(end, "error")] + "status"
		if got := strings.Join(order, " "); got != want {
			t.Errorf("the order is %s, want %s", got, want)
		}
	}
	text, _ := r.printedText()
	var want strings.Builder
	for range 3 {
		for i := range 2000 {
			want.WriteString(line(i, 1000))
		}
	}
	if text != want.String() {
		t.Errorf("%d bytes were kept of %d", len(text), want.Len())
	}
	if r.agent.Status().Dropped == 0 {
		t.Error("the status counts no dropped message")
	}
}

func TestARunOfDroppedOutputEndsWithItsProcess(t *testing.T) {
	r := start(t, smallCaps)
	p := r.connect("s", wsproto.V1)
	id := p.execute("print 100 1000\nsleep 1000000")
	r.status("of dropped output", func(s agentapi.Status) bool { return s.Dropped > 50 })
	if code, body := r.call("POST", "/v1/kernel/restart"); code != 200 {
		t.Fatalf("the restart is %d %s", code, body)
	}
	all := p.until("marker", func(m received) bool { return cellMarker.MatchString(m.text()) })
	if marked := all[len(all)-1]; marked.Parent.MsgID != id {
		t.Errorf("the marker is of cell %q", marked.Parent.MsgID)
	}
	if got := printed(t, p.cell(p.execute("print 3 10"))); len(got) != 3 {
		t.Errorf("the next cell shows lines %v", got)
	}
	r.printedText()
}

func TestInputIsAskedBehindWhatWasDropped(t *testing.T) {
	o := &Options{Config: agentapi.Config{LogBytes: 1 << 20, Caps: agentapi.OutputCaps{CellBytes: 10}}, Log: slog.New(slog.DiscardHandler)}
	h := newHub(o, func() {})
	request, err := jupyter.NewMessage(jupyter.Shell, "execute_request", "s", nil)
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		h.fromKernel(jupyter.NewStream("stdout", "ten bytes and more", "k", request.Header), nil)
	}
	asked, err := jupyter.NewMessage(jupyter.Stdin, "input_request", "k", map[string]any{"prompt": "?"})
	if err != nil {
		t.Fatal(err)
	}
	asked.ParentHeader = request.Header
	h.fromKernel(asked, nil)
	var at eventlog.Position
	steps := h.events.Follow(&at, eventlog.Public, 10, 1<<20, nil)
	if len(steps) != 2 || !strings.Contains(string(steps[1].Entry.Value.message().Content), "output truncated: 3 messages") {
		t.Errorf("the log has %d messages, want output and a marker", len(steps))
	}
}

func TestAnOutputLogThatIsSlowKeepsNoMessageWaiting(t *testing.T) {
	o := &Options{RuntimeDir: t.TempDir(), Log: slog.New(slog.DiscardHandler)}
	o.Config.LogBytes = 64 << 20
	o.Config.OutputLog = &agentapi.OutputLogConfig{SpoolBytes: 64 << 20}
	h := newHub(o, func() {}) // nobody runs its log: it takes for ever
	const size, messages = 10_000, 2_500
	for i := range messages {
		h.fromKernel(jupyter.NewStream("stdout", line(i, size), "k", []byte(`{"msg_id":"a"}`)), []byte("own"))
	}
	h.fromKernel(jupyter.NewStatus(jupyter.Idle, "k"), []byte("own"))
	if now := h.events.Now(""); now.Seq() != messages+1 {
		t.Errorf("%d messages were taken of %d", now.Seq(), messages+1)
	}
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() { ended <- h.output.Run(ctx) }()
	if err := h.output.Seal(ctx); err != nil {
		t.Fatal(err)
	}
	var text strings.Builder
	missing, at := int64(0), int64(0)
	for p, content, ok := h.output.Oldest(); ok; p, content, ok = h.output.Oldest() {
		text.WriteString(unpacked(t, content))
		missing += p.From - at
		at = p.From + p.Bytes
		h.output.Stored(p.Number)
	}
	if err := h.output.Seal(ctx); err != nil { // what is missing at the end
		t.Fatal(err)
	}
	if p, _, ok := h.output.Oldest(); ok {
		missing += p.From - at
	}
	stop()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	kept := 0
	for ; strings.HasPrefix(text.String()[kept*size:], line(kept, size)) && kept*size < text.Len(); kept++ {
	}
	if kept*size != text.Len() || text.Len() < 15<<20 || int64(text.Len())+missing != messages*size {
		t.Errorf("%d lines are kept, %d bytes, and %d are told to be missing, of %d", kept, text.Len(), missing, messages*size)
	}
}

// BenchmarkCapped is what budgets and the output log cost a message of 100 bytes: a
// microsecond or two, and nothing that is allocated.
func BenchmarkCapped(b *testing.B) {
	o := &Options{RuntimeDir: b.TempDir(), Log: slog.New(slog.DiscardHandler)}
	o.Config.Caps = agentapi.OutputCaps{CellBytes: 1 << 60, SecondBytes: 1 << 50}
	o.Config.OutputLog = &agentapi.OutputLogConfig{SpoolBytes: 1}
	h := newHub(o, func() {})
	ctx, stop := context.WithCancel(b.Context())
	ended := make(chan error)
	go func() { ended <- h.output.Run(ctx) }()
	defer func() {
		stop()
		if err := <-ended; err != nil {
			b.Error(err)
		}
	}()
	m := jupyter.NewStream("stdout", line(1234, 100), "k", []byte(`{"msg_id":"a"}`))
	b.ReportAllocs()
	for b.Loop() {
		now := time.Now()
		h.output.Text(jupyter.PeekRaw(m.Content, "text"), m.Size(), now)
		if h.caps.take(kindStream, m, "a", now) {
			b.Fatal("it is past a budget")
		}
	}
}
