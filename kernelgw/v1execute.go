package kernelgw

import (
	"cmp"
	"context"
	"errors"
	"net/http"
	"sync"
	"time"

	"github.com/google/uuid"

	"kernelgw/jupyter/rest"
	"kernelgw/kernelgw/kernels"
	"kernelgw/sandboxes/agentapi"
)

const (
	// executeStep is how long one question to an agent waits: a server that
	// drains looks up so often.
	executeStep = 2 * time.Second
	// executePause is between two questions, and grows up to executeStep while they
	// are answered at once and say nothing, as no honest agent does.
	executePause = 50 * time.Millisecond
	// interruptPatience is how long code has to end after it was interrupted.
	interruptPatience = 10 * time.Second
	abandonTries      = 20
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
	place, err := s.sockets.enter(c.owner()) // it may last as long as a stream
	if err != nil {
		return err
	}
	defer s.sockets.leave(place)
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
	r := agentapi.ExecuteRequest{
		ID: cmp.Or(asked.ID, uuid.NewString()), Code: *asked.Code, Silent: asked.Silent,
		StopOnError: asked.StopOnError == nil || *asked.StopOnError, StoreHistory: asked.StoreHistory == nil || *asked.StoreHistory,
	}
	ctx, release := c.whileValid()
	defer release()
	if err = s.run(ctx, c, kernel, r, time.Now().Add(timeout)); err == nil {
		return nil
	}
	if ctx.Err() != nil && asked.OnDisconnect == "interrupt" && !s.draining.Load() {
		s.abandon(ctx, c.workspace, kernel, r.ID) // a server that stops is another matter
	}
	if errors.Is(context.Cause(ctx), errRevoked) {
		return errRevoked
	}
	return &kernelError{kernel, err}
}

var errRevoked = forbidden("The credentials are no longer valid")

// whileValid returns a context that ends with the request, or when its
// credentials are revoked, with errRevoked as the cause.
func (c *call) whileValid() (ctx context.Context, release func()) {
	ctx, cancel := context.WithCancelCause(c.Request().Context())
	var watching sync.WaitGroup
	watching.Go(func() {
		select {
		case <-c.who.Revoked:
			cancel(errRevoked)
		case <-ctx.Done():
		}
	})
	return ctx, func() {
		cancel(nil)
		watching.Wait()
	}
}

// run has code run until it is over or the deadline comes, and answers.
func (s *Server) run(ctx context.Context, c *call, kernel string, r agentapi.ExecuteRequest, deadline time.Time) error {
	e, err := s.execute(ctx, c, kernel, r)
	if err != nil {
		return err
	}
	if e, err = s.await(ctx, c.workspace, kernel, e, deadline); err != nil {
		return err
	}
	late := !e.State.Over()
	if late {
		if err := s.o.Kernels.CancelExecution(ctx, c.workspace, kernel, r.ID); err != nil {
			return err
		}
		if _, err := s.await(ctx, c.workspace, kernel, e, time.Now().Add(interruptPatience)); err != nil {
			return err
		}
	}
	return s.sendResult(ctx, c, kernel, r.ID, late)
}

// abandon interrupts code whose client has gone.
func (s *Server) abandon(ctx context.Context, workspace, kernel, id string) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), interruptPatience)
	defer cancel()
	err := kernels.ErrExecutionNotFound
	for tries := 0; errors.Is(err, kernels.ErrExecutionNotFound) && tries < abandonTries; tries++ {
		if tries > 0 {
			time.Sleep(executePause) // a client may go while the agent is asked
		}
		err = s.o.Kernels.CancelExecution(ctx, workspace, kernel, id)
	}
	if err != nil && !errors.Is(err, kernels.ErrExecutionNotFound) {
		s.o.Log.Warn("code whose client has gone is not interrupted", "kernel", kernel, "error", err)
	}
}

// sendResult answers with an execution.
func (s *Server) sendResult(ctx context.Context, c *call, kernel, id string, late bool) error {
	held, err := s.results.enter(ctx, c.owner())
	if err != nil {
		return err
	}
	defer held.leave()
	e, outputs, err := s.o.Kernels.Execution(ctx, c.workspace, kernel, id, held.room)
	if err != nil {
		return err
	}
	// What is done was over before it could be cancelled.
	return c.sendOutputs(http.StatusOK, resultOf(e, late && e.State != agentapi.ExecutionDone), outputs, false)
}

// await waits for an execution to be over, until the deadline. A server that
// drains does not wait: its successor is asked again, with the same id.
func (s *Server) await(ctx context.Context, workspace, kernel string, e agentapi.Execution, deadline time.Time) (agentapi.Execution, error) {
	pause := executePause
	for !e.State.Over() {
		left := time.Until(deadline)
		if left <= 0 {
			return e, nil
		}
		if s.draining.Load() {
			return e, errDraining
		}
		asked := time.Now()
		var err error
		if e, err = s.o.Kernels.WaitExecution(ctx, workspace, kernel, e.ID, min(left, executeStep)); err != nil || e.State.Over() {
			return e, err
		}
		if time.Since(asked) >= executeStep {
			pause = executePause
		}
		select {
		case <-ctx.Done():
			return e, ctx.Err()
		case <-time.After(min(pause, time.Until(deadline))):
		}
		pause = min(2*pause, executeStep)
	}
	return e, nil
}

// resultOf describes an execution, of which timedOut says that it was late and
// therefore cancelled.
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
