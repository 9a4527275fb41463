package kernels

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"kernelgw/sandboxes/agentapi"
)

// Notebooks are the saved notebooks of workspaces.
type Notebooks interface {
	// SaveOutputs puts outputs into the cells that are still there with the text that
	// was run, and changes nothing else. A notebook that is gone is no error: then no
	// cell has its outputs. An error means that it may work later.
	SaveOutputs(ctx context.Context, o NotebookOutputs) (SavedOutputs, error)
	// FindCells returns by id which of the cells the notebook certainly has, with the
	// text that was run.
	FindCells(ctx context.Context, o NotebookOutputs) (map[string]bool, error)
}

// NotebookOutputs is what a kernel put out that nobody else can save.
type NotebookOutputs struct {
	Workspace string
	Path      string // of the notebook, as a client gave it to its session
	Owner     string // of the kernel
	Own       bool   // the owner started the kernel, and nobody else has ever used it
	Cells     []agentapi.UnsavedCell
	At        time.Time // when they were asked for: UnsavedCell.EndedAgo counts back from it
	Replaces  string    // version with a part of the same outputs; "" for none
}

// SavedOutputs is what became of outputs.
type SavedOutputs struct {
	Cells   map[string]bool // by id: those that have what they should now
	Version string          // that was written; "" when there was nothing to write
}

const (
	// savePatience bounds one attempt, lastSavePatience the one before the end of a
	// kernel, and agentPatience how long an agent may take for an answer.
	savePatience     = 2 * time.Minute
	lastSavePatience = 10 * time.Second
	agentPatience    = 20 * time.Second
	// maxUnsavedTold bounds what is believed of an agent.
	maxUnsavedTold = agentapi.MaxUnsavedCells
)

// errNoneUnsaved is of an agent that said that there are outputs, and had none. A
// client may have come back in between, but an agent may also do so all the time.
var errNoneUnsaved = errors.New("there are no outputs any more")

// interim is a version that was written while its cells were running.
type interim struct {
	version string
	runs    map[uint64]bool
}

// keepOutputs saves what a kernel's cells put out while nobody is there, until ctx
// ends. What is unsaved the agent remembers: whatever happens to the gateway, it is
// told again.
func (m *Manager) keepOutputs(ctx context.Context, k *kernel, agent *agentapi.Client) {
	if m.o.Notebooks == nil || k.terminals {
		return
	}
	var pace savePace
	for m.waitWork(ctx, k, func(s agentapi.Status) bool { return s.Unsaved > 0 }) {
		err := m.saveOutputs(ctx, k, agent, false)
		m.mu.Lock()
		joined := k.joined
		m.mu.Unlock()
		pause := pace.next(time.Now(), joined, err != nil)
		if err != nil && !errors.Is(err, errNoneUnsaved) && ctx.Err() == nil {
			m.o.Metrics.AgentErrors.WithLabelValues("outputs").Inc()
			m.o.Log.Error("cannot save what cells put out while nobody was there; trying again",
				"kernel", k.id, "workspace", k.workspace, "in", pause, "error", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause):
		}
		// What the watch told last may be from before it was saved.
		if st, err := agent.Status(ctx); err == nil {
			m.observe(k, st)
		}
	}
}

// waitWork waits until an agent has something that is to be saved, and reports whether
// ctx has not ended before.
func (m *Manager) waitWork(ctx context.Context, k *kernel, has func(agentapi.Status) bool) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	for !has(k.status) || !m.ready { // before that sessions are not all there
		if m.waitChange(ctx, k) != nil {
			return false
		}
	}
	return true
}

// saveLastOutputs saves what a kernel's cells have put out that is about to end, if
// nobody is there to do it.
func (m *Manager) saveLastOutputs(ctx context.Context, k *kernel, agent *agentapi.Client) {
	if m.o.Notebooks == nil || k.terminals {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, lastSavePatience)
	defer cancel()
	err := m.saveOutputs(ctx, k, agent, true)
	if err != nil && !errors.Is(err, errNoneUnsaved) && !isMissing(err) && !errors.Is(err, agentapi.ErrGone) {
		m.o.Metrics.AgentErrors.WithLabelValues("outputs").Inc()
		m.o.Log.Error("what cells of a kernel that ends put out is not saved", "kernel", k.id, "workspace", k.workspace, "error", err)
	}
}

// saveOutputs saves what a kernel's agent says is unsaved in the notebooks of its
// sessions, and tells the agent what became of it. One at a time for a kernel.
func (m *Manager) saveOutputs(ctx context.Context, k *kernel, agent *agentapi.Client, last bool) error {
	ctx, cancel := context.WithTimeout(ctx, savePatience)
	defer cancel()
	m.mu.Lock()
	owner := k.owner
	m.mu.Unlock()
	leave, err := m.saves.ask(ctx, saver{owner, last})
	if err != nil {
		return err
	}
	defer leave()
	one, err := enter(ctx, k.saving, nil)
	if err != nil {
		return err
	}
	defer one()
	asking, cancel := context.WithTimeout(ctx, agentPatience)
	defer cancel()
	cells, err := agent.Unsaved(asking, last)
	if err == nil && len(cells) == 0 {
		err = errNoneUnsaved
	}
	if err != nil {
		return err
	}
	told, err := m.saveCells(ctx, k, cells, last)
	if err != nil {
		return err
	}
	telling, cancel := context.WithTimeout(ctx, agentPatience)
	defer cancel()
	return agent.CellsSaved(telling, told)
}

// saveCells saves outputs in the notebooks of a kernel's sessions, and returns what
// became of them. The caller holds the kernel's place to save.
func (m *Manager) saveCells(ctx context.Context, k *kernel, cells []agentapi.UnsavedCell, last bool) (told []agentapi.SavedCell, err error) {
	at := time.Now()
	leave, err := m.saves.write(ctx, last)
	if err != nil {
		return nil, err
	}
	defer leave()
	paths := m.documents(k)
	byPath, err := m.cellsByPath(ctx, k, paths, cells)
	if err != nil {
		return nil, err
	}
	done := map[string]bool{}
	for _, path := range paths {
		if len(byPath[path]) == 0 {
			continue
		}
		saved, err := m.saveIn(ctx, k, path, byPath[path], at)
		if err != nil {
			return nil, fmt.Errorf("cannot save outputs in %s: %w", printable(path), err)
		}
		for _, c := range byPath[path] {
			done[c.Cell] = saved[c.Cell]
		}
	}
	left := 0
	for _, c := range cells {
		if !done[c.Cell] {
			left++
		}
		told = append(told, agentapi.SavedCell{Run: c.Run, Until: c.Until, Drop: !done[c.Cell]})
	}
	m.o.Log.Info("outputs of cells were saved while nobody was there",
		"kernel", k.id, "workspace", k.workspace, "cells", len(cells)-left, "without_a_cell", left)
	return told, nil
}

// cellsByPath returns which cells go to which documents of a kernel. If it has
// several, one may be a copy of another, and nobody says of which a cell was run:
// then a cell that more than one has goes to none.
func (m *Manager) cellsByPath(ctx context.Context, k *kernel, paths []string, cells []agentapi.UnsavedCell) (map[string][]agentapi.UnsavedCell, error) {
	byPath := map[string][]agentapi.UnsavedCell{}
	if len(paths) == 1 {
		byPath[paths[0]] = cells
		return byPath, nil
	}
	homes := map[string][]string{} // by cell
	for _, path := range paths {
		found, err := m.o.Notebooks.FindCells(ctx, m.outputsFor(k, path, cells))
		if err != nil {
			return nil, fmt.Errorf("cannot look for cells in %s: %w", printable(path), err)
		}
		for cell := range found {
			homes[cell] = append(homes[cell], path)
		}
	}
	for _, c := range cells {
		switch in := homes[c.Cell]; len(in) {
		case 0:
		case 1:
			byPath[in[0]] = append(byPath[in[0]], c)
		default:
			m.o.Log.Warn("several documents of a kernel have a cell: what it put out is saved in none",
				"kernel", k.id, "workspace", k.workspace, "cell", printable(c.Cell), "documents", len(in))
		}
	}
	return byPath, nil
}

// saveIn saves outputs in one notebook, and returns which cells have theirs. The
// caller holds the kernel's place to save.
func (m *Manager) saveIn(ctx context.Context, k *kernel, path string, cells []agentapi.UnsavedCell, at time.Time) (map[string]bool, error) {
	o := m.outputsFor(k, path, cells)
	o.At = at
	runs, running := map[uint64]bool{}, true
	for _, c := range cells {
		runs[c.Run] = true
		running = running && c.Running
	}
	before := k.interims[path]
	if !slices.ContainsFunc(slices.Collect(maps.Keys(before.runs)), func(run uint64) bool { return !runs[run] }) {
		o.Replaces = before.version
	}
	saved, err := m.o.Notebooks.SaveOutputs(ctx, o)
	if err != nil {
		return nil, err
	}
	if saved.Version != "" {
		delete(k.interims, path)
		if running {
			k.interims[path] = interim{saved.Version, runs}
		}
	}
	return saved.Cells, nil
}

func (m *Manager) outputsFor(k *kernel, path string, cells []agentapi.UnsavedCell) NotebookOutputs {
	m.mu.Lock()
	defer m.mu.Unlock()
	return NotebookOutputs{Workspace: k.workspace, Path: path, Owner: k.owner, Own: k.record.Own, Cells: cells}
}

// rowsOf returns a kernel's sessions, in order of their creation. The caller holds mu.
func (m *Manager) rowsOf(k *kernel) (rows []*sessionRow) {
	for _, row := range m.sessions {
		if row.kernel() == k.name() {
			rows = append(rows, row)
		}
	}
	slices.SortFunc(rows, func(a, b *sessionRow) int {
		return cmp.Or(a.CreatedAt.Compare(b.CreatedAt), cmp.Compare(a.ID, b.ID))
	})
	return rows
}

// documents returns the paths of a kernel's sessions, in order of their creation.
func (m *Manager) documents(k *kernel) (paths []string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, row := range m.rowsOf(k) {
		if !slices.Contains(paths, row.Path) {
			paths = append(paths, row.Path)
		}
	}
	return paths
}

// UsedBy takes note of who is about to have a kernel run something, or start again.
// Once it was another than its owner, that is remembered: what the kernel puts out
// is then not the owner's own any more. An unknown kernel is no error.
func (m *Manager) UsedBy(ctx context.Context, workspace, id, who string) error {
	m.mu.Lock()
	k, err := m.find(workspace, id)
	known := err != nil || k.owner == who || !k.record.Own
	m.mu.Unlock()
	if known {
		return nil
	}
	if err := k.acquire(ctx); err != nil {
		return fmt.Errorf("%w: it is being changed", ErrNotReady)
	}
	defer k.release()
	m.mu.Lock()
	r, removed := k.record, k.removed
	m.mu.Unlock()
	if removed {
		return nil
	}
	r.Own = false
	return m.save(context.WithoutCancel(ctx), k, r)
}
