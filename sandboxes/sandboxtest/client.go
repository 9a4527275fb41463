package sandboxtest

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"kernelgw/jupyter"
	"kernelgw/sandboxes"
	"kernelgw/sandboxes/agentapi"
)

// client talks to one agent. It is not agentapi's client: a fault there must
// not hide a fault of a driver.
type client struct {
	agent sandboxes.Endpoint
	token string
	http  http.Client
}

// newClient takes the token from the sandbox's own configuration.
func newClient(t testing.TB, sb sandboxes.Sandbox) *client {
	t.Helper()
	var config agentapi.Config
	if err := json.Unmarshal(sb.Spec.AgentConfig, &config); err != nil {
		t.Fatalf("sandbox %s was returned without its AgentConfig: %v", sb.Spec.ID, err)
	}
	return &client{agent: sb.Agent, token: config.Token, http: http.Client{
		Timeout: time.Minute,
		// No connection is kept: whether the agent can be reached is the question.
		Transport: &http.Transport{
			DisableKeepAlives: true,
			DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
				// net/http does not end a dial with its request, and what was a sandbox
				// with a network does not answer.
				ctx, cancel := context.WithCancel(ctx)
				defer cancel()
				defer context.AfterFunc(t.Context(), cancel)()
				return dial(ctx, sb.Agent)
			},
		},
	}}
}

// withToken is the same client with another token.
func (c *client) withToken(token string) *client {
	other := *c
	other.token = token
	return &other
}

// dial connects to an agent, whatever the length of its socket's path.
func dial(ctx context.Context, agent sandboxes.Endpoint) (net.Conn, error) {
	var d net.Dialer
	if agent.Network != "unix" {
		return d.DialContext(ctx, agent.Network, agent.Address)
	}
	dir, err := os.Open(filepath.Dir(agent.Address))
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	// sun_path holds 108 bytes; through the descriptor any path is short.
	return d.DialContext(ctx, "unix", fmt.Sprintf("/proc/self/fd/%d/%s", dir.Fd(), filepath.Base(agent.Address)))
}

func (c *client) request(ctx context.Context, method, path string, answer any) error {
	r, err := http.NewRequestWithContext(ctx, method, "http://agent"+path, nil)
	if err != nil {
		return err
	}
	r.Header.Set("Authorization", "Bearer "+c.token)
	resp, err := c.http.Do(r)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err != nil {
		return err
	}
	if resp.StatusCode/100 != 2 {
		return fmt.Errorf("%s %s: %s: %.200s", method, path, resp.Status, body)
	}
	if answer == nil {
		return nil
	}
	return json.Unmarshal(body, answer)
}

func (c *client) get(ctx context.Context, path string, answer any) error {
	return c.request(ctx, http.MethodGet, path, answer)
}

func (c *client) post(ctx context.Context, path string) error {
	return c.request(ctx, http.MethodPost, path, nil)
}

func (c *client) status(ctx context.Context) (agentapi.Status, error) {
	var s agentapi.Status
	err := c.get(ctx, "/v1/status", &s)
	return s, err
}

// waitListening returns when the agent answers. There is no event to wait
// for: a socket that appears is not yet one that listens.
func (c *client) waitListening(ctx context.Context) error {
	for {
		_, err := c.status(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// message is a message of the protocol without a subprotocol: JSON text.
type message struct {
	Header   jupyter.Header  `json:"header"`
	Parent   jupyter.Header  `json:"parent_header"`
	Metadata struct{}        `json:"metadata"`
	Content  json.RawMessage `json:"content"`
	Channel  string          `json:"channel"`
	Buffers  []string        `json:"buffers"`
}

// execute runs a cell and returns what it printed; an exception in the cell is
// an error.
func (c *client) execute(ctx context.Context, code string) (string, error) {
	return c.executeWatched(ctx, code, func(string) {})
}

// executeWatched is execute, and calls watch with each text that is printed.
func (c *client) executeWatched(ctx context.Context, code string, watch func(printed string)) (string, error) {
	d := websocket.Dialer{NetDialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return dial(ctx, c.agent)
	}}
	// New ones for each cell, or the end of the one before may be delivered again.
	session, cell := rand.Text(), rand.Text()
	ws, _, err := d.DialContext(ctx, "ws://agent/v1/channels?session_id="+session,
		http.Header{"Authorization": {"Bearer " + c.token}})
	if err != nil {
		return "", fmt.Errorf("cannot open the kernel's channels: %w", err)
	}
	defer ws.Close()
	stop := context.AfterFunc(ctx, func() { _ = ws.Close() })
	defer stop()

	content, err := json.Marshal(map[string]any{
		"code": code, "silent": false, "store_history": false,
		"user_expressions": struct{}{}, "allow_stdin": false, "stop_on_error": true,
	})
	if err != nil {
		return "", err
	}
	request := message{
		Header: jupyter.Header{
			MsgID: cell, MsgType: "execute_request", Session: session,
			Username: "test", Date: time.Now().UTC().Format(time.RFC3339Nano), Version: "5.4",
		},
		Content: content,
		Channel: string(jupyter.Shell),
		Buffers: []string{},
	}
	if err := ws.WriteJSON(struct {
		message
		Parent struct{} `json:"parent_header"`
	}{message: request}); err != nil {
		return "", fmt.Errorf("cannot send the cell: %w", err)
	}
	return collect(ws, request.Header.MsgID, watch)
}

// collect reads until the cell's kernel is idle again.
func collect(ws *websocket.Conn, cell string, watch func(printed string)) (string, error) {
	var printed strings.Builder
	var failed error
	for {
		var m message
		if err := ws.ReadJSON(&m); err != nil {
			return printed.String(), fmt.Errorf("channels broke during the cell: %w", err)
		}
		var content struct {
			Text           string   `json:"text"`
			Traceback      []string `json:"traceback"`
			ExecutionState string   `json:"execution_state"`
		}
		if json.Unmarshal(m.Content, &content) != nil || m.Channel != string(jupyter.IOPub) {
			continue
		}
		switch {
		case m.Header.MsgType == "status" && content.ExecutionState == string(jupyter.Dead):
			return printed.String(), errors.New("the kernel died")
		case m.Header.MsgType == "status" && content.ExecutionState == string(jupyter.Restarting):
			return printed.String(), errors.New("the kernel died and was started again")
		case m.Parent.MsgID != cell:
		case m.Header.MsgType == "stream":
			printed.WriteString(content.Text)
			watch(content.Text)
		case m.Header.MsgType == "error":
			failed = errors.New(strings.Join(content.Traceback, "\n"))
		case m.Header.MsgType == "status" && content.ExecutionState == string(jupyter.Idle):
			return printed.String(), failed
		}
	}
}
