package kernelgw

import (
	"context"
	"errors"
	"net/http"

	"kernelgw/jupyter/rest"
	"kernelgw/kernelgw/kernels"
	"kernelgw/kernelgw/splice"
	"kernelgw/sandboxes/agentapi"
)

// Terminals is what the server needs of *kernels.Manager for terminals; see
// there for the behaviour of each method.
type Terminals interface {
	Terminals(ctx context.Context, workspace string) ([]kernels.Terminal, error)
	StartTerminal(ctx context.Context, r kernels.TerminalRequest) (kernels.Terminal, error)
	Terminal(ctx context.Context, workspace, name string) (kernels.Terminal, error)
	DeleteTerminal(ctx context.Context, workspace, name string) error
	ConnectTerminal(ctx context.Context, workspace, name string) (kernels.Connection, error)
}

// listTerminals starts nothing: clients ask every ten seconds.
func (s *Server) listTerminals(c *call) error {
	list, err := s.o.Kernels.Terminals(c.Request().Context(), c.workspace)
	if err != nil {
		return terminalError(err)
	}
	models := make([]rest.Terminal, 0, len(list))
	for _, t := range list {
		models = append(models, terminalModel(t))
	}
	return c.JSON(http.StatusOK, models)
}

// startTerminal answers 200, not 201: JupyterLab takes nothing else.
func (s *Server) startTerminal(c *call) error {
	var body struct {
		Name string `json:"name"`
		Cwd  string `json:"cwd"`
	}
	if len(c.body) > 0 {
		if err := decode(c.body, &body); err != nil {
			return err
		}
	}
	if body.Name != "" && !agentapi.ValidTerminalName(body.Name) {
		return badRequest("name must be letters, digits and underscores, at most 64")
	}
	if len(body.Cwd) > maxPath {
		return badRequest("cwd has %d bytes; the limit is %d", len(body.Cwd), maxPath)
	}
	t, err := s.o.Kernels.StartTerminal(c.Request().Context(), kernels.TerminalRequest{
		Workspace: c.workspace, Owner: c.owner(), Name: body.Name, Cwd: body.Cwd,
	})
	if err != nil {
		return terminalError(err)
	}
	return c.JSON(http.StatusOK, terminalModel(t))
}

func (s *Server) getTerminal(c *call) error {
	name, err := c.terminalName()
	if err != nil {
		return err
	}
	t, err := s.o.Kernels.Terminal(c.Request().Context(), c.workspace, name)
	if err != nil {
		return terminalError(err)
	}
	return c.JSON(http.StatusOK, terminalModel(t))
}

func (s *Server) deleteTerminal(c *call) error {
	name, err := c.terminalName()
	if err != nil {
		return err
	}
	if err := s.o.Kernels.DeleteTerminal(c.Request().Context(), c.workspace, name); err != nil {
		return terminalError(err)
	}
	return c.NoContent(http.StatusNoContent)
}

// terminalSocket joins a client's WebSocket to a terminal.
func (s *Server) terminalSocket(c *call) error {
	name, err := c.terminalName()
	if err != nil {
		return err
	}
	if err := splice.CheckRequest(c.Request()); err != nil {
		return notUpgrade(c, err)
	}
	return s.join(c, link{
		kind: "terminal", name: name, up: splice.Upgrade{Target: agentapi.TerminalSocket(name)},
		connect: func(ctx context.Context) (kernels.Connection, error) {
			to, err := s.o.Kernels.ConnectTerminal(ctx, c.workspace, name)
			if err != nil {
				return to, terminalError(err)
			}
			return to, nil
		},
		gone:     terminalGone,
		refusals: map[int]error{http.StatusNotFound: noTerminal(name)},
	})
}

// terminalGone tells a client that its terminal has ended with its sandbox:
// after "disconnect" JupyterLab does not come back (contract, section 5).
func terminalGone(reason string) splice.Farewell {
	f := splice.Farewell{Message: []byte(`["disconnect",1]`), Opcode: splice.Text, Code: closeGone, Reason: "the terminal has ended"}
	if reason != "" {
		f.Reason += ": " + reason
	}
	return f
}

// terminalName returns the name in the path. What cannot be one does not exist.
func (c *call) terminalName() (string, error) {
	name := c.pathParam("name")
	if !agentapi.ValidTerminalName(name) {
		return "", noTerminal(name)
	}
	return name, nil
}

func noTerminal(name string) error { return notFound("Terminal not found: " + clip(name)) }

// terminalError says of a terminal what answer says of kernels.
func terminalError(err error) error {
	switch {
	case errors.Is(err, kernels.ErrTerminalNotFound):
		return &httpError{status: http.StatusNotFound, message: "Terminal not found", cause: err}
	case errors.Is(err, kernels.ErrStart):
		return &httpError{
			status: http.StatusServiceUnavailable, retryAfter: 10, cause: err,
			message: "The terminal could not be started: its sandbox could not be created. The gateway's log says why",
		}
	case errors.Is(err, kernels.ErrAgent):
		return &httpError{
			status: http.StatusServiceUnavailable, retryAfter: 2, cause: err,
			message: "The sandbox of the terminals did not answer; try again",
		}
	}
	return err
}

func terminalModel(t kernels.Terminal) rest.Terminal {
	return rest.Terminal{Name: t.Name, LastActivity: rest.Time{Time: t.LastActivity}}
}
