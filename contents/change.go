package contents

import (
	"errors"
	"net/http"
	"strings"
)

// Patch answers PATCH api/contents/PATH: it renames or moves.
func (h *Handlers) Patch(w http.ResponseWriter, r *http.Request, at At) error {
	body, err := h.readEnvelope(w, r, at.Owner)
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
	e, match, err := h.meeting(r, at, from)
	if err != nil {
		return err
	}
	if to != from {
		if from == "" || to == "" {
			return fail(http.StatusBadRequest, "The root cannot be renamed")
		}
		e, err = h.o.Store.Move(r.Context(), at.Workspace, from, to, at.User, match)
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

// meeting returns what is at a path if it is what the request's conditions say,
// and what the store is to look at once more when it makes the change.
func (h *Handlers) meeting(r *http.Request, at At, path string) (Entry, Match, error) {
	c, err := conditionsOf(r.Header)
	if err != nil {
		return Entry{}, Match{}, err
	}
	c.none = false // it means the file to be written, and there is none
	e, err := h.o.Store.Stat(r.Context(), at.Workspace, path)
	if errors.Is(err, ErrNotFound) && c != (conditions{}) {
		return e, Match{}, c.met(Entry{Path: path})
	}
	if err != nil {
		return e, Match{}, failed(err, path)
	}
	match := Match{Version: c.version}
	if c.etag != "" {
		match.ETag = e.ETag // as the store writes it
	}
	return e, match, c.met(e)
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
	var match Match
	if len(r.Header["If-Match"]) > 0 {
		if _, match, err = h.meeting(r, at, path); err != nil {
			return err
		}
	}
	if err := h.o.Store.Delete(r.Context(), at.Workspace, path, at.User, match); err != nil {
		return failed(err, path)
	}
	h.o.Observe("delete", at.Workspace, path, "")
	w.WriteHeader(http.StatusNoContent)
	return nil
}
