package contentstest

import (
	"bytes"
	"context"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"sync"
	"time"

	"kernelgw/contents"
)

// FakeDocuments is a contents.Documents in memory. It fails on command as Fake
// does.
type FakeDocuments struct {
	faults
	mu   sync.Mutex
	kept map[documentKey]document
}

type documentKey struct{ owner, name string }

type document struct {
	body     []byte
	modified time.Time
}

var _ contents.Documents = (*FakeDocuments)(nil)

// NewFakeDocuments returns an empty store.
func NewFakeDocuments() *FakeDocuments {
	return &FakeDocuments{kept: map[documentKey]document{}}
}

// GetDocument implements contents.Documents.
func (f *FakeDocuments) GetDocument(ctx context.Context, owner, name string) ([]byte, time.Time, error) {
	if err := f.fault(ctx, "GetDocument"); err != nil {
		return nil, time.Time{}, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	d, ok := f.kept[documentKey{owner, name}]
	if !ok {
		return nil, time.Time{}, fmt.Errorf("document %q: %w", name, fs.ErrNotExist)
	}
	return bytes.Clone(d.body), d.modified, nil
}

// PutDocument implements contents.Documents.
func (f *FakeDocuments) PutDocument(ctx context.Context, owner, name string, body []byte) error {
	if err := f.fault(ctx, "PutDocument"); err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.kept[documentKey{owner, name}] = document{bytes.Clone(body), now()}
	return nil
}

// DeleteDocument implements contents.Documents.
func (f *FakeDocuments) DeleteDocument(ctx context.Context, owner, name string) error {
	if err := f.fault(ctx, "DeleteDocument"); err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if _, ok := f.kept[documentKey{owner, name}]; !ok {
		return fmt.Errorf("document %q: %w", name, fs.ErrNotExist)
	}
	delete(f.kept, documentKey{owner, name})
	return nil
}

// ListDocuments implements contents.Documents.
func (f *FakeDocuments) ListDocuments(ctx context.Context, owner, prefix string) ([]string, error) {
	if err := f.fault(ctx, "ListDocuments"); err != nil {
		return nil, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	var found []string
	for k := range f.kept {
		if k.owner == owner && strings.HasPrefix(k.name, prefix) {
			found = append(found, k.name)
		}
	}
	slices.Sort(found)
	return found, nil
}
