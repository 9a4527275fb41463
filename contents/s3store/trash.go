package s3store

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/oklog/ulid/v2"
	"golang.org/x/sync/errgroup"

	"kernelgw/contents"
)

// trashed is what one Delete removed, or a part of that. It is written before anything is removed:
// killed in between, the store shows a file as deleted that is still there, which
// harms nobody, rather than the reverse.
type trashed struct {
	Deleted time.Time     `json:"deleted"`
	Author  string        `json:"author,omitempty"`
	Files   []trashedFile `json:"files"`

	id string
}

type trashedFile struct {
	Path     string    `json:"path"`
	Version  string    `json:"version"`
	Size     int64     `json:"size"`
	Modified time.Time `json:"modified"`
	Record   *record   `json:"record,omitempty"`
	Gone     bool      `json:"gone,omitempty"` // brought back, or purged
}

func (s *Store) trashKey(w *workspace, id string) string { return s.base(w.name) + trashPart + id }

// Delete implements contents.Store. What it removes stays where it is, below a
// delete marker, until it is purged.
func (s *Store) Delete(ctx context.Context, workspace, path, author, ifMatch string) error {
	w, err := s.enter(ctx, workspace, path)
	if err != nil {
		return err
	}
	if path == "" {
		return fmt.Errorf("cannot delete the root: %w", contents.ErrInvalid)
	}
	release, err := s.claims.take(ctx, w.name, path)
	if err != nil {
		return err
	}
	defer release()
	if err := s.delete(ctx, w, path, author, ifMatch); err != nil {
		return fmt.Errorf("cannot delete %s: %w", path, err)
	}
	return nil
}

func (s *Store) delete(ctx context.Context, w *workspace, path, author, ifMatch string) error {
	t, err := s.tree(ctx, w, path)
	if err != nil {
		return err
	}
	if ifMatch != "" && len(t.directories) == 0 && t.files[0].etag != ifMatch {
		return changed(path, t.files[0].object, true)
	}
	records, err := s.records(ctx, w, path)
	if err != nil {
		return err
	}
	for _, entry := range trashOf(t, records, author) {
		if err := s.putTrash(ctx, w, strings.ToLower(ulid.Make().String()), entry, condition{}); err != nil {
			return err
		}
	}
	if err := s.removeTree(ctx, w, t); err != nil {
		return err
	}
	var ids []identifier
	for path := range records {
		ids = append(ids, identifier{key: s.recordKey(w, path)})
	}
	if err := s.removeAll(ctx, ids); err != nil {
		return err
	}
	t.tellDeleted(w, "api")
	return nil
}

// maxTrashed is how many files an entry has: it is read and written whole, and
// with the longest paths of a large tree it would be more than can be read again.
const maxTrashed = 1000

// trashOf returns the entries of a tree.
func trashOf(t *tree, records map[string]record, author string) (entries []trashed) {
	for some := range slices.Chunk(t.files, maxTrashed) {
		entry := trashed{Deleted: now(), Author: clip(author, maxAuthorBytes)}
		for _, f := range some {
			file := trashedFile{Path: f.path, Version: f.version, Size: f.size, Modified: f.modified}
			if r, ok := records[f.path]; ok {
				file.Record = &r
			}
			entry.Files = append(entry.Files, file)
		}
		entries = append(entries, entry)
	}
	return entries
}

// tellDeleted publishes that a tree is gone, from below.
func (t *tree) tellDeleted(w *workspace, source string) {
	for _, f := range t.files {
		w.feed.publish(contents.Change{Path: f.path, Deleted: true, Source: source})
	}
	for _, path := range slices.Backward(t.directories) {
		w.feed.publish(contents.Change{Path: path, Deleted: true, Source: source})
	}
}

func (s *Store) putTrash(ctx context.Context, w *workspace, id string, entry trashed, c condition) error {
	body, err := json.Marshal(entry)
	if err != nil {
		return err
	}
	_, err = s.putBytes(ctx, s.trashKey(w, id), body, c)
	return err
}

// Trash implements contents.Store.
func (s *Store) Trash(ctx context.Context, workspace string) ([]contents.Trashed, error) {
	w, err := s.enter(ctx, workspace)
	if err != nil {
		return nil, err
	}
	entries, err := s.trash(ctx, w)
	if err != nil {
		return nil, fmt.Errorf("cannot list the trash: %w", err)
	}
	var all []contents.Trashed
	// An entry of a Delete that failed is not removed: the Delete that worked has
	// another one, of the same version.
	seen := map[identifier]bool{}
	for _, entry := range entries {
		for i, f := range entry.Files {
			id := identifier{f.Path, f.Version}
			if !f.Gone && !seen[id] {
				seen[id] = true
				all = append(all, contents.Trashed{
					ID: entry.id + "-" + strconv.Itoa(i), Path: f.Path, Size: f.Size, Deleted: entry.Deleted, Author: entry.Author,
				})
			}
		}
	}
	return all, nil
}

// trash returns all entries, newest first.
func (s *Store) trash(ctx context.Context, w *workspace) ([]trashed, error) {
	var ids []string
	for o, err := range s.list(ctx, s.base(w.name)+trashPart, false) {
		if err != nil {
			return nil, err
		}
		ids = append(ids, o.key)
	}
	slices.Sort(ids)
	slices.Reverse(ids)
	entries := make([]trashed, len(ids))
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(parallel)
	for i, id := range ids {
		group.Go(func() error {
			entry, _, err := s.trashEntry(ctx, w, id)
			if errors.Is(err, contents.ErrNotFound) {
				return nil // purged meanwhile
			}
			entries[i] = entry
			return err
		})
	}
	return entries, group.Wait()
}

func (s *Store) trashEntry(ctx context.Context, w *workspace, id string) (entry trashed, etag string, err error) {
	body, o, err := s.getBytes(ctx, s.trashKey(w, id))
	if err != nil {
		return trashed{}, "", err
	}
	if err := json.Unmarshal(body, &entry); err != nil {
		return trashed{}, "", fmt.Errorf("the trash entry %s is damaged: %w", id, err)
	}
	entry.id = id
	return entry, o.etag, nil
}

// trashFile returns the file that an id of Trash names.
func (s *Store) trashFile(ctx context.Context, w *workspace, id string) (entry trashed, index int, err error) {
	name, number, ok := strings.Cut(id, "-")
	index, err = strconv.Atoi(number)
	if !ok || err != nil || len(name) != ulid.EncodedSize || escapeWord(name) != name {
		return trashed{}, 0, contents.ErrNotFound
	}
	entry, _, err = s.trashEntry(ctx, w, name)
	if err != nil {
		return trashed{}, 0, err
	}
	if index < 0 || index >= len(entry.Files) || entry.Files[index].Gone {
		return trashed{}, 0, contents.ErrNotFound
	}
	return entry, index, nil
}

// leaveTrash takes files out of an entry, and removes it with the last one.
func (s *Store) leaveTrash(ctx context.Context, w *workspace, id string, indexes ...int) error {
	for range maxRaces {
		entry, etag, err := s.trashEntry(ctx, w, id)
		if errors.Is(err, contents.ErrNotFound) {
			return nil
		}
		if err != nil {
			return err
		}
		for _, i := range indexes {
			entry.Files[i].Gone = true
		}
		if !slices.ContainsFunc(entry.Files, func(f trashedFile) bool { return !f.Gone }) {
			return s.remove(ctx, s.trashKey(w, id))
		}
		err = s.putTrash(ctx, w, id, entry, condition{etag: etag})
		if !errors.Is(err, errPrecondition) && !errors.Is(err, contents.ErrNotFound) {
			return err
		}
	}
	return unavailable("others write the trash all the time")
}

// Undelete implements contents.Store.
func (s *Store) Undelete(ctx context.Context, workspace, id string) (contents.Entry, error) {
	w, err := s.enter(ctx, workspace)
	if err != nil {
		return contents.Entry{}, err
	}
	e, err := s.undelete(ctx, w, id)
	if err != nil {
		return contents.Entry{}, fmt.Errorf("cannot bring %s back: %w", id, err)
	}
	return e, nil
}

func (s *Store) undelete(ctx context.Context, w *workspace, id string) (contents.Entry, error) {
	entry, index, err := s.trashFile(ctx, w, id)
	if err != nil {
		return contents.Entry{}, err
	}
	file := entry.Files[index]
	release, err := s.claims.take(ctx, w.name, file.Path)
	if err != nil {
		return contents.Entry{}, err
	}
	defer release()
	if _, err := s.file(ctx, w, file.Path); err == nil {
		return contents.Entry{}, contents.ErrExists
	} else if !errors.Is(err, contents.ErrNotFound) {
		return contents.Entry{}, err
	}
	switch err := s.prepare(ctx, w, file.Path, true); {
	case errors.Is(err, contents.ErrIsDirectory):
		return contents.Entry{}, contents.ErrExists
	case err != nil:
		return contents.Entry{}, err
	}
	old, err := s.head(ctx, s.base(w.name)+filesPart+fileKey(file.Path), file.Version)
	if err != nil {
		return contents.Entry{}, err
	}
	all, err := s.versionsOf(ctx, w, file.Path)
	if err != nil {
		return contents.Entry{}, err
	}
	f := treeFile{file.Path, old}
	relocated, err := s.relocate(ctx, w, f, belowVersion(all, f), file.Path, "restore", "")
	if err != nil {
		return contents.Entry{}, err
	}
	if file.Record != nil {
		if err := s.putRecord(ctx, w, file.Path, relocated.rewrite(*file.Record)); err != nil {
			return contents.Entry{}, err
		}
	}
	if err := s.leaveTrash(ctx, w, entry.id, index); err != nil {
		return contents.Entry{}, err
	}
	if err := s.removeAll(ctx, []identifier{relocated.from}); err != nil {
		return contents.Entry{}, err
	}
	e, err := s.stat(ctx, w, file.Path)
	if err != nil {
		return contents.Entry{}, err
	}
	w.feed.publish(contents.Change{Path: file.Path, Entry: e, Source: "restore"})
	return e, nil
}

// Purge implements contents.Store.
func (s *Store) Purge(ctx context.Context, workspace, id string) error {
	w, err := s.enter(ctx, workspace)
	if err != nil {
		return err
	}
	if id == "" {
		err = s.purgeBefore(ctx, w, time.Time{})
	} else {
		var entry trashed
		var index int
		if entry, index, err = s.trashFile(ctx, w, id); err == nil {
			err = s.purge(ctx, w, entry, index)
		}
	}
	if err != nil {
		return fmt.Errorf("cannot purge the trash: %w", err)
	}
	return nil
}

// purgeBefore purges what was deleted before a time; the zero time is all.
func (s *Store) purgeBefore(ctx context.Context, w *workspace, before time.Time) error {
	entries, err := s.trash(ctx, w)
	if err != nil {
		return err
	}
	for _, entry := range entries {
		if !before.IsZero() && !entry.Deleted.Before(before) {
			continue
		}
		var indexes []int
		for i, f := range entry.Files {
			if !f.Gone {
				indexes = append(indexes, i)
			}
		}
		if err := s.purge(ctx, w, entry, indexes...); err != nil {
			return err
		}
	}
	return nil
}

// purge removes the versions of files of an entry, and those files from it.
func (s *Store) purge(ctx context.Context, w *workspace, entry trashed, indexes ...int) error {
	if entry.id == "" {
		return nil
	}
	paths := make([]string, len(indexes))
	for i, index := range indexes {
		paths[i] = entry.Files[index].Path
	}
	if len(paths) == 0 {
		return s.remove(ctx, s.trashKey(w, entry.id))
	}
	release, err := s.claims.take(ctx, w.name, paths...)
	if err != nil {
		return err
	}
	defer release()
	group, groupCtx := errgroup.WithContext(ctx)
	group.SetLimit(parallel)
	for _, index := range indexes {
		group.Go(func() error { return s.purgeFile(groupCtx, w, entry.Files[index]) })
	}
	if err := group.Wait(); err != nil {
		return err
	}
	return s.leaveTrash(ctx, w, entry.id, indexes...)
}

// purgeFile removes all versions of a file that was deleted.
func (s *Store) purgeFile(ctx context.Context, w *workspace, file trashedFile) error {
	all, err := s.versionsOf(ctx, w, file.Path)
	if err != nil {
		return err
	}
	i := slices.IndexFunc(all, func(v seenVersion) bool { return v.version == file.Version })
	switch {
	case i < 0:
		return nil // gone already
	case i == 0 || !all[i-1].deleted:
		return nil // it was never deleted: the store was killed in between
	}
	var links []severed
	if file.Record != nil {
		links = file.Record.Links
	}
	past, err := s.historyFrom(ctx, w, file.Path, &link{Path: file.Path, Version: file.Version, At: file.Modified}, links)
	if err != nil {
		return err
	}
	freed := int64(0)
	ids := make([]identifier, len(past))
	for i, v := range past {
		ids[i] = v.id
		freed += v.size
	}
	slices.Reverse(ids) // what leads to older ones last
	if err := s.removeAll(ctx, ids); err != nil {
		return err
	}
	w.usage.add(-freed)
	below := all[i:]
	if slices.ContainsFunc(below, func(v seenVersion) bool { return !slices.Contains(ids, identifier{v.key, v.version}) }) {
		return nil
	}
	return s.removeAll(ctx, []identifier{{all[i-1].key, all[i-1].version}}) // hides nothing any more
}
