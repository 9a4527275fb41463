// Package memory keeps registry records in memory: for tests, and for what
// need not survive the process.
package memory

import (
	"context"
	"maps"
	"slices"
	"sync"

	"kernelgw/kernelgw/registry"
)

// Store is a registry.Store that is lost with the process. Safe for concurrent
// use.
type Store struct {
	mu      sync.Mutex
	records map[registry.Kind]map[string]registry.Record // guarded by mu
}

// New returns an empty store.
func New() *Store {
	return &Store{records: map[registry.Kind]map[string]registry.Record{}}
}

// Get implements registry.Store.
func (s *Store) Get(_ context.Context, kind registry.Kind, id string) (registry.Record, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	r, ok := s.records[kind][id]
	if !ok {
		return registry.Record{}, registry.ErrNotFound
	}
	return r, nil
}

// List implements registry.Store.
func (s *Store) List(_ context.Context, kind registry.Kind) ([]registry.Record, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	list := make([]registry.Record, 0, len(s.records[kind]))
	for _, id := range slices.Sorted(maps.Keys(s.records[kind])) {
		list = append(list, s.records[kind][id])
	}
	return list, nil
}

// Put implements registry.Store.
func (s *Store) Put(_ context.Context, r registry.Record) (uint64, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.records[r.Kind][r.ID].Version != r.Version {
		return 0, registry.ErrConflict
	}
	if s.records[r.Kind] == nil {
		s.records[r.Kind] = map[string]registry.Record{}
	}
	r.Version++
	r.Value = slices.Clone(r.Value)
	s.records[r.Kind][r.ID] = r
	return r.Version, nil
}

// Delete implements registry.Store.
func (s *Store) Delete(_ context.Context, kind registry.Kind, id string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.records[kind], id)
	return nil
}

// Close implements registry.Store.
func (s *Store) Close() error { return nil }
