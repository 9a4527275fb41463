package outputlog

import (
	"bytes"
	"unicode/utf16"
	"unicode/utf8"
)

// unescaper takes JSON strings apart without ever holding a whole one: a message of
// a kernel may be large.
type unescaper struct{ piece []byte }

// each calls take with the text of a JSON string, piece by piece, each of less than
// twice size bytes, and stops at what is not part of one. take must not keep what it
// gets.
func (u *unescaper) each(raw []byte, size int, take func(text []byte)) {
	if len(raw) < 2 || raw[0] != '"' {
		return
	}
	raw = raw[1:]
	out := u.piece[:0]
	defer func() { u.piece = out[:0] }()
	for len(raw) > 0 {
		plain := bytes.IndexAny(raw[:min(len(raw), size)], `"\`)
		end := plain < 0
		if end {
			plain = min(len(raw), size)
		}
		out = append(out, raw[:plain]...)
		raw = raw[plain:]
		if !end {
			if raw[0] == '"' {
				break
			}
			var n int
			if out, n = appendEscape(out, raw); n == 0 {
				break
			}
			raw = raw[n:]
		}
		if len(out) >= size {
			take(out)
			out = out[:0]
		}
	}
	take(out)
}

// appendEscape appends what the escape that raw begins with stands for, and returns
// how long that escape is, 0 when it is none.
func appendEscape(out, raw []byte) (_ []byte, n int) {
	if len(raw) < 2 {
		return out, 0
	}
	switch c := raw[1]; c {
	case '"', '\\', '/':
		return append(out, c), 2
	case 'b':
		return append(out, '\b'), 2
	case 'f':
		return append(out, '\f'), 2
	case 'n':
		return append(out, '\n'), 2
	case 'r':
		return append(out, '\r'), 2
	case 't':
		return append(out, '\t'), 2
	case 'u':
		r, ok := unit(raw)
		if !ok {
			return out, 0
		}
		if !utf16.IsSurrogate(r) {
			return utf8.AppendRune(out, r), 6
		}
		if second, ok := unit(raw[6:]); ok {
			if both := utf16.DecodeRune(r, second); both != utf8.RuneError {
				return utf8.AppendRune(out, both), 12
			}
		}
		return utf8.AppendRune(out, utf8.RuneError), 6 // half a character
	}
	return out, 0
}

// unit reads \uXXXX.
func unit(raw []byte) (r rune, ok bool) {
	if len(raw) < 6 || raw[0] != '\\' || raw[1] != 'u' {
		return 0, false
	}
	for _, c := range raw[2:6] {
		switch {
		case '0' <= c && c <= '9':
			c -= '0'
		case 'a' <= c && c <= 'f':
			c -= 'a' - 10
		case 'A' <= c && c <= 'F':
			c -= 'A' - 10
		default:
			return 0, false
		}
		r = r<<4 | rune(c)
	}
	return r, true
}
