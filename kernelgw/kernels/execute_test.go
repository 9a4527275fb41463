package kernels_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"

	"kernelgw/kernelgw/kernels"
	"kernelgw/kernelgw/registry/memory"
	"kernelgw/sandboxes"
	"kernelgw/sandboxes/agentapi"
	"kernelgw/sandboxes/sandboxtest"
)

// What agents answer is told in words of kernels, and theirs are for the log.
func TestExecutionsOfAKernel(t *testing.T) {
	driver := sandboxtest.NewFake(t)
	var status atomic.Int32
	reply := func(success string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			if code := int(status.Load()); code != http.StatusOK {
				w.WriteHeader(code)
				_, _ = io.WriteString(w, `{"message":"the agent's words"}`)
				return
			}
			_, _ = io.WriteString(w, success)
		}
	}
	const one = `{"id":"a","state":"done","status":"ok","queued":"2026-11-26T11:00:00Z"}`
	driver.OnCreate(func(_ context.Context, _ sandboxes.Spec, a *sandboxtest.Agent) error {
		a.Handle("POST /v1/executions", reply(one))
		a.Handle("GET /v1/executions", reply("["+one+"]"))
		a.Handle("GET /v1/executions/a", reply(one+"\n[]"))
		a.Handle("DELETE /v1/executions/a", reply(one))
		a.Handle("POST /v1/executions/input", reply(one))
		return nil
	})
	g := start(t, driver, memory.New())
	k, err := g.Start(t.Context(), kernels.StartRequest{Workspace: "w", Owner: "ada", Name: "python3"})
	if err != nil {
		t.Fatal(err)
	}
	calls := map[string]func(workspace, id string) error{
		"execute": func(workspace, id string) error {
			_, err := g.Execute(t.Context(), workspace, id, agentapi.ExecuteRequest{ID: "a", Code: "1"})
			return err
		},
		"list": func(workspace, id string) error { _, err := g.Executions(t.Context(), workspace, id); return err },
		"get": func(workspace, id string) error {
			_, outputs, err := g.Execution(t.Context(), workspace, id, "a", func(context.Context, int) error { return nil })
			if err == nil && string(outputs) != "[]" {
				err = fmt.Errorf("outputs %s", outputs)
			}
			return err
		},
		"cancel": func(workspace, id string) error { return g.CancelExecution(t.Context(), workspace, id, "a") },
		"reply":  func(workspace, id string) error { return g.ReplyInput(t.Context(), workspace, id, "x") },
	}
	for name, call := range calls {
		status.Store(http.StatusOK)
		if err := call("w", k.ID); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if err := call("other", k.ID); !errors.Is(err, kernels.ErrNotFound) {
			t.Errorf("%s of another workspace's kernel: %v", name, err)
		}
		conflict := map[string]error{"execute": kernels.ErrExists, "cancel": kernels.ErrDead, "reply": kernels.ErrNoInput}[name]
		if conflict == nil {
			conflict = kernels.ErrAgent
		}
		for code, want := range map[int]error{404: kernels.ErrExecutionNotFound, 409: conflict, 429: kernels.ErrLimit, 500: kernels.ErrAgent} {
			status.Store(int32(code))
			err := call("w", k.ID)
			if !errors.Is(err, want) || !errors.Is(want, kernels.ErrAgent) && strings.Contains(err.Error(), "the agent's words") {
				t.Errorf("%s, answered with %d: %v", name, code, err)
			}
		}
	}
	if _, err := g.Execute(t.Context(), "w", k.ID, agentapi.ExecuteRequest{ID: "a/b"}); !errors.Is(err, kernels.ErrInvalid) {
		t.Errorf("an id that cannot be: %v", err)
	}
}
