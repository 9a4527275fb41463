package sandboxtest

import (
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/gorilla/websocket"

	"kernelgw/jupyter"
	"kernelgw/sandboxes"
	"kernelgw/sandboxes/agentapi"
)

// Agent is an in-process double of the agent in a sandbox of Fake. It serves
// every route of agentapi with a kernel that is ready at once and does
// nothing; /v1/channels echoes. Each behaviour can be replaced, the byte
// stream itself included. All methods are safe for concurrent use.
type Agent struct {
	socket    string
	config    agentapi.Config
	configErr error // of parsing it

	ended chan struct{} // closed at the end
	exit  sandboxes.Exit
	wg    sync.WaitGroup // every goroutine and every request

	mu         sync.Mutex
	over       bool
	silent     bool
	listener   net.Listener
	server     *http.Server
	conns      map[net.Conn]bool        // every connection, upgraded ones too
	sockets    map[*websocket.Conn]bool // open WebSockets
	routes     map[string]http.Handler  // replaced routes
	serveConns func(net.Conn)           // replaces HTTP
	onChannels func(*websocket.Conn, *http.Request)
	requests   []string
	status     agentapi.Status
	changed    chan struct{} // closed and replaced at each change of status
	terminals  []string      // names, in order
}

func newAgent(config []byte, socket string) *Agent {
	a := &Agent{
		socket:  socket,
		ended:   make(chan struct{}),
		conns:   map[net.Conn]bool{},
		sockets: map[*websocket.Conn]bool{},
		routes:  map[string]http.Handler{},
		changed: make(chan struct{}),
		status: agentapi.Status{
			ExecutionState: jupyter.Idle,
			Ready:          true,
			LastActivity:   time.Now().UTC(),
			Starts:         1,
		},
	}
	a.configErr = json.Unmarshal(config, &a.config)
	return a
}

// Config is the configuration that the agent was given.
func (a *Agent) Config() agentapi.Config { return a.config }

// NeverListen makes the agent start without listening, when called from
// OnCreate. Listen ends that.
func (a *Agent) NeverListen() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.silent = true
}

// Handle replaces the answer to a route: "GET /v1/status" and so on, as in
// package agentapi. The bearer token is not checked first: h may lie as it
// likes, and must return when the connection breaks.
func (a *Agent) Handle(route string, h http.HandlerFunc) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.routes[route] = h
}

// ServeConns replaces HTTP altogether: every connection accepted from now on
// is given to serve, and closed when serve returns or the sandbox ends.
// Nil goes back to HTTP.
func (a *Agent) ServeConns(serve func(net.Conn)) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.serveConns = serve
}

// Hang makes every connection from now on accepted and never answered.
func (a *Agent) Hang() {
	a.ServeConns(func(net.Conn) { <-a.ended })
}

// OnChannels replaces the echo on /v1/channels: talk owns the WebSocket's
// reads and data writes until it returns.
func (a *Agent) OnChannels(talk func(ws *websocket.Conn, r *http.Request)) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.onChannels = talk
}

// Update changes the status; those who watch it are told.
func (a *Agent) Update(change func(*agentapi.Status)) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.updateLocked(change)
}

func (a *Agent) updateLocked(change func(*agentapi.Status)) {
	change(&a.status)
	close(a.changed)
	a.changed = make(chan struct{})
}

// Status is what the agent says of its kernel now.
func (a *Agent) Status() agentapi.Status {
	s, _ := a.snapshot()
	return s
}

func (a *Agent) snapshot() (agentapi.Status, <-chan struct{}) {
	a.mu.Lock()
	defer a.mu.Unlock()
	s := a.status
	s.KernelID = a.config.KernelID
	s.Connections = len(a.sockets)
	return s, a.changed
}

// Requests lists method and path of the requests so far, in order.
func (a *Agent) Requests() []string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return append([]string(nil), a.requests...)
}

// CloseChannels closes every open WebSocket with code and text.
func (a *Agent) CloseChannels(code int, text string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for ws := range a.sockets {
		// The peer may be gone already: then there is nobody to tell.
		_ = ws.WriteControl(websocket.CloseMessage,
			websocket.FormatCloseMessage(code, text), time.Now().Add(time.Second))
		_ = ws.Close()
	}
}

// Exit ends the agent's process, and so the sandbox, by itself.
func (a *Agent) Exit(code int, reason string) {
	a.end(sandboxes.Exit{Code: code, Reason: reason})
}

// boot is the start of the process: a config that does not parse ends it, as
// it ends the real agent.
func (a *Agent) boot() error {
	if a.configErr != nil {
		a.Exit(2, fmt.Sprintf("agent cannot read its configuration: %v", a.configErr))
		return nil
	}
	a.mu.Lock()
	silent := a.silent
	a.mu.Unlock()
	if silent {
		return nil
	}
	return a.Listen()
}

// Listen makes an agent that was told NeverListen listen after all.
func (a *Agent) Listen() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.over || a.listener != nil {
		return nil
	}
	l, err := net.Listen("unix", a.socket)
	if err != nil {
		return fmt.Errorf("fake agent cannot listen: %w", err)
	}
	a.listener = l
	a.server = &http.Server{
		Handler:           http.HandlerFunc(a.serve),
		ReadHeaderTimeout: 10 * time.Second,
		ConnState: func(c net.Conn, s http.ConnState) {
			if s == http.StateClosed {
				a.forget(c)
			}
		},
	}
	handed := &handedListener{addr: l.Addr(), conns: make(chan net.Conn), done: a.ended}
	a.wg.Go(func() { a.accept(l, handed) })
	a.wg.Go(func() { _ = a.server.Serve(handed) })
	return nil
}

// accept gives each connection to HTTP or to serveConns, until the end.
func (a *Agent) accept(l net.Listener, handed *handedListener) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		a.mu.Lock()
		serve, over := a.serveConns, a.over
		a.conns[c] = true
		a.mu.Unlock()
		switch {
		case over:
			a.forget(c)
		case serve == nil:
			handed.give(c)
		default:
			a.wg.Go(func() {
				defer a.forget(c)
				serve(c)
			})
		}
	}
}

func (a *Agent) forget(c net.Conn) {
	_ = c.Close()
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.conns, c)
}

// end is the end of the process, at most once: everything that is open breaks.
func (a *Agent) end(exit sandboxes.Exit) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.over {
		return false
	}
	a.over = true
	if exit.At.IsZero() {
		exit.At = time.Now().UTC()
	}
	a.exit = exit
	close(a.ended)
	if a.listener != nil {
		_ = a.listener.Close()
		_ = a.server.Close()
	}
	for c := range a.conns {
		_ = c.Close()
	}
	return true
}

// join waits until no goroutine of the agent runs.
func (a *Agent) join() { a.wg.Wait() }

// handedListener is a net.Listener over connections that accept chose.
type handedListener struct {
	addr  net.Addr
	conns chan net.Conn
	done  <-chan struct{}
}

func (l *handedListener) give(c net.Conn) {
	select {
	case l.conns <- c:
	case <-l.done:
		_ = c.Close()
	}
}

func (l *handedListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}

func (l *handedListener) Addr() net.Addr { return l.addr }
func (l *handedListener) Close() error   { return nil }

// serve answers one request, by a replaced route or by the double's own.
func (a *Agent) serve(w http.ResponseWriter, r *http.Request) {
	route := r.Method + " " + r.URL.Path
	a.mu.Lock()
	if a.over {
		a.mu.Unlock()
		return
	}
	a.wg.Add(1)
	a.requests = append(a.requests, route)
	replaced := a.routes[route]
	a.mu.Unlock()
	defer a.wg.Done()

	if replaced != nil {
		replaced.ServeHTTP(w, r)
		return
	}
	if r.Header.Get("Authorization") != "Bearer "+a.config.Token || a.config.Token == "" {
		http.Error(w, "wrong token", http.StatusUnauthorized)
		return
	}
	switch route {
	case "GET /v1/status":
		a.answer(w, a.Status())
	case "GET /v1/watch":
		a.watch(w, r)
	case "POST /v1/kernel/interrupt":
		w.WriteHeader(http.StatusNoContent)
	case "POST /v1/kernel/restart":
		a.restart()
		a.answer(w, a.Status())
	case "POST /v1/kernel/shutdown":
		a.shutdown(w)
	case "GET /v1/usage":
		a.answer(w, agentapi.Usage{CPUSeconds: 0.5, MemoryBytes: 64 << 20, Processes: 2})
	case "GET /v1/channels":
		a.channels(w, r)
	default:
		if !a.terminalsAPI(w, r) {
			http.NotFound(w, r)
		}
	}
}

func (a *Agent) answer(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(v) // a reader that went away is no fault
}

// watch sends a status at once, at each change, and every 10 s.
func (a *Agent) watch(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "application/x-ndjson")
	heartbeat := time.NewTicker(10 * time.Second)
	defer heartbeat.Stop()
	for {
		status, changed := a.snapshot()
		if json.NewEncoder(w).Encode(status) != nil || http.NewResponseController(w).Flush() != nil {
			return
		}
		select {
		case <-changed:
		case <-heartbeat.C:
		case <-r.Context().Done():
			return
		case <-a.ended:
			return
		}
	}
}

func (a *Agent) restart() {
	a.Update(func(s *agentapi.Status) {
		s.ExecutionState, s.Ready, s.Reason = jupyter.Idle, true, ""
		s.Executions = 0
		s.Starts++
	})
}

// shutdown answers when the kernel is gone, then exits 0.
func (a *Agent) shutdown(w http.ResponseWriter) {
	a.Update(func(s *agentapi.Status) { s.ExecutionState, s.Ready = jupyter.Dead, false })
	a.CloseChannels(websocket.CloseNormalClosure, "kernel is gone")
	w.Header().Set("Connection", "close")
	w.WriteHeader(http.StatusNoContent)
	// Flush: the exit below breaks the connection.
	_ = http.NewResponseController(w).Flush()
	a.Exit(0, "")
}

var upgrader = websocket.Upgrader{
	Subprotocols: []string{"v1.kernel.websocket.jupyter.org"},
	// The agent's caller has authenticated; browsers never reach an agent.
	CheckOrigin: func(*http.Request) bool { return true },
}

// channels upgrades and lets onChannels, or the echo, talk.
func (a *Agent) channels(w http.ResponseWriter, r *http.Request) {
	a.mu.Lock()
	talk := a.onChannels
	a.mu.Unlock()
	if talk == nil {
		talk = echo
	}
	a.talk(w, r, talk)
}

// talk upgrades and lets play talk.
func (a *Agent) talk(w http.ResponseWriter, r *http.Request, play func(*websocket.Conn, *http.Request)) {
	ws, err := upgrader.Upgrade(w, r, nil)
	if err != nil {
		return // Upgrade has answered
	}
	defer a.forget(ws.NetConn())
	a.mu.Lock()
	if a.over {
		a.mu.Unlock()
		return
	}
	a.sockets[ws] = true
	a.updateLocked(func(*agentapi.Status) {})
	a.mu.Unlock()
	defer func() {
		a.mu.Lock()
		defer a.mu.Unlock()
		delete(a.sockets, ws)
		a.updateLocked(func(*agentapi.Status) {})
	}()
	play(ws, r)
}

// echo sends every message back as it came, until the peer goes.
func echo(ws *websocket.Conn, _ *http.Request) {
	for {
		kind, data, err := ws.ReadMessage()
		if err != nil {
			return
		}
		if ws.WriteMessage(kind, data) != nil {
			return
		}
	}
}
