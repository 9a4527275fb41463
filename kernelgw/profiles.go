package kernelgw

import (
	"fmt"
	"net/http"
	"net/http/pprof"
	runtimepprof "runtime/pprof"
	"slices"
	"strings"

	"kernelgw/auth"
)

// profileRoutes are the gateway's own profiles, as "go tool pprof" reads them.
// They tell of everyone's work and cost time of the processor, so they are for
// who runs the server. What net/http/pprof has besides, the command line, is not
// served: a token may be in it.
func profileRoutes() []Route {
	return []Route{
		row(http.MethodGet, "debug/pprof", auth.Admin, baseOnly, "Names of the gateway's profiles", (*Server).listProfiles).sameSite(),
		row(http.MethodGet, "debug/pprof/:profile", auth.Admin, baseOnly,
			"A profile of the gateway: heap, goroutine, ...; profile (of the processor) and trace take ?seconds=", (*Server).getProfile).sameSite(),
	}
}

// timed are the profiles that are taken while the request lasts.
var timed = map[string]http.HandlerFunc{"profile": pprof.Profile, "trace": pprof.Trace}

func (s *Server) listProfiles(c *call) error {
	names := []string{}
	for name := range timed {
		names = append(names, name)
	}
	for _, p := range runtimepprof.Profiles() {
		names = append(names, p.Name())
	}
	slices.Sort(names)
	return c.String(http.StatusOK, strings.Join(names, "\n")+"\n")
}

func (s *Server) getProfile(c *call) error {
	name := c.pathParam("profile")
	serve, ok := timed[name]
	switch {
	case ok:
	case runtimepprof.Lookup(name) != nil:
		serve = pprof.Handler(name).ServeHTTP
	default:
		return notFound(fmt.Sprintf("There is no profile %q", name))
	}
	c.Response().Header().Set("Cache-Control", "no-store")
	serve(c.Response(), c.Request())
	return nil
}
