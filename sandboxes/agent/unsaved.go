package agent

import (
	"bytes"
	"cmp"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"time"

	"kernelgw/jupyter"
	"kernelgw/jupyter/outputs"
	"kernelgw/sandboxes/agent/eventlog"
	"kernelgw/sandboxes/agentapi"
)

const (
	// maxCellOutputs bounds what is kept of one cell.
	maxCellOutputs = agentapi.MaxUnsavedBytes / 2
	// maxAnswer is what there is for outputs in an answer, beside all other members.
	maxAnswer = agentapi.MaxUnsavedBytes - agentapi.MaxUnsavedCells*(6*agentapi.MaxCellID+512)
)

func (a *Agent) getUnsaved(w http.ResponseWriter, r *http.Request) {
	a.collecting.Lock()
	defer a.collecting.Unlock()
	answer(w, a.hub.collect(time.Now(), r.URL.Query().Get("all") != "", maxAnswer))
}

func (a *Agent) postUnsaved(w http.ResponseWriter, r *http.Request) {
	var saved []agentapi.SavedCell
	const most = 128 * agentapi.MaxUnsavedCells
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, most)).Decode(&saved); err != nil {
		fail(w, http.StatusBadRequest, fmt.Sprintf("cannot read what was saved: %v", err))
		return
	}
	a.hub.cellsSaved(time.Now(), saved)
	w.WriteHeader(http.StatusNoContent)
}

// cellsSaved takes note of what became of outputs.
func (h *hub) cellsSaved(now time.Time, saved []agentapi.SavedCell) {
	byRun := make(map[uint64]agentapi.SavedCell, len(saved))
	for _, s := range saved {
		byRun[s.Run] = s
	}
	h.mu.Lock()
	for _, r := range h.cells.latest {
		s, ok := byRun[r.number]
		switch {
		case !ok:
		case s.Drop, !r.ended.IsZero() && s.Until >= r.end:
			h.cells.forget(r)
		default:
			r.saved, r.savedAt = s.Until, now
		}
	}
	h.mu.Unlock()
	h.track.changed()
}

// unsavedCount is how many cells have outputs that are to be saved now.
func (h *hub) unsavedCount(now time.Time) int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.unsaved(now, false))
}

// collecting is a run while its outputs are taken from the log.
type collecting struct {
	agentapi.UnsavedCell
	outputs  *outputs.Collector
	broken   bool
	messages uint64
}

// collect returns the cells whose outputs are to be saved now, with the outputs, as
// many as there is room for, the oldest first.
func (h *hub) collect(now time.Time, all bool, room int) []agentapi.UnsavedCell {
	from, end, runs := h.collectors(now, all)
	if len(runs) == 0 {
		return []agentapi.UnsavedCell{}
	}
	h.readOutputs(from, end, runs)
	sorted := make([]*collecting, 0, len(runs))
	for _, c := range runs {
		sorted = append(sorted, c)
	}
	slices.SortFunc(sorted, func(a, b *collecting) int { return cmp.Compare(a.Run, b.Run) })
	var cells []agentapi.UnsavedCell
	session := *h.session.Load()
	for _, c := range sorted {
		c.finish(session)
		if len(c.Outputs) > room {
			if len(cells) > 0 {
				break // it is told with what is left then
			}
			lost := h.marker(eventlog.Lost{Messages: c.messages, Bytes: uint64(c.outputs.Size())})
			c.outputs = outputs.New(outputs.Options{})
			c.outputs.Take(lost.message())
			c.Outputs = c.outputs.Append(nil)
		}
		room -= len(c.Outputs)
		cells = append(cells, c.UnsavedCell)
	}
	return cells
}

// collectors returns the runs to collect outputs of, by the msg_id of their
// requests, and between which places in the log these are.
func (h *hub) collectors(now time.Time, all bool) (from eventlog.Position, end uint64, runs map[string]*collecting) {
	h.mu.Lock()
	defer h.mu.Unlock()
	from = h.events.End()
	end = from.Seq
	runs = make(map[string]*collecting)
	for _, r := range h.unsaved(now, all) {
		c := &collecting{outputs: outputs.New(outputs.Options{MaxBytes: maxCellOutputs}), broken: r.broken}
		c.Run, c.Cell, c.SourceSHA256, c.Until = r.number, r.cell, hex.EncodeToString(r.source[:]), end
		c.Running = r.ended.IsZero()
		if !c.Running {
			c.EndedAgo = max(0, now.Sub(r.ended))
			c.Seen = r.client.acked.Seq() >= r.end
		}
		runs[r.message] = c
		if r.from.Seq < from.Seq {
			from = r.from
		}
	}
	return from, end, runs
}

// readOutputs gives each run its messages in the log.
func (h *hub) readOutputs(from eventlog.Position, end uint64, runs map[string]*collecting) {
	var steps []step
	var header []byte // the last parent header, which most of the next are like
	var run *collecting
	of := func(parent []byte) *collecting {
		if !bytes.Equal(parent, header) {
			header, run = parent, runs[jupyter.PeekID(parent)]
		}
		return run
	}
	for from.Seq < end {
		steps = h.events.Follow(&from, eventlog.Public, followSteps, followBytes, steps[:0])
		if len(steps) == 0 {
			return
		}
		for i := range steps {
			s := &steps[i]
			if s.Lost.Messages > 0 {
				if c := of(s.Lost.Parent); c != nil {
					lost := h.marker(s.Lost)
					c.outputs.Take(lost.message())
				}
				continue
			}
			if s.Entry.Seq > end {
				return
			}
			take(of(s.Entry.Value.parent()), s.Entry.Value.message(), runs)
		}
	}
}

// take gives a message to the run that it is of, nil for one that is not collected,
// and what it says of displays to the others.
func take(of *collecting, m *jupyter.Message, runs map[string]*collecting) {
	var shown outputs.Display
	switch {
	case of != nil:
		of.messages++
		shown = of.outputs.Take(m)
	case isType(m, `"update_display_data"`):
		shown = outputs.New(outputs.Options{}).Take(m)
	}
	if shown.ID == "" {
		return
	}
	for _, c := range runs {
		if c != of {
			c.outputs.Show(shown)
		}
	}
}

// finish takes the outputs from the collector.
func (c *collecting) finish(session string) {
	if c.broken {
		c.outputs.Take(jupyter.NewStream("stderr", "the kernel ended before this cell did\n", session, nil))
	}
	if n, ok := c.outputs.ExecutionCount(); ok {
		count := int(n)
		c.ExecutionCount = &count
	}
	c.Outputs = c.outputs.Append(nil)
}
