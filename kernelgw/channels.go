package kernelgw

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"

	"kernelgw/jupyter"
	"kernelgw/jupyter/wsproto"
	"kernelgw/kernelgw/kernels"
	"kernelgw/kernelgw/splice"
	"kernelgw/sandboxes/agentapi"
)

// Close codes of the gateway's own. JupyterLab reconnects after any but 1000
// and 1001 (contract section 3.10).
const (
	closeGone    = 1000 // the kernel is gone
	closeRevoked = 1008 // the credentials are
	closeRestart = 1012 // come back
)

const (
	maxSessionID = 256
	maxUserAgent = 512
	// agentPatience bounds the whole way to an agent that listens already.
	agentPatience = 10 * time.Second
	// lostPatience is how long a connection that the agent dropped waits to
	// learn whether its kernel died: within a second, the client must know.
	lostPatience = 800 * time.Millisecond
	// deathGrace is how long the agent has to tell a kernel's death itself.
	deathGrace = 300 * time.Millisecond
)

// channels joins a client's WebSocket to its kernel's agent. The upgrade is held
// until the agent listens: a client may talk at once.
func (s *Server) channels(c *call) error {
	r := c.Request()
	id, err := c.kernelID()
	if err != nil {
		return err
	}
	if err := splice.CheckRequest(r); err != nil {
		return notUpgrade(c, err)
	}
	session := c.QueryParam("session_id")
	if len(session) > maxSessionID {
		return badRequest("session_id has %d bytes; the limit is %d", len(session), maxSessionID)
	}
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

	hold, cancel := context.WithTimeout(r.Context(), s.o.ConnectTimeout)
	defer cancel()
	defer context.AfterFunc(place.ctx, cancel)()
	kernel, err := s.o.Kernels.Connect(hold, c.workspace, id)
	if err != nil {
		if place.ctx.Err() != nil {
			return errDraining
		}
		return err
	}
	defer func() {
		if !kept {
			kernel.Close()
		}
	}()
	joined, err := s.join(hold, c, id, session, kernel)
	switch {
	case errors.Is(err, splice.ErrClientGone):
		c.Response().Status = http.StatusSwitchingProtocols
		return nil
	case err != nil && place.ctx.Err() != nil:
		return errDraining
	case err != nil:
		s.o.Metrics.AgentErrors.WithLabelValues("connect").Inc()
		s.o.Log.Warn("cannot connect a WebSocket to a kernel's agent", "kernel", id, "error", err)
		return &httpError{
			status: http.StatusServiceUnavailable, message: "The kernel cannot be reached now; try again", retryAfter: 2,
		}
	}
	c.Response().Status = http.StatusSwitchingProtocols
	kept = true
	// A goroutine of its own, so that net/http's buffers and the request do not
	// live as long as the WebSocket. sockets joins it.
	dead, revoked, encoding := kernel.Dead, c.who.Revoked, offered(r)
	s.sockets.run(place, joined, func() {
		defer kernel.Close()
		s.work(joined, id, encoding, dead, revoked)
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

// join dials the agent and forwards the upgrade. Of the client's request only
// what the agent must know crosses: no cookie, no token, no Referer.
func (s *Server) join(ctx context.Context, c *call, id, session string, kernel kernels.Connection) (*splice.Splice, error) {
	ctx, cancel := context.WithTimeout(ctx, agentPatience)
	defer cancel()
	agent, err := (&agentapi.Client{Endpoint: kernel.Agent, Token: kernel.Token}).DialRaw(ctx)
	if err != nil {
		return nil, fmt.Errorf("cannot dial the agent: %w", err)
	}
	r := c.Request()
	up := splice.Upgrade{Target: "/v1/channels", Header: http.Header{"Authorization": {"Bearer " + kernel.Token}}}
	if session != "" {
		up.Target += "?session_id=" + url.QueryEscape(session)
	}
	// The agent recognises clients that cannot take binary frames by these.
	if v := r.UserAgent(); v != "" {
		up.Header.Set("User-Agent", v[:min(len(v), maxUserAgent)])
	}
	if v := r.Header.Get("Origin"); v != "" {
		up.Header.Set("Origin", v[:min(len(v), maxUserAgent)])
	}
	encoding := offered(r)
	if encoding == wsproto.V1 {
		up.Header.Set("Sec-WebSocket-Protocol", wsproto.Subprotocol)
	}
	return splice.Open(ctx, c.Response(), r, agent, up, splice.Options{
		ToClient: &s.toClient, ToAgent: &s.toAgent, MaxMessageBytes: s.o.MaxMessageBytes,
		AgentLost: func() splice.Farewell {
			wait, cancel := context.WithTimeout(context.Background(), lostPatience)
			defer cancel()
			if reason, dead := kernel.Dead(wait); dead {
				return deathNotice(id, encoding, reason)
			}
			return splice.Farewell{Code: closeRestart, Reason: "the connection to the kernel was lost; reconnect"}
		},
	})
}

// work runs a WebSocket until it ends, and ends it when its kernel dies or its
// credentials are revoked.
func (s *Server) work(joined *splice.Splice, id string, encoding wsproto.Encoding,
	dead func(context.Context) (string, bool), revoked <-chan struct{},
) {
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
		case <-time.After(deathGrace):
			joined.End(deathNotice(id, encoding, reason))
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
	s.o.Log.Debug("a WebSocket ended", "kernel", id, "by", result.By, "code", result.Code, "error", result.Err,
		"to_client", result.BytesToClient, "to_agent", result.BytesToAgent)
}

// offered is the encoding that a client speaks, by the subprotocols it offers.
// The text and binary forms of the legacy encoding are the same for what the
// gateway itself says.
func offered(r *http.Request) wsproto.Encoding {
	for _, line := range r.Header.Values("Sec-WebSocket-Protocol") {
		names := strings.Split(line, ",")
		if slices.ContainsFunc(names, func(n string) bool { return strings.TrimSpace(n) == wsproto.Subprotocol }) {
			return wsproto.V1
		}
	}
	return wsproto.Legacy
}

// deathNotice tells a client that its kernel is gone: one last iopub status
// "dead" ("Messaging in Jupyter", section "Kernel status"), then 1000, after
// which no client reconnects.
func deathNotice(kernel string, encoding wsproto.Encoding, reason string) splice.Farewell {
	header, err := json.Marshal(jupyter.Header{
		MsgID: uuid.NewString(), MsgType: "status", Session: kernel, Username: "kernelgw",
		Date: time.Now().UTC().Format(time.RFC3339Nano), Version: "5.4",
	})
	if err != nil {
		panic(err) // six strings can be encoded
	}
	empty := []byte("{}")
	payload, binary := wsproto.Append(nil, encoding, &jupyter.Message{
		Channel: jupyter.IOPub, Header: header, ParentHeader: empty, Metadata: empty,
		Content: []byte(`{"execution_state":"dead"}`),
	})
	f := splice.Farewell{Message: payload, Opcode: splice.Text, Code: closeGone, Reason: "the kernel is dead"}
	if binary {
		f.Opcode = splice.Binary
	}
	if reason != "" {
		f.Reason += ": " + reason
	}
	return f
}
