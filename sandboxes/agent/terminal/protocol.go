package terminal

import (
	"bytes"
	"encoding/json"
	"math"
	"strings"
	"unicode/utf8"
)

// The protocol is terminado's: each message is a JSON array whose first element
// names it (contract, section 5).

// size is that of a terminal, in characters.
type size struct{ rows, cols uint16 }

// Bounds of a size: programs allocate by it, and misbehave without room.
const (
	minRows, maxRows = 1, 1000
	minCols, maxCols = 2, 2000
)

// defaultSize is that of a terminal that nobody has looked at.
var defaultSize = size{24, 80}

// smaller is the largest size that fits into both.
func (s size) smaller(o size) size { return size{min(s.rows, o.rows), min(s.cols, o.cols)} }

// request is what a client asks for: to type, or to resize, or nothing that is
// known here.
type request struct {
	stdin string
	size  size // zero unless it resizes
}

// parse reads a client's message. Nothing more of it is decoded than is used,
// and what makes no sense asks for nothing, as in terminado.
func parse(b []byte) request {
	d := json.NewDecoder(bytes.NewReader(b))
	if t, err := d.Token(); err != nil || t != json.Delim('[') {
		return request{}
	}
	var kind string
	if !d.More() || d.Decode(&kind) != nil || !d.More() {
		return request{}
	}
	switch kind {
	case "stdin":
		var text string
		if d.Decode(&text) != nil {
			return request{}
		}
		return request{stdin: text}
	case "set_size":
		rows, ok := dimension(d, minRows, maxRows)
		cols, also := dimension(d, minCols, maxCols)
		if !ok || !also {
			return request{}
		}
		return request{size: size{rows, cols}}
	}
	return request{}
}

// dimension reads a number of rows or columns into bounds. Browsers send 0 for a
// terminal that is not shown.
func dimension(d *json.Decoder, least, most float64) (uint16, bool) {
	var n *float64
	if !d.More() || d.Decode(&n) != nil || n == nil || !(*n >= 1) {
		return 0, false
	}
	return uint16(math.Floor(min(max(*n, least), most))), true
}

// The messages of a server that are always the same.
var (
	setupMessage      = []byte(`["setup",{}]`)
	disconnectMessage = []byte(`["disconnect",1]`)
)

// stdout is the message that carries output.
func stdout(text string) []byte {
	var b bytes.Buffer
	b.Grow(len(text) + len(text)/8 + 16)
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)                  // no page is made of it, and "<" would be six bytes
	_ = e.Encode([2]string{"stdout", text}) // strings can be encoded
	return bytes.TrimRight(b.Bytes(), "\n")
}

// decoder makes text of what a terminal prints: a character that is not whole
// yet is kept for the next call, and what is not UTF-8 becomes U+FFFD.
type decoder struct {
	rest []byte // fewer than utf8.UTFMax
}

func (d *decoder) decode(b []byte) string {
	if len(d.rest) > 0 {
		b = append(d.rest, b...)
	}
	whole := len(b)
	for i := 1; i < utf8.UTFMax && i <= len(b); i++ {
		if c := b[len(b)-i]; utf8.RuneStart(c) {
			if !utf8.FullRune(b[len(b)-i:]) {
				whole = len(b) - i
			}
			break
		}
	}
	text := strings.ToValidUTF8(string(b[:whole]), string(utf8.RuneError))
	d.rest = append([]byte(nil), b[whole:]...)
	return text
}
