package kernelgw

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"sync"
	"time"
	"unicode/utf8"

	"golang.org/x/sync/semaphore"

	"kernelgw/sandboxes/agentapi"
)

// results bounds how many outputs of executions the server holds, and how large
// they are together: they are held until their client has them. A user's own
// results wait for each other; those of others are noticed only by large ones,
// when memory for them is taken.
type results struct {
	memory *semaphore.Weighted // bytes of all users' results

	mu     sync.Mutex
	byUser map[string]*resultPlaces // guarded by mu; of users with any
}

type resultPlaces struct {
	taken  chan struct{}       // holds a token for each
	memory *semaphore.Weighted // bytes of the user's
	users  int                 // guarded by results.mu: who have or want a place
}

const (
	maxResults     = 4 // at once, of a user
	resultPatience = 20 * time.Second
	// maxUserBytes and maxResultBytes are for the results of a user, and of all. While
	// one grows, what it was before is there as well: up to half as much again.
	maxUserBytes   = 2 * agentapi.MaxOutputBytes
	maxResultBytes = 8 * agentapi.MaxOutputBytes
	// outputPiece is how much of outputs is written at once.
	outputPiece = 64 << 10
)

func newResults() *results {
	return &results{memory: semaphore.NewWeighted(maxResultBytes), byUser: map[string]*resultPlaces{}}
}

// result is a place for one result, and the memory that it takes.
type result struct {
	own, all *semaphore.Weighted
	gone     func()
	bytes    int64
}

// enter waits for a place, which the caller must leave.
func (r *results) enter(ctx context.Context, user string) (*result, error) {
	r.mu.Lock()
	p := r.byUser[user]
	if p == nil {
		p = &resultPlaces{taken: make(chan struct{}, maxResults), memory: semaphore.NewWeighted(maxUserBytes)}
		r.byUser[user] = p
	}
	p.users++
	r.mu.Unlock()
	gone := func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		if p.users--; p.users == 0 {
			delete(r.byUser, user)
		}
	}
	ctx, cancel := context.WithTimeout(ctx, resultPatience)
	defer cancel()
	select {
	case p.taken <- struct{}{}:
		return &result{own: p.memory, all: r.memory, gone: func() { <-p.taken; gone() }}, nil
	case <-ctx.Done():
		gone()
		return nil, errManyResults
	}
}

// room waits for memory for more of the result.
func (h *result) room(ctx context.Context, more int) error {
	ctx, cancel := context.WithTimeout(ctx, resultPatience)
	defer cancel()
	if err := h.own.Acquire(ctx, int64(more)); err != nil {
		return errManyResults
	}
	if err := h.all.Acquire(ctx, int64(more)); err != nil {
		h.own.Release(int64(more))
		return errNoRoom
	}
	h.bytes += int64(more)
	return nil
}

func (h *result) leave() {
	h.all.Release(h.bytes)
	h.own.Release(h.bytes)
	h.gone()
}

var errManyResults = &httpError{
	status: http.StatusTooManyRequests, retryAfter: 2,
	message: "Too many results are on their way to you already; read them, and try again",
}

var errNoRoom = &httpError{
	status: http.StatusServiceUnavailable, retryAfter: 2,
	message: "The server holds as many large results as it can; try again",
}

// sendOutputs answers with the object that envelope is in JSON and, as the last
// of its fields, outputs: as a string of JSON where quoted says so. The outputs
// are not copied, and not escaped for HTML, which makes six bytes of one: nothing
// takes the answer for a page.
func (c *call) sendOutputs(status int, envelope any, outputs json.RawMessage, quoted bool) error {
	head, err := json.Marshal(envelope)
	if err != nil {
		return err
	}
	c.Response().Header().Set("Content-Type", "application/json")
	c.Response().WriteHeader(status)
	w := c.Response()
	write := writePieces
	if quoted {
		write = writeQuoted
	}
	_, begin := w.Write(append(bytes.TrimSuffix(head, []byte("}")), `,"outputs":`...))
	if err := errors.Join(begin, write(w, outputs)); err != nil {
		return err
	}
	_, err = io.WriteString(w, "}\n")
	return err
}

// writePieces writes text so that a deadline can move along with it.
func writePieces(w io.Writer, text []byte) error {
	for len(text) > 0 {
		n := min(len(text), outputPiece)
		if _, err := w.Write(text[:n]); err != nil {
			return err
		}
		text = text[n:]
	}
	return nil
}

// writeQuoted writes text, which is UTF-8, as a string of JSON.
func writeQuoted(w io.Writer, text []byte) error {
	var piece bytes.Buffer
	encoder := json.NewEncoder(&piece)
	encoder.SetEscapeHTML(false)
	if _, err := io.WriteString(w, `"`); err != nil {
		return err
	}
	for len(text) > 0 {
		n := min(len(text), outputPiece)
		for n > 1 && n < len(text) && !utf8.RuneStart(text[n]) {
			n--
		}
		piece.Reset()
		if err := encoder.Encode(string(text[:n])); err != nil {
			return err
		}
		if _, err := w.Write(piece.Bytes()[1 : piece.Len()-2]); err != nil { // without the quotes and the newline
			return err
		}
		text = text[n:]
	}
	_, err := io.WriteString(w, `"`)
	return err
}
