package contents

import (
	"errors"
	"net/http"
	"strconv"
	"time"
)

// versionModel is a version as the native API shows it.
type versionModel struct {
	ID         string    `json:"id"`
	Path       string    `json:"path"`
	Size       int64     `json:"size"`
	Modified   time.Time `json:"modified"`
	Author     string    `json:"author"`
	Source     string    `json:"source"` // api, sync, restore, move, copy
	SHA256     string    `json:"sha256"`
	ETag       string    `json:"etag"`
	Executable bool      `json:"executable"`
	Latest     bool      `json:"latest"`
	Pinned     bool      `json:"pinned"`
}

func versionOf(v Version) versionModel {
	return versionModel{
		ID: v.Entry.Version, Path: v.Path, Size: v.Size, Modified: v.Modified.UTC(), Author: v.Author, Source: v.Source, SHA256: v.SHA256,
		ETag: v.ETag, Executable: v.Executable, Latest: v.Latest, Pinned: v.Pinned,
	}
}

// entryModel is a file after a change, as the native API shows it.
type entryModel struct {
	Path     string    `json:"path"`
	Version  string    `json:"version"`
	Size     int64     `json:"size"`
	Modified time.Time `json:"modified"`
	SHA256   string    `json:"sha256"`
	ETag     string    `json:"etag"`
}

func entryOf(e Entry) entryModel {
	return entryModel{Path: e.Path, Version: e.Version, Size: e.Size, Modified: e.Modified.UTC(), SHA256: e.SHA256, ETag: e.ETag}
}

// Versions answers GET v1/workspaces/NAME/files/PATH/versions, latest first:
// {"versions": [...]}. ?limit=N is at most so many.
func (h *Handlers) Versions(w http.ResponseWriter, r *http.Request, at At) error {
	path, err := visible(at.Path)
	if err != nil {
		return err
	}
	limit := -1
	if text := r.URL.Query().Get("limit"); text != "" {
		if limit, err = strconv.Atoi(text); err != nil || limit < 1 {
			return fail(http.StatusBadRequest, "limit %q is no number above 0", text)
		}
	}
	list, err := h.o.Store.Versions(r.Context(), at.Workspace, path)
	if err != nil {
		return failed(err, path)
	}
	if limit > 0 && len(list) > limit {
		list = list[:limit]
	}
	models := make([]versionModel, 0, len(list))
	for _, v := range list {
		models = append(models, versionOf(v))
	}
	return answerJSON(w, http.StatusOK, map[string]any{"versions": models})
}

// VersionContent answers GET v1/workspaces/NAME/files/PATH/versions/ID: the bytes,
// as File serves them.
func (h *Handlers) VersionContent(w http.ResponseWriter, r *http.Request, at At) error {
	path, err := visible(at.Path)
	if err != nil {
		return err
	}
	body, e, err := h.o.Store.Open(r.Context(), at.Workspace, path, at.ID, 0, 0)
	if err != nil {
		return failedID(err, path, "version", at.ID)
	}
	body.Close()
	e.Path = path // what it was called then does not matter
	return h.serve(w, r, at, e, r.URL.Query().Get("download") != "")
}

// RestoreVersion answers POST v1/workspaces/NAME/files/PATH/versions/ID/restore:
// the version becomes the latest, as a new one.
func (h *Handlers) RestoreVersion(w http.ResponseWriter, r *http.Request, at At) error {
	path, err := visible(at.Path)
	if err != nil {
		return err
	}
	e, err := h.o.Store.Restore(r.Context(), at.Workspace, path, at.ID, at.User)
	if err != nil {
		return failedID(err, path, "version", at.ID)
	}
	h.o.Observe("save", at.Workspace, path, "")
	return answerJSON(w, http.StatusOK, entryOf(e))
}

// DeleteVersion answers DELETE v1/workspaces/NAME/files/PATH/versions/ID: an old
// version goes for good.
func (h *Handlers) DeleteVersion(w http.ResponseWriter, r *http.Request, at At) error {
	path, err := visible(at.Path)
	if err != nil {
		return err
	}
	if err := h.o.Store.DeleteVersion(r.Context(), at.Workspace, path, at.ID); err != nil {
		if answered := conflict(err, "Version "+at.ID+" is the latest one, or a checkpoint holds it"); answered != nil {
			return answered
		}
		return failedID(err, path, "version", at.ID)
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

// trashModel is something deleted, as the native API shows it.
type trashModel struct {
	ID      string    `json:"id"`
	Path    string    `json:"path"`
	Size    int64     `json:"size"`
	Deleted time.Time `json:"deleted"`
	Author  string    `json:"author"`
}

// Trash answers GET v1/workspaces/NAME/trash, newest first: {"trash": [...]}.
func (h *Handlers) Trash(w http.ResponseWriter, r *http.Request, at At) error {
	list, err := h.o.Store.Trash(r.Context(), at.Workspace)
	if err != nil {
		return failed(err, "the trash")
	}
	models := make([]trashModel, 0, len(list))
	for _, t := range list {
		models = append(models, trashModel{t.ID, t.Path, t.Size, t.Deleted.UTC(), t.Author})
	}
	return answerJSON(w, http.StatusOK, map[string]any{"trash": models})
}

// Undelete answers POST v1/workspaces/NAME/trash/ID/restore.
func (h *Handlers) Undelete(w http.ResponseWriter, r *http.Request, at At) error {
	e, err := h.o.Store.Undelete(r.Context(), at.Workspace, at.ID)
	if err != nil {
		if answered := conflict(err, "There is something else in its place: rename or delete that first"); answered != nil {
			return answered
		}
		return failedID(err, "the trash", "entry", at.ID)
	}
	h.o.Observe("create", at.Workspace, e.Path, "")
	return answerJSON(w, http.StatusOK, entryOf(e))
}

// Purge answers DELETE v1/workspaces/NAME/trash/ID and, for all of it,
// v1/workspaces/NAME/trash?all=1: it goes for good. Without the query an empty ID,
// as of an unset variable in a script, would empty the trash.
func (h *Handlers) Purge(w http.ResponseWriter, r *http.Request, at At) error {
	if at.ID == "" && r.URL.Query().Get("all") != "1" {
		return &Error{Status: http.StatusBadRequest, Message: "Name a trash entry, or say ?all=1 to empty the trash"}
	}
	if err := h.o.Store.Purge(r.Context(), at.Workspace, at.ID); err != nil {
		return failedID(err, "the trash", "entry", at.ID)
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

// Usage answers GET v1/workspaces/NAME/usage: {"used": bytes, "limit": bytes or
// null}.
func (h *Handlers) Usage(w http.ResponseWriter, r *http.Request, at At) error {
	used, limit, err := h.o.Store.Usage(r.Context(), at.Workspace)
	if err != nil {
		return failed(err, "the workspace")
	}
	answer := struct {
		Used  int64  `json:"used"`
		Limit *int64 `json:"limit"`
	}{Used: used}
	if limit > 0 {
		answer.Limit = &limit
	}
	return answerJSON(w, http.StatusOK, answer)
}

// conflict is the answer to ErrExists in words of its own; nil for other errors.
func conflict(err error, message string) error {
	if !errors.Is(err, ErrExists) {
		return nil
	}
	return &Error{Status: http.StatusConflict, Message: message, Cause: err}
}
