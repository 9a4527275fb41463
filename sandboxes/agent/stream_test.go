package agent

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gorilla/websocket"

	"kernelgw/jupyter"
	"kernelgw/jupyter/wsproto"
	"kernelgw/sandboxes/agent/eventlog"
	"kernelgw/sandboxes/agentapi"
)

// event is one object of a stream or page, as a client decodes it.
type event struct {
	ID      string           `json:"id"`
	Seq     uint64           `json:"seq"`
	Channel string           `json:"channel"`
	Msg     received         `json:"msg"`
	Buffers [][]byte         `json:"buffers"`
	Lost    map[string]int64 `json:"lost"`
	Parent  head             `json:"parent_header"`
	end     string           // the data of the event "end"
}

// streamReader reads a stream, however it is carried.
type streamReader interface{ next() (event, error) }

// both runs a test over each way to carry a stream. open asks with a query and
// headers, and must work.
func both(t *testing.T, test func(t *testing.T, open func(r *running, query string, headers ...string) streamReader)) {
	t.Run("sse", func(t *testing.T) { test(t, openSSE) })
	t.Run("websocket", func(t *testing.T) { test(t, openSocket) })
}

func streamHeaders(lines []string) http.Header {
	h := http.Header{"Authorization": {"Bearer " + testToken}}
	for _, line := range lines {
		name, value, _ := strings.Cut(line, ": ")
		h.Add(name, value)
	}
	return h
}

type sseReader struct {
	lines *bufio.Reader
	id    string
}

func openSSE(r *running, query string, headers ...string) streamReader {
	r.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://agent/v1/stream?"+query, nil)
	if err != nil {
		r.t.Fatal(err)
	}
	req.Header = streamHeaders(headers)
	resp, err := r.http.Do(req)
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { cancel(); resp.Body.Close() })
	if resp.StatusCode != http.StatusOK || resp.Header.Get("Content-Type") != "text/event-stream" {
		body, _ := io.ReadAll(io.LimitReader(resp.Body, 1000))
		r.t.Fatalf("the stream is %d, %q %s", resp.StatusCode, resp.Header.Get("Content-Type"), body)
	}
	return &sseReader{lines: bufio.NewReaderSize(resp.Body, 64<<10)}
}

// next parses as the HTML standard says, section 9.2.6.
func (s *sseReader) next() (event, error) {
	name, data := "", ""
	for {
		line, err := s.lines.ReadString('\n')
		if err != nil {
			return event{}, err
		}
		field, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), ":")
		value = strings.TrimPrefix(value, " ")
		switch {
		case line == "\n" && name == "end":
			return event{end: data}, nil
		case line == "\n" && data == "":
			e := event{ID: s.id}
			if s.id != "" {
				return e, nil
			}
		case line == "\n":
			var e event
			if err := json.Unmarshal([]byte(data), &e); err != nil {
				return e, fmt.Errorf("%w in %q", err, data)
			}
			if e.ID != s.id {
				return e, fmt.Errorf("the id is %s, and in the data %s", s.id, e.ID)
			}
			return e, nil
		case field == "data":
			data += value
		case field == "id":
			s.id = value
		case field == "event":
			name = value
		}
	}
}

type socketReader struct{ ws *websocket.Conn }

func dialStream(r *running, query string, headers ...string) (*websocket.Conn, *http.Response, error) {
	d := websocket.Dialer{NetDialContext: r.dialContext}
	return d.Dial("ws://agent/v1/stream?"+query, streamHeaders(headers))
}

func openSocket(r *running, query string, headers ...string) streamReader {
	r.t.Helper()
	ws, _, err := dialStream(r, query, headers...)
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { ws.Close() })
	return &socketReader{ws}
}

func (s *socketReader) next() (event, error) {
	s.ws.SetReadDeadline(time.Now().Add(patience))
	kind, b, err := s.ws.ReadMessage()
	if e, ok := err.(*websocket.CloseError); ok && e.Code == websocket.CloseNormalClosure {
		return event{end: `{"reason":""}`}, nil
	}
	if err != nil {
		return event{}, err
	}
	var e event
	if kind != websocket.TextMessage {
		return e, fmt.Errorf("a message of kind %d", kind)
	}
	if err := json.Unmarshal(b, &e); err != nil {
		return e, fmt.Errorf("%w in %q", err, b)
	}
	return e, nil
}

// collect reads events until want, the wanted last. What says only where the
// stream is, is left out.
func collect(t testing.TB, s streamReader, what string, want func(event) bool) []event {
	t.Helper()
	var all []event
	for {
		e, err := s.next()
		if err != nil {
			t.Fatalf("waiting for %s: %v, after %d events", what, err, len(all))
		}
		if e.Msg.Header.MsgType == "" && e.Lost == nil && e.end == "" {
			if want(e) {
				return all
			}
			continue
		}
		all = append(all, e)
		if want(e) {
			return all
		}
	}
}

func idleOf(id string) func(event) bool {
	return func(e event) bool {
		return e.Msg.Header.MsgType == "status" && e.Msg.Content["execution_state"] == "idle" && e.Msg.Parent.MsgID == id
	}
}

const allChannels = "channels=iopub,shell,control,stdin"

func TestStreamHasEveryMessageFromAnyPlaceOnce(t *testing.T) {
	both(t, func(t *testing.T, open func(*running, string, ...string) streamReader) {
		r := start(t, nil)
		r.ready()
		p := r.connect("s", wsproto.V1)
		live := open(r, "from=0&"+allChannels)
		first := p.execute("say one\nprint 50 10\ndisplay 20000\ncomm 3 100")
		p.cell(first)
		last := p.execute("say two")
		p.cell(last)
		end := func(e event) bool { return e.Seq == r.agent.hub.events.Stats().Last }
		whole := collect(t, live, "the end of the second cell", end)
		replies := 0
		for i, e := range whole {
			if e.Seq != uint64(i+1) || e.Lost != nil {
				t.Fatalf("event %d is %+v", i, e)
			}
			if e.Channel == "shell" {
				replies++
			}
			if e.Msg.Header.MsgType == "comm_msg" && (len(e.Buffers) != 3 || len(e.Buffers[2]) != 100) {
				t.Errorf("a comm has buffers %v", e.Buffers)
			}
		}
		if replies != 2 {
			t.Errorf("%d replies, want 2", replies)
		}
		for i := 0; i < len(whole)-1; i += 7 {
			for _, query := range []string{"last_event_id=" + whole[i].ID, fmt.Sprint("from=", whole[i].Seq), fmt.Sprint("last_event_id=", whole[i].Seq)} {
				again := collect(t, open(r, query+"&"+allChannels), "the same end", end)
				if len(again) != len(whole)-i-1 || again[0].ID != whole[i+1].ID {
					t.Fatalf("from %s there are %d events, the first is %s; want %d and %s", query, len(again), again[0].ID, len(whole)-i-1, whole[i+1].ID)
				}
			}
		}
		// The header is newer than the URL of a page that comes back.
		again := collect(t, open(r, "from=0&"+allChannels, "Last-Event-ID: "+whole[3].ID), "the same end", end)
		if again[0].ID != whole[4].ID {
			t.Errorf("with the header the first event is %s", again[0].ID)
		}
	})
}

func TestStreamHasOnlyTheChannelsThatAreAskedFor(t *testing.T) {
	r := start(t, nil)
	r.ready()
	p := r.connect("s", wsproto.V1)
	p.cell(p.execute("say one"))
	p.cell(p.execute("say two"))
	page := func(query string) (events []event) {
		var answer struct{ Events []event }
		if status, body := r.call("GET", "/v1/output?"+query); status != 200 || json.Unmarshal(body, &answer) != nil {
			t.Fatalf("%s is %d %s", query, status, body)
		}
		return answer.Events
	}
	for query, want := range map[string]string{
		"": "iopub", "channels=iopub": "iopub", "channels=shell": "shell", "channels=shell,stdin": "shell", "channels=control": "",
		"channels=shell,%20iopub": "iopub,shell",
	} {
		seen := map[string]bool{}
		for _, e := range page(query) {
			seen[e.Channel] = true
		}
		got := ""
		for _, name := range []string{"iopub", "shell", "control", "stdin"} {
			if seen[name] {
				got += "," + name
			}
		}
		if got = strings.TrimPrefix(got, ","); got != want {
			t.Errorf("%q has messages of %q, want %q", query, got, want)
		}
	}
	if status, body := r.call("GET", "/v1/output?channels=shell,heartbeat"); status != 400 {
		t.Errorf("an unknown channel is answered with %d %s", status, body)
	}
}

func TestStreamWithoutAPlaceBeginsNow(t *testing.T) {
	both(t, func(t *testing.T, open func(*running, string, ...string) streamReader) {
		r := start(t, nil)
		r.ready()
		p := r.connect("s", wsproto.V1)
		p.cell(p.execute("say before"))
		s := open(r, "")
		here, err := s.next()
		if err != nil || here.ID == "" || here.Channel != "" {
			t.Fatalf("the stream begins with %+v, %v, want its place", here, err)
		}
		// Who comes back from there, before anything came, has missed nothing.
		id := p.execute("say after")
		p.cell(id)
		for _, s := range []streamReader{s, open(r, "last_event_id="+here.ID)} {
			all := collect(t, s, "the cell", idleOf(id))
			if all[0].Msg.Parent.MsgID != id || !isStatus(received{Channel: "iopub", MsgType: "status", Content: all[0].Msg.Content}, "busy") {
				t.Errorf("the first event is %+v", all[0])
			}
		}
	})
}

func TestStreamEndsWithTheKernel(t *testing.T) {
	both(t, func(t *testing.T, open func(*running, string, ...string) streamReader) {
		r := start(t, nil)
		r.ready()
		s := open(r, "from=0")
		if status, body := r.call("POST", "/v1/kernel/shutdown"); status != 204 {
			t.Fatalf("shutdown: %d %s", status, body)
		}
		all := collect(t, s, "the end", func(e event) bool { return e.end != "" })
		if dead := all[len(all)-2]; dead.Msg.Content["execution_state"] != "dead" || all[len(all)-1].end != `{"reason":""}` {
			t.Errorf("the stream ends with %+v", all[len(all)-2:])
		}
		<-r.ended
	})
}

func TestStreamTellsWhatIsLostInItsPlace(t *testing.T) {
	both(t, func(t *testing.T, open func(*running, string, ...string) streamReader) {
		r := start(t, func(o *Options) { o.Config.LogBytes = 100_000 })
		r.ready()
		p := r.connect("s", wsproto.V1)
		first := p.execute("print 300 1000")
		p.cell(first)
		last := p.execute("print 50 1000")
		p.cell(last)
		seq, lost := uint64(0), int64(0)
		for _, e := range collect(t, open(r, "from=0&"+allChannels), "the end", idleOf(last)) {
			if e.Lost != nil {
				lost += e.Lost["messages"]
				if e.Lost["bytes"] < 1000*e.Lost["messages"] || e.Seq != seq+uint64(e.Lost["messages"]) || e.Parent.MsgID == "" {
					t.Errorf("after %d: %+v", seq, e)
				}
				// Who has been told is not told again.
				after, err := open(r, "last_event_id="+e.ID+"&"+allChannels).next()
				if err != nil || after.Lost != nil {
					t.Errorf("behind a loss: %+v %v", after, err)
				}
			} else if e.Seq != seq+1 {
				t.Fatalf("event %d follows %d and nothing is lost", e.Seq, seq)
			}
			seq = e.Seq
		}
		if lost < 250 {
			t.Errorf("%d messages are lost of 350 with 1000 bytes each in a log of 100,000", lost)
		}
	})
}

func TestStreamRefusesAPlaceThatIsNotOfThisLog(t *testing.T) {
	r := start(t, nil)
	r.ready()
	p := r.connect("s", wsproto.V1)
	p.cell(p.execute("say one"))
	mine, err := openSSE(r, "").next()
	if err != nil {
		t.Fatal(err)
	}
	_, place, _ := strings.Cut(mine.ID, "-")
	for query, want := range map[string]int{
		"from=100000": 410, "from=18446744073709551616": 400, "last_event_id=-1": 400, "last_event_id=x": 400, "from=1.5": 400,
		"last_event_id=000000000000-" + place: 410, "last_event_id=" + strings.ReplaceAll(mine.ID, place, "zzzz-1-1-1-1"): 410,
		"from=0&channels=x": 400, "from=" + strings.Repeat("9", 5000): 400,
	} {
		for _, path := range []string{"/v1/stream?", "/v1/output?"} {
			status, body := r.call("GET", path+query)
			var answer struct{ Message string }
			if status != want || json.Unmarshal(body, &answer) != nil || answer.Message == "" {
				t.Errorf("%.60s: %d %s, want %d and a message", path+query, status, body, want)
			}
		}
		if ws, resp, err := dialStream(r, query); err == nil || resp == nil || resp.StatusCode != want {
			t.Errorf("%.60s: the WebSocket got %v, want %d", query, err, want)
			if err == nil {
				ws.Close()
			}
		}
	}
}

func TestOutputPagesAreTheWholeLog(t *testing.T) {
	r := start(t, nil)
	r.ready()
	p := r.connect("s", wsproto.V1)
	id := p.execute("print 100 10\necho done")
	p.cell(id)
	whole := collect(t, openSSE(r, "from=0&"+allChannels), "the end", idleOf(id))
	last := r.agent.hub.events.Stats().Last
	for _, query := range []string{"limit=7&" + allChannels, "limit=1&channels=iopub", "limit=10000&channels=shell"} {
		var got []event
		from := "0"
		for pages := 0; ; pages++ {
			var page struct {
				Events []event
				Next   string
				End    bool
				Lost   map[string]int64
			}
			status, body := r.call("GET", "/v1/output?from="+from+"&"+query)
			if status != 200 || json.Unmarshal(body, &page) != nil || page.Lost["messages"] != 0 {
				t.Fatalf("%s: %d %s", query, status, body)
			}
			got = append(got, page.Events...)
			from = page.Next
			if page.End {
				break
			}
			if pages > 1000 {
				t.Fatal("the pages do not end")
			}
		}
		for i, e := range got {
			if i > 0 && e.Seq <= got[i-1].Seq {
				t.Errorf("%s: event %d follows %d", query, e.Seq, got[i-1].Seq)
			}
		}
		if strings.Contains(query, allChannels) && (len(got) < len(whole) || uint64(len(got)) != last) {
			t.Errorf("%s: %d events of %d", query, len(got), last)
		}
	}
	for _, bad := range []string{"0", "-1", "x", "10001"} {
		if status, body := r.call("GET", "/v1/output?limit="+bad); status != 400 {
			t.Errorf("limit %s: %d %s", bad, status, body)
		}
	}
}

func TestStreamSurvivesWhatAKernelShouldNotSend(t *testing.T) {
	both(t, func(t *testing.T, open func(*running, string, ...string) streamReader) {
		r := start(t, nil)
		r.ready()
		p := r.connect("s", wsproto.V1)
		s := open(r, "from=0")
		p.execute("invalid-utf8\ninvalid-json\nsay still here")
		found := map[string]bool{}
		collect(t, s, "the line behind", func(e event) bool {
			text := e.Msg.text()
			found["replaced"] = found["replaced"] || strings.Contains(text, "\uFFFD")
			found["null"] = found["null"] || e.Msg.Header.MsgType == "stream" && e.Msg.Content == nil
			return text == "still here\n"
		})
		if !found["replaced"] || !found["null"] {
			t.Errorf("found %v", found)
		}
	})
}

// stopper is an outlet that takes nothing before it is told, and counts.
type stopper struct {
	begun, beats, flushes int
	events                []uint64
	gate                  chan struct{}
}

func (o *stopper) begin(eventlog.Position) error { o.begun++; return nil }
func (o *stopper) flush() error                  { o.flushes++; return nil }
func (o *stopper) beat() error                   { o.beats++; return io.ErrClosedPipe }
func (o *stopper) event(s *step) error {
	<-o.gate
	o.events = append(o.events, s.At.Seq)
	return nil
}

func streamMessage(text string) *jupyter.Message {
	return jupyter.NewStream("stdout", text, "session", []byte(`{"msg_id":"1","msg_type":"execute_request"}`))
}

func followedHub(budget int64) *hub {
	return newHub(&Options{Config: agentapi.Config{LogBytes: budget, MaxMessageBytes: 1 << 20}}, func() {})
}

func TestSlowFollowerCostsOnlyItsPlace(t *testing.T) {
	h := followedHub(1 << 20)
	out := &stopper{gate: make(chan struct{})}
	f := h.follow(t.Context(), h.events.End(), wanted{audience: eventlog.Public}, patience)
	over := make(chan struct{})
	done := make(chan bool)
	go func() { done <- f.run(over, out) }()
	text := strings.Repeat("x", 10_000)
	for range 1000 { // ten times the budget; nothing here waits for the follower
		h.events.Append(entry(streamMessage(text), "", kindStream, false))
		h.wake()
	}
	if held := h.events.Stats().Bytes; held > 1<<20 {
		t.Errorf("the log holds %d bytes", held)
	}
	close(out.gate)
	close(over)
	if !<-done {
		t.Error("the follower did not get all that is left")
	}
	h.unfollow(f)
	if n := len(out.events); n > 300 || out.events[n-1] != 1000 {
		t.Errorf("%d steps to %d", n, out.events[n-1])
	}
	if len(*h.followers.Load()) != 0 {
		t.Error("the hub remembers a follower that left")
	}
}

// As for sockets: large messages wait for whoever reads, and for nobody else.
func TestLargeMessagesWaitForAFollowerThatReads(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := followedHub(4 << 20)
		f := h.follow(t.Context(), h.events.End(), wanted{}, patience)
		defer h.unfollow(f)
		appendLarge := func() (done chan struct{}) {
			e := entry(streamMessage(strings.Repeat("x", 3<<20)), "", kindStream, false)
			h.events.Append(e)
			done = make(chan struct{})
			go func() {
				defer close(done)
				h.pace.appended(h, e.Bytes)
			}()
			synctest.Wait()
			return done
		}
		done := appendLarge()
		if closed(done) {
			t.Fatal("a message of 3 MiB did not wait for a follower that has half a log before it")
		}
		at := h.events.End()
		f.offset.Store(at.Offset())
		f.wrote(1)
		synctest.Wait()
		if !closed(done) {
			t.Fatal("it waits although the follower has everything")
		}
		// Time passes, and nothing is written: for a second in all, after the wait that finds
		// out, and then not once more.
		wait := time.Duration(3<<20) * time.Second / paceRate
		for waited := -wait; waited < paceStall; waited += wait {
			if done := appendLarge(); closed(done) {
				t.Fatalf("no message waits for a follower that has read nothing for %v", max(waited, 0))
			} else {
				<-done
			}
		}
		if done := appendLarge(); !closed(done) {
			t.Error("a message waits for a follower that does not read")
		}
	})
}

func TestFollowerBeatsInSilenceAndEndsWhenThatFails(t *testing.T) {
	h := followedHub(1 << 20)
	out := &stopper{}
	f := h.follow(t.Context(), h.events.End(), wanted{}, time.Millisecond)
	defer h.unfollow(f)
	if f.run(nil, out) || out.beats != 1 || out.begun != 1 {
		t.Errorf("%+v", out)
	}
}

func TestFollowerEndsWhenItIsCut(t *testing.T) {
	h := followedHub(1 << 20)
	f := h.follow(t.Context(), h.events.End(), wanted{}, patience)
	defer h.unfollow(f)
	done := make(chan bool)
	go func() { done <- f.run(nil, &stopper{}) }()
	h.cutSockets()
	if <-done {
		t.Error("the follower says it has everything")
	}
}

func FuzzEventIsOneLineOfJSON(f *testing.F) {
	f.Add([]byte(`{"a":1}`), []byte("{}"), []byte("{\r\n\"text\": \"a\\nb\"\n}"), []byte{0, 1, 255})
	f.Add([]byte("{\"a\":\"\xff\"}"), []byte(""), []byte("{"), []byte{})
	f.Fuzz(func(t *testing.T, header, parent, content, buffer []byte) {
		m := &jupyter.Message{Channel: jupyter.IOPub, Header: header, ParentHeader: parent, Metadata: []byte("{}"), Content: content, Buffers: [][]byte{buffer}}
		for _, s := range []step{{Entry: entry(m, "", kindStream, false)}, {Lost: eventlog.Lost{Messages: 1, Parent: parent}}} {
			var b strings.Builder
			if err := (&eventWriter{epoch: "e"}).write(&b, &s); err != nil {
				t.Fatal(err)
			}
			text := b.String()
			if strings.ContainsAny(text, "\r\n") || strings.ToValidUTF8(text, "") != text {
				t.Fatalf("not one line of UTF-8: %q", text)
			}
			var e struct {
				ID      string
				Msg     map[string]json.RawMessage
				Buffers [][]byte
			}
			if err := json.Unmarshal([]byte(text), &e); err != nil || e.ID != "e-0-0-0-0-0" {
				t.Fatalf("%v in %q", err, text)
			}
			if s.Lost.Messages == 0 && (len(e.Buffers) != 1 || string(e.Buffers[0]) != string(buffer)) {
				t.Fatalf("buffer %q came back as %q", buffer, e.Buffers)
			}
			if want, got := content, e.Msg["content"]; s.Lost.Messages == 0 && json.Valid(want) && string(sameJSON(want)) != string(sameJSON(got)) {
				t.Fatalf("content %q came back as %q", want, got)
			}
		}
	})
}

// sameJSON is JSON as an encoder writes it, so that texts can be compared.
func sameJSON(b []byte) []byte {
	d := json.NewDecoder(strings.NewReader(strings.ToValidUTF8(string(b), "\uFFFD")))
	d.UseNumber()
	var v any
	if d.Decode(&v) != nil {
		return nil
	}
	out, _ := json.Marshal(v)
	return out
}
