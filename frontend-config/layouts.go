package frontend

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"golang.org/x/sync/errgroup"
)

// maxLayouts bounds how many layouts a user keeps in a workspace: every open
// page asks for all of them every ten seconds.
const maxLayouts = 50

// maxLayout bounds a layout, in bytes, since all are answered at once. One of
// thirty documents has 15 KiB.
const maxLayout = 256 << 10

// maxLayoutName bounds the name of a layout, in bytes.
const maxLayoutName = 100

// layout is what Lab calls a workspace: which documents are open, and where.
type layout struct {
	Data     json.RawMessage            `json:"data"`
	Metadata map[string]json.RawMessage `json:"metadata"`
}

func (l layout) id() string {
	var id string
	if json.Unmarshal(l.Metadata["id"], &id) != nil {
		return ""
	}
	return id
}

// layoutDocuments is the start of the names of documents with layouts.
func layoutDocuments(at At) string { return "layouts/" + url.PathEscape(at.Workspace) + "/" }

// layoutDocument returns the name of a layout, and of its document.
func layoutDocument(at At) (name, document string, err error) {
	name = strings.Trim(at.Path, "/")
	if name == "" || len(name) > maxLayoutName || !utf8.ValidString(name) || strings.ContainsFunc(name, unicode.IsControl) {
		return "", "", errorf(http.StatusBadRequest, "A layout needs a name of 1 to %d bytes without control characters", maxLayoutName)
	}
	// It could lead nowhere: a name is one word to who keeps it. But no client has
	// such names, and whoever sends one hopes that it leads somewhere.
	for segment := range strings.SplitSeq(name, "/") {
		if segment == "." || segment == ".." {
			return "", "", errorf(http.StatusBadRequest, "A layout's name has no parts that are . or ..")
		}
	}
	return name, layoutDocuments(at) + url.PathEscape(name), nil
}

// parseLayout reads a layout and sets its times.
func parseLayout(body []byte, modified time.Time) (layout, error) {
	var l layout
	if err := json.Unmarshal(body, &l); err != nil {
		return layout{}, err
	}
	if l.Metadata == nil || len(l.Data) == 0 || bytes.TrimSpace(l.Data)[0] != '{' {
		return layout{}, errors.New("a layout has data and metadata, which are objects")
	}
	when := json.RawMessage(`"` + modified.UTC().Format(timestamp) + `"`)
	l.Metadata["last_modified"], l.Metadata["created"] = when, when
	return l, nil
}

// ListWorkspaces answers with the user's layouts: lab/api/workspaces.
func (f *Frontend) ListWorkspaces(w http.ResponseWriter, r *http.Request, at At) error {
	body, err := f.layouts(r.Context(), at)
	if err != nil {
		return err
	}
	return writeText(w, r, "application/json", body)
}

// layouts returns all layouts of a user in a workspace, as Lab reads them.
func (f *Frontend) layouts(ctx context.Context, at At) ([]byte, error) {
	if err := f.listing.Acquire(ctx, 1); err != nil {
		return nil, unavailable("layouts", err)
	}
	defer f.listing.Release(1)
	names, err := f.o.Documents.ListDocuments(ctx, at.User, layoutDocuments(at))
	if err != nil {
		return nil, unavailable("layouts", err)
	}
	slices.Sort(names)
	found := make([]*layout, len(names))
	group, groupCtx := errgroup.WithContext(ctx)
	group.SetLimit(atOnce)
	for i, name := range names {
		group.Go(func() error {
			body, modified, err := f.o.Documents.GetDocument(groupCtx, at.User, name)
			if errors.Is(err, fs.ErrNotExist) {
				return nil // deleted since
			}
			if err != nil {
				return unavailable("layouts", err)
			}
			if l, err := parseLayout(body, modified); err == nil && l.id() != "" {
				found[i] = &l
			}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	ids, values := []string{}, []layout{}
	for _, l := range found {
		if l != nil {
			ids, values = append(ids, l.id()), append(values, *l)
		}
	}
	body, err := json.Marshal(map[string]any{"workspaces": map[string]any{"ids": ids, "values": values}})
	if err != nil {
		return nil, internal(err)
	}
	return body, nil
}

// GetWorkspace answers with a layout, empty when there is none of that name:
// lab/api/workspaces/*.
func (f *Frontend) GetWorkspace(w http.ResponseWriter, r *http.Request, at At) error {
	if strings.Trim(at.Path, "/") == "" {
		return f.ListWorkspaces(w, r, at)
	}
	name, document, err := layoutDocument(at)
	if err != nil {
		return err
	}
	body, modified, err := f.o.Documents.GetDocument(r.Context(), at.User, document)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return unavailable("layouts", err)
	}
	if err == nil {
		if l, err := parseLayout(body, modified); err == nil {
			return writeJSON(w, r, l)
		}
	}
	return writeJSON(w, r, map[string]any{"data": struct{}{}, "metadata": map[string]string{"id": name}})
}

// PutWorkspace keeps a layout: lab/api/workspaces/*.
func (f *Frontend) PutWorkspace(w http.ResponseWriter, r *http.Request, at At) error {
	name, document, err := layoutDocument(at)
	if err != nil {
		return err
	}
	body, err := readBody(r, maxLayout)
	if err != nil {
		return err
	}
	l, err := parseLayout(body, time.Time{})
	if err != nil {
		return errorf(http.StatusBadRequest, "The layout cannot be read: %s", jsonProblem(err))
	}
	if id, err := url.PathUnescape(strings.TrimPrefix(l.id(), "/")); err != nil || id != name {
		return errorf(http.StatusBadRequest, "The layout's metadata.id is not the name that it is written under")
	}
	kept, err := f.o.Documents.ListDocuments(r.Context(), at.User, layoutDocuments(at))
	if err != nil {
		return unavailable("layouts", err)
	}
	if len(kept) >= maxLayouts && !slices.Contains(kept, document) {
		return errorf(http.StatusForbidden, "There are %d layouts, and no more are kept: delete one", len(kept))
	}
	if err := f.o.Documents.PutDocument(r.Context(), at.User, document, body); err != nil {
		return unavailable("layouts", err)
	}
	return noContent(w)
}

// DeleteWorkspace deletes a layout: lab/api/workspaces/*.
func (f *Frontend) DeleteWorkspace(w http.ResponseWriter, r *http.Request, at At) error {
	name, document, err := layoutDocument(at)
	if err != nil {
		return err
	}
	// Deleting what is not there may be no error of a store.
	_, _, err = f.o.Documents.GetDocument(r.Context(), at.User, document)
	if err == nil {
		err = f.o.Documents.DeleteDocument(r.Context(), at.User, document)
	}
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return errorf(http.StatusNotFound, "There is no layout %s", name)
	case err != nil:
		return unavailable("layouts", err)
	}
	return noContent(w)
}
