package kernelgw

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"golang.org/x/net/http/httpguts"

	"kernelgw/auth"
	"kernelgw/kernelgw/kernels"
	"kernelgw/kernelgw/splice"
	"kernelgw/sandboxes/agentapi"
)

// outputRoutes are those of what a session's kernel has said, and says. An id is
// a session's, or when there is none such, a kernel's.
func outputRoutes() []Route {
	return []Route{
		row(http.MethodGet, "v1/sessions/:id/stream", auth.Socket, everywhere, "Follow what the session's kernel says, over a WebSocket or by server-sent events, "+
			"from any event that it still has: ?last_event_id=ID&channels=iopub,shell; the header Last-Event-ID wins", (*Server).streamOutput),
		row(http.MethodGet, "v1/sessions/:id/output", auth.API, everywhere, "One page of it: ?from=ID&channels=iopub,shell&limit=1000", (*Server).getOutput),
	}
}

// streamGrace is how long an agent has to send the rest of a log whose kernel is
// gone: a little more than it takes itself.
const streamGrace = 10 * time.Second

// outputRequest reads what part of a log a request asks for. The agent checks
// what it means.
func outputRequest(c *call) (r agentapi.OutputRequest, err error) {
	query := c.Request().URL.Query()
	// A browser that comes back asks by the header; its URL is as old as the page.
	r.Place = cmp.Or(c.Request().Header.Get("Last-Event-ID"), query.Get("last_event_id"), query.Get("from"))
	r.Channels, r.Limit = query.Get("channels"), query.Get("limit")
	const most = 200 // ids are shorter, and the lists of channels
	if max(len(r.Place), len(r.Channels), len(r.Limit)) > most {
		return r, errOutputRequest
	}
	return r, nil
}

var errOutputRequest = badRequest("from and last_event_id are the id of an event or its number, 0 for the beginning; " +
	"channels is a list of iopub, shell, control and stdin with commas; limit is a number from 1 to 10000")

// outputRefusals are what an agent means by its answers.
var outputRefusals = map[int]error{
	http.StatusBadRequest: errOutputRequest,
	http.StatusGone: &httpError{status: http.StatusGone, message: "There was no such event in the log of this kernel: " +
		"its sandbox is another than the one that the event came from. Begin again with 0"},
}

// streamOutput follows the event log of a kernel, in the way that is asked for.
func (s *Server) streamOutput(c *call) error {
	err := s.followOutput(c)
	if err != nil && s.putOffEvents(c, err) {
		return nil
	}
	return err
}

func (s *Server) followOutput(c *call) error {
	id, err := s.runtimeID(c)
	if err != nil {
		return err
	}
	asked, err := outputRequest(c)
	if err != nil {
		return err
	}
	connect := func(ctx context.Context) (kernels.Connection, error) {
		return s.o.Kernels.ConnectLog(ctx, c.workspace, id)
	}
	if !httpguts.HeaderValuesContainsToken(c.Request().Header.Values("Upgrade"), "websocket") {
		return s.streamEvents(c, id, asked, connect)
	}
	if err := splice.CheckRequest(c.Request()); err != nil {
		return notUpgrade(c, err)
	}
	asked.Limit = ""
	return s.join(c, link{
		kind: "kernel", name: id, up: splice.Upgrade{Target: asked.StreamTarget()}, connect: connect,
		gone: streamGone, grace: streamGrace, refusals: outputRefusals,
		// What is binary in a message is base64 in its event, which comes in pieces.
		maxMessage: cmp.Or(s.o.MaxMessageBytes, splice.DefaultMaxMessageBytes) * 3 / 2,
	})
}

// streamGone tells a client that nothing more will come.
func streamGone(reason string) splice.Farewell {
	f := splice.Farewell{Code: closeGone, Reason: "the kernel is dead"}
	if reason != "" {
		f.Reason += ": " + reason
	}
	return f
}

// reach finds a kernel's agent, for at most as long as an upgrade is held.
func (s *Server) reach(ctx context.Context, connect func(context.Context) (kernels.Connection, error)) (kernels.Connection, error) {
	hold, cancel := context.WithTimeout(ctx, s.o.ConnectTimeout)
	defer cancel()
	return connect(hold)
}

// outputError turns what an agent did into an answer.
func (s *Server) outputError(err error, kernel string, to kernels.Connection) error {
	var refused *agentapi.StatusError
	if errors.As(err, &refused) && outputRefusals[refused.Code] != nil {
		return outputRefusals[refused.Code]
	}
	if reason, dead := s.isDead(to); dead {
		return fmt.Errorf("%w: %s", kernels.ErrDead, reason)
	}
	s.o.Metrics.AgentErrors.WithLabelValues("connect").Inc()
	s.o.Log.Warn("cannot read the output of a kernel", "kernel", kernel, "error", err)
	return &httpError{status: http.StatusServiceUnavailable, message: "The kernel cannot be reached now; try again", retryAfter: 2}
}

// isDead reports whether it turns out soon that what was lost is gone for good.
func (s *Server) isDead(to kernels.Connection) (reason string, dead bool) {
	wait, cancel := context.WithTimeout(context.Background(), lostPatience)
	defer cancel()
	return to.Dead(wait)
}

// getOutput answers with a page of the event log of a kernel.
func (s *Server) getOutput(c *call) error {
	id, err := s.runtimeID(c)
	if err != nil {
		return err
	}
	asked, err := outputRequest(c)
	if err != nil {
		return err
	}
	place, err := s.sockets.enter(c.owner())
	if err != nil {
		return err
	}
	defer s.sockets.leave(place)
	ctx := c.Request().Context()
	to, err := s.reach(ctx, func(ctx context.Context) (kernels.Connection, error) {
		return s.o.Kernels.ConnectLog(ctx, c.workspace, id)
	})
	if err != nil {
		return err
	}
	defer to.Close()
	page, err := (&agentapi.Client{Endpoint: to.Agent, Token: to.Token}).Output(ctx, asked)
	if err != nil {
		return s.outputError(err, id, to)
	}
	defer page.Close()
	c.Response().Header().Set("Content-Type", "application/json")
	w := &steadyWriter{c.Response(), steady{set: http.NewResponseController(c.Response()).SetWriteDeadline, patience: writeTimeout}}
	if _, err := io.Copy(w, page); err != nil {
		s.o.Log.Debug("a page of output broke off", "kernel", id, "error", err)
		panic(http.ErrAbortHandler) // or the client would take the part for the whole
	}
	return nil
}
