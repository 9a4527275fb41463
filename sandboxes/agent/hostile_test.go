package agent

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/gorilla/websocket"

	"kernelgw/jupyter"
	"kernelgw/jupyter/wsproto"
	"kernelgw/sandboxes/agentapi"
)

// A hostile kernel: what it sends ends at most itself.

func TestKernelThatSendsAHugeFrameIsReplaced(t *testing.T) {
	for _, code := range []string{"huge-frame", "claim 8589934592"} {
		t.Run(code, func(t *testing.T) {
			r := start(t, nil)
			r.ready()
			p := r.connect("s", wsproto.V1)
			p.execute(code)
			p.until("restarting", func(m received) bool { return isStatus(m, "restarting") })
			s := r.status("restarted", func(s agentapi.Status) bool { return s.Starts == 2 && s.Ready })
			if !strings.HasPrefix(s.Reason, "killed: ") {
				t.Errorf("reason %q", s.Reason)
			}
			p.cell(p.execute("say alive"))
		})
	}
}

func TestKernelThatForgesMessages(t *testing.T) {
	r := start(t, nil)
	r.ready()
	p := r.connect("s", wsproto.V1)
	for _, code := range []string{"wrong-hmac", "truncated", "no-delimiter"} {
		for _, m := range p.cell(p.execute(code + "\nsay after")) {
			if m.MsgType == "stream" && m.text() != "after\n" {
				t.Errorf("%s came through: %q", code, m.text())
			}
		}
	}
	if s := r.agent.Status(); s.Starts != 1 {
		t.Errorf("the kernel was restarted: %+v", s)
	}
}

func TestKernelThatSendsInvalidText(t *testing.T) {
	r := start(t, nil)
	r.ready()
	legacy := r.connect("s", wsproto.Legacy)
	found := false
	for _, m := range legacy.cell(legacy.execute("invalid-utf8\nsay after")) {
		found = found || strings.HasPrefix(m.text(), "caf") && utf8.ValidString(m.text())
	}
	if !found {
		t.Error("a browser did not get the message in valid UTF-8")
	}
	// V1 relays what the kernel says, byte by byte.
	v1 := r.connect("v1", wsproto.V1)
	id := v1.execute("invalid-json\nsay after")
	for {
		raw := v1.readRaw()
		if raw.err != nil {
			t.Fatal(raw.err)
		}
		f := frame{v1: raw.b}
		if bytes.Contains(f.part(2), []byte(id)) && bytes.Contains(f.part(1), []byte(`"status"`)) && bytes.Contains(f.part(4), []byte("idle")) {
			break
		}
	}
	if s := r.agent.Status(); s.Starts != 1 {
		t.Errorf("the kernel was restarted: %+v", s)
	}
}

func TestKernelThatInventsAStateHasTheOldOne(t *testing.T) {
	r := start(t, nil)
	r.ready()
	p := r.connect("s", wsproto.V1)
	id := p.execute("bogus-status\nsleep 100000")
	p.until("the status", func(m received) bool { return isStatus(m, "suspended") })
	if s := r.agent.Status(); s.ExecutionState != jupyter.Busy {
		t.Errorf("state %q", s.ExecutionState)
	}
	r.call("POST", "/v1/kernel/interrupt")
	p.cell(id)
}

func TestKernelThatNeverAnswersCanBeEnded(t *testing.T) {
	r := start(t, nil)
	r.ready()
	p := r.connect("s", wsproto.V1)
	p.execute("never answer")
	r.status("asked", func(s agentapi.Status) bool { return s.Executions == 1 })
	if code, _ := r.call("POST", "/v1/kernel/restart"); code != http.StatusOK {
		t.Fatalf("restart: %d", code)
	}
	p.cell(p.execute("say alive"))
}

func TestKernelThatFloodsIsBoundedAndCanBeInterrupted(t *testing.T) {
	r := start(t, func(o *Options) { o.Config.LogBytes = 1 << 20 })
	r.ready()
	p := r.connect("s", wsproto.V1)
	id := p.execute("flood 1000")
	// The client is away: nothing paces the kernel.
	p.drop()
	r.status("flooded", func(agentapi.Status) bool { return r.agent.hub.events.Stats().Last > 20_000 })
	if n := r.agent.hub.events.Stats().Bytes; n > 1<<20 {
		t.Errorf("the log holds %d bytes", n)
	}
	if code, _ := r.call("POST", "/v1/kernel/interrupt"); code != http.StatusNoContent {
		t.Fatalf("interrupt: %d", code)
	}
	r.status("idle", func(s agentapi.Status) bool { return s.ExecutionState == jupyter.Idle })
	p = r.connect("s", wsproto.V1)
	if _, lost := p.flood(id, func() {}); lost == 0 {
		t.Error("nothing was said to be lost")
	}
}

func TestKernelMessageOverTheLimitIsReplacedByAWord(t *testing.T) {
	r := start(t, func(o *Options) {
		o.Config.MaxMessageBytes = 1 << 20
		o.Config.OutputLog = &agentapi.OutputLogConfig{}
	})
	r.ready()
	p := r.connect("s", wsproto.V1)
	id := p.execute("say before\nbig 2000000\nsay after")
	var text []string
	for _, m := range p.cell(id) {
		if m.MsgType == "stream" {
			text = append(text, m.text())
			if m.Parent.MsgID != id {
				t.Errorf("%q has another parent", m.text())
			}
		}
	}
	if len(text) != 3 || text[0] != "before\n" || text[2] != "after\n" ||
		!strings.HasPrefix(text[1], "output truncated: 1 messages, 2000") || !strings.Contains(text[1], "1048576 bytes (max_message)") {
		t.Errorf("printed %q", text)
	}
	if kept, parts := r.printedText(); kept != "before\nafter\n" || parts != 2 {
		t.Errorf("%q is kept in %d parts, want one on each side of what is missing", kept, parts)
	}
	if s := r.now(); s.Dropped != 1 {
		t.Errorf("status %+v", s)
	}
}

func TestPrivateRepliesOfAKernelToNobodyAreDropped(t *testing.T) {
	r := start(t, nil)
	r.ready()
	before := r.agent.hub.events.Stats().Last
	m, err := jupyter.NewMessage(jupyter.Shell, "execute_reply", "kernel", nil)
	if err != nil {
		t.Fatal(err)
	}
	m.ParentHeader = []byte(`{"msg_id":"of nobody","session":"of nobody"}`)
	r.agent.hub.fromKernel(m, []byte("nudge"))
	if after := r.agent.hub.events.Stats().Last; after != before {
		t.Error("a reply to nobody was kept")
	}
}

// A hostile client: it is the user's own kernel and log that it can harm, and
// the agent tells it what it did wrong.

func TestMessageOverTheLimitClosesWithItsName(t *testing.T) {
	r := start(t, func(o *Options) { o.Config.MaxMessageBytes = 1 << 20 })
	r.ready()
	p := r.connect("s", wsproto.V1)
	p.execute("say " + strings.Repeat("x", 1<<20))
	_, e := p.closed()
	if e.Code != websocket.CloseMessageTooBig || !strings.Contains(e.Text, "1048576") || !strings.Contains(e.Text, "max_message") {
		t.Errorf("closed with %v", e)
	}
	p = r.connect("s", wsproto.V1)
	p.cell(p.execute("say " + strings.Repeat("x", 1<<19)))
}

func TestBrokenFramesCloseTheConnection(t *testing.T) {
	r := start(t, nil)
	r.ready()
	good, _ := wsproto.Append(nil, wsproto.V1, &jupyter.Message{Channel: jupyter.Shell, Header: []byte("{}"), ParentHeader: []byte("{}"), Metadata: []byte("{}"), Content: []byte("{}")})
	far := bytes.Clone(good)
	binary.LittleEndian.PutUint64(far[16:], 1<<40)
	many := bytes.Clone(good)
	binary.LittleEndian.PutUint64(many, 1<<60)
	for _, c := range []struct {
		name string
		enc  wsproto.Encoding
		kind int
		b    []byte
	}{
		{"v1 offset outside", wsproto.V1, websocket.BinaryMessage, far},
		{"v1 offset count", wsproto.V1, websocket.BinaryMessage, many},
		{"v1 empty", wsproto.V1, websocket.BinaryMessage, nil},
		{"v1 text", wsproto.V1, websocket.TextMessage, []byte("{}")},
		{"legacy no JSON", wsproto.Legacy, websocket.TextMessage, []byte("hello")},
		{"legacy no header", wsproto.Legacy, websocket.TextMessage, []byte("{}")},
		{"legacy offset count", wsproto.Legacy, websocket.BinaryMessage, []byte{0xff, 0xff, 0xff, 0xff, 0, 0, 0, 1}},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := r.connect("s-"+c.name, c.enc)
			if err := p.ws.WriteMessage(c.kind, c.b); err != nil {
				t.Fatal(err)
			}
			if _, e := p.closed(); e.Code != websocket.CloseInvalidFramePayloadData || e.Text == "" {
				t.Errorf("closed with %v", e)
			}
		})
	}
}

func TestUnknownChannelIsPassedOver(t *testing.T) {
	r := start(t, nil)
	r.ready()
	for _, enc := range []wsproto.Encoding{wsproto.V1, wsproto.Legacy} {
		p := r.connect("s-"+enc.String(), enc)
		for _, channel := range []jupyter.Channel{"iopub", "nothing", ""} {
			p.send(channel, "execute_request", map[string]any{"code": "say x"})
		}
		p.cell(p.execute("say alive"))
	}
	if strings.Contains(r.log.String(), "say x") {
		t.Error("the log has the content of a message")
	}
}

func TestClientThatBreaksWebSocketIsCut(t *testing.T) {
	r := start(t, nil)
	p := r.connect("s", wsproto.V1)
	p.ws.NetConn().Write([]byte{0x82, 0x05, 'h', 'e', 'l', 'l', 'o'}) // not masked
	if _, e := p.closed(); e.Code != websocket.CloseProtocolError {
		t.Errorf("closed with %v", e)
	}
	r.status("alone", func(s agentapi.Status) bool { return s.Connections == 0 })
}

func TestPongsThatWereNeverAskedForAcknowledgeNothing(t *testing.T) {
	r := start(t, nil)
	p := r.connect("s", wsproto.V1)
	p.ws.SetPingHandler(nil)
	for _, payload := range []string{"18446744073709551615", "-1", "x", "", "999999999999999999999999"} {
		p.ws.WriteControl(websocket.PongMessage, []byte(payload), time.Now().Add(time.Second))
	}
	p.cell(p.execute("say x"))
	h := r.agent.hub
	h.mu.Lock()
	acked := h.clients["s"].acked.Seq()
	h.mu.Unlock()
	if last := h.events.Stats().Last; acked > last {
		t.Errorf("%d is acknowledged of %d", acked, last)
	}
}

func TestLenientClients(t *testing.T) {
	r := start(t, nil)
	r.ready()
	for name, text := range map[string]string{
		"no channel, date, metadata": `{"header":{"msg_id":"%s","username":"","session":"e","msg_type":"execute_request","version":"5.3"},"parent_header":{},"content":{"code":"say hi","silent":false}}`,
		"buffers is an object":       `{"header":{"msg_id":"%s","session":"","msg_type":"execute_request"},"parent_header":{},"metadata":{},"buffers":{},"content":{"code":"say hi"}}`,
		"null parts":                 `{"channel":null,"header":{"msg_id":"%s","session":null,"date":1795503014.055066,"msg_type":"execute_request"},"parent_header":null,"metadata":null,"buffers":[],"content":{"code":"say hi"}}`,
	} {
		t.Run(name, func(t *testing.T) {
			p := r.connect("", wsproto.Legacy)
			id := jupyter.NewID()
			if err := p.ws.WriteMessage(websocket.TextMessage, fmt.Appendf(nil, text, id)); err != nil {
				t.Fatal(err)
			}
			p.cell(id)
		})
	}
}

func TestSlowLorisIsCutOff(t *testing.T) {
	if headerTimeout > 15*time.Second {
		t.Errorf("a client may take %v for its headers", headerTimeout)
	}
	r := start(t, nil)
	conn, err := r.dialContext(t.Context(), "", "")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	// More than the server takes as headers.
	sent := 0
	for line := []byte("GET /v1/status HTTP/1.1\r\n"); sent < 1<<20; line = []byte("X-A: " + strings.Repeat("y", 1000) + "\r\n") {
		n, err := conn.Write(line)
		sent += n
		if err != nil {
			break
		}
	}
	buf := make([]byte, 512)
	conn.SetReadDeadline(time.Now().Add(patience))
	n, err := conn.Read(buf)
	if err != nil {
		if e, ok := err.(net.Error); ok && e.Timeout() {
			t.Fatal("a megabyte of headers was taken")
		}
		return // cut off
	}
	if !bytes.Contains(buf[:n], []byte(" 431 ")) {
		t.Errorf("answered %.60q", buf[:n])
	}
}
