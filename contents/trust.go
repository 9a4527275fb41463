package contents

import (
	"context"
	"errors"
	"hash/maphash"
	"io/fs"
	"net/http"
	"slices"
	"strings"
)

// Which notebooks a person trusts is a set of hashes of stored notebooks: a file
// that anybody changed is another one. The set is in as many documents as two hex
// digits can name, so that each is small.
const (
	trustDocument = "trusted-notebooks/"
	// trustKept is how many hashes a document has: all together 65,536, as many as
	// stock servers keep. The oldest give way.
	trustKept = 256
)

// trusts reports whether a person trusts a notebook of that hash. When it cannot
// be known, they do not.
func (h *Handlers) trusts(ctx context.Context, at At, hash string) bool {
	known, err := h.trusted(ctx, at, hash)
	if err != nil {
		h.o.Log.Warn("cannot find out whether a notebook is trusted", "error", err)
	}
	return slices.Contains(known, hash)
}

func (h *Handlers) trusted(ctx context.Context, at At, hash string) ([]string, error) {
	if h.o.Documents == nil || at.Owner == "" || len(hash) < 2 {
		return nil, nil
	}
	body, _, err := h.o.Documents.GetDocument(ctx, at.Owner, trustDocument+hash[:2])
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return strings.Fields(string(body)), err
}

// trust remembers that a person trusts a notebook. Another gateway that does so at
// the same time may win: then the notebook must be trusted once more.
func (h *Handlers) trust(ctx context.Context, at At, hash string) error {
	lock := &h.trusting[maphash.String(h.seed, at.Owner+hash[:min(2, len(hash))])%uint64(len(h.trusting))]
	lock.Lock()
	defer lock.Unlock()
	known, err := h.trusted(ctx, at, hash)
	if err != nil || slices.Contains(known, hash) || h.o.Documents == nil || at.Owner == "" || len(hash) < 2 {
		return err
	}
	known = append(known, hash)
	known = known[max(0, len(known)-trustKept):]
	return h.o.Documents.PutDocument(ctx, at.Owner, trustDocument+hash[:2], []byte(strings.Join(known, "\n")))
}

// Trust answers POST api/contents/PATH/trust: the notebook as it is now is trusted
// by the caller.
func (h *Handlers) Trust(w http.ResponseWriter, r *http.Request, at At) error {
	path, err := visible(at.Path)
	if err != nil {
		return err
	}
	e, err := h.o.Store.Stat(r.Context(), at.Workspace, path)
	if err != nil {
		return failed(err, path)
	}
	if e.Directory || typeOf(path) != typeNotebook {
		return fail(http.StatusBadRequest, "%s is no notebook", path)
	}
	if err := h.trust(r.Context(), at, e.SHA256); err != nil {
		return failed(err, path)
	}
	w.WriteHeader(http.StatusCreated)
	return nil
}
