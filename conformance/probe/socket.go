package probe

import (
	"crypto/rand"
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gorilla/websocket"
)

// Dialing says how to open a kernel's WebSocket.
type Dialing struct {
	Session  string        // session_id of the URL; "" sends none
	Legacy   bool          // offer no subprotocol
	Token    string        // sent as ?token=; "" sends the server's as a header
	NoToken  bool          // send no credentials at all
	Header   http.Header   // more headers
	RawQuery string        // appended to the query as it is
	Within   time.Duration // how long the handshake may take; Patience when zero
}

// Socket is an open kernel WebSocket. One test goroutine uses it at a time.
type Socket struct {
	Protocol string // the subprotocol that the server chose
	conn     *websocket.Conn
	session  string // of the messages sent
	done     chan struct{}

	mu      sync.Mutex // guards the rest
	queue   []Message
	arrived chan struct{} // closed and replaced when the queue grows
	err     error         // why reading ended
}

// ID returns a random identifier in the form of a UUID.
func ID() string {
	const hex = "0123456789abcdef"
	b := make([]byte, 36)
	_, _ = rand.Read(b) // never fails
	for i := range b {
		b[i] = hex[b[i]&15]
	}
	b[8], b[13], b[18], b[23], b[14], b[19] = '-', '-', '-', '-', '4', 'a'
	return string(b)
}

// TryDial opens the channels of a kernel, or returns the HTTP answer that was
// given instead of an upgrade.
func (s *Server) TryDial(t testing.TB, kernel string, d Dialing) (*Socket, *http.Response, error) {
	t.Helper()
	target := "ws" + strings.TrimPrefix(s.Base, "http") + "api/kernels/" + kernel + "/channels"
	query := url.Values{}
	header := http.Header{}
	for k, v := range d.Header {
		header[k] = v
	}
	if d.Session != "" {
		query.Set("session_id", d.Session)
	}
	switch {
	case d.NoToken:
	case d.Token != "":
		query.Set("token", d.Token)
	case s.Token != "":
		header.Set("Authorization", "token "+s.Token)
	}
	raw := query.Encode()
	if d.RawQuery != "" {
		raw = strings.TrimPrefix(raw+"&"+d.RawQuery, "&")
	}
	if raw != "" {
		target += "?" + raw
	}
	if d.Within == 0 {
		d.Within = Patience
	}
	dialer := websocket.Dialer{HandshakeTimeout: d.Within, ReadBufferSize: 64 << 10}
	if !d.Legacy {
		dialer.Subprotocols = []string{Subprotocol}
	}
	conn, resp, err := dialer.DialContext(t.Context(), target, header)
	if err != nil {
		return nil, resp, err
	}
	w := &Socket{
		Protocol: conn.Subprotocol(), conn: conn, session: d.Session,
		done: make(chan struct{}), arrived: make(chan struct{}),
	}
	if w.session == "" {
		w.session = ID()
	}
	answerPings(conn)
	go w.read()
	t.Cleanup(w.Drop)
	return w, resp, nil
}

// answerPings gives answers the time that everything has: the library's own end
// the connection when a busy machine takes a second for one. What cannot be
// answered ends nothing: what the server said last is still to be read.
func answerPings(conn *websocket.Conn) {
	conn.SetPingHandler(func(payload string) error {
		_ = conn.WriteControl(websocket.PongMessage, []byte(payload), time.Now().Add(Patience))
		return nil
	})
}

// Dial is TryDial for a kernel that must be there.
func (s *Server) Dial(t testing.TB, kernel string, d Dialing) *Socket {
	t.Helper()
	w, resp, err := s.TryDial(t, kernel, d)
	if err != nil {
		status := 0
		if resp != nil {
			status = resp.StatusCode
		}
		t.Fatalf("cannot open the channels of kernel %s: %v (status %d)", kernel, err, status)
	}
	return w
}

// undecodable is the error of a frame that no client could read.
type undecodable struct{ error }

func (w *Socket) read() {
	defer close(w.done)
	for {
		kind, frame, err := w.conn.ReadMessage()
		var m Message
		if err == nil {
			if m, err = decode(kind, frame, w.Protocol == Subprotocol); err != nil {
				err = undecodable{err}
			}
		}
		w.mu.Lock()
		if err != nil {
			w.err = err
		} else {
			w.queue = append(w.queue, m)
		}
		close(w.arrived)
		w.arrived = make(chan struct{})
		w.mu.Unlock()
		if err != nil {
			return
		}
	}
}

// TryNext returns the next message, or the error that ended reading, or
// ErrSilence after the time given.
func (w *Socket) TryNext(within time.Duration) (Message, error) {
	timer := time.NewTimer(within)
	defer timer.Stop()
	for {
		w.mu.Lock()
		if len(w.queue) > 0 {
			m := w.queue[0]
			w.queue = w.queue[1:]
			w.mu.Unlock()
			return m, nil
		}
		err, arrived := w.err, w.arrived
		w.mu.Unlock()
		if err != nil {
			return Message{}, err
		}
		select {
		case <-arrived:
		case <-timer.C:
			return Message{}, ErrSilence
		}
	}
}

// ErrSilence says that no message came in time.
var ErrSilence = errors.New("no message in time")

// Wait returns the first message that matches and all that came before it.
func (w *Socket) Wait(t testing.TB, within time.Duration, what string, match func(Message) bool) (Message, []Message) {
	t.Helper()
	deadline := time.Now().Add(within)
	var before []Message
	for {
		m, err := w.TryNext(time.Until(deadline))
		if err != nil {
			t.Fatalf("waiting %v for %s: %v; got %s", within, what, err, Summary(before))
		}
		if match(m) {
			return m, before
		}
		before = append(before, m)
	}
}

// WaitClosed reads to the end of the socket and returns the close code and
// reason: 1006 for a connection that broke without a close frame.
func (w *Socket) WaitClosed(t testing.TB, within time.Duration) (code int, reason string) {
	t.Helper()
	select {
	case <-w.done:
	case <-time.After(within):
		t.Fatalf("the socket was still open after %v", within)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	var closed *websocket.CloseError
	if errors.As(w.err, &closed) {
		return closed.Code, closed.Text
	}
	if bad := (undecodable{}); errors.As(w.err, &bad) {
		t.Fatalf("the socket brought what no client can read: %v", bad)
	}
	return websocket.CloseAbnormalClosure, w.err.Error()
}

// Drop breaks the connection without a word, as a lost network does.
func (w *Socket) Drop() {
	if tcp, ok := w.conn.NetConn().(*net.TCPConn); ok {
		_ = tcp.SetLinger(0)
	}
	_ = w.conn.Close()
	<-w.done
}

// Close ends the connection with a close frame, as a closed tab does.
func (w *Socket) Close() {
	_ = w.conn.WriteControl(websocket.CloseMessage,
		websocket.FormatCloseMessage(websocket.CloseNormalClosure, ""), time.Now().Add(time.Second))
	select {
	case <-w.done:
	case <-time.After(5 * time.Second):
	}
	w.Drop()
}

// WriteFrame sends bytes as one frame of the given kind.
func (w *Socket) WriteFrame(kind int, frame []byte) error { return w.conn.WriteMessage(kind, frame) }

// Outgoing is a message to send. A zero Header gets all that clients send.
type Outgoing struct {
	Channel  string
	Type     string
	Header   map[string]any // replaces single fields; nil values remove them
	Parent   any
	Metadata any
	Content  any
	Buffers  [][]byte
}

// Send sends a message in the socket's encoding and returns its msg_id.
func (w *Socket) Send(t testing.TB, o Outgoing) string {
	t.Helper()
	id := ID()
	header := map[string]any{
		"msg_id": id, "msg_type": o.Type, "session": w.session, "username": "",
		"date": time.Now().UTC().Format("2006-01-02T15:04:05.000Z"), "version": "5.2",
	}
	for k, v := range o.Header {
		if v == nil {
			delete(header, k)
		} else {
			header[k] = v
		}
	}
	object := func(v any) json.RawMessage {
		if v == nil {
			return json.RawMessage("{}")
		}
		b, err := json.Marshal(v)
		if err != nil {
			t.Fatalf("cannot encode %s: %v", o.Type, err)
		}
		return b
	}
	if w.Protocol == Subprotocol {
		parts := append([][]byte{[]byte(o.Channel), object(header), object(o.Parent), object(o.Metadata), object(o.Content)}, o.Buffers...)
		w.write(t, websocket.BinaryMessage, EncodeV1(parts...))
		return id
	}
	body := object(legacy{
		Channel: o.Channel, Header: object(header), Parent: object(o.Parent),
		Metadata: object(o.Metadata), Content: object(o.Content), Buffers: []any{},
	})
	if len(o.Buffers) == 0 {
		w.write(t, websocket.TextMessage, body)
	} else {
		w.write(t, websocket.BinaryMessage, EncodeBinary(append([][]byte{body}, o.Buffers...)...))
	}
	return id
}

func (w *Socket) write(t testing.TB, kind int, frame []byte) {
	t.Helper()
	if err := w.conn.WriteMessage(kind, frame); err != nil {
		t.Fatalf("cannot send: %v", err)
	}
}

// Summary lists messages in few words, for failures.
func Summary(messages []Message) string {
	if len(messages) == 0 {
		return "nothing"
	}
	var b strings.Builder
	for i, m := range messages {
		if i == 12 {
			b.WriteString(" ...")
			break
		}
		b.WriteString(" " + m.Channel + "/" + m.Header.MsgType)
		if state := m.State(); state != "" {
			b.WriteString("=" + state)
		}
	}
	return b.String()
}
