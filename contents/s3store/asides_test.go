package s3store_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"strings"
	"testing"
	"time"

	"kernelgw/contents"
	"kernelgw/contents/s3store"
)

// asides lists what is beside the files of a workspace.
func asides(ctx context.Context, t *testing.T, s *s3store.Store, workspace, prefix string) (names []string) {
	t.Helper()
	err := s.EachAside(ctx, workspace, prefix, func(name string, size int64, written time.Time) error {
		if time.Since(written) > time.Hour || time.Until(written) > time.Minute {
			t.Errorf("%s was written at %v", name, written)
		}
		names = append(names, fmt.Sprint(name, " ", size))
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return names
}

func TestAsidesAreWrittenOnceAndSeenByNobodyElse(t *testing.T) {
	ctx := ctxOf(t)
	s := embedded.open(t, func(o *s3store.Options) { o.QuotaBytes = 1 << 20 })
	large := []byte(strings.Repeat("x", 2<<20)) // no quota counts it
	for _, a := range []struct{ workspace, name, content string }{{"w", "p/a/1", "one"}, {"w", "p/a/2", string(large)}, {"w", "p/b/1", ""}, {"v", "p/a/1", "other"}} {
		if created, err := s.CreateAside(ctx, a.workspace, a.name, []byte(a.content)); !created || err != nil {
			t.Fatalf("%s is created: %v, %v", a.name, created, err)
		}
		if created, err := s.CreateAside(ctx, a.workspace, a.name, []byte("again")); created || err != nil {
			t.Fatalf("%s is created again: %v, %v", a.name, created, err)
		}
		r, err := s.OpenAside(ctx, a.workspace, a.name)
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(r)
		r.Close()
		if string(got) != a.content || err != nil {
			t.Errorf("%s is %d bytes, %v", a.name, len(got), err)
		}
	}
	if got := asides(ctx, t, s, "w", "p/a/"); !slices.Equal(got, []string{"p/a/1 3", fmt.Sprint("p/a/2 ", len(large))}) {
		t.Errorf("there are %q", got)
	}
	if list, err := s.List(ctx, "w", ""); err != nil || len(list) != 0 {
		t.Errorf("the files are %v, %v", list, err)
	}
	if used, _, err := s.Usage(ctx, "w"); used != 0 || err != nil {
		t.Errorf("%d bytes are used, %v", used, err)
	}
	if _, err := s.OpenAside(ctx, "w", "p/a/3"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("one that is not there: %v", err)
	}
	names, err := s.Workspaces(ctx)
	if err != nil || !slices.Contains(names, "v") || !slices.Contains(names, "w") {
		t.Errorf("the workspaces are %v, %v", names, err)
	}
	// A sweep of versions leaves them alone.
	if err := s.Sweep(ctx); err != nil {
		t.Fatal(err)
	}
	err = s.PruneAsides(ctx, "w", "p/", func(name string, size int64, _ time.Time) bool { return name == "p/a/1" && size == 3 })
	if got := asides(ctx, t, s, "w", ""); err != nil || !slices.Equal(got, []string{fmt.Sprint("p/a/2 ", len(large)), "p/b/1 0"}) {
		t.Errorf("after a removal there are %q, %v", got, err)
	}
	if created, err := s.CreateAside(ctx, "w", "p/a/1", []byte("new")); !created || err != nil {
		t.Errorf("one that was removed is created: %v, %v", created, err)
	}
}

func TestAsidesHaveNamesThatReachNothingElse(t *testing.T) {
	ctx := ctxOf(t)
	s := embedded.open(t)
	for _, name := range []string{"../x", "a/../b", "a//b", "/a", "A", "a!b", "a b", strings.Repeat("a", 201), "a/" + strings.Repeat("b/", 600)} {
		if _, err := s.CreateAside(ctx, "w", name, nil); !errors.Is(err, contents.ErrInvalid) {
			t.Errorf("%q: %v", name, err)
		}
		if _, err := s.OpenAside(ctx, "w", name); !errors.Is(err, contents.ErrInvalid) {
			t.Errorf("%q: %v", name, err)
		}
	}
}
