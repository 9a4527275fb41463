package jupytertest

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"time"

	"kernelgw/jupyter"
)

func now() time.Time { return time.Now().UTC() }

// execute serves the shell channel, one request after the other.
func (k *Kernel) execute() {
	for {
		select {
		case <-k.stop:
			return
		case r := <-k.requests:
			k.serveShell(&r)
		}
	}
}

func (k *Kernel) serveShell(r *request) {
	if r.msgType == "execute_request" {
		k.serveExecute(r)
		return
	}
	k.status(jupyter.Busy, r)
	k.serveCommon(r)
	k.status(jupyter.Idle, r)
}

// serveCommon answers the requests that shell and control have in common.
func (k *Kernel) serveCommon(r *request) {
	ok := map[string]any{"status": "ok"}
	switch r.msgType {
	case "kernel_info_request":
		k.reply(r, "kernel_info_reply", map[string]any{
			"status":                 "ok",
			"protocol_version":       "5.3",
			"implementation":         "fakekernel",
			"implementation_version": "1.0",
			"banner":                 "fakekernel",
			"help_links":             []string{},
			"language_info": map[string]any{
				"name": "fake", "version": "1.0", "mimetype": "text/plain", "file_extension": ".txt",
			},
			"supported_features": []string{},
		})
	case "comm_info_request":
		k.reply(r, "comm_info_reply", map[string]any{"status": "ok", "comms": map[string]any{}})
	case "is_complete_request":
		k.reply(r, "is_complete_reply", map[string]any{"status": "complete"})
	case "complete_request":
		k.reply(r, "complete_reply", map[string]any{
			"status": "ok", "matches": []string{}, "cursor_start": 0, "cursor_end": 0, "metadata": map[string]any{},
		})
	case "inspect_request":
		k.reply(r, "inspect_reply", map[string]any{
			"status": "ok", "found": false, "data": map[string]any{}, "metadata": map[string]any{},
		})
	case "history_request":
		k.reply(r, "history_reply", map[string]any{"status": "ok", "history": []any{}})
	case "comm_open", "comm_msg", "comm_close":
		// A widget that answers each message with the same, buffers included.
		var content map[string]any
		if json.Unmarshal(r.Content, &content) != nil {
			return
		}
		echo := k.message(jupyter.IOPub, "comm_msg", r, map[string]any{"comm_id": content["comm_id"], "data": content["data"]})
		echo.Buffers = r.Buffers
		k.publish(echo, true)
	default:
		if name, isRequest := strings.CutSuffix(r.msgType, "_request"); isRequest {
			k.reply(r, name+"_reply", ok)
		}
	}
}

func (k *Kernel) onControl(p *peer, frames [][]byte) {
	r, ok := k.decode(p, jupyter.Control, frames)
	if !ok {
		return
	}
	k.status(jupyter.Busy, &r)
	switch r.msgType {
	case "interrupt_request":
		k.Interrupt()
		k.reply(&r, "interrupt_reply", map[string]any{"status": "ok"})
	case "shutdown_request":
		var content struct {
			Restart bool `json:"restart"`
		}
		_ = json.Unmarshal(r.Content, &content) // anything else means no restart
		k.reply(&r, "shutdown_reply", map[string]any{"status": "ok", "restart": content.Restart})
		k.publish(k.message(jupyter.IOPub, "shutdown_reply", &r, map[string]any{"status": "ok", "restart": content.Restart}), true)
		k.exit(0)
	default:
		k.serveCommon(&r)
	}
	k.status(jupyter.Idle, &r)
}

func (k *Kernel) serveExecute(r *request) {
	var content struct {
		Code   string `json:"code"`
		Silent bool   `json:"silent"`
	}
	if err := json.Unmarshal(r.Content, &content); err != nil {
		k.reply(r, "execute_reply", errorContent("ValueError", err.Error()))
		return
	}
	if strings.TrimSpace(content.Code) == "never answer" {
		return
	}
	ctx, cancel := context.WithCancel(k.alive)
	defer cancel()
	k.mu.Lock()
	k.interrupt = cancel
	k.mu.Unlock()

	k.status(jupyter.Busy, r)
	if !content.Silent {
		k.executions++
		k.publish(k.message(jupyter.IOPub, "execute_input", r, map[string]any{"code": content.Code, "execution_count": k.executions}), true)
	}
	err := k.script(ctx, r, content.Code)
	k.mu.Lock()
	k.interrupt = nil
	k.mu.Unlock()

	reply := map[string]any{"status": "ok", "payload": []any{}, "user_expressions": map[string]any{}}
	if err != nil {
		name, value := "Error", err.Error()
		var failed *scriptError
		switch {
		case errors.Is(err, errInterrupted):
			name, value = "KeyboardInterrupt", ""
		case errors.As(err, &failed):
			name, value = failed.name, failed.value
		}
		reply = errorContent(name, value)
		k.publish(k.message(jupyter.IOPub, "error", r, map[string]any{"ename": name, "evalue": value, "traceback": reply["traceback"]}), true)
	}
	reply["execution_count"] = k.executions
	k.reply(r, "execute_reply", reply)
	k.status(jupyter.Idle, r)
}

func errorContent(name, value string) map[string]any {
	return map[string]any{"status": "error", "ename": name, "evalue": value, "traceback": []string{name + ": " + value}}
}
