package contents

import (
	"bytes"
	"encoding/json"
	"unicode/utf16"
	"unicode/utf8"
)

// canonical returns a string with no other escapes than it needs, so that one text
// has one form in files. Halves of characters stay, and so do long strings, which
// are data.
func canonical(raw []byte) []byte {
	if len(raw) > 1<<20 || !avoidable(raw) || halves(raw) {
		return raw
	}
	var s string
	if json.Unmarshal(raw, &s) != nil {
		return raw
	}
	var out bytes.Buffer
	out.WriteByte('"')
	_, _ = quoted{&out}.Write([]byte(s))
	out.WriteByte('"')
	return out.Bytes()
}

// avoidable reports whether a string has an escape that may be written otherwise.
func avoidable(raw []byte) bool {
	for {
		i := bytes.IndexByte(raw, '\\')
		if i < 0 || i+1 == len(raw) {
			return false
		}
		if raw[i+1] == 'u' || raw[i+1] == '/' {
			return true
		}
		raw = raw[i+2:]
	}
}

// halves reports whether a string has an escape of half a character that has no
// other half.
func halves(raw []byte) bool {
	for i := 0; i+1 < len(raw); i++ {
		if raw[i] != '\\' {
			continue
		}
		i++
		if raw[i] != 'u' {
			continue
		}
		r, _ := hex4(raw[i+1:])
		i += 4
		if !utf16.IsSurrogate(r) {
			continue
		}
		low := rune(0)
		if bytes.HasPrefix(raw[i+1:], []byte(`\u`)) {
			low, _ = hex4(raw[i+3:])
		}
		if utf16.DecodeRune(r, low) == utf8.RuneError {
			return true
		}
		i += 6
	}
	return false
}

// lineEnd returns the length of the first line of the inside of a JSON string,
// where Python's splitlines ends it.
func lineEnd(s []byte) int {
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case c == '\\':
			if n := lineEscape(s[i:]); n > 0 {
				return i + n
			}
			i++
		case c == 0xc2 && i+1 < len(s) && s[i+1] == 0x85:
			return i + 2
		case c == 0xe2 && i+2 < len(s) && s[i+1] == 0x80 && (s[i+2] == 0xa8 || s[i+2] == 0xa9):
			return i + 3
		}
	}
	return len(s)
}

// lineEscape returns the length of an escape that ends a line, or 0.
func lineEscape(s []byte) int {
	switch s[1] {
	case 'n', 'f':
		return 2
	case 'r':
		if bytes.HasPrefix(s, []byte(`\r\n`)) {
			return 4
		}
		return 2
	case 'u':
		r, _ := hex4(s[2:])
		switch r {
		case 0x0b, 0x1c, 0x1d, 0x1e, 0x85, 0x2028, 0x2029:
			return 6
		}
	}
	return 0
}
