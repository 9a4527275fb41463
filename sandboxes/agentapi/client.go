package agentapi

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"syscall"
	"time"
)

// Limits on what is taken from an agent, which is as hostile as its kernel.
const (
	MaxHeaderBytes = 64 << 10         // of an answer
	MaxBodyBytes   = 1 << 20          // of an answer
	MaxLineBytes   = 64 << 10         // of a watch
	WatchSilence   = 30 * time.Second // a watch ends when no line comes for so long
	// WatchPause is the least time between two lines of a watch. An honest
	// agent keeps a longer one; another fills its own buffers and waits.
	WatchPause = 20 * time.Millisecond
)

// Timeouts of the calls, if ctx does not end them before.
const (
	dialTimeout     = 5 * time.Second
	callTimeout     = 10 * time.Second
	restartTimeout  = 30 * time.Second // the agent kills a stubborn kernel after 6 s
	shutdownTimeout = 30 * time.Second
)

// Errors that callers test for.
var (
	// ErrGone: nobody listens at the agent's address.
	ErrGone = errors.New("the agent does not answer")
	// ErrLies: the agent broke its contract.
	ErrLies = errors.New("the agent broke its contract")
)

// Endpoint is where an agent listens, as net.Dial takes it: "unix" and a path of
// any length, or "tcp" and host:port. An alias, so that a sandboxes.Endpoint is
// one without this package knowing of sandboxes.
type Endpoint = struct{ Network, Address string }

// Client calls one agent. It holds no connection open between calls, and all of
// its methods are safe for concurrent use. Errors wrap ErrGone, ErrLies,
// *StatusError or the error of ctx.
type Client struct {
	Endpoint Endpoint
	Token    string

	dial func(context.Context) (net.Conn, error) // for tests; nil means Endpoint
}

// StatusError is an answer of the agent that is no success.
type StatusError struct {
	Code    int
	Message string // by the agent, cut short
}

// Error implements error.
func (e *StatusError) Error() string {
	return fmt.Sprintf("the agent answered %d: %s", e.Code, e.Message)
}

// Status returns the state of the kernel.
func (c *Client) Status(ctx context.Context) (Status, error) {
	return call[Status](ctx, c, http.MethodGet, "/v1/status", callTimeout)
}

// Usage returns what the sandbox uses.
func (c *Client) Usage(ctx context.Context) (Usage, error) {
	return call[Usage](ctx, c, http.MethodGet, "/v1/usage", callTimeout)
}

// Interrupt interrupts the kernel, in the way that its kernelspec says.
func (c *Client) Interrupt(ctx context.Context) error {
	_, err := call[struct{}](ctx, c, http.MethodPost, "/v1/kernel/interrupt", callTimeout)
	return err
}

// Restart restarts the kernel, a dead one too. It returns when the old process
// is gone and the new one was started. The end of ctx ends the wait only.
func (c *Client) Restart(ctx context.Context) (Status, error) {
	return call[Status](ctx, c, http.MethodPost, "/v1/kernel/restart", restartTimeout)
}

// Shutdown ends the kernel, and the agent after it. It returns when the kernel
// is gone. The end of ctx ends the wait only.
func (c *Client) Shutdown(ctx context.Context) error {
	_, err := call[struct{}](ctx, c, http.MethodPost, "/v1/kernel/shutdown", shutdownTimeout)
	return err
}

// WaitReady waits until the agent answers. Its kernel may still start.
func (c *Client) WaitReady(ctx context.Context) error {
	for pause := 2 * time.Millisecond; ; pause = min(2*pause, 100*time.Millisecond) {
		_, err := c.Status(ctx)
		if err == nil || !errors.Is(err, ErrGone) {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("waited in vain for the agent: %w (%v)", ctx.Err(), err)
		case <-time.After(pause):
		}
	}
}

// Watch calls seen with the status of the kernel: at once, at each change, and
// every few seconds, but not twice within WatchPause. It returns when ctx ends, when the agent ends the watch,
// which it does after its kernel was shut down, with io.EOF, or on an error.
// seen is called from the goroutine of the caller.
func (c *Client) Watch(ctx context.Context, seen func(Status)) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	silent := time.AfterFunc(WatchSilence, func() { cancel(errSilent) })
	defer silent.Stop()
	resp, err := c.roundTrip(ctx, http.MethodGet, "/v1/watch", nil)
	if err != nil {
		return fmt.Errorf("cannot watch the agent: %w", err)
	}
	defer resp.Body.Close()
	lines := bufio.NewScanner(resp.Body)
	lines.Buffer(nil, MaxLineBytes)
	for lines.Scan() {
		silent.Reset(WatchSilence)
		var s Status
		if err := json.Unmarshal(lines.Bytes(), &s); err != nil {
			return fmt.Errorf("cannot watch the agent: %w: a line is no status", ErrLies)
		}
		seen(s)
		select {
		case <-ctx.Done():
			return fmt.Errorf("cannot watch the agent: %w", context.Cause(ctx))
		case <-time.After(WatchPause):
		}
	}
	if err := lines.Err(); err != nil {
		return fmt.Errorf("cannot watch the agent: %w", explain(ctx, err))
	}
	return io.EOF
}

// DialRaw connects to the agent, for a caller that speaks HTTP itself. ctx
// bounds the attempt, not the connection.
func (c *Client) DialRaw(ctx context.Context) (net.Conn, error) {
	if c.dial != nil {
		return c.dial(ctx)
	}
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	var conn net.Conn
	var err error
	if c.Endpoint.Network == "unix" {
		conn, err = DialUnix(ctx, c.Endpoint.Address)
	} else {
		conn, err = dialTCP(ctx, c.Endpoint.Address)
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %v", ErrGone, err)
	}
	return conn, nil
}

// call does a request and decodes the answer.
func call[T any](ctx context.Context, c *Client, method, path string, timeout time.Duration) (T, error) {
	return send[T](ctx, c, method, path, nil, timeout)
}

// send is call with a body: the JSON of in, unless that is nil.
func send[T any](ctx context.Context, c *Client, method, path string, in any, timeout time.Duration) (T, error) {
	var v T
	var body io.Reader
	if in != nil {
		b, err := json.Marshal(in)
		if err != nil {
			return v, fmt.Errorf("cannot call the agent: %w", err)
		}
		body = bytes.NewReader(b)
	}
	ctx, cancel := context.WithTimeoutCause(ctx, timeout, errSilent)
	defer cancel()
	resp, err := c.roundTrip(ctx, method, path, body)
	if err != nil {
		return v, fmt.Errorf("cannot call the agent: %w", err)
	}
	defer resp.Body.Close()
	if resp.StatusCode == http.StatusNoContent {
		return v, nil
	}
	answer, err := io.ReadAll(io.LimitReader(resp.Body, MaxBodyBytes+1))
	switch {
	case err != nil:
		return v, fmt.Errorf("cannot call the agent: %w", explain(ctx, err))
	case len(answer) > MaxBodyBytes:
		return v, fmt.Errorf("cannot call the agent: %w: an answer of more than %d bytes", ErrLies, MaxBodyBytes)
	}
	if err := json.Unmarshal(answer, &v); err != nil {
		return v, fmt.Errorf("cannot call the agent: %w: the answer is not what was asked for", ErrLies)
	}
	return v, nil
}

// roundTrip does a request on a connection of its own. The answer is a success;
// its body must be closed.
func (c *Client) roundTrip(ctx context.Context, method, path string, body io.Reader) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, method, "http://agent"+path, body)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Authorization", "Bearer "+c.Token)
	transport := &http.Transport{
		DialContext:            func(ctx context.Context, _, _ string) (net.Conn, error) { return c.DialRaw(ctx) },
		DisableKeepAlives:      true,
		DisableCompression:     true, // a small body could unpack to a large one
		MaxResponseHeaderBytes: MaxHeaderBytes,
	}
	// Not by http.Client: an agent must not lead its caller elsewhere.
	resp, err := transport.RoundTrip(req)
	if err != nil {
		return nil, explain(ctx, err)
	}
	if resp.StatusCode == http.StatusOK || resp.StatusCode == http.StatusNoContent {
		return resp, nil
	}
	defer resp.Body.Close()
	return nil, refusal(resp)
}

// refusal reads an answer that is no success.
func refusal(resp *http.Response) error {
	const most = 4 << 10
	body, err := io.ReadAll(io.LimitReader(resp.Body, most))
	var answer struct {
		Message string `json:"message"`
	}
	if err != nil || json.Unmarshal(body, &answer) != nil {
		answer.Message = http.StatusText(resp.StatusCode)
	}
	return &StatusError{resp.StatusCode, strings.ToValidUTF8(answer.Message, "")}
}

var errSilent = fmt.Errorf("%w: it was silent for too long", ErrGone)

// explain turns an error of the HTTP client into one of this package.
func explain(ctx context.Context, err error) error {
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case errors.Is(err, ErrGone):
		return err
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
		return fmt.Errorf("%w: it broke off", ErrGone)
	}
	text := err.Error() // may quote the agent
	if len(text) > 200 {
		text = text[:200] + "..."
	}
	return fmt.Errorf("%w: %q", ErrLies, text)
}
