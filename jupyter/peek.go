package jupyter

import (
	"bytes"
	"encoding/json"
)

// PeekRaw returns the JSON value of a key of a JSON object, as the bytes that
// stand there, or nil when the key is not there or object is no JSON object.
// Only the top level is looked at, and of a key that occurs twice the first
// counts. It is made for message headers, read once for each message, and costs
// a fraction of an unmarshal: what stands behind the key is not looked at, so
// that it finds a value in bytes that a full decode would refuse. The result
// shares memory with object.
func PeekRaw(object []byte, key string) []byte {
	for s := newFields(object); s.next(); {
		if s.keyIs(key) {
			return s.value
		}
	}
	return nil
}

// PeekString is PeekRaw for a key whose value is a string. It returns "" when
// the key is absent or its value is no string.
func PeekString(object []byte, key string) string {
	raw := PeekRaw(object, key)
	if len(raw) < 2 || raw[0] != '"' {
		return ""
	}
	return unquote(raw)
}

// PeekType returns the msg_type of a message header, "" when it has none.
func PeekType(header []byte) string { return PeekString(header, "msg_type") }

// PeekID returns the msg_id of a message header, "" when it has none.
func PeekID(header []byte) string { return PeekString(header, "msg_id") }

// PeekSession returns the session of a message header, "" when it has none.
func PeekSession(header []byte) string { return PeekString(header, "session") }

// Fields calls yield with each key and raw value of the top level of a JSON
// object, in order, until yield returns false. It reports whether object is one
// complete JSON object with nothing but white space around it, or yield ended
// the walk before its end was seen. Nested values are skipped by counting
// brackets outside strings, not validated: a reader of a value decodes it. Keys
// are decoded, values are raw; both can share memory with object.
func Fields(object []byte, yield func(key, value []byte) bool) bool {
	s := newFields(object)
	for s.next() {
		key := s.key[1 : len(s.key)-1]
		if bytes.IndexByte(key, '\\') >= 0 {
			key = []byte(unquote(s.key))
		}
		if !yield(key, s.value) {
			return true
		}
	}
	return s.complete
}

// fields walks the top level of a JSON object.
type fields struct {
	rest     []byte // what was not read yet
	key      []byte // with its quotes
	value    []byte
	first    bool
	complete bool // the closing brace was seen, and only space follows
}

func newFields(object []byte) fields {
	rest := skipSpace(object)
	if len(rest) == 0 || rest[0] != '{' {
		return fields{}
	}
	return fields{rest: rest[1:], first: true}
}

// next reads one key and value. It returns false at the closing brace, which
// sets complete, and at anything that is not JSON.
func (s *fields) next() bool {
	rest := skipSpace(s.rest)
	s.rest = nil
	if len(rest) == 0 {
		return false
	}
	if rest[0] == '}' {
		s.complete = len(skipSpace(rest[1:])) == 0
		return false
	}
	if !s.first {
		if rest[0] != ',' {
			return false
		}
		rest = skipSpace(rest[1:])
	}
	s.first = false
	n := stringLen(rest)
	if n == 0 {
		return false
	}
	s.key, rest = rest[:n], skipSpace(rest[n:])
	if len(rest) == 0 || rest[0] != ':' {
		return false
	}
	rest = skipSpace(rest[1:])
	n = valueLen(rest)
	if n == 0 {
		return false
	}
	s.value, s.rest = rest[:n:n], rest[n:]
	return true
}

func (s *fields) keyIs(key string) bool {
	bare := s.key[1 : len(s.key)-1]
	return string(bare) == key || bytes.IndexByte(bare, '\\') >= 0 && unquote(s.key) == key
}

// unquote decodes a JSON string of which raw[0] and the last byte are quotes.
func unquote(raw []byte) string {
	for _, c := range raw[1 : len(raw)-1] {
		if c == '\\' || c >= 0x80 {
			var s string
			if json.Unmarshal(raw, &s) != nil {
				return ""
			}
			return s
		}
	}
	return string(raw[1 : len(raw)-1])
}

func skipSpace(b []byte) []byte {
	for i, c := range b {
		if c != ' ' && c != '\n' && c != '\r' && c != '\t' {
			return b[i:]
		}
	}
	return nil
}

// stringLen is the length of the JSON string that b starts with, quotes
// included, or 0 when there is no complete one.
func stringLen(b []byte) int {
	if len(b) == 0 || b[0] != '"' {
		return 0
	}
	for at := 1; ; {
		i := bytes.IndexByte(b[at:], '"')
		if i < 0 {
			return 0
		}
		end := at + i
		slashes := 0
		for end-1-slashes >= at && b[end-1-slashes] == '\\' {
			slashes++
		}
		if slashes%2 == 0 { // else the last one escapes the quote
			return end + 1
		}
		at = end + 1
	}
}

// valueLen is the length of the JSON value that b starts with, or 0 when there
// is no complete one.
func valueLen(b []byte) int {
	if len(b) == 0 {
		return 0
	}
	switch b[0] {
	case '"':
		return stringLen(b)
	case '{', '[':
		return nestedLen(b)
	}
	// A number, true, false, null, or Python's NaN and Infinity.
	for i, c := range b {
		switch c {
		case ',', '}', ']', ' ', '\n', '\r', '\t':
			return i
		case '"', '{', '[', ':':
			return 0
		}
	}
	return 0
}

// nestedLen is valueLen for an object or an array.
func nestedLen(b []byte) int {
	depth := 0
	for i := 0; i < len(b); {
		switch b[i] {
		case '"':
			n := stringLen(b[i:])
			if n == 0 {
				return 0
			}
			i += n
			continue
		case '{', '[':
			depth++
		case '}', ']':
			depth--
			if depth == 0 {
				return i + 1
			}
		}
		i++
	}
	return 0
}
