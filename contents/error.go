package contents

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Error is what a handler could not do, as its caller answers it: kernelgw turns
// it into the body that Jupyter clients show.
type Error struct {
	Status     int
	Message    string // for the user
	Reason     string // "bad type", "bad format": what clients test for; "" when none
	RetryAfter int    // seconds; 0: no such header
	Cause      error  // for the log; may be nil
}

// Error implements error.
func (e *Error) Error() string {
	if e.Cause != nil {
		return e.Message + ": " + e.Cause.Error()
	}
	return e.Message
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Cause }

func fail(status int, format string, args ...any) error {
	return &Error{Status: status, Message: fmt.Sprintf(format, args...)}
}

// failed turns what a store says into an answer about a path.
func failed(err error, path string) error {
	if err == nil {
		return nil
	}
	answered := &Error{Message: sentence(err.Error()), Cause: err}
	var already *Error
	var changed *ChangedError
	var quota *QuotaError
	var tooLong *http.MaxBytesError
	switch {
	case errors.As(err, &already):
		return err
	case errors.As(err, &changed):
		answered.Status, answered.Message, answered.Reason = http.StatusPreconditionFailed, sentence(changed.Error()), "changed"
	case errors.As(err, &quota):
		answered.Status, answered.Message, answered.Reason = http.StatusInsufficientStorage, sentence(quota.Error()), "quota"
	case errors.As(err, &tooLong):
		answered.Status, answered.Message = http.StatusRequestEntityTooLarge, fmt.Sprintf("The request is larger than %d bytes; upload large files in chunks", tooLong.Limit)
	case errors.Is(err, ErrNotFound):
		answered.Status, answered.Message = http.StatusNotFound, fmt.Sprintf("No such file or directory: %s", path)
	case errors.Is(err, ErrNoParent):
		answered.Status, answered.Message = http.StatusNotFound, fmt.Sprintf("The directory of %s does not exist", path)
	case errors.Is(err, ErrExists):
		answered.Status, answered.Message = http.StatusConflict, fmt.Sprintf("File already exists: %s", path)
	case errors.Is(err, ErrIsDirectory):
		answered.Status, answered.Message, answered.Reason = http.StatusBadRequest, fmt.Sprintf("%s is a directory, not a file", path), "bad type"
	case errors.Is(err, ErrNotDirectory):
		answered.Status, answered.Message, answered.Reason = http.StatusBadRequest, fmt.Sprintf("%s is not a directory", path), "bad type"
	case errors.Is(err, ErrInvalid):
		answered.Status = http.StatusBadRequest
	case errors.Is(err, ErrTooLarge):
		answered.Status, answered.Message = http.StatusBadRequest, fmt.Sprintf("%s is too large to be copied or moved at once: do it with what is in it, one after another", path)
	case errors.Is(err, ErrBusy):
		answered.Status, answered.RetryAfter = http.StatusConflict, 1
		answered.Message = fmt.Sprintf("A rename of %s, or of a directory that it is in, is under way; try again in a moment", path)
	case errors.Is(err, ErrFull):
		answered.Status, answered.Reason = http.StatusInsufficientStorage, "full"
		answered.Message = "The disk of the file storage is full; what was saved before is safe. Emptying the trash and removing old versions makes room, if there are any; otherwise whoever runs the server has to"
	case errors.Is(err, ErrUnavailable):
		answered.Status, answered.RetryAfter = http.StatusServiceUnavailable, 2
		answered.Message = "The file storage does not answer; nothing is lost, try again"
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		answered.Status, answered.RetryAfter = http.StatusServiceUnavailable, 2
		answered.Message = "That took too long; try again"
	default:
		answered.Status, answered.Message = http.StatusInternalServerError, "The file storage failed; the gateway's log says why"
	}
	return answered
}

// sentence returns s with a capital, as Jupyter's messages have.
func sentence(s string) string {
	first, size := utf8.DecodeRuneInString(s)
	if size == 0 || strings.HasPrefix(s, "\"") {
		return s
	}
	return string(unicode.ToUpper(first)) + s[size:]
}
