package kernelgw

import (
	"errors"
	"net/http"
	"net/url"
	"strings"

	"kernelgw/auth"
	"kernelgw/kernelgw/kernels"
)

// homeRoutes are the page of a person with several workspaces, and the same for
// programs.
func homeRoutes() []Route {
	return []Route{
		row(http.MethodGet, "home", auth.Page, baseOnly, "Workspaces of the caller, and what runs in them", (*Server).homePage),
		row(http.MethodPost, "home/workspaces", auth.Page, baseOnly, "Make a workspace; form: name", (*Server).postHomeWorkspace).byForm(),
		row(http.MethodPost, "home/:workspace/kernels/:id/stop", auth.Page, baseOnly, "Stop a kernel", (*Server).postHomeStop).byForm(),
		row(http.MethodPost, "home/:workspace/terminals/:name/stop", auth.Page, baseOnly, "End a terminal", (*Server).postHomeStopTerminal).byForm(),
		row(http.MethodGet, "connect", auth.Page, everywhere, "How to connect each client", (*Server).connectPage),
		row(http.MethodGet, "v1/workspaces", auth.API, baseOnly, "Workspaces of the caller; the first is the default", (*Server).listWorkspaces),
		row(http.MethodPost, "v1/workspaces", auth.API, baseOnly, "Make a workspace: {\"name\": NAME}; the answer has its full name", (*Server).createWorkspace),
	}
}

// workspaceModel is a workspace in the native API.
type workspaceModel struct {
	Name string `json:"name"`
	URL  string `json:"url"` // path of its mount
}

func (s *Server) workspaceModel(name string) workspaceModel {
	return workspaceModel{name, s.base + "w/" + url.PathEscape(name) + "/"}
}

func (s *Server) listWorkspaces(c *call) error {
	list := make([]workspaceModel, 0, len(c.who.Workspaces))
	for _, name := range c.who.Workspaces {
		list = append(list, s.workspaceModel(name))
	}
	return c.JSON(http.StatusOK, list)
}

func (s *Server) createWorkspace(c *call) error {
	var body struct {
		Name string `json:"name"`
	}
	if err := decode(c.body, &body); err != nil {
		return err
	}
	made, err := s.o.Users.MakeWorkspace(c.Request().Context(), c.who, body.Name)
	if err != nil {
		return err
	}
	model := s.workspaceModel(made)
	c.Response().Header().Set("Location", model.URL)
	return c.JSON(http.StatusCreated, model)
}

func (s *Server) postHomeWorkspace(c *call) error {
	name := strings.TrimSpace(c.form.Get("name"))
	made, err := s.o.Users.MakeWorkspace(c.Request().Context(), c.who, name)
	if errors.Is(err, auth.ErrName) || errors.Is(err, auth.ErrTaken) || errors.Is(err, auth.ErrTooMany) {
		status, _, body := answer(c, err)
		return s.home(c, status, clip(name), body.Message)
	}
	if err != nil {
		return err
	}
	return c.Redirect(http.StatusSeeOther, s.base+"home#"+url.PathEscape(made))
}

func (s *Server) postHomeStop(c *call) error {
	id, err := c.kernelID()
	if err != nil {
		return err
	}
	err = s.o.Kernels.Shutdown(c.Request().Context(), c.workspace, id)
	s.o.Events.kernel("shutdown", c.workspace, id, "", err)
	if err != nil && !errors.Is(err, kernels.ErrNotFound) {
		status, _, body := answer(c, err)
		return s.home(c, status, "", "The kernel could not be stopped: "+body.Message)
	}
	return c.Redirect(http.StatusSeeOther, s.base+"home#"+url.PathEscape(c.workspace))
}

func (s *Server) postHomeStopTerminal(c *call) error {
	name, err := c.terminalName()
	if err != nil {
		return err
	}
	err = s.o.Kernels.DeleteTerminal(c.Request().Context(), c.workspace, name)
	if err != nil && !errors.Is(err, kernels.ErrTerminalNotFound) {
		status, _, body := answer(c, terminalError(err))
		return s.home(c, status, "", "The terminal could not be ended: "+body.Message)
	}
	return c.Redirect(http.StatusSeeOther, s.base+"home#"+url.PathEscape(c.workspace))
}
