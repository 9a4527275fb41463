package kernelgw

import (
	"context"
	"encoding/json"
	"net/http"
	"net/url"
	"time"

	"github.com/google/uuid"

	"kernelgw/auth"
	"kernelgw/sandboxes/agentapi"
)

// Executor is what the server needs of *kernels.Manager to run code without a
// client; see there for the behaviour of each method.
type Executor interface {
	Execute(ctx context.Context, workspace, id string, r agentapi.ExecuteRequest) (agentapi.Execution, error)
	Executions(ctx context.Context, workspace, id string) ([]agentapi.Execution, error)
	Execution(ctx context.Context, workspace, id, execution string, room agentapi.Room) (agentapi.Execution, json.RawMessage, error)
	WaitExecution(ctx context.Context, workspace, id, execution string, wait time.Duration) (agentapi.Execution, error)
	CancelExecution(ctx context.Context, workspace, id, execution string) error
	ReplyInput(ctx context.Context, workspace, id, value string) error
}

// executeRoutes are those that run code without a WebSocket: as the extension
// jupyter-server-nbmodel has them, which a client asks again and again, and in
// one call.
func executeRoutes() []Route {
	return []Route{
		row(http.MethodPost, "api/kernels/:id/execute", auth.API, everywhere, "Run code: {\"code\": CODE, \"metadata\": {\"cell_id\": ID}}; 202, and where to ask for the result", (*Server).postExecute),
		row(http.MethodGet, "api/kernels/:id/execute", auth.API, everywhere, "What was to run and is not done", (*Server).listExecutions),
		row(http.MethodGet, "api/kernels/:id/requests/:request", auth.API, everywhere, "The result: 200; 202 while there is none, 300 when input is wanted, 500 when it was not executed", (*Server).getExecution),
		row(http.MethodDelete, "api/kernels/:id/requests/:request", auth.API, everywhere, "Cancel it: interrupted when it runs", (*Server).deleteExecution),
		row(http.MethodPost, "api/kernels/:id/input", auth.API, everywhere, "Answer what the code asks: {\"input\": TEXT}", (*Server).postInput),
		row(http.MethodPost, "v1/sessions/:id/execute", auth.API, everywhere, "Run code and wait for its result: {\"code\": CODE, \"timeout\": SECONDS}", (*Server).runInSession).streaming(),
	}
}

// requestBody is an execution as jupyter-server-nbmodel 0.2.8 describes it.
// Outputs are JSON in a string there, which is left out where it follows.
type requestBody struct {
	RequestID     string  `json:"request_id"`
	KernelID      string  `json:"kernel_id"`
	CellID        *string `json:"cell_id"`
	DocumentPath  *string `json:"document_path"`
	Pending       bool    `json:"pending"`
	RequestStatus string  `json:"request_status"`
	RequestURL    string  `json:"request_url"`
	Outputs       string  `json:"outputs,omitempty"`
}

// noOutputs are those of what has not begun, or is only listed.
const noOutputs = "[]"

func (c *call) requestBody(kernel string, e agentapi.Execution) requestBody {
	b := requestBody{
		RequestID: e.ID, KernelID: kernel, Pending: !e.State.Over(), RequestStatus: "complete",
		RequestURL: c.base + "api/kernels/" + url.PathEscape(kernel) + "/requests/" + url.PathEscape(e.ID),
	}
	if b.Pending {
		b.RequestStatus = string(e.State)
	}
	if e.CellID != "" {
		b.CellID = &e.CellID
	}
	if e.DocumentPath != "" {
		b.DocumentPath = &e.DocumentPath
	}
	return b
}

// seeOther sends a client elsewhere by a header that pages of other origins may
// read.
func (c *call) seeOther(location string) {
	c.Response().Header().Set("Location", location)
	c.Response().Header().Add("Access-Control-Expose-Headers", "Location")
}

func (s *Server) postExecute(c *call) error {
	id, err := c.kernelID()
	if err != nil {
		return err
	}
	var body struct {
		Code     *string `json:"code"`
		Metadata struct {
			CellID       string `json:"cell_id"`
			DocumentPath string `json:"document_path"`
		} `json:"metadata"`
		Server json.RawMessage `json:"server"`
	}
	err = decode(c.body, &body)
	switch {
	case err != nil:
	case body.Code == nil:
		// jupyter-collaboration and jupyter-server-documents send a cell's id alone.
		err = badRequest("Missing field in JSON data: code. This server keeps no shared document to take it from")
	case len(body.Server) > 0 && string(body.Server) != "null":
		err = badRequest("This server runs code in its own kernels only, not in those of another server")
	}
	if err != nil {
		return s.refuseBody(c, id, err)
	}
	e, err := s.execute(c.Request().Context(), c, id, agentapi.ExecuteRequest{
		ID: uuid.NewString(), Code: *body.Code, CellID: body.Metadata.CellID, DocumentPath: body.Metadata.DocumentPath,
		AllowStdin: true, StopOnError: true, StoreHistory: true,
	})
	if err != nil {
		return err
	}
	accepted := c.requestBody(id, e)
	accepted.Outputs = noOutputs
	// It may have begun already; that is for the next question.
	accepted.Pending, accepted.RequestStatus = true, string(agentapi.ExecutionQueued)
	c.seeOther(accepted.RequestURL)
	return c.JSON(http.StatusAccepted, accepted)
}

// refuseBody answers a request whose body is wrong: of a kernel that is not the
// caller's it says only that.
func (s *Server) refuseBody(c *call, kernel string, wrong error) error {
	if _, err := s.o.Kernels.Get(c.Request().Context(), c.workspace, kernel); err != nil {
		return err
	}
	return wrong
}

// execute asks for code to be run, and waits for a kernel that starts as long as
// an upgrade would be held.
func (s *Server) execute(ctx context.Context, c *call, kernel string, r agentapi.ExecuteRequest) (agentapi.Execution, error) {
	hold, cancel := context.WithTimeout(ctx, s.o.ConnectTimeout)
	defer cancel()
	if err := s.o.Kernels.UsedBy(hold, c.workspace, kernel, c.reader()); err != nil {
		return agentapi.Execution{}, &kernelError{kernel, err}
	}
	e, err := s.o.Kernels.Execute(hold, c.workspace, kernel, r)
	if err != nil {
		return e, &kernelError{kernel, err}
	}
	return e, nil
}

func (s *Server) listExecutions(c *call) error {
	id, err := c.kernelID()
	if err != nil {
		return err
	}
	list, err := s.o.Kernels.Executions(c.Request().Context(), c.workspace, id)
	if err != nil {
		return &kernelError{id, err}
	}
	requests := make([]requestBody, 0, len(list))
	for _, e := range list {
		request := c.requestBody(id, e)
		request.Outputs = noOutputs
		requests = append(requests, request)
	}
	return c.JSON(http.StatusOK, map[string]any{"kernel_id": id, "requests": requests})
}

func (s *Server) getExecution(c *call) error {
	id, request, err := c.request()
	if err != nil {
		return err
	}
	held, err := s.results.enter(c.Request().Context(), c.owner())
	if err != nil {
		return err
	}
	defer held.leave()
	e, outputs, err := s.o.Kernels.Execution(c.Request().Context(), c.workspace, id, request, held.room)
	if err != nil {
		return &kernelError{id, err}
	}
	body := c.requestBody(id, e)
	switch {
	case e.State == agentapi.ExecutionInput:
		c.seeOther(c.base + "api/kernels/" + url.PathEscape(id) + "/input")
		return c.sendOutputs(http.StatusMultipleChoices, struct {
			requestBody
			ParentHeader json.RawMessage `json:"parent_header"`
			InputRequest map[string]any  `json:"input_request"`
		}{body, e.Input.Header, map[string]any{"prompt": e.Input.Prompt, "password": e.Input.Password}}, outputs, true)
	case body.Pending:
		return c.sendOutputs(http.StatusAccepted, body, outputs, true)
	case e.Problem != "":
		return c.sendOutputs(http.StatusInternalServerError, struct {
			requestBody
			Error string `json:"error"`
		}{body, e.Problem}, outputs, true)
	}
	return c.sendOutputs(http.StatusOK, struct {
		requestBody
		Status         string `json:"status"`
		ExecutionCount *int64 `json:"execution_count"`
	}{body, e.Status, e.ExecutionCount}, outputs, true)
}

func (s *Server) deleteExecution(c *call) error {
	id, request, err := c.request()
	if err != nil {
		return err
	}
	if err := s.o.Kernels.CancelExecution(c.Request().Context(), c.workspace, id, request); err != nil {
		return &kernelError{id, err}
	}
	return c.NoContent(http.StatusNoContent)
}

func (s *Server) postInput(c *call) error {
	id, err := c.kernelID()
	if err != nil {
		return err
	}
	var body struct {
		Input *string `json:"input"`
	}
	err = decode(c.body, &body)
	if err == nil && body.Input == nil {
		err = badRequest("Missing field in JSON data: input")
	}
	if err != nil {
		return s.refuseBody(c, id, err)
	}
	// A debugger runs what it is given so.
	if err := s.o.Kernels.UsedBy(c.Request().Context(), c.workspace, id, c.reader()); err != nil {
		return &kernelError{id, err}
	}
	if err := s.o.Kernels.ReplyInput(c.Request().Context(), c.workspace, id, *body.Input); err != nil {
		return &kernelError{id, err}
	}
	return c.NoContent(http.StatusCreated)
}

// request returns the kernel's and the execution's id in the path. What cannot be
// one does not exist.
func (c *call) request() (kernel, execution string, err error) {
	if kernel, err = c.kernelID(); err != nil {
		return "", "", err
	}
	execution = c.pathParam("request")
	if !agentapi.ValidExecution(execution) {
		return "", "", notFound("Execution request " + clip(execution) + " does not exist")
	}
	return kernel, execution, nil
}
