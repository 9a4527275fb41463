package contentsync

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strconv"
	"time"

	"kernelgw/contents"
	"kernelgw/sandboxes/agentapi"
)

// source is what versions that come over a link say of how they came to be.
const source = "sync"

// refused is an answer that is no success.
type refused struct {
	status  int
	message string
}

// Error implements error.
func (e *refused) Error() string { return e.message }

func (l *link) handler() http.Handler {
	mux := http.NewServeMux()
	for pattern, h := range map[string]func(http.ResponseWriter, *http.Request) error{
		"GET " + agentapi.FilesManifest:     l.getManifest,
		"GET " + agentapi.FilesChanges:      l.getChanges,
		"GET " + agentapi.FilesContent:      l.getContent,
		"POST " + agentapi.FilesContents:    l.postContents,
		"PUT " + agentapi.FilesContent:      l.putContent,
		"DELETE " + agentapi.FilesContent:   l.deleteContent,
		"POST " + agentapi.FilesDirectory:   l.postDirectory,
		"DELETE " + agentapi.FilesDirectory: l.deleteDirectory,
	} {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
			if !l.begin() {
				panic(http.ErrAbortHandler)
			}
			defer l.handlers.Done()
			err := l.rate.Wait(r.Context())
			if err == nil {
				err = h(w, r)
			}
			if err != nil {
				l.fail(w, r, err)
			}
		})
	}
	return mux
}

// fail answers an error, in the words of package contents where these are for
// people.
func (l *link) fail(w http.ResponseWriter, r *http.Request, err error) {
	var changed *contents.ChangedError
	var full *contents.QuotaError
	var no *refused
	status, message := http.StatusServiceUnavailable, "the file storage does not answer"
	switch {
	case errors.As(err, &changed):
		answer(w, http.StatusPreconditionFailed, entryOf(changed.Current))
		return
	case errors.As(err, &no):
		status, message = no.status, no.message
	case errors.As(err, &full):
		status, message = http.StatusInsufficientStorage, full.Error()
	case errors.Is(err, contents.ErrFull):
		status, message = http.StatusInsufficientStorage, contents.ErrFull.Error()
	case errors.Is(err, contents.ErrNotFound):
		status, message = http.StatusNotFound, contents.ErrNotFound.Error()
	case errors.Is(err, contents.ErrInvalid):
		status, message = http.StatusBadRequest, err.Error()
	case errors.Is(err, contents.ErrIsDirectory), errors.Is(err, contents.ErrNotDirectory), errors.Is(err, contents.ErrExists):
		status, message = http.StatusConflict, "a file or directory is in the way"
	case errors.Is(err, contents.ErrTooLarge):
		status, message = http.StatusRequestEntityTooLarge, err.Error()
	case r.Context().Err() != nil:
		return // nobody waits for it
	case errors.Is(err, errCutShort):
		message = errCutShort.Error() // the sandbox's own doing, as often as it likes: nothing for the log
	default:
		l.Log.Warn("a sandbox's files could not be synced", "workspace", l.workspace, "method", r.Method, "error", err)
	}
	answer(w, status, map[string]string{"message": message})
}

func answer(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(v) // the other side may be gone
}

// pathOf returns the path that a request is about.
func pathOf(r *http.Request) (string, error) {
	p := r.URL.Query().Get("path")
	return p, checkPath(p)
}

// checkPath refuses what is no path of a file.
func checkPath(p string) error {
	if err := agentapi.CheckFilesPath(p); err != nil {
		return &refused{http.StatusBadRequest, err.Error()}
	}
	if clean, err := contents.Clean(p); err != nil {
		return &refused{http.StatusBadRequest, err.Error()}
	} else if clean != p {
		return &refused{http.StatusBadRequest, "the path is not clean"}
	}
	return nil
}

func entryOf(e contents.Entry) agentapi.FilesEntry {
	if e.Directory {
		return agentapi.FilesEntry{Path: e.Path, Directory: true, Modified: e.Modified}
	}
	return agentapi.FilesEntry{
		Path: e.Path, Size: e.Size, ETag: e.ETag, SHA256: e.SHA256, Modified: e.Modified, Executable: e.Executable,
	}
}

func (l *link) getManifest(w http.ResponseWriter, r *http.Request) error {
	w.Header().Set("Content-Type", "application/x-ndjson")
	lines := json.NewEncoder(w)
	var n int64
	err := l.Store.Walk(r.Context(), l.workspace, "", func(e contents.Entry) error {
		n++
		return lines.Encode(entryOf(e))
	})
	if err != nil && n == 0 {
		return err
	}
	if err != nil {
		// Without the last line the other side knows that it has not all.
		panic(http.ErrAbortHandler)
	}
	l.counted(n)
	lines.Encode(agentapi.FilesEntry{End: true}) // the other side may be gone
	return nil
}

func (l *link) getContent(w http.ResponseWriter, r *http.Request) error {
	p, err := pathOf(r)
	if err != nil {
		return err
	}
	if known := r.Header.Get("If-None-Match"); known != "" {
		e, err := l.Store.Stat(r.Context(), l.workspace, p)
		if err != nil {
			return err
		}
		if !e.Directory && e.ETag == known {
			w.WriteHeader(http.StatusNotModified)
			return nil
		}
	}
	body, e, err := l.Store.Open(r.Context(), l.workspace, p, "", 0, -1)
	if errors.Is(err, contents.ErrIsDirectory) {
		w.Header().Set(agentapi.FilesDirectoryHeader, "1")
		w.WriteHeader(http.StatusNoContent)
		return nil
	}
	if err != nil {
		return err
	}
	defer body.Close()
	h := w.Header()
	h.Set("ETag", e.ETag)
	h.Set("Content-Type", "application/octet-stream")
	h.Set("Content-Length", strconv.FormatInt(e.Size, 10))
	h.Set(agentapi.FilesModifiedHeader, strconv.FormatInt(e.Modified.Unix(), 10))
	if e.Executable {
		h.Set(agentapi.FilesExecutableHeader, "1")
	}
	if n, err := io.Copy(w, body); err != nil || n != e.Size {
		panic(http.ErrAbortHandler) // half a file must not look like one
	}
	return nil
}

func (l *link) putContent(w http.ResponseWriter, r *http.Request) error {
	p, err := pathOf(r)
	if err != nil {
		return err
	}
	o := contents.PutOptions{
		Author: l.author, Source: source,
		IfMatch: r.Header.Get("If-Match"), IfNone: r.Header.Get("If-None-Match") == "*",
		Executable: r.Header.Get(agentapi.FilesExecutableHeader) == "1",
	}
	if o.IfMatch == "" && !o.IfNone {
		// A link never overwrites what it has not seen.
		return &refused{http.StatusPreconditionRequired, "a condition is missing"}
	}
	if o.IfNone {
		if err := l.hasRoom(r.Context()); err != nil {
			return err
		}
	}
	body, err := l.spool(w, r)
	if err != nil {
		return err
	}
	defer body.Close()
	e, err := l.Store.Put(r.Context(), l.workspace, p, body, o)
	if errors.Is(err, contents.ErrNoParent) {
		if _, err = l.makeDirectories(r.Context(), contents.Parent(p)); err == nil {
			e, err = l.Store.Put(r.Context(), l.workspace, p, body, o)
		}
	}
	if err != nil {
		return err
	}
	if o.IfNone {
		l.entries.n.Add(1)
	}
	answer(w, http.StatusOK, entryOf(e))
	return nil
}

func (l *link) deleteContent(w http.ResponseWriter, r *http.Request) error {
	p, err := pathOf(r)
	if err != nil {
		return err
	}
	tag := r.Header.Get("If-Match")
	if tag == "" {
		return &refused{http.StatusPreconditionRequired, "a condition is missing"}
	}
	e, err := l.Store.Stat(r.Context(), l.workspace, p)
	if err != nil {
		return err
	}
	if e.Directory {
		return contents.ErrIsDirectory
	}
	if err := l.Store.Delete(r.Context(), l.workspace, p, l.author, contents.Match{ETag: tag}); err != nil {
		return err
	}
	l.entries.n.Add(-1)
	w.WriteHeader(http.StatusNoContent)
	return nil
}

func (l *link) postDirectory(w http.ResponseWriter, r *http.Request) error {
	p, err := pathOf(r)
	if err != nil {
		return err
	}
	e, err := l.makeDirectories(r.Context(), p)
	if err != nil {
		return err
	}
	answer(w, http.StatusOK, entryOf(e))
	return nil
}

// deleteDirectory deletes an empty directory. What somebody puts into it at that
// moment goes to the trash with it, and is not lost.
func (l *link) deleteDirectory(w http.ResponseWriter, r *http.Request) error {
	p, err := pathOf(r)
	if err != nil {
		return err
	}
	e, err := l.Store.Stat(r.Context(), l.workspace, p)
	if err != nil {
		return err
	}
	if !e.Directory {
		return contents.ErrNotDirectory
	}
	inside, err := l.Store.List(r.Context(), l.workspace, p)
	if err != nil {
		return err
	}
	if len(inside) > 0 {
		return &refused{http.StatusConflict, "the directory is not empty"}
	}
	if err := l.Store.Delete(r.Context(), l.workspace, p, l.author, contents.Match{}); err != nil {
		return err
	}
	l.entries.n.Add(-1)
	w.WriteHeader(http.StatusNoContent)
	return nil
}

// maxPending is how many changes wait for a slow reader before they are taken
// for lost.
const maxPending = 1024

// watchBegins is by when a store surely watches.
const watchBegins = time.Second

func (l *link) getChanges(w http.ResponseWriter, r *http.Request) error {
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	pending := make(chan agentapi.FilesChange, maxPending)
	missed := make(chan struct{}, 1)
	miss := func() {
		select {
		case missed <- struct{}{}:
		default:
		}
	}
	watching := make(chan struct{})
	go func() {
		defer close(watching)
		l.Store.Watch(ctx, l.workspace, func(c contents.Change) {
			select {
			case pending <- agentapi.FilesChange{Path: c.Path, Gone: c.Deleted, ETag: c.Entry.ETag, Size: c.Entry.Size}:
			default:
				miss()
			}
		}, miss)
	}()
	defer func() { <-watching }()
	defer cancel()

	w.Header().Set("Content-Type", "application/x-ndjson")
	lines, control := json.NewEncoder(w), http.NewResponseController(w)
	beat := time.NewTicker(agentapi.FilesHeartbeat)
	defer beat.Stop()
	// Nothing says when Watch has begun. It is soon, and what happened before is
	// found by another look.
	begun := time.NewTimer(watchBegins)
	defer begun.Stop()
	var next agentapi.FilesChange // the first line says that changes are watched
	for {
		if lines.Encode(next) != nil || len(pending) == 0 && control.Flush() != nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return nil
		case next = <-pending:
		case <-missed:
			next = agentapi.FilesChange{Lost: true}
		case <-begun.C:
			next = agentapi.FilesChange{Lost: true}
		case <-beat.C:
			next = agentapi.FilesChange{}
		}
	}
}
