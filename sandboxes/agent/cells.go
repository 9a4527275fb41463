package agent

import (
	"crypto/sha256"
	"time"

	"kernelgw/jupyter"
	"kernelgw/sandboxes/agent/eventlog"
	"kernelgw/sandboxes/agentapi"
)

// cells remembers which cells of documents clients have run, so that what they put
// out can be saved when nobody is there to show and save it. It keeps no output:
// that is in the event log. All of it is guarded by hub.mu.
type cells struct {
	asked  map[string]*cellRun // by msg_id: until they have ended
	latest map[string]*cellRun // by cell: the last run that began
	runs   uint64
}

// cellRun is one run of a cell, from an execute request that named it.
type cellRun struct {
	number  uint64
	cell    string
	source  [sha256.Size]byte // of the text that was run
	message string            // msg_id of the request
	client  *client           // who asked
	from    eventlog.Position // what it puts out comes behind this
	began   time.Time         // zero before the kernel said that it runs it
	ended   time.Time         // zero while it runs
	end     uint64            // number of the event that ended it
	broken  bool              // the kernel process ended first
	saved   uint64            // up to this event its output is saved
	savedAt time.Time         // when it was; zero before
}

// When outputs are saved by others than the client that asked for them.
const (
	// leftGrace and brokenGrace are how long a client may be away before what it
	// missed is saved without it. One that said goodbye is a closed tab, or one that
	// reads a restart and comes back at once. One that did not may be behind a
	// network, a laptop's lid or a gateway that comes back.
	leftGrace   = 3 * time.Second
	brokenGrace = time.Minute
	// openingTime is how long a page may take from its load to its connection. For
	// that time after a client has gone it may be about to open the document again,
	// and what could wait is not changed under it.
	openingTime = 10 * time.Second
	// runningSave is how long a cell runs before what it has put out so far is saved,
	// and how often then. Later it is each runningPart of the time that it has run.
	runningSave = 10 * time.Second
	runningPart = 10
	// maxCellRuns bounds what is remembered.
	maxCellRuns = agentapi.MaxUnsavedCells
)

func newCells() cells {
	return cells{asked: make(map[string]*cellRun), latest: make(map[string]*cellRun)}
}

// cellRequested takes note of an execute request that names a cell, as JupyterLab's
// do, before the kernel has it.
func (h *hub) cellRequested(c *client, m *jupyter.Message, id string) {
	cell := jupyter.PeekString(m.Metadata, "cellId")
	if cell == "" || len(cell) > agentapi.MaxCellID || id == "" || len(id) > maxRememberedID {
		return
	}
	source := sha256.Sum256([]byte(jupyter.PeekString(m.Content, "code")))
	h.mu.Lock()
	defer h.mu.Unlock()
	h.cells.runs++
	h.cells.asked[id] = &cellRun{number: h.cells.runs, cell: cell, source: source, message: id, client: c, from: h.events.End()}
	if len(h.cells.asked) > maxCellRuns {
		h.cells.forget(oldestRun(h.cells.asked))
	}
}

// cellRefused: the kernel did not get an execute request.
func (h *hub) cellRefused(id string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.cells.asked, id)
}

// cellBegan: the kernel runs what an execute request asked for. Only now is what
// the cell put out before of no interest: a request that was given up because an
// earlier one failed never gets here.
func (h *hub) cellBegan(id string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	r := h.cells.asked[id]
	if r == nil {
		// What runs a cell without a client takes its outputs itself. They are newer than
		// those of a run before.
		if e := h.executions.current.Load(); e != nil && e.request.ID == id {
			if before := h.cells.latest[e.request.CellID]; before != nil {
				h.cells.forget(before)
			}
		}
		return
	}
	if !r.began.IsZero() {
		return
	}
	r.began = time.Now()
	if before := h.cells.latest[r.cell]; before != nil {
		h.cells.forget(before)
	}
	h.cells.latest[r.cell] = r
	if len(h.cells.latest) > maxCellRuns {
		h.cells.forget(oldestRun(h.cells.latest))
	}
}

// cellEnded: the kernel is done with an execute request, as the event with a number
// says.
func (h *hub) cellEnded(id string, seq uint64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if r := h.cells.asked[id]; r != nil {
		delete(h.cells.asked, id)
		r.ended, r.end = time.Now(), seq
	}
}

// cellsBroken: the kernel process has ended, and all that it said is in the log.
func (h *hub) cellsBroken() {
	h.mu.Lock()
	defer h.mu.Unlock()
	last := h.events.End().Seq
	for id, r := range h.cells.asked {
		if !r.began.IsZero() { // the others may wait for the next process
			delete(h.cells.asked, id)
			r.ended, r.end, r.broken = time.Now(), last, true
		}
	}
}

// forget needs the lock.
func (c *cells) forget(r *cellRun) {
	if c.asked[r.message] == r {
		delete(c.asked, r.message)
	}
	if c.latest[r.cell] == r {
		delete(c.latest, r.cell)
	}
}

func oldestRun(of map[string]*cellRun) (oldest *cellRun) {
	for _, r := range of {
		if oldest == nil || r.number < oldest.number {
			oldest = r
		}
	}
	return oldest
}

// unsaved returns the runs whose outputs are to be saved now by somebody else than
// their clients. all says that there will be no later. It needs the lock.
func (h *hub) unsaved(now time.Time, all bool) (due []*cellRun) {
	if len(h.cells.latest) == 0 {
		return nil
	}
	watched, last := len(*h.sockets.Load()) > 0, h.events.End().Seq
	for _, r := range h.cells.latest {
		if r.isDue(now, watched, last, all) {
			due = append(due, r)
		}
	}
	return due
}

// isDue reports whether the output of a run is to be saved now. watched says that
// some client is there, last is the number of the newest event.
func (r *cellRun) isDue(now time.Time, watched bool, last uint64, all bool) bool {
	c := r.client
	if c.socket != nil {
		return false // it shows what comes, and saves it
	}
	away := now.Sub(c.away)
	grace := leftGrace
	if !c.left {
		grace = brokenGrace
	}
	running := r.ended.IsZero()
	seen := !running && c.acked.Seq() >= r.end
	opening := away < max(grace, openingTime)
	switch {
	case all && !(seen && opening): // who leaves and ends the kernel has had its say
		return true
	case away < grace:
		return false
	case !running && !seen:
		return true
	case opening || watched: // somebody may have it open: it is not changed under them
		return false
	case seen:
		return true
	}
	ran := now.Sub(r.began)
	return ran >= runningSave && now.Sub(r.savedAt) >= max(runningSave, ran/runningPart) && last > r.saved
}
