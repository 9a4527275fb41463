package outputs_test

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"kernelgw/jupyter"
	"kernelgw/jupyter/outputs"
)

// message makes a message as a kernel sends it.
func message(channel jupyter.Channel, msgType, content string) *jupyter.Message {
	return &jupyter.Message{
		Channel: channel, Header: []byte(fmt.Sprintf(`{"msg_id":"m","msg_type":%q,"session":"s"}`, msgType)),
		ParentHeader: []byte("{}"), Metadata: []byte("{}"), Content: []byte(content),
	}
}

// said is a line of a table: a message's type and content.
type said struct{ msgType, content string }

func collect(o outputs.Options, all []said) *outputs.Collector {
	c := outputs.New(o)
	for _, s := range all {
		channel := jupyter.IOPub
		if strings.HasSuffix(s.msgType, "_reply") {
			channel = jupyter.Shell
		}
		c.Take(message(channel, s.msgType, s.content))
	}
	return c
}

// parsed is a collector's outputs, decoded.
func parsed(t testing.TB, c *outputs.Collector) []map[string]any {
	t.Helper()
	list := []map[string]any{}
	if b := c.Append(nil); json.Unmarshal(b, &list) != nil {
		t.Fatalf("no JSON: %s", b)
	}
	return list
}

func text(name, s string) said {
	b, err := json.Marshal(map[string]string{"name": name, "text": s})
	if err != nil {
		panic(err) // two strings
	}
	return said{"stream", string(b)}
}

func TestOutputsAreThoseOfJupyterLab(t *testing.T) {
	const display = `{"data":{"text/plain":"d"},"metadata":{"a":1},"transient":{"display_id":"x"}}`
	for name, c := range map[string]struct {
		messages []said
		want     string
	}{
		"nothing": {nil, `[]`},
		"streams of one name are one": {
			[]said{text("stdout", "a\n"), text("stdout", "b"), text("stderr", "c"), text("stdout", "d")},
			`[{"output_type":"stream","name":"stdout","text":"a\nb"},{"output_type":"stream","name":"stderr","text":"c"},{"output_type":"stream","name":"stdout","text":"d"}]`,
		},
		"a display ends a stream": {
			[]said{text("stdout", "a"), {"display_data", `{"data":{},"metadata":{}}`}, text("stdout", "b")},
			`[{"output_type":"stream","name":"stdout","text":"a"},{"output_type":"display_data","metadata":{},"data":{}},{"output_type":"stream","name":"stdout","text":"b"}]`,
		},
		"text in lines": {
			[]said{{"stream", `{"name":"stdout","text":["a\n","b"]}`}},
			`[{"output_type":"stream","name":"stdout","text":"a\nb"}]`,
		},
		"a progress bar": {
			[]said{text("stderr", " 10%"), text("stderr", "\r 50%"), text("stderr", "\r100%\n")},
			`[{"output_type":"stream","name":"stderr","text":"100%\n"}]`,
		},
		"a bundle": {
			[]said{{"display_data", `{"data":{"text/html":["<p>\n","</p>"],"application/json":["a"],"application/vnd.x+json":["b"],"image/png":"AAAA"},"metadata":{"image/png":{"width":1}}}`}},
			`[{"output_type":"display_data","metadata":{"image/png":{"width":1}},"data":{"text/html":"<p>\n</p>","application/json":["a"],"application/vnd.x+json":["b"],"image/png":"AAAA"}}]`,
		},
		"a result": {
			[]said{{"execute_input", `{"code":"1","execution_count":7}`}, {"execute_result", `{"data":{"text/plain":"1"},"metadata":{},"execution_count":7}`}},
			`[{"output_type":"execute_result","metadata":{},"data":{"text/plain":"1"},"execution_count":7}]`,
		},
		"an error": {
			[]said{{"error", `{"ename":"E","evalue":"<v>","traceback":["a","b"]}`}, {"execute_reply", `{"status":"error","ename":"E","evalue":"<v>","traceback":["a","b"],"execution_count":1}`}},
			`[{"output_type":"error","ename":"E","evalue":"<v>","traceback":["a","b"]}]`,
		},
		"clear_output": {
			[]said{text("stdout", "a"), {"clear_output", `{"wait":false}`}, text("stdout", "b")},
			`[{"output_type":"stream","name":"stdout","text":"b"}]`,
		},
		"clear_output that waits for nothing": {
			[]said{text("stdout", "a"), {"clear_output", `{"wait":true}`}},
			`[{"output_type":"stream","name":"stdout","text":"a"}]`,
		},
		"clear_output that waits": {
			[]said{text("stdout", "a"), {"clear_output", `{"wait":true}`}, text("stdout", "b"), text("stdout", "c")},
			`[{"output_type":"stream","name":"stdout","text":"bc"}]`,
		},
		"an update": {
			[]said{{"display_data", display}, text("stdout", "a"), {"update_display_data", `{"data":{"text/plain":"new"},"metadata":{},"transient":{"display_id":"x"}}`}},
			`[{"output_type":"display_data","metadata":{},"data":{"text/plain":"new"}},{"output_type":"stream","name":"stdout","text":"a"}]`,
		},
		"a display that is shown twice": {
			[]said{{"display_data", display}, {"display_data", `{"data":{"text/plain":"2"},"metadata":{},"transient":{"display_id":"x"}}`}},
			`[{"output_type":"display_data","metadata":{},"data":{"text/plain":"2"}},{"output_type":"display_data","metadata":{},"data":{"text/plain":"2"}}]`,
		},
		"an update of what was cleared": {
			[]said{{"display_data", display}, {"clear_output", `{}`}, {"update_display_data", display}},
			`[]`,
		},
		"the pager": {
			[]said{{"execute_reply", `{"status":"ok","payload":[{"source":"page","data":{"text/plain":"help"},"start":0}],"execution_count":2}`}},
			`[{"output_type":"display_data","metadata":{},"data":{"text/plain":"help"}}]`,
		},
		"what makes no output": {
			[]said{{"comm_open", `{}`}, {"status", `{"execution_state":"busy"}`}, {"shutdown_reply", `{}`}, {"stream", `{"name":"stdout","text":`}, {"stream", `{}`}, {"", `[]`}},
			`[]`,
		},
		"what is not as the protocol says": {
			[]said{{"display_data", `{"data":[],"metadata":null}`}, {"execute_result", `{"execution_count":"1"}`}, {"error", `{"traceback":"a"}`}},
			`[{"output_type":"display_data","metadata":{},"data":{}},{"output_type":"execute_result","metadata":{},"data":{},"execution_count":null},{"output_type":"error","ename":"","evalue":"","traceback":[]}]`,
		},
	} {
		t.Run(name, func(t *testing.T) {
			got := string(collect(outputs.Options{}, c.messages).Append(nil))
			if d := cmp.Diff(c.want, got); d != "" {
				t.Error(d)
			}
		})
	}
}

func TestRepliesSayHowItEnded(t *testing.T) {
	c := outputs.New(outputs.Options{})
	if _, ok := c.ExecutionCount(); ok || c.Status() != "" || c.Failed() != nil {
		t.Error("something is known before anything came")
	}
	c.Take(message(jupyter.IOPub, "execute_input", `{"execution_count":3}`))
	c.Take(message(jupyter.Shell, "execute_reply", `{"status":"error","ename":"E","evalue":"v","traceback":["t"],"execution_count":4}`))
	if n, ok := c.ExecutionCount(); !ok || n != 4 {
		t.Errorf("execution count %d, %v", n, ok)
	}
	// A silent execution fails in its reply only.
	want := &outputs.Error{Name: "E", Value: "v", Traceback: []string{"t"}}
	if d := cmp.Diff(want, c.Failed()); d != "" || c.Status() != "error" || len(parsed(t, c)) != 0 {
		t.Errorf("status %q, %s", c.Status(), d)
	}
}

func TestDisplaysOfOtherCellsAreReported(t *testing.T) {
	first, second := outputs.New(outputs.Options{}), outputs.New(outputs.Options{})
	first.Take(message(jupyter.IOPub, "display_data", `{"data":{"text/plain":"1"},"metadata":{},"transient":{"display_id":"x"}}`))
	shown := second.Take(message(jupyter.IOPub, "update_display_data", `{"data":{"text/plain":"2"},"metadata":{},"transient":{"display_id":"x"}}`))
	if shown.ID != "x" || !first.Show(shown) || second.Show(shown) {
		t.Errorf("the update of %q does not reach the cell that shows it, and no other", shown.ID)
	}
	const want = `[{"output_type":"display_data","metadata":{},"data":{"text/plain":"2"}}]`
	if got := string(first.Append(nil)); got != want {
		t.Errorf("got %s", got)
	}
	if d := second.Take(message(jupyter.IOPub, "display_data", `{"data":{},"metadata":{}}`)); d.ID != "" || first.Show(d) {
		t.Error("a display without an id changes others")
	}
}

func TestLossIsToldAtItsPlace(t *testing.T) {
	const limit = 8 << 10
	c := outputs.New(outputs.Options{MaxBytes: limit})
	for i := range 100 {
		c.Take(message(jupyter.IOPub, "stream", fmt.Sprintf(`{"name":"stdout","text":"%03d %s\n"}`, i, strings.Repeat("x", 95))))
	}
	c.Take(message(jupyter.IOPub, "display_data", fmt.Sprintf(`{"data":{"image/png":%q},"metadata":{}}`, strings.Repeat("A", limit))))
	c.Take(message(jupyter.IOPub, "stream", `{"name":"stderr","text":"late"}`))
	c.Take(message(jupyter.IOPub, "execute_result", `{"data":{"text/plain":"1"},"metadata":{},"execution_count":1}`))
	for i := range 50 {
		c.Take(message(jupyter.IOPub, "error", fmt.Sprintf(`{"ename":"E%d","evalue":"v","traceback":["gone","%s","last"]}`, i, strings.Repeat("y", limit))))
	}
	list := parsed(t, c)
	if len(list) < 4 {
		t.Fatalf("%d outputs", len(list))
	}
	printed, notice := list[0]["text"].(string), list[1]
	if len(printed) < limit/2 || len(printed) > limit || !strings.HasPrefix(printed, "000 xxx") {
		t.Errorf("%d bytes are kept of a stream", len(printed))
	}
	lines := strings.Count(printed, "\n")
	var messages, bytes int
	if n, _ := fmt.Sscanf(notice["text"].(string), "output truncated: %d messages, %d bytes\n", &messages, &bytes); n != 2 || notice["name"] != "stderr" {
		t.Fatalf("the loss is told as %v", notice)
	}
	// All that did not fit: of the stream, the picture, the late word, and errors.
	if want := 100 - lines + 1 + 1 + 50 - 16; messages < want-1 || messages > want {
		t.Errorf("%d messages are lost, want about %d", messages, want)
	}
	if lost := 100*100 - len(printed); bytes < lost+limit {
		t.Errorf("%d bytes are lost", bytes)
	}
	if list[2]["output_type"] != "execute_result" || list[3]["ename"] != "E0" || list[3]["traceback"].([]any)[2] != "last" {
		t.Errorf("the result and errors are not kept: %v", list[2:])
	}
	if c.Size() > limit+2<<20 {
		t.Errorf("it keeps %d bytes", c.Size())
	}
	c.Take(message(jupyter.IOPub, "clear_output", `{"wait":false}`))
	c.Take(message(jupyter.IOPub, "stream", `{"name":"stdout","text":"new"}`))
	if got := string(c.Append(nil)); got != `[{"output_type":"stream","name":"stdout","text":"new"}]` {
		t.Errorf("after it was cleared: %s", got)
	}
}

// What overwrites itself needs no room, however much it is.
func TestProgressIsNoLoss(t *testing.T) {
	c := outputs.New(outputs.Options{MaxBytes: 4 << 10})
	for i := range 1000 {
		c.Take(message(jupyter.IOPub, "stream", fmt.Sprintf(`{"name":"stderr","text":"\r%4d %s"}`, i, strings.Repeat("#", 60))))
	}
	if got := parsed(t, c)[0]["text"]; got != " 999 "+strings.Repeat("#", 60) {
		t.Errorf("shown is %q", got)
	}
}

// real is what ipykernel 7.4 sent for some cells; testdata/record.py makes it.
type real struct {
	Code     string
	Messages []struct {
		Channel, MsgType string
		Content          json.RawMessage
	}
	Nbformat []map[string]any // output_from_msg of each, or null
}

func recorded(t testing.TB) []real {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("testdata", "ipykernel.json"))
	if err != nil {
		t.Fatal(err)
	}
	var cells []real
	if err := json.Unmarshal(b, &cells); err != nil {
		t.Fatal(err)
	}
	return cells
}

// A message alone makes the output that nbformat makes of it.
func TestOutputsOfIPykernelAreThoseOfNbformat(t *testing.T) {
	compared := 0
	for _, cell := range recorded(t) {
		for i, m := range cell.Messages {
			want := cell.Nbformat[i]
			if said, _ := want["text"].(string); want == nil || strings.Contains(said, "\r") {
				continue // no output, or one that nbformat leaves to who shows it
			}
			compared++
			c := outputs.New(outputs.Options{})
			c.Take(message(jupyter.Channel(m.Channel), m.MsgType, string(m.Content)))
			got := parsed(t, c)
			if d := cmp.Diff([]map[string]any{want}, got); d != "" {
				t.Errorf("%s of %q: %s", m.MsgType, cell.Code, d)
			}
		}
	}
	if compared < 5 {
		t.Errorf("only %d messages were compared", compared)
	}
}

func TestCellsOfIPykernel(t *testing.T) {
	for _, cell := range recorded(t) {
		t.Run(cell.Code, func(t *testing.T) {
			c := outputs.New(outputs.Options{})
			for _, m := range cell.Messages {
				c.Take(message(jupyter.Channel(m.Channel), m.MsgType, string(m.Content)))
			}
			var kinds []string
			for _, o := range parsed(t, c) {
				kind := o["output_type"].(string)
				if kind == "stream" {
					kind = fmt.Sprintf("%s %q", o["name"], o["text"])
				}
				if data, ok := o["data"].(map[string]any); ok {
					kind += fmt.Sprintf(" %.8q", data["text/plain"])
				}
				kinds = append(kinds, kind)
			}
			want, ok := cellsOfIPykernel[cell.Code]
			if got := strings.Join(kinds, ", "); !ok || got != want {
				t.Errorf("got %s, want %s", got, want)
			}
			n, counted := c.ExecutionCount()
			if !counted || n == 0 || (c.Status() == "error") != (c.Failed() != nil) {
				t.Errorf("execution %d, status %q, error %v", n, c.Status(), c.Failed())
			}
		})
	}
}

var cellsOfIPykernel = map[string]string{
	"print('a'); print('b')\nimport sys; print('c', file=sys.stderr)": `stdout "a\nb\n", stderr "c\n"`,
	"1 + 1":  `execute_result "2"`,
	"1 / 0":  `error`,
	"print?": `display_data "\x1b[31mSig"`,
	"from IPython.display import HTML, display\ndisplay(HTML('<b>b</b>'), metadata={'a': 1})":                                                                                                         `display_data "<IPython"`,
	"from IPython.display import clear_output\nprint('old'); clear_output(wait=True); print('new')":                                                                                                   `stdout "new\n"`,
	"h = display('one', display_id='x'); h.update('two'); print('end')":                                                                                                                               `display_data "'two'", stdout "end\n"`,
	"import sys\nfor i in range(3): print(f'\\r{i}', end=''); sys.stdout.flush()":                                                                                                                     `stdout "2"`,
	"import base64\nfrom IPython.display import Image, display\ndisplay(Image(base64.b64decode('iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==')))": `display_data "<IPython"`,
}
