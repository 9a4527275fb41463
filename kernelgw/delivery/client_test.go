package delivery

import (
	"context"
	"net"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/gorilla/websocket"

	"kernelgw/jupyter"
	"kernelgw/jupyter/jupytertest"
	"kernelgw/jupyter/wsproto"
)

// session is one session_id as its client lives through it: one connection after
// the other.
type session struct {
	w     *world
	id    string // the session_id, and that of the headers of its messages
	enc   wsproto.Encoding
	conns []*connection // the last is the one of now
	first string        // the id of its first request
}

// connection is one WebSocket, and all that it brought.
type connection struct {
	ws    *websocket.Conn
	w     *world
	enc   wsproto.Encoding
	floor uint64 // what was published up to this number was so before it was opened
	done  chan struct{}

	mu       sync.Mutex
	open     chan struct{}  // closed while the client reads; guarded by mu
	arrived  chan struct{}  // closed and replaced at each arrival; guarded by mu
	arrivals []arrival      // guarded by mu
	answered int            // pings; guarded by mu
	asked    map[string]int // pings that had been answered when a request was sent; guarded by mu
	left     bool           // the client has sent a close frame; guarded by mu
	doomed   bool           // there may be no way to the agent, or another connection; guarded by mu
	end      ending         // guarded by mu
	strange  error          // what no server may send; guarded by mu
}

// arrival is what a WebSocket brought: a ping, or a message.
type arrival struct {
	ping    bool
	channel jupyter.Channel
	id      string
	kind    string // msg_type
	parent  string // the id of the request that it belongs to
	state   string // of a status
	sum     uint64
	lost    *loss // it is the agent's word about what it has lost
}

// loss is how much a marker says is lost.
type loss struct{ messages, bytes int }

// ending is how a connection ended, as far as its client knows.
type ending int

const (
	broken  ending = iota // whatever was on its way is lost
	polite                // the client closed it, and the agent has answered
	drained               // the gateway asked the client to come back, and it answered
)

var truncated = regexp.MustCompile(`^output truncated: (\d+) messages, (\d+) bytes\n$`)

func (w *world) newSession(enc wsproto.Encoding) *session {
	return &session{w: w, id: jupyter.NewID(), enc: enc}
}

func (s *session) now() *connection { return s.conns[len(s.conns)-1] }

// come opens a connection. What the client had before it does not look at again.
func (s *session) come() *connection {
	s.w.t.Helper()
	if len(s.conns) > 0 {
		s.now().freeze()
		s.now().doom()
	}
	c := &connection{
		w: s.w, enc: s.enc, floor: s.w.seen.Load(), done: make(chan struct{}),
		open: make(chan struct{}), arrived: make(chan struct{}), asked: make(map[string]int),
	}
	close(c.open)
	d := websocket.Dialer{
		HandshakeTimeout: patience,
		NetDialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			conn, err := (&net.Dialer{}).DialContext(ctx, network, address)
			if err == nil {
				narrow(conn)
			}
			return conn, err
		},
	}
	if s.enc == wsproto.V1 {
		d.Subprotocols = []string{wsproto.Subprotocol}
	}
	target := s.w.gateway.url("ws", "/api/kernels/"+kernelID+"/channels?session_id="+url.QueryEscape(s.id))
	// A gateway answers 503 while it cannot reach the agent, as in a cut; clients
	// try again.
	for deadline := time.Now().Add(patience); ; time.Sleep(5 * time.Millisecond) {
		ws, resp, err := d.Dial(target, header())
		if err == nil {
			c.ws = ws
			break
		}
		if time.Now().After(deadline) || resp == nil || resp.StatusCode != 503 {
			s.w.t.Fatalf("cannot connect: %v %v", err, resp)
		}
	}
	c.ws.SetPingHandler(c.onPing)
	c.ws.SetCloseHandler(c.onClose)
	s.conns = append(s.conns, c)
	s.w.conns = append(s.w.conns, c)
	go c.read()
	if s.first == "" {
		// Whatever its connections suffer later, a session begins here.
		s.first = s.run("say here")
		if !c.await(s.w.t, "a first cell", func(a arrival) bool { return a.parent == s.first && a.state == "idle" }) {
			s.w.t.Fatalf("the first connection of a session ended by itself: %v", c.strange)
		}
	}
	return c
}

// lost reports whether the connection of now is of no use any more.
func (s *session) lost() bool {
	if len(s.conns) == 0 {
		return true
	}
	select {
	case <-s.now().done:
		return true
	default:
		return s.now().frozen()
	}
}

// run sends code to the kernel, which may never get it, and returns the id.
func (s *session) run(code string) string {
	s.w.t.Helper()
	m, err := jupyter.NewMessage(jupyter.Shell, "execute_request", s.id, map[string]any{
		"code": code, "silent": false, "store_history": true, "user_expressions": map[string]any{}, "allow_stdin": false,
	})
	if err != nil {
		s.w.t.Fatalf("%v", err)
	}
	id := jupyter.PeekID(m.Header)
	c := s.now()
	c.mu.Lock()
	c.asked[id] = c.answered
	c.mu.Unlock()
	b, binary := wsproto.Append(nil, s.enc, m)
	kind := websocket.TextMessage
	if binary {
		kind = websocket.BinaryMessage
	}
	_ = c.ws.SetWriteDeadline(time.Now().Add(patience))
	_ = c.ws.WriteMessage(kind, b) // a request may be lost with its connection
	return id
}

// read takes what comes, for as long as the client reads.
func (c *connection) read() {
	defer close(c.done)
	for {
		c.mu.Lock()
		open := c.open
		c.mu.Unlock()
		<-open
		kind, b, err := c.ws.ReadMessage()
		if err != nil {
			return
		}
		m, err := decode(c.enc, kind == websocket.BinaryMessage, b)
		if err != nil {
			c.wrong(err)
			return
		}
		a := arrival{
			channel: m.Channel, id: jupyter.PeekID(m.Header), kind: jupyter.PeekType(m.Header), parent: jupyter.PeekID(m.ParentHeader),
			state: jupyter.PeekString(m.Content, "execution_state"), sum: jupytertest.Sum(m.Content, m.Buffers),
		}
		if match := truncated.FindStringSubmatch(jupyter.PeekString(m.Content, "text")); match != nil && a.kind == "stream" {
			a.lost = &loss{}
			a.lost.messages, _ = strconv.Atoi(match[1]) // digits
			a.lost.bytes, _ = strconv.Atoi(match[2])
		}
		c.w.note(&a)
		c.take(a)
	}
}

// note keeps the highest number of the kernel's iopub messages that was seen. The
// fake kernel numbers its messages in their ids.
func (w *world) note(a *arrival) {
	if a.channel != jupyter.IOPub || a.lost != nil {
		return
	}
	n := number(a.id)
	for old := w.seen.Load(); n > old && !w.seen.CompareAndSwap(old, n); old = w.seen.Load() {
	}
}

// number is that of a message of the fake kernel.
func number(id string) uint64 {
	_, text, _ := strings.Cut(id, "_")
	n, _ := strconv.ParseUint(text, 10, 64) // 0 for another's
	return n
}

func (c *connection) take(a arrival) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.arrivals = append(c.arrivals, a)
	close(c.arrived)
	c.arrived = make(chan struct{})
}

func (c *connection) wrong(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.strange = err
}

func (c *connection) onPing(payload string) error {
	err := c.ws.WriteControl(websocket.PongMessage, []byte(payload), time.Now().Add(patience))
	if err != nil {
		return nil // what is still to be read is read
	}
	c.take(arrival{ping: true})
	c.mu.Lock()
	c.answered++
	c.mu.Unlock()
	return nil
}

// onClose answers a close frame, as all clients do.
func (c *connection) onClose(code int, reason string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.left && code == websocket.CloseNormalClosure:
		c.end = polite
		return nil
	case c.left: // what the gateway said before it heard
		return nil
	case c.doomed: // the gateway's close frame says nothing of the agent
	case code == websocket.CloseServiceRestart && strings.HasPrefix(reason, "the server is restarting"):
		c.end = drained
	}
	_ = c.ws.WriteControl(websocket.CloseMessage, websocket.FormatCloseMessage(code, ""), time.Now().Add(patience))
	return nil
}

// await waits until an arrival is what is wanted, or the connection is over.
func (c *connection) await(t reporter, what string, want func(arrival) bool) (found bool) {
	t.Helper()
	timeout := time.NewTimer(patience)
	defer timeout.Stop()
	for looked := 0; ; {
		c.mu.Lock()
		arrived, all := c.arrived, c.arrivals
		c.mu.Unlock()
		for ; looked < len(all); looked++ {
			if want(all[looked]) {
				return true
			}
		}
		select {
		case <-arrived:
		case <-c.done:
			c.mu.Lock()
			more := len(c.arrivals) > looked
			c.mu.Unlock()
			if !more {
				return false
			}
		case <-timeout.C:
			t.Fatalf("%s does not come", what)
		}
	}
}

// freeze has the client read no more, without a word to anybody: a tab that sleeps,
// or a machine that is gone.
func (c *connection) freeze() {
	c.mu.Lock()
	defer c.mu.Unlock()
	select {
	case <-c.open:
		c.open = make(chan struct{})
	default:
	}
}

func (c *connection) thaw() {
	c.mu.Lock()
	defer c.mu.Unlock()
	select {
	case <-c.open:
	default:
		close(c.open)
	}
}

// doom notes that the connection will not end in order.
func (c *connection) doom() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.doomed = true
}

func (c *connection) frozen() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	select {
	case <-c.open:
		return false
	default:
		return true
	}
}

// leave closes the connection as a client does that goes.
func (c *connection) leave() {
	c.thaw()
	c.mu.Lock()
	c.left = true
	_ = c.ws.WriteControl(websocket.CloseMessage, websocket.FormatCloseMessage(websocket.CloseNormalClosure, ""), time.Now().Add(patience)) // it may be gone
	c.mu.Unlock()
	select {
	case <-c.done:
	case <-time.After(patience):
		c.w.t.Errorf("a close frame is not answered")
	}
	c.ws.Close()
}

// reset ends the connection without a word.
func (c *connection) reset() {
	if tcp, ok := c.ws.NetConn().(*net.TCPConn); ok {
		_ = tcp.SetLinger(0)
	}
	c.ws.Close()
	c.thaw()
	<-c.done
}
