package kernelgw

import (
	"cmp"
	"errors"
	"net/http"
	"net/url"
	"strings"

	"github.com/google/uuid"

	"kernelgw/jupyter/rest"
	"kernelgw/kernelgw/kernels"
)

// sessionBody is what clients send to create or change a session.
type sessionBody struct {
	Path   *string `json:"path"`
	Name   *string `json:"name"`
	Type   *string `json:"type"`
	Kernel *struct {
		ID   string `json:"id"`
		Name string `json:"name"`
	} `json:"kernel"`
	// Notebook is how clients of notebook 4 named the document.
	Notebook *struct {
		Path *string `json:"path"`
		Name *string `json:"name"`
	} `json:"notebook"`
}

func sessionRequest(raw []byte) (sessionBody, error) {
	var body sessionBody
	if len(raw) == 0 {
		return body, badRequest("No JSON data provided")
	}
	if err := decode(raw, &body); err != nil {
		return body, err
	}
	if n := body.Notebook; n != nil && n.Path != nil {
		notebook := "notebook"
		body.Path, body.Type = n.Path, &notebook
		if n.Name != nil {
			body.Name = n.Name
		}
	}
	for field, value := range map[string]*string{"path": body.Path, "name": body.Name, "type": body.Type} {
		if value != nil && len(*value) > maxPath {
			return body, badRequest("%s has %d bytes; the limit is %d", field, len(*value), maxPath)
		}
	}
	if k := body.Kernel; k != nil && k.ID != "" {
		if !validID.MatchString(k.ID) {
			return body, badRequest("kernel.id must be a UUID")
		}
		k.ID = strings.ToLower(k.ID)
	}
	return body, nil
}

func (s *Server) listSessions(c *call) error {
	list, err := s.o.Kernels.Sessions(c.Request().Context(), c.workspace)
	if err != nil {
		return err
	}
	models := make([]rest.Session, 0, len(list))
	for _, one := range list {
		models = append(models, sessionModel(one))
	}
	return c.JSON(http.StatusOK, models)
}

func (s *Server) createSession(c *call) error {
	body, err := sessionRequest(c.body)
	if err != nil {
		return err
	}
	if body.Path == nil {
		return badRequest("Missing field in JSON data: path")
	}
	if body.Type == nil {
		return badRequest("Missing field in JSON data: type")
	}
	// The path is kept byte for byte: JupyterLab ends a session whose path is
	// not exactly what it sent.
	r := kernels.SessionRequest{Workspace: c.workspace, Owner: c.owner(), Own: c.own(), Path: *body.Path, Type: *body.Type}
	if body.Name != nil {
		r.Name = *body.Name
	}
	if body.Kernel != nil {
		r.KernelID, r.KernelName = body.Kernel.ID, body.Kernel.Name
	}
	// As in startKernel.
	r.KernelID = cmp.Or(r.KernelID, uuid.NewString())
	session, err := s.o.Kernels.CreateSession(c.Request().Context(), r)
	if err != nil {
		return &kernelError{r.KernelID, err}
	}
	c.Response().Header().Set("Location", c.base+"api/sessions/"+url.PathEscape(session.ID))
	return c.JSON(http.StatusCreated, sessionModel(session))
}

func (s *Server) getSession(c *call) error {
	id, err := c.sessionID()
	if err != nil {
		return err
	}
	session, err := s.o.Kernels.Session(c.Request().Context(), c.workspace, id)
	if err != nil {
		return err
	}
	return c.JSON(http.StatusOK, sessionModel(session))
}

func (s *Server) patchSession(c *call) error {
	id, err := c.sessionID()
	if err != nil {
		return err
	}
	body, err := sessionRequest(c.body)
	if err != nil {
		return err
	}
	u := kernels.SessionUpdate{Owner: c.owner(), Own: c.own(), Path: body.Path, Name: body.Name, Type: body.Type}
	if body.Kernel != nil {
		u.KernelID, u.KernelName = body.Kernel.ID, body.Kernel.Name
	}
	session, err := s.o.Kernels.UpdateSession(c.Request().Context(), c.workspace, id, u)
	if err != nil {
		return err
	}
	return c.JSON(http.StatusOK, sessionModel(session))
}

func (s *Server) deleteSession(c *call) error {
	id, err := c.sessionID()
	if err != nil {
		return err
	}
	if err := s.o.Kernels.DeleteSession(c.Request().Context(), c.workspace, id); err != nil {
		return err
	}
	return c.NoContent(http.StatusNoContent)
}

// sessionID returns the id in the path, in lower case as ids are kept. What
// cannot be one does not exist.
func (c *call) sessionID() (string, error) {
	id := c.pathParam("id")
	if !validID.MatchString(id) {
		return "", notFound("Session not found: session_id=" + clip(id))
	}
	return strings.ToLower(id), nil
}

// runtimeID returns the id of the kernel that the id in the path means under
// v1/sessions: that of a session's kernel, or when there is no such session, of
// a kernel. That there is none is for the caller to find out.
func (s *Server) runtimeID(c *call) (string, error) {
	id, err := c.sessionID()
	if err != nil {
		return "", err
	}
	session, err := s.o.Kernels.Session(c.Request().Context(), c.workspace, id)
	switch {
	case errors.Is(err, kernels.ErrSessionNotFound):
		return id, nil
	case err != nil:
		return "", err
	}
	return session.Kernel.ID, nil
}

func sessionModel(x kernels.Session) rest.Session {
	m := rest.Session{ID: x.ID, Path: x.Path, Name: x.Name, Type: x.Type, Kernel: kernelModel(x.Kernel)}
	if x.Type == "notebook" {
		m.Notebook = &rest.NotebookName{Path: x.Path, Name: x.Name}
	}
	return m
}
