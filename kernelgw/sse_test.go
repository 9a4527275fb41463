package kernelgw

import (
	"bytes"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// Whatever an agent sends, in whatever pieces, the gateway's own last words stand
// behind a whole event, or nowhere.
func FuzzEventsEndAtABoundary(f *testing.F) {
	f.Add([]byte("data: 1\n\ndata: 2\n\n"), uint8(3), uint8(1))
	f.Add([]byte("\n\n\n\n"), uint8(1), uint8(0))
	f.Add([]byte("a\n\nb"), uint8(1), uint8(4))
	f.Fuzz(func(t *testing.T, sent []byte, size, when uint8) {
		w := httptest.NewRecorder()
		p := &eventPump{out: w, control: http.NewResponseController(w), atEnd: true}
		const last = ": last\n\n"
		passed := 0
		for i := 0; passed < len(sent) && !p.done; i++ {
			if i == int(when) {
				if err := p.end(last); err != nil {
					t.Fatal(err)
				}
				if p.done {
					break
				}
			}
			n := min(1+int(size%7), len(sent)-passed)
			if err := p.pass(sent[passed : passed+n]); err != nil {
				t.Fatal(err)
			}
			passed += n
		}
		got := w.Body.Bytes()
		if !p.done {
			if !bytes.Equal(got, sent[:passed]) {
				t.Fatalf("%q crossed as %q", sent[:passed], got)
			}
			return
		}
		before, ok := strings.CutSuffix(string(got), last)
		if !ok || !strings.HasPrefix(string(sent), before) || before != "" && !strings.HasSuffix(before, "\n\n") {
			t.Fatalf("%q crossed as %q", sent, got)
		}
	})
}
