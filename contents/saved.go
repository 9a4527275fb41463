package contents

import (
	"context"
	"io"
)

// Saved returns a file or directory that clients may see, and a function that
// opens the content of a file as it is now. Its errors are an *Error, too.
func (h *Handlers) Saved(ctx context.Context, at At) (Entry, func(context.Context) (io.ReadCloser, error), error) {
	path, err := visible(at.Path)
	if err != nil {
		return Entry{}, nil, err
	}
	e, err := h.o.Store.Stat(ctx, at.Workspace, path)
	if err != nil {
		return Entry{}, nil, failed(err, path)
	}
	return e, func(ctx context.Context) (io.ReadCloser, error) {
		content, _, err := h.o.Store.Open(ctx, at.Workspace, path, e.Version, 0, -1)
		return content, failed(err, path)
	}, nil
}
