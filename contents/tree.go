package contents

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"unicode/utf8"
)

// errTooComplex is a cell that has more values than a person's has.
var errTooComplex = errors.New("a cell has too many values")

const (
	// maxNodes bounds the values of a cell, lists of strings and numbers aside:
	// this times 20 bytes is memory.
	maxNodes = 2 << 20
	// looseNodes is from where on values deep inside are not looked into.
	looseNodes = 256 << 10
	looseDepth = 6
)

// node is a JSON value. Nodes are in a slice, each before what it holds; what an
// array or an object holds begins with the next one and is chained by next.
type node struct {
	start, end uint32 // of the value
	key        uint32 // where the quote of its key is; 0 in an array
	next       int32  // index of the next value of the same array or object; 0 is none
	kind       byte   // '{', '[', '"', 't', 'f', 'n', '0', lines, flat, opaque
}

const (
	// lines is an array that holds nothing but strings. It has no nodes.
	lines = 's'
	// flat is an array that holds neither arrays nor objects, and not only strings.
	// It has no nodes.
	flat = 'a'
	// opaque is an array or object that was not looked into. It has no nodes.
	opaque = 'o'
)

// tree is JSON text with the nodes of one value of it. It copies nothing: strings
// are where they are in the text. It is used for one cell after the other.
type tree struct {
	text  []byte
	held  *spool // that text is the view of; nil when it is not
	nodes []node
	pos   int
}

// syntaxError is what is wrong with JSON text, and where.
type syntaxError struct {
	what string
	at   int
}

func (e *syntaxError) Error() string { return fmt.Sprintf("%s at byte %d", e.what, e.at) }

func (t *tree) wrong(what string) error { return &syntaxError{what, t.pos} }

// parse makes the nodes of the value at an offset, the first of which is its own,
// and returns where it ends.
func (t *tree) parse(offset int) (end int, err error) {
	t.nodes, t.pos = t.nodes[:0], offset
	t.space()
	if err := t.value(0, 0); err != nil {
		return 0, err
	}
	return t.pos, nil
}

func (t *tree) space() {
	for t.pos < len(t.text) {
		switch t.text[t.pos] {
		case ' ', '\n', '\t', '\r':
			t.pos++
		default:
			return
		}
	}
}

func (t *tree) peek() byte {
	if t.pos < len(t.text) {
		return t.text[t.pos]
	}
	return 0
}

// value parses the value at pos and appends its nodes.
func (t *tree) value(key uint32, depth int) error {
	if depth > envelopeDepth {
		return t.wrong("too deeply nested")
	}
	if len(t.nodes) >= maxNodes {
		return errTooComplex
	}
	c := t.peek()
	self := len(t.nodes)
	t.nodes = append(t.nodes, node{start: uint32(t.pos), key: key, kind: c})
	var err error
	switch c {
	case '{', '[':
		if err = t.container(c, depth); err == nil && depth > looseDepth && self > looseNodes {
			t.nodes = t.nodes[:self+1]
			t.nodes[self].kind = opaque
		}
	default:
		if t.nodes[self].kind, err = t.scalar(); err != nil {
			return err
		}
	}
	t.nodes[self].end = uint32(t.pos)
	return err
}

// container parses an array or object, whose node is the last one.
func (t *tree) container(open byte, depth int) error {
	self := len(t.nodes) - 1
	close := open + 2 // both brackets are two apart in ASCII
	t.pos++
	t.space()
	if t.peek() == close {
		t.pos++
		if open == '[' {
			t.nodes[self].kind = lines
		}
		return nil
	}
	isFlat, kind := open == '[', byte(lines)
	last := -1
	for {
		t.space()
		key := uint32(0)
		if open == '{' {
			key = uint32(t.pos)
			if t.peek() != '"' {
				return t.wrong("no key")
			}
			if err := t.str(); err != nil {
				return err
			}
			if t.space(); t.peek() != ':' {
				return t.wrong("no colon after a key")
			}
			t.pos++
			t.space()
		}
		if isFlat && t.peek() != '{' && t.peek() != '[' {
			if t.peek() != '"' {
				kind = flat
			}
			if _, err := t.scalar(); err != nil {
				return err
			}
		} else {
			if isFlat {
				// Not flat after all: once more from its start.
				isFlat = false
				t.pos = int(t.nodes[self].start) + 1
				continue
			}
			child := len(t.nodes)
			if last >= 0 {
				t.nodes[last].next = int32(child)
			}
			last = child
			if err := t.value(key, depth+1); err != nil {
				return err
			}
		}
		t.space()
		switch t.peek() {
		case ',':
			t.pos++
		case close:
			t.pos++
			if isFlat {
				t.nodes[self].kind = kind
			}
			return nil
		default:
			return t.wrong("no comma after a value")
		}
	}
}

// scalar parses a string, a number or a word, and returns its kind.
func (t *tree) scalar() (byte, error) {
	switch c := t.peek(); {
	case c == '"':
		return c, t.str()
	case c == '-' || '0' <= c && c <= '9':
		return '0', t.number()
	}
	for _, word := range []string{"true", "false", "null"} {
		if bytes.HasPrefix(t.text[t.pos:], []byte(word)) {
			t.pos += len(word)
			return word[0], nil
		}
	}
	return 0, t.wrong("no value")
}

func (t *tree) number() error {
	start := t.pos
	for t.pos < len(t.text) {
		switch c := t.text[t.pos]; {
		case '0' <= c && c <= '9', c == '-', c == '+', c == '.', c == 'e', c == 'E':
			t.pos++
			continue
		}
		break
	}
	if !json.Valid(t.text[start:t.pos]) {
		t.pos = start
		return t.wrong("no number")
	}
	return nil
}

// str parses a string: its end, its escapes and its UTF-8.
func (t *tree) str() error {
	from, text := t.pos, t.text
	ascii := byte(0)
	for i, window := from+1, from+spoolWindow; i < len(text); i++ {
		n, plain := plainText(text[i:min(i+spoolWindow, len(text))])
		if !plain {
			ascii = utf8.RuneSelf
		}
		if i += n; i == len(text) {
			break
		}
		c := text[i]
		ascii |= c
		if i > window {
			t.held.release()
			window = i + spoolWindow
		}
		if c > '\\' || c >= ' ' && c != '"' && c != '\\' {
			continue
		}
		switch c {
		case '"':
			t.pos = i + 1
			if ascii >= utf8.RuneSelf && !t.isUTF8(from) {
				t.pos = from
				return t.wrong("a string that is not UTF-8")
			}
			return nil
		case '\\':
			n := escapeLength(text[i+1:])
			if n == 0 {
				t.pos = i
				return t.wrong("no escape")
			}
			i += n
		default:
			t.pos = i
			return t.wrong("a control character in a string")
		}
	}
	return t.wrong("a string without an end")
}

// isUTF8 reports whether the text from an offset to pos is.
func (t *tree) isUTF8(from int) bool {
	var check textCheck
	for from < t.pos {
		end := min(from+spoolWindow, t.pos)
		_, _ = check.Write(t.text[from:end])
		if end < t.pos {
			t.held.release()
		}
		from = end
	}
	return check.valid()
}

// escapeLength returns the length of an escape after its backslash; 0 is none.
func escapeLength(s []byte) int {
	if len(s) == 0 {
		return 0
	}
	switch s[0] {
	case '"', '\\', '/', 'b', 'f', 'n', 'r', 't':
		return 1
	case 'u':
		if _, ok := hex4(s[1:]); ok {
			return 5
		}
	}
	return 0
}
