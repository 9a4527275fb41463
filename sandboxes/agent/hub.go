package agent

import (
	"bytes"
	"crypto/rand"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gorilla/websocket"

	"kernelgw/jupyter"
	"kernelgw/jupyter/wsproto"
	"kernelgw/sandboxes/agent/eventlog"
	"kernelgw/sandboxes/agent/outputlog"
)

// hub takes messages from the kernel to the clients and back. It lives as long
// as the agent; kernel processes come and go.
type hub struct {
	// set at construction
	events     *eventlog.Log[frame]
	epoch      string // names the log among those of other agents
	track      *tracker
	log        *slog.Logger
	maxMessage int64
	pace       pacer
	caps       *caps
	output     *outputlog.Log // nil when what is printed is not kept
	where      string         // what markers say of where that is
	inbound    inbound

	executions *executions // set at construction

	session atomic.Pointer[string] // the kernel's own session id, as last seen

	parent parentCache // owned by the caller of fromKernel

	replayed, dropped, ignored atomic.Uint64

	sockets atomic.Pointer[[]*socket] // replaced under mu, never changed
	legacy  atomic.Int32              // sockets that do not speak v1

	followers atomic.Pointer[[]*follower] // replaced under mu, never changed

	mu      sync.Mutex
	clients map[string]*client // by session_id; guarded by mu
	routes  routes             // guarded by mu
	cells   cells              // guarded by mu
}

func newHub(o *Options, changed func()) *hub {
	h := &hub{
		events:     eventlog.New[frame](o.Config.LogBytes),
		epoch:      strings.ToLower(rand.Text()[:12]),
		track:      newTracker(changed),
		log:        o.Log,
		maxMessage: o.Config.MaxMessageBytes,
		clients:    make(map[string]*client),
		routes:     newRoutes(),
		cells:      newCells(),
	}
	h.where = whereText(o.Config.OutputLog)
	h.caps = newCaps(o.Config.Caps, h.where, h.publishError)
	if c := o.Config.OutputLog; c != nil {
		h.output = outputlog.New(outputlog.Options{Dir: o.RuntimeDir, Budget: c.SpoolBytes, Changed: changed, Log: o.Log})
	}
	h.executions = newExecutions(h)
	h.pace.init(o.Config.LogBytes)
	h.sockets.Store(&[]*socket{})
	h.followers.Store(&[]*follower{})
	session := jupyter.NewID()
	h.session.Store(&session)
	return h
}

// fromKernel takes a message of the kernel. It is called for one message at a
// time. own is the header session of the agent's own requests, whose answers no
// client sees.
func (h *hub) fromKernel(m *jupyter.Message, own []byte) (ours bool) {
	if m.Channel == jupyter.IOPub {
		return h.fromIOPub(m, own)
	}
	parentSession := jupyter.PeekRaw(m.ParentHeader, "session")
	if bytes.Equal(unquoted(parentSession), own) {
		return true
	}
	id := jupyter.PeekID(m.ParentHeader)
	switch m.Channel {
	case jupyter.Shell:
		h.track.reply(id)
	case jupyter.Stdin:
		h.caps.asks(id)
	}
	if h.executions.take(m) {
		return false
	}
	if !h.reply(m, id) {
		h.ignored.Add(1) // its client was forgotten, or never was
		return false
	}
	h.wake()
	return false
}

// reply appends an answer to the log, for its client. The lock is held meanwhile:
// the log would count for ever what comes for a client that was forgotten.
func (h *hub) reply(m *jupyter.Message, id string) (known bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	c := h.routes.find(id, jupyter.PeekSession(m.ParentHeader))
	if c != nil {
		h.events.Append(entry(m, c.id, kindReply, h.legacy.Load() > 0))
	}
	return c != nil
}

func (h *hub) fromIOPub(m *jupyter.Message, own []byte) (ours bool) {
	kind := kindOf(jupyter.PeekRaw(m.Header, "msg_type"))
	if kind == kindWelcome {
		return true
	}
	parent := h.parent.of(m.ParentHeader, own)
	h.track.iopub(kind, m, parent.tracked)
	if parent.ours {
		return true
	}
	now := time.Now()
	switch kind {
	case kindStatus:
		h.learnSession(m)
	case kindStream:
		if h.output != nil {
			h.output.Text(jupyter.PeekRaw(m.Content, "text"), m.Size(), now)
		}
	}
	if h.caps.take(kind, m, parent.id, now) {
		h.dropped.Add(1)
		return false
	}
	e := entry(m, "", kind, h.legacy.Load() > 0)
	seq := h.events.Append(e)
	switch kind {
	case kindInput:
		h.cellBegan(jupyter.PeekID(m.ParentHeader))
	case kindStatus:
		if jupyter.PeekString(m.Content, "execution_state") == string(jupyter.Idle) {
			h.cellEnded(jupyter.PeekID(m.ParentHeader), seq)
		}
	}
	h.wake()
	h.executions.take(m) // in the log before anyone sees it
	h.pace.appended(h, e.Bytes+eventlog.Overhead)
	return false
}

// parentCache remembers what the parent header of the last iopub message says:
// output comes in long runs with one parent, byte by byte the same.
type parentCache struct {
	header  []byte
	tracked bool // its messages say what users do
	ours    bool // it is a request of the agent's own
	id      string
	known   bool
}

func (c *parentCache) of(header, own []byte) *parentCache {
	if c.known && bytes.Equal(c.header, header) {
		return c
	}
	c.header = append(c.header[:0], header...)
	c.tracked = !untracked(jupyter.PeekRaw(header, "msg_type"))
	c.ours = bytes.Equal(unquoted(jupyter.PeekRaw(header, "session")), own)
	c.id = jupyter.PeekID(header)
	if len(c.id) > maxRememberedID {
		c.id = ""
	}
	c.known = len(header) <= maxRememberedParent
	if !c.known {
		c.header = nil // do not keep what a kernel makes large
	}
	return c
}

const maxRememberedParent = 4 << 10

// tooLarge takes what is left of a message of the kernel that is over the limit:
// where it was missing, text says so.
func (h *hub) tooLarge(m *jupyter.Message, size int64) {
	h.dropped.Add(1)
	if m.Channel == jupyter.Shell {
		h.track.reply(jupyter.PeekID(m.ParentHeader))
	}
	if h.output != nil && kindOf(jupyter.PeekRaw(m.Header, "msg_type")) == kindStream {
		h.output.Lose(size)
	}
	h.publishError(fmt.Sprintf("output truncated: 1 messages, %d bytes: the limit for one message is %d bytes (%s)",
		size, h.maxMessage, limitName), m.ParentHeader)
	if m.Channel == jupyter.Shell {
		h.executions.take(m)
	}
}

// learnSession keeps the kernel's session id: messages that the agent makes up
// carry it, because JupyterLab drops those of another session than the last.
func (h *hub) learnSession(m *jupyter.Message) {
	raw := unquoted(jupyter.PeekRaw(m.Header, "session"))
	if len(raw) == 0 || len(raw) > maxRememberedID || string(raw) == *h.session.Load() {
		return
	}
	if session := jupyter.PeekSession(m.Header); session != "" {
		h.session.Store(&session)
	}
}

// unquoted is a raw JSON string without its quotes, as it stands.
func unquoted(raw []byte) []byte {
	if len(raw) < 2 || raw[0] != '"' {
		return nil
	}
	return raw[1 : len(raw)-1]
}

// publishStatus tells all clients a state that the agent knows of.
func (h *hub) publishStatus(state jupyter.State) {
	e := entry(jupyter.NewStatus(state, *h.session.Load()), "", kindStatus, h.legacy.Load() > 0)
	e.Value.restarting = state == jupyter.Restarting
	h.events.Append(e)
	h.wake()
}

// publishError shows text where the running cell's output is.
func (h *hub) publishError(text string, cell []byte) {
	m := jupyter.NewStream("stderr", text+"\n", *h.session.Load(), cell)
	h.events.Append(entry(m, "", kindError, h.legacy.Load() > 0))
	h.wake()
	h.executions.take(m)
}

func (h *hub) wake() {
	for _, s := range *h.sockets.Load() {
		s.wakeUp()
	}
	for _, f := range *h.followers.Load() {
		f.wakeUp()
	}
}

// fromClient takes a message of a client. The message's memory may be reused
// after the call. A *closeError says that the connection cannot go on.
func (h *hub) fromClient(c *client, m *jupyter.Message) error {
	id := jupyter.PeekID(m.Header)
	h.mu.Lock()
	h.routes.learn(c, id, jupyter.PeekSession(m.Header))
	h.mu.Unlock()
	execute := m.Channel == jupyter.Shell && isType(m, `"execute_request"`)
	if execute {
		h.cellRequested(c, m, id)
	}
	err := h.inbound.send(h, m, id)
	if err != nil && execute {
		h.cellRefused(id)
	}
	return err
}

// refuse forgets a message that waited for the kernel and was not taken.
func (h *hub) refuse(m *jupyter.Message) {
	h.ignored.Add(1)
	if m.Channel == jupyter.Shell && isType(m, `"execute_request"`) {
		id := jupyter.PeekID(m.Header)
		h.track.refused(id)
		h.cellRefused(id)
	}
}

// tellRefused tells the client of such a message: where its output would be, and
// by the end of the connection, as no answer will come.
func (h *hub) tellRefused(m *jupyter.Message, why *closeError) {
	id := jupyter.PeekID(m.Header)
	if m.Channel == jupyter.Shell && isType(m, `"execute_request"`) {
		h.publishError("not executed: "+why.reason, m.Header)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if c := h.routes.find(id, jupyter.PeekSession(m.Header)); c != nil && c.socket != nil {
		c.socket.close(why.code, why.reason, true)
	}
}

// attach makes s the socket of its session_id and returns the client, with the
// cursor where s begins. A socket that the client had is closed.
func (h *hub) attach(s *socket, sessionID string) *client {
	h.mu.Lock()
	c := h.clients[sessionID]
	if c == nil || sessionID == "" {
		c = &client{id: sessionID}
		if sessionID == "" {
			c.id, c.anonymous = jupyter.NewID(), true
		}
		c.acked = h.events.Now(c.id)
		c.sent = c.acked.Seq()
		h.clients[c.id] = c
	}
	old := c.socket
	c.socket = s
	s.client = c
	s.cursor = c.acked
	s.offset.Store(s.cursor.Offset())
	h.replaceSockets(s, old)
	h.mu.Unlock()
	if s.encoding != wsproto.V1 {
		h.legacy.Add(1)
	}
	if old != nil {
		// As jupyter_server does: an empty close frame. The client is the one
		// that opened the new connection and does not look at the old any more.
		old.close(websocket.CloseNoStatusReceived, "", false)
	}
	h.track.changed()
	return c
}

// detach takes s from its client, which is remembered unless nobody can come
// back as it.
func (h *hub) detach(s *socket) {
	h.mu.Lock()
	c := s.client
	h.replaceSockets(nil, s)
	if c.socket == s {
		c.socket, c.away, c.left = nil, time.Now(), s.goodbye
		if c.anonymous {
			h.forget(c)
		}
		h.forgetOldest()
	}
	h.mu.Unlock()
	if s.encoding != wsproto.V1 {
		h.legacy.Add(-1)
	}
	h.track.changed()
}

// replaceSockets needs the lock.
func (h *hub) replaceSockets(add, remove *socket) {
	old := *h.sockets.Load()
	sockets := make([]*socket, 0, len(old)+1)
	for _, s := range old {
		if s != remove {
			sockets = append(sockets, s)
		}
	}
	if add != nil {
		sockets = append(sockets, add)
	}
	h.sockets.Store(&sockets)
}

// forgetOldest keeps the number of clients that are away within maxAway. It
// needs the lock.
func (h *hub) forgetOldest() {
	if len(h.clients)-len(*h.sockets.Load()) <= maxAway {
		return
	}
	var oldest *client
	for _, c := range h.clients {
		if c.socket == nil && (oldest == nil || c.away.Before(oldest.away)) {
			oldest = c
		}
	}
	if oldest != nil {
		h.forget(oldest)
	}
}

// forget needs the lock.
func (h *hub) forget(c *client) {
	delete(h.clients, c.id)
	h.routes.forget(c)
	h.events.Forget(c.id)
}

// tick forgets clients that stayed away too long, ends connections whose other end
// is silent, and looks after output that is held back or kept. It is called every few
// seconds.
func (h *hub) tick(now time.Time) {
	h.mu.Lock()
	for _, c := range h.clients {
		if c.socket == nil && now.Sub(c.away) > clientLifetime {
			h.forget(c)
		}
	}
	h.mu.Unlock()
	h.caps.tick(now)
	if h.output != nil {
		h.output.SealOld(now)
	}
	for _, s := range *h.sockets.Load() {
		if silent := now.Sub(time.Unix(0, s.alive.Load())); silent > silence {
			h.log.Info("cutting a silent connection", "silent", silent.Round(time.Second).String())
			s.cut()
		}
	}
}

// closeSockets closes the sockets that which chooses, after they have got all
// that is in the log.
func (h *hub) closeSockets(code int, reason string, which func(*socket) bool) {
	for _, s := range *h.sockets.Load() {
		if which(s) {
			s.close(code, reason, true)
		}
	}
}

// waitForSockets waits until no socket and no follower is left, for some time.
func (h *hub) waitForSockets(patience time.Duration) {
	await(patience, func() bool { return len(*h.sockets.Load()) == 0 && len(*h.followers.Load()) == 0 })
}

func (h *hub) waitForFollowers(patience time.Duration) {
	await(patience, func() bool { return len(*h.followers.Load()) == 0 })
}

func await(patience time.Duration, done func() bool) {
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(patience); time.Now().Before(end) && !done(); <-tick.C {
	}
}

func (h *hub) cutSockets() {
	for _, s := range *h.sockets.Load() {
		s.cut()
	}
	for _, f := range *h.followers.Load() {
		f.cut()
	}
}

func isAnonymous(s *socket) bool { return s.client.anonymous }
func anySocket(*socket) bool     { return true }

// acknowledged notes that the client of s has everything up to cursor.
func (h *hub) acknowledged(s *socket, cursor eventlog.Cursor) {
	h.mu.Lock()
	defer h.mu.Unlock()
	c := s.client
	if c.socket != s {
		return // its successor has begun from what was acknowledged before
	}
	if cursor.Seq() > c.acked.Seq() {
		c.acked = cursor
	}
}

// closeError ends a client's connection with a close code and reason.
type closeError struct {
	code   int
	reason string
}

func (e *closeError) Error() string { return fmt.Sprintf("close %d: %s", e.code, e.reason) }
