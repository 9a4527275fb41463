// Package outputlogtest is a store of output logs in memory, for tests, which fails on
// command. It knows what an outputlog.Store promises, and nothing of what it is used for.
package outputlogtest

import (
	"bytes"
	"context"
	"io"
	"io/fs"
	"slices"
	"strings"
	"sync"
	"time"
)

// Store is an outputlog.Store. Safe for concurrent use.
type Store struct {
	Fail error // answered by every method, when set; set it while nobody uses the store

	mu sync.Mutex
	of map[string]map[string]object // by workspace and name; guarded by mu
}

type object struct {
	content []byte
	written time.Time
}

// New returns an empty store.
func New() *Store { return &Store{of: map[string]map[string]object{}} }

// Workspaces implements outputlog.Store.
func (s *Store) Workspaces(context.Context) (names []string, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for name := range s.of {
		names = append(names, name)
	}
	return names, s.Fail
}

// CreateAside implements outputlog.Store.
func (s *Store) CreateAside(_ context.Context, workspace, name string, content []byte) (bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, there := s.of[workspace][name]; there || s.Fail != nil {
		return false, s.Fail
	}
	if s.of[workspace] == nil {
		s.of[workspace] = map[string]object{}
	}
	s.of[workspace][name] = object{bytes.Clone(content), time.Now()}
	return true, nil
}

// OpenAside implements outputlog.Store.
func (s *Store) OpenAside(_ context.Context, workspace, name string) (io.ReadCloser, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	o, there := s.of[workspace][name]
	switch {
	case s.Fail != nil:
		return nil, s.Fail
	case !there:
		return nil, fs.ErrNotExist
	}
	return io.NopCloser(bytes.NewReader(o.content)), nil
}

// EachAside implements outputlog.Store.
func (s *Store) EachAside(_ context.Context, workspace, prefix string, each func(string, int64, time.Time) error) error {
	for _, name := range s.Names(workspace, prefix) {
		s.mu.Lock()
		o := s.of[workspace][name]
		s.mu.Unlock()
		if err := each(name, int64(len(o.content)), o.written); err != nil {
			return err
		}
	}
	return s.Fail
}

// PruneAsides implements outputlog.Store.
func (s *Store) PruneAsides(_ context.Context, workspace, prefix string, drop func(string, int64, time.Time) bool) error {
	for _, name := range s.Names(workspace, prefix) {
		s.mu.Lock()
		if o := s.of[workspace][name]; drop(name, int64(len(o.content)), o.written) {
			delete(s.of[workspace], name)
		}
		s.mu.Unlock()
	}
	return s.Fail
}

// Names returns the names that begin with a prefix, sorted.
func (s *Store) Names(workspace, prefix string) (names []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for name := range s.of[workspace] {
		if strings.HasPrefix(name, prefix) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// Change replaces an object, or removes it when content is nil.
func (s *Store) Change(workspace, name string, content []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if content == nil {
		delete(s.of[workspace], name)
		return
	}
	s.of[workspace][name] = object{content, s.of[workspace][name].written}
}
