package conformance

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"kernelgw/conformance/probe"
)

var sizeChecks = []check{
	{name: "ElevenMegabytesFromTheKernel", run: elevenFromKernel},
	{
		name: "ElevenMegabytesToTheKernel", run: elevenToKernel,
		extension: &extension{because: "it drops messages above 10 MiB with the connection", fails: "close 1009|reset by peer|broken pipe"},
	},
	{
		name: "TwelveMegabytesOfPrints", run: twelveOfPrints,
		extension: &extension{because: "it drops output above 1 MB a second", fails: "bytes came of"},
	},
	{
		name: "TwoHundredMegabytesHitANamedLimit", run: twoHundredToKernel,
		extension: &extension{because: "it closes without naming its limit", fails: "message too big"},
	},
}

func elevenFromKernel(t testing.TB, s *target) {
	k := s.StartKernel(t)
	for _, legacy := range []bool{false, true} {
		w := s.Dial(t, k.ID, probe.Dialing{Session: probe.ID(), Legacy: legacy})
		r := w.Run(t, "from IPython.display import display\ndisplay({'text/plain': 'x' * 11_000_000}, raw=True)")
		size := 0
		for _, m := range r.Messages {
			if m.Header.MsgType == "display_data" {
				size = len(m.Content)
			}
		}
		if size < 11_000_000 {
			t.Errorf("legacy %v: the display came with %d bytes, in%s", legacy, size, probe.Summary(r.Messages))
		}
	}
}

func elevenToKernel(t testing.TB, s *target) {
	k := s.StartKernel(t)
	for _, legacy := range []bool{false, true} {
		w := s.Dial(t, k.ID, probe.Dialing{Session: probe.ID(), Legacy: legacy})
		if got := w.Run(t, "print(len('"+strings.Repeat("x", 11_000_000)+"'))").Stdout; got != "11000000\n" {
			t.Errorf("legacy %v: stdout is %q", legacy, got)
		}
	}
}

func twelveOfPrints(t testing.TB, s *target) {
	k := s.StartKernel(t)
	w := s.Dial(t, k.ID, probe.Dialing{Session: probe.ID()})
	out := w.Run(t, "for i in range(120):\n    print(f'{i:06}' + 'x' * 99_993)").Stdout
	if len(out) != 120*100_000 {
		t.Fatalf("%d bytes came of %d", len(out), 120*100_000)
	}
	for i, line := range strings.Split(strings.TrimSuffix(out, "\n"), "\n") {
		if !strings.HasPrefix(line, fmt.Sprintf("%06d", i)) {
			t.Fatalf("line %d begins with %.6s", i, line)
		}
	}
}

func twoHundredToKernel(t testing.TB, s *target) {
	k := s.StartKernel(t)
	healthy := s.Dial(t, k.ID, probe.Dialing{Session: probe.ID()})
	healthy.Run(t, "kept = 1")
	w := s.Dial(t, k.ID, probe.Dialing{Session: probe.ID(), Legacy: true})
	head := []byte(`{"channel":"shell","header":{"msg_id":"1","msg_type":"execute_request"},"content":{"code":"`)
	// An error here is the connection closed under us, as it should be.
	_ = w.WriteFrame(websocket.TextMessage, append(head, bytes.Repeat([]byte("x"), 200<<20)...))
	code, reason := w.WaitClosed(t, 30*time.Second)
	if code != 1009 || !strings.Contains(reason, "limit") {
		t.Errorf("closed with %d %q, want 1009 and the limit by name", code, reason)
	}
	if got := healthy.Run(t, "print(kept)").Stdout; got != "1\n" {
		t.Errorf("the other socket got %q", got)
	}
}
