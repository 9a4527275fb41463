package splice

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	"golang.org/x/sys/unix"
)

// rig is a gateway that does nothing but splice, before an agent that is an
// HTTP server, both on real sockets.
type rig struct {
	url     string // ws:// or wss://
	tls     *tls.Config
	splices chan *Splice
	results chan Result
}

// newRig starts both. The agent listens on network, "unix" or "tcp".
func newRig(t testing.TB, network string, secure bool, opt Options, agent http.HandlerFunc) *rig {
	t.Helper()
	address := "127.0.0.1:0"
	if network == "unix" {
		address = filepath.Join(t.TempDir(), "a")
	}
	l, err := net.Listen(network, address)
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: agent}
	var wg sync.WaitGroup
	wg.Go(func() { _ = server.Serve(l) })

	g := &rig{splices: make(chan *Splice, 1000), results: make(chan Result, 1000)}
	handler := func(w http.ResponseWriter, r *http.Request) {
		conn, err := net.Dial(network, l.Addr().String())
		if err != nil {
			t.Error(err)
			return
		}
		up := Upgrade{Target: "/v1/channels?" + r.URL.RawQuery, Header: r.Header}
		s, err := Open(r.Context(), w, r, conn, up, opt)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadGateway)
			return
		}
		g.splices <- s
		wg.Go(func() { g.results <- s.Run() })
	}
	gateway := httptest.NewUnstartedServer(http.HandlerFunc(handler))
	if secure {
		gateway.StartTLS()
		g.tls = gateway.Client().Transport.(*http.Transport).TLSClientConfig
	} else {
		gateway.Start()
	}
	g.url = "ws" + strings.TrimPrefix(gateway.URL, "http")
	t.Cleanup(func() {
		close(g.splices)
		for s := range g.splices {
			s.End(Farewell{Code: 1012})
		}
		gateway.Close()
		_ = server.Close()
		wg.Wait()
	})
	return g
}

// recorder keeps what crosses a connection, and writes in random pieces.
type recorder struct {
	net.Conn
	rng     *rand.Rand // owned by the writer
	mu      sync.Mutex
	in, out bytes.Buffer
}

func (c *recorder) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.in.Write(b[:n])
	return n, err
}

func (c *recorder) Write(b []byte) (int, error) {
	c.mu.Lock()
	c.out.Write(b)
	c.mu.Unlock()
	for n := 0; n < len(b); {
		piece := min(len(b)-n, 1+c.rng.IntN(1<<c.rng.IntN(18)))
		m, err := c.Conn.Write(b[n : n+piece])
		n += m
		if err != nil {
			return n, err
		}
	}
	return len(b), nil
}

// streams returns what came in and went out after the handshake.
func (c *recorder) streams(t *testing.T) (in, out []byte) {
	t.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	// net/http read the request to the agent before it was taken over.
	end := []byte("\r\n\r\n")
	in, out = bytes.Clone(c.in.Bytes()), bytes.Clone(c.out.Bytes())
	if _, rest, ok := bytes.Cut(in, end); ok && bytes.HasPrefix(in, []byte("HTTP/1.1 101 ")) {
		in = rest
	}
	_, out, ok := bytes.Cut(out, end)
	if !ok {
		t.Fatal("no handshake was recorded")
	}
	return in, out
}

// randomTalk sends n messages of random kinds and sizes, pings among them and
// some in fragments, and then a close frame.
func randomTalk(c *websocket.Conn, rng *rand.Rand, n int) error {
	for range n {
		size := rng.IntN(1 << rng.IntN(19))
		kind := websocket.BinaryMessage
		if rng.IntN(2) == 0 {
			kind = websocket.TextMessage
		}
		w, err := c.NextWriter(kind)
		if err != nil {
			return err
		}
		for size > 0 {
			piece := min(size, 1+rng.IntN(100_000))
			if _, err := w.Write(bytes.Repeat([]byte{'a' + byte(rng.IntN(26))}, piece)); err != nil {
				return err
			}
			size -= piece
			if rng.IntN(4) == 0 {
				if err := c.WriteControl(websocket.PingMessage, make([]byte, rng.IntN(126)), time.Time{}); err != nil {
					return err
				}
			}
		}
		if err := w.Close(); err != nil {
			return err
		}
	}
	return c.WriteControl(websocket.CloseMessage, websocket.FormatCloseMessage(1000, ""), time.Time{})
}

// drainAll reads until the peer's close frame and returns how many messages came.
func drainAll(c *websocket.Conn) (n int, err error) {
	c.SetCloseHandler(func(int, string) error { return nil })
	c.SetPingHandler(func(string) error { return nil })
	for {
		if _, _, err = c.ReadMessage(); err != nil {
			if websocket.IsCloseError(err, 1000) {
				err = nil
			}
			return n, err
		}
		n++
	}
}

// Two gorilla peers talk at once through the splice, in random frames that
// arrive in random pieces; what each read is what the other wrote, to the byte.
func TestStreamsAreIdentical(t *testing.T) {
	for _, tc := range []struct {
		name, network string
		secure        bool
	}{{"unix", "unix", false}, {"tcp", "tcp", false}, {"TLS client", "unix", true}} {
		t.Run(tc.name, func(t *testing.T) {
			const messages = 150
			seed := rand.Uint64()
			t.Logf("seed %d", seed)
			type outcome struct {
				conn *recorder
				got  int
				err  error
			}
			talk := func(c *websocket.Conn, conn *recorder, seed uint64) outcome {
				sent := make(chan error, 1)
				go func() { sent <- randomTalk(c, rand.New(rand.NewPCG(seed, 1)), messages) }()
				got, err := drainAll(c)
				return outcome{conn, got, errors.Join(err, <-sent)}
			}
			atAgent := make(chan outcome, 1)
			g := newRig(t, tc.network, tc.secure, Options{}, func(w http.ResponseWriter, r *http.Request) {
				rec := &recorder{rng: rand.New(rand.NewPCG(seed, 2))}
				up := websocket.Upgrader{ReadBufferSize: 4096, WriteBufferSize: 1 << 16, CheckOrigin: func(*http.Request) bool { return true }}
				c, err := up.Upgrade(recordingWriter{w, rec}, r, nil)
				if err != nil {
					t.Error(err)
					return
				}
				defer c.Close()
				atAgent <- talk(c, rec, seed+1)
			})
			rec := &recorder{rng: rand.New(rand.NewPCG(seed, 3))}
			dialer := websocket.Dialer{WriteBufferSize: 300, NetDialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
				conn, err := (&net.Dialer{}).DialContext(ctx, network, addr)
				rec.Conn = conn
				return rec, err
			}}
			if tc.secure {
				dialer.NetDialTLSContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
					conn, err := (&tls.Dialer{Config: g.tls}).DialContext(ctx, network, addr)
					rec.Conn = conn
					return rec, err
				}
			}
			c, _, err := dialer.Dial(g.url+"/?session_id=1", nil)
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			client, agent := talk(c, rec, seed+2), <-atAgent
			if client.err != nil || agent.err != nil || client.got != messages || agent.got != messages {
				t.Fatalf("client got %d messages, %v; agent %d, %v", client.got, client.err, agent.got, agent.err)
			}
			clientIn, clientOut := client.conn.streams(t)
			agentIn, agentOut := agent.conn.streams(t)
			if !bytes.Equal(clientIn, agentOut) {
				t.Errorf("the client read %d bytes that differ from the %d of the agent", len(clientIn), len(agentOut))
			}
			if !bytes.Equal(agentIn, clientOut) {
				t.Errorf("the agent read %d bytes that differ from the %d of the client", len(agentIn), len(clientOut))
			}
			r := <-g.results
			if r.MessagesToClient != messages || r.MessagesToAgent != messages ||
				r.BytesToClient != int64(len(agentOut)) || r.BytesToAgent != int64(len(clientOut)) {
				t.Errorf("counted %+v; the streams have %d and %d bytes", r, len(agentOut), len(clientOut))
			}
		})
	}
}

// recordingWriter puts a recorder under a connection that is taken over.
type recordingWriter struct {
	http.ResponseWriter
	rec *recorder
}

func (w recordingWriter) Hijack() (conn net.Conn, buf *bufio.ReadWriter, err error) {
	conn, buf, err = http.NewResponseController(w.ResponseWriter).Hijack()
	w.rec.Conn = conn
	return w.rec, buf, err
}

// echoAgent answers each message with itself.
func echoAgent(t testing.TB) http.HandlerFunc {
	up := websocket.Upgrader{CheckOrigin: func(*http.Request) bool { return true }}
	return func(w http.ResponseWriter, r *http.Request) {
		c, err := up.Upgrade(w, r, nil)
		if err != nil {
			t.Error(err)
			return
		}
		defer c.Close()
		for {
			kind, b, err := c.ReadMessage()
			if err != nil {
				return
			}
			if err := c.WriteMessage(kind, b); err != nil {
				return
			}
		}
	}
}

func TestDrainIsSeenByARealClientAs1012(t *testing.T) {
	for _, secure := range []bool{false, true} {
		g := newRig(t, "unix", secure, Options{}, echoAgent(t))
		c, _, err := (&websocket.Dialer{TLSClientConfig: g.tls}).Dial(g.url, nil)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if err := c.WriteMessage(websocket.TextMessage, hello); err != nil {
			t.Fatal(err)
		}
		if _, b, err := c.ReadMessage(); err != nil || !bytes.Equal(b, hello) {
			t.Fatalf("echo %q, %v", b, err)
		}
		s := <-g.splices
		s.End(Farewell{Message: []byte("last"), Code: 1012, Reason: "the gateway restarts"})
		if _, b, err := c.ReadMessage(); err != nil || string(b) != "last" {
			t.Fatalf("last message %q, %v", b, err)
		}
		_, _, err = c.ReadMessage()
		var e *websocket.CloseError
		if !errors.As(err, &e) || e.Code != 1012 || e.Text != "the gateway restarts" {
			t.Errorf("closed with %v", err)
		}
		if r := <-g.results; r.By != Gateway || r.Code != 1012 || r.Err != nil {
			t.Errorf("result %+v", r)
		}
	}
}

func TestClientThatDoesNotReadIsCutOnRealSockets(t *testing.T) {
	g := newRig(t, "unix", false, Options{StallLimit: 200 * time.Millisecond}, func(w http.ResponseWriter, r *http.Request) {
		c, err := (&websocket.Upgrader{}).Upgrade(w, r, nil)
		if err != nil {
			t.Error(err)
			return
		}
		defer c.Close()
		for { // far more than the sockets hold
			if c.WriteMessage(websocket.BinaryMessage, make([]byte, 1<<20)) != nil {
				return
			}
		}
	})
	c, _, err := websocket.DefaultDialer.Dial(g.url, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if r := <-g.results; r.By != Client || r.Code != 1006 || r.Err == nil {
		t.Errorf("result %+v", r)
	}
}

// A client that has closed its half and reads nothing would otherwise hold its
// connection, and what is stuck in it, for the whole stall limit.
func TestClientThatHangsUpWhileItsOutputIsStuck(t *testing.T) {
	client, agent := sockets(t)
	go func() {
		for { // far more than the sockets hold; ends when the splice does
			if _, err := agent.Write(frame(Agent, 0x82, make([]byte, 1<<16))); err != nil {
				return
			}
		}
	}()
	// The agent is stuck when no byte has crossed for a while; until then wait.
	raw, err := client.(*net.TCPConn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	for last, same := -1, 0; same < 5; time.Sleep(20 * time.Millisecond) {
		var waiting int
		if err := raw.Control(func(fd uintptr) { waiting, err = unix.IoctlGetInt(int(fd), unix.TIOCINQ) }); err != nil {
			t.Fatal(err)
		}
		if same++; waiting != last {
			last, same = waiting, 0
		}
	}
	if err := client.(*net.TCPConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	// The agent's end is closed by the splice.
	_ = agent.SetReadDeadline(time.Now().Add(30 * time.Second))
	if _, err := agent.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("the agent read: %v", err)
	}
}

func TestRefusedUpgradeIsLeftToTheHandler(t *testing.T) {
	g := newRig(t, "unix", false, Options{}, func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "starting", http.StatusServiceUnavailable) })
	_, resp, err := websocket.DefaultDialer.Dial(g.url, nil)
	if err == nil || resp == nil || resp.StatusCode != http.StatusBadGateway {
		t.Fatalf("got %v, %v", resp, err)
	}
	body, _ := io.ReadAll(resp.Body)
	if !strings.Contains(string(body), "it answered 503") {
		t.Errorf("body %q", body)
	}
}
