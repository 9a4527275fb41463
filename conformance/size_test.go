package conformance

import (
	"bytes"
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"github.com/gorilla/websocket"

	"kernelgw/conformance/probe"
	"kernelgw/conformance/servers"
)

var sizeChecks = []check{
	{name: "ElevenMegabytesFromTheKernel", run: elevenFromKernel},
	{
		name: "ElevenMegabytesToTheKernel", run: elevenToKernel,
		extension: &extension{because: "it drops messages above 10 MiB with the connection", fails: "close 1009|reset by peer|broken pipe"},
	},
	{
		name: "HundredMegabytesBothWays", alone: true, run: hundredBothWays,
		extension: &extension{because: "it drops messages above 10 MiB with the connection", fails: "close 1009|reset by peer|broken pipe"},
	},
	{
		name: "TwelveMegabytesOfPrints", run: twelveOfPrints,
		extension: &extension{because: "it drops output above 1 MB a second", fails: "bytes came of"},
	},
	{
		name: "TwoHundredMegabytesHitANamedLimit", run: twoHundredToKernel,
		extension: &extension{because: "it closes without naming its limit and where it is set", fails: "message too big"},
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

// echoing makes a kernel send back what comes on the comm target "echo".
const echoing = `
def _echo(comm, _open):
    @comm.on_msg
    def _(message):
        comm.send({'size': len(message['buffers'][0])}, buffers=message['buffers'])
get_ipython().kernel.comm_manager.register_target('echo', _echo)
`

// hundredBothWays sends a hundred megabytes to the kernel and back: in a buffer, as
// widgets do, in both encodings, and back as text.
func hundredBothWays(t testing.TB, s *target) {
	const size = 100_000_000
	k := s.StartKernel(t)
	// A fourth of a second of a quiet machine each way.
	payload := bytes.Repeat([]byte("0123456789abcdef"), size/16)
	for _, legacy := range []bool{false, true} {
		w := s.Dial(t, k.ID, probe.Dialing{Session: probe.ID(), Legacy: legacy})
		w.Run(t, echoing)
		comm := probe.ID()
		w.Send(t, probe.Outgoing{Channel: "shell", Type: "comm_open", Content: map[string]any{"comm_id": comm, "target_name": "echo", "data": map[string]any{}}})
		w.Send(t, probe.Outgoing{
			Channel: "shell", Type: "comm_msg", Content: map[string]any{"comm_id": comm, "data": map[string]any{}}, Buffers: [][]byte{payload},
		})
		back, _ := w.Wait(t, 2*probe.Patience, "the hundred megabytes", func(m probe.Message) bool { return m.Header.MsgType == "comm_msg" })
		if len(back.Buffers) != 1 || !bytes.Equal(back.Buffers[0], payload) {
			t.Errorf("legacy %v: what came back is not what was sent, in %s", legacy, probe.Summary([]probe.Message{back}))
		}
		w.Close()
	}
	w := s.Dial(t, k.ID, probe.Dialing{Session: probe.ID()})
	id := w.Start(t, fmt.Sprintf("from IPython.display import display\ndisplay({'text/plain': 'x' * %d}, raw=True)", size))
	text := 0
	for _, m := range w.Finish(t, id, 2*probe.Patience).Messages {
		if m.Header.MsgType == "display_data" {
			text = len(m.Content)
		}
	}
	if text < size {
		t.Errorf("of %d bytes of text %d came", size, text)
	}
	staysSmall(t, s)
	agentsStaySmall(t, s, 8*size)
}

// agentsStaySmall fails the test when the agent of a kernelgw that was started
// here, and whose driver keeps it on the host, has needed more memory than allowed.
func agentsStaySmall(t testing.TB, s *target, most int64) {
	t.Helper()
	if s.process == nil || s.stock {
		return
	}
	for _, p := range servers.Mentioning(s.process.Dir) {
		program, _, _ := strings.Cut(p.Command, " ")
		if filepath.Base(program) != "kernelagent" {
			continue
		}
		peak, err := servers.PeakMemory(p.PID)
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("the agent needed %d MiB at most", peak>>20)
		if peak > most {
			t.Errorf("the agent needed %d MiB, want at most %d", peak>>20, most>>20)
		}
	}
}

// TestMessageLimitIsConfigured: it counts both ways, names itself, and cuts nobody
// off for what a kernel says.
func TestMessageLimitIsConfigured(t *testing.T) {
	t.Parallel()
	s := own(t, servers.Options{Args: []string{"--max-message", "2MiB"}})
	k := s.StartKernel(t)
	for _, legacy := range []bool{false, true} {
		w := s.Dial(t, k.ID, probe.Dialing{Session: probe.ID(), Legacy: legacy})
		// A comment is not parsed for long.
		if got := w.Run(t, "#"+strings.Repeat("x", 2_000_000)+"\nprint('within')").Stdout; got != "within\n" {
			t.Errorf("legacy %v: within the limit stdout is %q", legacy, got)
		}
		r := w.Run(t, "from IPython.display import display\ndisplay({'text/plain': 'x' * 3_000_000}, raw=True)\nprint('after')")
		told := ""
		for _, m := range r.Messages {
			if m.Header.MsgType == "stream" && m.Field("name") == "stderr" {
				told += m.Field("text")
			}
		}
		if r.Stdout != "after\n" || !strings.Contains(told, "max_message") || !strings.Contains(told, "2097152") {
			t.Errorf("legacy %v: over the limit stdout is %q, stderr %q", legacy, r.Stdout, told)
		}
		_ = w.WriteFrame(websocket.TextMessage, bytes.Repeat([]byte("x"), 3<<20))
		if code, reason := w.WaitClosed(t, probe.Patience); code != 1009 || !strings.Contains(reason, "2 MiB (max_message)") {
			t.Errorf("legacy %v: closed with %d %q", legacy, code, reason)
		}
	}
}

// TestMessagesAtTheLimitReachTheClient: what the agent lets pass, the gateway does,
// whatever the encoding puts around it. What is around the limit comes, or is said to
// be too large, and cuts nobody off.
func TestMessagesAtTheLimitReachTheClient(t *testing.T) {
	t.Parallel()
	const limit, from, to, step = 256 << 10, 2000, -1000, 50
	s := own(t, servers.Options{Args: []string{"--max-message", fmt.Sprint(limit)}})
	k := s.StartKernel(t)
	for _, legacy := range []bool{false, true} {
		w := s.Dial(t, k.ID, probe.Dialing{Session: probe.ID(), Legacy: legacy})
		r := w.Run(t, fmt.Sprintf("from IPython.display import display\nfor n in range(%d, %d, %d):\n    display({'text/plain': 'x' * n}, raw=True)", limit-from, limit-to, step))
		came, told := 0, 0
		for _, m := range r.Messages {
			switch {
			case m.Header.MsgType == "display_data":
				came++
			case m.Header.MsgType == "stream" && strings.Contains(m.Field("text"), "max_message"):
				told++
			}
		}
		if want := (from - to) / step; came+told != want || came == 0 || told == 0 {
			t.Errorf("legacy %v: of %d displays around the limit %d came and %d were told of", legacy, want, came, told)
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
	code, reason := w.WaitClosed(t, probe.Patience)
	if code != 1009 || !strings.Contains(reason, "100 MiB (max_message)") {
		t.Errorf("closed with %d %q, want 1009, the limit and its setting", code, reason)
	}
	if got := healthy.Run(t, "print(kept)").Stdout; got != "1\n" {
		t.Errorf("the other socket got %q", got)
	}
}
