package agent

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/gorilla/websocket"

	"kernelgw/jupyter"
	"kernelgw/jupyter/wsproto"
	"kernelgw/sandboxes/agent/eventlog"
)

// countedListener counts what its connections write, and how often.
type countedListener struct {
	net.Listener
	writes, bytes atomic.Int64
}

func (l *countedListener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	return &countedConn{conn, l}, err
}

type countedConn struct {
	net.Conn
	to *countedListener
}

func (c *countedConn) Write(p []byte) (int, error) {
	n, err := c.Conn.Write(p)
	c.to.writes.Add(1)
	c.to.bytes.Add(int64(n))
	return n, err
}

// replayBytes is what a client that comes back is to have within a second.
const replayBytes = 10 << 20

// fill appends lines as a kernel prints them until they are so many bytes, as a
// WebSocket counts them, and returns how many.
func fill(h *hub) (lines int) {
	parent := []byte(`{"msg_id": "8e0b7f4c-1d0c4f6b8a2e4d6f_24093_7", "msg_type": "execute_request", "username": "username", "session": "8e0b7f4c-1d0c4f6b8a2e4d6f", "date": "2026-11-26T11:20:00.000000Z", "version": "5.4"}`)
	for size := 0; size < replayBytes; lines++ {
		m := jupyter.NewStream("stdout", fmt.Sprintf("line %d %s\n", lines, strings.Repeat("x", 90)), "8e0b7f4c-1d0c4f6b8a2e4d6f", parent)
		e := entry(m, "", kindStream, false)
		size += e.Cost
		h.events.Append(e)
	}
	h.wake()
	return lines
}

// filled is an agent whose log holds so many bytes of lines.
type filled struct {
	*running
	listener *countedListener
	before   eventlog.Cursor // the lines
	lines    int
}

func startFilled(t testing.TB) *filled {
	f := &filled{}
	f.running = start(t, func(o *Options) {
		f.listener = &countedListener{Listener: o.Listener}
		o.Listener = f.listener
	})
	f.ready()
	h := f.agent.hub
	f.before = h.events.Now("")
	f.lines = fill(h)
	return f
}

// replays are the ways to have the lines, read as fast as they come.
var replays = []struct {
	name string
	read func(t testing.TB, f *filled)
}{
	{"socket-v1", func(t testing.TB, f *filled) { f.readSocket(t, wsproto.V1) }},
	{"socket-legacy", func(t testing.TB, f *filled) { f.readSocket(t, wsproto.Legacy) }},
	{"stream-websocket", func(t testing.TB, f *filled) {
		ws, _, err := dialStream(f.running, fmt.Sprint("from=", f.before.Seq()))
		if err != nil {
			t.Fatal(err)
		}
		defer ws.Close()
		readMessages(t, ws, 1+f.lines) // and the place where it begins
	}},
	{"stream-sse", func(t testing.TB, f *filled) {
		req, err := http.NewRequest(http.MethodGet, fmt.Sprint("http://agent/v1/stream?from=", f.before.Seq()), nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header = streamHeaders(nil)
		resp, err := f.http.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		lines := bufio.NewReaderSize(resp.Body, 64<<10)
		for ends := 0; ends < 1+f.lines; {
			line, err := lines.ReadSlice('\n')
			if err != nil {
				t.Fatal(err)
			}
			if len(line) == 1 {
				ends++
			}
		}
	}},
	{"pages", func(t testing.TB, f *filled) {
		page := struct {
			Next string
			End  bool
		}{Next: fmt.Sprint(f.before.Seq())}
		for !page.End {
			status, body := f.call("GET", "/v1/output?limit=10000&from="+page.Next)
			if status != http.StatusOK || json.Unmarshal(body, &page) != nil {
				t.Fatalf("%d %.100s", status, body)
			}
		}
	}},
}

// readSocket reads as a client that was away does.
func (f *filled) readSocket(t testing.TB, enc wsproto.Encoding) {
	h, session := f.agent.hub, jupyter.NewID()
	s := &socket{hub: h, encoding: wsproto.V1, wake: make(chan struct{}, 1)}
	c := h.attach(s, session)
	h.detach(s)
	h.mu.Lock()
	c.acked = f.before
	h.mu.Unlock()
	d := websocket.Dialer{NetDialContext: f.dialContext, ReadBufferSize: 64 << 10}
	if enc == wsproto.V1 {
		d.Subprotocols = []string{wsproto.Subprotocol}
	}
	ws, _, err := d.Dial("ws://agent/v1/channels?session_id="+session, streamHeaders(nil))
	if err != nil {
		t.Fatal(err)
	}
	defer ws.Close()
	readMessages(t, ws, f.lines)
}

func readMessages(t testing.TB, ws *websocket.Conn, messages int) {
	for range messages {
		_, m, err := ws.NextReader()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.Copy(io.Discard, m); err != nil {
			t.Fatal(err)
		}
	}
}

// Ten megabytes of lines are there within a second: the benchmark below says how
// soon. Counted here is what that depends on, and no time: they are written in
// large pieces.
func TestReplayIsWrittenInLargePieces(t *testing.T) {
	f := startFilled(t)
	for _, c := range replays {
		writes, bytes := f.listener.writes.Load(), f.listener.bytes.Load()
		c.read(t, f)
		writes, bytes = f.listener.writes.Load()-writes, f.listener.bytes.Load()-bytes
		t.Logf("%s: %d lines, %d bytes in %d writes", c.name, f.lines, bytes, writes)
		if bytes < replayBytes*3/4 || writes > 2*bytes/(32<<10) {
			t.Errorf("%s: %d bytes in %d writes", c.name, bytes, writes)
		}
	}
}

// BenchmarkReplay is the time from the request of a client that comes back until
// it has ten megabytes of lines, the client's own part included. Budget: a second.
func BenchmarkReplay(b *testing.B) {
	for _, c := range replays {
		b.Run(c.name, func(b *testing.B) {
			f := startFilled(b)
			b.SetBytes(replayBytes)
			b.ResetTimer()
			for range b.N {
				c.read(b, f)
			}
			b.ReportMetric(float64(f.lines), "lines/op")
		})
	}
}

// What must be there at the end of a cell outlives what it showed.
func TestOutputLeavesBeforeWhatTellsTheStateOfACell(t *testing.T) {
	h := followedHub(64 << 10)
	kept := []struct {
		channel jupyter.Channel
		msgType string
	}{
		{jupyter.IOPub, "status"},
		{jupyter.IOPub, "execute_input"},
		{jupyter.IOPub, "error"},
		{jupyter.IOPub, "comm_open"},
		{jupyter.IOPub, "comm_msg"},
		{jupyter.IOPub, "comm_close"},
		{jupyter.Shell, "execute_reply"},
		{jupyter.Control, "interrupt_reply"},
		{jupyter.Stdin, "input_request"},
	}
	spilt := []string{"display_data", "update_display_data", "execute_result", "clear_output", "something_else", "stream"}
	c := &client{id: "asker"}
	h.clients["asker"] = c
	h.routes.learn(c, "cell", "asker")
	say := func(channel jupyter.Channel, msgType string) {
		m, err := jupyter.NewMessage(channel, msgType, "kernel", map[string]any{"text": strings.Repeat("x", 500), "execution_state": "busy"})
		if err != nil {
			t.Fatal(err)
		}
		m.ParentHeader = []byte(`{"msg_id":"cell","session":"asker","msg_type":"execute_request"}`)
		h.fromKernel(m, []byte("own"))
	}
	for _, k := range kept {
		say(k.channel, k.msgType)
	}
	for _, msgType := range spilt {
		say(jupyter.IOPub, msgType)
	}
	for range 1000 {
		say(jupyter.IOPub, "stream")
	}
	left := func() map[string]int {
		types := map[string]int{}
		var at eventlog.Position
		for _, s := range h.events.Follow(&at, eventlog.Everything, 10_000, 1<<30, nil) {
			if s.Lost.Messages == 0 {
				types[jupyter.PeekType(s.Entry.Value.message().Header)]++
			}
		}
		return types
	}
	types := left()
	for _, k := range kept {
		if types[k.msgType] != 1 {
			t.Errorf("%s left before output: %v", k.msgType, types)
		}
	}
	for _, msgType := range spilt[:len(spilt)-1] {
		if types[msgType] != 1 {
			t.Errorf("%s left before streams: %v", msgType, types)
		}
	}
	for range 1000 {
		say(jupyter.IOPub, "display_data")
	}
	types = left()
	for _, k := range kept {
		if types[k.msgType] != 1 {
			t.Errorf("%s left before displays: %v", k.msgType, types)
		}
	}
	if types["stream"] > 0 || types["display_data"] == 0 {
		t.Errorf("streams do not leave before displays: %v", types)
	}
}

func TestLogHoldsSixteenMiBUnlessConfigured(t *testing.T) {
	r := start(t, nil)
	r.ready()
	h := r.agent.hub
	fill(h)
	fill(h)
	if held := h.events.Stats().Bytes; held > 16<<20 || held < 15<<20 {
		t.Errorf("the log holds %d bytes of 20 MiB", held)
	}
}
