package agentapi

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"time"
	"unicode/utf8"
)

// Executions without a client:
//
//	POST   /v1/executions             200 Execution, for an ExecuteRequest; the one of that id when there is one already;
//	                                  409 when that has other code or options, 429 when too many wait
//	GET    /v1/executions             200 [Execution]: those that are not over, in the order in which they run
//	GET    /v1/executions/{id}?wait=SECONDS&outputs=1
//	                                  200, a line of Execution and then, if asked for, its outputs as far as there are any: a JSON
//	                                  array in nbformat 4. It waits so long for the execution to be over or to want input. 404
//	DELETE /v1/executions/{id}        204: one that waits is dropped, one that runs is interrupted; 404, 409 when that cannot be
//	POST   /v1/executions/input       204, for an InputReply to what runs; 409 when that wants none
//
// Executions run one after the other, among those of clients. When one fails
// whose request says so, those that wait behind it are not executed, as in
// Jupyter. A kernel that dies or restarts ends all of them.

// Limits of executions.
const (
	MaxCodeBytes    = 4 << 20
	MaxExecuteWait  = 30 * time.Second // of one question
	maxContextBytes = 2 << 10          // of an id or path that is given back
	maxExecution    = 256 << 10        // of its line
	outputsTimeout  = 60 * time.Second // for them to come
	// MaxOutputBytes bounds the outputs of one execution as they come. An agent
	// keeps 16 MiB and 1 MiB of errors as JSON, but of streams, up to 12 MiB, the
	// text, which JSON may double: a line feed takes two bytes there, and a color of
	// a terminal ten for five. What is more all the same, the agent leaves out.
	MaxOutputBytes = 32 << 20
	firstOutputs   = 64 << 10 // for which there is always room
)

// Room is asked before an answer takes so many bytes more, and may wait. An
// error ends the call with a *RoomError.
type Room func(ctx context.Context, more int) error

// RoomError is the error of a Room.
type RoomError struct{ cause error }

// Error implements error.
func (e *RoomError) Error() string { return "no room for the answer: " + e.cause.Error() }

// Unwrap returns what the Room said.
func (e *RoomError) Unwrap() error { return e.cause }

// ExecuteRequest asks for code to be run.
type ExecuteRequest struct {
	ID           string `json:"id"` // chosen by the caller, as ValidExecution takes it
	Code         string `json:"code"`
	CellID       string `json:"cell_id,omitempty"` // these two are told with the execution
	DocumentPath string `json:"document_path,omitempty"`
	AllowStdin   bool   `json:"allow_stdin"`
	StopOnError  bool   `json:"stop_on_error"`
	StoreHistory bool   `json:"store_history"`
	Silent       bool   `json:"silent"`
}

// ExecutionState is how far an execution is.
type ExecutionState string

// The states of an execution. The last two are final.
const (
	ExecutionQueued    ExecutionState = "queued"
	ExecutionRunning   ExecutionState = "running"
	ExecutionInput     ExecutionState = "input" // it waits for an InputReply
	ExecutionDone      ExecutionState = "done"
	ExecutionCancelled ExecutionState = "cancelled"
)

// Over reports whether nothing more will come.
func (s ExecutionState) Over() bool { return s == ExecutionDone || s == ExecutionCancelled }

// Execution is an execution as it is now.
type Execution struct {
	ID             string          `json:"id"`
	State          ExecutionState  `json:"state"`
	CellID         string          `json:"cell_id,omitempty"`
	DocumentPath   string          `json:"document_path,omitempty"`
	Status         string          `json:"status,omitempty"`  // when it was executed: ok or error
	Problem        string          `json:"problem,omitempty"` // why it was not executed
	ExecutionCount *int64          `json:"execution_count,omitempty"`
	Input          *InputRequest   `json:"input,omitempty"` // what it waits for
	Error          *ExecutionError `json:"error,omitempty"`
	Queued         time.Time       `json:"queued"`
	Started        time.Time       `json:"started,omitzero"`
	Finished       time.Time       `json:"finished,omitzero"`
}

// InputRequest is what a cell asks its user.
type InputRequest struct {
	Header   json.RawMessage `json:"header"` // of the input_request message: a JSON object
	Prompt   string          `json:"prompt"`
	Password bool            `json:"password"`
}

// InputReply is a user's answer.
type InputReply struct {
	Value string `json:"value"`
}

// ExecutionError is how an execution failed, in the kernel's words.
type ExecutionError struct {
	Name      string   `json:"name"`
	Value     string   `json:"value"`
	Traceback []string `json:"traceback"`
}

// ValidExecution reports whether id may be that of an execution. It is safe in a
// URL.
func ValidExecution(id string) bool {
	if id == "" || len(id) > 64 {
		return false
	}
	for _, c := range []byte(id) {
		if (c < '0' || c > '9') && (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && c != '-' && c != '_' {
			return false
		}
	}
	return true
}

// Check reports what an agent would refuse.
func (r *ExecuteRequest) Check() error {
	switch {
	case !ValidExecution(r.ID):
		return errors.New("the id of an execution must be a UUID")
	case len(r.Code) > MaxCodeBytes:
		return fmt.Errorf("the code has %d bytes; the limit is %d", len(r.Code), MaxCodeBytes)
	case len(r.CellID) > maxContextBytes || len(r.DocumentPath) > maxContextBytes:
		return fmt.Errorf("the id of a cell, or the path of a document, has more than %d bytes", maxContextBytes)
	}
	return nil
}

// check makes e what a caller can show, or reports what an agent cannot mean.
func (e *Execution) check() error {
	switch e.State {
	case ExecutionQueued, ExecutionRunning, ExecutionInput, ExecutionDone, ExecutionCancelled:
	default:
		return fmt.Errorf("%w: an execution in no state", ErrLies)
	}
	switch e.Status {
	case "", "ok", "error":
	default:
		return fmt.Errorf("%w: an execution of no status", ErrLies)
	}
	if !ValidExecution(e.ID) || len(e.CellID) > maxContextBytes || len(e.DocumentPath) > maxContextBytes {
		return fmt.Errorf("%w: an execution of no name", ErrLies)
	}
	if (e.State == ExecutionInput) != (e.Input != nil) || e.Input != nil && (len(e.Input.Header) == 0 || e.Input.Header[0] != '{') {
		return fmt.Errorf("%w: an execution that asks nothing", ErrLies)
	}
	if e.Error != nil && e.Error.Traceback == nil {
		e.Error.Traceback = []string{}
	}
	// Times are shown, and their differences.
	now := time.Now().UTC()
	for _, t := range []*time.Time{&e.Finished, &e.Started, &e.Queued} {
		if t.After(now) || t.Year() < 1970 && !t.IsZero() {
			*t = now
		}
	}
	return nil
}

// Execute asks for code to be run. To ask again with the same id is safe.
func (c *Client) Execute(ctx context.Context, r ExecuteRequest) (Execution, error) {
	e, err := send[Execution](ctx, c, http.MethodPost, "/v1/executions", r, callTimeout)
	if err == nil {
		err = e.named(r.ID)
	}
	return e, err
}

// Executions returns those that are not over.
func (c *Client) Executions(ctx context.Context) ([]Execution, error) {
	list, err := call[[]Execution](ctx, c, http.MethodGet, "/v1/executions", callTimeout)
	if err != nil {
		return nil, err
	}
	for i := range list {
		if err := list[i].check(); err != nil {
			return nil, err
		}
	}
	return list, nil
}

// WaitExecution returns one when it is over or wants input, or after so long, at
// most MaxExecuteWait.
func (c *Client) WaitExecution(ctx context.Context, id string, wait time.Duration) (Execution, error) {
	wait = min(wait, MaxExecuteWait)
	path := "/v1/executions/" + url.PathEscape(id) + "?wait=" + strconv.FormatFloat(wait.Seconds(), 'f', 3, 64)
	e, err := call[Execution](ctx, c, http.MethodGet, path, wait+callTimeout)
	if err == nil {
		err = e.named(id)
	}
	return e, err
}

// named is check of an execution that was asked for by its id.
func (e *Execution) named(id string) error {
	if e.ID != id {
		return fmt.Errorf("cannot call the agent: %w: an execution of another id", ErrLies)
	}
	return e.check()
}

// Execution returns one as it is now, and its outputs, which are JSON, when room
// has room for them.
func (c *Client) Execution(ctx context.Context, id string, room Room) (e Execution, outputs json.RawMessage, err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, outputsTimeout, errSilent)
	defer cancel()
	resp, err := c.roundTrip(ctx, http.MethodGet, "/v1/executions/"+url.PathEscape(id)+"?outputs=1", nil)
	if err != nil {
		return e, nil, fmt.Errorf("cannot call the agent: %w", err)
	}
	defer resp.Body.Close()
	e, outputs, err = readExecution(resp.Body, func(more int) error { return room(ctx, more) })
	if err != nil {
		var full *RoomError
		if !errors.Is(err, ErrLies) && !errors.As(err, &full) {
			err = explain(ctx, err)
		}
		return Execution{}, nil, fmt.Errorf("cannot call the agent: %w", err)
	}
	return e, outputs, e.named(id)
}

// readExecution reads an execution and its outputs. The error is ErrLies, a
// *RoomError, or that of the answer.
func readExecution(answer io.Reader, room func(more int) error) (e Execution, outputs json.RawMessage, err error) {
	e, buffered, err := readLine[Execution](answer, maxExecution, "execution")
	if err != nil {
		return e, nil, err
	}
	outputs, err = readOutputs(buffered, room)
	switch {
	case err != nil:
		return e, nil, err
	case len(outputs) > MaxOutputBytes:
		return e, nil, fmt.Errorf("%w: outputs of more than %d bytes", ErrLies, MaxOutputBytes)
	case len(outputs) == 0 || outputs[0] != '[' || !utf8.Valid(outputs) || !json.Valid(outputs):
		return e, nil, fmt.Errorf("%w: outputs that are no list", ErrLies)
	}
	return e, outputs, nil
}

// readOutputs reads at most a byte more than may be, into memory that doubles.
func readOutputs(from io.Reader, room func(more int) error) ([]byte, error) {
	b := make([]byte, 0, firstOutputs+1) // doubled, it holds MaxOutputBytes+1 without a last, needless step
	for {
		n, err := from.Read(b[len(b):cap(b)])
		b = b[:len(b)+n]
		switch {
		case errors.Is(err, io.EOF):
			return b, nil
		case err != nil:
			return nil, err
		case len(b) > MaxOutputBytes:
			return b, nil
		case len(b) < cap(b):
			continue
		}
		larger := min(2*cap(b), MaxOutputBytes+1)
		if err := room(larger - cap(b)); err != nil {
			return nil, &RoomError{err}
		}
		b = append(make([]byte, 0, larger), b...)
	}
}

// CancelExecution drops an execution that waits, and interrupts one that runs.
func (c *Client) CancelExecution(ctx context.Context, id string) error {
	_, err := call[struct{}](ctx, c, http.MethodDelete, "/v1/executions/"+url.PathEscape(id), callTimeout)
	return err
}

// ReplyInput answers what the execution that runs asks.
func (c *Client) ReplyInput(ctx context.Context, value string) error {
	_, err := send[struct{}](ctx, c, http.MethodPost, "/v1/executions/input", InputReply{value}, callTimeout)
	return err
}
