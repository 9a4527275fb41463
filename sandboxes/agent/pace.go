package agent

import (
	"sync/atomic"
	"time"
)

// pacer makes a kernel that sends large messages faster than its clients read
// wait for them. Without it a client that is a little slower, as nbclient, would
// lose most of some tens of megabytes of output to the budget of the log.
//
// It is for large messages. A kernel's ZeroMQ queue is bounded in messages (1000
// in ipykernel) and beyond that it drops them and tells nobody, the idle that
// ends a cell among them: many small ones must be read at any time, up to a rate
// that leaves the readers some of the processor. A client that is too slow for
// those loses visibly, by the marker of what left the log, and nothing but output.
type pacer struct {
	// set at construction
	high, low uint64
	progress  chan struct{} // a reader has written

	// owned by the caller of appended
	timer *time.Timer
	small int       // messages since the last look
	since time.Time // of it
}

const (
	paceSize = 64 << 10 // of a large message
	paceRate = 4 << 20  // bytes a second: nobody is made slower than that
	// paceStall is how long a client that reads nothing is waited for, all in all.
	paceStall = time.Second

	// Of small messages nobody is made slower than 50,000 a second (ipykernel
	// sends 40,000 here), and what comes in a pause fits a kernel's queue.
	paceBatch = 500
	pacePause = 10 * time.Millisecond
)

// paced is what the pacer knows of who reads the log: a socket, or a follower.
type paced struct {
	offset  atomic.Uint64 // of what was written: Cursor.Offset, Position.Offset
	written atomic.Uint64 // bytes
	closing atomic.Bool   // it is not waited for

	// owned by the caller of pacer.appended
	stalled bool
	marked  uint64        // bytes written when it was last seen to read
	waited  time.Duration // for it, in vain, since then
}

// readers calls yield for all who read the log.
func (h *hub) readers(yield func(*paced) bool) {
	for _, s := range *h.sockets.Load() {
		if !yield(&s.paced) {
			return
		}
	}
	for _, f := range *h.followers.Load() {
		if !yield(&f.paced) {
			return
		}
	}
}

func (p *pacer) init(budget int64) {
	p.high, p.low = uint64(budget)/2, uint64(budget)/4
	p.progress = make(chan struct{}, 1)
	p.timer = time.NewTimer(time.Hour)
}

// wrote says that a reader has made progress.
func (p *pacer) wrote() {
	select {
	case p.progress <- struct{}{}:
	default:
	}
}

// appended is called for each message. It waits while a client has too much
// before it, as long as that is safe.
func (p *pacer) appended(h *hub, size int) {
	if size >= paceSize {
		p.large(h, size)
		return
	}
	if p.small++; p.small < paceBatch {
		return
	}
	p.small = 0
	if newest := h.events.Now(""); p.laggard(h, newest.Offset()) {
		time.Sleep(pacePause - time.Since(p.since))
	}
	p.since = time.Now()
}

func (p *pacer) large(h *hub, size int) {
	newest := h.events.Now("")
	wait := time.Duration(size) * time.Second / paceRate
	p.timer.Reset(wait)
	for p.laggard(h, newest.Offset()) {
		select {
		case <-p.progress:
		case <-p.timer.C:
			p.judge(h, wait)
			return
		}
	}
}

// laggard reports whether anybody who is waited for is too far behind.
func (p *pacer) laggard(h *hub, newest uint64) bool {
	found := false
	for r := range h.readers {
		behind := newest - min(newest, r.offset.Load())
		switch {
		case behind < p.low:
			r.stalled, r.waited = false, 0
		case behind > p.high && !r.stalled && !r.closing.Load():
			found = true
		}
	}
	return found
}

// judge is called after a wait in vain. Who has read nothing in waits that long
// is not waited for any more, until it has caught up.
func (p *pacer) judge(h *hub, wait time.Duration) {
	for r := range h.readers {
		if written := r.written.Load(); written != r.marked {
			r.marked, r.waited = written, 0
			continue
		}
		if r.waited += wait; r.waited >= paceStall {
			r.stalled = true
		}
	}
}
