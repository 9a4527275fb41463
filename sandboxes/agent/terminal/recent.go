package terminal

import (
	"regexp"
	"strings"
	"unicode/utf8"
)

// recentBytes is how much of its output a terminal remembers for those who come
// (again).
const recentBytes = 64 << 10

// recent is the end of what a terminal printed. The zero value is empty.
type recent struct {
	b []byte // at most twice recentBytes
}

func (r *recent) add(text string) {
	if len(text) > recentBytes {
		text = text[len(text)-recentBytes:]
		r.b = r.b[:0]
	}
	r.b = append(r.b, text...)
	if len(r.b) > 2*recentBytes {
		r.b = append(r.b[:0], r.b[len(r.b)-recentBytes:]...)
	}
}

// maxLine is how far a cut moves to come to the beginning of a line.
const maxLine = 4 << 10

// replay is what to show of it. It begins with a line where there are lines: an
// escape sequence that was cut in two would be shown as text.
func (r *recent) replay() string {
	b := r.b
	if len(b) > recentBytes {
		b = b[len(b)-recentBytes:]
		for len(b) > 0 && !utf8.RuneStart(b[0]) {
			b = b[1:]
		}
		if line := strings.IndexByte(string(b[:min(len(b), maxLine)]), '\n'); line >= 0 {
			b = b[line+1:]
		}
	}
	return questions.ReplaceAllString(string(b), "")
}

// questions are what programs ask a terminal (XTerm Control Sequences: DA, DSR,
// DECRQM, XTVERSION, window reports, colours, DECRQSS, XTGETTCAP, ENQ). Shown
// again they would be answered again, as if the answers were typed.
var questions = regexp.MustCompile("\x05|" +
	"\x1bZ|" +
	`\x1b\[[?>=]?[0-9;]*c|` +
	`\x1b\[\??[0-9;]*n|` +
	`\x1b\[\??[0-9;]*\$p|` +
	`\x1b\[>[0-9;]*q|` +
	`\x1b\[1[0-9][0-9;]*t|\x1b\[2[01]t|` +
	`\x1b\][0-9]+;(?:[^\x07\x1b]*;)?\?(?:\x07|\x1b\\)|` +
	`\x1bP[$+]q[^\x1b\x07]*(?:\x07|\x1b\\)`)
