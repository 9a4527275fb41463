package agent

import (
	"context"
	"net"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gorilla/websocket"

	"kernelgw/jupyter"
	"kernelgw/jupyter/wsproto"
	"kernelgw/sandboxes/agentapi"
)

// oneConn is a listener that accepts one connection.
type oneConn struct {
	conn   chan net.Conn
	closed chan struct{}
}

func (l *oneConn) Accept() (net.Conn, error) {
	select {
	case conn := <-l.conn:
		return conn, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}
func (l *oneConn) Close() error   { close(l.closed); return nil }
func (l *oneConn) Addr() net.Addr { return &net.UnixAddr{} }

// inBubble connects a client to a hub without a kernel, all of it in a bubble
// of synctest, where waiting takes no time.
func inBubble(t *testing.T, test func(h *hub, ws *websocket.Conn)) {
	synctest.Test(t, func(t *testing.T) {
		l := &oneConn{make(chan net.Conn, 1), make(chan struct{})}
		o, err := (Options{
			Config: agentapi.Config{Token: "t", Spec: jupyter.Kernelspec{Argv: []string{"never started"}}}, Listener: l,
		}).withDefaults()
		if err != nil {
			t.Fatal(err)
		}
		a, err := New(o)
		if err != nil {
			t.Fatal(err)
		}
		server := a.server()
		served := make(chan struct{})
		go func() { defer close(served); server.Serve(l) }()
		d := websocket.Dialer{
			Subprotocols: []string{wsproto.Subprotocol},
			NetDialContext: func(context.Context, string, string) (net.Conn, error) {
				ours, theirs := net.Pipe()
				l.conn <- theirs
				return ours, nil
			},
		}
		ws, _, err := d.Dial("ws://agent/v1/channels?session_id=s", http.Header{"Authorization": {"Bearer t"}})
		if err != nil {
			t.Fatal(err)
		}
		test(a.hub, ws)
		ws.Close()
		server.Close()
		<-served
		synctest.Wait()
	})
}

// nbclient gives up a connection on which nothing comes for 40 s.
func TestSilentConnectionIsPingedEveryTwentySeconds(t *testing.T) {
	inBubble(t, func(_ *hub, ws *websocket.Conn) {
		var pings []time.Duration
		begin := time.Now()
		ws.SetPingHandler(func(payload string) error {
			pings = append(pings, time.Since(begin))
			return ws.WriteControl(websocket.PongMessage, []byte(payload), time.Now().Add(time.Second))
		})
		ws.SetReadDeadline(begin.Add(70 * time.Second))
		ws.ReadMessage()
		if len(pings) != 3 || pings[0] > 21*time.Second || pings[2] > 62*time.Second {
			t.Errorf("pings after %v, want three, 20 s apart", pings)
		}
	})
}

func TestConnectionWithoutPongsIsCut(t *testing.T) {
	inBubble(t, func(h *hub, ws *websocket.Conn) {
		begin := time.Now()
		ws.SetPingHandler(func(string) error { return nil })
		done := make(chan struct{})
		go func() {
			defer close(done)
			ws.ReadMessage()
		}()
		for open := true; open; {
			select {
			case <-done:
				open = false
			case <-time.After(5 * time.Second):
				h.tick(time.Now())
			}
		}
		if took := time.Since(begin); took < 60*time.Second || took > 90*time.Second {
			t.Errorf("cut after %v, want 60 to 90 s", took)
		}
	})
}
