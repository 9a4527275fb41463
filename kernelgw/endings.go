package kernelgw

import (
	"cmp"
	"net/url"
	"slices"
	"strings"

	"github.com/labstack/echo/v4"
)

// ending is a route whose path goes on after a "*": the router knows none such,
// but Jupyter's paths of files do (api/contents/PATH/checkpoints).
type ending struct {
	segments []string // ":id" stands for any but nothing
	handle   echo.HandlerFunc
}

// cutEnding splits a path behind its "*".
func cutEnding(path string) (head string, segments []string) {
	head, tail, found := strings.Cut(path, "*/")
	if !found {
		return path, nil
	}
	return head + "*", strings.Split(tail, "/")
}

// ended is the context's mark of what a "*" and the parameters behind it
// matched, as written in the URL.
const ended = "kernelgw.ended"

// choose returns a handler that calls the most specific of routes that are the
// same up to their "*".
func choose(routes []ending) echo.HandlerFunc {
	slices.SortStableFunc(routes, func(a, b ending) int { return cmp.Compare(len(b.segments), len(a.segments)) })
	if len(routes[0].segments) == 0 {
		return routes[0].handle
	}
	return func(c echo.Context) error {
		given := strings.Split(c.Param("*"), "/")
		for _, r := range routes {
			if params, ok := r.match(given); ok {
				c.Set(ended, params)
				return r.handle(c)
			}
		}
		return echo.ErrNotFound
	}
}

// match reports whether a path ends so. An encoded slash is no slash.
func (e ending) match(given []string) (params map[string]string, ok bool) {
	rest := len(given) - len(e.segments)
	if rest < 0 || (rest == 0 && len(e.segments) > 0) {
		return nil, false // the root has no versions: a file may be called so
	}
	params = map[string]string{"*": strings.Join(given[:rest], "/")}
	for i, want := range e.segments {
		switch name, isParam := strings.CutPrefix(want, ":"); {
		case isParam && given[rest+i] != "":
			params[name] = given[rest+i]
		case isParam || want != given[rest+i]:
			return nil, false
		}
	}
	return params, true
}

// pathParam returns a path parameter, decoded once.
func (c *call) pathParam(name string) string {
	value := c.Param(name)
	if params, ok := c.Get(ended).(map[string]string); ok {
		if v, ok := params[name]; ok {
			value = v
		}
	}
	if c.Request().URL.RawPath == "" {
		return value // the router saw the decoded path
	}
	decoded, err := url.PathUnescape(value)
	if err != nil {
		return ""
	}
	return decoded
}
