package agent

import (
	"fmt"
	"sync"
	"time"

	"kernelgw/jupyter"
	"kernelgw/sandboxes/agentapi"
)

// caps hold what cells show within budgets, and count what they hold back. It is
// dropped, not slowed down: a kernel whose messages are not read at any time drops
// some itself and tells nobody, the one among them that ends a cell. For a reader who
// is slower than the kernel there is the pacer, which waits as long as that is safe.
//
// What is held back of one cell until something else comes of it, or output that is
// let through again, is a run: one marker in its place says how much it was. Widgets'
// messages show nothing where output is shown, and do not end a run. The budget of a
// cell comes back slowly.
type caps struct {
	// set at construction
	limits  agentapi.OutputCaps
	where   string // what a marker says of where text is that was held back; "" when it is nowhere
	publish func(text string, parent []byte)

	mu    sync.Mutex
	cells map[string]*cellCap // by the msg_id of the request
	order []*cellCap          // the oldest first

	level float64   // bytes that may come now
	at    time.Time // when that was so
	shut  bool      // level was used up, and has not recovered
}

// cellCap is what caps know of one cell.
type cellCap struct {
	id     string
	shown  float64   // bytes that its output comes to, less what has come back of its budget
	at     time.Time // when that was so
	shut   bool      // the budget was used up, and not enough has come back
	parent []byte    // of the markers; nil when it is too long to be kept

	// of the run that is open; messages is zero when none is
	messages, bytes uint64
	text            bool // there was text of streams in it
	why             string
	told            time.Time     // when the run began, or was told of last
	patience        time.Duration // until it is told of again
}

const (
	// maxCapCells is how many cells are remembered. A kernel that makes up more begins
	// a new budget with each; that of a second holds.
	maxCapCells = 256
	// capRefill is in how many seconds the whole budget of a cell comes back: of the
	// default 16 KiB a second, so that a progress bar never uses it up. What is held
	// back takes from that too: a flood stays held back.
	capRefill = 4096
	// capReopen is which part of a budget that was used up must have come back before
	// output is let through again, after a minute's quiet: so that what is let through
	// and what is held back are not mixed message by message.
	capReopen = 64
	// capFirst is how long a run lasts before it is told of while it goes on, and
	// twice as long each time after.
	capFirst = 10 * time.Second
)

func newCaps(limits agentapi.OutputCaps, where string, publish func(text string, parent []byte)) *caps {
	return &caps{
		limits: limits, where: where, publish: publish, cells: make(map[string]*cellCap),
		level: float64(limits.SecondBytes * agentapi.CapSeconds),
	}
}

// whereText is what is said of where text of streams is that is not shown.
func whereText(log *agentapi.OutputLogConfig) string {
	if log == nil || log.Place == "" {
		return ""
	}
	return "; the text is in " + log.Place
}

// take reports whether an iopub message is past a budget. Before it returns it tells
// of the run that the message ends. Of a stream's text that does not fit it leaves what
// does.
func (c *caps) take(k kind, m *jupyter.Message, cell string, now time.Time) (past bool) {
	if c.limits == (agentapi.OutputCaps{}) {
		return false
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if k != kindStream && k != kindDisplay {
		if k != kindComm && k != kindOther {
			c.endOf(cell)
		}
		return false
	}
	size := shownSize(m)
	of := c.cell(cell, m)
	of.refill(float64(c.limits.CellBytes), now)
	if why := c.over(of, k, m, size, now); why != "" {
		of.drop(size, k, why, now)
		return true
	}
	c.end(of)
	most := float64(c.limits.CellBytes)
	if most == 0 || of.shown < most {
		return false
	}
	excess := of.shown - most
	of.shown, of.shut = most, true
	if k == kindStream && excess >= 1 {
		if cut := cutText(m, size-int64(excess)); cut > 0 {
			of.drop(cut, k, c.pastCell(), now)
		}
	}
	return false
}

// refill gives back what comes back of a cell's budget in time.
func (of *cellCap) refill(most float64, now time.Time) {
	if !of.at.IsZero() {
		of.shown = max(0, of.shown-now.Sub(of.at).Seconds()*most/capRefill)
	}
	of.at = now
	of.shut = of.shut && of.shown > most-most/capReopen
}

// shownSize is what a message counts.
func shownSize(m *jupyter.Message) int64 {
	size := int64(len(m.Content))
	for _, b := range m.Buffers {
		size += int64(len(b))
	}
	return size
}

// drop adds to a run.
func (of *cellCap) drop(size int64, k kind, why string, now time.Time) {
	if of.messages == 0 {
		of.why, of.told, of.patience, of.text = why, now, capFirst, false
	}
	of.text = of.text || k == kindStream
	of.messages++
	of.bytes += uint64(size)
}

// whereOf is what is said of where that is which a run holds back: only text is kept.
func (c *caps) whereOf(of *cellCap) string {
	if of.text {
		return c.where
	}
	return ""
}

func (c *caps) pastCell() string {
	return "past the " + bytesText(c.limits.CellBytes) + " that a cell may show (output_cell)"
}

// over takes a message of so many bytes from the budgets, or returns which one it is
// past: what begins within a budget is let through, and takes the rest of it. It needs
// the lock.
func (c *caps) over(of *cellCap, k kind, m *jupyter.Message, size int64, now time.Time) (why string) {
	clears := k == kindDisplay && isType(m, `"clear_output"`)
	adds := !clears && !(k == kindDisplay && isType(m, `"update_display_data"`)) // which is in the place of something
	most := float64(c.limits.CellBytes)
	switch {
	case of.shut && adds && of.id != "":
		of.shown = min(of.shown+float64(size), most)
		return c.pastCell()
	case !c.spend(size, now):
		return "past the " + bytesText(c.limits.SecondBytes) + " that a kernel may show in a second (output_second)"
	case clears:
		of.shown, of.shut = 0, false
	case adds && of.id != "":
		of.shown += float64(size)
	}
	return ""
}

// spend takes bytes from what may come in this second, and reports whether it could.
// Once that is used up it waits for a whole second's, so that what is let through and
// what is held back are not mixed message by message. It needs the lock.
func (c *caps) spend(size int64, now time.Time) bool {
	second := float64(c.limits.SecondBytes)
	if second == 0 {
		return true
	}
	if !c.at.IsZero() {
		c.level = min(c.level+now.Sub(c.at).Seconds()*second, second*agentapi.CapSeconds)
	}
	c.at = now
	if c.shut = c.level <= 0 || c.shut && c.level < second; c.shut {
		return false
	}
	// A large message is let through, and is not held against what follows for long.
	c.level = max(c.level-float64(size), -second)
	return true
}

// cell finds what is known of a cell. It needs the lock.
func (c *caps) cell(id string, m *jupyter.Message) *cellCap {
	if of := c.cells[id]; of != nil {
		return of
	}
	if len(c.order) == maxCapCells {
		oldest := c.order[0]
		c.end(oldest)
		delete(c.cells, oldest.id)
		c.order = append(c.order[:0], c.order[1:]...)
	}
	of := &cellCap{id: id}
	if len(m.ParentHeader) <= maxRememberedParent {
		of.parent = append(of.parent, m.ParentHeader...)
	}
	c.cells[id] = of
	c.order = append(c.order, of)
	return of
}

// endOf ends the run of a cell, if one is open. It needs the lock.
func (c *caps) endOf(cell string) {
	if of := c.cells[cell]; of != nil {
		c.end(of)
	}
}

// end ends a run, if one is open, and tells how much it was. It needs the lock.
func (c *caps) end(of *cellCap) {
	if of.messages == 0 {
		return
	}
	c.publish(fmt.Sprintf("output truncated: %d messages, %d bytes %s%s", of.messages, of.bytes, of.why, c.whereOf(of)), of.parent)
	of.messages, of.bytes = 0, 0
}

// asks is called when a kernel asks for input: what it said before is to be seen.
func (c *caps) asks(cell string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.endOf(cell)
}

// flush ends all runs and forgets the cells: the process that ran them is gone.
func (c *caps) flush() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, of := range c.order {
		c.end(of)
	}
	c.order = nil
	clear(c.cells)
}

// tick tells of runs that have been going on for long: who looks must not take a cell
// for silent. It is called every few seconds.
func (c *caps) tick(now time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, of := range c.order {
		if of.messages > 0 && now.Sub(of.told) >= of.patience {
			of.told, of.patience = now, 2*of.patience
			c.publish(fmt.Sprintf("output is being truncated: %d messages, %d bytes so far %s%s", of.messages, of.bytes, of.why, c.whereOf(of)), of.parent)
		}
	}
}
