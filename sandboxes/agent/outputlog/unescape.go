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
	quote := end(raw)
	for len(raw) > 0 {
		most := min(quote, size)
		plain := bytes.IndexByte(raw[:most], '\\')
		escape := plain >= 0
		if !escape {
			plain = most
		}
		out = append(out, raw[:plain]...)
		raw, quote = raw[plain:], quote-plain
		if !escape && quote == 0 {
			break
		}
		if escape {
			var n int
			if out, n = appendEscape(out, raw); n == 0 {
				break
			}
			raw, quote = raw[n:], quote-n
			if quote < 0 { // it was of the escape
				quote = end(raw)
			}
		}
		if len(out) >= size {
			take(out)
			out = out[:0]
		}
	}
	take(out)
}

// end returns where the next quote is, or how long raw is without one.
func end(raw []byte) int {
	if i := bytes.IndexByte(raw, '"'); i >= 0 {
		return i
	}
	return len(raw)
}

// textSize is how long the text of a JSON string is.
func textSize(raw []byte) (size int64) {
	if len(raw) < 2 || raw[0] != '"' {
		return 0
	}
	raw = raw[1:]
	var scratch [2 * utf8.UTFMax]byte
	for quote := end(raw); ; {
		plain := bytes.IndexByte(raw[:quote], '\\')
		if plain < 0 {
			return size + int64(quote)
		}
		text, n := appendEscape(scratch[:0], raw[plain:])
		size += int64(plain + len(text))
		if n == 0 {
			return size
		}
		raw, quote = raw[plain+n:], quote-plain-n
		if quote < 0 { // it was of the escape
			quote = end(raw)
		}
	}
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
