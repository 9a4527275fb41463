package contents

import (
	"encoding/base64"
	"io"
	"unicode/utf8"
)

// textCheck is a writer that finds out whether what is written is UTF-8.
type textCheck struct {
	rest []byte // of a character that is not whole yet
	bad  bool
}

// Write implements io.Writer.
func (c *textCheck) Write(p []byte) (int, error) {
	n := len(p)
	for len(c.rest) > 0 && len(p) > 0 && !c.bad {
		c.rest, p = append(c.rest, p[0]), p[1:]
		if utf8.FullRune(c.rest) {
			c.bad = !utf8.Valid(c.rest)
			c.rest = c.rest[:0]
		}
	}
	if c.bad || len(p) == 0 {
		return n, nil
	}
	whole := len(p)
	for i := len(p) - 1; i >= 0 && i >= len(p)-utf8.UTFMax; i-- {
		if utf8.RuneStart(p[i]) {
			if !utf8.FullRune(p[i:]) {
				whole = i
			}
			break
		}
	}
	c.bad = !utf8.Valid(p[:whole])
	c.rest = append(c.rest, p[whole:]...)
	return n, nil
}

// valid reports whether all of it was UTF-8.
func (c *textCheck) valid() bool { return !c.bad && len(c.rest) == 0 }

// quoted writes text as the inside of a JSON string. A character may be cut
// between two writes.
type quoted struct{ w io.Writer }

const lowerHex = "0123456789abcdef"

// Write implements io.Writer.
func (q quoted) Write(p []byte) (int, error) {
	from := 0
	for i, c := range p {
		if c >= ' ' && c != '"' && c != '\\' {
			continue
		}
		if _, err := q.w.Write(p[from:i]); err != nil {
			return from, err
		}
		if _, err := q.w.Write(escapeOf(c)); err != nil {
			return i, err
		}
		from = i + 1
	}
	if _, err := q.w.Write(p[from:]); err != nil {
		return from, err
	}
	return len(p), nil
}

// escapeOf returns how a JSON string has a character that it cannot have as it is.
func escapeOf(c byte) []byte {
	switch c {
	case '"', '\\':
		return []byte{'\\', c}
	case '\n':
		return []byte(`\n`)
	case '\r':
		return []byte(`\r`)
	case '\t':
		return []byte(`\t`)
	case '\b':
		return []byte(`\b`)
	case '\f':
		return []byte(`\f`)
	}
	return []byte{'\\', 'u', '0', '0', lowerHex[c>>4], lowerHex[c&15]}
}

// copyBase64 writes content as the inside of a JSON string, in base64.
func copyBase64(w io.Writer, content io.Reader) error {
	encoder := base64.NewEncoder(base64.StdEncoding, w)
	if _, err := io.Copy(encoder, content); err != nil {
		return err
	}
	return encoder.Close()
}
