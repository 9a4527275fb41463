package gvisor_test

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"kernelgw/jupyter"
	"kernelgw/sandboxes"
	"kernelgw/sandboxes/agentapi"
	"kernelgw/sandboxes/gvisor"
)

// cellSandbox is a sandbox of the default image with the real agent, which is
// ready, and a Python kernel, which may be starting.
type cellSandbox struct {
	*testing.T
	agent agentapi.Client
}

func newCellSandbox(t *testing.T, d *gvisor.Driver, id string, limits sandboxes.Resources) cellSandbox {
	t.Helper()
	specs, err := d.Kernelspecs(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	var kernel jupyter.Kernelspec
	if err := json.Unmarshal(specs["python3"].JSON, &kernel); err != nil {
		t.Fatal(err)
	}
	config, err := json.Marshal(agentapi.Config{
		Token: "token", KernelID: id, KernelName: "python3", Spec: kernel, ResourceDir: specs["python3"].Dir,
		MemoryBytes: limits.MemoryBytes, Processes: limits.Processes,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.Destroy(context.Background(), id); err != nil {
			t.Errorf("Destroy: %v", err)
		}
	})
	sb, err := d.Create(t.Context(), sandboxes.Spec{ID: id, AgentConfig: config, Resources: limits})
	if err != nil {
		t.Fatal(err)
	}
	c := cellSandbox{t, agentapi.Client{Endpoint: agentapi.Endpoint(sb.Agent), Token: "token"}}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := c.agent.WaitReady(ctx); err != nil {
		t.Fatal(err)
	}
	return c
}

// run runs a cell and returns what it printed and the name of its exception,
// until the kernel is idle again or its death is told.
func (c cellSandbox) run(code string) string {
	c.Helper()
	ctx, cancel := context.WithTimeout(c.Context(), 2*time.Minute)
	defer cancel()
	session := rand.Text() // one per cell: an old one would get an old cell's messages again
	dialer := websocket.Dialer{NetDialContext: func(ctx context.Context, _, _ string) (net.Conn, error) { return c.agent.DialRaw(ctx) }}
	ws, _, err := dialer.DialContext(ctx, "ws://agent/v1/channels?session_id="+session, http.Header{"Authorization": {"Bearer token"}})
	if err != nil {
		c.Fatal(err)
	}
	defer ws.Close()
	stop := context.AfterFunc(ctx, func() { _ = ws.Close() })
	defer stop()
	err = ws.WriteJSON(map[string]any{
		"header":        map[string]any{"msg_id": session, "msg_type": "execute_request", "session": session, "username": "", "version": "5.4", "date": "2026-01-01T00:00:00Z"},
		"parent_header": map[string]any{}, "metadata": map[string]any{}, "channel": "shell",
		"content": map[string]any{"code": code, "silent": false, "store_history": true, "allow_stdin": false},
	})
	if err != nil {
		c.Fatal(err)
	}
	var printed strings.Builder
	for {
		var m struct {
			Header struct {
				MsgType string `json:"msg_type"`
			} `json:"header"`
			Parent struct {
				MsgID string `json:"msg_id"`
			} `json:"parent_header"`
			Content struct {
				Text           string `json:"text"`
				Name           string `json:"ename"`
				ExecutionState string `json:"execution_state"`
			} `json:"content"`
		}
		if err := ws.ReadJSON(&m); err != nil {
			if ctx.Err() != nil {
				c.Fatalf("the cell did not end in time; it printed %q", printed.String())
			}
			return printed.String() + "\nconnection closed"
		}
		state := m.Content.ExecutionState
		switch {
		case m.Header.MsgType == "status" && (state == "dead" || state == "restarting"):
			return printed.String() + "\nkernel " + state
		case m.Parent.MsgID != session:
		case m.Header.MsgType == "stream":
			printed.WriteString(m.Content.Text)
		case m.Header.MsgType == "error":
			printed.WriteString("\nexception " + m.Content.Name)
		case m.Header.MsgType == "status" && state == "idle":
			return printed.String()
		}
	}
}

// reason waits until the agent, or the driver when the whole sandbox ended,
// says why the kernel ended.
func (c cellSandbox) reason(d *gvisor.Driver, id string) string {
	c.Helper()
	ctx, cancel := context.WithTimeout(c.Context(), 30*time.Second)
	defer cancel()
	var reason string
	err := c.agent.Watch(ctx, func(s agentapi.Status) {
		if s.Reason != "" {
			reason = s.Reason
			cancel()
		}
	})
	if reason != "" {
		return reason
	}
	if !errors.Is(err, agentapi.ErrGone) && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
		c.Fatalf("no reason from the agent: %v", err)
	}
	ctx, cancel = context.WithTimeout(c.Context(), 30*time.Second)
	defer cancel()
	exit, err := d.Wait(ctx, id)
	if err != nil {
		c.Fatalf("the agent is gone (%v), the sandbox is not: %v", err, err)
	}
	return exit.Reason
}

// usage asks the agent what the kernel takes.
func (c cellSandbox) usage() (u agentapi.Usage) {
	c.Helper()
	client := http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext:       func(ctx context.Context, _, _ string) (net.Conn, error) { return c.agent.DialRaw(ctx) },
	}}
	r, err := http.NewRequestWithContext(c.Context(), http.MethodGet, "http://agent/v1/usage", nil)
	if err != nil {
		c.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer token")
	resp, err := client.Do(r)
	if err != nil {
		c.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err == nil {
		err = json.Unmarshal(body, &u)
	}
	if err != nil || resp.StatusCode != http.StatusOK {
		c.Fatalf("usage: %v, status %s, %s", err, resp.Status, body)
	}
	return u
}

func TestCellsThatTakeTooMuchHarmOnlyThemselves(t *testing.T) {
	agent, store := realAgent(t), realImages(t)
	d, err := gvisor.New(gvisor.Options{StateDir: shortTempDir(t), Runsc: runsc(t), AgentPath: agent, Images: store})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	limits := sandboxes.Resources{MemoryBytes: 768 << 20, Processes: 40, DiskBytes: 128 << 20}
	bystander := newCellSandbox(t, d, "bystander", limits)
	unharmed := func(t *testing.T) {
		if got := bystander.run("print(6 * 7)"); got != "42\n" {
			t.Errorf("the other sandbox's cell: %q", got)
		}
	}
	t.Run("10 GB allocation", func(t *testing.T) {
		c := newCellSandbox(t, d, "allocates", limits)
		if got := c.run("all = [b'x' * (64 << 20) for _ in range(160)]; print('got it')"); strings.Contains(got, "got it") {
			t.Errorf("the cell: %q", got)
		}
		if got := c.reason(d, "allocates"); got != "killed: memory limit 768 MiB" {
			t.Errorf("reason: %q", got)
		}
		unharmed(t)
	})
	t.Run("10 GB of files in memory", func(t *testing.T) {
		c := newCellSandbox(t, d, "memfd", limits)
		got := c.run("import os\nfd = os.memfd_create('x')\nfor _ in range(160): os.write(fd, b'x' * (64 << 20))\nprint('got it')")
		if strings.Contains(got, "got it") {
			t.Errorf("the cell: %q", got)
		}
		if got := c.reason(d, "memfd"); got != "killed: memory limit 768 MiB" {
			t.Errorf("reason: %q", got)
		}
		unharmed(t)
	})
	t.Run("fork bomb", func(t *testing.T) {
		c := newCellSandbox(t, d, "forks", limits)
		got := c.run("import os, time\nwhile True:\n    try: os.fork()\n    except OSError: time.sleep(.01)")
		if !strings.Contains(got, "kernel ") && !strings.Contains(got, "closed") {
			t.Errorf("the cell: %q", got)
		}
		// Each copy of Python takes memory: either limit may come first.
		if got := c.reason(d, "forks"); got != "killed: process limit 40" && got != "killed: memory limit 768 MiB" {
			t.Errorf("reason: %q", got)
		}
		unharmed(t)
	})
	t.Run("full disk", func(t *testing.T) {
		c := newCellSandbox(t, d, "fills", limits)
		got := c.run("f = open('big', 'wb', buffering=0)\nn = 0\ntry:\n    while True: n += f.write(b'x' * (1 << 20))\nexcept OSError as e:\n    print(n >> 20 > 60, e.strerror)")
		// The agent says that the disk is full in this cell's output or the next one's.
		if !strings.Contains(got, "True No space left on device\n") {
			t.Errorf("the cell: %q", got)
		}
		// It lives, to be cleaned up, though IPython cannot write its history, and says so
		// in the middle of a line.
		if got := c.run("print(6 * 7)"); !strings.Contains(got, "42") {
			t.Errorf("the kernel after that: %q", got)
		}
		unharmed(t)
	})
}

func TestCellsThatTakeWhatTheyMayAreNotHarmed(t *testing.T) {
	agent, store := realAgent(t), realImages(t)
	d, err := gvisor.New(gvisor.Options{StateDir: shortTempDir(t), Runsc: runsc(t), AgentPath: agent, Images: store})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	c := newCellSandbox(t, d, "shares", sandboxes.Resources{MemoryBytes: 1 << 30, Processes: 40, DiskBytes: 128 << 20})

	// The agent is ready before the kernel, which answers with all its threads.
	if got := c.run("import threading; print(threading.active_count() > 2)"); got != "True\n" {
		t.Errorf("the kernel has no threads: %q", got)
	}
	if u := c.usage(); u.Processes != 1 {
		t.Errorf("usage of a kernel at rest: %+v; want 1 process", u)
	}
	// All five have the 300 MiB, and share them; longer than the watches look away.
	got := c.run(`
import os, time
shared = bytearray(300 << 20)
for i in range(0, len(shared), 4096): shared[i] = 1
children = []
for _ in range(4):
    pid = os.fork()
    if pid == 0:
        total = sum(shared[::4096])
        time.sleep(6)
        os._exit(0 if total == len(shared) // 4096 else 1)
    children.append(pid)
print([os.waitpid(pid, 0)[1] for pid in children])
`)
	if got != "[0, 0, 0, 0]\n" {
		t.Errorf("four forks that share 300 MiB of 1 GiB: %q", got)
	}
	if got := c.run("print(len(shared) >> 20)"); got != "300\n" {
		t.Errorf("the kernel after that: %q", got)
	}
}
