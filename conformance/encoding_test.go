package conformance

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"kernelgw/conformance/probe"
)

var encodingChecks = []check{
	{name: "SubprotocolIsEchoedOrAbsent", run: subprotocolEchoed},
	{name: "V1RoundTripWithBuffers", run: func(t testing.TB, s *target) { buffersRoundTrip(t, s, probe.Dialing{Session: probe.ID()}) }},
	{name: "LegacyRoundTripWithBuffers", run: func(t testing.TB, s *target) {
		buffersRoundTrip(t, s, probe.Dialing{Session: probe.ID(), Legacy: true})
	}},
	{name: "LegacyHasTopLevelIDAndType", run: legacyTopLevel},
	{name: "HeadersAreRelayedUntouched", run: headersUntouched},
	{name: "RawClientWithoutChannelSessionAndDate", run: rawClient},
	{name: "BuffersAsAnEmptyObject", run: buffersAsObject},
	{
		name: "GatewayClientsGetTextInsteadOfBinary", run: gatewayClientsGetText,
		extension: &extension{because: "binary frames kill the read loop of its own gateway client", fails: "came as binary"},
	},
	{
		name: "BrokenFramesHarmNobodyElse", run: brokenFrames,
		extension: &extension{because: "a frame of 16 bytes makes it spin for ever", fails: "timeout|no message in time|deadline exceeded", fatal: true},
	},
}

func subprotocolEchoed(t testing.TB, s *target) {
	kernel := s.sharedKernel(t)
	if got := s.Dial(t, kernel, probe.Dialing{}).Protocol; got != probe.Subprotocol {
		t.Errorf("offered %s, got %q", probe.Subprotocol, got)
	}
	if got := s.Dial(t, kernel, probe.Dialing{Legacy: true}).Protocol; got != "" {
		t.Errorf("offered nothing, got %q", got)
	}
	w := s.Dial(t, kernel, probe.Dialing{Legacy: true, Header: http.Header{"Sec-Websocket-Protocol": {"something.else"}}})
	if w.Protocol != "" {
		t.Errorf("offered something else, got %q", w.Protocol)
	}
}

// echo registers a comm target that sends back what it gets, buffers included.
const echo = `
from comm import get_comm_manager
def opened(comm, message):
    def back(message):
        comm.send({'n': len(message['buffers'])}, buffers=[bytes(b) for b in message['buffers']])
    comm.on_msg(back)
    back(message)
get_comm_manager().register_target('echo', opened)`

func buffersRoundTrip(t testing.TB, s *target, d probe.Dialing) {
	k := s.StartKernel(t)
	w := s.Dial(t, k.ID, d)
	w.Run(t, echo)
	comm := probe.ID()
	kind := "comm_open"
	for _, buffers := range [][][]byte{
		nil,
		{[]byte("one\x00\xff")},
		{{0x80, 0xff, 0}, {}, bytes.Repeat([]byte{7, 0xfe}, 50_000)},
	} {
		id := w.Send(t, probe.Outgoing{
			Channel: "shell", Type: kind, Buffers: buffers,
			Content: map[string]any{"comm_id": comm, "target_name": "echo", "data": map[string]any{}},
		})
		kind = "comm_msg"
		m, _ := w.Wait(t, probe.Patience, "the echo", func(m probe.Message) bool {
			return m.Header.MsgType == "comm_msg" && m.Parent.MsgID == id
		})
		if len(m.Buffers) != len(buffers) {
			t.Fatalf("sent %d buffers, %d came back", len(buffers), len(m.Buffers))
		}
		for i := range buffers {
			if !bytes.Equal(m.Buffers[i], buffers[i]) {
				t.Errorf("buffer %d of %d came back as %d other bytes", i, len(buffers), len(m.Buffers[i]))
			}
		}
		want := probe.V1
		if d.Legacy {
			want = probe.Text
			if len(buffers) > 0 {
				want = probe.Binary
			}
		}
		if m.Encoding != want {
			t.Errorf("with %d buffers the encoding is %s, want %s", len(buffers), m.Encoding, want)
		}
	}
}

func legacyTopLevel(t testing.TB, s *target) {
	w := s.Dial(t, s.sharedKernel(t), probe.Dialing{Legacy: true})
	r := w.Run(t, "print(1)")
	for _, m := range r.Messages {
		if m.TopID == "" || m.TopID != m.Header.MsgID || m.TopType != m.Header.MsgType {
			t.Errorf("%s: top-level msg_id %q and msg_type %q for %q and %q", m.Channel, m.TopID, m.TopType, m.Header.MsgID, m.Header.MsgType)
		}
		if !m.BuffersKey {
			t.Errorf("%s has no buffers: []", m.Header.MsgType)
		}
	}
}

func headersUntouched(t testing.TB, s *target) {
	kernel := s.sharedKernel(t)
	for _, legacy := range []bool{false, true} {
		w := s.Dial(t, kernel, probe.Dialing{Session: probe.ID(), Legacy: legacy})
		for _, date := range []any{1795502306.25, "2026-11-24 07:18:54.761310+00:00", nil} {
			id := w.Send(t, probe.Outgoing{
				Channel: "shell", Type: "execute_request", Content: probe.ExecuteContent("print(2)"),
				Header: map[string]any{"date": date, "subshell_id": nil, "extra": "kept"},
			})
			if got := w.Finish(t, id, probe.Patience).Stdout; got != "2\n" {
				t.Errorf("date %v: stdout is %q", date, got)
			}
		}
	}
}

// rawClient speaks as the code interpreters do that were written against the
// JSON alone.
func rawClient(t testing.TB, s *target) {
	w := s.Dial(t, s.sharedKernel(t), probe.Dialing{Legacy: true})
	id := probe.ID()
	frame, err := json.Marshal(map[string]any{
		"header":        map[string]any{"msg_id": id, "username": "", "session": "", "msg_type": "execute_request", "version": "5.3"},
		"parent_header": map[string]any{}, "metadata": map[string]any{},
		"content": probe.ExecuteContent("print('raw')\n40 + 2"),
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := w.WriteFrame(websocket.TextMessage, frame); err != nil {
		t.Fatal(err)
	}
	// The end is the idle after execute_input.
	var order []string
	w.Wait(t, probe.Patience, "the end of the execution", func(m probe.Message) bool {
		if m.Parent.MsgID != id || m.Channel != "iopub" {
			return false
		}
		order = append(order, m.TopType+m.State())
		return m.State() == "idle"
	})
	if got := strings.Join(order, " "); got != "statusbusy execute_input stream execute_result statusidle" {
		t.Errorf("iopub order is %s", got)
	}
}

func buffersAsObject(t testing.TB, s *target) {
	w := s.Dial(t, s.sharedKernel(t), probe.Dialing{Legacy: true})
	id := probe.ID()
	frame := fmt.Sprintf(`{"channel":"shell","header":{"msg_id":%q,"msg_type":"execute_request","session":"","username":"","version":"5.0"},`+
		`"content":{"code":"print(3)","silent":false,"allow_stdin":false},"metadata":{},"parent_header":{},"buffers":{},"unknown":[1]}`, id)
	if err := w.WriteFrame(websocket.TextMessage, []byte(frame)); err != nil {
		t.Fatal(err)
	}
	if got := w.Finish(t, id, probe.Patience).Stdout; got != "3\n" {
		t.Errorf("stdout is %q", got)
	}
}

func gatewayClientsGetText(t testing.TB, s *target) {
	k := s.StartKernel(t)
	for _, d := range []probe.Dialing{
		{Session: probe.ID(), Legacy: true, Header: http.Header{"User-Agent": {"Tornado/6.6.1"}}}, // jupyter lab --gateway-url
		{Legacy: true}, // nbclient: no session_id
	} {
		w := s.Dial(t, k.ID, d)
		r := w.Run(t, "from comm import create_comm\nc = create_comm(target_name='t', data={}, buffers=[b'\\xff\\x80'])")
		found := false
		for _, m := range r.Messages {
			if m.Header.MsgType == "comm_open" {
				found = true
				if m.Encoding != probe.Text {
					t.Errorf("%+v: comm_open with a buffer came as %s", d, m.Encoding)
				}
			}
		}
		if !found {
			t.Errorf("%+v: comm_open did not come", d)
		}
	}
}

func brokenFrames(t testing.TB, s *target) {
	k := s.StartKernel(t)
	healthy := s.Dial(t, k.ID, probe.Dialing{Session: probe.ID(), Within: 20 * time.Second})
	healthy.Run(t, "kept = 1")
	word := func(words ...byte) []byte {
		var b []byte
		for _, w := range words {
			b = append(b, w, 0, 0, 0, 0, 0, 0, 0)
		}
		return b
	}
	header := []byte(`{"msg_id":"x","msg_type":"execute_request","session":"s","username":"","version":"5.3"}`)
	for name, frame := range map[string][]byte{
		"empty":                  {},
		"short":                  {1, 2, 3},
		"no offsets":             word(0),
		"more offsets than room": word(200, 8),
		"offsets beyond the end": word(6, 56, 60, 62, 64, 66, 250),
		"offsets that go back":   append(word(6, 60, 56, 57, 58, 59, 60), "shell{}{}{}{}"...),
		"huge offset count":      bytes.Repeat([]byte{0xff}, 16),
		"header that is no JSON": probe.EncodeV1([]byte("shell"), []byte("{"), []byte("{}"), []byte("{}"), []byte("{}")),
		"invalid UTF-8":          probe.EncodeV1([]byte("shell"), []byte("{\"msg_id\":\"\xff\xfe\"}"), []byte("{}"), []byte("{}"), []byte("{}")),
		"unknown channel":        probe.EncodeV1([]byte("heartbeat"), header, []byte("{}"), []byte("{}"), []byte("{}")),
		"iopub as a channel":     probe.EncodeV1([]byte("iopub"), header, []byte("{}"), []byte("{}"), []byte("{}")),
	} {
		w := s.Dial(t, k.ID, probe.Dialing{Session: probe.ID(), Within: 20 * time.Second})
		if err := w.WriteFrame(websocket.BinaryMessage, frame); err != nil {
			t.Errorf("%s: cannot send: %v", name, err)
		}
		w.Drop()
	}
	for name, frame := range map[string]string{
		"no JSON": "{", "an array": "[]", "null": "null", "no header": `{"channel":"shell","content":{}}`,
		"header is a string": `{"channel":"shell","header":"x","parent_header":{},"metadata":{},"content":{}}`,
		"unknown channel":    `{"channel":"x","header":{"msg_id":"1","msg_type":"t"},"parent_header":{},"metadata":{},"content":{}}`,
		"deep nesting":       `{"channel":"shell","header":` + strings.Repeat("[", 10_000) + strings.Repeat("]", 10_000) + "}",
	} {
		w := s.Dial(t, k.ID, probe.Dialing{Session: probe.ID(), Legacy: true, Within: 20 * time.Second})
		if err := w.WriteFrame(websocket.TextMessage, []byte(frame)); err != nil {
			t.Errorf("%s: cannot send: %v", name, err)
		}
		w.Drop()
	}
	if got := healthy.Finish(t, healthy.Start(t, "print(kept)"), 20*time.Second).Stdout; got != "1\n" {
		t.Errorf("the other socket got %q", got)
	}
}
