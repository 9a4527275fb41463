package outputs

import (
	"bytes"
	"strings"
	"unicode/utf8"
)

// screen is the text of a stream as a terminal shows it: a carriage return and
// backspaces let later characters take the place of earlier ones of the same
// line. The rules are those of JupyterLab's processText, its two quirks
// included: a line feed does not break a line but goes to its end, and a
// backspace in the middle of a line takes the character under the cursor along.
// JupyterLab counts in halves of characters beyond U+FFFF, this in characters.
type screen struct {
	left []byte // all that is before the cursor
	line int    // where in left the last line begins
	// right is what is behind the cursor: the end of the last line. Before start
	// is room, so that a carriage return need not move it.
	right []byte
	start int
}

func (s *screen) size() int { return len(s.left) + len(s.right) - s.start }

func (s *screen) String() string {
	var b strings.Builder
	b.Grow(s.size())
	b.Write(s.left)
	b.Write(s.right[s.start:])
	return b.String()
}

// write writes text at the cursor.
func (s *screen) write(text string) {
	for {
		i := strings.IndexAny(text, "\n\b\r")
		if i < 0 {
			s.put(text)
			return
		}
		s.put(text[:i])
		switch text[i] {
		case '\n':
			s.feed()
		case '\b':
			s.backspace()
		case '\r':
			s.carriageReturn()
		}
		text = text[i+1:]
	}
}

// put writes characters over those behind the cursor.
func (s *screen) put(text string) {
	s.left = append(s.left, text...)
	if s.start < len(s.right) {
		s.drop(utf8.RuneCountInString(text))
	}
}

// drop removes characters behind the cursor.
func (s *screen) drop(n int) {
	for ; n > 0 && s.start < len(s.right); n-- {
		_, size := utf8.DecodeRune(s.right[s.start:])
		s.start += size
	}
	if s.start == len(s.right) {
		s.right, s.start = s.right[:0], 0
	}
}

func (s *screen) feed() {
	s.left = append(append(s.left, s.right[s.start:]...), '\n')
	s.right, s.start = s.right[:0], 0
	s.line = len(s.left)
}

func (s *screen) backspace() {
	if len(s.left) == s.line {
		return
	}
	_, size := utf8.DecodeLastRune(s.left)
	s.left = s.left[:len(s.left)-size]
	s.drop(1)
}

// carriageReturn moves what is before the cursor behind it: no more than was
// written since the last one, or is once for each line.
func (s *screen) carriageReturn() {
	moved := s.left[s.line:]
	s.left = s.left[:s.line]
	if s.start == len(s.right) {
		s.right, s.start = append(s.right[:0], moved...), 0
		return
	}
	if len(moved) > s.start {
		room := len(moved) + len(s.right) - s.start // as much again: as append does it
		grown := make([]byte, room, room+len(moved)+len(s.right)-s.start)
		grown = append(grown, s.right[s.start:]...)
		s.right, s.start = grown, room
	}
	s.start -= copy(s.right[s.start-len(moved):], moved)
}

// joined returns the text of a JSON string, or of an array of them, which
// notebooks keep lines in.
func joined(raw []byte) string {
	if raw[0] != '"' {
		return strings.Join(decoded[[]string](raw), "")
	}
	if text, ok := plain(raw[1 : len(raw)-1]); ok {
		return text
	}
	return decoded[string](raw)
}

// plain decodes what stands between the quotes of a JSON string. It leaves to
// encoding/json, which takes many times as long, what is rare in output.
func plain(s []byte) (text string, ok bool) {
	var b strings.Builder
	b.Grow(len(s))
	for {
		i := bytes.IndexByte(s, '\\')
		run := s
		if i >= 0 {
			run = s[:i]
		}
		if bytes.IndexFunc(run, isControl) >= 0 {
			return "", false // which it refuses
		}
		b.Write(run)
		if i < 0 {
			return b.String(), true
		}
		if i+1 == len(s) {
			return "", false
		}
		c := strings.IndexByte(`"\/bfnrt`, s[i+1])
		if c < 0 {
			return "", false
		}
		b.WriteByte("\"\\/\b\f\n\r\t"[c])
		s = s[i+2:]
	}
}

func isControl(r rune) bool { return r < ' ' }

// appendStream appends a stream output.
func appendStream(b []byte, name, text string) []byte {
	b = append(b, `{"output_type":"stream","name":`...)
	b = appendString(b, name)
	b = append(b, `,"text":`...)
	b = appendString(b, text)
	return append(b, '}')
}

// appendString appends s as JSON.
func appendString(b []byte, s string) []byte {
	return append(b, encoded(s)...)
}
