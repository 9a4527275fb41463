package contents

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"math"
	"net/http"
	"strconv"
)

// notebook is the text of a notebook with what is at its top. Its cells are parsed
// one after the other, so that what it needs of memory is what a cell needs.
type notebook struct {
	text         []byte
	held         *spool   // that text is the view of; nil when there is none
	members      []member // in the order of the text
	cells        int      // offset of the array of cells; -1 when there is none
	major, minor int
	ids          map[string]bool // of the cells so far
}

// member is a member of a notebook that is not the cells.
type member struct {
	key   string
	start int
}

// idsSinceMinor is the minor version of nbformat 4 since which cells have ids.
const idsSinceMinor = 5

// errNotebook is what is readable as no notebook.
var errNotebook = errors.New("not a notebook")

func noNotebook(format string, args ...any) error {
	return fmt.Errorf("%w: %s", errNotebook, fmt.Sprintf(format, args...))
}

// unreadable is the answer about a file that is no notebook.
func unreadable(path string, err error) error {
	var wrong *syntaxError
	if !errors.As(err, &wrong) && !errors.Is(err, errNotebook) && !errors.Is(err, errTooComplex) {
		return spoolFailed(err)
	}
	return &Error{Status: http.StatusBadRequest, Message: fmt.Sprintf("Unreadable Notebook: %s: %v", path, err), Cause: err}
}

// convert calls f with a notebook, and lets its text go from memory afterwards. An
// error is an answer about the path.
func (h *Handlers) convert(ctx context.Context, path string, text *spool, f func(nb *notebook) error) error {
	select {
	case h.converting <- struct{}{}:
	case <-ctx.Done():
		return failed(ctx.Err(), path)
	}
	defer func() {
		text.Close()
		<-h.converting
	}()
	nb, err := openNotebook(text)
	if err == nil {
		err = f(nb)
	}
	if err != nil {
		return unreadable(path, err)
	}
	return nil
}

// openNotebook finds the members of a notebook. It looks at no cell.
func openNotebook(held *spool) (*notebook, error) {
	text, err := held.view()
	if err != nil {
		return nil, err
	}
	if len(text) > math.MaxInt32 {
		return nil, noNotebook("it is larger than 2 GiB")
	}
	nb := &notebook{text: text, held: held, cells: -1, major: -1, minor: -1, ids: map[string]bool{}}
	t := &tree{text: text, held: held}
	if t.space(); t.peek() != '{' {
		if err := t.value(0, 0); err != nil {
			return nil, err
		}
		return nil, noNotebook("it is no JSON object")
	}
	t.pos++
	for first := true; ; first = false {
		t.space()
		if first && t.peek() == '}' {
			t.pos++
			break
		}
		if err := nb.top(t); err != nil {
			return nil, err
		}
		if t.space(); t.peek() == '}' {
			t.pos++
			break
		}
		if t.peek() != ',' {
			return nil, t.wrong("no comma after a value")
		}
		t.pos++
	}
	if t.space(); t.pos != len(text) {
		return nil, t.wrong("more after the end")
	}
	held.release()
	switch {
	case nb.major == 3:
		return upgraded(text)
	case nb.major != 4:
		return nil, noNotebook("its nbformat is %s, and this server reads 3 and 4", orNone(nb.major))
	case nb.minor < 0:
		return nil, noNotebook("it has no nbformat_minor")
	case nb.cells < 0:
		return nil, noNotebook("it has no cells")
	}
	return nb, nil
}

func orNone(n int) string {
	if n < 0 {
		return "missing"
	}
	return strconv.Itoa(n)
}

// top reads a member at the top: cells are skipped.
func (nb *notebook) top(t *tree) error {
	from := t.pos
	if t.peek() != '"' {
		return t.wrong("no key")
	}
	if err := t.str(); err != nil {
		return err
	}
	key := unquote(t.text[from:t.pos])
	if t.space(); t.peek() != ':' {
		return t.wrong("no colon after a key")
	}
	t.pos++
	t.space()
	start := t.pos
	if key == "cells" {
		if t.peek() != '[' {
			return noNotebook("its cells are no list")
		}
		nb.cells = start
		return t.skip()
	}
	if _, err := t.parse(start); err != nil {
		return err
	}
	nb.members = append(nb.members, member{key, start})
	if key == "nbformat" || key == "nbformat_minor" {
		n, err := strconv.Atoi(string(t.raw(&t.nodes[0])))
		if err != nil || n < 0 {
			return noNotebook("its %s is no number", key)
		}
		if key == "nbformat" {
			nb.major = n
		} else {
			nb.minor = n
		}
	}
	if key == "metadata" && t.nodes[0].kind != '{' {
		return noNotebook("its metadata are no object")
	}
	return nil
}

// skip finds the end of an array or object without judging what is in it.
func (t *tree) skip() error {
	from, depth, window := t.pos, 0, t.pos+spoolWindow
	for t.pos < len(t.text) {
		if t.pos > window {
			t.held.release()
			window = t.pos + spoolWindow
		}
		switch t.text[t.pos] {
		case '{', '[':
			depth++
		case '}', ']':
			depth--
		case '"':
			if !t.skipString() {
				t.pos = from
				return t.wrong("a string without an end")
			}
			continue
		}
		t.pos++
		if depth == 0 {
			return nil
		}
	}
	t.pos = from
	return t.wrong("a list without an end")
}

func (t *tree) skipString() bool {
	for i := t.pos + 1; i < len(t.text); {
		window := t.text[i:min(i+spoolWindow, len(t.text))]
		quote := bytes.IndexByte(window, '"')
		if quote < 0 {
			i += len(window)
			t.held.release()
			continue
		}
		i += quote + 1
		escaped := 0
		for k := i - 2; t.text[k] == '\\'; k-- {
			escaped++
		}
		if escaped%2 == 0 {
			t.pos = i
			return true
		}
	}
	return false
}

// each calls f for every cell.
func (nb *notebook) each(f func(index int, cell *tree) error) error {
	t := &tree{text: nb.text, held: nb.held}
	pos, window := nb.cells+1, nb.cells+spoolWindow
	for index := 0; ; index++ {
		t.pos = pos
		if t.space(); t.peek() == ']' && index == 0 {
			return nil
		}
		end, err := t.parse(t.pos)
		if err != nil {
			return err
		}
		if t.nodes[0].kind != '{' {
			return noNotebook("cell %d is no object", index)
		}
		if err := f(index, t); err != nil {
			return err
		}
		if end > window {
			nb.held.release()
			window = end + spoolWindow
		}
		t.pos = end
		if t.space(); t.peek() == ']' {
			return nil
		}
		if t.peek() != ',' {
			return t.wrong("no comma after a cell")
		}
		pos = t.pos + 1
	}
}

// judge returns what is wrong with the notebook apart from its cells, or "".
func (nb *notebook) judge(s *schema) (string, error) {
	top := map[string]any{"cells": []any{}}
	t := &tree{text: nb.text, held: nb.held}
	for _, m := range nb.members {
		if _, err := t.parse(m.start); err != nil {
			return "", err
		}
		top[m.key] = t.instance(0, 0)
	}
	return judge(s.top, "notebook", top), nil
}

// cellID returns the id that a cell must get, since it has none or one that an
// earlier cell has; "" when it needs none. The same text gets the same ids.
func (nb *notebook) cellID(index int, t *tree) string {
	if nb.minor < idsSinceMinor {
		return ""
	}
	if i := t.get(0, "id"); i != 0 {
		if t.nodes[i].kind != '"' {
			return ""
		}
		id := unquote(t.raw(&t.nodes[i]))
		if !nb.ids[id] {
			nb.ids[id] = true
			return ""
		}
	}
	sum := fnv.New32a()
	beginning := t.raw(&t.nodes[0])
	sum.Write(beginning[:min(len(beginning), 64<<10)])
	for n := uint32(index); ; n++ {
		id := fmt.Sprintf("%08x", sum.Sum32()+n)
		if !nb.ids[id] {
			nb.ids[id] = true
			return id
		}
	}
}

// output collects what is written of a notebook; the first error stays.
type output struct {
	*bufio.Writer
	held  *spool // that what is written is taken from
	since int    // bytes that were taken since its pages were let go
}

func (nb *notebook) outputTo(s *spool) *output {
	return &output{Writer: bufio.NewWriterSize(s, 64<<10), held: nb.held}
}

// raw writes what is in the notebook's text.
func (o *output) raw(b []byte) {
	for len(b) > 0 {
		n := min(len(b), spoolWindow)
		_, _ = o.Write(b[:n])
		b = b[n:]
		if o.since += n; o.since >= spoolWindow {
			o.held.release()
			o.since = 0
		}
	}
}

func (o *output) text(s string) { _, _ = o.WriteString(s) }
func (o *output) byte(c byte)   { _ = o.WriteByte(c) }

// validationMessage is what clients show of a notebook that is kept although the
// schema says no.
func validationMessage(wrong string) string { return "Notebook validation failed: " + wrong }
