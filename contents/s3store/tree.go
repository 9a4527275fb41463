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
	t.files, err = s.latest(ctx, w, t.files)
	return err
}

// latest completes files that were listed, and returns those that are there still.
func (s *Store) latest(ctx context.Context, w *workspace, files []treeFile) ([]treeFile, error) {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(parallel)
	for i := range files {
		f := &files[i]
		group.Go(func() (err error) {
			f.object, err = s.head(ctx, s.base(w.name)+filesPart+fileKey(f.path), "")
			if errors.Is(err, contents.ErrNotFound) {
				return nil // another gateway deleted it; it has no version
			}
			return err
		})
	}
	err := group.Wait()
	return slices.DeleteFunc(files, func(f treeFile) bool { return f.version == "" }), err
}

// charge returns what the files of the tree count.
func (t *tree) charge() (bytes int64) {
	for _, f := range t.files {
		bytes += contents.Charge(f.size)
	}
	return bytes
}

// rebased returns where a path of the tree is when its root is elsewhere.
func (t *tree) rebased(path, root string) string { return root + path[len(t.root):] }

// removeFiles puts delete markers above files.
func (s *Store) removeFiles(ctx context.Context, w *workspace, files []treeFile) error {
	ids := make([]identifier, len(files))
	for i, f := range files {
		ids[i].key = s.base(w.name) + filesPart + fileKey(f.path)
		s.known.forget(ids[i].key)
	}
	if len(ids) == 1 {
		return s.remove(ctx, ids[0].key)
	}
	return s.removeAll(ctx, ids)
}

// removeTree removes a tree, whose path is claimed: files first, and directories
// from below, so that what is there can always be reached from the root.
func (s *Store) removeTree(ctx context.Context, w *workspace, t *tree) error {
	if err := s.removeFiles(ctx, w, t.files); err != nil {
		return err
	}
	return s.unmark(ctx, w, t.directories)
}

// unmark removes the markers of directories, which are sorted, and all of which are
// in the first. Nothing of them stays: nobody wants an old version of a directory,
// and a deletion would take as much room as the directory did. The first goes last:
// while it is there, what is left of the others is found.
func (s *Store) unmark(ctx context.Context, w *workspace, directories []string) error {
	if len(directories) == 0 {
		return nil
	}
	if err := s.unmarkAll(ctx, w, directories[1:]); err != nil {
		return err
	}
	return s.unmarkAll(ctx, w, directories[:1])
}

func (s *Store) unmarkAll(ctx context.Context, w *workspace, directories []string) error {
	for range maxRaces {
		markers, err := s.markers(ctx, w, directories)
		if err != nil || len(markers) == 0 {
			return err
		}
		if err := s.removeAll(ctx, markers); err != nil {
			return err
		}
		w.usage.add(-contents.Charge(0) * int64(len(markers)))
		// One that was written twice shows the version below now.
	}
	return unavailable("others make directories all the time")
}

// markers returns the latest versions of the markers of directories that are there,
// the last directory first.
func (s *Store) markers(ctx context.Context, w *workspace, directories []string) ([]identifier, error) {
	markers := make([]identifier, len(directories))
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(parallel)
	for i, path := range directories {
		group.Go(func() error {
			key := s.base(w.name) + filesPart + markerKey(path)
			o, err := s.head(ctx, key, "")
			if err == nil {
				markers[len(markers)-1-i] = identifier{key, o.version}
			} else if !errors.Is(err, contents.ErrNotFound) {
				return err
			}
			return nil
		})
	}
	err := group.Wait()
	return slices.DeleteFunc(markers, func(id identifier) bool { return id.key == "" }), err
}

// records returns the records of the files at a path and below it, by path.
func (s *Store) records(ctx context.Context, w *workspace, path string) (map[string]record, error) {
	paths, err := s.recorded(ctx, w, path)
	if err != nil {
		return nil, err
	}
	return s.recordsOf(ctx, w, paths)
}

// recorded returns the path and those below it of which there may be records.
func (s *Store) recorded(ctx context.Context, w *workspace, path string) (paths []string, err error) {
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
	return paths, nil
}

// recordsOf returns the records of files, of those that have one.
func (s *Store) recordsOf(ctx context.Context, w *workspace, paths []string) (map[string]record, error) {
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
