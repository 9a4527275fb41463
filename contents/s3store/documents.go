package s3store

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"time"

	"kernelgw/contents"
)

// maxDocumentName is the longest name of a document, in bytes.
const maxDocumentName = 512

// GetDocument returns a small document of a user, and when it was written. One
// that is not there is fs.ErrNotExist.
func (s *Store) GetDocument(ctx context.Context, owner, name string) (body []byte, modified time.Time, err error) {
	key, err := s.document(owner, name)
	if err != nil {
		return nil, time.Time{}, err
	}
	body, o, err := s.getBytes(ctx, key)
	if errors.Is(err, contents.ErrNotFound) {
		return nil, time.Time{}, fmt.Errorf("cannot read the document %q: %w", name, fs.ErrNotExist)
	}
	if err != nil {
		return nil, time.Time{}, fmt.Errorf("cannot read the document %q: %w", name, err)
	}
	return body, o.modified, nil
}

// PutDocument writes a document, whole: the last writer wins.
func (s *Store) PutDocument(ctx context.Context, owner, name string, body []byte) error {
	key, err := s.document(owner, name)
	if err != nil {
		return err
	}
	if _, err := s.putBytes(ctx, key, body, condition{}); err != nil {
		return fmt.Errorf("cannot write the document %q: %w", name, err)
	}
	return nil
}

// DeleteDocument removes a document. One that is not there is fs.ErrNotExist.
func (s *Store) DeleteDocument(ctx context.Context, owner, name string) error {
	key, err := s.document(owner, name)
	if err != nil {
		return err
	}
	_, err = s.head(ctx, key, "")
	if err == nil {
		err = s.remove(ctx, key)
	}
	if errors.Is(err, contents.ErrNotFound) {
		return fmt.Errorf("cannot delete the document %q: %w", name, fs.ErrNotExist)
	}
	if err != nil {
		return fmt.Errorf("cannot delete the document %q: %w", name, err)
	}
	return nil
}

// ListDocuments returns the names of a user's documents that begin with prefix,
// sorted.
func (s *Store) ListDocuments(ctx context.Context, owner, prefix string) (names []string, err error) {
	for o, err := range s.list(ctx, s.documentsOf(owner), false) {
		if err != nil {
			return nil, fmt.Errorf("cannot list documents: %w", err)
		}
		if name, ok := parseDocumentKey(o.key); ok && strings.HasPrefix(name, prefix) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names, nil
}

func (s *Store) document(owner, name string) (key string, err error) {
	key = s.documentsOf(owner) + documentKey(name)
	if name == "" || len(name) > maxDocumentName || len(key) > maxKeyBytes {
		return "", fmt.Errorf("%w: %.64q cannot be the name of a document", contents.ErrInvalid, name)
	}
	return key, nil
}
