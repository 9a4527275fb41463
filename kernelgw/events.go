package kernelgw

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/gorilla/websocket"

	"kernelgw/kernelgw/splice"
)

// The schemas of the events that a stock server emits, and we do.
const (
	contentsSchema = "https://events.jupyter.org/jupyter_server/contents_service/v1"
	kernelSchema   = "https://events.jupyter.org/jupyter_server/kernel_actions/v1"
	gatewaySchema  = "https://events.jupyter.org/jupyter_server/gateway_client/v1"
)

// eventBacklog is how many events wait for a listener that reads slowly; what
// comes on top is lost to it. Events are hints, not a log.
const eventBacklog = 256

// maxEvent bounds the body of an event of a client's own: a backlog of large ones
// would fill memory.
const maxEvent = 16 << 10

// Events tells the listeners of a workspace what happens in it. The zero value
// is ready for use. Safe for concurrent use; nothing blocks.
type Events struct {
	mu        sync.Mutex
	listeners map[string]map[chan []byte]struct{} // guarded by mu; by workspace
}

// Contents tells that something happened to a file: action is one of save,
// create, upload, rename, copy and delete, source the path before a rename or
// copy. A get is told to nobody: it would drown the rest.
func (e *Events) Contents(action, workspace, path, source string) {
	if action == "get" {
		return
	}
	fields := map[string]any{"action": action, "path": path}
	if source != "" {
		fields["source_path"] = source
	}
	e.tell(workspace, contentsSchema, fields)
}

// kernel tells that a client did something to a kernel, or tried.
func (e *Events) kernel(action, workspace, id, name string, err error) {
	fields := map[string]any{"action": action, "kernel_id": id, "msg": "Kernel action " + action + ": " + id}
	if name != "" {
		fields["kernel_name"] = name
	}
	if fields["status"] = "success"; err != nil {
		fields["status"] = "error"
	}
	e.tell(workspace, kernelSchema, fields)
}

func (e *Events) tell(workspace, schema string, fields map[string]any) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if len(e.listeners[workspace]) == 0 {
		return
	}
	event := map[string]any{
		"schema_id": schema, "__schema__": schema, "__schema_version__": "1", "__metadata_version__": 1,
		"__timestamp__": time.Now().UTC().Format("2006-01-02T15:04:05.000000Z"),
	}
	for name, value := range fields {
		event[name] = value
	}
	text, err := json.Marshal(event)
	if err != nil {
		return // cannot be: it came as JSON, or is made of strings
	}
	for listener := range e.listeners[workspace] {
		select {
		case listener <- text:
		default:
		}
	}
}

// listen returns a channel of events until stop is called.
func (e *Events) listen(workspace string) (events <-chan []byte, stop func()) {
	listener := make(chan []byte, eventBacklog)
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.listeners == nil {
		e.listeners = map[string]map[chan []byte]struct{}{}
	}
	if e.listeners[workspace] == nil {
		e.listeners[workspace] = map[chan []byte]struct{}{}
	}
	e.listeners[workspace][listener] = struct{}{}
	return listener, func() {
		e.mu.Lock()
		defer e.mu.Unlock()
		delete(e.listeners[workspace], listener)
		if len(e.listeners[workspace]) == 0 {
			delete(e.listeners, workspace)
		}
	}
}

// postEvent tells an event of the caller's own to the workspace.
func (s *Server) postEvent(c *call) error {
	var body struct {
		SchemaID string         `json:"schema_id"`
		Version  any            `json:"version"`
		Data     map[string]any `json:"data"`
	}
	if len(c.body) > maxEvent {
		return &httpError{status: http.StatusRequestEntityTooLarge, message: fmt.Sprintf("An event has at most %d bytes", maxEvent)}
	}
	if err := decode(c.body, &body); err != nil {
		return err
	}
	if body.SchemaID == "" || body.Version == nil || body.Data == nil {
		return badRequest("schema_id, version and data are needed")
	}
	switch body.SchemaID {
	case contentsSchema, kernelSchema, gatewaySchema:
	default:
		return badRequest("The schema %s is not registered", clip(body.SchemaID))
	}
	data := map[string]any{}
	for name, value := range body.Data {
		if !strings.HasPrefix(name, "__") && name != "schema_id" {
			data[name] = value
		}
	}
	s.o.Events.tell(c.workspace, body.SchemaID, data)
	return c.NoContent(http.StatusNoContent)
}

// Timing of event sockets: as jupyter_server's.
const (
	eventPing    = 30 * time.Second
	eventSilence = 90 * time.Second
	eventWrite   = 10 * time.Second
)

// subscribeEvents is a WebSocket that tells events and listens to nothing.
func (s *Server) subscribeEvents(c *call) error {
	r := c.Request()
	if err := splice.CheckRequest(r); err != nil {
		return notUpgrade(c, err)
	}
	place, err := s.sockets.enter(c.owner())
	if err != nil {
		return err
	}
	// Before the answer: who has it hears everything that happens from then on.
	events, stop := s.o.Events.listen(c.workspace)
	upgrader := websocket.Upgrader{CheckOrigin: func(*http.Request) bool { return true }} // guard has
	conn, err := upgrader.Upgrade(c.Response(), r, nil)
	c.Response().Status = http.StatusSwitchingProtocols // or the upgrader has answered
	if err != nil {
		stop()
		s.sockets.leave(place)
		return nil //nolint:nilerr // the client is gone
	}
	socket := &eventSocket{conn: conn, end: make(chan splice.Farewell, 1)}
	revoked := c.who.Revoked
	s.sockets.run(place, socket, func() {
		defer stop()
		socket.work(events, revoked)
	})
	return nil
}

// eventSocket is one listener's WebSocket.
type eventSocket struct {
	conn *websocket.Conn
	end  chan splice.Farewell
}

// End ends the socket with a close frame. It does not wait, and only the first
// call counts.
func (e *eventSocket) End(f splice.Farewell) {
	select {
	case e.end <- f:
	default:
	}
}

// work tells events until the client leaves, or End or a revocation ends it.
func (e *eventSocket) work(events <-chan []byte, revoked <-chan struct{}) {
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		e.conn.SetReadLimit(4096)
		alive := func(string) error { return e.conn.SetReadDeadline(time.Now().Add(eventSilence)) }
		_ = alive("")
		e.conn.SetPongHandler(alive)
		for {
			if _, _, err := e.conn.NextReader(); err != nil {
				return
			}
		}
	}()
	defer func() {
		_ = e.conn.Close() // ends the reader
		<-gone
	}()
	ping := time.NewTicker(eventPing)
	defer ping.Stop()
	for {
		var err error
		deadline := func() time.Time { return time.Now().Add(eventWrite) }
		select {
		case <-gone:
			return
		case <-revoked:
			_ = e.conn.WriteControl(websocket.CloseMessage, websocket.FormatCloseMessage(closeRevoked, "the credentials are no longer valid"), deadline())
			return
		case f := <-e.end:
			_ = e.conn.WriteControl(websocket.CloseMessage, websocket.FormatCloseMessage(f.Code, f.Reason), deadline())
			return
		case <-ping.C:
			err = e.conn.WriteControl(websocket.PingMessage, nil, deadline())
		case text := <-events:
			_ = e.conn.SetWriteDeadline(deadline())
			err = e.conn.WriteMessage(websocket.TextMessage, text)
		}
		if err != nil {
			return
		}
	}
}
