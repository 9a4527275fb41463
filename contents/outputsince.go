package contents

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"slices"
	"time"
)

// savedSlack is how much earlier or later than it was a notebook may seem to have
// been saved: stores tell times in whole seconds, by another clock.
const savedSlack = 2 * time.Second

// maxSince bounds how many versions of a notebook are looked through for the one
// that was there when a cell ended, and maxCompared how many are read. A cell of
// which it cannot be found out what it had stays as it is.
const (
	maxSince    = 100
	maxCompared = 6
)

// states are what a cell had put out in some versions of a notebook.
type states map[string]bool

// unsaved returns the cells whose outputs are to be merged into a notebook, for
// those that somebody may have changed since they ended what they had then, and by
// id the others, which it has as its author wants.
func (h *Handlers) unsaved(ctx context.Context, at At, path string, e Entry, cells []CellOutputs) (wanted []CellOutputs, was map[string]states, done map[string]bool, err error) {
	done = map[string]bool{}
	var list []Version
	if slices.ContainsFunc(cells, func(c CellOutputs) bool { return !c.Ended.IsZero() }) {
		if list, err = h.o.Store.Versions(ctx, at.Workspace, path, "", maxSince); err != nil {
			return nil, nil, nil, failed(err, path)
		}
	}
	latest := lastSave(list, e)
	contested := map[string][]CellOutputs{} // by version
	was = map[string]states{}
	for _, c := range cells {
		ending := c.Ended.Add(savedSlack)
		switch {
		case c.Ended.IsZero(), c.Seen && latest.Before(c.Ended.Add(-savedSlack)), !c.Seen && !latest.After(ending):
			wanted = append(wanted, c)
		case c.Seen:
			done[c.ID] = true
		default:
			wanted = append(wanted, c)
			was[c.ID] = states{}
			for _, version := range versionsAt(list, ending) {
				contested[version] = append(contested[version], c)
			}
		}
	}
	read := 0
	for version, of := range contested {
		if read++; read > maxCompared {
			break
		}
		if err := h.statesIn(ctx, at, path, version, of, was); err != nil {
			return nil, nil, nil, err
		}
	}
	return wanted, was, done, nil
}

// lastSave returns when a notebook was last saved, not counting outputs.
func lastSave(list []Version, e Entry) time.Time {
	if e.Author != outputAuthor {
		return e.Modified
	}
	for _, v := range list {
		if v.Source != outputSource {
			return v.Modified
		}
	}
	return time.Time{} // more of outputs in a row are as good as none
}

// versionsAt returns the version that a notebook had at some time, and the one that
// somebody had saved last by then: a cell that runs may have been saved since.
func versionsAt(list []Version, at time.Time) (versions []string) {
	for _, v := range list {
		if v.Modified.After(at) {
			continue
		}
		if len(versions) == 0 || v.Source != outputSource {
			versions = append(versions, v.Version)
		}
		if v.Source != outputSource {
			break
		}
	}
	return versions
}

// statesIn adds what cells have put out in a version of a notebook. One that is gone
// or cannot be read says nothing.
func (h *Handlers) statesIn(ctx context.Context, at At, path, version string, cells []CellOutputs, was map[string]states) error {
	return h.eachRun(ctx, at, path, version, cells, func(run *CellOutputs, _ *notebook, t *tree) {
		was[run.ID][stateOf(t)] = true
	})
}

// FindCells returns by id which cells a saved notebook has with the text that was
// run. Cells of notebooks without ids are not found: their text may be anywhere.
func (h *Handlers) FindCells(ctx context.Context, at At, cells []CellOutputs) (map[string]bool, error) {
	found := map[string]bool{}
	path, err := visible(at.Path)
	if err != nil || typeOf(path) != typeNotebook {
		return found, nil // clients may give a session any path
	}
	return found, h.eachRun(ctx, at, path, "", cells, func(run *CellOutputs, nb *notebook, _ *tree) {
		if nb.minor >= idsSinceMinor {
			found[run.ID] = true
		}
	})
}

// eachRun calls f with each cell of a version of a notebook that has the text that
// was run. One that is gone or cannot be read has none.
func (h *Handlers) eachRun(ctx context.Context, at At, path, version string, cells []CellOutputs, f func(run *CellOutputs, nb *notebook, t *tree)) error {
	body, e, err := h.openNotebook(ctx, at, path, version)
	if err != nil {
		return unlessLost(err)
	}
	defer body.Close()
	text := h.spool(at.Owner, e.Size)
	defer text.Close()
	text.expect(e.Size)
	if err := spoolBody(text, body, e); err != nil {
		return err
	}
	return unlessLost(h.convert(ctx, path, text, func(nb *notebook) error {
		if nb.held != text {
			return nil // as in mergeOutputs
		}
		m := &merging{nb: nb}
		runs, err := m.runs(cells)
		if err != nil {
			return err
		}
		return nb.each(func(index int, t *tree) error {
			if run := runs(index, t); run != nil && t.is(t.get(0, "cell_type"), "code") && sourceSum(t) == run.SourceSHA256 {
				f(run, nb, t)
			}
			return nil
		})
	}))
}

// unlessLost returns an error that another attempt may not have.
func unlessLost(err error) error {
	if isLost(err) {
		return nil
	}
	return err
}

// stateOf returns a hash of what a cell put out, as files have it.
func stateOf(t *tree) string {
	sum := sha256.New()
	for _, name := range ofRuns {
		i := t.get(0, name)
		if i == 0 {
			continue
		}
		raw := t.raw(&t.nodes[i])
		if writeStored(&atMost{sum, growthSlack + maxGrowth*int64(len(raw))}, t, i) != nil {
			_, _ = sum.Write(raw) // what is that large in another form is another value
		}
	}
	return hex.EncodeToString(sum.Sum(nil))
}
