package contents

import (
	"cmp"
	"slices"
	"strings"
)

// store writes a notebook from a client as files have it, in the form that
// nbformat writes: members sorted and indented, text as lists of lines, and
// nothing that is not for files. trusted is whether every code cell was trusted or
// has nothing to distrust.
func (nb *notebook) store(out *spool) (wrong string, trusted bool, err error) {
	judges := schemaOf(nb.minor)
	if wrong, err = nb.judge(judges); err != nil {
		return "", false, err
	}
	w := writing{output: nb.outputTo(out), t: &tree{text: nb.text, held: nb.held}}
	trusted = true
	w.byte('{')
	for i, m := range nb.sorted() {
		w.line(i > 0, 1)
		w.name(m.key)
		if m.key != "cells" {
			if _, err := w.t.parse(m.start); err != nil {
				return "", false, err
			}
			if m.key == "metadata" {
				w.object(0, 1, transient, w.plain)
			} else {
				w.plain(0, 1)
			}
			continue
		}
		count := 0
		w.byte('[')
		err := nb.each(func(index int, cell *tree) error {
			count++
			id := nb.cellID(index, cell)
			w.line(index > 0, 2)
			writing{output: w.output, t: cell}.cell(id)
			trusted = trusted && cellTrusted(cell)
			if wrong == "" {
				wrong = judges.judgeCell(cell, index, id)
			}
			return nil
		})
		if err != nil {
			return "", false, err
		}
		w.end(']', count > 0, 1)
	}
	w.text("\n}\n")
	return wrong, trusted, w.Flush()
}

// sorted returns the members, the last of each name, and the cells, by name.
func (nb *notebook) sorted() []member {
	last := map[string]int{"cells": nb.cells}
	for _, m := range nb.members {
		last[m.key] = m.start
	}
	all := make([]member, 0, len(last))
	for key, start := range last {
		all = append(all, member{key, start})
	}
	slices.SortFunc(all, func(a, b member) int { return strings.Compare(a.key, b.key) })
	return all
}

// cellTrusted reports whether a client trusted a code cell that it sends, or there
// is nothing to distrust in it. In a file the flag is anybody's word.
func cellTrusted(t *tree) bool {
	if metadata := t.get(0, "metadata"); metadata != 0 {
		if flag := t.get(metadata, "trusted"); flag != 0 && t.nodes[flag].kind == 't' {
			return true
		}
	}
	return outputsHarmless(t)
}

// outputsHarmless reports whether there is nothing to distrust in what a cell put
// out: text and errors harm nobody.
func outputsHarmless(t *tree) bool {
	if !t.is(t.get(0, "cell_type"), "code") {
		return true
	}
	outputs := t.get(0, "outputs")
	if outputs == 0 {
		return true
	}
	for k := range t.all(outputs) {
		if isRich(t, k) && t.get(k, "data") != 0 {
			return false
		}
		if t.get(k, "output_type") == 0 {
			return false
		}
	}
	return true
}

// writing writes values of one tree, sorted and indented by a space for each
// level.
type writing struct {
	*output
	t *tree
}

// line begins a line of an array or object, after a comma unless it is the first.
func (w writing) line(comma bool, depth int) {
	if comma {
		w.byte(',')
	}
	w.byte('\n')
	for depth > len(indent) {
		w.text(indent)
		depth -= len(indent)
	}
	w.text(indent[:depth])
}

// indent is written at once: a file can be nested deeply by a few bytes, and what
// refuses to take more is then asked once a line.
var indent = strings.Repeat(" ", 128)

// end closes an array or object.
func (w writing) end(bracket byte, any bool, depth int) {
	if any {
		w.line(false, depth)
	}
	w.byte(bracket)
}

func (w writing) name(key string) {
	w.byte('"')
	_, _ = quoted{w}.Write([]byte(key))
	w.text(`": `)
}

// named is a member of an object with its name, unescaped.
type named struct {
	key string
	i   int32
}

// object writes an object without some of its members, each value by f.
func (w writing) object(i int32, depth int, without []string, f func(i int32, depth int)) {
	w.byte('{')
	all := w.members(i)
	first := true
	for k, m := range all {
		if k+1 < len(all) && all[k+1].key == m.key || slices.Contains(without, m.key) {
			continue // Of members of one name the last counts.
		}
		w.line(!first, depth+1)
		first = false
		w.name(m.key)
		f(m.i, depth+1)
	}
	w.end('}', !first, depth)
}

func (w writing) members(i int32) (all []named) {
	for k, n := range w.t.all(i) {
		all = append(all, named{w.t.keyOf(n), k})
	}
	slices.SortStableFunc(all, func(a, b named) int { return strings.Compare(a.key, b.key) })
	return all
}

// array writes an array, each element by f.
func (w writing) array(i int32, depth int, f func(i int32, depth int)) {
	w.byte('[')
	first := true
	for k := range w.t.all(i) {
		w.line(!first, depth+1)
		first = false
		f(k, depth+1)
	}
	w.end(']', !first, depth)
}

// plain writes a value as it is.
func (w writing) plain(i int32, depth int) {
	n := &w.t.nodes[i]
	switch n.kind {
	case '{':
		w.object(i, depth, nil, w.plain)
	case '[':
		w.array(i, depth, w.plain)
	case flat, lines:
		w.byte('[')
		first := true
		for raw, kind := range w.t.flatElements(n) {
			w.line(!first, depth+1)
			first = false
			w.scalar(raw, kind)
		}
		w.end(']', !first, depth)
	default: // an opaque value stays as the client sent it
		w.scalar(w.t.raw(n), n.kind)
	}
}

// scalar writes a scalar. A string that escapes more than it must loses that.
func (w writing) scalar(raw []byte, kind byte) {
	if kind == '"' {
		raw = canonical(raw)
	}
	w.raw(raw)
}

// cellDepth is how deep a cell's members are indented.
const cellDepth = 3

// cell writes a cell at its depth, with another id unless that is "".
func (w writing) cell(id string) {
	code := w.t.is(w.t.get(0, "cell_type"), "code")
	all := w.members(0)
	if id != "" {
		all = slices.DeleteFunc(all, func(m named) bool { return m.key == "id" })
		at, _ := slices.BinarySearchFunc(all, "id", func(m named, key string) int { return cmp.Compare(m.key, key) })
		all = slices.Insert(all, at, named{"id", 0})
	}
	const depth = cellDepth
	w.byte('{')
	first := true
	for k, m := range all {
		if k+1 < len(all) && all[k+1].key == m.key {
			continue
		}
		w.line(!first, depth)
		first = false
		w.name(m.key)
		switch n := &w.t.nodes[m.i]; {
		case m.i == 0:
			w.text(`"` + id + `"`)
		case m.key == "source":
			w.lines(m.i, depth)
		case m.key == "metadata" && n.kind == '{':
			w.object(m.i, depth, []string{"trusted"}, w.plain)
		case m.key == "attachments" && n.kind == '{':
			w.object(m.i, depth, nil, w.bundle)
		case m.key == "outputs" && n.kind == '[' && code:
			w.array(m.i, depth, w.cellOutput)
		default:
			w.plain(m.i, depth)
		}
	}
	w.end('}', !first, depth-1)
}

func (w writing) cellOutput(i int32, depth int) {
	if w.t.nodes[i].kind != '{' {
		w.plain(i, depth)
		return
	}
	data, text := int32(-1), int32(-1)
	if isRich(w.t, i) {
		data = w.t.get(i, "data")
	} else if w.t.is(w.t.get(i, "output_type"), "stream") {
		text = w.t.get(i, "text")
	}
	w.object(i, depth, nil, func(k int32, depth int) {
		switch k {
		case data:
			w.bundle(k, depth)
		case text:
			w.lines(k, depth)
		default:
			w.plain(k, depth)
		}
	})
}

// bundle writes data by kind, with text as lists of lines.
func (w writing) bundle(i int32, depth int) {
	if w.t.nodes[i].kind != '{' {
		w.plain(i, depth)
		return
	}
	w.object(i, depth, nil, func(k int32, depth int) {
		kind := w.t.keyOf(&w.t.nodes[k])
		if strings.HasPrefix(kind, "text/") || kind == "application/javascript" || kind == "image/svg+xml" {
			w.lines(k, depth)
			return
		}
		w.plain(k, depth)
	})
}

// isJSONKind reports whether data of a kind is JSON, whose arrays are no lines.
func isJSONKind(kind string) bool {
	return kind == "application/json" || strings.HasPrefix(kind, "application/") && strings.HasSuffix(kind, "+json")
}

// lines writes a string as a list of its lines, each with its end, and another
// value as it is.
func (w writing) lines(i int32, depth int) {
	n := &w.t.nodes[i]
	if n.kind != '"' {
		w.plain(i, depth)
		return
	}
	raw := canonical(w.t.raw(n))
	rest := raw[1 : len(raw)-1]
	w.byte('[')
	first := true
	for len(rest) > 0 {
		end := lineEnd(rest)
		w.line(!first, depth+1)
		first = false
		w.byte('"')
		w.raw(rest[:end])
		w.byte('"')
		rest = rest[end:]
	}
	w.end(']', !first, depth)
}
