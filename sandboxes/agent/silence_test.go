package agent

import (
	"context"
	"io"
	"net"
	"net/http"
	"strings"
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

// dialer makes a connection to an agent.
type dialer func(context.Context, string, string) (net.Conn, error)

// agentInBubble serves an agent without a kernel, all of it in a bubble of
// synctest, where waiting takes no time.
func agentInBubble(t *testing.T, test func(h *hub, dial dialer)) {
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
		test(a.hub, func(context.Context, string, string) (net.Conn, error) {
			ours, theirs := net.Pipe()
			l.conn <- theirs
			return ours, nil
		})
		server.Close()
		<-served
		synctest.Wait()
	})
}

// inBubble connects a client to such an agent.
func inBubble(t *testing.T, path string, test func(h *hub, ws *websocket.Conn)) {
	agentInBubble(t, func(h *hub, dial dialer) {
		d := websocket.Dialer{Subprotocols: []string{wsproto.Subprotocol}, NetDialContext: dial}
		ws, _, err := d.Dial("ws://agent"+path, http.Header{"Authorization": {"Bearer t"}})
		if err != nil {
			t.Fatal(err)
		}
		test(h, ws)
		ws.Close()
	})
}

const channelsPath, streamPath = "/v1/channels?session_id=s", "/v1/stream?from=0"

// nbclient gives up a connection on which nothing comes for 40 s.
func TestSilentConnectionIsPingedEveryTwentySeconds(t *testing.T) {
	inBubble(t, channelsPath, func(_ *hub, ws *websocket.Conn) {
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
	inBubble(t, channelsPath, func(h *hub, ws *websocket.Conn) {
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

func TestStreamIsPingedWhileItIsSilent(t *testing.T) {
	inBubble(t, streamPath, func(_ *hub, ws *websocket.Conn) {
		begin := time.Now()
		pings := 0
		ws.SetPingHandler(func(payload string) error {
			pings++
			return ws.WriteControl(websocket.PongMessage, []byte(payload), time.Now().Add(time.Second))
		})
		ws.SetReadDeadline(begin.Add(200 * time.Second))
		for {
			if _, _, err := ws.ReadMessage(); err != nil {
				break
			}
		}
		if took := time.Since(begin); pings != 13 || took != 200*time.Second {
			t.Errorf("%d pings in %v, want one every 15 s in all of 200", pings, took)
		}
	})
}

func TestStreamWithoutSignOfLifeIsCut(t *testing.T) {
	for name, read := range map[string]bool{"that is read": true, "that is not read": false} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, streamPath, func(h *hub, ws *websocket.Conn) {
				begin := time.Now()
				ws.SetPingHandler(func(string) error { return nil })
				h.events.Append(entry(streamMessage("x"), "", kindStream, false))
				h.wake()
				for read {
					if _, _, err := ws.ReadMessage(); err != nil {
						break
					}
				}
				for len(*h.followers.Load()) > 0 {
					time.Sleep(time.Second)
				}
				if took := time.Since(begin); took < 60*time.Second || took > 90*time.Second {
					t.Errorf("cut after %v, want 60 to 90 s", took)
				}
			})
		})
	}
}

// events connects without an HTTP client, which would read ahead.
func (dial dialer) events(t *testing.T) net.Conn {
	t.Helper()
	conn, err := dial(t.Context(), "", "")
	if err != nil {
		t.Fatal(err)
	}
	go conn.Write([]byte("GET " + streamPath + " HTTP/1.1\r\nHost: agent\r\nAuthorization: Bearer t\r\n\r\n"))
	return conn
}

func TestEventsHaveACommentWhileTheyAreSilent(t *testing.T) {
	agentInBubble(t, func(_ *hub, dial dialer) {
		conn := dial.events(t)
		defer conn.Close()
		begin := time.Now()
		conn.SetReadDeadline(begin.Add(100 * time.Second))
		all, _ := io.ReadAll(conn)
		if n := strings.Count(string(all), ": still here\n\n"); n != 6 || !strings.Contains(string(all), "id: ") {
			t.Errorf("%d comments in 100 s, want one every 15: %q", n, all)
		}
	})
}

func TestEventsThatAreNotReadAreCut(t *testing.T) {
	agentInBubble(t, func(h *hub, dial dialer) {
		conn := dial.events(t)
		defer conn.Close()
		begin := time.Now()
		if _, err := conn.Read(make([]byte, 10)); err != nil {
			t.Fatal(err)
		}
		for len(*h.followers.Load()) > 0 {
			time.Sleep(time.Second)
		}
		if took := time.Since(begin); took < 60*time.Second || took > 90*time.Second {
			t.Errorf("cut after %v, want 60 to 90 s", took)
		}
	})
}
