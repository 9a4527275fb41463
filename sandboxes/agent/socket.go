package agent

import (
	"bytes"
	"errors"
	"io"
	"log/slog"
	"net"
	"runtime"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gorilla/websocket"

	"kernelgw/jupyter/wsproto"
	"kernelgw/sandboxes/agent/eventlog"
)

// socket is one WebSocket. Its writer follows the event log with a cursor, and
// has no queue of its own: a client that does not read costs nothing but its
// place in the log.
type socket struct {
	// set at construction
	hub      *hub
	client   *client // by hub.attach
	encoding wsproto.Encoding
	ws       *websocket.Conn
	conn     *corkedConn
	log      *slog.Logger

	wake    chan struct{} // something for the writer; capacity 1
	cutOnce sync.Once
	gone    chan struct{} // closed when the connection is cut

	alive atomic.Int64 // unix nanoseconds of the last sign of life
	paced              // closing: ending is set, or the connection is cut

	// owned by the writer
	cursor   eventlog.Cursor
	lastPing time.Time
	unpinged int       // messages written since the last ping
	volume   int       // their bytes
	since    time.Time // of the first of them
	parts    [][]byte  // scratch

	// owned by serve
	goodbye bool // the client said that it goes

	// guarded by the lock of conn
	lifeAt uint64 // written at the last sign of life by writing

	mu     sync.Mutex
	pings  []ping      // unanswered, oldest first; guarded by mu
	pong   []byte      // owed to the client, nil for none; guarded by mu
	ending *ending     // guarded by mu
	cutter *time.Timer // guarded by mu: cuts when ending takes too long
}

// ping is a place in the log that the client's pong will acknowledge.
type ping struct {
	seq    uint64
	cursor eventlog.Cursor
}

// ending is how a socket is to be closed.
type ending struct {
	code   int
	reason string
	drain  bool // not before all that is in the log was written
}

// Rules of acknowledgement and silence (design, "The streaming contract", 3).
const (
	pingMessages = 32
	pingBytes    = 64 << 10
	pingDelay    = 20 * time.Millisecond // after the first message without a ping; 50 at most
	pingSpacing  = 5 * time.Millisecond  // between pings that the quiet of a kernel allows at once
	pingSilence  = 20 * time.Second
	silence      = 75 * time.Second // without any sign of life; then the connection is cut
	signOfLife   = 256 << 10        // bytes that a peer took: more than a dead one's buffers grow by pings
	maxPings     = 1024
	drainTime    = 5 * time.Second
	closeTime    = time.Second // for a client to answer a close frame
)

// goodbyes are the close codes of clients that go. With others they mean to come
// back: they repeat what the gateway said, or have an error.
var goodbyes = []int{websocket.CloseNormalClosure, websocket.CloseGoingAway, websocket.CloseNoStatusReceived}

func newSocket(h *hub, ws *websocket.Conn, conn *corkedConn, enc wsproto.Encoding) *socket {
	s := &socket{hub: h, ws: ws, conn: conn, encoding: enc, log: h.log, wake: make(chan struct{}, 1), gone: make(chan struct{})}
	s.alive.Store(time.Now().UnixNano())
	conn.wrote = s.wrote
	ws.SetPongHandler(s.onPong)
	ws.SetPingHandler(s.onPing)
	// Answering a close frame is the writer's.
	ws.SetCloseHandler(func(int, string) error { return nil })
	return s
}

// serve reads until the connection ends. It joins the writer.
func (s *socket) serve(sessionID string) {
	// Before the answer to the handshake, which is still held back: once a client
	// has that, it misses nothing, and its next connection replaces this one and
	// not the other way round.
	s.hub.attach(s, sessionID)
	if s.conn.flush() != nil {
		s.cut()
		s.hub.detach(s)
		return
	}
	writer := make(chan struct{})
	go func() {
		defer close(writer)
		s.writeLoop()
	}()
	err := s.readLoop()
	var refused *closeError
	var closed *websocket.CloseError
	switch {
	case errors.As(err, &refused):
		s.log.Info("closing a connection", "code", refused.code, "reason", refused.reason)
		s.close(refused.code, refused.reason, false)
	case errors.As(err, &closed) && closed.Code != websocket.CloseAbnormalClosure:
		s.left()
		s.goodbye = slices.Contains(goodbyes, closed.Code)
		s.close(closed.Code, "", false)
	case errors.Is(err, net.ErrClosed) || errors.As(err, &closed):
		s.cut()
	default:
		// gorilla has put a close frame of its own where the writer flushes.
		s.close(websocket.CloseProtocolError, "", false)
	}
	<-writer
	s.cut()
	s.mu.Lock()
	if s.cutter != nil {
		s.cutter.Stop()
	}
	s.mu.Unlock()
	// Only now: the writer reads from the log under the name of a client that
	// may be forgotten with its socket.
	s.hub.detach(s)
}

// close makes the writer end the connection with a close frame. The first call
// counts.
func (s *socket) close(code int, reason string, drain bool) {
	s.mu.Lock()
	if s.ending == nil {
		s.ending = &ending{code, reason, drain}
		s.closing.Store(true)
		limit := closeTime
		if drain {
			limit += drainTime
		}
		s.cutter = time.AfterFunc(limit, s.cut)
	}
	s.mu.Unlock()
	s.wakeUp()
}

// left is called when the client said goodbye. JupyterLab's client does that as
// soon as it reads "restarting", before it acknowledges it, and comes back. To
// be told again would make it drop what it has asked the new kernel, and leave
// once more; so who leaves after that was written has it.
func (s *socket) left() {
	s.client.mu.Lock()
	s.client.seen = max(s.client.seen, s.client.told)
	s.client.mu.Unlock()
}

// cut ends the connection at once.
func (s *socket) cut() {
	s.cutOnce.Do(func() {
		s.closing.Store(true)
		s.conn.Close()
		close(s.gone)
	})
}

func (s *socket) wakeUp() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// wrote counts what the connection took.
func (s *socket) wrote(n int) {
	total := s.written.Add(uint64(n))
	if total-s.lifeAt >= signOfLife {
		s.lifeAt = total
		s.alive.Store(time.Now().UnixNano())
	}
	s.hub.pace.wrote()
}

func (s *socket) readLoop() error {
	var buf bytes.Buffer
	for ; ; release(&buf) {
		messageType, r, err := s.ws.NextReader()
		if err != nil {
			return err
		}
		s.alive.Store(time.Now().UnixNano())
		n, err := buf.ReadFrom(io.LimitReader(r, s.hub.maxMessage+1))
		if err != nil {
			return err
		}
		if n > s.hub.maxMessage {
			return tooLarge(s.hub.maxMessage)
		}
		m, err := wsproto.Decode(s.encoding, messageType == websocket.BinaryMessage, buf.Bytes())
		switch {
		case errors.Is(err, wsproto.ErrUnknownChannel):
			// The stream is intact; jupyter_server logs and goes on, too.
			s.hub.ignored.Add(1)
			s.log.Warn("ignoring a message", "reason", err.Error())
			continue
		case err != nil:
			// A client that lost its framing would only see cells hang.
			return &closeError{websocket.CloseInvalidFramePayloadData, err.Error()}
		}
		if err := s.hub.fromClient(s.client, &m); err != nil {
			return err
		}
	}
}

// release empties a buffer. A large one is given back now: the client may be
// silent for hours after it.
func release(buf *bytes.Buffer) {
	if buf.Cap() > 1<<20 {
		*buf = bytes.Buffer{}
	}
	buf.Reset()
}

// onPing is called by the reader; the writer answers.
func (s *socket) onPing(payload string) error {
	s.alive.Store(time.Now().UnixNano())
	s.mu.Lock()
	s.pong = []byte(payload)
	s.mu.Unlock()
	s.wakeUp()
	return nil
}

// onPong is called by the reader. What is no number that was sent says only
// that the client lives.
func (s *socket) onPong(payload string) error {
	s.alive.Store(time.Now().UnixNano())
	seq, err := strconv.ParseUint(payload, 10, 64)
	if err != nil {
		return nil
	}
	s.mu.Lock()
	var cursor eventlog.Cursor
	found := 0
	for found < len(s.pings) && s.pings[found].seq <= seq {
		cursor = s.pings[found].cursor
		found++
	}
	s.pings = append(s.pings[:0], s.pings[found:]...)
	s.mu.Unlock()
	if found > 0 {
		s.hub.acknowledged(s, cursor)
	}
	return nil
}

// writeLoop writes what the log has for the client until the connection ends.
func (s *socket) writeLoop() {
	timer := time.NewTimer(pingSilence)
	defer timer.Stop()
	s.lastPing = time.Now()
	var items []eventlog.Item[frame]
	for {
		if end := s.answer(); end != nil {
			s.finish(end)
			return
		}
		items = s.hub.events.Read(&s.cursor, s.client.id, pingMessages-s.unpinged, pingBytes-s.volume, items[:0])
		if err := s.write(items); err != nil {
			s.cut()
			return
		}
		clear(items) // do not keep messages that the log let go
		if len(items) > 0 {
			continue
		}
		if s.drained() {
			s.finish(s.end())
			return
		}
		wait := s.quiet(time.Now())
		if err := s.conn.flush(); err != nil {
			s.cut()
			return
		}
		timer.Reset(wait)
		select {
		case <-s.wake:
			// Let the kernel's other sockets be read first: what is there already
			// goes out with this.
			runtime.Gosched()
		case <-timer.C:
		case <-s.gone:
			return
		}
	}
}

// answer returns how to end, if that is due, after the pong that is owed.
func (s *socket) answer() *ending {
	s.mu.Lock()
	pong, end := s.pong, s.ending
	s.pong = nil
	s.mu.Unlock()
	if pong != nil {
		s.ws.WriteControl(websocket.PongMessage, pong, time.Time{}) // an error shows at the flush
	}
	if end != nil && !end.drain {
		return end
	}
	return nil
}

func (s *socket) end() *ending {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.ending
}

func (s *socket) drained() bool {
	end := s.end()
	return end != nil && end.drain
}

// write writes messages, with a ping behind every so many. The last of a batch
// are flushed when the log has no more.
func (s *socket) write(items []eventlog.Item[frame]) error {
	if len(items) == 0 {
		return nil
	}
	replayed := uint64(0)
	s.client.mu.Lock()
	sent, seen := s.client.sent, s.client.seen
	s.client.sent = max(sent, s.cursor.Seq())
	for i := range items {
		if e := &items[i].Entry; e.Value.restarting {
			s.client.told = e.Seq
		}
	}
	s.client.mu.Unlock()
	for i := range items {
		item := &items[i]
		if item.Lost.Messages > 0 {
			s.hub.dropped.Add(item.Lost.Messages)
			f := s.hub.marker(item.Lost)
			if err := s.writeFrame(&f); err != nil {
				return err
			}
		}
		if item.Entry.Seq <= seen { // or none, where only a loss is told
			continue
		}
		if item.Entry.Seq <= sent {
			replayed++
		}
		if err := s.writeFrame(&item.Entry.Value); err != nil {
			return err
		}
	}
	s.hub.replayed.Add(replayed)
	if s.unpinged == 0 {
		s.since = time.Now()
	}
	s.unpinged += len(items)
	if s.unpinged >= pingMessages || s.volume >= pingBytes || time.Since(s.since) >= pingDelay {
		if err := s.ping(time.Now()); err != nil {
			return err
		}
	}
	s.offset.Store(s.cursor.Offset())
	return nil
}

func (s *socket) writeFrame(f *frame) error {
	parts, binary := f.payload(s.encoding, s.parts[:0])
	size, err := s.conn.writeMessage(binary, parts)
	s.volume += size
	clear(parts) // do not keep what the log lets go
	s.parts = parts
	return err
}

// quiet is called when the log has no more: it pings if that is due, and
// returns for how long there is nothing to do.
func (s *socket) quiet(now time.Time) time.Duration {
	due := s.lastPing.Add(pingSilence)
	if s.unpinged > 0 {
		due = s.lastPing.Add(pingSpacing)
		if late := s.since.Add(pingDelay); late.Before(due) {
			due = late
		}
	}
	if wait := due.Sub(now); wait > 0 {
		return wait
	}
	s.ping(now) // an error shows at the flush
	return pingSilence
}

// ping asks the client to acknowledge all that was written before.
func (s *socket) ping(now time.Time) error {
	seq := s.cursor.Seq()
	s.mu.Lock()
	if len(s.pings) < maxPings {
		s.pings = append(s.pings, ping{seq, s.cursor})
	} else { // it does not answer; keep the newest
		s.pings[maxPings-1] = ping{seq, s.cursor}
	}
	s.mu.Unlock()
	s.lastPing, s.unpinged, s.volume = now, 0, 0
	return s.ws.WriteControl(websocket.PingMessage, strconv.AppendUint(nil, seq, 10), time.Time{})
}

// finish sends the close frame. The reader waits for the client's answer, and
// close has set the time when nobody waits any longer.
func (s *socket) finish(end *ending) {
	if s.unpinged > 0 {
		s.ping(time.Now())
	}
	s.ws.WriteControl(websocket.CloseMessage, websocket.FormatCloseMessage(end.code, shorten(end.reason)), time.Time{})
	if s.conn.flush() != nil {
		s.cut()
		return
	}
	// All is said: a client that reads nothing does not hold up the end.
	s.mu.Lock()
	if s.cutter != nil {
		s.cutter.Reset(closeTime)
	}
	s.mu.Unlock()
}

// shorten cuts a reason to what fits into a close frame.
func shorten(reason string) string {
	const most = 123
	if len(reason) <= most {
		return reason
	}
	cut := most
	for cut > 0 && reason[cut]&0xC0 == 0x80 { // not inside a rune
		cut--
	}
	return reason[:cut]
}
