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
	Ended          time.Time // zero while it runs
	// Seen says that a client had all of the outputs when the cell ended. A notebook
	// that somebody has saved since has them as its author wants, and stays as it is.
	// Outputs that nobody had are put over what the cell had when it ended, and not
	// over what somebody has put there since.
	Seen    bool
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
		switch {
		case err == nil:
			return saved, nil
		case statusOf(err) == http.StatusPreconditionFailed && race < outputRaces:
			continue
		case isLost(err):
			h.o.Log.Warn("a kernel's output has no notebook to be saved in", "workspace", at.Workspace, "error", err)
			return SavedOutputs{}, nil
		}
		return SavedOutputs{}, err
	}
}

// isLost reports whether an error says that there is no notebook that can be read,
// and will be none.
func isLost(err error) bool {
	switch statusOf(err) {
	case http.StatusNotFound, http.StatusBadRequest, http.StatusRequestEntityTooLarge:
		return true
	}
	return false
}

// statusOf returns the status that an error would be answered with, 0 for one that
// is not that far.
func statusOf(err error) int {
	var answered *Error
	if errors.As(err, &answered) {
		return answered.Status
	}
	return 0
}

// mergeOutputs does it with the notebook as it is now, on the condition that it
// still is when it is written.
func (h *Handlers) mergeOutputs(ctx context.Context, at At, path string, r OutputsRequest) (SavedOutputs, error) {
	body, e, err := h.openNotebook(ctx, at, path, "")
	if err != nil {
		return SavedOutputs{}, err
	}
	defer body.Close()
	cells, was, done, err := h.unsaved(ctx, at, path, e, r.Cells)
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
	m := &merging{was: was, room: outputRoom(cells, h.o.MaxFileBytes)}
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

// openNotebook opens a version of a notebook that can be merged into, "" the latest.
func (h *Handlers) openNotebook(ctx context.Context, at At, path, version string) (io.ReadCloser, Entry, error) {
	body, e, err := h.o.Store.Open(ctx, at.Workspace, path, version, 0, -1)
	if err != nil {
		return nil, e, failed(err, path)
	}
	if e.Size > h.o.MaxFileBytes {
		body.Close()
		return nil, e, spoolFailed(&tooLargeError{h.o.MaxFileBytes})
	}
	return body, e, nil
}

// trustMerged remembers that a person trusts a notebook that is about to be written.
func (h *Handlers) trustMerged(ctx context.Context, at At, merged *spool) error {
	sum := sha256.New()
	if _, err := io.Copy(sum, merged.reader()); err != nil {
		return err
	}
	return h.trust(ctx, at, hex.EncodeToString(sum.Sum(nil)))
}
