package zmq

import (
	"fmt"
	"io"
	"sync"
)

// outbox is the queue of bytes for one socket. Whoever sends appends; one
// goroutine writes. So a kernel that does not read holds up nobody.
type outbox struct {
	limit int // of bytes that wait, beyond which nothing is admitted

	// send is held while the frames of one message are appended, so that no
	// command comes between them.
	send sync.Mutex

	mu      sync.Mutex
	queue   []byte        // guarded by mu
	writing int           // guarded by mu: bytes in the hands of the writer
	closed  bool          // guarded by mu
	wake    chan struct{} // holds one token when the writer has something to do
}

// keepBytes is the size up to which a buffer is used again.
const keepBytes = 64 << 10

func newOutbox(limit int64) *outbox {
	return &outbox{limit: int(limit), wake: make(chan struct{}, 1)}
}

// admit reports whether a message of that size may be appended. When nothing
// waits, any may. The caller holds send.
func (o *outbox) admit(size int64) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	waiting := len(o.queue) + o.writing
	switch {
	case o.closed:
		return ErrClosed
	case waiting > 0 && int64(waiting)+size > int64(o.limit):
		return fmt.Errorf("%w: %d bytes wait already", ErrBacklog, waiting)
	}
	return nil
}

// append adds bytes of a message. They are written after flush.
func (o *outbox) append(p []byte) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.closed {
		return ErrClosed
	}
	o.queue = append(o.queue, p...)
	return nil
}

// appendCommand adds a whole command, unless too much waits already: a peer
// that does not read needs no answer to its pings.
func (o *outbox) appendCommand(p []byte) error {
	o.send.Lock()
	defer o.send.Unlock()
	if o.admit(int64(len(p))) != nil {
		return nil
	}
	err := o.append(p)
	o.flush()
	return err
}

func (o *outbox) flush() {
	select {
	case o.wake <- struct{}{}:
	default: // a token is there already
	}
}

func (o *outbox) close() {
	o.mu.Lock()
	o.closed = true
	o.mu.Unlock()
	o.flush()
}

// writeTo writes what comes in until the outbox is closed or w fails.
func (o *outbox) writeTo(w io.Writer) {
	var spare []byte
	for {
		o.mu.Lock()
		p := o.queue
		o.queue, o.writing = spare[:0], len(p)
		closed := o.closed
		o.mu.Unlock()

		switch {
		case closed:
			return
		case len(p) == 0:
			spare = p
			<-o.wake
		default:
			if _, err := w.Write(p); err != nil {
				return
			}
			if spare = p; cap(p) > keepBytes {
				spare = nil
			}
		}
	}
}
