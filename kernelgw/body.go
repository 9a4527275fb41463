package kernelgw

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"time"
	"unicode/utf8"
)

// readBody reads a request's body whole: bounded in bytes and in time.
func (s *Server) readBody(c *call) ([]byte, error) {
	r := c.Request()
	if r.ContentLength == 0 {
		return nil, nil
	}
	done := s.bodies.begin(http.NewResponseController(c.Response()))
	defer done()
	body, err := io.ReadAll(http.MaxBytesReader(c.Response(), r.Body, s.o.MaxBodyBytes))
	var tooBig *http.MaxBytesError
	switch {
	case errors.As(err, &tooBig):
		return nil, &httpError{
			status:  http.StatusRequestEntityTooLarge,
			message: fmt.Sprintf("The body is larger than the limit of %d bytes", tooBig.Limit),
		}
	case err != nil:
		return nil, &httpError{status: http.StatusBadRequest, message: "The body cannot be read", cause: err}
	}
	// Set by observe for the body. From here on the handler may take its time.
	_ = http.NewResponseController(c.Response()).SetReadDeadline(time.Time{})
	return body, nil
}

// readForm reads the body as that of a page's form.
func (s *Server) readForm(c *call) (err error) {
	body, err := s.readBody(c)
	if err != nil {
		return err
	}
	if c.form, err = url.ParseQuery(string(body)); err != nil {
		return badRequest("The form cannot be read")
	}
	return nil
}

// decode reads the body as one JSON object into v. What v does not name is
// ignored. encoding/json bounds the depth.
func decode(body []byte, v any) error {
	if !utf8.Valid(body) {
		return badRequest("Invalid JSON in body of request: it is not UTF-8")
	}
	// Null would pass for an object that says nothing.
	var object map[string]json.RawMessage
	if err := json.Unmarshal(body, &object); err != nil {
		return badRequest("Invalid JSON in body of request: %s", jsonProblem(err))
	}
	if object == nil {
		return badRequest("Invalid JSON in body of request: it is not an object")
	}
	if err := json.Unmarshal(body, v); err != nil {
		return badRequest("Invalid JSON in body of request: %s", jsonProblem(err))
	}
	return nil
}

// jsonProblem describes a JSON error without quoting the client at length.
func jsonProblem(err error) string {
	var wrong *json.UnmarshalTypeError
	if errors.As(err, &wrong) {
		if wrong.Field == "" {
			return "it is not an object"
		}
		return fmt.Sprintf("%s must not be a %s", clip(wrong.Field), wrong.Value)
	}
	return clip(err.Error())
}

// clip bounds what of a client's text comes back in a message.
func clip(s string) string {
	const most = 200
	if len(s) <= most {
		return s
	}
	for i := most; ; i-- {
		if utf8.RuneStart(s[i]) {
			return s[:i] + "…"
		}
	}
}
