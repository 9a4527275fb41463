package sandboxtest_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	"go.uber.org/goleak"

	"kernelgw/jupyter"
	"kernelgw/sandboxes"
	"kernelgw/sandboxes/agentapi"
	"kernelgw/sandboxes/sandboxtest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const token = "secret"

// create makes a sandbox with a configuration that the double accepts.
func create(t *testing.T, f *sandboxtest.Fake, id string) sandboxes.Sandbox {
	t.Helper()
	config, err := json.Marshal(agentapi.Config{Token: token, KernelID: "kernel-" + id})
	if err != nil {
		t.Fatal(err)
	}
	sb, err := f.Create(t.Context(), sandboxes.Spec{ID: id, AgentConfig: config})
	if err != nil {
		t.Fatalf("Create: %v", err)
	}
	return sb
}

// request asks the agent of sb, on a connection of its own.
func request(t *testing.T, sb sandboxes.Sandbox, method, path string) (*http.Response, error) {
	t.Helper()
	transport := &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, sb.Agent.Network, sb.Agent.Address)
		},
	}
	r, err := http.NewRequestWithContext(t.Context(), method, "http://agent"+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+token)
	return transport.RoundTrip(r)
}

func TestWatchTellsEveryChange(t *testing.T) {
	f := sandboxtest.NewFake(t)
	sb := create(t, f, "a")
	resp, err := request(t, sb, "GET", "/v1/watch")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	lines := bufio.NewScanner(resp.Body)
	for _, want := range []jupyter.State{jupyter.Idle, jupyter.Busy, jupyter.Dead} {
		if want != jupyter.Idle {
			f.Agent("a").Update(func(s *agentapi.Status) { s.ExecutionState = want })
		}
		if !lines.Scan() {
			t.Fatalf("watch ended before state %q: %v", want, lines.Err())
		}
		var got agentapi.Status
		if err := json.Unmarshal(lines.Bytes(), &got); err != nil {
			t.Fatal(err)
		}
		if got.ExecutionState != want || got.KernelID != "kernel-a" {
			t.Errorf("watch said %+v, want state %q of kernel-a", got, want)
		}
	}
}

func TestKillBreaksConnectionsAndIsSeenByWait(t *testing.T) {
	f := sandboxtest.NewFake(t)
	sb := create(t, f, "a")
	ws := dialChannels(t, sb)
	if err := ws.WriteMessage(websocket.BinaryMessage, []byte("hello")); err != nil {
		t.Fatal(err)
	}
	if _, data, err := ws.ReadMessage(); err != nil || string(data) != "hello" {
		t.Fatalf("echo gave %q, %v", data, err)
	}
	if !f.Kill("a", sandboxes.Exit{Code: 137, Reason: "killed: memory limit 2.0 GiB"}) {
		t.Fatal("Kill found nothing to kill")
	}
	if _, _, err := ws.ReadMessage(); err == nil {
		t.Error("the WebSocket outlived its sandbox")
	}
	exit, err := f.Wait(t.Context(), "a")
	if err != nil || exit.Code != 137 || exit.Reason != "killed: memory limit 2.0 GiB" || exit.At.IsZero() {
		t.Errorf("Wait: %+v, %v", exit, err)
	}
	if f.Kill("a", sandboxes.Exit{}) {
		t.Error("Kill killed twice")
	}
}

func TestCreateHookInjectsFaults(t *testing.T) {
	boom := errors.New("host is out of disks")
	f := sandboxtest.NewFake(t)
	f.OnCreate(func(ctx context.Context, spec sandboxes.Spec, a *sandboxtest.Agent) error {
		switch spec.ID {
		case "fails":
			return boom
		case "hangs":
			<-ctx.Done()
			return ctx.Err()
		case "silent":
			a.NeverListen()
		case "liar":
			a.Handle("GET /v1/status", func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Content-Length", "1000000")
				_, _ = w.Write([]byte("{"))
			})
		case "raw":
			a.ServeConns(func(c net.Conn) { _, _ = c.Write([]byte("not HTTP\r\n\r\n")) })
		}
		return nil
	})
	if _, err := f.Create(t.Context(), sandboxes.Spec{ID: "fails"}); !errors.Is(err, boom) {
		t.Errorf("Create gave %v, want the hook's error", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := f.Create(ctx, sandboxes.Spec{ID: "hangs"}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Create on a hanging host gave %v, want the context's error", err)
	}

	silent := create(t, f, "silent")
	if _, err := request(t, silent, "GET", "/v1/status"); err == nil {
		t.Error("an agent that never listens answered")
	}
	if err := f.Agent("silent").Listen(); err != nil {
		t.Fatal(err)
	}
	if resp, err := request(t, silent, "GET", "/v1/status"); err != nil || resp.StatusCode != http.StatusOK {
		t.Errorf("after Listen: %v, %v", resp, err)
	}

	resp, err := request(t, create(t, f, "liar"), "GET", "/v1/status")
	if err != nil || resp.ContentLength != 1000000 {
		t.Errorf("the liar told the truth: %v, %v", resp, err)
	}
	if _, err := request(t, create(t, f, "raw"), "GET", "/v1/status"); err == nil {
		t.Error("bytes that are not HTTP were understood")
	}
	list, err := f.List(t.Context())
	if err != nil || len(list) != 3 {
		t.Errorf("List has %d sandboxes, %v; want the 3 that were created", len(list), err)
	}
}

func TestDestroyHookInjectsFaults(t *testing.T) {
	f := sandboxtest.NewFake(t)
	create(t, f, "a")
	boom := errors.New("device is busy")
	f.OnDestroy(func(context.Context, string) error { return boom })
	if err := f.Destroy(t.Context(), "a"); !errors.Is(err, boom) {
		t.Errorf("Destroy gave %v, want the hook's error", err)
	}
	f.OnDestroy(nil)
	if err := f.Destroy(t.Context(), "a"); err != nil || f.Agent("a") != nil {
		t.Errorf("a failed Destroy could not be repeated: %v", err)
	}
}

func TestHungAgentAcceptsAndNeverAnswers(t *testing.T) {
	f := sandboxtest.NewFake(t)
	sb := create(t, f, "a")
	f.Agent("a").Hang()
	c, err := net.Dial(sb.Agent.Network, sb.Agent.Address)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.SetReadDeadline(time.Now().Add(50 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	var timeout net.Error
	if _, err := c.Read(make([]byte, 1)); !errors.As(err, &timeout) || !timeout.Timeout() {
		t.Errorf("Read gave %v, want silence until the deadline", err)
	}
}

func dialChannels(t *testing.T, sb sandboxes.Sandbox) *websocket.Conn {
	t.Helper()
	d := websocket.Dialer{NetDialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, sb.Agent.Network, sb.Agent.Address)
	}}
	ws, resp, err := d.DialContext(t.Context(), "ws://agent/v1/channels?session_id=s",
		http.Header{"Authorization": {"Bearer " + token}})
	if err != nil {
		t.Fatalf("cannot open /v1/channels: %v (%v)", err, resp)
	}
	t.Cleanup(func() { ws.Close() })
	return ws
}
