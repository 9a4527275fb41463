package kernelgw

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"

	"github.com/labstack/echo/v4"

	"kernelgw/auth"
	"kernelgw/jupyter/rest"
	"kernelgw/kernelgw/kernels"
)

// httpError is an answer that a handler chose itself.
type httpError struct {
	status     int
	message    string // for the user
	retryAfter int    // seconds; zero: no such header
	cause      error  // for the log
}

func (e *httpError) Error() string {
	if e.cause != nil {
		return e.message + ": " + e.cause.Error()
	}
	return e.message
}

func (e *httpError) Unwrap() error { return e.cause }

func badRequest(format string, args ...any) error {
	return &httpError{status: http.StatusBadRequest, message: fmt.Sprintf(format, args...)}
}

func notFound(message string) error { return &httpError{status: http.StatusNotFound, message: message} }

func forbidden(message string) error {
	return &httpError{status: http.StatusForbidden, message: message}
}

// answer turns an error into what the client gets. Status codes have meaning:
// JupyterLab takes 503 for "try again" and most others for "the kernel died".
func answer(err error) (status, retryAfter int, body rest.Error) {
	body.Message = sentence(strings.TrimPrefix(err.Error(), kernels.ErrInvalid.Error()+": "))
	var chosen *httpError
	var router *echo.HTTPError
	switch {
	case errors.As(err, &chosen):
		body.Message = chosen.message
		return chosen.status, chosen.retryAfter, body
	case errors.As(err, &router):
		body.Message = http.StatusText(router.Code)
		return router.Code, 0, body
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		body.Message = "That took too long; try again"
		return http.StatusServiceUnavailable, 2, body
	case errors.Is(err, kernels.ErrUnknownSpec), errors.Is(err, kernels.ErrStart):
		body.ShortMessage = body.Message
		return http.StatusNotImplemented, 0, body
	case errors.Is(err, kernels.ErrNotFound), errors.Is(err, kernels.ErrSessionNotFound), errors.Is(err, auth.ErrNotFound):
		return http.StatusNotFound, 0, body
	case errors.Is(err, kernels.ErrDead):
		return http.StatusGone, 0, body
	case errors.Is(err, kernels.ErrExists), errors.Is(err, auth.ErrTooMany):
		return http.StatusConflict, 0, body
	case errors.Is(err, kernels.ErrInvalid):
		return http.StatusBadRequest, 0, body
	case errors.Is(err, kernels.ErrNotReady), errors.Is(err, kernels.ErrAgent):
		return http.StatusServiceUnavailable, 2, body
	}
	none := ""
	return http.StatusInternalServerError, 0, rest.Error{Message: "Unhandled error", Traceback: &none}
}

// fail answers a request with an error. The error stops travelling here, so it
// is logged here if it is the server's fault.
func (s *Server) fail(c echo.Context, err error) {
	status, retryAfter, body := answer(err)
	if status == http.StatusInternalServerError && !errors.Is(err, errPanic) {
		s.o.Log.Error("request failed", "method", methodLabel(c.Request().Method), "route", routeLabel(c), "error", err)
	}
	if c.Response().Committed {
		return
	}
	if retryAfter > 0 {
		c.Response().Header().Set("Retry-After", strconv.Itoa(retryAfter))
	}
	if err := c.JSON(status, body); err != nil {
		s.o.Log.Debug("an error could not be delivered", "error", err)
	}
}

// sentence returns s with a capital, as Jupyter's messages have.
func sentence(s string) string {
	if s == "" {
		return s
	}
	return strings.ToUpper(s[:1]) + s[1:]
}
