// Package contentstest says what every contents.Store must do, as tests, and has
// a Store in memory that does it and fails on command. It knows the contract and
// no implementation.
package contentstest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"kernelgw/contents"
)

// Factory makes an empty store, whose workspaces hold at most limit bytes each; 0
// is no limit. It cleans up by t.Cleanup.
type Factory func(t *testing.T, limit int64) contents.Store

// Run tests a store against the sentences of contents.Store. It makes one store
// for most of them, with a workspace for each.
func Run(t *testing.T, factory Factory) {
	store := factory(t, 0)
	for _, group := range []struct {
		name string
		test func(s *suite)
	}{
		{"Reading", testReading},
		{"Writing", testWriting},
		{"Conditions", testConditions},
		{"Directories", testDirectories},
		{"Names", testNames},
		{"Moving", testMoving},
		{"Copying", testCopying},
		{"Deleting", testDeleting},
		{"Versions", testVersions},
		{"Checkpoints", testCheckpoints},
		{"Trash", testTrash},
		{"Watching", testWatching},
		{"Concurrency", testConcurrency},
	} {
		t.Run(group.name, func(t *testing.T) { group.test(&suite{T: t, store: store}) })
	}
	t.Run("Quota", func(t *testing.T) { testQuota(&suite{T: t, store: factory(t, quotaLimit)}) })
}

// suite is a test with a store. Each sentence gets a workspace of its own.
type suite struct {
	*testing.T
	store     contents.Store
	workspace string
	ctx       context.Context
}

var workspaces atomic.Int64

// sentence runs a subtest named after a sentence of the contract.
func (s *suite) sentence(name string, test func(s *suite)) {
	s.Helper()
	s.Run(name, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
		defer cancel()
		workspace := fmt.Sprintf("suite-%d-%d", time.Now().UnixNano(), workspaces.Add(1))
		test(&suite{T: t, store: s.store, workspace: workspace, ctx: ctx})
	})
}

func (s *suite) put(path, content string, o ...contents.PutOptions) contents.Entry {
	s.Helper()
	var options contents.PutOptions
	if len(o) > 0 {
		options = o[0]
	}
	e, err := s.store.Put(s.ctx, s.workspace, path, strings.NewReader(content), options)
	if err != nil {
		s.Fatalf("put %q: %v", path, err)
	}
	return e
}

// tryPut returns the error of a write.
func (s *suite) tryPut(path, content string, o contents.PutOptions) error {
	_, err := s.store.Put(s.ctx, s.workspace, path, strings.NewReader(content), o)
	return err
}

func (s *suite) mkdir(path string) {
	s.Helper()
	if _, _, err := s.store.MakeDirectory(s.ctx, s.workspace, path); err != nil {
		s.Fatalf("make directory %q: %v", path, err)
	}
}

func (s *suite) stat(path string) contents.Entry {
	s.Helper()
	e, err := s.store.Stat(s.ctx, s.workspace, path)
	if err != nil {
		s.Fatalf("stat %q: %v", path, err)
	}
	return e
}

func (s *suite) read(path, version string) string {
	s.Helper()
	content, err := s.tryRead(path, version, 0, -1)
	if err != nil {
		s.Fatalf("read %q of version %q: %v", path, version, err)
	}
	return content
}

func (s *suite) tryRead(path, version string, offset, n int64) (string, error) {
	body, _, err := s.store.Open(s.ctx, s.workspace, path, version, offset, n)
	if err != nil {
		return "", err
	}
	defer body.Close()
	b, err := io.ReadAll(body)
	return string(b), err
}

// paths returns what a directory lists, directories with a slash at the end.
func (s *suite) paths(directory string) []string {
	s.Helper()
	list, err := s.store.List(s.ctx, s.workspace, directory)
	if err != nil {
		s.Fatalf("list %q: %v", directory, err)
	}
	return marked(list)
}

func marked(list []contents.Entry) (paths []string) {
	for _, e := range list {
		if e.Directory {
			e.Path += "/"
		}
		paths = append(paths, e.Path)
	}
	return paths
}

// walk returns what a walk of the workspace shows, sorted.
func (s *suite) walk(path string) []string {
	s.Helper()
	var list []contents.Entry
	err := s.store.Walk(s.ctx, s.workspace, path, func(e contents.Entry) error {
		list = append(list, e)
		return nil
	})
	if err != nil {
		s.Fatalf("walk %q: %v", path, err)
	}
	found := marked(list)
	slices.Sort(found)
	return found
}

func (s *suite) versions(path string) []contents.Version {
	s.Helper()
	list, err := s.store.Versions(s.ctx, s.workspace, path, "", 0)
	if err != nil {
		s.Fatalf("versions of %q: %v", path, err)
	}
	return list
}

func (s *suite) checkpoint(path string) contents.Checkpoint {
	s.Helper()
	c, err := s.store.MakeCheckpoint(s.ctx, s.workspace, path, "ann", "")
	if err != nil {
		s.Fatalf("make a checkpoint of %q: %v", path, err)
	}
	return c
}

func (s *suite) checkpoints(path string) (ids []string) {
	s.Helper()
	list, err := s.store.Checkpoints(s.ctx, s.workspace, path)
	if err != nil {
		s.Fatalf("checkpoints of %q: %v", path, err)
	}
	for _, c := range list {
		ids = append(ids, c.ID)
	}
	return ids
}

func (s *suite) trash() []contents.Trashed {
	s.Helper()
	list, err := s.store.Trash(s.ctx, s.workspace, "", 0)
	if err != nil {
		s.Fatalf("trash: %v", err)
	}
	return list
}

func (s *suite) remove(path string) {
	s.Helper()
	if err := s.store.Delete(s.ctx, s.workspace, path, "ann", contents.Match{}); err != nil {
		s.Fatalf("delete %q: %v", path, err)
	}
}

func (s *suite) move(from, to string) contents.Entry {
	s.Helper()
	e, err := s.store.Move(s.ctx, s.workspace, from, to, "ann", contents.Match{})
	if err != nil {
		s.Fatalf("move %q to %q: %v", from, to, err)
	}
	return e
}

func (s *suite) used() int64 {
	s.Helper()
	used, _, err := s.store.Usage(s.ctx, s.workspace)
	if err != nil {
		s.Fatalf("usage: %v", err)
	}
	return used
}

func (s *suite) wantError(what string, err, want error) {
	s.Helper()
	if !errors.Is(err, want) {
		s.Errorf("%s: got error %v, want %v", what, err, want)
	}
}

// wantChanged checks that a condition failed, and who is said to have changed the
// file; "" is a file that is gone.
func (s *suite) wantChanged(what string, err error, current contents.Entry) {
	s.Helper()
	var changed *contents.ChangedError
	if !errors.As(err, &changed) {
		s.Errorf("%s: got error %v, want a ChangedError", what, err)
		return
	}
	if changed.Current.ETag != current.ETag || changed.Current.Author != current.Author || changed.Current.Version != current.Version {
		s.Errorf("%s: the error tells of %+v, want %+v", what, changed.Current, current)
	}
}

func (s *suite) want(what string, got, want any) {
	s.Helper()
	if fmt.Sprintf("%#v", got) != fmt.Sprintf("%#v", want) {
		s.Errorf("%s: got %v, want %v", what, got, want)
	}
}
