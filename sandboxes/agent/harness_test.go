package agent

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	"go.uber.org/goleak"

	"kernelgw/jupyter"
	"kernelgw/jupyter/jupytertest"
	"kernelgw/jupyter/wsproto"
	"kernelgw/sandboxes/agentapi"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.Cleanup(func(code int) {
		for _, program := range []string{fake.program, program.path} {
			if program != "" {
				os.RemoveAll(filepath.Dir(program))
			}
		}
		for _, made := range openCopies.of {
			os.RemoveAll(made)
		}
		os.Exit(code)
	}))
}

const testToken = "a-token-of-tests"

// patience is for what must come; no test waits for it to pass.
const patience = 20 * time.Second

var fake struct {
	once    sync.Once
	program string
}

// fakeSpec is the kernelspec of the fake kernel, built once for all tests.
func fakeSpec(t testing.TB) jupyter.Kernelspec {
	t.Helper()
	fake.once.Do(func() {
		built := jupytertest.Build(t)
		dir, err := os.MkdirTemp("", "fake")
		if err != nil {
			t.Fatal(err)
		}
		fake.program = filepath.Join(dir, "fakekernel")
		if err := os.Rename(built, fake.program); err != nil {
			t.Fatal(err)
		}
	})
	if fake.program == "" {
		t.Fatal("the fake kernel was not built")
	}
	return jupytertest.Spec(fake.program)
}

// syncBuffer is a log that tests read while it is written.
type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// running is an agent that runs in this process.
type running struct {
	t     testing.TB
	agent *Agent // nil when it is another process
	now   func() agentapi.Status
	path  string
	http  *http.Client
	log   *syncBuffer
	ended chan struct{} // closed when Run has returned
	stop  context.CancelFunc
}

// start runs an agent with the fake kernel until the test ends. change may
// change its options.
func start(t testing.TB, change func(*Options)) *running {
	t.Helper()
	dir, err := os.MkdirTemp("", "agent") // t.TempDir is too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	r := &running{t: t, path: filepath.Join(dir, "s"), log: &syncBuffer{}, ended: make(chan struct{})}
	l, err := agentapi.ListenUnix(r.path)
	if err != nil {
		t.Fatal(err)
	}
	o := Options{
		Config: agentapi.Config{
			Token: testToken, KernelID: "k1", KernelName: "fake", Spec: fakeSpec(t),
		},
		Listener:   l,
		Home:       dir,
		RuntimeDir: dir,
		Log:        slog.New(slog.NewJSONHandler(r.log, &slog.HandlerOptions{Level: slog.LevelDebug})),
	}
	if change != nil {
		change(&o)
	}
	if r.agent, err = New(o); err != nil {
		t.Fatal(err)
	}
	r.now = r.agent.Status
	r.http = &http.Client{Transport: &http.Transport{DialContext: r.dialContext}}
	ctx, stop := context.WithCancel(context.Background())
	r.stop = stop
	go func() {
		defer close(r.ended)
		if err := r.agent.Run(ctx); err != nil {
			t.Errorf("Run: %v", err)
		}
	}()
	t.Cleanup(func() {
		r.http.CloseIdleConnections()
		stop()
		<-r.ended
		left, _ := filepath.Glob(filepath.Join(dir, "*"))
		if len(left) > 0 {
			t.Errorf("left behind: %v", left)
		}
		os.RemoveAll(dir)
		if strings.Contains(r.log.String(), testToken) {
			t.Error("the token is in the log")
		}
		if t.Failed() {
			t.Logf("log of the agent:\n%s", r.log)
		}
	})
	return r
}

func (r *running) dialContext(ctx context.Context, _, _ string) (net.Conn, error) {
	return agentapi.DialUnix(ctx, r.path)
}

// call does a request with the token and returns the status and body.
func (r *running) call(method, path string) (int, []byte) {
	r.t.Helper()
	req, err := http.NewRequest(method, "http://agent"+path, nil)
	if err != nil {
		r.t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+testToken)
	resp, err := r.http.Do(req)
	if err != nil {
		r.t.Fatalf("%s %s: %v", method, path, err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		r.t.Fatal(err)
	}
	return resp.StatusCode, body
}

// status waits until the status of the agent is as wanted.
func (r *running) status(what string, want func(agentapi.Status) bool) agentapi.Status {
	r.t.Helper()
	timeout := time.After(patience)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		s := r.now()
		if want(s) {
			return s
		}
		select {
		case <-tick.C:
		case <-timeout:
			r.t.Fatalf("the agent's status is never %s: %+v", what, s)
		}
	}
}

func (r *running) ready() {
	r.t.Helper()
	r.status("ready", func(s agentapi.Status) bool { return s.Ready })
}

// peer is a client of the agent over a WebSocket.
type peer struct {
	t       testing.TB
	ws      *websocket.Conn
	enc     wsproto.Encoding
	session string // of its message headers
	frames  chan rawFrame

	mu    sync.Mutex
	pings []string // payloads, in order; guarded by mu
}

// rawFrame is a frame as it came, or how the connection ended.
type rawFrame struct {
	binary bool
	b      []byte
	err    error
	pings  int // that came before it
}

func (p *peer) pinged() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.pings)
}

// receive reads for the peer, one frame ahead of it, so that pings are answered
// also while the test does something else.
func (p *peer) receive() {
	defer close(p.frames)
	for {
		kind, b, err := p.ws.ReadMessage()
		p.frames <- rawFrame{kind == websocket.BinaryMessage, b, err, len(p.pinged())}
		if err != nil {
			return
		}
	}
}

// received is a message as a client decodes it.
type received struct {
	Channel string         `json:"channel"`
	MsgID   string         `json:"msg_id"`
	MsgType string         `json:"msg_type"`
	Header  head           `json:"header"`
	Parent  head           `json:"parent_header"`
	Content map[string]any `json:"content"`
	Buffers [][]byte       `json:"-"`
	binary  bool
}

// head is a header; its date is whatever a client likes.
type head struct {
	MsgID    string `json:"msg_id"`
	MsgType  string `json:"msg_type"`
	Session  string `json:"session"`
	Username string `json:"username"`
	Date     any    `json:"date"`
	Version  string `json:"version"`
}

func (m received) text() string { s, _ := m.Content["text"].(string); return s }

// connect opens a WebSocket. enc V1 offers the subprotocol.
func (r *running) connect(sessionID string, enc wsproto.Encoding) *peer {
	r.t.Helper()
	header := http.Header{"Authorization": {"Bearer " + testToken}}
	d := websocket.Dialer{NetDialContext: r.dialContext}
	switch enc {
	case wsproto.V1:
		d.Subprotocols = []string{wsproto.Subprotocol}
	case wsproto.LegacyText:
		header.Set("User-Agent", "Tornado/6.6.1")
	}
	query := ""
	if sessionID != "" {
		query = "?session_id=" + url.QueryEscape(sessionID)
	}
	ws, resp, err := d.Dial("ws://agent/v1/channels"+query, header)
	if err != nil {
		body := ""
		if resp != nil {
			b, _ := io.ReadAll(resp.Body)
			body = string(b)
		}
		r.t.Fatalf("cannot connect: %v %s", err, body)
	}
	p := &peer{t: r.t, ws: ws, enc: enc, session: jupyter.NewID(), frames: make(chan rawFrame)}
	pong := ws.PingHandler()
	ws.SetPingHandler(func(s string) error {
		p.mu.Lock()
		p.pings = append(p.pings, s)
		p.mu.Unlock()
		return pong(s)
	})
	go p.receive()
	r.t.Cleanup(func() {
		ws.Close()
		for range p.frames {
		}
	})
	return p
}

// send sends a request and returns its msg_id.
func (p *peer) send(channel jupyter.Channel, msgType string, content any) string {
	p.t.Helper()
	m, err := jupyter.NewMessage(channel, msgType, p.session, content)
	if err != nil {
		p.t.Fatal(err)
	}
	p.sendMessage(m)
	return jupyter.PeekID(m.Header)
}

func (p *peer) sendMessage(m *jupyter.Message) {
	p.t.Helper()
	b, binary := wsproto.Append(nil, p.enc, m)
	kind := websocket.TextMessage
	if binary {
		kind = websocket.BinaryMessage
	}
	if err := p.ws.WriteMessage(kind, b); err != nil {
		p.t.Fatalf("cannot send %s: %v", jupyter.PeekType(m.Header), err)
	}
}

func (p *peer) execute(code string) string {
	p.t.Helper()
	return p.send(jupyter.Shell, "execute_request", map[string]any{
		"code": code, "silent": false, "store_history": true, "user_expressions": map[string]any{}, "allow_stdin": true,
	})
}

// read returns the next message, or how the connection ended.
func (p *peer) read() (received, error) {
	f := p.readRaw()
	if f.err != nil {
		return received{}, f.err
	}
	return decode(p.enc, f.binary, f.b)
}

func (p *peer) readRaw() rawFrame {
	select {
	case f, ok := <-p.frames:
		if !ok {
			f.err = net.ErrClosed
		}
		return f
	case <-time.After(patience):
		return rawFrame{err: os.ErrDeadlineExceeded}
	}
}

// decode decodes what a server sends, in the test's own words.
func decode(enc wsproto.Encoding, binary bool, b []byte) (received, error) {
	m := received{binary: binary}
	if enc == wsproto.V1 {
		f := frame{v1: b}
		msg := f.message()
		m.Channel, m.Buffers = string(msg.Channel), msg.Buffers
		for to, part := range map[any][]byte{&m.Header: msg.Header, &m.Parent: msg.ParentHeader, &m.Content: msg.Content} {
			if err := json.Unmarshal(part, to); err != nil {
				return m, fmt.Errorf("%w in %q", err, part)
			}
		}
		m.MsgID, m.MsgType = m.Header.MsgID, m.Header.MsgType
		return m, nil
	}
	if binary {
		n := int(b[0])<<24 | int(b[1])<<16 | int(b[2])<<8 | int(b[3])
		at := func(i int) int { o := 4 + 4*i; return int(b[o])<<24 | int(b[o+1])<<16 | int(b[o+2])<<8 | int(b[o+3]) }
		for i := 1; i < n; i++ {
			end := len(b)
			if i+1 < n {
				end = at(i + 1)
			}
			m.Buffers = append(m.Buffers, b[at(i):end])
		}
		end := len(b)
		if n > 1 {
			end = at(1)
		}
		b = b[at(0):end]
	}
	if err := json.Unmarshal(b, &m); err != nil {
		return m, fmt.Errorf("%w in %.200q", err, b)
	}
	return m, nil
}

// until reads until want and returns all that came, the wanted last.
func (p *peer) until(what string, want func(received) bool) []received {
	p.t.Helper()
	var all []received
	for {
		m, err := p.read()
		if err != nil {
			p.t.Fatalf("waiting for %s: %v, after %s", what, err, summary(all))
		}
		all = append(all, m)
		if want(m) {
			return all
		}
	}
}

// cell reads until the request id has its reply and idle.
func (p *peer) cell(id string) []received {
	p.t.Helper()
	var reply, idle bool
	return p.until("the end of cell "+id, func(m received) bool {
		if m.Parent.MsgID == id {
			reply = reply || m.Channel == "shell"
			idle = idle || isStatus(m, "idle")
		}
		return reply && idle
	})
}

func isStatus(m received, state string) bool {
	return m.Channel == "iopub" && m.MsgType == "status" && m.Content["execution_state"] == state
}

// closed reads until the connection ends and returns the close error, after the
// messages before.
func (p *peer) closed() ([]received, *websocket.CloseError) {
	p.t.Helper()
	var all []received
	for {
		m, err := p.read()
		if err == nil {
			all = append(all, m)
			continue
		}
		e, ok := err.(*websocket.CloseError)
		if !ok {
			p.t.Fatalf("the connection ended without a close frame: %v", err)
		}
		return all, e
	}
}

func summary(all []received) string {
	var s []string
	for _, m := range all {
		state, _ := m.Content["execution_state"].(string)
		s = append(s, strings.TrimSpace(m.Channel+":"+m.MsgType+" "+state))
	}
	if len(s) > 20 {
		s = slices.Concat(s[:10], []string{"..."}, s[len(s)-10:])
	}
	return "[" + strings.Join(s, ", ") + "]"
}
