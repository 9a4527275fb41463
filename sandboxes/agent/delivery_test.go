package agent

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"kernelgw/jupyter/wsproto"
	"kernelgw/sandboxes/agentapi"
)

// printed returns the numbers of the lines of "print N SIZE" among messages.
func printed(t *testing.T, all []received) []int {
	t.Helper()
	var numbers []int
	for _, m := range all {
		if m.MsgType != "stream" || m.Content["name"] != "stdout" {
			continue
		}
		number, _, _ := strings.Cut(strings.TrimSpace(m.text()), " ")
		n, err := strconv.Atoi(number)
		if err != nil {
			t.Fatalf("a line that does not begin with its number: %.40q", m.text())
		}
		numbers = append(numbers, n)
	}
	return numbers
}

// drop ends the connection without a word, as a lost network does.
func (p *peer) drop() { p.ws.NetConn().Close() }

func TestReplayAfterReconnectMissesNothing(t *testing.T) {
	r := start(t, nil)
	const lines = 3000
	for name, leave := range map[string]func(*peer){
		"abrupt": (*peer).drop,
		"polite": func(p *peer) {
			p.ws.WriteControl(websocket.CloseMessage, websocket.FormatCloseMessage(1000, ""), time.Now().Add(time.Second))
			p.closed()
		},
		"after not reading": func(p *peer) { time.Sleep(100 * time.Millisecond); p.drop() },
	} {
		t.Run(name, func(t *testing.T) {
			session := "s-" + name
			p := r.connect(session, wsproto.V1)
			id := p.execute(fmt.Sprintf("print %d 100", lines))
			end := cellEnd{id: id}
			var got []int
			for range 10 { // ten connections in a row, each cut in the middle
				for range 100 {
					m, err := p.read()
					if err != nil {
						t.Fatal(err)
					}
					end.sees(m)
					got = append(got, printed(t, []received{m})...)
				}
				leave(p)
				p = r.connect(session, wsproto.V1)
			}
			got = append(got, printed(t, p.until("the end", end.sees))...)
			checkReplay(t, got, lines)
		})
	}
}

// cellEnd waits for reply and idle of a request, in any order.
type cellEnd struct {
	id          string
	reply, idle bool
}

func (e *cellEnd) sees(m received) bool {
	if m.Parent.MsgID == e.id {
		e.reply = e.reply || m.Channel == "shell"
		e.idle = e.idle || isStatus(m, "idle")
	}
	return e.reply && e.idle
}

// checkReplay demands that each number came, in order, but for going back after
// a reconnect to what had not been acknowledged.
func checkReplay(t *testing.T, got []int, lines int) {
	t.Helper()
	next, back := 0, 0
	for _, n := range got {
		switch {
		case n > next:
			t.Fatalf("line %d came when %d was next", n, next)
		case n < next:
			back++
			next = n + 1
		default:
			next++
		}
	}
	if next != lines {
		t.Fatalf("%d of %d lines came", next, lines)
	}
	t.Logf("%d lines came, went back %d times", len(got), back)
}

func TestNothingIsSentAgainThatWasAcknowledged(t *testing.T) {
	r := start(t, nil)
	p := r.connect("s", wsproto.V1)
	p.cell(p.execute("print 100 10"))
	r.settled(t, "s")
	p.drop()
	p = r.connect("s", wsproto.V1)
	id := p.execute("say again")
	for _, m := range p.cell(id) {
		if m.Parent.MsgID != id {
			t.Fatalf("%s came again", m.MsgType)
		}
	}
	if n := r.agent.Status().Replayed; n != 0 {
		t.Errorf("%d messages were replayed", n)
	}
}

// settled waits until a client has acknowledged everything.
func (r *running) settled(t *testing.T, session string) {
	t.Helper()
	last := r.agent.hub.events.Stats().Last
	r.status("settled", func(agentapi.Status) bool {
		h := r.agent.hub
		h.mu.Lock()
		defer h.mu.Unlock()
		return h.clients[session].acked.Seq() >= last
	})
}

func TestOutputOfACellIsKeptForAClientThatIsAway(t *testing.T) {
	r := start(t, nil)
	p, other := r.connect("s", wsproto.V1), r.connect("other", wsproto.V1)
	id := p.execute("sleep 100\nprint 50 10\necho done")
	p.until("busy", func(m received) bool { return isStatus(m, "busy") })
	p.drop()
	other.until("idle", func(m received) bool { return isStatus(m, "idle") })
	p = r.connect("s", wsproto.V1)
	all := p.cell(id)
	checkReplay(t, printed(t, all), 50)
}

func TestNewSessionStartsNow(t *testing.T) {
	r := start(t, nil)
	p := r.connect("s", wsproto.V1)
	p.cell(p.execute("print 10 10"))
	p.drop()
	p = r.connect("other", wsproto.V1)
	id := p.execute("say x")
	for _, m := range p.cell(id) {
		if m.Parent.MsgID != id {
			t.Errorf("a new session got %s of before", m.MsgType)
		}
	}
}

func TestSecondConnectionReplacesTheFirst(t *testing.T) {
	r := start(t, nil)
	first := r.connect("s", wsproto.V1)
	id := first.execute("sleep 200\nsay x")
	second := r.connect("s", wsproto.V1)
	// As jupyter_server: an empty close frame, which no client answers by
	// fighting for the place.
	if _, e := first.closed(); e.Code != websocket.CloseNoStatusReceived {
		t.Errorf("the first got close code %d, want an empty close frame", e.Code)
	}
	second.cell(id)
	if n := r.agent.Status().Connections; n != 1 {
		t.Errorf("%d connections, want 1", n)
	}
}

// A client whose connection breaks at once may be back before the agent has
// looked at the first one, which must not take the place of the second.
func TestConnectionsTakeTheirPlaceBeforeTheyAreOpen(t *testing.T) {
	r := start(t, nil)
	h := r.agent.hub
	opened := make(chan *websocket.Conn, 1)
	h.mu.Lock() // nobody can take a place
	go func() {
		d := websocket.Dialer{NetDialContext: r.dialContext}
		ws, _, err := d.Dial("ws://agent/v1/channels?session_id=s", streamHeaders(nil))
		if err != nil {
			t.Errorf("cannot connect: %v", err)
		}
		opened <- ws
	}()
	early := false
	select {
	case ws := <-opened:
		early = true
		opened <- ws
	case <-time.After(100 * time.Millisecond): // it is not waited for what cannot be
	}
	h.mu.Unlock()
	if ws := <-opened; ws != nil {
		ws.Close()
	}
	if early {
		t.Error("a connection was open before its messages were kept for it")
	}
}

func TestPingsCarryTheNumberOfWhatWasSent(t *testing.T) {
	r := start(t, nil)
	p := r.connect("s", wsproto.V1)
	end := cellEnd{id: p.execute("print 1000 10")}
	since, pings := 0, 0
	for {
		f := p.readRaw()
		m, err := decode(p.enc, f.binary, f.b)
		if f.err != nil || err != nil {
			t.Fatal(f.err, err)
		}
		if since++; f.pings > pings {
			pings, since = f.pings, 0
		}
		if since > pingMessages {
			t.Fatalf("%d messages without a ping", since)
		}
		if end.sees(m) {
			break
		}
	}
	r.settled(t, "s")
	last := uint64(0)
	for _, ping := range p.pinged() {
		seq, err := strconv.ParseUint(ping, 10, 64)
		if err != nil || seq < last {
			t.Fatalf("ping %q after %d", ping, last)
		}
		last = seq
	}
	if want := r.agent.hub.events.Stats().Last; last != want {
		t.Errorf("the last ping says %d, want %d", last, want)
	}
}

var truncated = regexp.MustCompile(`^output truncated: (\d+) messages, (\d+) bytes\n$`)

func TestLostOutputIsReplacedByOneMarker(t *testing.T) {
	r := start(t, func(o *Options) { o.Config.LogBytes = 64 << 10 })
	other := r.connect("other", wsproto.V1)
	for _, enc := range []wsproto.Encoding{wsproto.V1, wsproto.Legacy, wsproto.LegacyText} {
		t.Run(enc.String(), func(t *testing.T) {
			session := "s-" + enc.String()
			p := r.connect(session, enc)
			p.cell(p.execute("say before"))
			r.settled(t, session)
			id := p.execute("sleep 100\nprint 1000 1000\nerror ValueError x")
			p.until("input", func(m received) bool { return m.MsgType == "execute_input" })
			p.drop()
			other.until("idle", func(m received) bool { return isStatus(m, "idle") && m.Parent.MsgID == id })

			all := r.connect(session, enc).cell(id)
			lost, markers, types := 0, 0, map[string]int{}
			for _, m := range all {
				types[m.MsgType]++
				if match := truncated.FindStringSubmatch(m.text()); match != nil {
					markers++
					lost, _ = strconv.Atoi(match[1])
					size, _ := strconv.Atoi(match[2])
					if m.Content["name"] != "stderr" || m.Parent.MsgID != id || m.Channel != "iopub" {
						t.Errorf("the marker is %+v", m)
					}
					if size < lost*1000 {
						t.Errorf("the marker says %d bytes for %d messages of more than 1000 each", size, lost)
					}
				}
			}
			lines := printed(t, all)
			if markers != 1 || lost+len(lines) != 1000 || len(lines) == 0 {
				t.Errorf("%d markers, %d lines lost and %d there, want 1 marker and 1000 lines", markers, lost, len(lines))
			}
			if len(lines) > 0 && lines[0] != lost {
				t.Errorf("the first line there is %d, want %d", lines[0], lost)
			}
			for _, want := range []string{"error", "execute_reply", "status"} {
				if types[want] == 0 {
					t.Errorf("%s did not outlive the output: %v", want, types)
				}
			}
		})
	}
	if r.agent.Status().Dropped == 0 {
		t.Error("the status counts no dropped message")
	}
}

func TestMessageLargerThanTheLogReachesItsClient(t *testing.T) {
	r := start(t, func(o *Options) { o.Config.LogBytes = 64 << 10 })
	p := r.connect("s", wsproto.V1)
	found := false
	for _, m := range p.cell(p.execute("say before\nbig 3000000\nsay after")) {
		found = found || len(m.text()) >= 3_000_000
		if truncated.MatchString(m.text()) {
			t.Error("a connected client lost output")
		}
	}
	if !found {
		t.Error("the large message did not come")
	}
}

// flood reads a v1 peer until the request id is done, without the cost of
// decoding, calling each for each frame. It returns the lines that came and the
// number that markers say were lost.
func (p *peer) flood(id string, each func()) (lines []int, lost int) {
	p.t.Helper()
	reply, idle := false, false
	for !reply || !idle {
		raw := p.readRaw()
		if raw.err != nil {
			p.t.Fatalf("%v after %d lines", raw.err, len(lines))
		}
		f := frame{v1: raw.b}
		content := string(f.part(4)[:min(len(f.part(4)), 80)])
		number := func(after string) (int, bool) {
			_, rest, found := strings.Cut(content, after)
			text, _, _ := strings.Cut(rest, " ")
			n, err := strconv.Atoi(text)
			return n, found && err == nil
		}
		if n, ok := number("output truncated: "); ok {
			lost += n
		} else if n, ok := number(`"text": "`); ok {
			lines = append(lines, n)
		} else if n, ok := number(`"text":"`); ok {
			lines = append(lines, n)
		} else if m, err := decode(p.enc, true, raw.b); err != nil {
			p.t.Fatal(err)
		} else if m.Parent.MsgID == id {
			reply = reply || m.Channel == "shell"
			idle = idle || isStatus(m, "idle")
		}
		each()
	}
	return lines, lost
}

func TestStalledClientCostsNobodyElse(t *testing.T) {
	r := start(t, nil)
	stalled, quick := r.connect("stalled", wsproto.V1), r.connect("quick", wsproto.V1)
	const cells, each = 10, 100 // five times the log in all, half of it in each
	lost := 0
	for range cells {
		lines, n := quick.flood(quick.execute(fmt.Sprintf("print %d 80000", each)), func() {})
		checkReplay(t, lines, each)
		lost += n
	}
	if n := r.agent.hub.events.Stats().Bytes; n > agentapi.DefaultLogBytes || lost > 0 {
		t.Errorf("the log holds %d bytes, %d lines were lost", n, lost)
	}
	// When it reads again it gets what is there, and is told of the rest. The
	// reply was for the other.
	stalledLines, stalledLost := 0, 0
	idle := 0
	all := stalled.until("idle", func(m received) bool {
		if isStatus(m, "idle") {
			idle++
		}
		return idle == cells
	})
	for _, m := range all {
		if match := truncated.FindStringSubmatch(m.text()); match != nil {
			n, _ := strconv.Atoi(match[1])
			stalledLost += n
		}
	}
	stalledLines = len(printed(t, all))
	if stalledLost+stalledLines != cells*each || stalledLost == 0 {
		t.Errorf("%d lines came and %d are said to be lost, of %d", stalledLines, stalledLost, cells*each)
	}
}

func TestClientSlowerThanTheKernelIsToldOfEachLoss(t *testing.T) {
	r := start(t, func(o *Options) { o.Config.LogBytes = 1 << 20 })
	p := r.connect("s", wsproto.V1)
	id := p.execute("print 3000 10000") // thirty times the log, more than buffers hold
	frames := 0
	lines, lost := p.flood(id, func() {
		if frames++; frames%100 == 0 {
			time.Sleep(5 * time.Millisecond) // a client with something to do
		}
	})
	if !slices.IsSorted(lines) || len(lines)+lost != 3000 {
		t.Errorf("%d lines came, in order: %v, and %d are said to be lost, of 3000", len(lines), slices.IsSorted(lines), lost)
	}
}

func TestKernelThatDropsWhatNobodyReadsIsAlwaysRead(t *testing.T) {
	r := startReal(t, func(c *agentapi.Config) { c.LogBytes = 1 << 20 })
	p := r.connect("s", wsproto.V1)
	// Twenty times the log and several times what ipykernel queues, at a pace at
	// which a reader keeps up on any machine, to a client that does not.
	const n = 8000
	id := p.execute(fmt.Sprintf("import time\nk = get_ipython().kernel\nfor i in range(%d):\n"+
		"    k.send_response(k.iopub_socket, 'stream', {'name': 'stdout', 'text': ('%%d ' %% i).ljust(3000)})\n"+
		"    if i %% 10 == 9: time.sleep(0.002)", n))
	frames := 0
	lines, lost := p.flood(id, func() { // until the idle, which a full queue drops
		if frames++; frames%20 == 0 {
			time.Sleep(20 * time.Millisecond)
		}
	})
	if !slices.IsSorted(lines) || len(lines)+lost != n || lost == 0 {
		t.Errorf("%d lines came, in order: %v, and %d are said to be lost, of %d", len(lines), slices.IsSorted(lines), lost, n)
	}
}

func TestClientSlowerThanLargeMessagesLosesNothing(t *testing.T) {
	r := start(t, func(o *Options) { o.Config.LogBytes = 8 << 20 })
	p := r.connect("s", wsproto.V1)
	id := p.execute("print 200 300000") // eight times the log, more than buffers hold
	lines, lost := p.flood(id, func() { time.Sleep(5 * time.Millisecond) })
	checkReplay(t, lines, 200)
	if lost > 0 {
		t.Errorf("%d lines were lost", lost)
	}
}

func TestManyConnectsLeaveNoClientsBehind(t *testing.T) {
	r := start(t, nil)
	for range 50 {
		r.connect("", wsproto.Legacy).drop()
	}
	// Not at once: the agent may attach one after it was told, and left.
	r.status("without clients", func(s agentapi.Status) bool {
		h := r.agent.hub
		h.mu.Lock()
		defer h.mu.Unlock()
		return s.Connections == 0 && len(h.clients) == 0 && len(h.routes.bySession) == 0
	})
}

func TestClientsThatAreAwayAreBounded(t *testing.T) {
	r := start(t, nil)
	h := r.agent.hub
	keeper := r.connect("keeper", wsproto.V1)
	for i := range maxAway + 20 {
		s := &socket{hub: h, encoding: wsproto.V1, wake: make(chan struct{}, 1)}
		h.attach(s, fmt.Sprint(i))
		h.detach(s)
	}
	h.mu.Lock()
	n, first, last := len(h.clients), h.clients["0"], h.clients[fmt.Sprint(maxAway+19)]
	h.mu.Unlock()
	if n != maxAway+1 || first != nil || last == nil {
		t.Errorf("%d clients are remembered, want %d and the oldest gone", n, maxAway+1)
	}
	h.tick(time.Now().Add(clientLifetime + time.Minute))
	h.mu.Lock()
	n = len(h.clients)
	h.mu.Unlock()
	if n != 1 {
		t.Errorf("%d clients are remembered after their lifetime, want the connected one", n)
	}
	// The tick was far in the future: the connection counts as silent.
	if _, err := keeper.read(); err == nil {
		t.Error("a silent connection was not cut")
	}
}
