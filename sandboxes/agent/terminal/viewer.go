package terminal

import (
	"strconv"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/gorilla/websocket"
)

// Limits of a viewer.
const (
	maxMessage    = 1 << 20   // from the client: a large paste
	chunkBytes    = 32 << 10  // of output in one message
	fullPending   = 128 << 10 // from here on a viewer has no room
	maxPending    = 512 << 10 // from here on it is too slow
	windowBytes   = 256 << 10 // on the way to the client at a time: after Ctrl-C in a flood no more comes
	pingEvery     = 20 * time.Second
	stallLimit    = 30 * time.Second // for the answer to a ping
	writePatience = 30 * time.Second
	closeTime     = 5 * time.Second
	lastTime      = 5 * time.Second // for what is pending when the terminal ends
)

// viewer is one WebSocket that looks at a terminal.
//
// Each message is followed by a ping whose payload is how much was sent. The
// pong, which every WebSocket library sends by itself, tells how much has
// arrived, through any proxy.
type viewer struct {
	// set at construction
	ws   *websocket.Conn
	wake chan struct{} // there is something to do for the writer; capacity 1
	over chan struct{} // closed when the reader has ended

	size size // guarded by terminal.mu; zero until the client tells it

	mu       sync.Mutex
	pending  []byte    // guarded by mu; whole characters
	sent     int64     // guarded by mu; bytes of output
	arrived  int64     // guarded by mu; of those
	asked    time.Time // guarded by mu; since when an answer to a ping is due, zero when none is
	farewell *farewell // guarded by mu; what to do when nothing is pending
	until    time.Time // guarded by mu; for what is pending, once there is a farewell
}

// farewell is how a viewer is left.
type farewell struct {
	disconnect bool // say that the terminal is gone
	code       int
	reason     string
}

func newViewer(ws *websocket.Conn) *viewer {
	return &viewer{ws: ws, wake: make(chan struct{}, 1), over: make(chan struct{})}
}

// serve lets ws look at the terminal until either ends.
func (t *terminal) serve(ws *websocket.Conn) {
	v := newViewer(ws)
	if refusal := t.attach(v); refusal != "" {
		v.leave(&farewell{code: websocket.CloseTryAgainLater, reason: refusal})
	}
	var writing sync.WaitGroup
	writing.Go(func() {
		v.write(t.progress)
		// The client answers the close frame; it has only so long.
		_ = ws.NetConn().SetReadDeadline(time.Now().Add(closeTime))
	})
	ws.SetReadLimit(maxMessage)
	ws.SetPongHandler(func(payload string) error {
		v.acknowledge(payload)
		t.progress()
		return nil
	})
	for {
		_, b, err := ws.ReadMessage()
		if err != nil {
			break
		}
		switch r := parse(b); {
		case r.stdin != "":
			t.input(r.stdin)
		case r.size != size{}:
			t.resize(v, r.size)
		}
	}
	t.detach(v)
	close(v.over)
	_ = ws.NetConn().SetWriteDeadline(time.Now().Add(closeTime)) // the writer may be in the middle
	writing.Wait()
	_ = ws.Close()
}

// begin gives a new viewer what was printed before.
func (v *viewer) begin(replay string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.pending = append(v.pending, replay...)
	v.call()
}

// offer adds output. It reports false when the viewer is too slow, which then
// is told so.
func (v *viewer) offer(text string) bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	if len(v.pending)+len(text) > maxPending {
		v.dropLocked()
		return false
	}
	v.pending = append(v.pending, text...)
	v.call()
	return true
}

// drop leaves a viewer that is too slow, with what it has not got.
func (v *viewer) drop() {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.dropLocked()
}

func (v *viewer) dropLocked() {
	v.pending = nil
	v.farewell, v.until = &farewell{code: websocket.CloseTryAgainLater, reason: "too slow for the output; reconnect"}, time.Now().Add(closeTime)
	_ = v.ws.NetConn().SetWriteDeadline(v.until) // of a write under way
	v.call()
}

func (v *viewer) hasRoom() bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	return len(v.pending) < fullPending
}

// disconnect tells the viewer, behind all output, that the terminal is gone.
func (v *viewer) disconnect() {
	v.leave(&farewell{disconnect: true, code: websocket.CloseNormalClosure, reason: "the terminal has ended"})
}

func (v *viewer) leave(f *farewell) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.farewell == nil {
		v.farewell, v.until = f, time.Now().Add(lastTime)
		_ = v.ws.NetConn().SetWriteDeadline(v.until) // of a write under way
	}
	v.call()
}

// call wakes the writer.
func (v *viewer) call() {
	select {
	case v.wake <- struct{}{}:
	default:
	}
}

// acknowledge takes the payload of a pong. A client that lies about it only
// gets more than it can take.
func (v *viewer) acknowledge(payload string) {
	n, err := strconv.ParseInt(payload, 10, 64)
	v.mu.Lock()
	defer v.mu.Unlock()
	if err != nil || n < v.arrived || n > v.sent {
		return
	}
	v.arrived, v.asked = n, time.Now()
	if n == v.sent {
		v.asked = time.Time{}
	}
	v.call()
}

// next returns what to send now: output, or the farewell when all output was
// sent, or nothing.
func (v *viewer) next() (text string, f *farewell) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if len(v.pending) == 0 {
		return "", v.farewell
	}
	room := v.sent-v.arrived < windowBytes
	if !room && v.farewell == nil {
		return "", nil
	}
	n := min(len(v.pending), chunkBytes)
	for n < len(v.pending) && !utf8.RuneStart(v.pending[n]) {
		n--
	}
	text = string(v.pending[:n])
	v.pending = v.pending[:copy(v.pending, v.pending[n:])]
	v.sent += int64(n)
	return text, nil
}

// ping asks the client how far it is.
func (v *viewer) ping() error {
	v.mu.Lock()
	if v.asked.IsZero() {
		v.asked = time.Now()
	}
	sent := v.sent
	v.mu.Unlock()
	return v.ws.WriteControl(websocket.PingMessage, strconv.AppendInt(nil, sent, 10), time.Now().Add(writePatience))
}

// stalled reports whether the client is silent for too long.
func (v *viewer) stalled() bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	return !v.asked.IsZero() && time.Since(v.asked) > stallLimit
}

// write is the writer: all data frames are its.
func (v *viewer) write(progress func()) {
	tick := time.NewTicker(pingEvery)
	defer tick.Stop()
	err := v.send(setupMessage)
	for err == nil {
		text, f := v.next()
		switch {
		case text != "":
			if err = v.send(stdout(text)); err == nil {
				err = v.ping()
			}
			progress()
			continue
		case f != nil:
			v.bye(f)
			return
		}
		select {
		case <-v.wake:
		case <-v.over:
			return
		case <-tick.C:
			if v.stalled() {
				v.bye(&farewell{code: websocket.CloseTryAgainLater, reason: "no sign of life; reconnect"})
				return
			}
			err = v.ping()
		}
	}
	_ = v.ws.NetConn().Close() // wakes the reader
}

func (v *viewer) send(message []byte) error {
	v.mu.Lock()
	deadline := v.until
	v.mu.Unlock()
	if deadline.IsZero() {
		deadline = time.Now().Add(writePatience)
	}
	_ = v.ws.SetWriteDeadline(deadline)
	return v.ws.WriteMessage(websocket.TextMessage, message)
}

// bye sends the farewell, as far as the client takes it.
func (v *viewer) bye(f *farewell) {
	deadline := time.Now().Add(closeTime)
	_ = v.ws.SetWriteDeadline(deadline)
	if f.disconnect {
		_ = v.ws.WriteMessage(websocket.TextMessage, disconnectMessage)
	}
	_ = v.ws.WriteControl(websocket.CloseMessage, websocket.FormatCloseMessage(f.code, f.reason), deadline)
}
