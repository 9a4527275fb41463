package kernelgw

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"sync"
	"time"

	"kernelgw/kernelgw/kernels"
	"kernelgw/kernelgw/splice"
	"kernelgw/sandboxes/agentapi"
)

// eventStream is the type of server-sent events, and all that an EventSource accepts.
const eventStream = "text/event-stream"

// The last that a client gets, where nothing else tells it to come back, or not.
// The number is of milliseconds to wait.
const (
	sseComeBack = ": the server is restarting\nretry: 1000\n\n"
	sseLost     = ": the connection to the kernel was lost\nretry: 1000\n\n"
	sseRevoked  = ": the credentials are no longer valid\n\n"
	ssePutOff   = ": not now\nretry: 2000\n\n"
)

// streamEvents passes an agent's server-sent events on to a client, as they come
// and as they are. They are followed only so far as to know where one ends.
func (s *Server) streamEvents(c *call, id string, asked agentapi.OutputRequest, connect func(context.Context) (kernels.Connection, error)) error {
	if c.Request().ContentLength != 0 {
		return badRequest("A stream is asked for without a body") // which would be left in the connection
	}
	place, err := s.sockets.enter(c.owner())
	if err != nil {
		return err
	}
	defer s.sockets.leave(place)
	ctx, cancel := context.WithCancel(c.Request().Context())
	defer cancel()
	held := context.AfterFunc(place.ctx, cancel)
	to, err := s.reach(ctx, connect)
	if err != nil {
		return s.unlessDraining(place, err)
	}
	defer to.Close()
	asked.Limit = ""
	events, err := (&agentapi.Client{Endpoint: to.Agent, Token: to.Token}).Stream(ctx, asked)
	if err != nil {
		return s.unlessDraining(place, s.outputError(err, id, to))
	}
	if !held() {
		events.Close()
		return errDraining
	}
	startEvents(c)
	p := &eventPump{out: c.Response(), control: http.NewResponseController(c.Response()), atEnd: true}
	err = s.pumpEvents(ctx, p, events, to, place.ctx.Done(), c.who.Revoked)
	s.o.Log.Debug("a stream of events ended", "kernel", id, "error", err)
	return nil
}

// putOffEvents tells a browser's EventSource to come back after an error that is
// soon over, and reports whether that was done. It gives up for good at any status
// but 200: a page would never hear of a kernel again when it came back while the
// gateway was starting. Whoever accepts other answers gets the error.
func (s *Server) putOffEvents(c *call, err error) bool {
	if c.Response().Committed || c.Request().Header.Get("Accept") != eventStream {
		return false
	}
	if status, _, _ := answer(c, err); status != http.StatusServiceUnavailable {
		return false
	}
	s.o.Log.Debug("a stream of events is put off", "error", err)
	startEvents(c)
	_, _ = io.WriteString(c.Response(), ssePutOff) // who is gone does not need it
	return true
}

// startEvents begins an answer of server-sent events.
func startEvents(c *call) {
	h := c.Response().Header()
	h.Set("Content-Type", eventStream)
	h.Set("X-Accel-Buffering", "no") // nginx would collect them
	c.Response().WriteHeader(http.StatusOK)
}

// unlessDraining returns err, unless it is a drain that it came from.
func (s *Server) unlessDraining(p *place, err error) error {
	if p.ctx.Err() != nil {
		return errDraining
	}
	return err
}

// pumpEvents passes events on until they end, or must.
func (s *Server) pumpEvents(ctx context.Context, p *eventPump, events io.ReadCloser, to kernels.Connection, drain, revoked <-chan struct{}) error {
	ctx, cancel := context.WithCancel(ctx)
	chunks := make(chan chunk)
	died := make(chan string, 1)
	var children sync.WaitGroup
	defer children.Wait()
	defer cancel()
	defer events.Close() // ends a Read
	children.Go(func() { readChunks(ctx, events, chunks) })
	children.Go(func() {
		if reason, dead := to.Dead(ctx); dead {
			died <- reason
		}
	})
	if err := p.write(nil); err != nil {
		return err
	}
	var late <-chan time.Time
	var dead string
	silent := time.NewTimer(streamSilence)
	defer silent.Stop()
	for {
		select {
		case c := <-chunks:
			if err := p.pass(c.bytes); err != nil || p.done {
				return err
			}
			silent.Reset(streamSilence)
			switch {
			case errors.Is(c.err, io.EOF):
				return nil // the agent has said why
			case c.err != nil:
				return errors.Join(c.err, s.lose(p, to))
			}
		case <-silent.C:
			return errors.Join(errStreamSilent, s.lose(p, to))
		case <-drain:
			drain, late = nil, time.After(splice.DefaultBoundaryWait)
			if err := p.end(sseComeBack); err != nil || p.done {
				return err
			}
		case <-revoked:
			return p.end(sseRevoked)
		case reason := <-died:
			if late == nil {
				late, dead = time.After(streamGrace), endEvent(reason)
			}
		case <-late:
			return p.end(dead)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// lose tells that the agent is lost, and whether its kernel is.
func (s *Server) lose(p *eventPump, to kernels.Connection) error {
	if reason, dead := s.isDead(to); dead {
		return p.end(endEvent(reason))
	}
	return p.end(sseLost)
}

// streamSilence is how long an agent whose stream has a sign of life each
// StreamBeat may be late.
const streamSilence = 3 * agentapi.StreamBeat

var errStreamSilent = errors.New("the agent was silent for too long")

// chunk is what was read at once, and the error behind it.
type chunk struct {
	bytes []byte
	err   error
}

// readChunks reads until an error or the end of ctx. What a chunk holds is valid
// until the next one is received.
func readChunks(ctx context.Context, from io.Reader, to chan<- chunk) {
	var buffers [2][32 << 10]byte
	for i := 0; ; i = 1 - i {
		n, err := from.Read(buffers[i][:])
		select {
		case to <- chunk{buffers[i][:n], err}:
		case <-ctx.Done():
			return
		}
		if err != nil {
			return
		}
	}
}

// eventPump writes server-sent events and knows whether it is between two.
type eventPump struct {
	out     io.Writer
	control *http.ResponseController
	newline bool   // the last byte was one
	atEnd   bool   // of an event
	last    string // to be written at the end of the event that is under way
	done    bool   // it was
}

// pass writes some bytes, up to the end that was asked for.
func (p *eventPump) pass(b []byte) error {
	if p.last != "" {
		if i := p.boundary(b); i >= 0 {
			p.done = true
			return p.write(append(bytes.Clone(b[:i]), p.last...))
		}
	}
	if n := len(b); n > 0 {
		before := n > 1 && b[n-2] == '\n' || n == 1 && p.newline
		p.newline = b[n-1] == '\n'
		p.atEnd = before && p.newline
	}
	return p.write(b)
}

// boundary returns the index behind the first end of an event in b, or -1.
func (p *eventPump) boundary(b []byte) int {
	if p.newline && len(b) > 0 && b[0] == '\n' {
		return 1
	}
	i := bytes.Index(b, []byte("\n\n"))
	if i < 0 {
		return -1
	}
	return i + 2
}

// end has text end the stream: now, or at the end of the event that is under way.
// A client drops an event that does not end.
func (p *eventPump) end(text string) error {
	p.last = text
	if !p.atEnd {
		return nil
	}
	p.done = true
	return p.write([]byte(text))
}

// write writes and flushes. A client that takes nothing is cut as others are.
func (p *eventPump) write(b []byte) error {
	_ = p.control.SetWriteDeadline(time.Now().Add(splice.DefaultStallLimit)) // fails without a network only
	if _, err := p.out.Write(b); err != nil {
		return err
	}
	return p.control.Flush()
}

// endEvent is what an agent sends when its kernel is gone for good.
func endEvent(reason string) string {
	data, err := json.Marshal(agentapi.StreamEnd{Reason: reason})
	if err != nil {
		panic(err) // a string can be encoded
	}
	return "event: end\ndata: " + string(data) + "\n\n"
}
