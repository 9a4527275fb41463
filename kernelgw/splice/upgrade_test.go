package splice

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

const (
	testKey    = "dGhlIHNhbXBsZSBub25jZQ==" // of RFC 6455, section 1.3, with its answer
	testAccept = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
)

// testRequest is a client's handshake as net/http gives it to a handler.
func testRequest() *http.Request {
	r := httptest.NewRequest(http.MethodGet, "/api/kernels/1/channels", nil)
	for name, value := range map[string]string{
		"Upgrade": "websocket", "Connection": "keep-alive, Upgrade", "Sec-Websocket-Version": "13", "Sec-Websocket-Key": testKey,
	} {
		r.Header.Set(name, value)
	}
	return r
}

func TestCheckRequest(t *testing.T) {
	if err := CheckRequest(testRequest()); err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct {
		change func(r *http.Request)
		status int
	}{
		"POST":               {func(r *http.Request) { r.Method = http.MethodPost }, 405},
		"HTTP/1.0":           {func(r *http.Request) { r.ProtoMinor = 0 }, 400},
		"HTTP/2":             {func(r *http.Request) { r.ProtoMajor, r.ProtoMinor = 2, 0 }, 400},
		"no Upgrade":         {func(r *http.Request) { r.Header.Del("Upgrade") }, 400},
		"Upgrade to h2c":     {func(r *http.Request) { r.Header.Set("Upgrade", "h2c") }, 400},
		"no Connection":      {func(r *http.Request) { r.Header.Set("Connection", "close") }, 400},
		"version 8":          {func(r *http.Request) { r.Header.Set("Sec-Websocket-Version", "8") }, 426},
		"no version":         {func(r *http.Request) { r.Header.Del("Sec-Websocket-Version") }, 426},
		"no key":             {func(r *http.Request) { r.Header.Del("Sec-Websocket-Key") }, 400},
		"short key":          {func(r *http.Request) { r.Header.Set("Sec-Websocket-Key", "c2hvcnQ=") }, 400},
		"key with newline":   {func(r *http.Request) { r.Header.Set("Sec-Websocket-Key", testKey+"\r\nX: y") }, 400},
		"two keys":           {func(r *http.Request) { r.Header.Add("Sec-Websocket-Key", testKey) }, 400},
		"body":               {func(r *http.Request) { r.ContentLength = 3 }, 400},
		"body of any length": {func(r *http.Request) { r.ContentLength = -1 }, 400},
	} {
		t.Run(name, func(t *testing.T) {
			r := testRequest()
			tc.change(r)
			var e *RequestError
			if err := CheckRequest(r); !errors.As(err, &e) || e.Status != tc.status {
				t.Errorf("got %v, want status %d", err, tc.status)
			}
		})
	}
}

// unhijackable is a ResponseWriter that must not be touched.
type unhijackable struct{ t *testing.T }

func (u unhijackable) Header() http.Header { u.t.Error("the client's answer was touched"); return nil }

func (u unhijackable) Write([]byte) (int, error) {
	u.t.Error("the client was written to")
	return 0, nil
}
func (u unhijackable) WriteHeader(int) { u.t.Error("the client was answered") }
func (u unhijackable) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	u.t.Error("the client was taken over")
	return nil, nil, errors.New("not to be hijacked")
}

const good101 = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: " + testAccept + "\r\n"

// Answers of an agent that the client must never get to see. The agent's
// connection is closed and the handler is told why.
func TestHostileAgentAnswers(t *testing.T) {
	for name, tc := range map[string]struct {
		answer string
		status int
		says   string
	}{
		"200":                         {"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi", 200, "answered 200"},
		"404":                         {"HTTP/1.1 404 Not Found\r\n\r\n", 404, "answered 404"},
		"503":                         {"HTTP/1.1 503 Starting\r\nRetry-After: 1\r\n\r\n", 503, "answered 503"},
		"100 and then 101":            {"HTTP/1.1 100 Continue\r\n\r\n" + good101 + "\r\n", 100, "answered 100"},
		"101 with wrong accept":       {strings.Replace(good101, testAccept, testKey, 1) + "\r\n", 101, "Sec-WebSocket-Accept"},
		"101 with two accepts":        {good101 + "Sec-WebSocket-Accept: x\r\n\r\n", 101, "Sec-WebSocket-Accept"},
		"101 without accept":          {"HTTP/1.1 101 X\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n", 101, "Sec-WebSocket-Accept"},
		"101 to h2c":                  {strings.Replace(good101, "websocket", "h2c", 1) + "\r\n", 101, "another protocol"},
		"101 with an extension":       {good101 + "Sec-WebSocket-Extensions: permessage-deflate\r\n\r\n", 101, "extension"},
		"101 with a subprotocol":      {good101 + "Sec-WebSocket-Protocol: evil\r\n\r\n", 101, "subprotocol"},
		"101 with two subprotocols":   {good101 + "Sec-WebSocket-Protocol: v1\r\nSec-WebSocket-Protocol: v1\r\n\r\n", 101, "subprotocol"},
		"101 with a split header":     {good101 + "X\r\n\r\n", 0, "not HTTP"},
		"101 with a header by LF":     {"HTTP/1.1 101 X\nUpgrade: websocket\n\nSec-WebSocket-Accept: " + testAccept + "\r\n\r\n", 101, ""},
		"status of a thousand digits": {"HTTP/1.1 " + strings.Repeat("1", 1000) + " X\r\n\r\n", 0, "not HTTP"},
		"SSH banner":                  {"SSH-2.0-OpenSSH_9.2\r\n\r\n", 0, "not HTTP"},
		"nothing":                     {"", 0, "did not end"},
		"hang-up in the head":         {good101, 0, "did not end"},
		"endless headers":             {good101 + strings.Repeat("X-Padding: "+strings.Repeat("x", 100)+"\r\n", 1000), 0, "64 KiB"},
		"endless line":                {"HTTP/1.1 101 " + strings.Repeat("x", 100_000), 0, "64 KiB"},
	} {
		t.Run(name, func(t *testing.T) {
			agent, peer := net.Pipe()
			done := make(chan struct{})
			go func() {
				defer close(done)
				_, _ = http.ReadRequest(bufio.NewReader(peer))
				_, _ = io.WriteString(peer, tc.answer)
				_ = peer.Close()
			}()
			_, err := Open(t.Context(), unhijackable{t}, testRequest(), agent, Upgrade{Target: "/v1/channels"}, Options{})
			var e *AnswerError
			if !errors.As(err, &e) || e.Status != tc.status || !strings.Contains(err.Error(), tc.says) {
				t.Errorf("got %v, want status %d and %q", err, tc.status, tc.says)
			}
			<-done
			if _, err := agent.Write([]byte("x")); !errors.Is(err, io.ErrClosedPipe) {
				t.Errorf("the agent's connection is open: %v", err)
			}
		})
	}
}

func TestHostileAgentThatAnswersByteByByteForEver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		agent, peer := net.Pipe()
		done := make(chan struct{})
		go func() {
			defer close(done)
			_, _ = http.ReadRequest(bufio.NewReader(peer))
			for {
				if _, err := io.WriteString(peer, "H"); err != nil {
					return
				}
				time.Sleep(time.Second) // the bubble's time
			}
		}()
		start := time.Now()
		_, err := Open(t.Context(), unhijackable{t}, testRequest(), agent, Upgrade{Target: "/"}, Options{})
		var e *AnswerError
		if !errors.As(err, &e) || !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("got %v", err)
		}
		if passed := time.Since(start); passed != DefaultAnswerTimeout {
			t.Errorf("it took %v", passed)
		}
		<-done
	})
}

func TestHostileAgentThatDoesNotReadTheRequest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		agent, peer := net.Pipe()
		defer peer.Close()
		_, err := Open(t.Context(), unhijackable{t}, testRequest(), agent, Upgrade{Target: "/"}, Options{})
		var e *AnswerError
		if !errors.As(err, &e) || !strings.Contains(err.Error(), "could not be sent") {
			t.Errorf("got %v", err)
		}
	})
}

func TestClientThatLeavesWhileTheAgentIsAsked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		agent, peer := net.Pipe()
		defer peer.Close()
		ctx, cancel := context.WithCancel(t.Context())
		go func() {
			_, _ = http.ReadRequest(bufio.NewReader(peer))
			cancel()
		}()
		_, err := Open(ctx, unhijackable{t}, testRequest(), agent, Upgrade{Target: "/"}, Options{})
		if !errors.Is(err, context.Canceled) {
			t.Errorf("got %v", err)
		}
	})
}

func TestRequestToTheAgent(t *testing.T) {
	header := http.Header{
		"Authorization":            {"Bearer T"},
		"Sec-Websocket-Protocol":   {"v1.kernel.websocket.jupyter.org"},
		"User-Agent":               {"a\r\nX-Injected: 1"},
		"Sec-Websocket-Extensions": {"permessage-deflate"},
		"Sec-Websocket-Key":        {"another"},
		"Connection":               {"close"},
		"Content-Length":           {"5"},
	}
	b, err := Upgrade{Target: "/v1/channels?session_id=a%20b", Header: header}.bytes(testKey)
	if err != nil {
		t.Fatal(err)
	}
	want := "GET /v1/channels?session_id=a%20b HTTP/1.1\r\nHost: agent\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n" +
		"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: " + testKey + "\r\n" +
		"Authorization: Bearer T\r\nSec-Websocket-Protocol: v1.kernel.websocket.jupyter.org\r\nUser-Agent: a  X-Injected: 1\r\n\r\n"
	if string(b) != want {
		t.Errorf("got\n%s\nwant\n%s", b, want)
	}
	if len(header) != 7 {
		t.Error("the caller's header was changed")
	}
	for _, target := range []string{"", "v1", "/a b", "/a\r\nX: y", "/é", "/\x00"} {
		if _, err := (Upgrade{Target: target}).bytes(testKey); err == nil {
			t.Errorf("target %q was accepted", target)
		}
	}
	if _, err := (Upgrade{Target: "/", Host: "a\r\nX: y"}).bytes(testKey); err == nil {
		t.Error("a host with a line break was accepted")
	}
}

// hijackable gives a handler's connection away as net/http does.
type hijackable struct {
	conn net.Conn
	read *bufio.Reader
}

func (h hijackable) Header() http.Header       { return http.Header{} }
func (h hijackable) Write([]byte) (int, error) { return 0, http.ErrHijacked }
func (h hijackable) WriteHeader(int)           {}
func (h hijackable) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	return h.conn, bufio.NewReadWriter(h.read, bufio.NewWriter(h.conn)), nil
}

func TestBytesThatCameWithTheHandshakesCross(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		agent, agentPeer := net.Pipe()
		client, clientPeer := net.Pipe()
		fromClient, fromAgent := join(frame(Client, 0x81, hello), claim(Client, 0x81, 5)[:3]), join(frame(Agent, 0x82, hello), []byte{0x82})
		go func() {
			_, _ = http.ReadRequest(bufio.NewReader(agentPeer))
			_, _ = agentPeer.Write(append([]byte(good101+"Sec-WebSocket-Protocol: v1\r\nX-Secret: 1\r\nSet-Cookie: a=b\r\n\r\n"), fromAgent...))
		}()
		read := bufio.NewReader(io.MultiReader(bytes.NewReader(fromClient), client))
		if _, err := read.Peek(len(fromClient)); err != nil {
			t.Fatal(err)
		}
		go func() {
			up := Upgrade{Target: "/", Header: http.Header{"Sec-Websocket-Protocol": {"v0, v1"}}}
			s, err := Open(t.Context(), hijackable{client, read}, testRequest(), agent, up, Options{})
			if err != nil {
				t.Error(err)
				return
			}
			s.Run()
		}()
		p := &pair{t: t}
		// Of the agent's headers only those of the handshake cross.
		p.expect(clientPeer, []byte(good101+"Sec-WebSocket-Protocol: v1\r\n\r\n"))
		p.expect(clientPeer, fromAgent[:len(fromAgent)-1])
		p.expect(agentPeer, fromClient[:len(fromClient)-3])
		// The rest of the frames whose beginnings came early.
		go p.write(agentPeer, join([]byte{5}, hello))
		p.expect(clientPeer, frame(Agent, 0x82, hello))
		whole := frame(Client, 0x81, hello)
		go p.write(clientPeer, whole[3:])
		p.expect(agentPeer, whole)
		_ = clientPeer.Close()
		_ = agentPeer.Close()
	})
}

func TestClientThatIsGoneBeforeItsAnswer(t *testing.T) {
	agent, agentPeer := net.Pipe()
	client, clientPeer := net.Pipe()
	_ = clientPeer.Close()
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, _ = http.ReadRequest(bufio.NewReader(agentPeer))
		_, _ = io.WriteString(agentPeer, good101+"\r\n")
		_, _ = io.Copy(io.Discard, agentPeer)
	}()
	w := hijackable{client, bufio.NewReader(client)}
	if _, err := Open(t.Context(), w, testRequest(), agent, Upgrade{Target: "/"}, Options{}); !errors.Is(err, ErrClientGone) {
		t.Errorf("got %v", err)
	}
	<-done // Open closed the agent's connection
}

func FuzzCheckAnswer(f *testing.F) {
	f.Add([]byte(good101 + "\r\n"))
	f.Add([]byte(good101 + "Sec-WebSocket-Protocol: v1\r\n\r\n"))
	f.Add([]byte("HTTP/1.1 404 Not Found\r\n\r\n"))
	f.Add([]byte(fmt.Sprintf("HTTP/1.1 101 X\r\n%s\r\n\r\n", strings.Repeat("A: b\r\n", 50))))
	f.Fuzz(func(t *testing.T, head []byte) {
		protocol, err := checkAnswer(head, testKey, []string{"v1"})
		if err != nil {
			return
		}
		if protocol != "" && protocol != "v1" {
			t.Errorf("subprotocol %q", protocol)
		}
		if !bytes.Contains(head, []byte(testAccept)) {
			t.Errorf("accepted %q", head)
		}
	})
}
