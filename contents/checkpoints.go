package contents

import (
	"encoding/json"
	"errors"
	"net/http"
	"net/url"

	"kernelgw/jupyter/rest"
)

// checkpoint is a checkpoint as Jupyter clients know it.
type checkpoint struct {
	ID           string    `json:"id"`
	LastModified rest.Time `json:"last_modified"`
}

// Checkpoints answers GET api/contents/PATH/checkpoints: oldest first, since
// clients take the last for the newest. Of what does not exist there are none:
// a client that gets an error does not open the file.
func (h *Handlers) Checkpoints(w http.ResponseWriter, r *http.Request, at At) error {
	path, err := requested(at.Path)
	if err != nil {
		return err
	}
	list, err := h.o.Store.Checkpoints(r.Context(), at.Workspace, path)
	if err != nil && !errors.Is(err, ErrNotFound) && !errors.Is(err, ErrIsDirectory) {
		return failed(err, path)
	}
	models := make([]checkpoint, 0, len(list))
	for _, c := range list {
		models = append(models, checkpoint{c.ID, rest.Time{Time: c.At}})
	}
	return answerJSON(w, http.StatusOK, models)
}

// MakeCheckpoint answers POST api/contents/PATH/checkpoints.
func (h *Handlers) MakeCheckpoint(w http.ResponseWriter, r *http.Request, at At) error {
	path, err := visible(at.Path)
	if err != nil {
		return err
	}
	c, err := h.o.Store.MakeCheckpoint(r.Context(), at.Workspace, path, at.User, "")
	if err != nil {
		return failed(err, path)
	}
	w.Header().Set("Location", at.Base+"api/contents/"+escapedPath(path)+"/checkpoints/"+url.PathEscape(c.ID))
	return answerJSON(w, http.StatusCreated, checkpoint{c.ID, rest.Time{Time: c.At}})
}

// RestoreCheckpoint answers POST api/contents/PATH/checkpoints/ID.
func (h *Handlers) RestoreCheckpoint(w http.ResponseWriter, r *http.Request, at At) error {
	path, err := visible(at.Path)
	if err != nil {
		return err
	}
	if err := h.o.Store.RestoreCheckpoint(r.Context(), at.Workspace, path, at.ID, at.User); err != nil {
		return failedID(err, path, "checkpoint", at.ID)
	}
	h.o.Observe("save", at.Workspace, path, "")
	w.WriteHeader(http.StatusNoContent)
	return nil
}

// DeleteCheckpoint answers DELETE api/contents/PATH/checkpoints/ID.
func (h *Handlers) DeleteCheckpoint(w http.ResponseWriter, r *http.Request, at At) error {
	path, err := visible(at.Path)
	if err != nil {
		return err
	}
	if err := h.o.Store.DeleteCheckpoint(r.Context(), at.Workspace, path, at.ID); err != nil {
		return failedID(err, path, "checkpoint", at.ID)
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

// failedID is failed for something of a path that has an id.
func failedID(err error, path, what, id string) error {
	if errors.Is(err, ErrNotFound) {
		return &Error{Status: http.StatusNotFound, Message: "No " + what + " " + id + " of " + path, Cause: err}
	}
	return failed(err, path)
}

// answerJSON answers with a value that can be marshalled.
func answerJSON(w http.ResponseWriter, status int, value any) error {
	body, err := json.Marshal(value)
	if err != nil {
		return failed(err, "")
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = w.Write(body) // whoever left does not need it
	return nil
}
