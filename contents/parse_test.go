package contents

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/iotest"
	"unicode/utf8"
)

func FuzzEnvelope(f *testing.F) {
	for _, seed := range []string{
		`{"type":"file","format":"text","content":"a\u00e9\ud83d\ude00\n"}`, `{"content":{"a":[1,"]}\"",null]},"chunk":-1}`, `null`, ``, `{}`, `{"content":null}`,
		`{"content":12.5e3 , "type":null}`, `{"content":"\ud800"}`, `{"a":{"content":"x"}}`, "{\"content\":\"\xff\"}", `{"content":true}`,
	} {
		f.Add([]byte(seed))
	}
	h := New(Options{SpoolDir: f.TempDir()})
	f.Fuzz(func(t *testing.T, body []byte) {
		r := httptest.NewRequest("PUT", "/", iotest.OneByteReader(bytes.NewReader(body)))
		e, err := h.readEnvelope(httptest.NewRecorder(), r, "")
		if err != nil {
			return
		}
		defer e.Close()
		var want struct {
			Type, Format, Path, Ext string
			CopyFrom                string `json:"copy_from"`
			Chunk                   *int
			Content                 json.RawMessage
		}
		if len(bytes.TrimSpace(body)) == 0 {
			return
		}
		if e.kind == '{' || e.kind == '[' {
			// Whoever uses such a content parses it, and finds what is wrong.
			if content, err := e.content.view(); err != nil || !json.Valid(content) {
				return
			}
		}
		if err := json.Unmarshal(body, &want); err != nil {
			t.Skip("laxer than encoding/json beside the content")
		}
		if e.kind == '"' {
			var text string
			if json.Unmarshal(want.Content, &text) != nil {
				return
			}
			got, err := e.content.view()
			if err != nil {
				t.Fatal(err)
			}
			if utf8.Valid(got) && string(got) != text {
				t.Fatalf("%q: content %q, want %q", body, got, text)
			}
		}
	})
}

func FuzzTextCheck(f *testing.F) {
	f.Add([]byte("aü日😀"), 1)
	f.Add([]byte("\xe6\x97"), 2)
	f.Add([]byte("\xf0\x9f\x98\x80\xff"), 3)
	f.Fuzz(func(t *testing.T, text []byte, size int) {
		size = max(1, min(size, 10))
		var check textCheck
		for rest := text; len(rest) > 0; {
			n := min(size, len(rest))
			if _, err := check.Write(rest[:n]); err != nil {
				t.Fatal(err)
			}
			rest = rest[n:]
		}
		if check.valid() != utf8.Valid(text) {
			t.Fatalf("%q in pieces of %d: valid is %v", text, size, check.valid())
		}
	})
}

func TestQuotedIsTheInsideOfAJSONString(t *testing.T) {
	var all strings.Builder
	for c := range 256 {
		all.WriteRune(rune(c))
	}
	all.WriteString("日😀\u2028")
	var out bytes.Buffer
	out.WriteByte('"')
	if _, err := io.Copy(struct{ io.Writer }{quoted{&out}}, iotest.OneByteReader(strings.NewReader(all.String()))); err != nil {
		t.Fatal(err)
	}
	out.WriteByte('"')
	var got string
	if err := json.Unmarshal(out.Bytes(), &got); err != nil || got != all.String() {
		t.Errorf("got %q, %v", got, err)
	}
}

func FuzzTree(f *testing.F) {
	for _, seed := range []string{`{"a":[1,"x",{"b":null}],"c":{}}`, `[[],{},[1],[[2]]]`, `-0.5e+3`, `"\u12"`, `[1,]`, `01`, `{"a" 1}`} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		tr := &tree{text: text}
		end, err := tr.parse(0)
		valid := json.Valid(text) && utf8.Valid(text)
		if err != nil {
			if valid {
				t.Fatalf("%q: %v", text, err)
			}
			return
		}
		if rest := bytes.Trim(text[end:], " \n\t\r"); len(rest) > 0 {
			return
		}
		if !valid {
			t.Fatalf("%q is no JSON and was parsed", text)
		}
		var out bytes.Buffer
		written := &spool{limit: 1 << 30}
		w := writing{output: (&notebook{}).outputTo(written), t: tr}
		w.plain(0, 0)
		if err := w.Flush(); err != nil {
			t.Fatal(err)
		}
		out.Write(written.memory)
		var a, b any
		if json.Unmarshal(text, &a) != nil {
			return // a number that is too large for encoding/json
		}
		if err := json.Unmarshal(out.Bytes(), &b); err != nil {
			t.Fatalf("%q was written as %q: %v", text, out.Bytes(), err)
		}
		x, _ := json.Marshal(a)
		y, _ := json.Marshal(b)
		if !bytes.Equal(x, y) {
			t.Fatalf("%q was written as %q", text, out.Bytes())
		}
	})
}

// spooled is a spool that holds a text.
func spooled(t *testing.T, text []byte) *spool {
	t.Helper()
	s := &spool{limit: 1 << 30}
	if _, err := s.Write(text); err != nil {
		t.Fatal(err)
	}
	return s
}

// passed reads or stores a notebook.
func passed(t *testing.T, text []byte, pass func(nb *notebook, out *spool) error) ([]byte, error) {
	t.Helper()
	nb, err := openNotebook(spooled(t, text))
	if err != nil {
		return nil, err
	}
	out := &spool{limit: 1 << 30}
	err = pass(nb, out)
	return out.memory, err
}

func FuzzNotebook(f *testing.F) {
	for _, seed := range []string{
		`{"cells":[],"metadata":{},"nbformat":4,"nbformat_minor":5}`, `{"cells":[{"source":[""]}],"nbformat":4,"nbformat_minor":0}`,
		`{"cells":[{"cell_type":"code","id":"a","metadata":{"trusted":true},"source":"a\nb","outputs":[{"output_type":"display_data","data":{"text/html":["a\n","b"],"image/png":"x","application/json":[1]}},{"output_type":"stream","text":["a"]}]}],"metadata":{"signature":1},"nbformat":4,"nbformat_minor":5}`,
		`{"cells":[{"cell_type":"markdown","attachments":{"a":{"text/plain":"a\r\nb"}},"source":"\u2028"},{"id":"x"},{"id":"x"}],"metadata":{},"nbformat":4,"nbformat_minor":9}`,
	} {
		f.Add([]byte(seed))
	}
	store := func(nb *notebook, out *spool) error { _, _, err := nb.store(out); return err }
	present := func(nb *notebook, out *spool) error { _, err := nb.present(out, false); return err }
	f.Fuzz(func(t *testing.T, text []byte) {
		stored, err := passed(t, text, store)
		if err != nil {
			if _, err := passed(t, text, present); err == nil {
				t.Fatalf("%q is read and cannot be stored", text)
			}
			return
		}
		if !json.Valid(text) || !json.Valid(stored) {
			t.Fatalf("%q was stored as %q", text, stored)
		}
		read, err := passed(t, stored, present)
		if err != nil || !json.Valid(read) {
			t.Fatalf("%q, stored as %q, is read as %q, %v", text, stored, read, err)
		}
		again, err := passed(t, read, store)
		if err != nil {
			t.Fatalf("%q, which was read, cannot be stored: %v", read, err)
		}
		if reread, err := passed(t, again, present); err != nil || !bytes.Equal(oneFormOf(reread), oneFormOf(read)) {
			t.Fatalf("%q, stored again, is read as %q, %v", read, reread, err)
		}
	})
}

func oneFormOf(text []byte) []byte { return []byte(oneForm(text)) }
