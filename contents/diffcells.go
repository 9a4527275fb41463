package contents

import (
	"bytes"
	"encoding/json"

	"github.com/pmezard/go-difflib/difflib"
)

// cellDiff is what became of a cell.
type cellDiff struct {
	Change    string `json:"change"` // same, added, removed or modified
	Type      string `json:"cell_type"`
	ID        string `json:"id"`
	FromIndex *int   `json:"from_index"` // null for an added cell
	ToIndex   *int   `json:"to_index"`   // null for a removed cell
	// Source is the change of the cell's text, "" if there is none; of an added or
	// a removed cell it is the text.
	Source          string `json:"source"`
	OutputsChanged  bool   `json:"outputs_changed"`
	MetadataChanged bool   `json:"metadata_changed"`
}

// comparedCell is a cell with what is compared of it.
type comparedCell struct {
	kind, id, source  string
	outputs, metadata string // JSON, in one form
}

// cells fills in the difference of two notebooks. It answers false if one of them
// cannot be read.
func (d *diffModel) cells(a, b []byte) bool {
	from, fromMetadata, ok := comparable(a)
	if !ok {
		return false
	}
	to, toMetadata, ok := comparable(b)
	if !ok {
		return false
	}
	d.Kind = "notebook"
	d.MetadataChanged = fromMetadata != toMetadata
	i, k := 0, 0
	for _, pair := range paired(from, to) {
		for ; i < pair[0]; i++ {
			d.Cells = append(d.Cells, lone("removed", from[i], &i, nil))
		}
		for ; k < pair[1]; k++ {
			d.Cells = append(d.Cells, lone("added", to[k], nil, &k))
		}
		if i < len(from) && k < len(to) {
			d.Cells = append(d.Cells, d.pair(from[i], to[k], i, k))
		}
		i, k = i+1, k+1
	}
	return true
}

// comparable reads a notebook for comparison. Ids that reading made up are not
// compared.
func comparable(text []byte) (cells []comparedCell, metadata string, ok bool) {
	held := &spool{limit: int64(len(text)), size: int64(len(text)), memory: text}
	nb, err := openNotebook(held)
	if err != nil {
		return nil, "", false
	}
	joined := &spool{limit: 4*int64(len(text)) + 1<<20}
	if _, err := nb.present(joined, false); err != nil {
		return nil, "", false
	}
	defer joined.Close()
	var read struct {
		Metadata json.RawMessage
		Cells    []struct {
			CellType string          `json:"cell_type"`
			ID       string          `json:"id"`
			Source   string          `json:"source"`
			Outputs  json.RawMessage `json:"outputs"`
			Metadata json.RawMessage `json:"metadata"`
		}
	}
	all, err := joined.view()
	if err != nil || json.Unmarshal(all, &read) != nil {
		return nil, "", false
	}
	for _, c := range read.Cells {
		cells = append(cells, comparedCell{c.CellType, c.ID, c.Source, oneForm(c.Outputs), oneForm(c.Metadata)})
	}
	return cells, oneForm(read.Metadata), true
}

// oneForm returns JSON with members sorted and without spaces.
func oneForm(raw json.RawMessage) string {
	var value any
	decoder := json.NewDecoder(bytes.NewReader(raw))
	decoder.UseNumber()
	if decoder.Decode(&value) != nil {
		return string(raw)
	}
	sorted, err := json.Marshal(value)
	if err != nil {
		return string(raw)
	}
	return string(sorted)
}

// paired returns which cells of the one notebook are which of the other, as pairs
// of indexes in rising order, ended by the two lengths. Cells are one by their id,
// or by their text where there is none.
func paired(from, to []comparedCell) (pairs [][2]int) {
	matcher := difflib.NewMatcherWithJunk(keys(from), keys(to), false, nil)
	for _, block := range matcher.GetMatchingBlocks() {
		for n := range block.Size {
			pairs = append(pairs, [2]int{block.A + n, block.B + n})
		}
	}
	return append(pairs, [2]int{len(from), len(to)})
}

func keys(cells []comparedCell) []string {
	all := make([]string, 0, len(cells))
	for _, c := range cells {
		if c.id != "" {
			all = append(all, "id:"+c.id)
		} else {
			all = append(all, c.kind+":"+c.source)
		}
	}
	return all
}

// lone is a cell that only one of the notebooks has.
func lone(change string, c comparedCell, from, to *int) cellDiff {
	d := cellDiff{Change: change, Type: c.kind, ID: c.id, Source: c.source}
	if from != nil {
		d.FromIndex = pointer(*from)
	}
	if to != nil {
		d.ToIndex = pointer(*to)
	}
	return d
}

// pair compares two cells that are one.
func (d *diffModel) pair(a, b comparedCell, from, to int) cellDiff {
	c := cellDiff{
		Change: "same", Type: b.kind, ID: b.id, FromIndex: &from, ToIndex: &to,
		OutputsChanged: a.outputs != b.outputs, MetadataChanged: a.metadata != b.metadata,
	}
	if a.source != b.source {
		var tooLong bool
		c.Source, tooLong = unified(a.source, b.source, d.From.ID, d.To.ID)
		d.TooLong = d.TooLong || tooLong
	}
	if a.source != b.source || a.kind != b.kind || c.OutputsChanged || c.MetadataChanged {
		c.Change = "modified"
	}
	return c
}
