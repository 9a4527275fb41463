package outputs_test

import (
	"encoding/json"
	"strings"
	"testing"
	"unicode/utf8"

	"kernelgw/jupyter"
	"kernelgw/jupyter/outputs"
)

// terminal is processText of JupyterLab 4.6, said as simply as it can be.
type terminal struct {
	shown  []rune
	cursor int
}

func (t *terminal) write(text string) {
	for _, r := range text {
		switch r {
		case '\n':
			t.shown = append(t.shown, r)
			t.cursor = len(t.shown)
		case '\r':
			for t.cursor > 0 && t.shown[t.cursor-1] != '\n' {
				t.cursor--
			}
		case '\b':
			if t.cursor > 0 && t.shown[t.cursor-1] != '\n' {
				end := min(t.cursor+1, len(t.shown))
				t.shown = append(t.shown[:t.cursor-1], t.shown[end:]...)
				t.cursor--
			}
		default:
			if t.cursor < len(t.shown) {
				t.shown[t.cursor] = r
			} else {
				t.shown = append(t.shown, r)
			}
			t.cursor++
		}
	}
}

func FuzzStream(f *testing.F) {
	for _, s := range []string{
		"", "abc\n", "abc\rx", "abcdef\rxy\bz", "é😀\rab\rü\n\b", "a\b\b\nb\b\bc", "\r\n\r\n", "1\r22\r333\r4444\r5",
		"aaaa\ré\rü\r€\r😀\rx", "long line\rab\ncd\ref",
	} {
		f.Add(s, uint8(3))
	}
	f.Fuzz(func(t *testing.T, s string, step uint8) {
		if !utf8.ValidString(s) {
			t.Skip("JSON has no other text")
		}
		c := outputs.New(outputs.Options{})
		var want terminal
		for rest := []rune(s); len(rest) > 0; {
			n := min(int(step)+1, len(rest))
			want.write(string(rest[:n]))
			b, err := json.Marshal(map[string]string{"name": "stdout", "text": string(rest[:n])})
			if err != nil {
				t.Fatal(err)
			}
			c.Take(message(jupyter.IOPub, "stream", string(b)))
			rest = rest[n:]
		}
		got := ""
		for _, o := range parsed(t, c) {
			got += o["text"].(string)
		}
		if got != string(want.shown) {
			t.Errorf("%q is shown as %q, not as %q", s, got, string(want.shown))
		}
	})
}

// What a kernel sends makes JSON that a notebook can hold, within the budget.
func FuzzMessages(f *testing.F) {
	for _, cell := range recorded(f) {
		for _, m := range cell.Messages {
			f.Add(m.MsgType, []byte(m.Content), m.MsgType, []byte(m.Content))
		}
	}
	f.Add("stream", []byte(`{"name":"stdout","text":"\ud800 \u0000`+strings.Repeat("x", 5000)+`"}`), "clear_output", []byte(`{"wait":true}`))
	f.Add("display_data", []byte("{\"data\":{\"text/plain\":\"\xff\"},\"transient\":{\"display_id\":\"x\"}}"), "update_display_data", []byte(`{"data":{"a":["b",1]},"transient":{"display_id":"x"}}`))
	f.Fuzz(func(t *testing.T, type1 string, content1 []byte, type2 string, content2 []byte) {
		const limit = 4 << 10
		c := outputs.New(outputs.Options{MaxBytes: limit})
		for range 3 {
			for _, m := range []*jupyter.Message{message(jupyter.IOPub, type1, string(content1)), message(jupyter.IOPub, type2, string(content2))} {
				if strings.HasSuffix(jupyter.PeekType(m.Header), "_reply") {
					m.Channel = jupyter.Shell
				}
				c.Take(m)
			}
		}
		b := c.Append(nil)
		if !utf8.Valid(b) {
			t.Errorf("not UTF-8: %q", b)
		}
		for _, o := range parsed(t, c) {
			wanted := map[string][]string{
				"stream": {"name", "text"}, "display_data": {"data", "metadata"},
				"execute_result": {"data", "metadata", "execution_count"}, "error": {"ename", "evalue", "traceback"},
			}[o["output_type"].(string)]
			if len(wanted) == 0 || len(o) != len(wanted)+1 {
				t.Errorf("no output of a notebook: %v", o)
			}
			for _, key := range wanted {
				if _, ok := o[key]; !ok {
					t.Errorf("%s is missing in %v", key, o)
				}
			}
		}
		if c.Size() > limit+3*2*(64<<10) {
			t.Errorf("%d bytes are kept", c.Size())
		}
	})
}

// What is quadratic takes minutes with these.
func TestTimeIsLinear(t *testing.T) {
	const n = 1 << 18
	for name, s := range map[string]string{
		"backspaces in a long line": strings.Repeat("x", n) + "\r" + strings.Repeat("a\b", n),
		"carriage returns":          strings.Repeat("x", n) + strings.Repeat("\r", n),
		"one character over":        strings.Repeat("x", n) + strings.Repeat("\ra", n),
		"wider characters":          strings.Repeat("x", n) + strings.Repeat("\r€", n),
		"wider and wider":           strings.Repeat("\r", 1) + strings.Repeat("aé", n/2) + "\r" + strings.Repeat("😀\r", n/2),
		"lines":                     strings.Repeat("x\n", n),
	} {
		t.Run(name, func(t *testing.T) {
			c := outputs.New(outputs.Options{MaxBytes: 64 << 20})
			for range 4 {
				b, err := json.Marshal(map[string]string{"name": "stdout", "text": s})
				if err != nil {
					t.Fatal(err)
				}
				c.Take(message(jupyter.IOPub, "stream", string(b)))
			}
		})
	}
}

func BenchmarkStream(b *testing.B) {
	m := message(jupyter.IOPub, "stream", `{"name":"stdout","text":"`+strings.Repeat("x", 98)+`\n"}`)
	c := outputs.New(outputs.Options{MaxBytes: 1 << 30})
	b.SetBytes(int64(len(m.Content)))
	b.ReportAllocs()
	for b.Loop() {
		c.Take(m)
		if c.Size() > 32<<20 {
			c = outputs.New(outputs.Options{MaxBytes: 1 << 30})
		}
	}
}
