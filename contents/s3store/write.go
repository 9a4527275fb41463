package s3store

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"kernelgw/contents"
)

// maxFileBytes is what S3 takes in one request.
const maxFileBytes = 5 << 30

// Put implements contents.Store: a conditional write and a look at its time. What
// the file was before is asked for when it is not remembered.
func (s *Store) Put(ctx context.Context, workspace, path string, body io.ReadSeeker, o contents.PutOptions) (contents.Entry, error) {
	w, err := s.enter(ctx, workspace, path)
	if err != nil {
		return contents.Entry{}, err
	}
	if path == "" {
		return contents.Entry{}, fmt.Errorf("cannot write the root: %w", contents.ErrIsDirectory)
	}
	u, err := measure(body)
	if err != nil {
		return contents.Entry{}, fmt.Errorf("cannot read what to write to %s: %w", path, err)
	}
	if u.size > maxFileBytes {
		return contents.Entry{}, fmt.Errorf("cannot write %s: %w: the storage takes files of up to 5 GiB", path, contents.ErrTooLarge)
	}
	release, err := s.claims.take(ctx, w.name, path)
	if err != nil {
		return contents.Entry{}, err
	}
	defer release()
	e, err := s.save(ctx, w, path, u, o)
	if err != nil {
		return contents.Entry{}, fmt.Errorf("cannot write %s: %w", path, err)
	}
	return e, nil
}

// maxRaces bounds how often a write is tried again because another gateway wrote
// the file between the look and the write.
const maxRaces = 20

// save writes a file whose path is claimed.
func (s *Store) save(ctx context.Context, w *workspace, path string, u upload, o contents.PutOptions) (contents.Entry, error) {
	key := s.base(w.name) + filesPart + fileKey(path)
	meta := metadata{sha256: u.hex(), author: o.Author, source: o.Source, executable: o.Executable, nonce: rand.Text()}
	if meta.source == "" {
		meta.source = "api"
	}
	now, remembered := s.known.get(key)
	exists := remembered
	if remembered && !holds(o, now, true) {
		remembered = false // it may be outdated: ask before saying no
	}
	var space *space
	for range maxRaces {
		if !remembered {
			var err error
			now, err = s.file(ctx, w, path)
			exists = err == nil
			if err != nil && !errors.Is(err, contents.ErrNotFound) {
				return contents.Entry{}, err
			}
			if !holds(o, now, exists) {
				return contents.Entry{}, changed(path, now, exists)
			}
		}
		remembered = false
		if space == nil {
			var err error
			if space, err = s.room(ctx, w, contents.Charge(u.size)); err != nil {
				return contents.Entry{}, err
			}
			defer space.release()
		}
		c := condition{etag: now.etag}
		meta.created = now.created
		if !exists {
			if err := s.prepare(ctx, w, path, o.Parents); err != nil {
				return contents.Entry{}, err
			}
			c = condition{none: true}
			meta.created = time.Now()
		}
		etag, version, err := s.put(ctx, key, u, meta.encode(), c)
		switch {
		case err == nil:
			space.written()
			return s.saved(ctx, w, path, key, version, object{etag: etag, size: u.size, metadata: meta})
		case errors.Is(err, errPrecondition), errors.Is(err, contents.ErrNotFound):
			// Somebody else wrote or deleted it, or this very write arrived twice.
			s.known.forget(key)
			if mine, err := s.file(ctx, w, path); err == nil && mine.nonce == meta.nonce {
				space.written()
				return s.saved(ctx, w, path, key, mine.version, mine)
			}
		default:
			s.known.forget(key)
			return contents.Entry{}, err
		}
	}
	return contents.Entry{}, unavailable("others write it all the time")
}

// holds reports whether the conditions of a write hold.
func holds(o contents.PutOptions, now object, exists bool) bool {
	switch {
	case o.IfNone && exists,
		o.IfMatch != "" && (!exists || now.etag != o.IfMatch),
		o.IfVersion != "" && (!exists || now.version != o.IfVersion):
		return false
	}
	return true
}

func changed(path string, now object, exists bool) error {
	if !exists {
		return &contents.ChangedError{}
	}
	return &contents.ChangedError{Current: entryOf(path, now)}
}

// saved completes a write: what a PUT answers lacks the time that reads will show.
func (s *Store) saved(ctx context.Context, w *workspace, path, key, version string, o object) (contents.Entry, error) {
	if o.modified.IsZero() {
		seen, err := s.head(ctx, key, version)
		if err != nil {
			// The write is done, and must not fail now.
			s.known.forget(key)
			o.version, o.modified = version, time.Now().UTC().Truncate(time.Second)
		} else {
			o = seen
		}
	}
	s.known.set(key, o)
	e := entryOf(path, o)
	w.feed.publish(contents.Change{Path: path, Entry: e, Source: o.source})
	return e, nil
}

// prepare makes sure that a new file may be at a path.
func (s *Store) prepare(ctx context.Context, w *workspace, path string, parents bool) error {
	if _, err := s.directory(ctx, w, path); err == nil {
		return contents.ErrIsDirectory
	} else if !errors.Is(err, contents.ErrNotFound) {
		return err
	}
	directory := parent(path)
	if parents {
		_, _, err := s.makeDirectories(ctx, w, directory)
		return err
	}
	_, err := s.directory(ctx, w, directory)
	if errors.Is(err, contents.ErrNotFound) {
		return contents.ErrNoParent
	}
	return err
}

// MakeDirectory implements contents.Store.
func (s *Store) MakeDirectory(ctx context.Context, workspace, path string) (contents.Entry, bool, error) {
	w, err := s.enter(ctx, workspace, path)
	if err != nil {
		return contents.Entry{}, false, err
	}
	release, err := s.claims.take(ctx, w.name, path)
	if err != nil {
		return contents.Entry{}, false, err
	}
	defer release()
	e, created, err := s.makeDirectories(ctx, w, path)
	if err != nil {
		return contents.Entry{}, false, fmt.Errorf("cannot make the directory %s: %w", path, err)
	}
	return e, created, nil
}

// makeDirectories makes a directory and those above it, from the top, so that
// what is there can always be reached from the root.
func (s *Store) makeDirectories(ctx context.Context, w *workspace, path string) (contents.Entry, bool, error) {
	e, err := s.directory(ctx, w, path)
	if err == nil || !errors.Is(err, contents.ErrNotFound) {
		return e, false, err
	}
	if _, err := s.file(ctx, w, path); err == nil {
		return contents.Entry{}, false, contents.ErrNotDirectory
	} else if !errors.Is(err, contents.ErrNotFound) {
		return contents.Entry{}, false, err
	}
	if i := strings.LastIndexByte(path, '/'); i >= 0 {
		if _, _, err := s.makeDirectories(ctx, w, path[:i]); err != nil {
			return contents.Entry{}, false, err
		}
	}
	space, err := s.room(ctx, w, contents.Charge(0))
	if err != nil {
		return contents.Entry{}, false, err
	}
	defer space.release()
	if err := s.mark(ctx, w, path); err != nil {
		return contents.Entry{}, false, err
	}
	e, err = s.directory(ctx, w, path)
	if err != nil {
		return contents.Entry{}, false, err
	}
	w.feed.publish(contents.Change{Path: path, Entry: e, Source: "api"})
	return e, true, nil
}

// mark writes the marker of a directory, unless it is there, and counts it.
func (s *Store) mark(ctx context.Context, w *workspace, path string) error {
	u, err := measure(bytes.NewReader(nil))
	if err != nil {
		return err
	}
	for range maxRaces {
		_, _, err = s.put(ctx, s.base(w.name)+filesPart+markerKey(path), u, nil, condition{none: true})
		if err == nil {
			w.usage.add(contents.Charge(0))
		}
		if !errors.Is(err, errPrecondition) {
			return err
		}
		// Another file is written that makes the same directory.
		if _, err := s.directory(ctx, w, path); !errors.Is(err, contents.ErrNotFound) {
			return err
		}
	}
	return unavailable("others make and delete %s all the time", path)
}
