package agent

import (
	"bytes"
	"fmt"
	"net/http"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	"golang.org/x/sys/unix"

	"kernelgw/jupyter"
	"kernelgw/jupyter/wsproto"
)

// BenchmarkStream is the whole way: kernel process, ZeroMQ, log, WebSocket,
// with the client in this process too. us-cpu/msg is what this process spends
// on a message, the client's part included.
func BenchmarkStream(b *testing.B) {
	for _, c := range []struct {
		size    int
		enc     wsproto.Encoding
		clients int
	}{
		{100, wsproto.V1, 1}, {100, wsproto.Legacy, 1}, {1 << 10, wsproto.V1, 1}, {64 << 10, wsproto.V1, 1}, {1 << 20, wsproto.V1, 1}, {100, wsproto.V1, 20},
	} {
		b.Run(fmt.Sprintf("%s-%d-clients-%d", c.enc, c.size, c.clients), func(b *testing.B) {
			r := start(b, nil)
			r.ready()
			clients := make([]*websocket.Conn, c.clients)
			for i := range clients {
				clients[i] = r.raw(b, fmt.Sprint("s", i), c.enc)
			}
			code := fmt.Sprintf("print %d %d", b.N, c.size)
			m, _ := jupyter.NewMessage(jupyter.Shell, "execute_request", "bench", map[string]any{"code": code, "silent": false})
			p, _ := wsproto.Append(nil, wsproto.V1, m)
			kind := websocket.BinaryMessage
			if c.enc != wsproto.V1 {
				p, _ = wsproto.Append(nil, wsproto.Legacy, m)
				kind = websocket.TextMessage
			}
			b.SetBytes(int64(c.size))
			before := cpu()
			b.ResetTimer()
			if err := clients[0].WriteMessage(kind, p); err != nil {
				b.Fatal(err)
			}
			done := make(chan int, len(clients))
			for _, ws := range clients {
				go func() { done <- drainUntilIdle(ws) }()
			}
			for range clients {
				if n := <-done; n < b.N {
					b.Errorf("%d messages of %d came", n, b.N)
				}
			}
			b.StopTimer()
			b.ReportMetric(float64(cpu()-before)/1e3/float64(b.N*c.clients), "us-cpu/msg")
			b.ReportMetric(float64(b.N*c.clients)/b.Elapsed().Seconds(), "msg/s")
			for _, ws := range clients {
				ws.Close()
			}
		})
	}
}

// drainUntilIdle counts messages until the idle of the cell.
func drainUntilIdle(ws *websocket.Conn) int {
	buf := make([]byte, 32<<10)
	n := 0
	for {
		_, r, err := ws.NextReader()
		if err != nil {
			return -1
		}
		n++
		size, last := 0, 0
		for {
			k, err := r.Read(buf)
			size += k
			if k > 0 {
				last = k
			}
			if err != nil {
				break
			}
		}
		if size < 2000 && bytes.Contains(buf[:last], []byte(`"idle"`)) {
			return n
		}
	}
}

// raw connects without a reader.
func (r *running) raw(b *testing.B, session string, enc wsproto.Encoding) *websocket.Conn {
	b.Helper()
	d := websocket.Dialer{NetDialContext: r.dialContext, ReadBufferSize: 64 << 10}
	if enc == wsproto.V1 {
		d.Subprotocols = []string{wsproto.Subprotocol}
	}
	ws, _, err := d.Dial("ws://agent/v1/channels?session_id="+session, http.Header{"Authorization": {"Bearer " + testToken}})
	if err != nil {
		b.Fatal(err)
	}
	return ws
}

func cpu() time.Duration {
	var u unix.Rusage
	if unix.Getrusage(unix.RUSAGE_SELF, &u) != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkExecute is the round trip of a cell that does nothing.
func BenchmarkExecute(b *testing.B) {
	r := start(b, nil)
	r.ready()
	ws := r.raw(b, "s", wsproto.V1)
	defer ws.Close()
	b.ResetTimer()
	for range b.N {
		m, _ := jupyter.NewMessage(jupyter.Shell, "execute_request", "bench", map[string]any{"code": "", "silent": false})
		p, _ := wsproto.Append(nil, wsproto.V1, m)
		if err := ws.WriteMessage(websocket.BinaryMessage, p); err != nil {
			b.Fatal(err)
		}
		for idle, reply := false, false; !idle || !reply; {
			_, p, err := ws.ReadMessage()
			if err != nil {
				b.Fatal(err)
			}
			f := frame{v1: p}
			reply = reply || bytes.Contains(f.part(1), []byte(`execute_reply`))
			idle = idle || bytes.Contains(f.part(4), []byte(`"idle"`))
		}
	}
}
