package probe

import (
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/websocket"
)

// Plain is an open WebSocket of text frames that hold JSON and no kernel's
// messages: a terminal, or the events of the server. One test goroutine uses
// it at a time.
type Plain struct {
	conn   *websocket.Conn
	frames chan json.RawMessage // closed when reading ended
	err    error                // why, once frames is closed
}

// TryPlain opens a WebSocket at a path of the server, or returns the HTTP
// answer that was given instead of an upgrade. A nil header sends the token.
func (s *Server) TryPlain(t testing.TB, path string, header http.Header) (*Plain, *http.Response, error) {
	t.Helper()
	if header == nil {
		header = http.Header{"Authorization": {"token " + s.Token}}
	}
	dialer := websocket.Dialer{HandshakeTimeout: Patience}
	conn, resp, err := dialer.DialContext(t.Context(), "ws"+strings.TrimPrefix(s.Base, "http")+path, header)
	if err != nil {
		return nil, resp, err
	}
	w := &Plain{conn: conn, frames: make(chan json.RawMessage, 10_000)}
	answerPings(conn)
	go w.read()
	t.Cleanup(w.Close)
	return w, resp, nil
}

// Plain is TryPlain for a path that must be there.
func (s *Server) Plain(t testing.TB, path string) *Plain {
	t.Helper()
	w, resp, err := s.TryPlain(t, path, nil)
	if err != nil {
		status := 0
		if resp != nil {
			status = resp.StatusCode
		}
		t.Fatalf("cannot open the socket %s: %v (status %d)", path, err, status)
	}
	return w
}

func (w *Plain) read() {
	defer close(w.frames)
	for {
		_, frame, err := w.conn.ReadMessage()
		if err != nil {
			w.err = err
			return
		}
		w.frames <- frame
	}
}

// Next returns the next frame.
func (w *Plain) Next(t testing.TB, within time.Duration) json.RawMessage {
	t.Helper()
	frame, ok := w.Within(t, within)
	if !ok {
		t.Fatalf("no frame within %v", within)
	}
	return frame
}

// Within returns the next frame, or ok false when none comes in time.
func (w *Plain) Within(t testing.TB, within time.Duration) (frame json.RawMessage, ok bool) {
	t.Helper()
	select {
	case frame, ok = <-w.frames:
		if !ok {
			t.Fatalf("the socket ended: %v", w.err)
		}
		return frame, true
	case <-time.After(within):
		return nil, false
	}
}

// Frames returns the frames as they come; the channel is closed at the end.
func (w *Plain) Frames() <-chan json.RawMessage { return w.frames }

// WaitClosed reads to the end and returns the close code.
func (w *Plain) WaitClosed(t testing.TB, within time.Duration) int {
	t.Helper()
	late := time.After(within)
	for {
		select {
		case _, ok := <-w.frames:
			if ok {
				continue
			}
			var closed *websocket.CloseError
			if errors.As(w.err, &closed) {
				return closed.Code
			}
			return websocket.CloseAbnormalClosure
		case <-late:
			t.Fatalf("the socket was still open after %v", within)
		}
	}
}

// Send sends a value as JSON, or a string as it is.
func (w *Plain) Send(t testing.TB, v any) {
	t.Helper()
	frame, raw := v.(string)
	if !raw {
		encoded, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		frame = string(encoded)
	}
	if err := w.conn.WriteMessage(websocket.TextMessage, []byte(frame)); err != nil {
		t.Fatalf("cannot send: %v", err)
	}
}

// Close breaks the connection without a word and waits for the reader.
func (w *Plain) Close() {
	_ = w.conn.Close()
	for range w.frames { //nolint:revive // until the reader has ended
	}
}

// Query returns the path with a value added to its query.
func Query(path, key, value string) string {
	return path + "?" + url.Values{key: {value}}.Encode()
}
