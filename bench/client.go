package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"syscall"
	"time"

	"github.com/google/uuid"
	"github.com/gorilla/websocket"
	"golang.org/x/sys/unix"
)

// patience bounds each wait for a server.
const patience = 2 * time.Minute

// call does one REST request.
func (s *server) call(ctx context.Context, method, path string, body any) (status int, answer []byte, err error) {
	var b []byte
	if body != nil {
		if b, err = json.Marshal(body); err != nil {
			return 0, nil, err
		}
	}
	req, err := http.NewRequestWithContext(ctx, method, s.base.JoinPath(path).String(), bytes.NewReader(b))
	if err != nil {
		return 0, nil, err
	}
	if s.kind != seaweed { // there it would be a wrong signature
		req.Header.Set("Authorization", "token "+token)
	}
	req.Header.Set("Content-Type", "application/json")
	req.Close = true
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, nil, err
	}
	defer resp.Body.Close()
	answer, err = io.ReadAll(resp.Body)
	return resp.StatusCode, answer, err
}

// startKernel starts a kernel and returns its id.
func (s *server) startKernel(ctx context.Context, name string) (string, error) {
	status, answer, err := s.call(ctx, http.MethodPost, "api/kernels", map[string]string{"name": name})
	if err != nil {
		return "", err
	}
	if status != http.StatusCreated {
		return "", fmt.Errorf("cannot start kernel %s: %d %s", name, status, answer)
	}
	var model struct{ ID string }
	if err := json.Unmarshal(answer, &model); err != nil {
		return "", err
	}
	return model.ID, nil
}

// deleteKernel shuts a kernel down, also when ctx has ended.
func (s *server) deleteKernel(ctx context.Context, id string) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 30*time.Second)
	defer cancel()
	status, answer, err := s.call(ctx, http.MethodDelete, "api/kernels/"+id, nil)
	if err == nil && status != http.StatusNoContent {
		err = fmt.Errorf("cannot delete the kernel: %d %s", status, answer)
	}
	return err
}

// client is one kernel WebSocket in the v1 encoding.
type client struct {
	ws      *websocket.Conn
	session string
	quiet   time.Duration // how long a cell that was answered waits for its next message
}

// connect opens a kernel WebSocket. A quick client acknowledges what it gets at
// once instead of with up to 40 ms of delay, which an ordinary client pays for
// a server that does not set TCP_NODELAY.
func (s *server) connect(ctx context.Context, kernel string, quick bool) (*client, error) {
	return s.join(ctx, kernel, uuid.NewString(), quick)
}

// connectReady is connect to a kernel that executes.
func (s *server) connectReady(ctx context.Context, kernel string, quick bool) (*client, error) {
	c, err := s.connect(ctx, kernel, quick)
	if err != nil {
		return nil, err
	}
	if err := c.ready(); err != nil {
		c.ws.Close()
		return nil, err
	}
	return c, nil
}

// reconnect is connect for a client that was there before.
func (s *server) reconnect(ctx context.Context, kernel, session string) (*client, error) {
	return s.join(ctx, kernel, session, true)
}

func (s *server) join(ctx context.Context, kernel, session string, quick bool) (*client, error) {
	c := &client{session: session, quiet: 15 * time.Second}
	u := s.base.JoinPath("api/kernels", kernel, "channels")
	u.Scheme = "ws"
	u.RawQuery = "session_id=" + c.session
	dialer := websocket.Dialer{
		Subprotocols: []string{"v1.kernel.websocket.jupyter.org"}, HandshakeTimeout: 20 * time.Second, ReadBufferSize: 64 << 10,
	}
	if quick {
		dialer.NetDialContext = dialQuick
	}
	ws, resp, err := dialer.DialContext(ctx, u.String(), http.Header{"Authorization": {"token " + token}})
	if err != nil {
		if resp != nil {
			err = fmt.Errorf("%w: %s", err, resp.Status)
		}
		return nil, err
	}
	c.ws = ws
	return c, nil
}

// quickConn asks for an immediate acknowledgement before each read: the
// setting does not last (tcp(7), TCP_QUICKACK).
type quickConn struct {
	net.Conn
	raw syscall.RawConn
}

func dialQuick(ctx context.Context, network, address string) (net.Conn, error) {
	conn, err := (&net.Dialer{}).DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	raw, err := conn.(*net.TCPConn).SyscallConn()
	return quickConn{conn, raw}, err
}

func (c quickConn) Read(b []byte) (int, error) {
	err := c.raw.Control(func(fd uintptr) {
		_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_QUICKACK, 1)
	})
	if err != nil {
		return 0, err
	}
	return c.Conn.Read(b)
}

// send sends a message on the shell channel and returns its id.
func (c *client) send(msgType string, content any) (string, error) {
	id := uuid.NewString()
	header, err := json.Marshal(map[string]string{
		"msg_id": id, "msg_type": msgType, "session": c.session, "username": "", "version": "5.4",
		"date": time.Now().UTC().Format("2006-01-02T15:04:05.000000Z"),
	})
	if err != nil {
		return "", err
	}
	body, err := json.Marshal(content)
	if err != nil {
		return "", err
	}
	parts := [][]byte{[]byte("shell"), header, []byte("{}"), []byte("{}"), body}
	offset := uint64(8 * (len(parts) + 2))
	frame := binary.LittleEndian.AppendUint64(nil, uint64(len(parts)+1))
	for _, p := range parts {
		frame = binary.LittleEndian.AppendUint64(frame, offset)
		offset += uint64(len(p))
	}
	frame = binary.LittleEndian.AppendUint64(frame, offset)
	return id, c.ws.WriteMessage(websocket.BinaryMessage, append(frame, bytes.Join(parts, nil)...))
}

// message is what a client looks at of a message in the v1 encoding.
type message struct{ channel, header, parent, content []byte }

func parse(b []byte) (m message, err error) {
	const words = 7 // count, five parts, end
	if len(b) < 8*words {
		return m, errors.New("the server sent a short message")
	}
	at := func(i int) uint64 { return binary.LittleEndian.Uint64(b[8*i:]) }
	part := func(i int) []byte {
		from, to := at(1+i), at(2+i)
		if from > to || to > uint64(len(b)) {
			err = errors.New("the server sent bad offsets")
			return nil
		}
		return b[from:to]
	}
	m = message{channel: part(0), header: part(1), parent: part(2), content: part(4)}
	return m, err
}

// is tells a message's type without decoding its header.
func (m message) is(msgType string) bool {
	_, rest, _ := bytes.Cut(m.header, []byte(`"msg_type"`))
	return bytes.HasPrefix(bytes.TrimLeft(rest, ": "), []byte(`"`+msgType+`"`))
}

// next reads one message.
func (c *client) next() (message, error) {
	_, b, err := c.ws.ReadMessage()
	if err != nil {
		return message{}, err
	}
	return parse(b)
}

// ready waits until the kernel answers.
func (c *client) ready() error {
	_ = c.ws.SetReadDeadline(time.Now().Add(patience))
	id, err := c.send("kernel_info_request", struct{}{})
	if err != nil {
		return err
	}
	for {
		m, err := c.next()
		if err != nil {
			return fmt.Errorf("the kernel did not answer: %w", err)
		}
		if m.is("kernel_info_reply") && bytes.Contains(m.parent, []byte(id)) {
			return nil
		}
	}
}

// request is the content of an execute_request.
func request(code string) map[string]any {
	return map[string]any{
		"code": code, "silent": false, "store_history": false, "user_expressions": struct{}{}, "allow_stdin": false, "stop_on_error": true,
	}
}

// errIdleLost says that a cell was answered but its idle status never came: a
// kernel drops iopub messages when its server reads them too slowly.
var errIdleLost = errors.New("the idle status of a cell was lost")

// execute runs code and gives each of its stream messages to onStream. It
// returns when the reply and the idle status are there. After errIdleLost the
// client is of no use any more.
func (c *client) execute(code string, onStream func(content []byte)) error {
	_ = c.ws.SetReadDeadline(time.Now().Add(patience))
	sent, err := c.send("execute_request", request(code))
	if err != nil {
		return err
	}
	id := []byte(sent)
	for replied, idle := false, false; !replied || !idle; {
		if replied {
			_ = c.ws.SetReadDeadline(time.Now().Add(c.quiet))
		}
		m, err := c.next()
		if timeout := net.Error(nil); replied && errors.As(err, &timeout) && timeout.Timeout() {
			return errIdleLost
		}
		if err != nil {
			return fmt.Errorf("the cell did not end: %w", err)
		}
		switch {
		case m.is("stream"):
			onStream(m.content)
		case !bytes.Contains(m.parent, id):
		case m.is("execute_reply"):
			if !bytes.Contains(m.content, []byte(`"ok"`)) {
				return fmt.Errorf("the cell failed: %s", m.content)
			}
			replied = true
		case m.is("status"):
			idle = strings.Contains(string(m.content), `"idle"`)
		}
	}
	return nil
}
