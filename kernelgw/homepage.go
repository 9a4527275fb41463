package kernelgw

import (
	"cmp"
	"context"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"sync"
	"time"

	"kernelgw/jupyter"
	"kernelgw/kernelgw/kernels"
)

// What the home page knows within its patience: an agent that is dead, a store
// that counts for long and a hundred kernels must not keep a person waiting.
const (
	homePatience  = 1500 * time.Millisecond // of the page, for all together
	usagePatience = 400 * time.Millisecond  // of one question to an agent
	maxQuestions  = 32                      // to agents at once, of all pages
)

// homeWorkspace is a workspace as the home page shows it. Everything is text for
// a person.
type homeWorkspace struct {
	workspaceModel
	Kernels   []homeKernel
	Terminals []homeTerminal
	Holds     string // bytes of its files
	Problem   string // why what runs is not known
}

// homeKernel is a kernel as the home page shows it.
type homeKernel struct {
	ID, Spec, Document, State, Reason, Since, Memory, CPU string
	Stop                                                  string // where the form goes
}

// homeTerminal is a terminal as the home page shows it.
type homeTerminal struct{ Name, Since, Stop string }

func (s *Server) homePage(c *call) error { return s.home(c, http.StatusOK, "", "") }

// home shows the page, with what went wrong if something did.
func (s *Server) home(c *call, status int, name, problem string) error {
	ctx, cancel := context.WithTimeout(c.Request().Context(), homePatience)
	defer cancel()
	list := make([]homeWorkspace, len(c.who.Workspaces))
	var asking sync.WaitGroup
	for i, w := range c.who.Workspaces {
		list[i].workspaceModel = s.workspaceModel(w)
		asking.Go(func() { s.homeKernels(ctx, &list[i]) })
		asking.Go(func() { list[i].Terminals = s.homeTerminals(ctx, w) })
		asking.Go(func() { list[i].Holds = s.homeHolds(ctx, w) })
	}
	asking.Wait()
	return s.page(c, status, "home.html", map[string]any{
		"User": c.who.DisplayName, "Base": s.base, "Workspaces": list, "XSRF": s.ensureXSRF(c), "Name": name, "Problem": problem,
		"Lab": s.o.Frontend != nil,
	})
}

// homeKernels fills in what runs.
func (s *Server) homeKernels(ctx context.Context, w *homeWorkspace) {
	running, err := s.o.Kernels.List(ctx, w.Name)
	if err != nil {
		w.Problem = "What runs here is not known now; reload the page."
		return
	}
	documents := map[string]string{}
	sessions, err := s.o.Kernels.Sessions(ctx, w.Name)
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
	if k.ExecutionState == jupyter.Dead {
		shown.Memory, shown.CPU = "none", "none"
		return shown
	}
	select {
	case s.questions <- struct{}{}:
		defer func() { <-s.questions }()
	case <-ctx.Done():
		return shown
	}
	ctx, cancel := context.WithTimeout(ctx, usagePatience)
	defer cancel()
	if used, err := s.o.Kernels.Usage(ctx, k.Workspace, k.ID); err == nil {
		shown.Memory = fmt.Sprintf("%.0f MiB", float64(used.MemoryBytes)/(1<<20))
		shown.CPU = fmt.Sprintf("%.1f s", used.CPUSeconds)
	}
	return shown
}

func (s *Server) homeTerminals(ctx context.Context, workspace string) []homeTerminal {
	running, err := s.o.Kernels.Terminals(ctx, workspace)
	if err != nil {
		return nil // the kernels tell of the trouble
	}
	list := make([]homeTerminal, 0, len(running))
	for _, t := range running {
		list = append(list, homeTerminal{
			Name: t.Name, Since: ago(time.Since(t.LastActivity)),
			Stop: s.base + "home/" + url.PathEscape(workspace) + "/terminals/" + url.PathEscape(t.Name) + "/stop",
		})
	}
	return list
}

// homeHolds says how much the workspace's files are.
func (s *Server) homeHolds(ctx context.Context, workspace string) string {
	if s.holdings == nil {
		return ""
	}
	h, known := s.holdings.of(ctx, workspace)
	switch {
	case !known:
		return "not counted yet; reload the page"
	case h.limit > 0:
		return bytesText(h.used) + " of " + bytesText(h.limit)
	}
	return bytesText(h.used)
}

// bytesText writes a size for a person.
func bytesText(n int64) string {
	const unit = 1 << 10
	size, units := float64(n), []string{"bytes", "KiB", "MiB", "GiB", "TiB"}
	for size >= unit && len(units) > 1 {
		size, units = size/unit, units[1:]
	}
	if units[0] == "bytes" {
		return fmt.Sprintf("%d bytes", n)
	}
	return fmt.Sprintf("%.1f %s", size, units[0])
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
