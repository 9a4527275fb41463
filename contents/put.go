package contents

import (
	"context"
	"errors"
	"io"
	"net/http"
	"time"
)

// emptyNotebook is a notebook that was just made, as stock servers make it.
const emptyNotebook = `{"cells":[],"metadata":{},"nbformat":4,"nbformat_minor":5}`

// Put answers PUT api/contents/PATH: it saves a file, makes a directory or takes a
// chunk of an upload.
func (h *Handlers) Put(w http.ResponseWriter, r *http.Request, at At) error {
	e, err := h.readEnvelope(w, r, at.Owner)
	if err != nil {
		return err
	}
	defer e.Close()
	if e.empty {
		return h.untitled(w, r, at, &envelope{})
	}
	if e.CopyFrom != "" {
		return fail(http.StatusBadRequest, "Cannot copy with PUT, only POST")
	}
	path, err := writable(at.Path)
	if err != nil {
		return err
	}
	if path == "" && e.Type != typeDirectory {
		return failed(ErrIsDirectory, "The root")
	}
	c, err := conditionsOf(r.Header)
	if err != nil {
		return err
	}
	switch e.Type {
	case "":
		e.Type = typeOf(path)
	case typeDirectory, typeFile, typeNotebook:
	default:
		e.Type = typeFile
	}
	if e.Chunk != nil && (e.Type != typeFile || *e.Chunk == 0 || *e.Chunk < -1) {
		return fail(http.StatusBadRequest, "Only files are uploaded in chunks, which are numbered from 1, the last one -1")
	}
	if e.Type == typeDirectory {
		return h.putDirectory(w, r, at, path)
	}
	current, err := h.current(r.Context(), at, path)
	if err != nil {
		return err
	}
	if err := c.met(current); err != nil {
		return err
	}
	put := putting{h: h, at: at, path: path, envelope: e, current: current, options: c.options(at, current)}
	switch {
	case e.Chunk != nil:
		return put.chunk(w, r)
	case e.Type == typeNotebook:
		return put.notebook(w, r)
	}
	return put.file(w, r)
}

// writable returns the clean path of something that clients may write.
func writable(path string) (string, error) {
	clean, err := requested(path)
	if err != nil {
		return "", err
	}
	if Hidden(clean) {
		return "", fail(http.StatusBadRequest, "Cannot create, rename or delete hidden file or directory %q", clean)
	}
	return clean, nil
}

// current returns what is at a path; without ETag: no file.
func (h *Handlers) current(ctx context.Context, at At, path string) (Entry, error) {
	e, err := h.o.Store.Stat(ctx, at.Workspace, path)
	switch {
	case errors.Is(err, ErrNotFound):
		return Entry{Path: path}, nil
	case err != nil:
		return e, failed(err, path)
	case e.Directory:
		return e, failed(ErrIsDirectory, path)
	}
	return e, nil
}

func (h *Handlers) putDirectory(w http.ResponseWriter, r *http.Request, at At, path string) error {
	_, err := h.o.Store.Stat(r.Context(), at.Workspace, Parent(path))
	if errors.Is(err, ErrNotFound) {
		return failed(ErrNoParent, path)
	}
	if err != nil {
		return failed(err, path)
	}
	e, created, err := h.o.Store.MakeDirectory(r.Context(), at.Workspace, path)
	if err != nil {
		return failed(err, path)
	}
	if created {
		h.o.Observe("create", at.Workspace, path, "")
	}
	located(w, at, path)
	m := modelOf(e, typeDirectory, false)
	return m.write(w, http.StatusCreated, e)
}

// putting is one write of a file.
type putting struct {
	h       *Handlers
	at      At
	path    string
	current Entry // what was there; without ETag: nothing
	options PutOptions
	*envelope
}

func (p *putting) exists() bool { return p.current.ETag != "" }

func (p *putting) file(w http.ResponseWriter, r *http.Request) error {
	if p.kind == 0 {
		if p.exists() {
			return fail(http.StatusBadRequest, "No file content provided")
		}
		p.Format = "text"
	}
	content, err := p.h.decoded(p.at.Owner, p.envelope)
	if err != nil {
		return err
	}
	defer content.Close()
	e, err := p.store(r.Context(), content.reader())
	if err != nil {
		return err
	}
	return p.saved(w, e, "")
}

func (p *putting) notebook(w http.ResponseWriter, r *http.Request) error {
	switch {
	case p.kind == 0 && p.exists():
		return fail(http.StatusBadRequest, "No file content provided")
	case p.kind == 0:
		p.content = p.h.spool(p.at.Owner, 1<<10)
		if _, err := io.WriteString(p.content, emptyNotebook); err != nil {
			return spoolFailed(err)
		}
	case p.kind != '{':
		return fail(http.StatusBadRequest, "The content of a notebook is an object")
	}
	e, wrong, err := p.h.saveNotebook(r.Context(), p)
	if err != nil {
		return err
	}
	return p.saved(w, e, wrong)
}

// saveNotebook stores a notebook in the form of files, remembers whether its author
// trusts it, and sees to it that it has a checkpoint.
func (h *Handlers) saveNotebook(ctx context.Context, p *putting) (e Entry, wrong string, err error) {
	file := h.spool(p.at.Owner, h.o.MaxFileBytes)
	defer file.Close()
	file.expect(p.content.size)
	trusted := false
	err = h.convert(ctx, p.path, p.content, func(nb *notebook) (err error) {
		wrong, trusted, err = nb.store(file)
		return err
	})
	if err != nil {
		return e, "", err
	}
	if e, err = p.store(ctx, file.reader()); err != nil {
		return e, "", err
	}
	// What follows is not worth a failed save: it was saved.
	if trusted {
		if err := h.trust(ctx, p.at, e.SHA256); err != nil {
			h.o.Log.Warn("cannot remember that a notebook is trusted", "error", err)
		}
	}
	if err := h.firstCheckpoint(ctx, p.at, p.path); err != nil {
		h.o.Log.Warn("cannot make a first checkpoint", "error", err)
	}
	return e, wrong, nil
}

// firstCheckpoint makes a checkpoint of a notebook that has none, as clients
// expect.
func (h *Handlers) firstCheckpoint(ctx context.Context, at At, path string) error {
	list, err := h.o.Store.Checkpoints(ctx, at.Workspace, path)
	if err == nil && len(list) == 0 {
		_, err = h.o.Store.MakeCheckpoint(ctx, at.Workspace, path, at.User, "")
	}
	return err
}

func (p *putting) store(ctx context.Context, body io.ReadSeeker) (Entry, error) {
	e, err := p.h.o.Store.Put(ctx, p.at.Workspace, p.path, body, p.options)
	return e, failed(err, p.path)
}

// saved answers that a file was written. wrong is what the schema says against it.
func (p *putting) saved(w http.ResponseWriter, e Entry, wrong string) error {
	status := http.StatusOK
	if !p.exists() {
		status = http.StatusCreated
	}
	// As jupyter_server tells it: create is for files that the server named.
	p.h.o.Observe("save", p.at.Workspace, p.path, "")
	m := modelOf(e, "", true)
	if wrong != "" {
		m.Message = validationMessage(wrong)
	}
	located(w, p.at, p.path)
	return m.write(w, status, e)
}

// partial is the entry of an upload under way.
func (p *putting) partial(size int64) Entry {
	now := time.Now().UTC().Truncate(time.Second)
	e := Entry{Path: p.path, Size: size, Modified: now, Created: now}
	if p.exists() {
		e.Created = p.current.Created
	}
	return e
}
