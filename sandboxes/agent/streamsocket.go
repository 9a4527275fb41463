package agent

import (
	"context"
	"errors"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/gorilla/websocket"

	"kernelgw/sandboxes/agent/eventlog"
	"kernelgw/sandboxes/agentapi"
)

// maxStreamInput bounds a message of the client on a stream's WebSocket.
const maxStreamInput = 4 << 10

// streamSocket serves a follower over a WebSocket. What the client sends is read,
// so that it can say goodbye, and dropped.
func (a *Agent) streamSocket(w http.ResponseWriter, r *http.Request, f *follower) {
	var conn *corkedConn
	ws, err := upgrader.Upgrade(&corkingWriter{w, &conn}, r, nil)
	if err != nil {
		return // the upgrader has answered
	}
	defer conn.Close()
	defer context.AfterFunc(f.ctx, func() { conn.Close() })()
	out := newSocketOutlet(ws, conn, f, eventWriter{epoch: a.hub.epoch})
	written := make(chan struct{})
	go func() {
		defer close(written)
		switch all := f.run(a.over, out); {
		case all:
			out.end(websocket.CloseNormalClosure, "the kernel was shut down")
		case out.left.Load():
			out.end(websocket.CloseNoStatusReceived, "")
		default:
			conn.Close()
		}
	}()
	for err == nil {
		_, _, err = ws.NextReader()
	}
	var goodbye *websocket.CloseError
	if errors.As(err, &goodbye) {
		out.left.Store(true)
		f.wakeUp()
		defer time.AfterFunc(closeTime, f.cut).Stop()
	} else {
		f.cut()
	}
	<-written
}

// socketOutlet writes steps as the messages of a WebSocket.
type socketOutlet struct {
	// set at construction
	ws   *websocket.Conn
	conn *corkedConn

	pong atomic.Pointer[string] // owed to the client
	left atomic.Bool            // the client said goodbye

	// owned by the writer
	events eventWriter
	pinged time.Time
	taken  int // bytes, since the last sign of life by them
}

func newSocketOutlet(ws *websocket.Conn, conn *corkedConn, f *follower, events eventWriter) *socketOutlet {
	o := &socketOutlet{ws: ws, conn: conn, events: events, pinged: time.Now()}
	o.alive()
	conn.wrote = func(n int) {
		o.wrote(n)
		f.wrote(n)
	}
	ws.SetReadLimit(maxStreamInput)
	ws.SetPongHandler(func(string) error { o.alive(); return nil })
	ws.SetPingHandler(func(payload string) error {
		o.alive()
		o.pong.Store(&payload)
		f.wakeUp()
		return nil
	})
	// Answering a close frame is the writer's.
	ws.SetCloseHandler(func(int, string) error { return nil })
	return o
}

// alive gives the client time until its next sign of life.
func (o *socketOutlet) alive() { _ = o.conn.SetReadDeadline(time.Now().Add(silence)) }

// wrote counts what the connection took, as for sockets.
func (o *socketOutlet) wrote(n int) {
	if o.taken += n; o.taken >= signOfLife {
		o.taken = 0
		o.alive()
	}
	o.patient()
}

// patient gives the next piece of what is written the same time.
func (o *socketOutlet) patient() { _ = o.conn.Conn.SetWriteDeadline(time.Now().Add(silence)) }

func (o *socketOutlet) begin(at eventlog.Position) error {
	o.patient()
	w, err := o.ws.NextWriter(websocket.TextMessage)
	if err != nil {
		return err
	}
	if err := o.events.writePlace(w, at); err != nil {
		return err
	}
	return w.Close()
}

var errLeft = errors.New("the client left")

func (o *socketOutlet) event(s *step) error {
	if o.left.Load() {
		return errLeft
	}
	w, err := o.ws.NextWriter(websocket.TextMessage)
	if err != nil {
		return err
	}
	if err := o.events.write(w, s); err != nil {
		return err
	}
	if err := w.Close(); err != nil {
		return err
	}
	o.answer()
	if time.Since(o.pinged) >= agentapi.StreamBeat {
		o.ping()
	}
	return nil
}

// answer sends the pong that is owed. An error shows at the flush.
func (o *socketOutlet) answer() {
	if pong := o.pong.Swap(nil); pong != nil {
		_ = o.ws.WriteControl(websocket.PongMessage, []byte(*pong), time.Time{})
	}
}

// ping asks for a sign of life. An error shows at the flush.
func (o *socketOutlet) ping() {
	o.pinged = time.Now()
	_ = o.ws.WriteControl(websocket.PingMessage, nil, time.Time{})
}

func (o *socketOutlet) flush() error {
	if o.left.Load() {
		return errLeft
	}
	o.answer()
	o.patient()
	return o.conn.flush()
}

func (o *socketOutlet) beat() error {
	o.ping()
	return o.flush()
}

// end says goodbye. The reader ends with the client's answer, or without.
func (o *socketOutlet) end(code int, reason string) {
	_ = o.ws.WriteControl(websocket.CloseMessage, websocket.FormatCloseMessage(code, reason), time.Time{})
	_ = o.conn.SetReadDeadline(time.Now().Add(closeTime))
	if o.conn.flush() != nil {
		o.conn.Close()
	}
}
