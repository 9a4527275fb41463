package wsproto_test

import (
	"bytes"
	"encoding/json"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"kernelgw/jupyter"
	"kernelgw/jupyter/wsproto"
)

// fuzzDecode checks what holds for any frame: it is refused, or its message
// encodes to a frame that decodes to the same.
func fuzzDecode(f *testing.F, enc wsproto.Encoding, binary bool) {
	for _, m := range samples() {
		payload, isBinary := wsproto.Append(nil, enc, &m)
		if isBinary == binary {
			f.Add(payload)
		}
	}
	f.Fuzz(func(t *testing.T, payload []byte) {
		m, err := wsproto.Decode(enc, binary, payload)
		if err != nil {
			return
		}
		if m.Size() > len(payload)+6 { // 6: three times {} for what is missing
			t.Errorf("%d bytes made a message of %d", len(payload), m.Size())
		}
		again, isBinary := wsproto.Append(nil, enc, &m)
		got, err := wsproto.Decode(enc, isBinary, again)
		if err != nil {
			t.Fatalf("what was decoded does not decode again: %v", err)
		}
		if d := cmp.Diff(m, got, cmpopts.EquateEmpty()); d != "" {
			t.Error(d)
		}
	})
}

func FuzzDecodeV1(f *testing.F) { fuzzDecode(f, wsproto.V1, true) }

func FuzzDecodeLegacyBinary(f *testing.F) { fuzzDecode(f, wsproto.Legacy, true) }

func FuzzDecodeLegacyText(f *testing.F) {
	f.Add([]byte(`{"header":{},"channel":null,"buffers":{},"x":[[{}]],"y":1e9}`))
	f.Add([]byte(`{"\u0068eader":{"msg_id":"\ud800"}}`))
	fuzzDecode(f, wsproto.Legacy, false)
}

// FuzzAppend encodes any bytes of a kernel. A text frame is valid UTF-8, and it
// is JSON when the parts are.
func FuzzAppend(f *testing.F) {
	f.Add([]byte(`{"msg_id":"1","msg_type":"stream"}`), []byte(`{}`), []byte("{\"text\":\"\xff\"}"), []byte("\x80"))
	f.Add([]byte(`{"msg_id":"\xed\xa0\x80"}`), []byte(``), []byte(`{"a":1}`), []byte{})
	f.Fuzz(func(t *testing.T, header, parent, content, buffer []byte) {
		m := jupyter.Message{
			Channel: jupyter.IOPub, Header: header, ParentHeader: parent, Metadata: []byte("{}"), Content: content, Buffers: [][]byte{buffer},
		}
		v1, binary := wsproto.Append(nil, wsproto.V1, &m)
		if !binary || !bytes.HasSuffix(v1, bytes.Join([][]byte{header, parent, []byte("{}"), content, buffer}, nil)) {
			t.Error("v1 does not relay the parts")
		}
		text, binary := wsproto.Append(nil, wsproto.LegacyText, &m)
		if binary || !utf8.Valid(text) {
			t.Error("a text frame that is not valid UTF-8")
		}
		if object(header) && object(parent) && object(content) {
			var got struct {
				MsgID  *string `json:"msg_id"`
				Header json.RawMessage
			}
			if err := json.Unmarshal(text, &got); err != nil {
				t.Errorf("not JSON: %v\n%s", err, text)
			} else if got.MsgID == nil {
				t.Errorf("no msg_id: %s", text)
			}
		}
	})
}

func object(b []byte) bool { return json.Valid(b) && bytes.HasPrefix(bytes.TrimSpace(b), []byte("{")) }
