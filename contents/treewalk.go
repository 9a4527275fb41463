package contents

import (
	"bytes"
	"encoding/json"
)

// raw returns the text of a value.
func (t *tree) raw(n *node) []byte { return t.text[n.start:n.end] }

// keyOf returns the key of a value in an object, unescaped.
func (t *tree) keyOf(n *node) string { return t.stringAt(int(n.key)) }

// stringAt returns the string that begins at an offset, unescaped.
func (t *tree) stringAt(at int) string {
	i := at + 1
	for t.text[i] != '"' {
		if t.text[i] == '\\' {
			i++
		}
		i++
	}
	return unquote(t.text[at : i+1])
}

// unquote returns the text of a valid JSON string.
func unquote(raw []byte) string {
	inside := raw[1 : len(raw)-1]
	if bytes.IndexByte(inside, '\\') < 0 {
		return string(inside)
	}
	var s string
	if json.Unmarshal(raw, &s) != nil {
		return string(inside)
	}
	return s
}

// first returns the index of the first value in an array or object, or 0.
func (t *tree) first(i int32) int32 {
	n := &t.nodes[i]
	if n.kind != '{' && n.kind != '[' || int(i)+1 >= len(t.nodes) || t.nodes[i+1].start > n.end {
		return 0
	}
	return i + 1
}

// all iterates over the values of an array or object.
func (t *tree) all(i int32) func(yield func(int32, *node) bool) {
	return func(yield func(int32, *node) bool) {
		for k := t.first(i); k != 0; k = t.nodes[k].next {
			if !yield(k, &t.nodes[k]) {
				return
			}
		}
	}
}

// get returns the index of an object's member, the last one of that key, or 0.
func (t *tree) get(i int32, key string) (found int32) {
	if t.nodes[i].kind != '{' {
		return 0
	}
	for k, n := range t.all(i) {
		if t.keyIs(n, key) {
			found = k
		}
	}
	return found
}

// keyIs reports whether a value's key is a plain word.
func (t *tree) keyIs(n *node, key string) bool {
	at := int(n.key) + 1
	if at+len(key) < len(t.text) && t.text[at+len(key)] == '"' && string(t.text[at:at+len(key)]) == key {
		return true
	}
	return t.keyOf(n) == key
}

// is reports whether a value is a string of that text.
func (t *tree) is(i int32, text string) bool {
	return i != 0 && t.nodes[i].kind == '"' && unquote(t.raw(&t.nodes[i])) == text
}

// flatElements iterates over the elements of a flat array, as raw text, and their
// kinds.
func (t *tree) flatElements(n *node) func(yield func(raw []byte, kind byte) bool) {
	return func(yield func([]byte, byte) bool) {
		inner := tree{text: t.text[:n.end], held: t.held, pos: int(n.start) + 1}
		for {
			inner.space()
			if inner.peek() == ']' {
				return
			}
			from := inner.pos
			kind, err := inner.scalar()
			if err != nil || !yield(inner.text[from:inner.pos], kind) {
				return
			}
			if inner.space(); inner.peek() == ',' {
				inner.pos++
			}
		}
	}
}

// eachLine calls f for the inside of every string of an array of strings, as it is
// escaped.
func (t *tree) eachLine(n *node, f func(inside []byte)) {
	inner := tree{text: t.text[:n.end], held: t.held, pos: int(n.start) + 1}
	for {
		from := bytes.IndexByte(inner.text[inner.pos:], '"')
		if from < 0 {
			return
		}
		inner.pos += from
		from = inner.pos + 1
		if !inner.skipString() {
			return
		}
		f(inner.text[from : inner.pos-1])
	}
}
