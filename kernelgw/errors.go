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
	"kernelgw/contents"
	frontend "kernelgw/frontend-config"
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

// kernelError is an error with the kernel that it is about.
type kernelError struct {
	kernel string
	cause  error
}

func (e *kernelError) Error() string { return e.cause.Error() }

func (e *kernelError) Unwrap() error { return e.cause }

// owner is the mark, in a request's context, of a caller that may read what
// drivers and agents say: it names paths of the host.
const owner = "kernelgw.owner"

// shown is the mark of a request whose answer a browser shows to a person; its
// value is the call.
const shown = "kernelgw.shown"

// logged says where the whole of an error is.
func logged(err error) string {
	var about *kernelError
	if errors.As(err, &about) {
		return "the gateway's log says why (kernel " + about.kernel + ")"
	}
	return "the gateway's log says why"
}

// answer turns an error into what the client gets. Status codes have meaning:
// JupyterLab takes 503 for "try again" and most others for "the kernel died".
func answer(c echo.Context, err error) (status, retryAfter int, body rest.Error) {
	body.Message = sentence(strings.TrimPrefix(err.Error(), kernels.ErrInvalid.Error()+": "))
	var chosen *httpError
	var router *echo.HTTPError
	var file *contents.Error
	var page *frontend.Error
	switch {
	case errors.As(err, &chosen):
		body.Message = chosen.message
		return chosen.status, chosen.retryAfter, body
	case errors.As(err, &file):
		body.Message = file.Message
		if file.Reason != "" {
			body.Reason = &file.Reason
		}
		return file.Status, file.RetryAfter, body
	case errors.As(err, &page):
		body.Message = page.Message
		return page.Status, page.RetryAfter, body
	case errors.As(err, &router):
		body.Message = http.StatusText(router.Code)
		return router.Code, 0, body
	case ranOut(err) && c.Request().Context().Err() != nil:
		body.Message = "That took too long; try again"
		return http.StatusServiceUnavailable, 2, body
	case errors.Is(err, auth.ErrDenied):
		body.Message = "Forbidden"
		return http.StatusForbidden, 0, body
	case errors.Is(err, kernels.ErrStart):
		if c.Get(owner) == nil {
			body.Message = "The kernel could not be started: its sandbox could not be created. " + sentence(logged(err))
		}
		body.ShortMessage = body.Message
		return http.StatusNotImplemented, 0, body
	case errors.Is(err, kernels.ErrUnknownSpec):
		body.ShortMessage = body.Message
		return http.StatusNotImplemented, 0, body
	case errors.Is(err, kernels.ErrNotFound), errors.Is(err, kernels.ErrSessionNotFound), errors.Is(err, kernels.ErrExecutionNotFound), errors.Is(err, auth.ErrNotFound):
		return http.StatusNotFound, 0, body
	case errors.Is(err, kernels.ErrDead):
		return http.StatusGone, 0, body
	case errors.Is(err, kernels.ErrExists), errors.Is(err, kernels.ErrNoInput), errors.Is(err, auth.ErrTooMany), errors.Is(err, auth.ErrTaken):
		return http.StatusConflict, 0, body
	case errors.Is(err, kernels.ErrInvalid), errors.Is(err, auth.ErrName):
		return http.StatusBadRequest, 0, body
	case errors.Is(err, kernels.ErrLimit):
		return http.StatusTooManyRequests, 0, body
	case errors.Is(err, kernels.ErrNotReady):
		return http.StatusServiceUnavailable, 2, body
	case errors.Is(err, kernels.ErrAgent):
		if c.Get(owner) == nil {
			body.Message = sentence(kernels.ErrAgent.Error()) + "; " + logged(err)
		}
		return http.StatusServiceUnavailable, 2, body
	case ranOut(err): // of a deadline below, which is not the request's
		body.Message = "That took too long; try again"
		return http.StatusServiceUnavailable, 2, body
	}
	none := ""
	return http.StatusInternalServerError, 0, rest.Error{Message: "Unhandled error", Traceback: &none}
}

func ranOut(err error) bool {
	return errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded)
}

// fail answers a request with an error. The error stops travelling here, so it
// is logged here if it is the server's fault.
func (s *Server) fail(c echo.Context, err error) {
	status, retryAfter, body := answer(c, err)
	broken := errors.Is(err, kernels.ErrStart) || errors.Is(err, kernels.ErrAgent) || storageFailed(err)
	if (status == http.StatusInternalServerError || broken) && !errors.Is(err, errPanic) {
		log := s.o.Log.With("method", methodLabel(c.Request().Method), "route", routeLabel(c))
		var about *kernelError
		if errors.As(err, &about) {
			log = log.With("kernel", about.kernel)
		}
		log.Error("request failed", "error", err)
	}
	if c.Response().Committed {
		return
	}
	if retryAfter > 0 {
		c.Response().Header().Set("Retry-After", strconv.Itoa(retryAfter))
	}
	deliver := func() error { return c.JSON(status, body) }
	if call, ok := c.Get(shown).(*call); ok {
		deliver = func() error {
			return s.page(call, status, "error.html", map[string]any{"Title": http.StatusText(status), "Message": body.Message, "Base": s.base})
		}
	}
	if err := deliver(); err != nil {
		s.o.Log.Debug("an error could not be delivered", "error", err)
	}
}

// storageFailed reports whether files or settings could not be reached, and
// there is a cause for the log.
func storageFailed(err error) bool {
	var file *contents.Error
	var page *frontend.Error
	switch {
	case errors.As(err, &file):
		return file.Status >= 500 && file.Cause != nil && !ranOut(file.Cause)
	case errors.As(err, &page):
		return page.Status >= 500 && page.Cause != nil && !ranOut(page.Cause)
	}
	return false
}

// sentence returns s with a capital, as Jupyter's messages have.
func sentence(s string) string {
	if s == "" {
		return s
	}
	return strings.ToUpper(s[:1]) + s[1:]
}
