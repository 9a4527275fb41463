package s3store

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"kernelgw/contents"
)

// parallel is how many requests one operation makes at a time.
const parallel = 24

// maxMoves bounds how far a history is followed.
const maxMoves = 200

// pastVersion is a version of a file, wherever the file was then.
type pastVersion struct {
	path string
	id   identifier
	object
}

// history returns the versions of the file at a path, newest first, as listings
// show them: see describe. It goes on where the file came from.
func (s *Store) history(ctx context.Context, w *workspace, path string) ([]pastVersion, error) {
	r, _, err := s.record(ctx, w, path)
	if err != nil {
		return nil, err
	}
	all, err := s.historyFrom(ctx, w, path, nil, r.Links)
	if err == nil && len(all) == 0 {
		return nil, s.orDirectory(ctx, w, path, contents.ErrNotFound)
	}
	return all, err
}

// historyFrom returns what is below a link; nil is the top of the path. It is
// empty when nothing is there. links are those of the file's record.
func (s *Store) historyFrom(ctx context.Context, w *workspace, path string, from *link, links []severed) ([]pastVersion, error) {
	var all []pastVersion
	for range maxMoves {
		run, err := s.run(ctx, w, path, from)
		if err != nil {
			return nil, err
		}
		all = append(all, run...)
		next := link{}
		if len(run) > 0 {
			next = run[len(run)-1].previous
		}
		if next.Path == "" {
			// The version that led on was deleted.
			i := slices.IndexFunc(links, func(l severed) bool { return l.From == path })
			if i < 0 {
				return all, nil
			}
			next = links[i].link
			links = slices.Delete(slices.Clone(links), i, i+1)
		}
		path, from = next.Path, &next
	}
	return all, nil
}

// run returns the versions of the file that is at a path now, or was there when a
// link was made: those between two deletions. Of all but the oldest it has what
// a listing shows.
func (s *Store) run(ctx context.Context, w *workspace, path string, from *link) ([]pastVersion, error) {
	all, err := s.versionsOf(ctx, w, path)
	if err != nil {
		return nil, err
	}
	start := s.startOf(all, from)
	var run []pastVersion
	for _, v := range all[start:] {
		if v.deleted {
			break
		}
		run = append(run, pastVersion{path: path, id: identifier{v.key, v.version}, object: v.object})
	}
	if len(run) == 0 {
		return nil, nil
	}
	return run, s.describe(ctx, run[len(run)-1:]) // it may lead on
}

// startOf returns the index of the version that a link leads to, or of what is
// below it when that is gone.
func (s *Store) startOf(all []seenVersion, from *link) int {
	if from == nil {
		return 0
	}
	if i := slices.IndexFunc(all, func(v seenVersion) bool { return !v.deleted && v.version == from.Version }); i >= 0 {
		return i
	}
	// A link is made when a file leaves a path, so that a deletion is above it: the
	// oldest that is not older.
	start := len(all)
	for i, v := range all {
		later := !v.modified.Before(from.At)
		if s.quirks.order == byID {
			later = v.version > from.Version
		}
		if v.deleted && later {
			start = i + 1
		}
	}
	return start
}

// versionsOf returns the versions and deletions of a path, newest first.
func (s *Store) versionsOf(ctx context.Context, w *workspace, path string) ([]seenVersion, error) {
	key := s.base(w.name) + filesPart + fileKey(path)
	var all []seenVersion
	for v, err := range s.versions(ctx, key) {
		if err != nil {
			return nil, err
		}
		if v.key != key {
			break // those of longer keys follow
		}
		all = append(all, v)
	}
	return all, nil
}

// describe completes versions with what a listing does not show. What a version
// says never changes, so that it is asked for once.
func (s *Store) describe(ctx context.Context, run []pastVersion) error {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(parallel)
	for i := range run {
		v := &run[i]
		if o, ok := s.past.get(v.id.key + "\x00" + v.id.version); ok {
			v.object = o
			continue
		}
		group.Go(func() error {
			o, err := s.head(ctx, v.id.key, v.id.version)
			if errors.Is(err, contents.ErrNotFound) {
				return nil // a sweep was faster
			}
			if err != nil {
				return err
			}
			s.past.set(v.id.key+"\x00"+v.id.version, o)
			v.object = o
			return nil
		})
	}
	return group.Wait()
}

// locate returns where a version of a file is: at the path itself, or where the
// file was before.
func (s *Store) locate(ctx context.Context, w *workspace, path, version string) (identifier, error) {
	id := identifier{s.base(w.name) + filesPart + fileKey(path), version}
	_, err := s.head(ctx, id.key, id.version)
	if err == nil || !errors.Is(err, contents.ErrNotFound) {
		return id, err
	}
	all, err := s.history(ctx, w, path)
	if err != nil {
		return identifier{}, err
	}
	i := slices.IndexFunc(all, func(v pastVersion) bool { return v.version == version })
	if i < 0 {
		return identifier{}, contents.ErrNotFound
	}
	return all[i].id, nil
}

// Versions implements contents.Store.
func (s *Store) Versions(ctx context.Context, workspace, path, after string, limit int) ([]contents.Version, error) {
	w, err := s.enter(ctx, workspace, path)
	if err != nil {
		return nil, err
	}
	versions, err := s.page(ctx, w, path, after, limit)
	if err != nil {
		return nil, fmt.Errorf("cannot list the versions of %s: %w", path, err)
	}
	return versions, nil
}

// page returns a part of a history. Each version costs a request, once.
func (s *Store) page(ctx context.Context, w *workspace, path, after string, limit int) ([]contents.Version, error) {
	all, err := s.history(ctx, w, path)
	if err != nil {
		return nil, err
	}
	r, _, err := s.record(ctx, w, path)
	if err != nil {
		return nil, err
	}
	first := 0
	if after != "" {
		first = 1 + slices.IndexFunc(all, func(v pastVersion) bool { return v.version == after })
		if first == 0 {
			return nil, fmt.Errorf("version %s: %w", after, contents.ErrNotFound)
		}
	}
	shown := all[first:]
	if limit > 0 && limit < len(shown) {
		shown = shown[:limit]
	}
	if err := s.describe(ctx, shown); err != nil {
		return nil, err
	}
	versions := make([]contents.Version, len(shown))
	for i, v := range shown {
		versions[i] = contents.Version{
			Entry: entryOf(path, v.object), Latest: first+i == 0, Source: cmp.Or(v.source, "api"), Pinned: r.pins(v.version),
		}
	}
	return versions, nil
}

// Restore implements contents.Store.
func (s *Store) Restore(ctx context.Context, workspace, path, version, author string) (contents.Entry, error) {
	w, err := s.enter(ctx, workspace, path)
	if err != nil {
		return contents.Entry{}, err
	}
	release, err := s.claims.take(ctx, w.name, path)
	if err != nil {
		return contents.Entry{}, err
	}
	defer release()
	e, err := s.restore(ctx, w, path, version, author)
	if err != nil {
		return contents.Entry{}, fmt.Errorf("cannot restore version %s of %s: %w", version, path, err)
	}
	return e, nil
}

// restore copies a version of a claimed path above the latest.
func (s *Store) restore(ctx context.Context, w *workspace, path, version, author string) (contents.Entry, error) {
	now, err := s.file(ctx, w, path)
	if err != nil {
		return contents.Entry{}, s.orDirectory(ctx, w, path, err)
	}
	id, err := s.locate(ctx, w, path, version)
	if err != nil {
		return contents.Entry{}, err
	}
	old, err := s.head(ctx, id.key, id.version)
	if err != nil {
		return contents.Entry{}, err
	}
	space, err := s.room(ctx, w, contents.Charge(old.size))
	if err != nil {
		return contents.Entry{}, err
	}
	defer space.release()
	meta := metadata{sha256: old.sha256, created: now.created, author: author, source: "restore", executable: old.executable}
	key := s.base(w.name) + filesPart + fileKey(path)
	s.known.forget(key)
	_, made, err := s.copyObject(ctx, id.key, id.version, key, meta)
	if err != nil {
		return contents.Entry{}, err
	}
	space.written()
	return s.saved(ctx, w, path, key, made, object{etag: old.etag, size: old.size, metadata: meta})
}

// DeleteVersion implements contents.Store.
func (s *Store) DeleteVersion(ctx context.Context, workspace, path, version string) error {
	w, err := s.enter(ctx, workspace, path)
	if err != nil {
		return err
	}
	release, err := s.claims.take(ctx, w.name, path)
	if err != nil {
		return err
	}
	defer release()
	if err := s.deleteVersion(ctx, w, path, version); err != nil {
		return fmt.Errorf("cannot delete version %s of %s: %w", version, path, err)
	}
	return nil
}

func (s *Store) deleteVersion(ctx context.Context, w *workspace, path, version string) error {
	all, err := s.history(ctx, w, path)
	if err != nil {
		return err
	}
	i := slices.IndexFunc(all, func(v pastVersion) bool { return v.version == version })
	if i < 0 {
		return contents.ErrNotFound
	}
	if i == 0 {
		return fmt.Errorf("%w: it is the latest", contents.ErrExists)
	}
	if err := s.describe(ctx, all[i:i+1]); err != nil {
		return err
	}
	err = s.updateRecord(ctx, w, path, func(r *record) error {
		if r.pins(version) {
			return fmt.Errorf("%w: a checkpoint holds it", contents.ErrExists)
		}
		if previous := all[i].previous; previous.Path != "" {
			// What is below it must still be found.
			r.Links = append(r.Links, severed{From: all[i].path, link: previous})
		}
		return nil
	})
	if err != nil {
		return err
	}
	if err := s.removeAll(ctx, []identifier{all[i].id}); err != nil {
		return err
	}
	w.usage.add(-contents.Charge(all[i].size))
	return nil
}

// now is the time in whole seconds, as S3 has them.
func now() time.Time { return time.Now().UTC().Truncate(time.Second) }
