package jupytertest_test

import (
	"bufio"
	"context"
	"encoding/json"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"kernelgw/jupyter"
	"kernelgw/jupyter/jupytertest"
	"kernelgw/jupyter/zmq"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// client is a connection whose messages arrive on a channel.
type client struct {
	*zmq.Client
	messages chan *jupyter.Message
}

func dial(t *testing.T, info jupyter.ConnectionInfo) *client {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	z, err := zmq.Dial(ctx, info, zmq.Options{})
	if err != nil {
		t.Fatal(err)
	}
	c := &client{z, make(chan *jupyter.Message, 10000)}
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer close(c.messages)
		z.Run(context.Background(), func(m *jupyter.Message) { c.messages <- m })
	}()
	t.Cleanup(func() {
		z.Close()
		<-done
	})
	c.until(t, "iopub_welcome")
	return c
}

func (c *client) request(t testing.TB, channel jupyter.Channel, msgType string, content any) *jupyter.Message {
	t.Helper()
	m, err := jupyter.NewMessage(channel, msgType, "client", content)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Send(m); err != nil {
		t.Fatal(err)
	}
	return m
}

func (c *client) run(t testing.TB, code string) {
	t.Helper()
	c.request(t, jupyter.Shell, "execute_request", map[string]any{"code": code, "allow_stdin": true})
}

// until returns what came up to the first message of a type, and that message
// last. "idle" and "busy" stand for the status.
func (c *client) until(t *testing.T, msgType string) []*jupyter.Message {
	t.Helper()
	var seen []*jupyter.Message
	deadline := time.After(20 * time.Second)
	for {
		select {
		case m, ok := <-c.messages:
			if !ok {
				t.Fatalf("the connection ended before %s; seen: %v", msgType, types(seen))
			}
			seen = append(seen, m)
			if kind(m) == msgType {
				return seen
			}
		case <-deadline:
			t.Fatalf("no %s; seen: %v", msgType, types(seen))
		}
	}
}

func kind(m *jupyter.Message) string {
	if k := jupyter.PeekType(m.Header); k != "status" {
		return k
	}
	return jupyter.PeekString(m.Content, "execution_state")
}

func types(messages []*jupyter.Message) string {
	var all []string
	for _, m := range messages {
		all = append(all, string(m.Channel)+":"+kind(m))
	}
	return strings.Join(all, " ")
}

// iopubOf drops what is not iopub: the order between channels is open.
func iopubOf(messages []*jupyter.Message) []*jupyter.Message {
	var out []*jupyter.Message
	for _, m := range messages {
		if m.Channel == jupyter.IOPub {
			out = append(out, m)
		}
	}
	return out
}

func TestExecuteScripts(t *testing.T) {
	_, info := jupytertest.Start(t)
	c := dial(t, info)
	for _, tc := range []struct{ code, want string }{
		{"say hello", "iopub:busy iopub:execute_input iopub:stream iopub:idle"},
		{"print 3 100", "iopub:busy iopub:execute_input iopub:stream iopub:stream iopub:stream iopub:idle"},
		{"echo 42", "iopub:busy iopub:execute_input iopub:execute_result iopub:idle"},
		{"display 400", "iopub:busy iopub:execute_input iopub:display_data iopub:idle"},
		{"say a\nerror ValueError no", "iopub:busy iopub:execute_input iopub:stream iopub:error iopub:idle"},
		{"nonsense", "iopub:busy iopub:execute_input iopub:error iopub:idle"},
		{"comm 2 5", "iopub:busy iopub:execute_input iopub:comm_open iopub:comm_msg iopub:idle"},
	} {
		c.run(t, tc.code)
		if got := types(iopubOf(c.until(t, "idle"))); got != tc.want {
			t.Errorf("%q: got %s, want %s", tc.code, got, tc.want)
		}
	}
}

func TestPrintedMessagesHaveTheirSize(t *testing.T) {
	_, info := jupytertest.Start(t)
	c := dial(t, info)
	c.run(t, "print 12 1000")
	n := 0
	for _, m := range c.until(t, "idle") {
		if kind(m) == "stream" {
			if text := jupyter.PeekString(m.Content, "text"); len(text) != 1000 {
				t.Errorf("message %d has %d bytes of text", n, len(text))
			}
			n++
		}
	}
	if n != 12 {
		t.Errorf("%d messages, want 12", n)
	}
}

func TestInputGoesToTheRequester(t *testing.T) {
	_, info := jupytertest.Start(t)
	bystander := dial(t, info)
	c := dial(t, info)
	c.run(t, "input name?")
	seen := c.until(t, "input_request")
	ask := seen[len(seen)-1]
	if ask.Channel != jupyter.Stdin || jupyter.PeekString(ask.Content, "prompt") != "name?" {
		t.Fatalf("input_request on %s: %s", ask.Channel, ask.Content)
	}
	c.request(t, jupyter.Stdin, "input_reply", map[string]any{"value": "Ada"})
	seen = c.until(t, "stream")
	if got := jupyter.PeekString(seen[len(seen)-1].Content, "text"); got != "Ada\n" {
		t.Errorf("printed %q", got)
	}
	for _, m := range bystander.until(t, "idle") {
		if kind(m) == "input_request" {
			t.Error("another client was asked for input")
		}
	}
}

func TestCommEchoesBuffers(t *testing.T) {
	_, info := jupytertest.Start(t)
	c := dial(t, info)
	m, err := jupyter.NewMessage(jupyter.Shell, "comm_msg", "client", map[string]any{"comm_id": "c", "data": map[string]any{"a": 1}})
	if err != nil {
		t.Fatal(err)
	}
	m.Buffers = [][]byte{{0xff, 0, 1}, {}, []byte("text")}
	if err := c.Send(m); err != nil {
		t.Fatal(err)
	}
	seen := c.until(t, "comm_msg")
	got := seen[len(seen)-1].Buffers
	if len(got) != 3 || string(got[0]) != "\xff\x00\x01" || len(got[1]) != 0 || string(got[2]) != "text" {
		t.Errorf("buffers came back as %q", got)
	}
}

func TestInterruptRequestEndsAFlood(t *testing.T) {
	_, info := jupytertest.Start(t)
	c := dial(t, info)
	c.run(t, "flood 100")
	c.until(t, "stream")
	c.request(t, jupyter.Control, "interrupt_request", nil)
	c.until(t, "error")
	c.until(t, "idle")
}

// process starts the kernel as a program, as an agent does.
func process(t *testing.T) (*exec.Cmd, jupyter.ConnectionInfo, chan error) {
	t.Helper()
	program := jupytertest.Build(t)
	info := jupyter.ConnectionInfo{
		Transport: "ipc", IP: filepath.Join(shortDir(t), "k"), Key: "secret", SignatureScheme: "hmac-sha256",
		ShellPort: 1, IOPubPort: 2, StdinPort: 3, ControlPort: 4, HBPort: 5,
	}
	file := filepath.Join(t.TempDir(), "connection.json")
	b, err := json.Marshal(info)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, b, 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(program, "-f", file)
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	exited := make(chan error, 1)
	waited := make(chan struct{})
	go func() {
		defer close(waited)
		exited <- cmd.Wait()
	}()
	t.Cleanup(func() {
		cmd.Process.Kill()
		<-waited
	})
	return cmd, info, exited
}

// shortDir is short enough for the path of a Unix socket.
func shortDir(t *testing.T) string {
	dir, err := os.MkdirTemp("", "fk")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

func TestProcessSignals(t *testing.T) {
	cmd, info, exited := process(t)
	c := dial(t, info)
	c.run(t, "sleep 60000")
	c.until(t, "execute_input")
	cmd.Process.Signal(syscall.SIGINT)
	c.until(t, "idle")
	c.request(t, jupyter.Control, "shutdown_request", map[string]any{"restart": false})
	c.until(t, "shutdown_reply")
	select {
	case err := <-exited:
		if err != nil {
			t.Errorf("exit after shutdown_request: %v", err)
		}
	case <-time.After(10 * time.Second):
		t.Error("the process outlived shutdown_request")
	}
}

func TestProcessDiesWithItsCode(t *testing.T) {
	cmd, info, exited := process(t)
	c := dial(t, info)
	c.run(t, "say before\ndie 7\nsay after")
	for m := range c.messages {
		if strings.Contains(string(m.Content), "after") && kind(m) == "stream" {
			t.Error("the kernel spoke after its death")
		}
	}
	<-exited
	if code := cmd.ProcessState.ExitCode(); code != 7 {
		t.Errorf("exit code %d, want 7", code)
	}
}

func TestHeartbeatEchoes(t *testing.T) {
	_, info := jupytertest.Start(t)
	conn, err := net.Dial("tcp", net.JoinHostPort(info.IP, strconv.Itoa(info.HBPort)))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(10 * time.Second))
	// A REQ socket by hand: greeting, READY, then an empty frame and "ping".
	greeting := make([]byte, 64)
	greeting[0], greeting[9], greeting[10] = 0xff, 0x7f, 3
	copy(greeting[12:], "NULL")
	conn.Write(greeting)
	conn.Write([]byte("\x04\x19\x05READY\x0bSocket-Type\x00\x00\x00\x03REQ"))
	conn.Write([]byte("\x01\x00\x00\x04ping"))
	r := bufio.NewReader(conn)
	if _, err := r.Discard(64); err != nil {
		t.Fatal(err)
	}
	head, err := r.Peek(2)
	if err != nil {
		t.Fatal(err)
	}
	r.Discard(2 + int(head[1]))
	answer := make([]byte, 8)
	if _, err := r.Read(answer); err != nil || string(answer) != "\x01\x00\x00\x04ping" {
		t.Errorf("heartbeat answered %q, %v", answer, err)
	}
}
