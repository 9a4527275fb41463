package contents

// present writes a stored notebook as clients read it: with multi-line strings
// joined, ids where cells lack them, and whether each code cell is trusted. The
// answer is what the schema says against it, or "".
func (nb *notebook) present(out *spool, trusted bool) (wrong string, err error) {
	judges := schemaOf(nb.minor)
	if wrong, err = nb.judge(judges); err != nil {
		return "", err
	}
	w := reading{output: nb.outputTo(out), trusted: trusted}
	w.text(`{"cells":[`)
	err = nb.each(func(index int, t *tree) error {
		if index > 0 {
			w.byte(',')
		}
		id := nb.cellID(index, t)
		w.cell(t, id)
		if wrong == "" {
			wrong = judges.judgeCell(t, index, id)
		}
		return nil
	})
	if err != nil {
		return "", err
	}
	w.byte(']')
	t := &tree{text: nb.text, held: nb.held}
	for _, m := range nb.members {
		if _, err := t.parse(m.start); err != nil {
			return "", err
		}
		w.byte(',')
		w.key(m.key)
		if m.key == "metadata" {
			w.without(t, 0, transient)
		} else {
			w.raw(t.raw(&t.nodes[0]))
		}
	}
	w.byte('}')
	return wrong, w.Flush()
}

// transient are members of a notebook's metadata that are not for files.
var transient = []string{"orig_nbformat", "orig_nbformat_minor", "signature"}

// reading writes cells as clients read them. What it does not know it copies as it
// is.
type reading struct {
	*output
	trusted bool
}

func (w reading) key(key string) {
	w.byte('"')
	_, _ = quoted{w}.Write([]byte(key))
	w.text(`":`)
}

// copied writes a member or an element as it is.
func (w reading) copied(t *tree, n *node) {
	if n.key != 0 {
		w.raw(t.text[n.key:n.end])
		return
	}
	w.raw(t.raw(n))
}

// object writes an object, each member by f, which answers false for one that is
// to be copied.
func (w reading) object(t *tree, i int32, f func(k int32, n *node) bool) {
	w.byte('{')
	for k, n := range t.all(i) {
		if k != i+1 {
			w.byte(',')
		}
		if !f(k, n) {
			w.copied(t, n)
		}
	}
	w.byte('}')
}

// keyed writes a member's key as it is, with the colon.
func (w reading) keyed(t *tree, n *node) { w.raw(t.text[n.key:n.start]) }

// cell writes a cell, with another id unless that is "".
func (w reading) cell(t *tree, id string) {
	code := t.is(t.get(0, "cell_type"), "code")
	w.byte('{')
	separator := id != ""
	if separator {
		w.text(`"id":"` + id + `"`)
	}
	for k, n := range t.all(0) {
		if id != "" && t.keyIs(n, "id") {
			continue
		}
		if separator {
			w.byte(',')
		}
		separator = true
		w.cellMember(t, k, n, code)
	}
	w.byte('}')
}

func (w reading) cellMember(t *tree, k int32, n *node, code bool) {
	switch {
	case t.keyIs(n, "source") && n.kind == lines:
		w.keyed(t, n)
		w.joined(t, n)
	case t.keyIs(n, "metadata") && n.kind == '{':
		w.keyed(t, n)
		w.cellMetadata(t, k, code)
	case t.keyIs(n, "attachments") && n.kind == '{':
		w.keyed(t, n)
		w.object(t, k, func(k int32, n *node) bool {
			if n.kind != '{' {
				return false
			}
			w.keyed(t, n)
			w.bundle(t, k)
			return true
		})
	case t.keyIs(n, "outputs") && n.kind == '[' && code:
		w.keyed(t, n)
		w.outputs(t, k)
	default:
		w.copied(t, n)
	}
}

func (w reading) cellMetadata(t *tree, i int32, code bool) {
	if !code {
		w.without(t, i, []string{"trusted"})
		return
	}
	w.text(`{"trusted":`)
	if w.trusted {
		w.text("true")
	} else {
		w.text("false")
	}
	for _, n := range t.all(i) {
		if !t.keyIs(n, "trusted") {
			w.byte(',')
			w.copied(t, n)
		}
	}
	w.byte('}')
}

// without writes an object without some members.
func (w reading) without(t *tree, i int32, keys []string) {
	w.byte('{')
	separator := false
members:
	for _, n := range t.all(i) {
		for _, key := range keys {
			if t.keyIs(n, key) {
				continue members
			}
		}
		if separator {
			w.byte(',')
		}
		separator = true
		w.copied(t, n)
	}
	w.byte('}')
}

func (w reading) outputs(t *tree, i int32) {
	w.byte('[')
	for k, n := range t.all(i) {
		if k != i+1 {
			w.byte(',')
		}
		if n.kind != '{' {
			w.copied(t, n)
			continue
		}
		rich := isRich(t, k)
		w.object(t, k, func(k int32, n *node) bool {
			switch {
			case rich && t.keyIs(n, "data") && n.kind == '{':
				w.keyed(t, n)
				w.bundle(t, k)
			case !rich && t.keyIs(n, "text") && n.kind == lines:
				w.keyed(t, n)
				w.joined(t, n)
			default:
				return false
			}
			return true
		})
	}
	w.byte(']')
}

// isRich reports whether an output is of a type that has data of several kinds.
func isRich(t *tree, i int32) bool {
	kind := t.get(i, "output_type")
	return t.is(kind, "execute_result") || t.is(kind, "display_data")
}

// bundle writes data by kind, with text joined.
func (w reading) bundle(t *tree, i int32) {
	w.object(t, i, func(_ int32, n *node) bool {
		if n.kind != lines || isJSONKind(t.keyOf(n)) {
			return false
		}
		w.keyed(t, n)
		w.joined(t, n)
		return true
	})
}

// joined writes an array of strings as one string.
func (w reading) joined(t *tree, n *node) {
	w.byte('"')
	t.eachLine(n, w.raw)
	w.byte('"')
}
