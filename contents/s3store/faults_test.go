package s3store_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"kernelgw/contents"
	"kernelgw/contents/s3store"
)

// change is an operation on a workspace with the file a/old and a checkpoint of
// it, and the file a/gone in the trash; and what must be true after it.
type change struct {
	name  string
	do    func(ctx context.Context, s *s3store.Store, w string) error
	check func(ctx context.Context, s *s3store.Store, w string) error
}

var changes = []change{
	{"create", func(ctx context.Context, s *s3store.Store, w string) error {
		return put(ctx, s, w, "a/new", "new content", contents.PutOptions{IfNone: true})
	}, func(ctx context.Context, s *s3store.Store, w string) error {
		return versionsAre(ctx, s, w, "a/new", "new content")
	}},
	{"save", func(ctx context.Context, s *s3store.Store, w string) error {
		return put(ctx, s, w, "a/old", "saved content", contents.PutOptions{})
	}, func(ctx context.Context, s *s3store.Store, w string) error {
		return versionsAre(ctx, s, w, "a/old", "saved content", "old content", "older content")
	}},
	{"save if unchanged", func(ctx context.Context, s *s3store.Store, w string) error {
		e, err := s.Stat(ctx, w, "a/old")
		if err != nil {
			return err
		}
		return put(ctx, s, w, "a/old", "saved content", contents.PutOptions{IfMatch: e.ETag})
	}, func(ctx context.Context, s *s3store.Store, w string) error {
		return versionsAre(ctx, s, w, "a/old", "saved content", "old content", "older content")
	}},
	{"make a directory", func(ctx context.Context, s *s3store.Store, w string) error {
		_, _, err := s.MakeDirectory(ctx, w, "b/c")
		return err
	}, func(ctx context.Context, s *s3store.Store, w string) error {
		return listIs(ctx, s, w, "b", "b/c")
	}},
	{"move a directory", func(ctx context.Context, s *s3store.Store, w string) error {
		_, err := s.Move(ctx, w, "a", "moved", "ann", contents.Match{})
		return err
	}, func(ctx context.Context, s *s3store.Store, w string) error {
		return errors.Join(
			versionsAre(ctx, s, w, "moved/old", "old content", "older content"), listIs(ctx, s, w, "", "moved"),
			checkpointsAre(ctx, s, w, "moved/old", 1))
	}},
	{"copy", func(ctx context.Context, s *s3store.Store, w string) error {
		_, err := s.Copy(ctx, w, "a", "copied", "ann")
		return err
	}, func(ctx context.Context, s *s3store.Store, w string) error {
		return errors.Join(
			versionsAre(ctx, s, w, "copied/old", "old content"), versionsAre(ctx, s, w, "a/old", "old content", "older content"))
	}},
	{"delete", func(ctx context.Context, s *s3store.Store, w string) error {
		return s.Delete(ctx, w, "a/old", "ann", contents.Match{})
	}, func(ctx context.Context, s *s3store.Store, w string) error {
		return errors.Join(listIs(ctx, s, w, "a"), trashIs(ctx, s, w, "a/old", "a/gone"))
	}},
	{"undelete", func(ctx context.Context, s *s3store.Store, w string) error {
		trash, err := s.Trash(ctx, w, "", 0)
		if err != nil {
			return err
		}
		for _, entry := range trash {
			if entry.Path == "a/gone" {
				_, err = s.Undelete(ctx, w, entry.ID)
			}
		}
		return err
	}, func(ctx context.Context, s *s3store.Store, w string) error {
		return errors.Join(versionsAre(ctx, s, w, "a/gone", "gone content"), trashIs(ctx, s, w))
	}},
	{"restore", func(ctx context.Context, s *s3store.Store, w string) error {
		versions, err := s.Versions(ctx, w, "a/old", "", 0)
		if err != nil {
			return err
		}
		_, err = s.Restore(ctx, w, "a/old", versions[len(versions)-1].Version, "ann")
		return err
	}, func(ctx context.Context, s *s3store.Store, w string) error {
		return versionsAre(ctx, s, w, "a/old", "older content", "old content", "older content")
	}},
	{"make a checkpoint", func(ctx context.Context, s *s3store.Store, w string) error {
		_, err := s.MakeCheckpoint(ctx, w, "a/old", "ann", "")
		return err
	}, func(ctx context.Context, s *s3store.Store, w string) error {
		return checkpointsAre(ctx, s, w, "a/old", 2)
	}},
	{"write a document", func(ctx context.Context, s *s3store.Store, w string) error {
		return s.PutDocument(ctx, w, "settings", []byte("{}"))
	}, func(ctx context.Context, s *s3store.Store, w string) error {
		body, _, err := s.GetDocument(ctx, w, "settings")
		if err == nil && string(body) != "{}" {
			err = fmt.Errorf("the document is %q", body)
		}
		return err
	}},
}

// prepare makes a workspace for changes.
func prepare(ctx context.Context, s *s3store.Store, w string) error {
	for _, file := range [][2]string{{"a/old", "older content"}, {"a/old", "old content"}, {"a/gone", "gone content"}} {
		if err := put(ctx, s, w, file[0], file[1], contents.PutOptions{Parents: true}); err != nil {
			return err
		}
	}
	if _, err := s.MakeCheckpoint(ctx, w, "a/old", "ann", ""); err != nil {
		return err
	}
	return s.Delete(ctx, w, "a/gone", "ann", contents.Match{})
}

func put(ctx context.Context, s *s3store.Store, w, path, content string, o contents.PutOptions) error {
	_, err := s.Put(ctx, w, path, strings.NewReader(content), o)
	return err
}

func read(ctx context.Context, s *s3store.Store, w, path, version string) (string, error) {
	body, _, err := s.Open(ctx, w, path, version, 0, -1)
	if err != nil {
		return "", err
	}
	defer body.Close()
	content, err := io.ReadAll(body)
	return string(content), err
}

// versionsAre compares the history of a file with contents, newest first. One may
// be twice in a row: a server may get a request twice.
func versionsAre(ctx context.Context, s *s3store.Store, w, path string, want ...string) error {
	versions, err := s.Versions(ctx, w, path, "", 0)
	if err != nil {
		return err
	}
	var got []string
	for _, v := range versions {
		content, err := read(ctx, s, w, path, v.Version)
		if err != nil {
			return err
		}
		got = append(got, content)
	}
	if got = slices.Compact(got); !slices.Equal(got, want) {
		return fmt.Errorf("the versions of %s are %q, want %q", path, got, want)
	}
	return nil
}

func listIs(ctx context.Context, s *s3store.Store, w, path string, want ...string) error {
	entries, err := s.List(ctx, w, path)
	if err != nil {
		return err
	}
	var got []string
	for _, e := range entries {
		got = append(got, e.Path)
	}
	if !slices.Equal(got, want) {
		return fmt.Errorf("in %q is %q, want %q", path, got, want)
	}
	return nil
}

func checkpointsAre(ctx context.Context, s *s3store.Store, w, path string, want int) error {
	got, err := s.Checkpoints(ctx, w, path)
	if err == nil && len(got) != want {
		err = fmt.Errorf("%d checkpoints of %s, want %d", len(got), path, want)
	}
	for _, c := range got {
		if _, failed := read(ctx, s, w, path, c.Version); failed != nil {
			err = errors.Join(err, failed)
		}
	}
	return err
}

func trashIs(ctx context.Context, s *s3store.Store, w string, want ...string) error {
	trash, err := s.Trash(ctx, w, "", 0)
	if err != nil {
		return err
	}
	var got []string
	for _, entry := range trash {
		got = append(got, entry.Path)
	}
	if !slices.Equal(got, want) {
		return fmt.Errorf("in the trash is %q, want %q", got, want)
	}
	return nil
}

// concurrently runs cases, and reports their errors under their names.
func concurrently(t *testing.T, cases map[string]func(ctx context.Context) error) {
	t.Helper()
	var group errgroup.Group
	group.SetLimit(12)
	ctx := t.Context()
	for name, run := range cases {
		group.Go(func() error {
			if err := run(ctx); err != nil {
				t.Errorf("%s: %v", name, err)
			}
			return nil
		})
	}
	_ = group.Wait()
}

// Each change survives each fault at each of its requests, and is done once.
func TestEachRequestMayFailOnce(t *testing.T) {
	t.Parallel()
	p := through(t, embedded)
	s := p.target.open(t)
	for i, c := range changes {
		t.Run(c.name, func(t *testing.T) {
			// Without a fault first, to see the requests.
			w := fmt.Sprintf("count-%d", i)
			if err := prepare(t.Context(), s, w); err != nil {
				t.Fatal(err)
			}
			var requests []request
			p.set(w, func(r request) fault { requests = append(requests, r); return none })
			if err := errors.Join(c.do(t.Context(), s, w), c.check(t.Context(), s, w)); err != nil {
				t.Fatal(err)
			}
			p.set(w, nil)
			cases := map[string]func(ctx context.Context) error{}
			for n, r := range requests {
				for k, f := range []fault{failed, slowDown, silent, lost, cut, twice, refused} {
					if !r.writes() && f != failed && f != cut || f == refused && !r.conditional() {
						continue
					}
					w := fmt.Sprintf("once-%d-%d-%d", i, n, k)
					cases[fmt.Sprintf("%s, at request %d, %s", f, n+1, r.Method)] = func(ctx context.Context) error {
						if err := prepare(ctx, s, w); err != nil {
							return err
						}
						seen := 0
						p.set(w, func(request) fault {
							if seen++; seen != n+1 {
								return none
							}
							return f
						})
						if err := c.do(ctx, s, w); err != nil {
							return err
						}
						p.set(w, nil)
						return c.check(ctx, s, w)
					}
				}
			}
			concurrently(t, cases)
		})
	}
}

// An outage is told as such. Nothing is lost by it, and what was asked for can be
// asked for again.
func TestAnOutageIsTold(t *testing.T) {
	t.Parallel()
	p := through(t, embedded)
	s := p.target.open(t)
	cases := map[string]func(ctx context.Context) error{}
	for i, c := range changes {
		for k, f := range []fault{failed, slowDown, silent, lost} {
			w := fmt.Sprintf("outage-%d-%d", i, k)
			cases[c.name+", "+string(f)] = func(ctx context.Context) error {
				if err := prepare(ctx, s, w); err != nil {
					return err
				}
				p.set(w, func(r request) fault {
					if f == lost && !r.writes() {
						return none // changes arrive, and nothing is heard of them
					}
					return f
				})
				err := c.do(ctx, s, w)
				p.set(w, nil)
				if err == nil && f != lost || err != nil && !errors.Is(err, contents.ErrUnavailable) {
					return fmt.Errorf("the error is %v, want ErrUnavailable", err)
				}
				// Done, or not done: then it works now.
				if f != lost {
					if err := c.do(ctx, s, w); err != nil {
						return fmt.Errorf("after the outage: %w", err)
					}
					return c.check(ctx, s, w)
				}
				if c.check(ctx, s, w) == nil {
					return nil
				}
				err = c.do(ctx, s, w)
				if errors.Is(err, contents.ErrExists) {
					return nil // it was done in part, which the caller sees
				}
				if err != nil {
					return fmt.Errorf("after the outage: %w", err)
				}
				return c.check(ctx, s, w)
			}
		}
	}
	concurrently(t, cases)
}

// A caller that leaves is told so, at once, and not that the storage is gone.
func TestACallerMayLeave(t *testing.T) {
	p := through(t, embedded)
	s := p.target.open(t)
	for i, f := range []fault{failed, silent} {
		w := fmt.Sprint("leaves-", i)
		if err := prepare(t.Context(), s, w); err != nil {
			t.Fatal(err)
		}
		ctx, leave := context.WithCancel(t.Context())
		p.set(w, func(request) fault {
			time.AfterFunc(10*time.Millisecond, leave) // while it waits, for an answer or to try again
			return f
		})
		if err := put(ctx, s, w, "a/old", "new", contents.PutOptions{}); !errors.Is(err, context.Canceled) || errors.Is(err, contents.ErrUnavailable) {
			t.Errorf("%s: the error is %v, want context.Canceled", f, err)
		}
		p.set(w, nil)
		if err := versionsAre(t.Context(), s, w, "a/old", "old content", "older content"); err != nil {
			t.Error(err)
		}
	}
}

// A download whose connection breaks is taken up again where it broke.
func TestABrokenDownloadGoesOn(t *testing.T) {
	p := through(t, embedded)
	s := p.target.open(t)
	ctx := ctxOf(t)
	content := bytes.Repeat([]byte("0123456789abcdef"), 100_000)
	if _, err := s.Put(ctx, "broken", "big", bytes.NewReader(content), contents.PutOptions{}); err != nil {
		t.Fatal(err)
	}
	breaks := 0
	p.set("broken", func(r request) fault {
		if breaks < 3 {
			breaks++
			return cut
		}
		return none
	})
	body, _, err := s.Open(ctx, "broken", "big", "", 5, -1)
	if err != nil {
		t.Fatal(err)
	}
	defer body.Close()
	got, err := io.ReadAll(body)
	if err != nil || !bytes.Equal(got, content[5:]) {
		t.Fatalf("read %d bytes, %v: want %d", len(got), err, len(content)-5)
	}
	if breaks != 3 {
		t.Errorf("the connection broke %d times, want 3: the test tests nothing", breaks)
	}
}

// A download that cannot go on ends with an error, not early.
func TestADownloadThatBreaksForGoodFails(t *testing.T) {
	t.Parallel()
	p := through(t, embedded)
	s := p.target.open(t)
	ctx := ctxOf(t)
	if err := put(ctx, s, "broken-for-good", "f", strings.Repeat("x", 100_000), contents.PutOptions{}); err != nil {
		t.Fatal(err)
	}
	first := true
	p.set("broken-for-good", func(request) fault {
		if first {
			first = false
			return cut
		}
		return failed
	})
	content, err := read(ctx, s, "broken-for-good", "f", "")
	if !errors.Is(err, contents.ErrUnavailable) {
		t.Errorf("read %d bytes, error %v: want ErrUnavailable", len(content), err)
	}
}
