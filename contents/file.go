package contents

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
)

// maxRanges bounds the ranges that one request may want: each is a request to the
// store.
const maxRanges = 8

// File answers GET and HEAD files/PATH: the bytes, for a browser to show or to
// save. What a person's file does there, it does in an origin of its own.
func (h *Handlers) File(w http.ResponseWriter, r *http.Request, at At) error {
	path, err := visible(at.Path)
	if err != nil {
		return err
	}
	e, err := h.o.Store.Stat(r.Context(), at.Workspace, path)
	if err != nil {
		return failed(err, path)
	}
	if e.Directory {
		return fail(http.StatusForbidden, "%s is a directory", path)
	}
	return h.serve(w, r, at, e, r.URL.Query().Get("download") != "")
}

// serve answers with a version's bytes, or those ranges of them that are wanted.
func (h *Handlers) serve(w http.ResponseWriter, r *http.Request, at At, e Entry, download bool) error {
	_, name := split(e.Path)
	content := &storedContent{ctx: r.Context(), store: h.o.Store, workspace: at.Workspace, e: e}
	defer content.Close()
	kind := servedType(name)
	if kind == "" {
		var err error
		if kind, err = content.sniff(); err != nil {
			return failed(err, e.Path)
		}
	}
	header := w.Header()
	header.Set("Content-Type", kind)
	header.Set("X-Content-Type-Options", "nosniff")
	if header.Get("Content-Security-Policy") == "" { // the caller may have a stricter one, or know who may embed
		header.Set("Content-Security-Policy", "frame-ancestors 'self'; report-uri "+at.Base+"api/security/csp-report; sandbox allow-scripts")
	}
	header.Set("Cache-Control", "no-cache")
	header.Set("ETag", etagOf(e))
	if download || strings.HasSuffix(strings.ToLower(name), ".ipynb") {
		header.Set("Content-Disposition", "attachment; filename*=utf-8''"+escapedPath(name))
	}
	if strings.Count(r.Header.Get("Range"), ",") >= maxRanges {
		r = r.Clone(r.Context())
		r.Header.Del("Range") // the whole file is an answer too
	}
	late := &lateHeader{ResponseWriter: w}
	http.ServeContent(late, r, "", e.Modified, content)
	if content.failure != nil && !late.sent {
		for _, name := range []string{"ETag", "Content-Disposition", "Cache-Control", "Content-Length", "Content-Range", "Accept-Ranges", "Last-Modified"} {
			header.Del(name)
		}
		return failed(content.failure, e.Path)
	}
	late.send()
	return nil
}

// lateHeader sends the status with the first byte of the body, so that there is
// still another answer when the store fails before it. When the store fails later,
// the body is shorter than its length says, and no client takes it for whole.
type lateHeader struct {
	http.ResponseWriter
	status int
	sent   bool
}

// WriteHeader implements http.ResponseWriter.
func (l *lateHeader) WriteHeader(status int) { l.status = status }

// Write implements http.ResponseWriter.
func (l *lateHeader) Write(p []byte) (int, error) {
	l.send()
	return l.ResponseWriter.Write(p)
}

func (l *lateHeader) send() {
	if !l.sent {
		l.sent = true
		l.ResponseWriter.WriteHeader(cmp.Or(l.status, http.StatusOK))
	}
}

// storedContent reads a version from the store, which it asks only when it is read.
type storedContent struct {
	ctx       context.Context
	store     Store
	workspace string
	e         Entry

	offset int64
	body   io.ReadCloser // nil when nothing is open
	next   int64         // offset of what body gives next

	failure error // the first of the store
}

// sniff tells text from other content by its beginning.
func (c *storedContent) sniff() (string, error) {
	body, _, err := c.store.Open(c.ctx, c.workspace, c.e.Path, c.e.Version, 0, 4096)
	if err != nil {
		return "", err
	}
	defer body.Close()
	head, err := io.ReadAll(body)
	if err != nil {
		return "", err
	}
	var text textCheck
	_, _ = text.Write(head)
	if text.bad || bytes.IndexByte(head, 0) >= 0 {
		return octets, nil
	}
	return "text/plain; charset=UTF-8", nil
}

// Read implements io.Reader.
func (c *storedContent) Read(p []byte) (int, error) {
	if c.offset >= c.e.Size {
		return 0, io.EOF
	}
	if c.body == nil || c.next != c.offset {
		if err := c.open(); err != nil {
			c.failure = err
			return 0, err
		}
	}
	n, err := c.body.Read(p)
	c.offset += int64(n)
	c.next = c.offset
	if err != nil && c.failure == nil && (!errors.Is(err, io.EOF) || c.offset < c.e.Size) {
		c.failure = errors.Join(ErrUnavailable, err)
	}
	return n, err
}

// open opens the content at offset.
func (c *storedContent) open() error {
	c.Close()
	body, _, err := c.store.Open(c.ctx, c.workspace, c.e.Path, c.e.Version, c.offset, -1)
	c.body, c.next = body, c.offset
	return err
}

// Seek implements io.Seeker.
func (c *storedContent) Seek(offset int64, whence int) (int64, error) {
	switch whence {
	case io.SeekCurrent:
		offset += c.offset
	case io.SeekEnd:
		offset += c.e.Size
	}
	if offset < 0 {
		return 0, fmt.Errorf("cannot seek to %d", offset)
	}
	c.offset = offset
	return offset, nil
}

// Close ends what is being read.
func (c *storedContent) Close() {
	if c.body != nil {
		c.body.Close()
		c.body = nil
	}
}
