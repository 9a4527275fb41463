package contents

import (
	"bufio"
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"hash"
	"io"
	"slices"
)

// splice is a value that takes the place of a piece of a notebook's text.
type splice struct {
	start, end uint32
	value      []byte
}

// merging is outputs on their way into a notebook.
type merging struct {
	nb           *notebook
	was          map[string]states // by id: what cells had when they ended, of which somebody saved the notebook since
	room         int64             // for outputs as files have them
	splices      []splice          // in the order of the text
	cells        map[string]bool   // by id: those that have their outputs then
	refused      []string          // what the schema says against outputs that are left out
	harmless     bool              // there is nothing to distrust in the outputs
	restHarmless bool              // nor in the rest of the notebook
}

// ofRuns are the members of a cell that a run of it changes.
var ofRuns = []string{"execution_count", "outputs"}

// maxGrowth and growthSlack bound what outputs become in the form of files, which
// indents: what is nested deeply would be a thousand times as large.
const (
	maxGrowth   = 4
	growthSlack = 1 << 20
)

// outputRoom returns how many bytes outputs may have in a file of at most so many.
func outputRoom(outputs []CellOutputs, most int64) int64 {
	room := int64(growthSlack)
	for i := range outputs {
		room += maxGrowth * int64(len(outputs[i].Outputs))
	}
	return min(room, most)
}

// merge finds the cells that outputs are for, and what changes by them.
func (m *merging) merge(outputs []CellOutputs) error {
	m.cells, m.harmless, m.restHarmless = map[string]bool{}, true, true
	runs, err := m.runs(outputs)
	if err != nil {
		return err
	}
	err = m.nb.each(func(index int, t *tree) error {
		run := runs(index, t)
		if !t.is(t.get(0, "cell_type"), "code") {
			return nil
		}
		if run != nil && !m.cells[run.ID] && sourceSum(t) == run.SourceSHA256 {
			was, contested := m.was[run.ID]
			switch {
			case contested && !was[stateOf(t)]:
				m.cells[run.ID] = true // it has what somebody wants there
			case m.into(t, run):
				return nil
			}
		}
		m.restHarmless = m.restHarmless && outputsHarmless(t)
		return nil
	})
	slices.SortFunc(m.splices, func(a, b splice) int { return cmp.Compare(a.start, b.start) })
	return err
}

// runs returns a function that finds the run of a cell, which is called for every
// cell in order.
func (m *merging) runs(outputs []CellOutputs) (func(index int, t *tree) *CellOutputs, error) {
	byID, bySource := map[string]*CellOutputs{}, map[string]*CellOutputs{}
	for i := range outputs {
		byID[outputs[i].ID] = &outputs[i]
		bySource[outputs[i].SourceSHA256] = &outputs[i]
	}
	if m.nb.minor >= idsSinceMinor {
		return func(index int, t *tree) *CellOutputs { return byID[m.nb.presentedID(index, t)] }, nil
	}
	// Cells of a notebook without ids got theirs from the client, for itself: there a
	// cell is the one with that text, if there is only one.
	count := map[string]int{}
	err := m.nb.each(func(_ int, t *tree) error {
		count[sourceSum(t)]++
		return nil
	})
	return func(_ int, t *tree) *CellOutputs {
		if sum := sourceSum(t); count[sum] == 1 {
			return bySource[sum]
		}
		return nil
	}, err
}

// into replaces what a cell put out by what a run of it did, if it can.
func (m *merging) into(t *tree, run *CellOutputs) bool {
	fresh, wrong := freshCell(m.nb.minor, run)
	if wrong != "" {
		m.refused = append(m.refused, wrong)
		return false
	}
	for _, name := range ofRuns {
		if t.get(0, name) == 0 {
			return false // no cell of a client that we know lacks one
		}
	}
	var values [][]byte
	room := m.room
	for _, name := range ofRuns {
		value, ok := asStored(fresh, fresh.get(0, name), room)
		if !ok {
			m.refused = append(m.refused, "in the form that files have it is too large")
			return false
		}
		values = append(values, value)
		room -= int64(len(value))
	}
	m.room = room
	m.cells[run.ID] = true
	m.harmless = m.harmless && outputsHarmless(fresh)
	for k, name := range ofRuns {
		old := t.get(0, name)
		n := &t.nodes[old]
		// What is so much longer is another value, and not worth the time to find out.
		if int(n.end-n.start) >= 1<<10+4*len(values[k]) || !isStoredAs(t, old, values[k]) {
			m.splices = append(m.splices, splice{n.start, n.end, values[k]})
		}
	}
	return true
}

// freshCell returns a cell with nothing but a run's outputs, or what is wrong with
// them.
func freshCell(minor int, run *CellOutputs) (t *tree, wrong string) {
	cell := map[string]any{
		"cell_type": "code", "metadata": map[string]any{}, "source": "",
		"execution_count": run.ExecutionCount, "outputs": run.Outputs,
	}
	if minor >= idsSinceMinor {
		cell["id"] = "fresh"
	}
	var text bytes.Buffer
	encoder := json.NewEncoder(&text)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(cell); err != nil {
		return nil, err.Error()
	}
	t = &tree{text: text.Bytes()}
	if _, err := t.parse(0); err != nil {
		return nil, err.Error()
	}
	return t, schemaOf(minor).judgeCell(t, 0, "")
}

// errEnough is what a writer says that wants no more.
var errEnough = errors.New("enough")

// atMost is a writer that takes no more than it has room for.
type atMost struct {
	io.Writer
	room int64
}

func (b *atMost) Write(p []byte) (int, error) {
	if b.room -= int64(len(p)); b.room < 0 {
		return 0, errEnough
	}
	return b.Writer.Write(p)
}

// asStored returns a member of a cell as files have it, if there is room for it.
func asStored(t *tree, i int32, room int64) (value []byte, ok bool) {
	var text bytes.Buffer
	err := writeStored(&atMost{&text, room}, t, i)
	return text.Bytes(), err == nil
}

// expected is a writer that wants these bytes and no others.
type expected struct{ left []byte }

func (e *expected) Write(p []byte) (int, error) {
	if !bytes.HasPrefix(e.left, p) {
		return 0, errEnough
	}
	e.left = e.left[len(p):]
	return len(p), nil
}

// isStoredAs reports whether a member of a cell is this as files have it.
func isStoredAs(t *tree, i int32, value []byte) bool {
	e := &expected{value}
	return writeStored(e, t, i) == nil && len(e.left) == 0
}

// writeStored writes a member of a cell as files have it.
func writeStored(to io.Writer, t *tree, i int32) error {
	w := writing{output: &output{Writer: bufio.NewWriter(to), held: t.held}, t: t}
	if t.nodes[i].kind == '[' {
		w.array(i, cellDepth, w.cellOutput)
	} else {
		w.plain(i, cellDepth)
	}
	return w.Flush()
}

// write writes the notebook with its changes.
func (m *merging) write(out *spool) error {
	w := m.nb.outputTo(out)
	from := uint32(0)
	for _, s := range m.splices {
		w.raw(m.nb.text[from:s.start])
		_, _ = w.Write(s.value)
		from = s.end
	}
	w.raw(m.nb.text[from:])
	return w.Flush()
}

// presentedID returns the id by which clients know a cell, "" in a notebook that
// has none.
func (nb *notebook) presentedID(index int, t *tree) string {
	if made := nb.cellID(index, t); made != "" {
		return made
	}
	if i := t.get(0, "id"); i != 0 && t.nodes[i].kind == '"' && nb.minor >= idsSinceMinor {
		return unquote(t.raw(&t.nodes[i]))
	}
	return ""
}

// sourceSum returns the hash of a cell's text, hex, "" when it has none.
func sourceSum(t *tree) string {
	i := t.get(0, "source")
	if i == 0 {
		return ""
	}
	sum := sha256.New()
	switch n := &t.nodes[i]; n.kind {
	case '"':
		addUnescaped(sum, t.raw(n))
	case lines:
		for raw := range t.flatElements(n) {
			addUnescaped(sum, raw)
		}
	default:
		return ""
	}
	return hex.EncodeToString(sum.Sum(nil))
}

func addUnescaped(sum hash.Hash, raw []byte) { sum.Write([]byte(unquote(raw))) }
