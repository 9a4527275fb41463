package contents

import (
	"encoding/base64"
	"errors"
	"io"
	"net/http"
)

// decoded returns the bytes of a file that an envelope's content is: text, or the
// base64 of anything. The caller closes the spool, which may be the envelope's own.
func (h *Handlers) decoded(owner string, e *envelope) (*spool, error) {
	if e.Format != "text" && e.Format != "base64" {
		return nil, fail(http.StatusBadRequest, "Must specify format of file contents as 'text' or 'base64'")
	}
	if e.kind == 0 {
		return h.spool(owner, 0), nil
	}
	if e.kind != '"' {
		return nil, fail(http.StatusBadRequest, "The content of a file is a string")
	}
	if e.Format == "text" {
		var text textCheck
		if _, err := io.Copy(&text, e.content.reader()); err != nil {
			return nil, spoolFailed(err)
		}
		if !text.valid() {
			return nil, fail(http.StatusBadRequest, "The content is not UTF-8")
		}
		if e.content.size > h.o.MaxFileBytes {
			return nil, spoolFailed(&tooLargeError{h.o.MaxFileBytes})
		}
		return e.content, nil
	}
	binary := h.spool(owner, h.o.MaxFileBytes)
	_, err := io.Copy(binary, base64.NewDecoder(base64.StdEncoding, e.content.reader()))
	if err != nil {
		binary.Close()
		var corrupt base64.CorruptInputError
		if errors.As(err, &corrupt) || errors.Is(err, io.ErrUnexpectedEOF) {
			return nil, &Error{Status: http.StatusBadRequest, Message: "The content is not base64", Cause: err}
		}
		return nil, spoolFailed(err)
	}
	return binary, nil
}

// spoolFailed is the answer when a body could not be kept on the way.
func spoolFailed(err error) error {
	var full *tooLargeError
	if errors.As(err, &full) {
		return &Error{Status: http.StatusRequestEntityTooLarge, Message: sentence(full.Error())}
	}
	var much *shareError
	if errors.As(err, &much) {
		return &Error{Status: http.StatusTooManyRequests, RetryAfter: 10, Message: sentence(much.Error()) + ": wait until one is done"}
	}
	if errors.Is(err, io.ErrUnexpectedEOF) {
		return &Error{Status: http.StatusBadRequest, Message: "The request broke off", Cause: err}
	}
	return &Error{
		Status: http.StatusServiceUnavailable, RetryAfter: 10,
		Message: "The server has no room for the file on its way to the storage; try again later", Cause: err,
	}
}
