package s3store

import (
	"context"
	"errors"
	"slices"

	"golang.org/x/sync/errgroup"

	"kernelgw/contents"
)

// maxTree is how many files and directories one operation takes.
const maxTree = 20_000

// tree is a file, or a directory with all below it, at the paths they are now.
type tree struct {
	root        string
	files       []treeFile
	directories []string // sorted: a directory comes after the one that it is in
}

// treeFile is the latest version of a file in a tree.
type treeFile struct {
	path string
	object
}

// tree returns what is at a path.
func (s *Store) tree(ctx context.Context, w *workspace, path string) (*tree, error) {
	t := &tree{root: path}
	o, err := s.file(ctx, w, path)
	if err == nil {
		t.files = []treeFile{{path, o}}
		return t, nil
	}
	if !errors.Is(err, contents.ErrNotFound) {
		return nil, err
	}
	if _, err := s.directory(ctx, w, path); err != nil {
		return nil, err
	}
	return t, s.below(ctx, w, t)
}

// below completes the tree of a directory.
func (s *Store) below(ctx context.Context, w *workspace, t *tree) error {
	t.directories = []string{t.root}
	entries, err := s.entries(ctx, w, t.root, false)
	if err != nil {
		return err
	}
	if len(entries) > maxTree {
		return contents.ErrTooLarge
	}
	for _, e := range entries {
		if e.Directory {
			t.directories = append(t.directories, e.Path)
		} else {
			t.files = append(t.files, treeFile{path: e.Path})
		}
	}
	slices.Sort(t.directories)
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(parallel)
	for i := range t.files {
		f := &t.files[i]
		group.Go(func() (err error) {
			f.object, err = s.head(ctx, s.base(w.name)+filesPart+fileKey(f.path), "")
			if errors.Is(err, contents.ErrNotFound) {
				return nil // another gateway deleted it; it has no version
			}
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return err
	}
	t.files = slices.DeleteFunc(t.files, func(f treeFile) bool { return f.version == "" })
	return nil
}

func (t *tree) size() (bytes int64) {
	for _, f := range t.files {
		bytes += f.size
	}
	return bytes
}

// rebased returns where a path of the tree is when its root is elsewhere.
func (t *tree) rebased(path, root string) string { return root + path[len(t.root):] }

// fileKeys returns the objects of the files of the tree.
func (s *Store) fileKeys(w *workspace, t *tree) []identifier {
	ids := make([]identifier, len(t.files))
	for i, f := range t.files {
		ids[i].key = s.base(w.name) + filesPart + fileKey(f.path)
	}
	return ids
}

// removeTree removes a tree, whose path is claimed: files first, and directories
// from below, so that what is there can always be reached from the root.
func (s *Store) removeTree(ctx context.Context, w *workspace, t *tree) error {
	ids := s.fileKeys(w, t)
	for _, id := range ids {
		s.known.forget(id.key)
	}
	if len(ids) == 1 {
		if err := s.remove(ctx, ids[0].key); err != nil {
			return err
		}
	} else if err := s.removeAll(ctx, ids); err != nil {
		return err
	}
	return s.unmark(ctx, w, t)
}

// unmark removes the markers of the directories of a tree, from below.
func (s *Store) unmark(ctx context.Context, w *workspace, t *tree) error {
	markers := make([]identifier, len(t.directories))
	for i, path := range t.directories {
		markers[len(markers)-1-i].key = s.base(w.name) + filesPart + markerKey(path)
	}
	return s.removeAll(ctx, markers)
}

// records returns the records of the files at a path and below it.
func (s *Store) records(ctx context.Context, w *workspace, path string) (map[string]record, error) {
	var paths []string
	if path != "" {
		paths = append(paths, path)
	}
	prefix := s.base(w.name) + checkpointsPart + directoryKey(path)
	for o, err := range s.list(ctx, prefix, false) {
		if err != nil {
			return nil, err
		}
		if found, directory, ok := parseKey(directoryKey(path) + o.key); ok && !directory {
			paths = append(paths, found)
		}
	}
	all := make([]record, len(paths))
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(parallel)
	for i, path := range paths {
		group.Go(func() (err error) {
			all[i], _, err = s.record(ctx, w, path)
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	byPath := map[string]record{}
	for i, path := range paths {
		if !all[i].empty() {
			byPath[path] = all[i]
		}
	}
	return byPath, nil
}

// putRecord writes a record, whatever was there.
func (s *Store) putRecord(ctx context.Context, w *workspace, path string, r record) error {
	return s.updateRecord(ctx, w, path, func(now *record) error { *now = r; return nil })
}
