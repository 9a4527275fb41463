package kernelgw

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"kernelgw/kernelgw/kernels"
	"kernelgw/kernelgw/splice"
	"kernelgw/sandboxes/agentapi"
)

// Close codes of the gateway's own. JupyterLab reconnects after any but 1000
// and 1001 (contract section 3.10).
const (
	closeGone    = 1000 // what it led to is gone
	closeRevoked = 1008 // the credentials are
	closeRestart = 1012 // come back
)

const (
	// agentPatience bounds the whole way to an agent that listens already.
	agentPatience = 10 * time.Second
	// lostPatience is how long a connection that the agent dropped waits to
	// learn whether its kernel died: within a second, the client must know.
	lostPatience = 800 * time.Millisecond
	// deathGrace is how long the agent has to tell a kernel's death itself.
	deathGrace = 300 * time.Millisecond
)

// link is what a client's WebSocket is to be joined to.
type link struct {
	kind, name string         // for the log
	up         splice.Upgrade // without the agent's token
	// connect finds the agent, and may wait for it.
	connect func(context.Context) (kernels.Connection, error)
	// gone takes leave of the client when what it is joined to has ended.
	gone func(reason string) splice.Farewell
	// grace is how long the agent has to tell the end of what it leads to
	// itself; zero means deathGrace.
	grace time.Duration
	// refusals are the answers to the client for statuses that the agent answers
	// with; any other means that it cannot be reached now.
	refusals map[int]error
	// maxMessage bounds one message; zero means Options.MaxMessageBytes.
	maxMessage int64
}

// join joins a client's WebSocket to an agent. The upgrade is held until the
// agent listens: a client may talk at once. The request must have passed
// splice.CheckRequest.
func (s *Server) join(c *call, l link) error {
	place, err := s.sockets.enter(c.owner())
	if err != nil {
		return err
	}
	// Given back here unless the socket's own goroutine takes it over.
	kept := false
	defer func() {
		if !kept {
			s.sockets.leave(place)
		}
	}()

	hold, cancel := context.WithTimeout(c.Request().Context(), s.o.ConnectTimeout)
	defer cancel()
	defer context.AfterFunc(place.ctx, cancel)()
	to, err := l.connect(hold)
	if err != nil {
		if place.ctx.Err() != nil {
			return errDraining
		}
		return err
	}
	defer func() {
		if !kept {
			to.Close()
		}
	}()
	joined, err := s.open(hold, c, l, to)
	var refused *splice.AnswerError
	switch {
	case errors.Is(err, splice.ErrClientGone):
		c.Response().Status = http.StatusSwitchingProtocols
		return nil
	case err != nil && place.ctx.Err() != nil:
		return errDraining
	case errors.As(err, &refused) && l.refusals[refused.Status] != nil:
		return l.refusals[refused.Status]
	case err != nil:
		s.o.Metrics.AgentErrors.WithLabelValues("connect").Inc()
		s.o.Log.Warn("cannot connect a WebSocket to an agent", l.kind, l.name, "error", err)
		return &httpError{
			status: http.StatusServiceUnavailable, message: "The " + l.kind + " cannot be reached now; try again", retryAfter: 2,
		}
	}
	c.Response().Status = http.StatusSwitchingProtocols
	kept = true
	// A goroutine of its own, so that net/http's buffers and the request do not
	// live as long as the WebSocket. sockets joins it.
	dead, revoked := to.Dead, c.who.Revoked
	s.sockets.run(place, joined, func() {
		defer to.Close()
		s.work(joined, l, dead, revoked)
	})
	return nil
}

var errDraining = &httpError{
	status: http.StatusServiceUnavailable, message: "The server is restarting; try again", retryAfter: 2,
}

func notUpgrade(c *call, err error) error {
	var wrong *splice.RequestError
	if !errors.As(err, &wrong) {
		return err
	}
	if wrong.Status == http.StatusUpgradeRequired {
		c.Response().Header().Set("Sec-WebSocket-Version", "13")
	}
	return &httpError{status: wrong.Status, message: sentence(wrong.Error())}
}

// limitName is the setting of Options.MaxMessageBytes.
const limitName = "max_message"

// envelope is what an encoding of the agent puts around a message of the kernel that
// is just within the limit: a table of its buffers, of which there may be 16,384, or
// its type and id once more. Without it the client would be cut off for a message
// that was let pass, and again whenever it came back for it.
const envelope = 1 << 20

// open dials the agent and forwards the upgrade. Of the client's request only
// what the agent must know crosses: no cookie, no token, no Referer.
func (s *Server) open(ctx context.Context, c *call, l link, to kernels.Connection) (*splice.Splice, error) {
	ctx, cancel := context.WithTimeout(ctx, agentPatience)
	defer cancel()
	agent, err := (&agentapi.Client{Endpoint: to.Agent, Token: to.Token}).DialRaw(ctx)
	if err != nil {
		return nil, fmt.Errorf("cannot dial the agent: %w", err)
	}
	up := l.up
	if up.Header == nil {
		up.Header = http.Header{}
	}
	up.Header.Set("Authorization", "Bearer "+to.Token)
	return splice.Open(ctx, c.Response(), c.Request(), agent, up, splice.Options{
		ToClient: &s.toClient, ToAgent: &s.toAgent, MaxMessageBytes: cmp.Or(l.maxMessage, s.o.MaxMessageBytes),
		Envelope: envelope, LimitName: limitName,
		AgentLost: func() splice.Farewell {
			wait, cancel := context.WithTimeout(context.Background(), lostPatience)
			defer cancel()
			if reason, dead := to.Dead(wait); dead {
				return l.gone(reason)
			}
			return splice.Farewell{Code: closeRestart, Reason: "the connection to the " + l.kind + " was lost; reconnect"}
		},
	})
}

// work runs a WebSocket until it ends, and ends it when what it leads to dies or
// its credentials are revoked.
func (s *Server) work(joined *splice.Splice, l link, dead func(context.Context) (string, bool), revoked <-chan struct{}) {
	ctx, cancel := context.WithCancel(context.Background())
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		reason, isDead := dead(ctx)
		if !isDead {
			return
		}
		select {
		case <-ctx.Done():
		case <-time.After(cmp.Or(l.grace, deathGrace)):
			joined.End(l.gone(reason))
		}
	}()
	unrevoked := make(chan struct{})
	go func() {
		defer close(unrevoked)
		select {
		case <-ctx.Done():
		case <-revoked:
			joined.End(splice.Farewell{Code: closeRevoked, Reason: "the credentials are no longer valid", Mute: true})
		}
	}()
	result := joined.Run()
	cancel()
	<-watched
	<-unrevoked
	s.o.Log.Debug("a WebSocket ended", l.kind, l.name, "by", result.By, "code", result.Code, "error", result.Err,
		"to_client", result.BytesToClient, "to_agent", result.BytesToAgent)
}
