package frontend

import (
	"compress/gzip"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strconv"
	"unicode/utf8"
)

// maxBody bounds what a user may keep in one document.
const maxBody = 1 << 20

// worthGzip is from when on an answer is compressed.
const worthGzip = 16 << 10

// unavailable says that documents cannot be read or written. Lab takes 503 for
// "try again".
func unavailable(what string, cause error) error {
	return &Error{
		Status: http.StatusServiceUnavailable, Message: "The " + what + " cannot be read or written now; try again",
		RetryAfter: 2, Cause: cause,
	}
}

// internal is a mistake of ours.
func internal(cause error) error {
	return &Error{Status: http.StatusInternalServerError, Message: "The answer cannot be made", Cause: cause}
}

// readBody reads a request's body, of at most so many bytes.
func readBody(r *http.Request, most int) ([]byte, error) {
	body, err := io.ReadAll(io.LimitReader(r.Body, int64(most)+1))
	switch {
	case err != nil:
		return nil, &Error{Status: http.StatusBadRequest, Message: "The body cannot be read", Cause: err}
	case len(body) > most:
		return nil, errorf(http.StatusRequestEntityTooLarge, "The body is larger than %d bytes", most)
	case !utf8.Valid(body):
		return nil, errorf(http.StatusBadRequest, "The body is not UTF-8")
	}
	return body, nil
}

// readJSON reads a request's body into a value.
func readJSON(r *http.Request, into any) error {
	body, err := readBody(r, maxBody)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(body, into); err != nil {
		return errorf(http.StatusBadRequest, "The body is not the JSON that is expected: %s", jsonProblem(err))
	}
	return nil
}

// jsonProblem says what is wrong without the names of our Go types.
func jsonProblem(err error) string {
	var kind *json.UnmarshalTypeError
	if errors.As(err, &kind) {
		return "a " + kind.Value + " is in the wrong place, at byte " + strconv.FormatInt(kind.Offset, 10)
	}
	return err.Error()
}

func writeJSON(w http.ResponseWriter, r *http.Request, value any) error {
	body, err := json.Marshal(value)
	if err != nil {
		return internal(err)
	}
	return writeText(w, r, "application/json", body)
}

// writeText answers with text of a Content-Type, compressed when that pays.
func writeText(w http.ResponseWriter, r *http.Request, kind string, body []byte) error {
	h := w.Header()
	h.Set("Content-Type", kind)
	h.Set("Cache-Control", "no-cache")
	h.Add("Vary", "Accept-Encoding")
	// A client that is gone needs no answer: errors of writing are nobody's.
	if len(body) < worthGzip || !acceptsGzip(r) {
		h.Set("Content-Length", strconv.Itoa(len(body)))
		_, _ = w.Write(body)
		return nil
	}
	h.Set("Content-Encoding", "gzip")
	compressed, err := gzip.NewWriterLevel(w, gzip.BestSpeed)
	if err != nil {
		return internal(err)
	}
	_, _ = compressed.Write(body)
	_ = compressed.Close()
	return nil
}

func noContent(w http.ResponseWriter) error {
	w.Header().Set("Cache-Control", "no-cache")
	w.WriteHeader(http.StatusNoContent)
	return nil
}
