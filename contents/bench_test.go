package contents

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http/httptest"
	"strings"
	"testing"
)

// notebookOfSize is a notebook of about n bytes: many cells with text, some with
// pictures, as people's are.
func notebookOfSize(n int) []byte {
	var out strings.Builder
	out.WriteString(`{"cells":[`)
	picture := strings.Repeat("iVBORw0KGgo", 3000)
	lines := strings.Repeat("a line of output, with \\\"quotes\\\" and ü\\n", 100)
	for i := 0; out.Len() < n; i++ {
		if i > 0 {
			out.WriteByte(',')
		}
		fmt.Fprintf(&out, `{"cell_type":"code","id":"cell-%d","execution_count":%d,"metadata":{"trusted":true},"source":"import x\nprint(%d)\n","outputs":[`, i, i, i)
		fmt.Fprintf(&out, `{"output_type":"stream","name":"stdout","text":"%s"}`, lines)
		if i%4 == 0 {
			fmt.Fprintf(&out, `,{"output_type":"display_data","metadata":{},"data":{"image/png":"%s","text/plain":"<Figure>"}}`, picture)
		}
		out.WriteString(`]}`)
	}
	out.WriteString(`],"metadata":{"kernelspec":{"name":"python3","display_name":"Python 3"}},"nbformat":4,"nbformat_minor":5}`)
	return []byte(out.String())
}

func spoolOf(b *testing.B, text []byte) *spool {
	b.Helper()
	s := &spool{limit: 1 << 30, dir: b.TempDir()}
	s.expect(int64(len(text)))
	if _, err := s.Write(text); err != nil {
		b.Fatal(err)
	}
	return s
}

// Budget: 40 ms for 5 MB on the machine where jupyter_server takes 170 ms to save
// one over HTTP.
func BenchmarkStoreNotebook(b *testing.B) {
	text := notebookOfSize(5 << 20)
	b.SetBytes(int64(len(text)))
	b.ReportAllocs()
	for b.Loop() {
		in := spoolOf(b, text)
		nb, err := openNotebook(in)
		if err != nil {
			b.Fatal(err)
		}
		out := &spool{limit: 1 << 30, dir: b.TempDir()}
		out.expect(int64(len(text)))
		if wrong, _, err := nb.store(out); err != nil || wrong != "" {
			b.Fatal(wrong, err)
		}
	}
}

// Budget: 20 ms for 5 MB on the machine where jupyter_server takes 50 ms to load
// one over HTTP.
func BenchmarkPresentNotebook(b *testing.B) {
	nb, err := openNotebook(spoolOf(b, notebookOfSize(5<<20)))
	if err != nil {
		b.Fatal(err)
	}
	stored := &spool{limit: 1 << 30}
	if _, _, err := nb.store(stored); err != nil {
		b.Fatal(err)
	}
	text := stored.memory
	b.SetBytes(int64(len(text)))
	b.ReportAllocs()
	for b.Loop() {
		nb, err := openNotebook(spoolOf(b, text))
		if err != nil {
			b.Fatal(err)
		}
		out := &spool{limit: 1 << 30, dir: b.TempDir()}
		out.expect(int64(len(text)))
		if wrong, err := nb.present(out, true); err != nil || wrong != "" {
			b.Fatal(wrong, err)
		}
	}
}

func BenchmarkReadEnvelope(b *testing.B) {
	body := `{"type":"notebook","format":"json","content":` + string(notebookOfSize(5<<20)) + `}`
	h := New(Options{SpoolDir: b.TempDir()})
	b.SetBytes(int64(len(body)))
	b.ReportAllocs()
	for b.Loop() {
		e, err := h.readEnvelope(nil, httptest.NewRequest("PUT", "/", strings.NewReader(body)), "")
		if err != nil {
			b.Fatal(err)
		}
		e.Close()
	}
}

// BenchmarkDecodeWhole is what a tree of the whole notebook would cost.
func BenchmarkDecodeWhole(b *testing.B) {
	text := notebookOfSize(5 << 20)
	b.SetBytes(int64(len(text)))
	for b.Loop() {
		var value any
		if err := json.Unmarshal(text, &value); err != nil {
			b.Fatal(err)
		}
		if err := json.NewEncoder(io.Discard).Encode(value); err != nil {
			b.Fatal(err)
		}
	}
}
