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

// pageEntries is how many entries a page has, unless less is asked for.
const pageEntries = 1000

// pageOf returns what a request says of the page that it wants: ?after=ID, which is
// the "next" of the page before, and ?limit=N.
func pageOf(r *http.Request) (after string, limit int, err error) {
	query := r.URL.Query()
	limit = pageEntries
	if text := query.Get("limit"); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil || n < 1 {
			return "", 0, fail(http.StatusBadRequest, "limit %q is no number above 0", text)
		}
		limit = min(n, pageEntries)
	}
	return query.Get("after"), limit, nil
}

// answerPage answers a page of at most limit entries. list has one more if another
// page follows.
func answerPage[E, M any](w http.ResponseWriter, name string, list []E, limit int, model func(E) M, id func(E) string) error {
	answer := map[string]any{}
	if len(list) > limit {
		list = list[:limit]
		answer["next"] = id(list[limit-1])
	}
	models := make([]M, 0, len(list))
	for _, e := range list {
		models = append(models, model(e))
	}
	answer[name] = models
	return answerJSON(w, http.StatusOK, answer)
}

// Versions answers GET v1/workspaces/NAME/files/PATH/versions, latest first:
// {"versions": [...], "next": id}, in pages as pageOf has them.
func (h *Handlers) Versions(w http.ResponseWriter, r *http.Request, at At) error {
	path, err := visible(at.Path)
	if err != nil {
		return err
	}
	after, limit, err := pageOf(r)
	if err != nil {
		return err
	}
	list, err := h.o.Store.Versions(r.Context(), at.Workspace, path, after, limit+1)
	if errors.Is(err, ErrNotFound) && after != "" {
		return failedID(err, path, "version", after)
	}
	if err != nil {
		return failed(err, path)
	}
	return answerPage(w, "versions", list, limit, versionOf, func(v Version) string { return v.Entry.Version })
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

func trashOf(t Trashed) trashModel {
	return trashModel{t.ID, t.Path, t.Size, t.Deleted.UTC(), t.Author}
}

// Trash answers GET v1/workspaces/NAME/trash, newest first: {"trash": [...],
// "next": id}, in pages as pageOf has them.
func (h *Handlers) Trash(w http.ResponseWriter, r *http.Request, at At) error {
	after, limit, err := pageOf(r)
	if err != nil {
		return err
	}
	list, err := h.o.Store.Trash(r.Context(), at.Workspace, after, limit+1)
	if errors.Is(err, ErrNotFound) && after != "" {
		return failedID(err, "the trash", "entry", after)
	}
	if err != nil {
		return failed(err, "the trash")
	}
	return answerPage(w, "trash", list, limit, trashOf, func(t Trashed) string { return t.ID })
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
