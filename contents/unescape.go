package contents

import (
	"io"
	"unicode/utf16"
	"unicode/utf8"
)

// unescape copies the text of a JSON string, whose quote was read.
func (d *envelopeReader) unescape(w io.Writer) error {
	for {
		piece, err := d.piece()
		if err != nil {
			return err
		}
		n := 0
		for n < len(piece) && piece[n] != '"' && piece[n] != '\\' && piece[n] >= ' ' {
			n++
		}
		if _, err := w.Write(piece[:n]); err != nil {
			return err
		}
		if n == len(piece) {
			d.discard(n)
			continue
		}
		c := piece[n]
		d.discard(n + 1)
		switch {
		case c == '"':
			return nil
		case c != '\\':
			return notJSON("a control character in a string")
		}
		if err := d.escape(w); err != nil {
			return err
		}
	}
}

var escapes = map[byte]string{'"': `"`, '\\': `\`, '/': "/", 'b': "\b", 'f': "\f", 'n': "\n", 'r': "\r", 't': "\t"}

func (d *envelopeReader) escape(w io.Writer) error {
	c, err := d.r.ReadByte()
	if err != nil {
		return unexpected(err)
	}
	if c != 'u' {
		text, ok := escapes[c]
		if !ok {
			return notJSON(`\%c in a string`, c)
		}
		_, err = io.WriteString(w, text)
		return err
	}
	r, err := d.hex()
	if err != nil {
		return err
	}
	if utf16.IsSurrogate(r) {
		next, err := d.r.Peek(2)
		if err != nil || string(next) != `\u` {
			return notJSON("half of a character in a string")
		}
		d.discard(2)
		low, err := d.hex()
		if err != nil {
			return err
		}
		if r = utf16.DecodeRune(r, low); r == utf8.RuneError {
			return notJSON("half of a character in a string")
		}
	}
	_, err = w.Write(utf8.AppendRune(nil, r))
	return err
}

func (d *envelopeReader) hex() (rune, error) {
	var digits [4]byte
	if _, err := io.ReadFull(d.r, digits[:]); err != nil {
		return 0, unexpected(err)
	}
	r, ok := hex4(digits[:])
	if !ok {
		return 0, notJSON(`\u%s in a string`, digits)
	}
	return r, nil
}

// hex4 reads four hexadecimal digits.
func hex4(b []byte) (r rune, ok bool) {
	if len(b) < 4 {
		return 0, false
	}
	for _, c := range b[:4] {
		switch {
		case '0' <= c && c <= '9':
			r = r<<4 | rune(c-'0')
		case 'a' <= c|0x20 && c|0x20 <= 'f':
			r = r<<4 | rune(c|0x20-'a'+10)
		default:
			return 0, false
		}
	}
	return r, true
}
