package main

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"kernelgw/jupyter"
	"kernelgw/jupyter/jupytertest"
	"kernelgw/jupyter/wsproto"
)

func TestClientsGetWhatTheKernelSays(t *testing.T) {
	r := &relay{token: "T", argv: []string{jupytertest.Build(t), "-f", "{connection_file}"}, kernels: map[string]*kernel{}}
	server := httptest.NewServer(r.routes())
	defer server.Close()
	defer r.close()
	ask := func(method, path, token string) (int, []byte) {
		req, err := http.NewRequestWithContext(t.Context(), method, server.URL+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", "token "+token)
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return resp.StatusCode, body
	}
	if status, _ := ask("POST", "/api/kernels", "wrong"); status != http.StatusForbidden {
		t.Errorf("a stranger gets %d", status)
	}
	var made struct{ ID string }
	if status, body := ask("POST", "/api/kernels", "T"); status != http.StatusCreated || json.Unmarshal(body, &made) != nil {
		t.Fatalf("%d %s", status, body)
	}
	dialer := websocket.Dialer{Subprotocols: []string{wsproto.Subprotocol}}
	ws, _, err := dialer.Dial("ws"+strings.TrimPrefix(server.URL, "http")+"/api/kernels/"+made.ID+"/channels", http.Header{"Authorization": {"token T"}})
	if err != nil {
		t.Fatal(err)
	}
	defer ws.Close()
	m, err := jupyter.NewMessage(jupyter.Shell, "execute_request", "s", map[string]string{"code": "print 1000 100"})
	if err != nil {
		t.Fatal(err)
	}
	request, _ := wsproto.Append(nil, wsproto.V1, m)
	if err := ws.WriteMessage(websocket.BinaryMessage, request); err != nil {
		t.Fatal(err)
	}
	_ = ws.SetReadDeadline(time.Now().Add(time.Minute))
	for streams, replied := 0, false; streams < 1000 || !replied; {
		_, b, err := ws.ReadMessage()
		if err != nil {
			t.Fatalf("after %d messages: %v", streams, err)
		}
		if strings.Contains(string(b), `"stream"`) {
			streams++
		}
		replied = replied || strings.Contains(string(b), `"execute_reply"`)
	}
	if status, body := ask("DELETE", "/api/kernels/"+made.ID, "T"); status != http.StatusNoContent {
		t.Errorf("%d %s", status, body)
	}
}
