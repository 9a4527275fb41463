package outputlog

import (
	"context"
	"sync"
	"time"
)

const (
	// queueBytes is how much may wait to be compressed before text goes missing: what
	// comes in a burst, or while the disk is slow. One text is taken whatever its size if
	// there was less before it. It is as much as an event log holds by default, and what
	// an agent may take beside its kernel has room for both.
	queueBytes = 16 << 20
	itemBytes  = 128 // what an item costs beside its text
	// Texts of up to copied bytes are copied, many into one block; larger ones stay in
	// the memory that they came in.
	copied    = 16 << 10
	blockSize = 4 * copied
	// fewItems is for how many items room is kept that they do not need any more.
	fewItems = 1 << 10
)

// queue is between those who note what is printed, who never wait, and the one who
// compresses it.
type queue struct {
	most  int64         // set at construction: bytes
	ready chan struct{} // of capacity 1: there may be items

	mu     sync.Mutex
	items  []item
	bytes  int64  // of all items that are not worked off
	left   int    // how many those are
	block  []byte // where small texts are copied to
	closed bool
}

// item is what is to be done, in order: one of its kinds.
type item struct {
	raw    []byte        // a text, as a JSON string
	lost   int64         // bytes of text that nobody has
	sealed chan struct{} // to be closed when there is a part of what was before
	old    bool          // a part is to be made of what is old

	at    time.Time // when it came
	bytes int64     // of memory
}

func newQueue(most int64) queue {
	return queue{most: most, ready: make(chan struct{}, 1)}
}

// text adds a text, which is part of so many bytes of memory, or notes that there
// was no room for it.
func (q *queue) text(raw []byte, memory int, at time.Time) {
	q.mu.Lock()
	defer q.mu.Unlock()
	switch {
	case q.closed:
	case q.bytes >= q.most:
		q.lose(textSize(raw))
	case len(raw) <= copied:
		q.add(item{raw: q.copy(raw), at: at, bytes: int64(len(raw)) + itemBytes})
	default:
		q.add(item{raw: raw, at: at, bytes: int64(max(memory, len(raw))) + itemBytes})
	}
}

// copy needs the lock.
func (q *queue) copy(raw []byte) []byte {
	if len(raw) > cap(q.block)-len(q.block) {
		q.block = make([]byte, 0, blockSize)
	}
	begin := len(q.block)
	q.block = append(q.block, raw...)
	return q.block[begin:len(q.block):len(q.block)]
}

// lose adds to what is lost: what is lost at once takes one item. It needs the lock.
func (q *queue) lose(size int64) {
	if n := len(q.items); n > 0 && q.items[n-1].lost > 0 {
		q.items[n-1].lost += size
		return
	}
	if size > 0 {
		q.add(item{lost: size, bytes: itemBytes})
	}
}

// control adds an item that is not bounded: few are made.
func (q *queue) control(i item) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if i.lost > 0 {
		q.lose(i.lost)
		return
	}
	i.bytes = itemBytes
	q.add(i)
}

// add needs the lock.
func (q *queue) add(i item) {
	if q.closed {
		return
	}
	q.items = append(q.items, i)
	q.bytes += i.bytes
	q.left++
	select {
	case q.ready <- struct{}{}:
	default:
	}
}

// take waits for items and returns them all; none when ctx is over. used is what it
// returned before, which is used again.
func (q *queue) take(ctx context.Context, used []item) []item {
	if cap(used) > fewItems {
		used = nil
	}
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-q.ready:
		}
		q.mu.Lock()
		items := q.items
		q.items = used[:0]
		q.mu.Unlock()
		if len(items) > 0 {
			return items
		}
		used = items
	}
}

// done notes that an item is worked off.
func (q *queue) done(i *item) {
	q.mu.Lock()
	q.bytes -= i.bytes
	q.left--
	q.mu.Unlock()
	*i = item{}
}

// empty reports whether all is worked off.
func (q *queue) empty() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.left == 0
}

// close forgets everything, and takes nothing more.
func (q *queue) close() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.closed, q.items, q.bytes, q.left, q.block = true, nil, 0, 0, nil
}
