package s3store

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/oklog/ulid/v2"

	"kernelgw/contents"
)

// Delete implements contents.Store. What it removes stays where it is, below a
// delete marker, until it is purged. It goes on when ctx ends.
func (s *Store) Delete(ctx context.Context, workspace, path, author string, match contents.Match) error {
	w, err := s.enter(ctx, workspace, path)
	if err != nil {
		return err
	}
	if path == "" {
		return fmt.Errorf("cannot delete the root: %w", contents.ErrInvalid)
	}
	err = s.goOn(ctx, func(ctx context.Context) error {
		release, err := s.claims.take(ctx, w.name, path)
		if err != nil {
			return err
		}
		defer release()
		if err := s.meets(ctx, w, path, match); err != nil {
			return err
		}
		return s.delete(ctx, w, path, author)
	})
	if err != nil {
		return fmt.Errorf("cannot delete %s: %w", path, err)
	}
	return nil
}

// delete deletes what is at a claimed path.
func (s *Store) delete(ctx context.Context, w *workspace, path, author string) error {
	author = clip(author, maxAuthorBytes)
	o, err := s.file(ctx, w, path)
	if err == nil {
		return s.deleteFiles(ctx, w, author, []treeFile{{path, o}}, []string{path})
	}
	if !errors.Is(err, contents.ErrNotFound) {
		return err
	}
	if _, err := s.directory(ctx, w, path); err != nil {
		return err
	}
	j := journal{From: path, Delete: true, Author: author, At: now(), id: strings.ToLower(ulid.Make().String())}
	w.moving.Store(j.id, true)
	defer w.moving.Delete(j.id)
	d := deletion{store: s, w: w, journal: j}
	err = d.run(ctx)
	if err != nil && d.begun {
		w.broken.Add(1) // the next operation in the workspace finishes it first
	}
	return err
}

// run deletes all, or what there is room in the trash to delete: to finish that
// once there is room again would surprise whoever was told that there is none.
func (d *deletion) run(ctx context.Context) error {
	err := d.all(ctx)
	if errors.Is(err, contents.ErrFull) && d.begun {
		err = errors.Join(err, d.store.remove(ctx, d.store.journalKey(d.w, d.id)))
	}
	return err
}

// deletion is of a directory, whose path is claimed. It goes through the listing
// once, and removes so many files at a time, so that it needs as little memory for
// many as for few, and nothing else of the workspace waits for it.
type deletion struct {
	store *Store
	w     *workspace
	journal

	begun       bool            // the journal is written: there is more than one step
	recorded    map[string]bool // paths of which there may be records
	files       []treeFile      // of the step at hand; they have no versions yet
	directories []string
}

func (d *deletion) all(ctx context.Context) error {
	paths, err := d.store.recorded(ctx, d.w, d.From)
	if err != nil {
		return err
	}
	d.recorded = map[string]bool{}
	for _, path := range paths {
		d.recorded[path] = true
	}
	d.directories = []string{d.From}
	for e, err := range d.store.eachEntry(ctx, d.w, d.From, false) {
		if err != nil {
			return err
		}
		if e.Directory {
			d.directories = append(d.directories, e.Path)
			continue
		}
		if len(d.files) == maxTrashed {
			if err := d.begin(ctx); err != nil {
				return err
			}
			if err := d.step(ctx); err != nil {
				return err
			}
		}
		d.files = append(d.files, treeFile{path: e.Path})
	}
	if err := d.step(ctx); err != nil {
		return err
	}
	slices.Sort(d.directories)
	if err := d.store.unmark(ctx, d.w, d.directories); err != nil {
		return err
	}
	if err := d.store.removeRecords(ctx, d.w, slices.Sorted(maps.Keys(d.recorded))); err != nil {
		return err
	}
	for _, path := range slices.Backward(d.directories) {
		d.w.feed.publish(contents.Change{Path: path, Deleted: true, Source: "api"})
	}
	if !d.begun {
		return nil
	}
	return d.store.remove(ctx, d.store.journalKey(d.w, d.id))
}

// begin writes the journal, unless it is written.
func (d *deletion) begin(ctx context.Context) error {
	if d.begun {
		return nil
	}
	d.begun = true // a write that failed may have been done
	return d.store.putJournal(ctx, d.w, d.journal)
}

// step deletes the files that were gathered.
func (d *deletion) step(ctx context.Context) error {
	files, err := d.store.latest(ctx, d.w, d.files)
	if err != nil || len(files) == 0 {
		return err
	}
	var recorded []string
	for _, f := range files {
		if d.recorded[f.path] {
			recorded = append(recorded, f.path)
			delete(d.recorded, f.path)
		}
	}
	d.files = d.files[:0]
	return d.store.deleteFiles(ctx, d.w, d.Author, files, recorded)
}

// deleteFiles moves files to the trash, with the records that some of them may have.
func (s *Store) deleteFiles(ctx context.Context, w *workspace, author string, files []treeFile, recorded []string) error {
	records, err := s.recordsOf(ctx, w, recorded)
	if err != nil {
		return err
	}
	entry := trashOf(files, records, author)
	if err := s.putTrash(ctx, w, strings.ToLower(ulid.Make().String()), entry, condition{}); err != nil {
		return err
	}
	if err := s.removeFiles(ctx, w, files); err != nil {
		return err
	}
	if err := s.removeRecords(ctx, w, slices.Collect(maps.Keys(records))); err != nil {
		return err
	}
	for _, f := range files {
		w.feed.publish(contents.Change{Path: f.path, Deleted: true, Source: "api"})
	}
	return nil
}

func (s *Store) removeRecords(ctx context.Context, w *workspace, paths []string) error {
	ids := make([]identifier, len(paths))
	for i, path := range paths {
		ids[i].key = s.recordKey(w, path)
	}
	return s.removeAll(ctx, ids)
}

// finishDelete deletes what is left of a directory.
func (s *Store) finishDelete(ctx context.Context, w *workspace, j journal) error {
	release, err := s.claims.take(ctx, w.name, j.From)
	if err != nil {
		return err
	}
	defer release()
	// Its marker went last.
	if _, err := s.directory(ctx, w, j.From); errors.Is(err, contents.ErrNotFound) {
		return s.remove(ctx, s.journalKey(w, j.id))
	} else if err != nil {
		return err
	}
	d := deletion{store: s, w: w, journal: j, begun: true}
	return d.run(ctx)
}
