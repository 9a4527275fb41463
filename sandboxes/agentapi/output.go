package agentapi

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"time"
)

// Limits of the streams and pages of a kernel's event log: what was said to
// whomever, numbered 1, 2, 3, ... They are read from a place on:
//
//	GET /v1/stream?last_event_id=P&channels=C  what came after P and what comes, in order, each once
//	GET /v1/output?last_event_id=P&channels=C&limit=N  200 {"events": [...], "next": P, "end": whether that is all until now,
//	                                                   "lost": {"messages", "bytes"} of the page}
//
// P is the id of an event or its number; 0 is the beginning. Without it a stream
// begins now and a page at the beginning. from=P means the same, and the header
// Last-Event-ID wins over both. 400 when P is neither, 410 when there was no such
// event in this log: an id names the log, and another sandbox has another. C is a
// list of iopub, shell, control and stdin, with commas; without it iopub.
//
// A stream is a WebSocket, where the request asks for one, of one text message
// for each event; else text/event-stream, of one event for each, with its id. An
// event is
//
//	{"id", "seq", "channel", "msg": {"header", "parent_header", "metadata", "content"}, "buffers": [base64]}
//	{"id", "seq", "lost": {"messages", "bytes"}, "parent_header"}
//	{"id", "seq"}
//
// a message, a part of which is null if it was no JSON; in their place, how many
// had to leave the log, up to seq, those of the channels that were asked for, or
// of all when these are iopub and others; and, first, where the stream begins,
// which server-sent events say with an id alone. When the kernel was shut down
// and all was sent, a WebSocket is closed with 1000, and the last server-sent
// event is "end", with a StreamEnd.
const (
	// StreamBeat is how long a stream is silent at most.
	StreamBeat = 15 * time.Second
	// MaxPageBytes bounds what is believed to be a page: what pages end at, and
	// an event of the largest message, its buffers in base64.
	MaxPageBytes = 16<<20 + DefaultMaxMessageBytes*4/3
)

// StreamEnd is the data of a stream's "end".
type StreamEnd struct {
	Reason string `json:"reason"` // why the kernel is gone, "" when that was asked for
}

// OutputRequest asks for a part of a kernel's event log. Its fields are as in the
// query, "" for none; the agent checks them.
type OutputRequest struct {
	Place    string
	Channels string
	Limit    string // of a page
}

func (r OutputRequest) query() string {
	values := url.Values{}
	for name, value := range map[string]string{"last_event_id": r.Place, "channels": r.Channels, "limit": r.Limit} {
		if value != "" {
			values.Set(name, value)
		}
	}
	return "?" + values.Encode()
}

// StreamTarget is the path and query of a stream, for a caller that speaks HTTP
// itself.
func (r OutputRequest) StreamTarget() string { return "/v1/stream" + r.query() }

// Stream follows the event log by server-sent events, until ctx ends. They are
// the agent's, not checked, and there may be any number of them. A *StatusError
// has one of the codes of the contract.
func (c *Client) Stream(ctx context.Context, r OutputRequest) (events io.ReadCloser, err error) {
	body, err := c.output(ctx, r.StreamTarget())
	if err != nil {
		return nil, err
	}
	return body, nil
}

// Output returns a page of the event log, not checked, and cut with an error
// behind MaxPageBytes, or when its reader had to wait for it for too long. Errors
// are as those of Stream.
func (c *Client) Output(ctx context.Context, r OutputRequest) (page io.ReadCloser, err error) {
	body, err := c.output(ctx, "/v1/output"+r.query())
	if err != nil {
		return nil, err
	}
	return &pageBody{body, MaxPageBytes, outputsTimeout}, nil
}

// output asks, with the patience of other calls until the answer begins.
func (c *Client) output(ctx context.Context, target string) (*outputBody, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	silent := time.AfterFunc(callTimeout, func() { cancel(errSilent) })
	resp, err := c.roundTrip(ctx, http.MethodGet, target, nil)
	if err != nil || !silent.Stop() {
		if err == nil {
			resp.Body.Close()
			err = errSilent
		}
		cancel(nil)
		return nil, fmt.Errorf("cannot call the agent: %w", err)
	}
	return &outputBody{resp.Body, cancel}, nil
}

// outputBody ends its request when it is closed, and what reads from it.
type outputBody struct {
	io.ReadCloser
	cancel context.CancelCauseFunc
}

// Close implements io.Closer.
func (b *outputBody) Close() error {
	b.cancel(nil)
	return b.ReadCloser.Close()
}

// pageBody ends with an error where no page ends.
type pageBody struct {
	*outputBody
	left     int64
	patience time.Duration // with the agent, as far as it is not used up
}

// Read implements io.Reader.
func (b *pageBody) Read(p []byte) (int, error) {
	if b.left <= 0 {
		return 0, fmt.Errorf("%w: a page of more than %d bytes", ErrLies, MaxPageBytes)
	}
	begin := time.Now()
	silent := time.AfterFunc(b.patience, func() { b.cancel(errSilent) })
	n, err := b.outputBody.Read(p[:min(int64(len(p)), b.left)])
	if !silent.Stop() {
		err = errSilent
	}
	b.left -= int64(n)
	b.patience -= time.Since(begin)
	return n, err
}
