package agent

import (
	"bytes"
	"unicode/utf8"

	"kernelgw/jupyter"
)

// cutText cuts the text of a stream's message so that its content is about size bytes,
// and returns how much longer it was. A message that is not as the protocol has it is
// left as it is.
func cutText(m *jupyter.Message, size int64) (cut int64) {
	name, text := jupyter.PeekRaw(m.Content, "name"), jupyter.PeekRaw(m.Content, "text")
	if len(name) == 0 || len(text) < 2 || text[0] != '"' {
		return 0
	}
	text = text[1 : len(text)-1]
	keep := whole(text, int(max(0, size-int64(len(m.Content)-len(text)))))
	content := make([]byte, 0, len(`{"name":,"text":""}`)+len(name)+keep)
	content = append(append(content, `{"name":`...), name...)
	content = append(append(content, `,"text":"`...), text[:keep]...)
	m.Content = append(content, `"}`...)
	return int64(len(text) - keep)
}

// whole returns how much of the inside of a JSON string of at most size bytes holds
// whole characters and escapes only.
func whole(text []byte, size int) int {
	if size >= len(text) {
		return len(text)
	}
	for at := 0; ; {
		plain := bytes.IndexByte(text[at:size], '\\')
		if plain < 0 {
			for size > at && !utf8.RuneStart(text[size]) {
				size--
			}
			return size
		}
		at += plain
		n := 2
		if at+1 < len(text) && text[at+1] == 'u' {
			n = 6
			// The second half of a character is an escape of its own.
			if rest := text[min(at+6, len(text)):]; bytes.HasPrefix(rest, []byte(`\u`)) && isHigh(text[at:]) {
				n = 12
			}
		}
		if at+n > size {
			return at
		}
		at += n
	}
}

// isHigh reports whether an escape is the first half of a character.
func isHigh(escape []byte) bool {
	return len(escape) > 3 && (escape[2] == 'd' || escape[2] == 'D') &&
		(escape[3] == '8' || escape[3] == '9' || escape[3]|0x20 == 'a' || escape[3]|0x20 == 'b')
}
