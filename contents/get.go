package contents

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/url"
	"strings"
)

// query is what a GET asks for.
type query struct {
	kind, format  string // "" is whatever it is
	content, hash bool
}

func parseQuery(values url.Values) (query, error) {
	q := query{kind: values.Get("type"), format: values.Get("format"), content: true}
	switch q.kind {
	case "", typeDirectory, typeFile, typeNotebook:
	default:
		q.kind = typeFile
	}
	if q.format != "" && q.format != "text" && q.format != "base64" {
		return q, fail(http.StatusBadRequest, "Format %q is invalid", q.format)
	}
	for name, flag := range map[string]*bool{"content": &q.content, "hash": &q.hash} {
		switch value := values.Get(name); {
		case value == "0":
			*flag = false
		case value == "1":
			*flag = true
		case values.Has(name):
			return q, fail(http.StatusBadRequest, "%s %q is invalid: it must be '0' or '1'", sentence(name), value)
		}
	}
	return q, nil
}

// Get answers GET api/contents/PATH: a model, with content unless content=0.
func (h *Handlers) Get(w http.ResponseWriter, r *http.Request, at At) error {
	q, err := parseQuery(r.URL.Query())
	if err != nil {
		return err
	}
	path, err := visible(at.Path)
	if err != nil {
		return err
	}
	if q.content && q.kind != typeDirectory && strings.Contains(path, ".") {
		return h.getFile(w, r, at, path, q) // most likely it is one, and is opened at once
	}
	e, err := h.o.Store.Stat(r.Context(), at.Workspace, path)
	if err != nil {
		return failed(err, path)
	}
	if q.content && !e.Directory && q.kind != typeDirectory {
		return h.getFile(w, r, at, path, q)
	}
	return h.present(w, r.Context(), at, e, q)
}

// requested returns the clean path of a URL, in which a slash at the beginning is
// a second one.
func requested(path string) (string, error) {
	if strings.HasPrefix(path, "/") {
		return "", failed(ErrNotFound, path)
	}
	clean, err := Clean(path)
	return clean, failed(err, path)
}

// visible returns the clean path of something that clients may see.
func visible(path string) (string, error) {
	clean, err := requested(path)
	if err != nil {
		return "", err
	}
	if Hidden(clean) {
		return "", failed(ErrNotFound, clean)
	}
	return clean, nil
}

// present answers with what needs no content of a file.
func (h *Handlers) present(w http.ResponseWriter, ctx context.Context, at At, e Entry, q query) error {
	if err := wanted(e, q.kind); err != nil {
		return err
	}
	m := modelOf(e, q.kind, q.hash)
	if !e.Directory || !q.content {
		return m.write(w, http.StatusOK, e)
	}
	list, err := h.o.Store.List(ctx, at.Workspace, e.Path)
	if err != nil {
		return failed(err, e.Path)
	}
	models := make([]model, 0, len(list))
	for _, one := range list {
		if _, name := split(one.Path); !unlisted(name) {
			models = append(models, modelOf(one, "", false))
		}
	}
	m.Format = pointer("json")
	return m.writeWith(w, e, func(w *bufio.Writer) error { return json.NewEncoder(w).Encode(models) })
}

// wanted checks the type that a client asks for.
func wanted(e Entry, kind string) error {
	if e.Directory && kind != "" && kind != typeDirectory {
		return &Error{Status: http.StatusBadRequest, Message: e.Path + " is a directory, not a " + kind, Reason: "bad type"}
	}
	if !e.Directory && kind == typeDirectory {
		return &Error{Status: http.StatusBadRequest, Message: e.Path + " is not a directory", Reason: "bad type"}
	}
	return nil
}

// getFile answers with a file and its content, or with a directory if it is one.
func (h *Handlers) getFile(w http.ResponseWriter, r *http.Request, at At, path string, q query) error {
	body, e, err := h.o.Store.Open(r.Context(), at.Workspace, path, "", 0, -1)
	if errors.Is(err, ErrIsDirectory) {
		e, err := h.o.Store.Stat(r.Context(), at.Workspace, path)
		if err != nil {
			return failed(err, path)
		}
		return h.present(w, r.Context(), at, e, q)
	}
	if err != nil {
		return failed(err, path)
	}
	defer body.Close()
	content := h.spool(at.Owner, max(e.Size, h.o.MaxFileBytes))
	defer content.Close()
	var text textCheck
	m := modelOf(e, q.kind, q.hash)
	into := io.Writer(content)
	if m.Type == typeFile && q.format != "base64" {
		into = io.MultiWriter(content, &text)
	}
	content.expect(e.Size)
	if err := spoolBody(into, body, e); err != nil {
		return err
	}
	if m.Type == typeNotebook {
		return h.getNotebook(w, r, at, &m, e, content)
	}
	return getText(w, &m, e, q, content, text.valid())
}

// spoolBody copies content from the store. An error of the store is told from one
// of the spool.
func spoolBody(into io.Writer, body io.Reader, e Entry) error {
	from := &erring{r: body}
	n, err := io.Copy(into, from)
	switch {
	case from.err != nil:
		return failed(from.err, e.Path)
	case err != nil:
		return spoolFailed(err)
	case n != e.Size:
		return failed(ErrUnavailable, e.Path)
	}
	return nil
}

// erring is a reader that remembers its error.
type erring struct {
	r   io.Reader
	err error
}

func (e *erring) Read(p []byte) (int, error) {
	n, err := e.r.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		e.err = err
	}
	return n, err
}

// getText answers with a file that is no notebook to the client.
func getText(w http.ResponseWriter, m *model, e Entry, q query, content *spool, isText bool) error {
	if q.format == "text" && !isText {
		return &Error{Status: http.StatusBadRequest, Message: e.Path + " is not UTF-8 encoded", Reason: "bad format"}
	}
	asText := isText && q.format != "base64"
	m.Format = pointer("base64")
	fallback := octets
	if asText {
		m.Format, fallback = pointer("text"), "text/plain"
	}
	if m.Mimetype == nil {
		m.Mimetype = &fallback
	}
	return m.writeWith(w, e, func(w *bufio.Writer) error {
		_ = w.WriteByte('"')
		var err error
		if asText {
			_, err = io.Copy(quoted{w}, content.reader())
		} else {
			err = copyBase64(w, content.reader())
		}
		_ = w.WriteByte('"')
		return err
	})
}

// getNotebook answers with a notebook as clients read it.
func (h *Handlers) getNotebook(w http.ResponseWriter, r *http.Request, at At, m *model, e Entry, content *spool) error {
	joined := h.spool(at.Owner, max(2*e.Size, 1<<20)+h.o.MaxFileBytes)
	defer joined.Close()
	joined.expect(e.Size)
	trusted := h.trusts(r.Context(), at, e.SHA256)
	var wrong string
	err := h.convert(r.Context(), e.Path, content, func(nb *notebook) (err error) {
		wrong, err = nb.present(joined, trusted)
		return err
	})
	if err != nil {
		return err
	}
	if wrong != "" {
		m.Message = validationMessage(wrong)
	}
	m.Format = pointer("json")
	return m.writeWith(w, e, func(w *bufio.Writer) error {
		_, err := io.Copy(w, joined.reader())
		return err
	})
}
