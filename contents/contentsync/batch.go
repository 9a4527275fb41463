package contentsync

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"

	"kernelgw/contents"
	"kernelgw/sandboxes/agentapi"
)

// Limits of a request for many files.
const (
	maxBatchBody = 512 << 10
	readAhead    = 4 // files read from the store before they can be sent
)

// small is a file as an answer for many files has it.
type small struct {
	entry   agentapi.FilesEntry // without ETag when the file must be asked for alone
	content []byte
}

// postContents answers many small files at once: the first pull of a workspace of
// thousands takes seconds longer with a request for each.
func (l *link) postContents(w http.ResponseWriter, r *http.Request) error {
	var paths []string
	if err := json.NewDecoder(io.LimitReader(r.Body, maxBatchBody)).Decode(&paths); err != nil {
		return &refused{http.StatusBadRequest, "the body is no list of paths"}
	}
	if len(paths) > agentapi.MaxFilesBatch {
		return &refused{http.StatusBadRequest, "too many paths"}
	}
	for _, p := range paths {
		if err := checkPath(p); err != nil {
			return err
		}
	}
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	files := make(chan chan small, readAhead)
	reading := make(chan struct{})
	go func() {
		defer close(reading)
		defer close(files)
		for _, p := range paths {
			one := make(chan small, 1)
			select {
			case files <- one:
			case <-ctx.Done():
				return
			}
			l.handlers.Add(1) // this request has not ended
			go func() {
				defer l.handlers.Done()
				one <- l.readSmall(ctx, p)
			}()
		}
	}()
	defer func() { <-reading }()
	defer cancel()

	w.Header().Set("Content-Type", "application/octet-stream")
	var head bytes.Buffer
	for one := range files {
		file := <-one
		head.Reset()
		json.NewEncoder(&head).Encode(file.entry) //nolint:errcheck // a buffer does not fail
		if _, err := w.Write(append(head.Bytes(), file.content...)); err != nil {
			return nil
		}
	}
	if ctx.Err() != nil {
		panic(http.ErrAbortHandler)
	}
	json.NewEncoder(w).Encode(agentapi.FilesEntry{End: true}) // the other side may be gone
	return nil
}

// readSmall reads a file, if it is one, is small and can be read now.
func (l *link) readSmall(ctx context.Context, p string) small {
	alone := small{entry: agentapi.FilesEntry{Path: p}}
	body, e, err := l.Store.Open(ctx, l.workspace, p, "", 0, -1)
	if err != nil {
		return alone
	}
	defer body.Close()
	if e.Directory || e.Size > agentapi.MaxFilesBatchSize {
		return alone
	}
	content := make([]byte, e.Size)
	if _, err := io.ReadFull(body, content); err != nil {
		return alone
	}
	return small{entryOf(named(e, p)), content}
}

// named returns an entry under the path that was asked for.
func named(e contents.Entry, p string) contents.Entry {
	e.Path = p
	return e
}
