package kernelgw

import (
	"cmp"
	"context"
	"net/http"
	"time"

	"github.com/google/uuid"

	"kernelgw/jupyter/rest"
	"kernelgw/sandboxes/agentapi"
)

const (
	// executeStep is how long one question to an agent waits: a server that
	// drains looks up so often.
	executeStep = 2 * time.Second
	// executePause is between two questions: a hostile agent answers at once.
	executePause = 50 * time.Millisecond
	// interruptPatience is how long code has to end after it was interrupted.
	interruptPatience = 10 * time.Second
	maxExecuteTimeout = 24 * time.Hour
)

// runRequest is what a client wants to be run.
type runRequest struct {
	Code         *string  `json:"code"`
	ID           string   `json:"id"`      // asked again with the same, it runs once
	Timeout      *float64 `json:"timeout"` // seconds
	OnDisconnect string   `json:"on_disconnect"`
	StopOnError  *bool    `json:"stop_on_error"`
	StoreHistory *bool    `json:"store_history"`
	Silent       bool     `json:"silent"`
}

// runResult is what came of it, without the outputs.
type runResult struct {
	ID             string                   `json:"id"`
	Status         string                   `json:"status"` // ok, error, timeout, cancelled, or aborted: not executed
	ExecutionCount *int64                   `json:"execution_count"`
	Error          *agentapi.ExecutionError `json:"error"`
	Started        *rest.Time               `json:"started"`
	Finished       *rest.Time               `json:"finished"`
	Timing         runTiming                `json:"timing"`
}

// runTiming is how long it took, in seconds.
type runTiming struct {
	Waited float64 `json:"waited"` // for other code, and for the kernel to start
	Ran    float64 `json:"ran"`
}

func (r *runRequest) check() error {
	const most = int(maxExecuteTimeout / time.Second)
	switch {
	case r.Code == nil:
		return badRequest("Missing field in JSON data: code")
	case r.ID != "" && !validID.MatchString(r.ID):
		return badRequest("id must be a UUID")
	case r.Timeout != nil && (*r.Timeout <= 0 || *r.Timeout > float64(most)):
		return badRequest("timeout must be a number of seconds, above 0 and up to %d", most)
	}
	switch r.OnDisconnect {
	case "", "continue", "interrupt":
		return nil
	}
	return badRequest("on_disconnect must be continue or interrupt")
}

// runInSession runs code and answers when it is over.
func (s *Server) runInSession(c *call) error {
	kernel, err := s.runtimeID(c)
	if err != nil {
		return err
	}
	raw, err := s.readBody(c)
	if err != nil {
		return err
	}
	var asked runRequest
	if err = decode(raw, &asked); err == nil {
		err = asked.check()
	}
	if err != nil {
		return s.refuseBody(c, kernel, err)
	}
	timeout := maxExecuteTimeout
	if asked.Timeout != nil {
		timeout = time.Duration(*asked.Timeout * float64(time.Second))
	}
	deadline := time.Now().Add(timeout)
	id := cmp.Or(asked.ID, uuid.NewString())
	e, err := s.execute(c, kernel, agentapi.ExecuteRequest{
		ID: id, Code: *asked.Code, Silent: asked.Silent,
		StopOnError: asked.StopOnError == nil || *asked.StopOnError, StoreHistory: asked.StoreHistory == nil || *asked.StoreHistory,
	})
	if err != nil {
		return err
	}
	ctx := c.Request().Context()
	e, err = s.await(ctx, c.workspace, kernel, e, deadline)
	timedOut := err == nil && !e.State.Over()
	if timedOut {
		if err = s.o.Kernels.CancelExecution(ctx, c.workspace, kernel, id); err == nil {
			e, err = s.await(ctx, c.workspace, kernel, e, time.Now().Add(interruptPatience))
		}
	}
	if err == nil {
		if err = s.sendResult(c, kernel, id, timedOut); err == nil {
			return nil
		}
	}
	if ctx.Err() != nil && asked.OnDisconnect == "interrupt" && !s.draining.Load() {
		// The client has gone; a server that stops is another matter.
		last, cancel := context.WithTimeout(context.WithoutCancel(ctx), interruptPatience)
		defer cancel()
		if err := s.o.Kernels.CancelExecution(last, c.workspace, kernel, id); err != nil {
			s.o.Log.Warn("code whose client has gone is not interrupted", "kernel", kernel, "error", err)
		}
	}
	return &kernelError{kernel, err}
}

// sendResult answers with an execution.
func (s *Server) sendResult(c *call, kernel, id string, timedOut bool) error {
	held, err := s.results.enter(c.Request().Context(), c.owner())
	if err != nil {
		return err
	}
	defer held.leave()
	e, outputs, err := s.o.Kernels.Execution(c.Request().Context(), c.workspace, kernel, id, held.room)
	if err != nil {
		return err
	}
	return c.sendOutputs(http.StatusOK, resultOf(e, timedOut), outputs, false)
}

// await waits for an execution to be over, until the deadline. A server that
// drains does not wait: its successor is asked again, with the same id.
func (s *Server) await(ctx context.Context, workspace, kernel string, e agentapi.Execution, deadline time.Time) (agentapi.Execution, error) {
	for !e.State.Over() {
		left := time.Until(deadline)
		if left <= 0 {
			return e, nil
		}
		if s.draining.Load() {
			return e, errDraining
		}
		var err error
		if e, err = s.o.Kernels.WaitExecution(ctx, workspace, kernel, e.ID, min(left, executeStep)); err != nil || e.State.Over() {
			return e, err
		}
		select {
		case <-ctx.Done():
			return e, ctx.Err()
		case <-time.After(executePause):
		}
	}
	return e, nil
}

func resultOf(e agentapi.Execution, timedOut bool) runResult {
	r := runResult{ID: e.ID, Status: e.Status, ExecutionCount: e.ExecutionCount, Error: e.Error}
	if e.Problem != "" {
		r.Status, r.Error = "aborted", &agentapi.ExecutionError{Name: "NotExecuted", Value: e.Problem, Traceback: []string{}}
	}
	switch {
	case timedOut:
		r.Status = "timeout"
	case e.State == agentapi.ExecutionCancelled:
		r.Status = "cancelled"
	}
	end := e.Finished
	if end.IsZero() {
		end = time.Now() // it goes on all the same
	} else {
		r.Finished = &rest.Time{Time: e.Finished}
	}
	begin := end
	if !e.Started.IsZero() {
		begin = e.Started
		r.Started = &rest.Time{Time: e.Started}
	}
	r.Timing = runTiming{max(begin.Sub(e.Queued), 0).Seconds(), max(end.Sub(begin), 0).Seconds()}
	return r
}
