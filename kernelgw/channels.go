package kernelgw

import (
	"context"
	"encoding/json"
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
)

const (
	maxSessionID = 256
	maxUserAgent = 512
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
	encoding := offered(r)
	target := "/v1/channels"
	if session != "" {
		target += "?session_id=" + url.QueryEscape(session)
	}
	header := http.Header{}
	// The agent recognises clients that cannot take binary frames by these.
	if v := r.UserAgent(); v != "" {
		header.Set("User-Agent", v[:min(len(v), maxUserAgent)])
	}
	if v := r.Header.Get("Origin"); v != "" {
		header.Set("Origin", v[:min(len(v), maxUserAgent)])
	}
	if encoding == wsproto.V1 {
		header.Set("Sec-WebSocket-Protocol", wsproto.Subprotocol)
	}
	return s.join(c, link{
		kind: "kernel", name: id, up: splice.Upgrade{Target: target, Header: header},
		connect: func(ctx context.Context) (kernels.Connection, error) {
			if err := s.o.Kernels.UsedBy(ctx, c.workspace, id, c.reader()); err != nil {
				return kernels.Connection{}, err
			}
			return s.o.Kernels.Connect(ctx, c.workspace, id)
		},
		gone: func(reason string) splice.Farewell { return deathNotice(id, encoding, reason) },
	})
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
