package kernelgw

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"kernelgw/auth"
	"kernelgw/jupyter"
	"kernelgw/kernelgw/kernels"
)

// homeRoutes are the page of a person with several workspaces, and the same for
// programs.
func homeRoutes() []Route {
	return []Route{
		row(http.MethodGet, "home", auth.Page, baseOnly, "Workspaces of the caller, and what runs in them", (*Server).homePage),
		row(http.MethodPost, "home/workspaces", auth.Page, baseOnly, "Make a workspace; form: name", (*Server).postHomeWorkspace).byForm(),
		row(http.MethodPost, "home/:workspace/kernels/:id/stop", auth.Page, baseOnly, "Stop a kernel", (*Server).postHomeStop).byForm(),
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

// homeWorkspace is a workspace as the home page shows it.
type homeWorkspace struct {
	workspaceModel
	Kernels []homeKernel
	Problem string // why Kernels are not known
}

// homeKernel is a kernel as the home page shows it. Everything is text for a
// person.
type homeKernel struct {
	ID, Spec, Document, State, Reason, Since, Memory, CPU string
	Stop                                                  string // where the form goes
}

func (s *Server) homePage(c *call) error { return s.home(c, http.StatusOK, "", "") }

// home shows the page, with what went wrong if something did.
func (s *Server) home(c *call, status int, name, problem string) error {
	ctx, cancel := context.WithTimeout(c.Request().Context(), homePatience)
	defer cancel()
	list := make([]homeWorkspace, len(c.who.Workspaces))
	var asking sync.WaitGroup
	for i, w := range c.who.Workspaces {
		asking.Go(func() { list[i] = s.homeWorkspace(ctx, w) })
	}
	asking.Wait()
	return s.page(c, status, "home.html", map[string]any{
		"User": c.who.DisplayName, "Base": s.base, "Workspaces": list, "XSRF": s.ensureXSRF(c), "Name": name, "Problem": problem,
		"Lab": s.o.Frontend != nil,
	})
}

// homePatience bounds how long the page waits for agents.
const homePatience = 3 * time.Second

func (s *Server) homeWorkspace(ctx context.Context, workspace string) homeWorkspace {
	w := homeWorkspace{workspaceModel: s.workspaceModel(workspace)}
	running, err := s.o.Kernels.List(ctx, workspace)
	if err != nil {
		w.Problem = "What runs here is not known now; reload the page."
		return w
	}
	documents := map[string]string{}
	sessions, err := s.o.Kernels.Sessions(ctx, workspace)
	if err == nil { // names are not worth an error
		for _, one := range sessions {
			documents[one.Kernel.ID] = cmp.Or(documents[one.Kernel.ID], clip(cmp.Or(one.Name, one.Path)))
		}
	}
	slices.SortFunc(running, func(a, b kernels.Kernel) int { return b.LastActivity.Compare(a.LastActivity) })
	w.Kernels = make([]homeKernel, len(running))
	var asking sync.WaitGroup
	for i, k := range running {
		asking.Go(func() { w.Kernels[i] = s.homeKernel(ctx, k, documents[k.ID]) })
	}
	asking.Wait()
	return w
}

func (s *Server) homeKernel(ctx context.Context, k kernels.Kernel, document string) homeKernel {
	shown := homeKernel{
		ID: k.ID, Spec: k.Name, Document: document, State: string(k.ExecutionState), Reason: k.Reason,
		Since: ago(time.Since(k.LastActivity)), Memory: "not known", CPU: "not known",
		Stop: s.base + "home/" + url.PathEscape(k.Workspace) + "/kernels/" + url.PathEscape(k.ID) + "/stop",
	}
	if k.ExecutionState == jupyter.Busy {
		shown.Since = "works now"
	}
	if used, err := s.o.Kernels.Usage(ctx, k.Workspace, k.ID); err == nil {
		shown.Memory = fmt.Sprintf("%.0f MiB", float64(used.MemoryBytes)/(1<<20))
		shown.CPU = fmt.Sprintf("%.1f s", used.CPUSeconds)
	}
	return shown
}

// ago says how long something has been so.
func ago(d time.Duration) string {
	switch {
	case d < time.Minute:
		return "less than a minute"
	case d < time.Hour:
		return fmt.Sprintf("%d min", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%d h %d min", int(d.Hours()), int(d.Minutes())%60)
	}
	return fmt.Sprintf("%d days", int(d.Hours())/24)
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
