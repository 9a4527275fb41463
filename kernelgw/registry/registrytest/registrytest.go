// Package registrytest is the contract suite of registry.Store.
package registrytest

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"

	"kernelgw/kernelgw/registry"
)

// Run checks that the stores that open returns keep the contract of
// registry.Store. Each call of open must return an empty store.
func Run(t *testing.T, open func(t *testing.T) registry.Store) {
	t.Run("PutThenGetAndList", func(t *testing.T) {
		s := open(t)
		for _, id := range []string{"b", "a"} {
			if v, err := s.Put(t.Context(), registry.Record{Kind: registry.Kernels, ID: id, Value: []byte(`{"id":"` + id + `"}`)}); err != nil || v != 1 {
				t.Fatalf("Put(%s) = %d, %v", id, v, err)
			}
		}
		got, err := s.Get(t.Context(), registry.Kernels, "a")
		want := registry.Record{Kind: registry.Kernels, ID: "a", Version: 1, Value: []byte(`{"id":"a"}`)}
		if err != nil || cmp.Diff(want, got) != "" {
			t.Errorf("Get: %v %s", err, cmp.Diff(want, got))
		}
		list, err := s.List(t.Context(), registry.Kernels)
		if err != nil || len(list) != 2 || list[0].ID != "a" || list[1].ID != "b" {
			t.Errorf("List = %v, %v: not in order of id", list, err)
		}
	})

	t.Run("KindsAreSeparate", func(t *testing.T) {
		s := open(t)
		mustPut(t, s, registry.Record{Kind: registry.Kernels, ID: "x", Value: []byte(`1`)})
		if _, err := s.Get(t.Context(), registry.Sessions, "x"); !errors.Is(err, registry.ErrNotFound) {
			t.Errorf("Get of another kind: %v", err)
		}
		if list, err := s.List(t.Context(), registry.Sessions); err != nil || len(list) != 0 {
			t.Errorf("List of another kind = %v, %v", list, err)
		}
	})

	t.Run("StaleVersionConflicts", func(t *testing.T) {
		s := open(t)
		r := registry.Record{Kind: registry.Kernels, ID: "x", Value: []byte(`1`)}
		r.Version = mustPut(t, s, r)
		stale := r
		r.Value = []byte(`2`)
		mustPut(t, s, r)
		stale.Value = []byte(`3`)
		for _, version := range []uint64{0, stale.Version, 99} {
			stale.Version = version
			if _, err := s.Put(t.Context(), stale); !errors.Is(err, registry.ErrConflict) {
				t.Errorf("Put at version %d: %v", version, err)
			}
		}
		if got, _ := s.Get(t.Context(), registry.Kernels, "x"); string(got.Value) != "2" {
			t.Errorf("value = %s", got.Value)
		}
	})

	t.Run("DeleteIsIdempotentAndStartsAnew", func(t *testing.T) {
		s := open(t)
		mustPut(t, s, registry.Record{Kind: registry.Kernels, ID: "x", Value: []byte(`1`)})
		for range 2 {
			if err := s.Delete(t.Context(), registry.Kernels, "x"); err != nil {
				t.Fatal(err)
			}
		}
		if err := s.Delete(t.Context(), "never-used", "x"); err != nil {
			t.Errorf("Delete in an unknown kind: %v", err)
		}
		if _, err := s.Get(t.Context(), registry.Kernels, "x"); !errors.Is(err, registry.ErrNotFound) {
			t.Errorf("Get after Delete: %v", err)
		}
		mustPut(t, s, registry.Record{Kind: registry.Kernels, ID: "x", Value: []byte(`2`)})
	})

	t.Run("TheCallersBytesMayChange", func(t *testing.T) {
		s := open(t)
		value := []byte(`"before"`)
		mustPut(t, s, registry.Record{Kind: registry.Kernels, ID: "x", Value: value})
		copy(value, `"xxxxxx"`)
		if got, _ := s.Get(t.Context(), registry.Kernels, "x"); string(got.Value) != `"before"` {
			t.Errorf("value = %s", got.Value)
		}
	})

	t.Run("OneOfManyWritersWins", func(t *testing.T) {
		s := open(t)
		version := mustPut(t, s, registry.Record{Kind: registry.Kernels, ID: "x", Value: []byte(`0`)})
		var wins atomic.Int32
		var wg sync.WaitGroup
		for i := range 16 {
			wg.Go(func() {
				_, err := s.Put(t.Context(), registry.Record{
					Kind: registry.Kernels, ID: "x", Version: version, Value: fmt.Append(nil, i),
				})
				if err == nil {
					wins.Add(1)
				} else if !errors.Is(err, registry.ErrConflict) {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if wins.Load() != 1 {
			t.Errorf("%d writers won", wins.Load())
		}
	})
}

func mustPut(t *testing.T, s registry.Store, r registry.Record) uint64 {
	t.Helper()
	version, err := s.Put(t.Context(), r)
	if err != nil {
		t.Fatalf("Put(%s/%s at %d): %v", r.Kind, r.ID, r.Version, err)
	}
	return version
}
