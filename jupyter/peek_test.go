package jupyter_test

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
	"unicode/utf8"

	"kernelgw/jupyter"
)

const header = `{"date":"2026-01-02T03:04:05.678901Z","msg_id":"5f0b2d1c_12","msg_type":"stream","session":"5f0b2d1c","username":"u","version":"5.4"}`

func TestPeekString(t *testing.T) {
	for _, tc := range []struct{ object, want string }{
		{`{"msg_type":"x"}`, "x"},
		{header, "stream"},
		{" {\n \"a\" : 1 ,\t\"msg_type\" : \"x\" }", "x"},
		{`{"msg_type":""}`, ""},
		{`{"a":{"msg_type":"no"},"b":["msg_type","no"],"msg_type":"x"}`, "x"},
		{`{"a":"\"msg_type\":\"no\"","msg_type":"x"}`, "x"},
		{`{"a":"\\","msg_type":"x"}`, "x"},
		{`{"a":"\\\"}{","msg_type":"x"}`, "x"},
		{`{"a":1.5e9,"b":null,"c":true,"d":NaN,"msg_type":"x"}`, "x"},
		{`{"msg_type":"a\"b\u00e9\ud83d\ude00"}`, "a\"bé😀"},
		{`{"m\u0073g_type":"x"}`, "x"},
		{`{"msg_type":"x","msg_type":"y"}`, "x"},
		{"{\"msg_type\":\"\xff\"}", "\ufffd"},
		{`{"msg_type":1}`, ""},
		{`{"msg_type":null}`, ""},
		{`{"MSG_TYPE":"x"}`, ""},
		{`{}`, ""},
		{``, ""},
		{`null`, ""},
		{`["msg_type","x"]`, ""},
		{`{"msg_type"`, ""},
		{`{"msg_type":`, ""},
		{`{"msg_type":"x`, ""},
		{`{"msg_type":"x\`, ""},
		{`{"msg_type":"\q"}`, ""},
		{`{"a":{,"msg_type":"x"`, ""},
		{`{"a" "msg_type":"x"}`, ""},
		{`{,"msg_type":"x"}`, ""},
	} {
		if got := jupyter.PeekType([]byte(tc.object)); got != tc.want {
			t.Errorf("%s: got %q, want %q", tc.object, got, tc.want)
		}
	}
	if id, session := jupyter.PeekID([]byte(header)), jupyter.PeekSession([]byte(header)); id != "5f0b2d1c_12" || session != "5f0b2d1c" {
		t.Errorf("msg_id %q, session %q", id, session)
	}
}

func TestPeekRawReturnsTheBytes(t *testing.T) {
	object := []byte(`{"a": {"b": [1, "]"]} ,"c": "x\ty", "d":-1}`)
	for key, want := range map[string]string{"a": `{"b": [1, "]"]}`, "c": `"x\ty"`, "d": "-1", "e": ""} {
		if got := jupyter.PeekRaw(object, key); string(got) != want {
			t.Errorf("%s: got %q, want %q", key, got, want)
		}
	}
}

// FuzzFields compares the scan with encoding/json, on all that it accepts.
func FuzzFields(f *testing.F) {
	f.Add([]byte(header))
	f.Add([]byte(`{"a":{"b":["}",{}]},"\u0063":"\\\"","d":null,"e":-1.5e-3} `))
	f.Add([]byte(`{"a":1,}`))
	f.Add([]byte(`{"a":[}]}`))
	f.Fuzz(func(t *testing.T, object []byte) {
		got := map[string]string{}
		n := 0
		whole := jupyter.Fields(object, func(key, value []byte) bool {
			got[string(key)] = string(value)
			n++
			return true
		})
		if n > len(object) {
			t.Fatalf("%d fields in %d bytes", n, len(object))
		}
		// In a key that is no UTF-8, encoding/json replaces bytes; here they stay.
		if !json.Valid(object) || !utf8.Valid(object) || !bytes.HasPrefix(bytes.TrimLeft(object, " \t\r\n"), []byte("{")) {
			return
		}
		if !whole {
			t.Fatalf("a JSON object was not read to its end: %q", object)
		}
		var want map[string]json.RawMessage
		if err := json.Unmarshal(object, &want); err != nil {
			t.Fatal(err)
		}
		if len(got) != len(want) {
			t.Fatalf("got %q, want %q", got, want)
		}
		for key, raw := range want {
			if got[key] != string(raw) {
				t.Errorf("%q: got %q, want %q", key, got[key], raw)
			}
		}
	})
}

// BenchmarkPeekType: budget 1 allocation, for the string, and a tenth of
// the time of an unmarshal, which is measured beside it.
func BenchmarkPeekType(b *testing.B) {
	object := []byte(header)
	b.Run("peek", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			jupyter.PeekType(object)
		}
	})
	b.Run("unmarshal", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			var h jupyter.Header
			if err := json.Unmarshal(object, &h); err != nil {
				b.Fatal(err)
			}
		}
	})
}

func TestLongEscapedStringIsReadInLinearTime(t *testing.T) {
	object := []byte(`{"a":"` + strings.Repeat(`\\\"`, 1<<20) + `","msg_type":"x"}`)
	if got := jupyter.PeekType(object); got != "x" {
		t.Errorf("got %q", got)
	}
}
