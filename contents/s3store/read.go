package s3store

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"net/http"
	"slices"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"

	"kernelgw/contents"
)

// Stat implements contents.Store: one request for a file, two for a directory.
func (s *Store) Stat(ctx context.Context, workspace, path string) (contents.Entry, error) {
	w, err := s.enter(ctx, workspace, path)
	if err != nil {
		return contents.Entry{}, err
	}
	e, err := s.stat(ctx, w, path)
	if err != nil {
		return contents.Entry{}, fmt.Errorf("cannot look at %s: %w", path, err)
	}
	return e, nil
}

func (s *Store) stat(ctx context.Context, w *workspace, path string) (contents.Entry, error) {
	if path == "" {
		return s.directory(ctx, w, path)
	}
	o, err := s.file(ctx, w, path)
	if err == nil {
		return entryOf(path, o), nil
	}
	if !errors.Is(err, contents.ErrNotFound) {
		return contents.Entry{}, err
	}
	return s.directory(ctx, w, path)
}

// file returns the latest version of a file.
func (s *Store) file(ctx context.Context, w *workspace, path string) (object, error) {
	if path == "" {
		return object{}, contents.ErrNotFound
	}
	key := s.base(w.name) + filesPart + fileKey(path)
	o, err := s.head(ctx, key, "")
	switch {
	case err == nil:
		s.known.set(key, o)
	case errors.Is(err, contents.ErrNotFound):
		s.known.forget(key)
	}
	return o, err
}

// directory returns a directory; the root is always there, and nothing says since
// when.
func (s *Store) directory(ctx context.Context, w *workspace, path string) (contents.Entry, error) {
	if path == "" {
		return contents.Entry{Directory: true, Modified: s.started, Created: s.started}, nil
	}
	o, err := s.head(ctx, s.base(w.name)+filesPart+markerKey(path), "")
	if err != nil {
		return contents.Entry{}, err
	}
	return contents.Entry{Path: path, Directory: true, Modified: o.modified, Created: o.modified}, nil
}

func entryOf(path string, o object) contents.Entry {
	created := o.created
	if created.IsZero() || created.After(o.modified) {
		created = o.modified
	}
	return contents.Entry{
		Path: path, Size: o.size, Modified: o.modified, Created: created, ETag: o.etag, SHA256: o.sha256,
		Version: o.version, Author: o.author, Executable: o.executable,
	}
}

// List implements contents.Store: a request for each thousand entries.
func (s *Store) List(ctx context.Context, workspace, path string) ([]contents.Entry, error) {
	w, err := s.enter(ctx, workspace, path)
	if err != nil {
		return nil, err
	}
	entries, err := s.entries(ctx, w, path, true)
	if err == nil && len(entries) == 0 {
		err = s.mustBeDirectory(ctx, w, path)
	}
	if err != nil {
		return nil, fmt.Errorf("cannot list %s: %w", path, err)
	}
	return entries, nil
}

// Walk implements contents.Store.
func (s *Store) Walk(ctx context.Context, workspace, path string, each func(contents.Entry) error) error {
	w, err := s.enter(ctx, workspace, path)
	if err != nil {
		return err
	}
	entries, err := s.entries(ctx, w, path, false)
	if err == nil && len(entries) == 0 {
		err = s.mustBeDirectory(ctx, w, path)
	}
	if err != nil {
		return fmt.Errorf("cannot list all below %s: %w", path, err)
	}
	for _, e := range entries {
		if err := each(e); err != nil {
			return err
		}
	}
	return nil
}

// entries returns what is in a directory, or with flat false all below it,
// sorted.
func (s *Store) entries(ctx context.Context, w *workspace, path string, flat bool) ([]contents.Entry, error) {
	var entries []contents.Entry
	for e, err := range s.eachEntry(ctx, w, path, flat) {
		if err != nil {
			return nil, err
		}
		entries = append(entries, e)
	}
	slices.SortFunc(entries, func(a, b contents.Entry) int { return cmp.Compare(a.Path, b.Path) })
	return entries, nil
}

// eachEntry yields them in the order of keys.
func (s *Store) eachEntry(ctx context.Context, w *workspace, path string, flat bool) iter.Seq2[contents.Entry, error] {
	in := directoryKey(path)
	return func(yield func(contents.Entry, error) bool) {
		for o, err := range s.list(ctx, s.base(w.name)+filesPart+in, flat) {
			if err != nil {
				yield(contents.Entry{}, err)
				return
			}
			found, directory, ok := parseKey(in + o.key)
			if !ok {
				continue // not ours
			}
			e := contents.Entry{Path: found, Directory: directory, Modified: o.modified, Created: o.modified}
			if !directory {
				e.Size, e.ETag = o.size, o.etag
			}
			if !yield(e, nil) {
				return
			}
		}
	}
}

// mustBeDirectory says why nothing was found in a directory.
func (s *Store) mustBeDirectory(ctx context.Context, w *workspace, path string) error {
	e, err := s.stat(ctx, w, path)
	if err == nil && !e.Directory {
		return contents.ErrNotDirectory
	}
	return err
}

// Open implements contents.Store. A connection that breaks is taken up again
// where it broke, in the same version.
func (s *Store) Open(ctx context.Context, workspace, path, version string, offset, n int64) (io.ReadCloser, contents.Entry, error) {
	w, err := s.enter(ctx, workspace, path)
	if err != nil {
		return nil, contents.Entry{}, err
	}
	body, e, err := s.open(ctx, w, path, version, offset, n)
	if err != nil {
		return nil, contents.Entry{}, fmt.Errorf("cannot open %s: %w", path, err)
	}
	return body, e, nil
}

func (s *Store) open(ctx context.Context, w *workspace, path, version string, offset, n int64) (io.ReadCloser, contents.Entry, error) {
	id := identifier{s.base(w.name) + filesPart + fileKey(path), version}
	if version != "" {
		found, err := s.locate(ctx, w, path, version)
		if err != nil {
			return nil, contents.Entry{}, err
		}
		id = found
	}
	if path == "" {
		return nil, contents.Entry{}, contents.ErrIsDirectory
	}
	empty := func() (io.ReadCloser, contents.Entry, error) {
		o, err := s.head(ctx, id.key, id.version)
		return io.NopCloser(bytes.NewReader(nil)), entryOf(path, o), err
	}
	if n == 0 {
		return empty()
	}
	body, o, err := s.get(ctx, id, offset, n)
	if statusOf(err) == http.StatusRequestedRangeNotSatisfiable {
		return empty()
	}
	err = translate(err)
	if err != nil && version == "" {
		err = s.orDirectory(ctx, w, path, err)
	}
	if err != nil {
		return nil, contents.Entry{}, err
	}
	left := o.size - offset
	if n >= 0 {
		left = min(left, n)
	}
	id.version = o.version
	return &reader{ctx: ctx, store: s, id: id, body: body, offset: offset, left: left}, entryOf(path, o), nil
}

// get requests a part of an object; its size is the whole's. The error is the
// SDK's.
func (s *Store) get(ctx context.Context, id identifier, offset, n int64) (io.ReadCloser, object, error) {
	in := &s3.GetObjectInput{Bucket: &s.bucket, Key: &id.key}
	if id.version != "" {
		in.VersionId = &id.version
	}
	switch {
	case n >= 0:
		in.Range = aws.String(fmt.Sprintf("bytes=%d-%d", offset, offset+n-1))
	case offset > 0:
		in.Range = aws.String(fmt.Sprintf("bytes=%d-", offset))
	}
	out, err := s.client.GetObject(ctx, in)
	if err != nil {
		return nil, object{}, err
	}
	size := aws.ToInt64(out.ContentLength)
	if _, whole, ok := strings.Cut(aws.ToString(out.ContentRange), "/"); ok {
		if _, err := fmt.Sscan(whole, &size); err != nil {
			out.Body.Close()
			return nil, object{}, unavailable("the server answers with the range %q", aws.ToString(out.ContentRange))
		}
	} else if in.Range != nil {
		out.Body.Close()
		return nil, object{}, unavailable("the server answers with the whole object instead of a part")
	}
	return out.Body, object{
		etag: unquoted(out.ETag), version: aws.ToString(out.VersionId), size: size,
		modified: seconds(out.LastModified), metadata: decodeMetadata(out.Metadata),
	}, nil
}

// reader is content that is being read.
type reader struct {
	ctx          context.Context
	store        *Store
	id           identifier
	body         io.ReadCloser
	offset, left int64
	broken       int // breaks without a byte in between
}

// maxBroken is how often a reader is taken up again without progress.
const maxBroken = 5

// Read implements io.Reader.
func (r *reader) Read(p []byte) (int, error) {
	for r.left > 0 {
		n, err := r.body.Read(p[:min(int64(len(p)), r.left)])
		r.offset += int64(n)
		r.left -= int64(n)
		if n > 0 {
			r.broken = 0
			return n, nil
		}
		if err == nil {
			continue
		}
		if r.ctx.Err() != nil {
			return 0, r.ctx.Err()
		}
		if r.broken++; r.broken > maxBroken {
			return 0, unavailable("the content of %s breaks off at byte %d: %v", r.id.key, r.offset, err)
		}
		r.body.Close()
		body, _, err := r.store.get(r.ctx, r.id, r.offset, r.left)
		if err != nil {
			r.body = http.NoBody
			return 0, translate(err)
		}
		r.body = body
	}
	return 0, io.EOF
}

// Close implements io.Closer.
func (r *reader) Close() error { return r.body.Close() }

// orDirectory says of a file that was not found that a directory has its path,
// if one has. Other errors stay as they are.
func (s *Store) orDirectory(ctx context.Context, w *workspace, path string, err error) error {
	if errors.Is(err, contents.ErrNotFound) {
		if _, failed := s.directory(ctx, w, path); failed == nil {
			return contents.ErrIsDirectory
		}
	}
	return err
}
