package s3store

import (
	"context"
	"fmt"

	"golang.org/x/sync/errgroup"

	"kernelgw/contents"
)

// Copy implements contents.Store. What it had copied before it failed is removed.
func (s *Store) Copy(ctx context.Context, workspace, from, to, author string) (contents.Entry, error) {
	w, err := s.enter(ctx, workspace, from, to)
	if err != nil {
		return contents.Entry{}, err
	}
	if from == "" || to == "" || from != to && within(from, to) {
		return contents.Entry{}, fmt.Errorf("cannot copy %s to %s: %w: a directory cannot be copied into itself", from, to, contents.ErrInvalid)
	}
	// The source is not claimed: each of its files is copied as it is at some
	// time.
	release, err := s.claims.take(ctx, w.name, to)
	if err != nil {
		return contents.Entry{}, err
	}
	defer release()
	e, err := s.copy(ctx, w, from, to, author)
	if err != nil {
		return contents.Entry{}, fmt.Errorf("cannot copy %s to %s: %w", from, to, err)
	}
	return e, nil
}

func (s *Store) copy(ctx context.Context, w *workspace, from, to, author string) (contents.Entry, error) {
	t, err := s.tree(ctx, w, from)
	if err != nil {
		return contents.Entry{}, err
	}
	if err := s.vacant(ctx, w, to); err != nil {
		return contents.Entry{}, err
	}
	space, err := s.room(ctx, w, t.charge()+int64(len(t.directories))*contents.Charge(0))
	if err != nil {
		return contents.Entry{}, err
	}
	defer space.release()
	copied := &tree{root: to}
	for _, path := range t.directories {
		copied.directories = append(copied.directories, t.rebased(path, to))
	}
	for _, f := range t.files {
		copied.files = append(copied.files, treeFile{path: t.rebased(f.path, to)})
	}
	for _, path := range append(copied.paths(), copied.directories...) {
		if err := s.checkPath(w.name, path); err != nil {
			return contents.Entry{}, err
		}
	}
	if err := s.copyTree(ctx, w, t, copied, author); err != nil {
		undo, cancel := cleanup(ctx)
		defer cancel()
		if err := s.removeTree(undo, w, copied); err != nil {
			s.log.Warn("a copy that failed cannot be removed", "workspace", w.name, "path", to, "err", err)
		}
		return contents.Entry{}, err
	}
	space.release()
	w.usage.add(t.charge()) // directories are counted already
	entries, err := s.arrived(ctx, w, journal{To: to}, t)
	if err != nil {
		return contents.Entry{}, err
	}
	for _, e := range entries {
		w.feed.publish(contents.Change{Path: e.Path, Entry: e, Source: "copy"})
	}
	return s.stat(ctx, w, to)
}

func (s *Store) copyTree(ctx context.Context, w *workspace, from, to *tree, author string) error {
	for _, path := range to.directories {
		if err := s.mark(ctx, w, path); err != nil {
			return err
		}
	}
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(parallel)
	for i, f := range from.files {
		group.Go(func() error {
			base := s.base(w.name) + filesPart
			meta := metadata{sha256: f.sha256, created: now(), author: author, source: "copy", executable: f.executable}
			_, _, err := s.copyObject(ctx, base+fileKey(f.path), f.version, base+fileKey(to.files[i].path), meta)
			return err
		})
	}
	return group.Wait()
}
