package contents

import (
	"errors"
	"net/http"
	"strings"
)

// Patch answers PATCH api/contents/PATH: it renames or moves.
func (h *Handlers) Patch(w http.ResponseWriter, r *http.Request, at At) error {
	body, err := h.readEnvelope(w, r)
	if err != nil {
		return err
	}
	defer body.Close()
	if body.empty {
		return fail(http.StatusBadRequest, "JSON body missing")
	}
	from, err := writable(at.Path)
	if err != nil {
		return err
	}
	to := from
	if body.Path != "" {
		if to, err = writable(strings.TrimLeft(body.Path, "/")); err != nil {
			return err
		}
	}
	e, err := h.meeting(r, at, from)
	if err != nil {
		return err
	}
	if to != from {
		if from == "" || to == "" {
			return fail(http.StatusBadRequest, "The root cannot be renamed")
		}
		e, err = h.o.Store.Move(r.Context(), at.Workspace, from, to, at.User)
		if errors.Is(err, ErrNotFound) && !errors.Is(err, ErrNoParent) {
			return failed(err, from)
		}
		if err != nil {
			return failed(err, to)
		}
		h.o.Observe("rename", at.Workspace, to, from)
	}
	located(w, at, to)
	m := modelOf(e, "", true)
	return m.write(w, http.StatusOK, e)
}

// meeting returns what is at a path if it is what the request's conditions say.
func (h *Handlers) meeting(r *http.Request, at At, path string) (Entry, error) {
	c, err := conditionsOf(r.Header)
	if err != nil {
		return Entry{}, err
	}
	c.none = false // it means the file to be written, and there is none
	e, err := h.o.Store.Stat(r.Context(), at.Workspace, path)
	if errors.Is(err, ErrNotFound) && c != (conditions{}) {
		return e, c.met(Entry{Path: path})
	}
	if err != nil {
		return e, failed(err, path)
	}
	return e, c.met(e)
}

// Delete answers DELETE api/contents/PATH: it moves to the trash, directories with
// all that is in them.
func (h *Handlers) Delete(w http.ResponseWriter, r *http.Request, at At) error {
	path, err := writable(at.Path)
	if err != nil {
		return err
	}
	if path == "" {
		return fail(http.StatusBadRequest, "Cannot delete the root")
	}
	c, err := conditionsOf(r.Header)
	if err != nil {
		return err
	}
	match := ""
	if c != (conditions{}) {
		e, err := h.meeting(r, at, path)
		if err != nil {
			return err
		}
		match = e.ETag // of a directory there is none
	}
	if err := h.o.Store.Delete(r.Context(), at.Workspace, path, at.User, match); err != nil {
		return failed(err, path)
	}
	h.o.Observe("delete", at.Workspace, path, "")
	w.WriteHeader(http.StatusNoContent)
	return nil
}
