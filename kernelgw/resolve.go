package kernelgw

import (
	"errors"
	"io/fs"
	"net/http"
	"path"
	"strings"
)

// resolved is where a path of a kernel's output is.
type resolved struct {
	Scope string `json:"scope"`
	Path  string `json:"path"`
}

type unresolved struct {
	Scope  string `json:"scope"`
	Reason string `json:"reason"`
}

// resolvePath finds the file that a kernel's output names, for JupyterLab to
// link it: relative to the directory of the kernel's document, or to its home,
// which is the workspace. An absolute path is one of a sandbox, and found by
// nobody but its kernel.
func (s *Server) resolvePath(c *call) error {
	asked := c.QueryParam("path")
	if asked == "" || len(asked) > maxPath {
		return badRequest("path is missing, or longer than %d bytes", maxPath)
	}
	answer := struct {
		Resolved   []resolved   `json:"resolved"`
		Unresolved []unresolved `json:"unresolved,omitempty"`
	}{Resolved: []resolved{}}
	ctx, directories := c.Request().Context(), []string{""}
	if kernel := c.QueryParam("kernel"); kernel != "" {
		if _, err := s.o.Kernels.Get(ctx, c.workspace, strings.ToLower(kernel)); err != nil {
			answer.Unresolved = append(answer.Unresolved, unresolved{"kernel", "Kernel " + clip(kernel) + " could not be found"})
		}
		sessions, err := s.o.Kernels.Sessions(ctx, c.workspace)
		if err != nil {
			return err
		}
		for _, one := range sessions {
			if strings.EqualFold(one.Kernel.ID, kernel) && path.Dir(one.Path) != "." {
				directories = []string{path.Dir(one.Path), ""}
			}
		}
	}
	below, home := strings.CutPrefix(asked, "~/")
	if home {
		directories = []string{""}
	}
	for _, directory := range directories {
		if s.o.IsDirectory == nil || path.IsAbs(asked) || len(answer.Resolved) > 0 {
			break
		}
		candidate := path.Join(directory, below)
		switch _, err := s.o.IsDirectory(ctx, c.workspace, candidate); {
		case err == nil:
			answer.Resolved = append(answer.Resolved, resolved{"server", candidate})
		case !errors.Is(err, fs.ErrNotExist):
			return err
		}
	}
	return c.JSON(http.StatusOK, answer)
}
