package agent

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"kernelgw/jupyter"
	"kernelgw/sandboxes/agentapi"
)

func FuzzCutText(f *testing.F) {
	for _, text := range []string{`plain`, `a\nb\n`, `äöü🙂`, `\ud83d\ude42\ud83d\ude42`, `\\\\\"`, `\u00e4\u00e4`, `\ud83d`} {
		for size := range 40 {
			f.Add(text, int64(size))
		}
	}
	f.Fuzz(func(t *testing.T, raw string, size int64) {
		size &= 0xffff
		content := `{"name":"stdout","text":"` + raw + `"}`
		var before, after struct{ Name, Text string }
		m := &jupyter.Message{Content: []byte(content)}
		cut := cutText(m, size)
		if json.Unmarshal([]byte(content), &before) != nil || before.Name != "stdout" || strings.Contains(raw, `"`) || !utf8.ValidString(raw) {
			return // it must not panic
		}
		if err := json.Unmarshal(m.Content, &after); err != nil {
			t.Fatalf("%s cut to %d is %s: %v", content, size, m.Content, err)
		}
		if after.Name != before.Name || !strings.HasPrefix(before.Text, after.Text) || int64(len(content)-len(m.Content)) != cut {
			t.Errorf("%s cut to %d is %s, %d bytes shorter", content, size, m.Content, cut)
		}
		if int64(len(m.Content)) > max(size, int64(len(content)-len(raw))) {
			t.Errorf("%s cut to %d is %d bytes", content, size, len(m.Content))
		}
	})
}

func TestAStreamIsShownAsFarAsItFits(t *testing.T) {
	var told []string
	c := newCaps(agentapi.OutputCaps{CellBytes: 1000}, "", func(text string, _ []byte) { told = append(told, text) })
	shown := 0
	for i := range 3 {
		m := jupyter.NewStream("stdout", strings.Repeat("ä", 2000), "k", nil)
		before := len(m.Content)
		past := c.take(kindStream, m, "a", time.Now())
		if past != (i > 0) {
			t.Errorf("message %d is past the budget: %v", i, past)
		}
		if !past {
			shown = len(m.Content)
		}
		if i == 0 && (shown < 998 || shown > 1000 || before < 4000) {
			t.Errorf("%d bytes of %d are shown of 1000", shown, before)
		}
	}
	c.asks("a")
	if want := fmt.Sprintf("output truncated: 3 messages, %d bytes", 3*len(jupyter.NewStream("stdout", strings.Repeat("ä", 2000), "k", nil).Content)-shown); len(told) != 1 || !strings.HasPrefix(told[0], want) {
		t.Errorf("told is %q, want %q", told, want)
	}
}
