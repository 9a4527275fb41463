package s3store

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
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

// maxTrashed is how many files an entry has: it is read and written whole, and
// with the longest paths of a large tree it would be more than can be read again.
const maxTrashed = 1000

// trashOf returns the entry of files, at most maxTrashed.
func trashOf(files []treeFile, records map[string]record, author string) trashed {
	entry := trashed{Deleted: now(), Author: author}
	for _, f := range files {
		file := trashedFile{Path: f.path, Version: f.version, Size: f.size, Modified: f.modified}
		if r, ok := records[f.path]; ok {
			file.Record = &r
		}
		entry.Files = append(entry.Files, file)
	}
	return entry
}

func (s *Store) putTrash(ctx context.Context, w *workspace, id string, entry trashed, c condition) error {
	body, err := json.Marshal(entry)
	if err != nil {
		return err
	}
	w.carried.tell(func(pin func(identifier)) { s.pinsIn(w, entry, pin) })
	_, err = s.putBytes(ctx, s.trashKey(w, id), body, c)
	return err
}

// Trash implements contents.Store.
func (s *Store) Trash(ctx context.Context, workspace, after string, limit int) ([]contents.Trashed, error) {
	w, err := s.enter(ctx, workspace)
	if err != nil {
		return nil, err
	}
	all, err := s.trashPage(ctx, w, after, limit)
	if err != nil {
		return nil, fmt.Errorf("cannot list the trash: %w", err)
	}
	return all, nil
}

func (s *Store) trashPage(ctx context.Context, w *workspace, after string, limit int) (all []contents.Trashed, err error) {
	last, lastIndex, ok := "", -1, true
	if after != "" {
		if last, lastIndex, ok = parseTrashID(after); !ok {
			return nil, fmt.Errorf("trash entry %.64q: %w", after, contents.ErrNotFound)
		}
	}
	ids, err := s.trashIDs(ctx, w)
	if err != nil {
		return nil, err
	}
	ids = slices.DeleteFunc(ids, func(id string) bool { return after != "" && id > last })
	// An entry of a Delete that failed is not removed: the Delete that worked has
	// another one, of the same version.
	seen := map[identifier]bool{}
	for entry, err := range s.trash(ctx, w, ids) {
		if err != nil {
			return nil, err
		}
		for i, f := range entry.Files {
			id := identifier{f.Path, f.Version}
			if f.Gone || seen[id] || entry.id == last && i <= lastIndex {
				continue
			}
			seen[id] = true
			all = append(all, contents.Trashed{
				ID: trashID(entry.id, i), Path: f.Path, Size: f.Size, Deleted: entry.Deleted, Author: entry.Author,
			})
			if len(all) == limit {
				return all, nil
			}
		}
	}
	return all, nil
}

// trashID is what a file of an entry is called.
func trashID(entry string, index int) string { return entry + "-" + strconv.Itoa(index) }

func parseTrashID(id string) (entry string, index int, ok bool) {
	entry, number, _ := strings.Cut(id, "-")
	index, err := strconv.Atoi(number)
	return entry, index, err == nil && index >= 0 && len(entry) == ulid.EncodedSize && escapeWord(entry) == entry
}

// trashIDs returns the ids of all entries, newest first.
func (s *Store) trashIDs(ctx context.Context, w *workspace) (ids []string, err error) {
	for o, err := range s.list(ctx, s.base(w.name)+trashPart, false) {
		if err != nil {
			return nil, err
		}
		ids = append(ids, o.key)
	}
	slices.Sort(ids)
	slices.Reverse(ids)
	return ids, nil
}

// trash yields entries in the order of their ids, some of which are read ahead.
func (s *Store) trash(ctx context.Context, w *workspace, ids []string) iter.Seq2[trashed, error] {
	return func(yield func(trashed, error) bool) {
		for some := range slices.Chunk(ids, parallel) {
			entries := make([]trashed, len(some))
			group, ctx := errgroup.WithContext(ctx)
			for i, id := range some {
				group.Go(func() error {
					entry, _, err := s.trashEntry(ctx, w, id)
					if errors.Is(err, contents.ErrNotFound) {
						return nil // purged meanwhile
					}
					entries[i] = entry
					return err
				})
			}
			if err := group.Wait(); err != nil {
				yield(trashed{}, err)
				return
			}
			for _, entry := range entries {
				if entry.id != "" && !yield(entry, nil) {
					return
				}
			}
		}
	}
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
	name, index, ok := parseTrashID(id)
	if !ok {
		return trashed{}, 0, contents.ErrNotFound
	}
	entry, _, err = s.trashEntry(ctx, w, name)
	if err != nil {
		return trashed{}, 0, err
	}
	if index >= len(entry.Files) || entry.Files[index].Gone {
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
			err = s.purge(ctx, w, entry, []int{index})
		}
	}
	if err != nil {
		return fmt.Errorf("cannot purge the trash: %w", err)
	}
	return nil
}

// purgeBefore purges what was deleted before a time; the zero time is all.
func (s *Store) purgeBefore(ctx context.Context, w *workspace, before time.Time) error {
	ids, err := s.trashIDs(ctx, w)
	if err != nil {
		return err
	}
	if !before.IsZero() {
		ids = slices.DeleteFunc(ids, func(id string) bool { return laterThan(id, before) })
	}
	for entry, err := range s.trash(ctx, w, ids) {
		if err != nil {
			return err
		}
		if !before.IsZero() && !entry.Deleted.Before(before) {
			continue
		}
		var indexes []int
		for i, f := range entry.Files {
			if !f.Gone {
				indexes = append(indexes, i)
			}
		}
		if err := s.purge(ctx, w, entry, indexes); err != nil {
			return err
		}
	}
	return nil
}

// laterThan reports whether an id was surely made after a time, by whatever clock
// an entry has: then it is not read to see that it stays.
func laterThan(id string, at time.Time) bool {
	u, err := ulid.ParseStrict(strings.ToUpper(id))
	return err == nil && ulid.Time(u.Time()).After(at.Add(time.Minute))
}

// purgeStep is how many files are purged under one claim: who writes one of them
// waits for so many.
const purgeStep = 32

// purge removes the versions of files of an entry, and those files from it.
func (s *Store) purge(ctx context.Context, w *workspace, entry trashed, indexes []int) error {
	if len(indexes) == 0 {
		return s.remove(ctx, s.trashKey(w, entry.id))
	}
	for some := range slices.Chunk(indexes, purgeStep) {
		if err := s.purgeSome(ctx, w, entry, some); err != nil {
			return err
		}
	}
	return nil
}

func (s *Store) purgeSome(ctx context.Context, w *workspace, entry trashed, indexes []int) error {
	paths := make([]string, len(indexes))
	for i, index := range indexes {
		paths[i] = entry.Files[index].Path
	}
	release, err := s.claims.take(ctx, w.name, paths...)
	if err != nil {
		return err
	}
	defer release()
	// Each looks once more what became of the file since the entry was read.
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
		freed += contents.Charge(v.size)
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
