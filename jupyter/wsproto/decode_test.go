package wsproto_test

import (
	"encoding/binary"
	"errors"
	"runtime"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"kernelgw/jupyter"
	"kernelgw/jupyter/wsproto"
)

// v1Frame is a table of offsets as they are given, and what follows it.
func v1Frame(payload string, offsets ...uint64) []byte {
	b := binary.LittleEndian.AppendUint64(nil, uint64(len(offsets)))
	for _, o := range offsets {
		b = binary.LittleEndian.AppendUint64(b, o)
	}
	return append(b, payload...)
}

func legacyFrame(payload string, offsets ...uint32) []byte {
	b := binary.BigEndian.AppendUint32(nil, uint32(len(offsets)))
	for _, o := range offsets {
		b = binary.BigEndian.AppendUint32(b, o)
	}
	return append(b, payload...)
}

// TestDecodeV1KernelInfoRequest is a frame that a JupyterLab sent.
func TestDecodeV1KernelInfoRequest(t *testing.T) {
	header := `{"date":"2026-01-02T03:04:05.678Z","msg_id":"a-1","msg_type":"kernel_info_request","session":"a","username":"","subshell_id":null,"version":"5.2"}`
	n := uint64(len(header))
	frame := v1Frame("shell"+header+"{}{}{}", 56, 61, 61+n, 63+n, 65+n, 67+n)
	m, err := wsproto.Decode(wsproto.V1, true, frame)
	if err != nil {
		t.Fatal(err)
	}
	want := jupyter.Message{
		Channel: jupyter.Shell, Header: []byte(header), ParentHeader: []byte("{}"), Metadata: []byte("{}"), Content: []byte("{}"),
	}
	if d := cmp.Diff(want, m); d != "" {
		t.Error(d)
	}
}

func TestDecodeLegacyIsLenient(t *testing.T) {
	empty := jupyter.Message{Channel: jupyter.Shell, Header: []byte(`{"msg_type":"x"}`), ParentHeader: []byte("{}"), Metadata: []byte("{}"), Content: []byte("{}")}
	with := func(change func(m *jupyter.Message)) jupyter.Message {
		m := empty
		change(&m)
		return m
	}
	for _, tc := range []struct {
		name, text string
		want       jupyter.Message
	}{
		{"header only", `{"header":{"msg_type":"x"}}`, empty},
		{"nulls", `{"header":{"msg_type":"x"},"channel":null,"parent_header":null,"metadata":null,"content":null,"buffers":null}`, empty},
		{"buffers an object", `{"header":{"msg_type":"x"},"buffers":{}}`, empty},
		{"buffers of text", `{"header":{"msg_type":"x"},"buffers":["a","]"]}`, empty},
		{"unknown keys", `{"msg_id":"1","zzz":[{"header":{}}],"header":{"msg_type":"x"},"n":-1.5e3,"t":true}`, empty},
		{"white space", " {\n\t\"header\" : {\"msg_type\":\"x\"} ,\r\n \"content\" : {} }\n", empty},
		{"other channel", `{"channel":"stdin","header":{"msg_type":"x"}}`, with(func(m *jupyter.Message) { m.Channel = jupyter.Stdin })},
		{"last of two", `{"channel":"shell","channel":"control","header":{"msg_type":"x"}}`, with(func(m *jupyter.Message) { m.Channel = jupyter.Control })},
		{"escaped key", `{"\u0063hannel":"control","header":{"msg_type":"x"}}`, with(func(m *jupyter.Message) { m.Channel = jupyter.Control })},
		{"float date, empty session", `{"header":{"msg_type":"x","date":1.7e9,"session":"","username":""}}`, with(func(m *jupyter.Message) {
			m.Header = []byte(`{"msg_type":"x","date":1.7e9,"session":"","username":""}`)
		})},
		{"bytes are kept", `{"header":{"msg_type":"x"},"content":{ "code" : "print(\"}{\")\u00e9" , "n":NaN }}`, with(func(m *jupyter.Message) {
			m.Content = []byte(`{ "code" : "print(\"}{\")\u00e9" , "n":NaN }`)
		})},
	} {
		t.Run(tc.name, func(t *testing.T) {
			for _, enc := range []wsproto.Encoding{wsproto.Legacy, wsproto.LegacyText} {
				m, err := wsproto.Decode(enc, false, []byte(tc.text))
				if err != nil {
					t.Fatal(err)
				}
				if d := cmp.Diff(tc.want, m); d != "" {
					t.Error(d)
				}
			}
		})
	}
}

func TestDecodeLegacyBinary(t *testing.T) {
	object := `{"channel":"shell","header":{"msg_type":"comm_msg"},"content":{"comm_id":"c"}}`
	n := uint32(len(object))
	for _, tc := range []struct {
		name    string
		frame   []byte
		buffers [][]byte
	}{
		{"no buffer", legacyFrame(object, 8), nil},
		{"one", legacyFrame(object+"\x00\xff", 12, 12+n), [][]byte{{0, 255}}},
		{"three, one empty", legacyFrame(object+"abc", 20, 20+n, 21+n, 21+n), [][]byte{[]byte("a"), {}, []byte("bc")}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			m, err := wsproto.Decode(wsproto.Legacy, true, tc.frame)
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(tc.buffers, m.Buffers); d != "" {
				t.Error(d)
			}
			if string(m.Content) != `{"comm_id":"c"}` {
				t.Errorf("content %s", m.Content)
			}
		})
	}
}

func TestBadFrames(t *testing.T) {
	const parts = "shell{}{}{}{}" // offsets 56 61 63 65 67 69
	for _, tc := range []struct {
		name   string
		enc    wsproto.Encoding
		binary bool
		frame  []byte
		want   string
	}{
		{"text", wsproto.V1, false, []byte(`{}`), "binary frames only"},
		{"empty", wsproto.V1, true, nil, "0 bytes are too few"},
		{"short", wsproto.V1, true, []byte{6, 0, 0}, "3 bytes are too few"},
		{"no offsets", wsproto.V1, true, v1Frame(""), "0 offsets"},
		{"five offsets", wsproto.V1, true, v1Frame(parts, 48, 53, 55, 57, 61), "5 offsets"},
		{"count beyond the frame", wsproto.V1, true, binary.LittleEndian.AppendUint64(nil, 100), "too few for 100 offsets"},
		{"huge count", wsproto.V1, true, v1Frame(parts, 1<<60)[:8], "offsets"},
		{"count of all bits", wsproto.V1, true, binary.LittleEndian.AppendUint64(nil, 1<<64-1), "18446744073709551615 offsets"},
		{"count that overflows times 8", wsproto.V1, true, binary.LittleEndian.AppendUint64(nil, 1<<61), "offsets"},
		{"first offset in the table", wsproto.V1, true, v1Frame(parts, 8, 61, 63, 65, 67, 69), "the first part is at 8"},
		{"first offset beyond", wsproto.V1, true, v1Frame(parts, 700, 61, 63, 65, 67, 69), "the first part is at 700"},
		{"descending", wsproto.V1, true, v1Frame(parts, 56, 63, 61, 65, 67, 69), "part 1 reaches from 63 to 61"},
		{"offset beyond the frame", wsproto.V1, true, v1Frame(parts, 56, 61, 63, 900, 67, 69), "part 2 reaches from 63 to 900"},
		{"offset of all bits", wsproto.V1, true, v1Frame(parts, 56, 1<<64-1, 63, 65, 67, 69), "part 0 reaches"},
		{"truncated", wsproto.V1, true, v1Frame(parts[:10], 56, 61, 63, 65, 67, 69), "the last offset is 69, the frame has 66"},
		{"bytes left over", wsproto.V1, true, v1Frame(parts+"x", 56, 61, 63, 65, 67, 69), "the last offset is 69, the frame has 70"},

		{"empty", wsproto.Legacy, true, nil, "0 bytes are too few"},
		{"no parts", wsproto.Legacy, true, legacyFrame(""), "0 parts"},
		{"count beyond the frame", wsproto.Legacy, true, []byte{0, 0, 0, 9, 0, 0, 0, 40}, "too few for 9 offsets"},
		{"huge count", wsproto.Legacy, true, []byte{0xff, 0xff, 0xff, 0xff}, "4294967295 parts"},
		{"offset in the table", wsproto.Legacy, true, legacyFrame("{}", 4), "the first part is at 4"},
		{"offset beyond", wsproto.Legacy, true, legacyFrame("{}", 900), "the first part is at 900"},
		{"descending", wsproto.Legacy, true, legacyFrame("{}", 14, 12), "part 0 reaches from 14 to 12"},
		{"buffer beyond", wsproto.Legacy, true, legacyFrame("{}", 12, 90), "part 0 reaches from 12 to 90"},
		{"part 0 no JSON", wsproto.Legacy, true, legacyFrame("nope", 8), "not a JSON object"},

		{"empty", wsproto.Legacy, false, nil, "not a JSON object"},
		{"array", wsproto.Legacy, false, []byte(`[]`), "not a JSON object"},
		{"no header", wsproto.Legacy, false, []byte(`{}`), "no header"},
		{"header null", wsproto.Legacy, false, []byte(`{"header":null}`), "no header"},
		{"header a string", wsproto.Legacy, false, []byte(`{"header":"{}"}`), "no header"},
		{"content an array", wsproto.Legacy, false, []byte(`{"header":{},"content":[]}`), "content is not an object"},
		{"truncated", wsproto.Legacy, false, []byte(`{"header":{},"content":{"code":"x"`), "not a JSON object"},
		{"truncated in a string", wsproto.Legacy, false, []byte(`{"header":{},"content":{"code":"x\`), "not a JSON object"},
		{"two objects", wsproto.Legacy, false, []byte(`{"header":{}}{"header":{}}`), "not a JSON object"},
		{"no comma", wsproto.Legacy, false, []byte(`{"header":{} "content":{}}`), "not a JSON object"},
		{"no colon", wsproto.Legacy, false, []byte(`{"header" {}}`), "not a JSON object"},
		{"no value", wsproto.Legacy, false, []byte(`{"header":,"a":1}`), "not a JSON object"},
		{"not UTF-8", wsproto.Legacy, false, []byte("{\"header\":{},\"x\":\"\xff\"}"), "not valid UTF-8"},
		{"channel a number", wsproto.Legacy, false, []byte(`{"header":{},"channel":1}`), "the channel is not a string"},
	} {
		t.Run(tc.enc.String()+" "+tc.name, func(t *testing.T) {
			_, err := wsproto.Decode(tc.enc, tc.binary, tc.frame)
			if !errors.Is(err, wsproto.ErrMalformed) || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %v, want ErrMalformed with %q", err, tc.want)
			}
		})
	}
}

func TestUnknownChannelIsNamed(t *testing.T) {
	for _, name := range []string{"", "iopub", "hb", "Shell", "shell ", `a\u0062`, strings.Repeat("x", 5000)} {
		n := uint64(len(name))
		for _, tc := range []struct {
			enc    wsproto.Encoding
			binary bool
			frame  []byte
		}{
			{wsproto.V1, true, v1Frame(name+"{}{}{}{}", 56, 56+n, 58+n, 60+n, 62+n, 64+n)},
			{wsproto.Legacy, false, []byte(`{"header":{},"channel":"` + name + `"}`)},
		} {
			_, err := wsproto.Decode(tc.enc, tc.binary, tc.frame)
			if !errors.Is(err, wsproto.ErrUnknownChannel) || !strings.Contains(err.Error(), name[:min(len(name), 1)]) {
				t.Errorf("%s, channel %.20q: got %v", tc.enc, name, err)
				continue
			}
			if len(err.Error()) > 123 {
				t.Errorf("%q is too long for a close frame", err)
			}
		}
	}
}

// A frame of 8 bytes that claims many parts must not cost memory for them.
func TestHugeCountsCostNoMemory(t *testing.T) {
	huge := binary.LittleEndian.AppendUint64(nil, wsproto.MaxParts)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for range 100 {
		if _, err := wsproto.Decode(wsproto.V1, true, huge); err == nil {
			t.Fatal("accepted")
		}
		if _, err := wsproto.Decode(wsproto.Legacy, true, []byte{0, 0, 0x40, 0}); err == nil {
			t.Fatal("accepted")
		}
	}
	runtime.ReadMemStats(&after)
	if n := after.TotalAlloc - before.TotalAlloc; n > 1<<20 {
		t.Errorf("200 refusals allocated %d bytes", n)
	}
}

// samples are messages that a client can send.
func samples() []jupyter.Message {
	m := jupyter.Message{
		Channel: jupyter.Shell, Header: []byte(`{"msg_id":"1","msg_type":"comm_msg","date":1.5}`),
		ParentHeader: []byte(`{"msg_id":"0"}`), Metadata: []byte(`{ "a" : [1,{"b":"}"}] }`), Content: []byte(`{"x":"é\"\\"}`),
	}
	all := []jupyter.Message{m}
	for n := range 4 {
		b := m
		b.Channel = []jupyter.Channel{jupyter.Shell, jupyter.Control, jupyter.Stdin}[n%3]
		for i := range n {
			b.Buffers = append(b.Buffers, []byte("\x80\xff{}\x00"[:2*i]))
		}
		all = append(all, b)
	}
	return all
}

func TestRoundTrip(t *testing.T) {
	for _, enc := range []wsproto.Encoding{wsproto.V1, wsproto.Legacy, wsproto.LegacyText} {
		for _, m := range samples() {
			for _, prefix := range []string{"", "some bytes before"} {
				payload, binary := wsproto.Append([]byte(prefix), enc, &m)
				if string(payload[:len(prefix)]) != prefix {
					t.Fatalf("%s: the bytes before were changed", enc)
				}
				got, err := wsproto.Decode(enc, binary, payload[len(prefix):])
				if err != nil {
					t.Fatalf("%s: %v", enc, err)
				}
				want := m
				if enc == wsproto.LegacyText {
					want.Buffers = nil
				}
				if d := cmp.Diff(want, got, cmpopts.EquateEmpty()); d != "" {
					t.Errorf("%s: %s", enc, d)
				}
			}
		}
	}
}
