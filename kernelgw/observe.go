package kernelgw

import (
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"time"

	"github.com/labstack/echo/v4"
)

// observe is around every request, also those that match no route: it sets the
// headers that are always there, answers errors and panics, and logs and counts
// the request. Of what the client wrote it logs nothing: neither path nor query
// nor headers, only the pattern of the route.
func (s *Server) observe(next echo.HandlerFunc) echo.HandlerFunc {
	return func(c echo.Context) error {
		begin := time.Now()
		s.safeHeaders(c.Response().Header())
		if s.secure(c.Request()) {
			c.Response().Header().Set("Strict-Transport-Security", "max-age=31536000")
		}
		if c.Request().ContentLength != 0 {
			// readBody lifts it.
			_ = http.NewResponseController(c.Response()).SetReadDeadline(begin.Add(bodyTimeout))
		}
		err := s.recovered(c, next)
		if c.Request().ContentLength != 0 && c.Response().Status != http.StatusSwitchingProtocols {
			// If nobody has read the body, net/http now does, before or after
			// it writes the answer.
			hurry(http.NewResponseController(c.Response()))
		}
		if err != nil {
			s.fail(c, err)
		}
		status := c.Response().Status
		s.o.Metrics.Requests.WithLabelValues(routeLabel(c), strconv.Itoa(status/100)+"xx").Inc()
		s.o.Log.LogAttrs(c.Request().Context(), accessLevel(c.Path(), status), "request",
			slog.String("method", methodLabel(c.Request().Method)), slog.String("route", routeLabel(c)),
			slog.Int("status", status), slog.Duration("duration", time.Since(begin)))
		return nil
	}
}

// errPanic is the error of a handler that panicked; what there is to say was
// logged.
var errPanic = errors.New("panic in a handler")

func (s *Server) recovered(c echo.Context, next echo.HandlerFunc) (err error) {
	defer func() {
		cause := recover()
		if cause == nil {
			return
		}
		if e, ok := cause.(error); ok && errors.Is(e, http.ErrAbortHandler) {
			panic(cause)
		}
		// The text of a panic may quote the request. That of the runtime's own
		// errors does not.
		what := fmt.Sprintf("%T", cause)
		if e, ok := cause.(runtime.Error); ok {
			what = e.Error()
		}
		s.o.Log.Error("panic in a handler", "method", methodLabel(c.Request().Method), "route", routeLabel(c),
			"panic", what, "stack", string(debug.Stack()))
		err = errPanic
	}()
	return next(c)
}

func accessLevel(route string, status int) slog.Level {
	switch {
	case status >= 500 && status != http.StatusServiceUnavailable && status != http.StatusNotImplemented:
		return slog.LevelWarn
	case strings.HasSuffix(route, "/healthz"), strings.HasSuffix(route, "/readyz"), strings.HasSuffix(route, "/metrics"):
		return slog.LevelDebug
	}
	return slog.LevelInfo
}

// routeLabel is the pattern of the matched route: one of a fixed set.
func routeLabel(c echo.Context) string {
	if pattern, ok := c.Get(matched).(string); ok {
		return pattern
	}
	return "none"
}

// matched is the context's mark of the pattern of the route that was found: echo
// names a path also where it found none.
const matched = "kernelgw.matched"

func methodLabel(m string) string {
	switch m {
	case http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete, http.MethodOptions:
		return m
	}
	return "other"
}

// trimSlash makes the router see every path without a slash at its end.
func trimSlash(next echo.HandlerFunc) echo.HandlerFunc {
	return func(c echo.Context) error {
		u := c.Request().URL
		u.Path, u.RawPath = trimmed(u.Path), trimmed(u.RawPath)
		return next(c)
	}
}

func trimmed(path string) string {
	if len(path) > 1 {
		return strings.TrimSuffix(path, "/")
	}
	return path
}
