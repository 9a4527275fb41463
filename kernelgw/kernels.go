package kernelgw

import (
	"cmp"
	"net/http"
	"net/url"
	"regexp"
	"strings"

	"github.com/google/uuid"

	"kernelgw/jupyter/rest"
	"kernelgw/kernelgw/kernels"
)

// maxPath bounds document and directory paths.
const maxPath = 4096

// validID is what jupyter_server's routes take for the id of a kernel or a
// session.
var validID = regexp.MustCompile(`^\w{1,64}(-\w{1,64}){4}$`)

func (s *Server) listKernels(c *call) error {
	list, err := s.o.Kernels.List(c.Request().Context(), c.workspace)
	if err != nil {
		return err
	}
	models := make([]rest.Kernel, 0, len(list))
	for _, k := range list {
		models = append(models, kernelModel(k))
	}
	return c.JSON(http.StatusOK, models)
}

// startKernel answers before the kernel runs: clients give up after 30 s, and
// the WebSocket's upgrade is held instead.
func (s *Server) startKernel(c *call) error {
	var body struct {
		Name     string            `json:"name"`
		Path     string            `json:"path"`
		KernelID string            `json:"kernel_id"`
		Env      map[string]string `json:"env"`
	}
	if len(c.body) > 0 {
		if err := decode(c.body, &body); err != nil {
			return err
		}
	}
	if err := checkEnv(body.Env); err != nil {
		return err
	}
	if len(body.Path) > maxPath {
		return badRequest("path has %d bytes; the limit is %d", len(body.Path), maxPath)
	}
	if body.KernelID == "" {
		// enterprise_gateway's way of asking for an id.
		body.KernelID = body.Env["KERNEL_ID"]
	}
	if body.KernelID != "" && !validID.MatchString(body.KernelID) {
		return badRequest("kernel_id must be a UUID")
	}
	// Chosen here, so that a failure can be told with it.
	id := strings.ToLower(cmp.Or(body.KernelID, uuid.NewString()))
	k, err := s.o.Kernels.Start(c.Request().Context(), kernels.StartRequest{
		Workspace: c.workspace, Owner: c.owner(), Own: c.own(), KernelID: id, Name: body.Name, Cwd: body.Path, Env: body.Env,
	})
	s.o.Events.kernel("start", c.workspace, id, k.Name, err)
	if err != nil {
		return &kernelError{id, err}
	}
	c.Response().Header().Set("Location", c.base+"api/kernels/"+url.PathEscape(k.ID))
	return c.JSON(http.StatusCreated, kernelModel(k))
}

func (s *Server) getKernel(c *call) error {
	id, err := c.kernelID()
	if err != nil {
		return err
	}
	k, err := s.o.Kernels.Get(c.Request().Context(), c.workspace, id)
	if err != nil {
		return err
	}
	return c.JSON(http.StatusOK, kernelModel(k))
}

func (s *Server) deleteKernel(c *call) error {
	id, err := c.kernelID()
	if err != nil {
		return err
	}
	err = s.o.Kernels.Shutdown(c.Request().Context(), c.workspace, id)
	s.o.Events.kernel("shutdown", c.workspace, id, "", err)
	if err != nil {
		return err
	}
	return c.NoContent(http.StatusNoContent)
}

func (s *Server) interruptKernel(c *call) error {
	id, err := c.kernelID()
	if err != nil {
		return err
	}
	err = s.o.Kernels.Interrupt(c.Request().Context(), c.workspace, id)
	s.o.Events.kernel("interrupt", c.workspace, id, "", err)
	if err != nil {
		return &kernelError{id, err}
	}
	return c.NoContent(http.StatusNoContent)
}

func (s *Server) restartKernel(c *call) error {
	id, err := c.kernelID()
	if err != nil {
		return err
	}
	if err := s.o.Kernels.UsedBy(c.Request().Context(), c.workspace, id, c.reader()); err != nil {
		return &kernelError{id, err}
	}
	k, err := s.o.Kernels.Restart(c.Request().Context(), c.workspace, id)
	s.o.Events.kernel("restart", c.workspace, id, k.Name, err)
	if err != nil {
		if status, _, _ := answer(c, err); status == http.StatusInternalServerError {
			return &httpError{status: status, message: "Exception restarting kernel", cause: err}
		}
		return &kernelError{id, err}
	}
	return c.JSON(http.StatusOK, kernelModel(k))
}

// kernelID returns the id in the path, in lower case as ids are kept. What
// cannot be one does not exist.
func (c *call) kernelID() (string, error) {
	id := c.pathParam("id")
	if !validID.MatchString(id) {
		return "", notFound("Kernel does not exist: " + clip(id))
	}
	return strings.ToLower(id), nil
}

// owner names the caller in labels and logs.
func (c *call) owner() string { return c.who.Issuer + ":" + c.who.Subject }

// own reports whether it is the owner who asks, and not whoever has a capability
// that the owner made.
func (c *call) own() bool { return c.reader() == c.owner() }

func kernelModel(k kernels.Kernel) rest.Kernel {
	return rest.Kernel{
		ID: k.ID, Name: k.Name, LastActivity: rest.Time{Time: k.LastActivity}, ExecutionState: string(k.ExecutionState),
		Connections: k.Connections, Reason: k.Reason,
	}
}
