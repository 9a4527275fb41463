package splice

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha1" // RFC 6455 asks for it; it protects nothing
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"time"

	"golang.org/x/net/http/httpguts"
)

// maxAnswer bounds the head of the agent's answer.
const maxAnswer = 64 << 10

// ErrClientGone is the error of Open when the client could not be answered any
// more. Nothing can be written to the ResponseWriter then.
var ErrClientGone = errors.New("the client is gone")

// RequestError says that the client's request is no WebSocket handshake that
// can be served.
type RequestError struct {
	Status  int // to answer with: 400, 405 or 426
	Problem string
}

// Error says what is wrong with the request.
func (e *RequestError) Error() string { return "not a WebSocket upgrade: " + e.Problem }

// AnswerError says that the agent did not switch protocols as it must.
type AnswerError struct {
	Status  int // what the agent answered; 0 when that was no HTTP answer, or none
	Problem string
	Err     error // the network error, if there was one
}

// Error says what the agent did.
func (e *AnswerError) Error() string {
	if e.Err != nil {
		return fmt.Sprintf("the agent did not accept the WebSocket: %s: %v", e.Problem, e.Err)
	}
	return "the agent did not accept the WebSocket: " + e.Problem
}

// Unwrap returns the network error, so that a timeout can be told.
func (e *AnswerError) Unwrap() error { return e.Err }

// Upgrade is the request to the agent. Splice adds the handshake's own headers
// with the client's key and asks for no extension.
type Upgrade struct {
	Target string      // path and query, escaped
	Host   string      // "" means "agent"
	Header http.Header // Authorization, Sec-WebSocket-Protocol, User-Agent ...; handshake and hop-by-hop headers in it are ignored
}

// CheckRequest tells whether r is a WebSocket handshake that Open can serve. A
// handler calls it before it starts anything for the client.
func CheckRequest(r *http.Request) error {
	bad := func(status int, problem string) error {
		return &RequestError{Status: status, Problem: problem}
	}
	switch key, err := base64.StdEncoding.DecodeString(r.Header.Get("Sec-Websocket-Key")); {
	case r.Method != http.MethodGet:
		return bad(http.StatusMethodNotAllowed, "the method is not GET")
	case r.ProtoMajor != 1 || r.ProtoMinor < 1:
		return bad(http.StatusBadRequest, "the protocol is not HTTP/1.1")
	case !hasToken(r.Header, "Upgrade", "websocket"):
		return bad(http.StatusBadRequest, `the header "Upgrade: websocket" is missing`)
	case !hasToken(r.Header, "Connection", "upgrade"):
		return bad(http.StatusBadRequest, `the header "Connection: Upgrade" is missing`)
	case !slices.Equal(r.Header.Values("Sec-Websocket-Version"), []string{"13"}):
		return bad(http.StatusUpgradeRequired, `the header "Sec-WebSocket-Version" is not 13`)
	case err != nil || len(key) != 16 || len(r.Header.Values("Sec-Websocket-Key")) != 1:
		return bad(http.StatusBadRequest, `the header "Sec-WebSocket-Key" is not 16 bytes in base64`)
	case r.ContentLength != 0:
		return bad(http.StatusBadRequest, "it has a body")
	}
	return nil
}

func hasToken(h http.Header, name, token string) bool {
	return httpguts.HeaderValuesContainsToken(h.Values(name), token)
}

// Open forwards r's upgrade over agent, a fresh connection to the agent, and
// when the agent has accepted, answers 101 to the client and takes its
// connection out of w. Then the caller calls Run.
//
// On an error agent is closed. Unless the error is ErrClientGone nothing was
// written to w and the caller answers: a *RequestError carries the status, an
// *AnswerError says what the agent did, another error is ctx's or that w cannot
// be hijacked. ctx bounds Open only.
//
// The Splice holds neither r nor w, so a handler that calls Run from a
// goroutine of its own and returns gives net/http's buffers and the request
// back while the connection lives.
func Open(ctx context.Context, w http.ResponseWriter, r *http.Request, agent net.Conn, up Upgrade, opt Options) (*Splice, error) {
	s, err := open(ctx, w, r, agent, up, opt.withDefaults())
	if err != nil {
		_ = agent.Close()
		return nil, err
	}
	return s, nil
}

func open(ctx context.Context, w http.ResponseWriter, r *http.Request, agent net.Conn, up Upgrade, opt Options) (*Splice, error) {
	if err := CheckRequest(r); err != nil {
		return nil, err
	}
	key := strings.Clone(r.Header.Get("Sec-Websocket-Key"))
	protocol, early, err := shakeAgent(ctx, agent, up, key, opt.AnswerTimeout)
	if err != nil {
		return nil, err
	}

	client, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return nil, fmt.Errorf("cannot take over the client's connection: %w", err)
	}
	sent, err := buffered.Reader.Peek(buffered.Reader.Buffered())
	if err != nil {
		_ = client.Close()
		return nil, fmt.Errorf("%w: %w", ErrClientGone, err)
	}
	answer := "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: " + acceptKey(key) + "\r\n"
	if protocol != "" {
		answer += "Sec-WebSocket-Protocol: " + protocol + "\r\n"
	}
	_ = client.SetWriteDeadline(time.Now().Add(opt.AnswerTimeout))
	if _, err := io.WriteString(client, answer+"\r\n"); err != nil {
		_ = client.Close()
		return nil, fmt.Errorf("%w: %w", ErrClientGone, err)
	}
	return newSplice(client, agent, bytes.Clone(sent), early, opt), nil
}

// shakeAgent sends the upgrade and reads the answer. It returns the chosen
// subprotocol and the bytes that came behind the answer.
func shakeAgent(ctx context.Context, agent net.Conn, up Upgrade, key string, timeout time.Duration) (protocol string, early []byte, err error) {
	request, err := up.bytes(key)
	if err != nil {
		return "", nil, err
	}
	_ = agent.SetDeadline(time.Now().Add(timeout))
	stop := context.AfterFunc(ctx, func() { _ = agent.SetDeadline(time.Unix(1, 0)) })
	defer func() {
		if !stop() && ctx.Err() != nil {
			err = context.Cause(ctx)
		}
	}()
	if _, err := agent.Write(request); err != nil {
		return "", nil, &AnswerError{Problem: "the request could not be sent", Err: err}
	}
	head, early, err := readHead(agent)
	if err != nil {
		return "", nil, err
	}
	protocol, err = checkAnswer(head, key, up.Header.Values("Sec-Websocket-Protocol"))
	if err != nil {
		return "", nil, err
	}
	_ = agent.SetDeadline(time.Time{})
	return protocol, early, nil
}

// own are headers that the handshake sets, or that end at the gateway.
var own = []string{
	"Host", "Connection", "Upgrade", "Keep-Alive", "Te", "Trailer", "Transfer-Encoding", "Content-Length", "Proxy-Connection",
	"Sec-Websocket-Key", "Sec-Websocket-Version", "Sec-Websocket-Extensions", "Sec-Websocket-Accept",
}

func (up Upgrade) bytes(key string) ([]byte, error) {
	if !strings.HasPrefix(up.Target, "/") || strings.ContainsFunc(up.Target, func(r rune) bool { return r <= ' ' || r >= 0x7f }) {
		return nil, fmt.Errorf("cannot ask the agent for %q: not an escaped path", up.Target)
	}
	host := up.Host
	if host == "" {
		host = "agent"
	}
	if !httpguts.ValidHostHeader(host) {
		return nil, fmt.Errorf("cannot ask the agent as host %q", host)
	}
	header := up.Header.Clone()
	for _, name := range own {
		header.Del(name)
	}
	var b bytes.Buffer
	fmt.Fprintf(&b, "GET %s HTTP/1.1\r\nHost: %s\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: %s\r\n", up.Target, host, key)
	// Write turns line breaks in values into spaces and drops bad names.
	if err := header.Write(&b); err != nil {
		return nil, err
	}
	b.WriteString("\r\n")
	return b.Bytes(), nil
}

// readHead reads up to the empty line that ends the head of an answer. early
// is what came behind it.
func readHead(agent net.Conn) (head, early []byte, err error) {
	buf := buffers.Get().(*buffer)
	defer buffers.Put(buf)
	n := 0
	for n < maxAnswer {
		m, err := agent.Read(buf[n:maxAnswer])
		seen := max(0, n-3)
		n += m
		if end := bytes.Index(buf[seen:n], []byte("\r\n\r\n")); end >= 0 {
			end += seen + 4
			return bytes.Clone(buf[:end]), bytes.Clone(buf[end:n]), nil
		}
		if err != nil {
			return nil, nil, &AnswerError{Problem: "its answer did not end", Err: err}
		}
	}
	return nil, nil, &AnswerError{Problem: "the head of its answer is longer than 64 KiB"}
}

// checkAnswer holds the head of an answer against RFC 6455, section 4.1, and
// returns the chosen subprotocol.
func checkAnswer(head []byte, key string, offered []string) (protocol string, err error) {
	answer, err := http.ReadResponse(bufio.NewReader(bytes.NewReader(head)), &http.Request{Method: http.MethodGet})
	if err != nil {
		return "", &AnswerError{Problem: "its answer is not HTTP"}
	}
	bad := func(problem string) (string, error) {
		return "", &AnswerError{Status: answer.StatusCode, Problem: problem}
	}
	protocols := answer.Header.Values("Sec-Websocket-Protocol")
	switch {
	case answer.StatusCode != http.StatusSwitchingProtocols:
		return bad(fmt.Sprintf("it answered %d", answer.StatusCode))
	case !hasToken(answer.Header, "Upgrade", "websocket"), !hasToken(answer.Header, "Connection", "upgrade"):
		return bad("it switched to another protocol")
	case !slices.Equal(answer.Header.Values("Sec-Websocket-Accept"), []string{acceptKey(key)}):
		return bad("Sec-WebSocket-Accept does not answer the client's key")
	case len(answer.Header.Values("Sec-Websocket-Extensions")) > 0:
		return bad("it chose an extension that was not offered")
	case len(protocols) > 1, len(protocols) == 1 && !httpguts.HeaderValuesContainsToken(offered, protocols[0]):
		return bad("it chose a subprotocol that was not offered")
	case len(protocols) == 1:
		return protocols[0], nil
	}
	return "", nil
}

// acceptKey is the answer to a Sec-WebSocket-Key (RFC 6455, section 4.2.2).
func acceptKey(key string) string {
	sum := sha1.Sum([]byte(key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
	return base64.StdEncoding.EncodeToString(sum[:])
}
