package agent

import (
	"time"
)

// pacer makes a kernel that prints faster than its clients read wait for them,
// as long as they read fast. Without it a client that is a little slower than a
// flood would lose most of it to the budget of the log.
//
// Waiting has a price: a kernel whose ZeroMQ queue is full drops messages and
// tells nobody. So nobody waits for a client that reads slower than paceRate:
// that one loses visibly, by the marker of what left the log, and costs others
// one window.
type pacer struct {
	// set at construction
	high, low uint64
	progress  chan struct{} // a socket has written

	// owned by the caller of appended
	unchecked uint64 // bytes appended since the last look
	offset    uint64 // of the newest message, as Cursor.Offset counts, at the last look
	timer     *time.Timer
}

const (
	paceWindow = 500 * time.Millisecond
	paceRate   = 2 << 20 // bytes in a window, 4 MiB/s
	paceEvery  = 128 << 10
)

func (p *pacer) init(budget int64) {
	p.high, p.low = uint64(budget)/2, uint64(budget)/4
	p.progress = make(chan struct{}, 1)
	p.timer = time.NewTimer(time.Hour)
}

// wrote says that a socket has made progress.
func (p *pacer) wrote() {
	select {
	case p.progress <- struct{}{}:
	default:
	}
}

// appended counts a message for all clients, and waits if one of them that
// reads fast has too much before it.
func (p *pacer) appended(h *hub, size int) {
	p.unchecked += uint64(size)
	if p.unchecked < min(paceEvery, p.low/4) {
		return
	}
	newest := h.events.Now("")
	p.unchecked, p.offset = 0, newest.Offset()
	var start time.Time
	for laggard := p.laggard(h); laggard; laggard = p.laggard(h) {
		now := time.Now()
		if start.IsZero() || now.Sub(start) >= paceWindow {
			if !start.IsZero() {
				p.judge(h)
			}
			start = now
			p.mark(h)
			continue
		}
		p.timer.Reset(paceWindow - now.Sub(start))
		select {
		case <-p.progress:
		case <-p.timer.C:
		}
	}
}

// laggard reports whether anybody who is waited for is too far behind.
func (p *pacer) laggard(h *hub) bool {
	found := false
	for _, s := range *h.sockets.Load() {
		behind := p.offset - min(p.offset, s.offset.Load())
		switch {
		case behind < p.low:
			s.slow = false
		case behind > p.high && !s.slow && !s.closing.Load():
			found = true
		}
	}
	return found
}

// mark begins a window.
func (p *pacer) mark(h *hub) {
	for _, s := range *h.sockets.Load() {
		s.marked = s.written.Load()
	}
}

// judge ends a window: who was too slow is not waited for any more, until it
// has caught up.
func (p *pacer) judge(h *hub) {
	for _, s := range *h.sockets.Load() {
		behind := p.offset - min(p.offset, s.offset.Load())
		if behind > p.high && s.written.Load()-s.marked < paceRate {
			s.slow = true
		}
	}
}
