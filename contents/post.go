package contents

import (
	"context"
	"errors"
	"io"
	"net/http"
	"path"
	"regexp"
	"strconv"
	"strings"
)

// Post answers POST api/contents/PATH, PATH being a directory: it makes something
// without a name of its own, or a copy.
func (h *Handlers) Post(w http.ResponseWriter, r *http.Request, at At) error {
	e, err := h.readEnvelope(w, r, at.Owner)
	if err != nil {
		return err
	}
	defer e.Close()
	if e.CopyFrom != "" {
		return h.copy(w, r, at, e.CopyFrom)
	}
	return h.untitled(w, r, at, e)
}

// untitled makes an empty file, notebook or directory in a directory.
func (h *Handlers) untitled(w http.ResponseWriter, r *http.Request, at At, e *envelope) error {
	directory, err := visible(at.Path)
	if err != nil {
		return err
	}
	parent, err := h.o.Store.Stat(r.Context(), at.Workspace, directory)
	if err != nil {
		return failed(err, directory)
	}
	if !parent.Directory {
		return fail(http.StatusBadRequest, "Cannot POST to files, use PUT instead.")
	}
	if strings.ContainsAny(e.Ext, "/") {
		return fail(http.StatusBadRequest, "%q is no extension", e.Ext)
	}
	kind, stem, insert, ext := typeFile, "untitled", "", e.Ext
	switch {
	case e.Type == typeDirectory:
		kind, stem, insert, ext = typeDirectory, "Untitled Folder", " ", ""
	case e.Type == typeNotebook, e.Type == "" && e.Ext == ".ipynb":
		kind, stem, ext = typeNotebook, "Untitled", ".ipynb"
	}
	var made Entry
	target, err := h.firstFree(r.Context(), at, directory, name{stem, insert, ext}, func(target string) error {
		var err error
		made, err = h.makeEmpty(r.Context(), at, target, kind)
		return err
	})
	if err != nil {
		return failed(err, target)
	}
	h.o.Observe("create", at.Workspace, target, "")
	located(w, at, target)
	m := modelOf(made, kind, true)
	return m.write(w, http.StatusCreated, made)
}

// makeEmpty makes something at a path that is free; ErrExists when it is not.
func (h *Handlers) makeEmpty(ctx context.Context, at At, target, kind string) (Entry, error) {
	if _, err := Clean(target); err != nil {
		return Entry{}, err
	}
	if kind == typeDirectory {
		e, created, err := h.o.Store.MakeDirectory(ctx, at.Workspace, target)
		if err == nil && !created || errors.Is(err, ErrNotDirectory) {
			err = ErrExists
		}
		return e, err
	}
	p := &putting{
		h: h, at: at, path: target, envelope: &envelope{Type: kind, content: h.spool(at.Owner, 1<<10)},
		options: PutOptions{Author: at.User, IfNone: true},
	}
	defer p.Close()
	var e Entry
	var err error
	if kind == typeNotebook {
		if _, err := io.WriteString(p.content, emptyNotebook); err != nil {
			return e, spoolFailed(err)
		}
		e, _, err = h.saveNotebook(ctx, p)
	} else {
		e, err = p.store(ctx, strings.NewReader(""))
	}
	var changed *ChangedError
	if errors.As(err, &changed) || errors.Is(err, ErrIsDirectory) {
		err = ErrExists
	}
	return e, err
}

// name is a name with a place for a number.
type name struct{ stem, insert, ext string }

// with returns the name with a number; 0 is none.
func (n name) with(number int) string {
	if number == 0 {
		return n.stem + n.ext
	}
	return n.stem + n.insert + strconv.Itoa(number) + n.ext
}

// triesBeforeList is how many names are tried before the directory is listed to
// find a free one.
const triesBeforeList = 8

// firstFree calls try with one name after the other until it is not ErrExists.
func (h *Handlers) firstFree(ctx context.Context, at At, directory string, n name, try func(target string) error) (target string, err error) {
	taken := map[string]bool{}
	for number, tries := 0, 0; ; number++ {
		target = join(directory, n.with(number))
		if taken[target] {
			continue
		}
		if err = try(target); !errors.Is(err, ErrExists) || tries >= 10*triesBeforeList {
			return target, err
		}
		if tries++; tries == triesBeforeList {
			list, err := h.o.Store.List(ctx, at.Workspace, directory)
			if err != nil {
				return target, err
			}
			for _, e := range list {
				taken[e.Path] = true
			}
		}
	}
}

// copyNumber is what an earlier copy put into a name.
var copyNumber = regexp.MustCompile(`-Copy\d*\.`)

// copy copies a file or a directory, into a directory or to a path of its own.
func (h *Handlers) copy(w http.ResponseWriter, r *http.Request, at At, source string) error {
	from, err := writable(strings.TrimLeft(source, "/"))
	if err != nil {
		return err
	}
	to, err := writable(at.Path)
	if err != nil {
		return err
	}
	if from == "" {
		return fail(http.StatusBadRequest, "The root cannot be copied")
	}
	original, err := h.o.Store.Stat(r.Context(), at.Workspace, from)
	if err != nil {
		return failed(err, from)
	}
	target, err := h.o.Store.Stat(r.Context(), at.Workspace, to)
	var made Entry
	try := func(target string) error {
		var err error
		made, err = h.o.Store.Copy(r.Context(), at.Workspace, from, target, at.User)
		return err
	}
	switch {
	case errors.Is(err, ErrNotFound):
		err = try(to)
	case err == nil && !target.Directory:
		return fail(http.StatusBadRequest, "Cannot POST to files, use PUT instead.")
	case err == nil:
		to, err = h.firstFree(r.Context(), at, to, copyName(original), try)
	}
	if err != nil {
		return failed(err, to)
	}
	h.o.Observe("copy", at.Workspace, to, from)
	located(w, at, to)
	m := modelOf(made, "", true)
	return m.write(w, http.StatusCreated, made)
}

// copyName returns what a copy is called.
func copyName(original Entry) name {
	base := path.Base(original.Path)
	if original.Directory {
		return name{base, "-Copy", ""}
	}
	base = copyNumber.ReplaceAllString(base, ".")
	at := strings.IndexByte(base, '.')
	if strings.HasSuffix(base, ".ipynb") {
		at = len(base) - len(".ipynb")
	}
	if at < 0 {
		at = len(base)
	}
	return name{base[:at], "-Copy", base[at:]}
}
