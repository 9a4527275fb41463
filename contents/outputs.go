package contents

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"net/http"
	"slices"
	"time"
)

// Who writes outputs, as Version tells it.
const (
	outputAuthor = "kernel output"
	outputSource = "output"
)

// CellOutputs is what a run of a cell put out.
type CellOutputs struct {
	ID             string // of the cell, as clients see it
	SourceSHA256   string // hex; of the text that was run
	ExecutionCount *int
	// Ended, unless it is zero, says that a client had all of the outputs when the cell
	// ended, at that time. A notebook that somebody has saved since has them as its
	// author wants, and stays as it is.
	Ended   time.Time
	Outputs json.RawMessage // a list, as nbformat has it, text in one string or in lines
}

// OutputsRequest is outputs for a saved notebook.
type OutputsRequest struct {
	Cells []CellOutputs
	// Replaces is a version that this one makes superfluous, since it had less of the
	// same outputs: it is removed if nothing came between. "" is none.
	Replaces string
	// Own says that nobody but At.Owner has used the kernel: they trust what it puts
	// out, as where they see it come. Of what others ran they do not, and the notebook
	// stays trusted only if there is nothing to distrust in the outputs.
	Own bool
}

// SavedOutputs is what became of outputs.
type SavedOutputs struct {
	Cells   map[string]bool // by id: those that have their outputs now, or what their author wants instead
	Version string          // of the notebook that was written; "" when there was nothing to change
}

// outputRaces bounds how often outputs are merged again because somebody else saved
// the notebook meanwhile.
const outputRaces = 8

// SaveOutputs puts outputs and execution counts into the code cells of a saved
// notebook that are still there and still have the text that was run, as a version
// of its own. Nothing else of the notebook changes, not by a byte, and what others
// save at the same time stays. Of a notebook that is gone or cannot be read, no
// cell has its outputs, which is no error. An error means that it may work later,
// or that there is no room.
func (h *Handlers) SaveOutputs(ctx context.Context, at At, r OutputsRequest) (SavedOutputs, error) {
	path, err := visible(at.Path)
	if err != nil || typeOf(path) != typeNotebook {
		return SavedOutputs{}, nil // clients may give a session any path
	}
	for race := 0; ; race++ {
		saved, err := h.mergeOutputs(ctx, at, path, r)
		var answered *Error
		if err == nil || !errors.As(err, &answered) {
			return saved, err
		}
		switch {
		case answered.Status == http.StatusPreconditionFailed && race < outputRaces:
			continue
		case answered.Status == http.StatusNotFound, answered.Status == http.StatusBadRequest, answered.Status == http.StatusRequestEntityTooLarge:
			h.o.Log.Warn("a kernel's output has no notebook to be saved in", "workspace", at.Workspace, "error", err)
			return SavedOutputs{}, nil
		}
		return SavedOutputs{}, err
	}
}

// mergeOutputs does it with the notebook as it is now, on the condition that it
// still is when it is written.
func (h *Handlers) mergeOutputs(ctx context.Context, at At, path string, r OutputsRequest) (SavedOutputs, error) {
	body, e, err := h.o.Store.Open(ctx, at.Workspace, path, "", 0, -1)
	if err != nil {
		return SavedOutputs{}, failed(err, path)
	}
	defer body.Close()
	if e.Size > h.o.MaxFileBytes {
		return SavedOutputs{}, spoolFailed(&tooLargeError{h.o.MaxFileBytes})
	}
	cells, done, err := h.unsaved(ctx, at, path, e, r.Cells)
	if err != nil || len(cells) == 0 {
		return SavedOutputs{Cells: done}, err
	}
	text := h.spool(at.Owner, e.Size)
	defer text.Close()
	text.expect(e.Size)
	if err := spoolBody(text, body, e); err != nil {
		return SavedOutputs{}, err
	}
	merged := h.spool(at.Owner, h.o.MaxFileBytes)
	defer merged.Close()
	m := &merging{room: outputRoom(cells, h.o.MaxFileBytes)}
	err = h.convert(ctx, path, text, func(nb *notebook) error {
		if nb.held != text {
			return nil // it was made of one of nbformat 3, in which outputs are something else
		}
		m.nb = nb
		if err := m.merge(cells); err != nil || len(m.splices) == 0 {
			return err
		}
		return m.write(merged)
	})
	if err != nil {
		return SavedOutputs{}, err
	}
	for _, wrong := range m.refused {
		h.o.Log.Warn("a kernel's output is not as notebooks have it, and is not saved", "workspace", at.Workspace, "wrong", wrong)
	}
	maps.Copy(done, m.cells)
	saved := SavedOutputs{Cells: done}
	if len(m.splices) == 0 {
		return saved, nil
	}
	if (r.Own || m.harmless) && (m.restHarmless || h.trusts(ctx, at, e.SHA256)) {
		// Before it is there: who opens it at once is to see all of it.
		if err := h.trustMerged(ctx, at, merged); err != nil {
			h.o.Log.Warn("cannot remember that a notebook is trusted", "error", err)
		}
	}
	written, err := h.o.Store.Put(ctx, at.Workspace, path, merged.reader(), PutOptions{
		Author: outputAuthor, Source: outputSource, IfVersion: e.Version, Executable: e.Executable,
	})
	if err != nil {
		return SavedOutputs{}, failed(err, path)
	}
	saved.Version = written.Version
	if r.Replaces != "" && r.Replaces == e.Version {
		err := h.o.Store.DeleteVersion(ctx, at.Workspace, path, e.Version)
		if err != nil && !errors.Is(err, ErrExists) && !errors.Is(err, ErrNotFound) { // pinned, or gone already
			h.o.Log.Warn("cannot remove a version that had less of the same outputs", "error", err)
		}
	}
	h.o.Observe("save", at.Workspace, path, "")
	return saved, nil
}

// trustMerged remembers that a person trusts a notebook that is about to be written.
func (h *Handlers) trustMerged(ctx context.Context, at At, merged *spool) error {
	sum := sha256.New()
	if _, err := io.Copy(sum, merged.reader()); err != nil {
		return err
	}
	return h.trust(ctx, at, hex.EncodeToString(sum.Sum(nil)))
}

// savedSlack is how much earlier than a cell ended a notebook may seem to have been
// saved after it: stores tell times in whole seconds, by another clock.
const savedSlack = 2 * time.Second

// unsaved returns the cells whose outputs are to be merged into a notebook, and by
// id the others, which it has as its author wants.
func (h *Handlers) unsaved(ctx context.Context, at At, path string, e Entry, cells []CellOutputs) (wanted []CellOutputs, done map[string]bool, err error) {
	done = map[string]bool{}
	var latest time.Time
	if slices.ContainsFunc(cells, func(c CellOutputs) bool { return !c.Ended.IsZero() }) {
		if latest, err = h.lastSave(ctx, at, path, e); err != nil {
			return nil, nil, err
		}
	}
	for _, c := range cells {
		if c.Ended.IsZero() || latest.Before(c.Ended.Add(-savedSlack)) {
			wanted = append(wanted, c)
		} else {
			done[c.ID] = true
		}
	}
	return wanted, done, nil
}

// lastSave returns when a notebook was last saved, not counting outputs.
func (h *Handlers) lastSave(ctx context.Context, at At, path string, e Entry) (time.Time, error) {
	const most = 100 // more of outputs in a row are as good as none
	if e.Author != outputAuthor {
		return e.Modified, nil
	}
	list, err := h.o.Store.Versions(ctx, at.Workspace, path, "", most)
	if err != nil {
		return time.Time{}, failed(err, path)
	}
	for _, v := range list {
		if v.Source != outputSource {
			return v.Modified, nil
		}
	}
	return time.Time{}, nil
}
