package s3store_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/http"
	"runtime/pprof"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/s3"
	"golang.org/x/sync/errgroup"

	"kernelgw/contents"
	"kernelgw/contents/s3store"
)

// behaviours are tested on each server.
var behaviours = map[string]func(t *testing.T, at target){
	"a file becomes a directory becomes a file":               fileBecomesDirectory,
	"checkpoints survive renames":                             checkpointsSurviveRenames,
	"a sweep keeps what is pinned":                            sweepKeepsWhatIsPinned,
	"a sweep empties the trash":                               sweepEmptiesTheTrash,
	"history outlives the version that leads on":              historyOutlivesTheVersionThatLeadsOn,
	"the quota holds for writes at once":                      quotaHoldsForWritesAtOnce,
	"fifty writers of one file through one gateway and three": fiftyWritersOfOneFile,
}

func (at target) behaviour(t *testing.T) {
	for name, test := range behaviours {
		t.Run(name, func(t *testing.T) { test(t, at) })
	}
}

func TestBehaviourOnTheEmbeddedServer(t *testing.T) { embedded.behaviour(t) }

// counter counts the requests that a store makes, as "METHOD operation".
type counter struct {
	on   http.RoundTripper
	mu   sync.Mutex
	seen []string
}

// RoundTrip implements http.RoundTripper.
func (c *counter) RoundTrip(r *http.Request) (*http.Response, error) {
	c.mu.Lock()
	c.seen = append(c.seen, r.Method)
	c.mu.Unlock()
	return c.on.RoundTrip(r)
}

// requests returns the methods of the requests that f makes.
func (c *counter) requests(f func()) []string {
	c.mu.Lock()
	c.seen = nil
	c.mu.Unlock()
	f()
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.seen)
}

func counted(t *testing.T) (*s3store.Store, *counter) {
	t.Helper()
	c := &counter{on: embedded.access.HTTPClient.Transport}
	at := embedded
	at.access.HTTPClient = &http.Client{Transport: c}
	at.client = s3store.NewClient(at.access)
	return at.open(t), c
}

// What clients do all the time costs as few requests as it can.
func TestRequestsOfOperations(t *testing.T) {
	s, c := counted(t)
	ctx := ctxOf(t)
	group := errgroup.Group{}
	group.SetLimit(8)
	for i := range 60 {
		group.Go(func() error {
			return put(ctx, s, "w", fmt.Sprintf("d/f%d", i), "x", contents.PutOptions{Parents: true})
		})
	}
	if err := group.Wait(); err != nil {
		t.Fatal(err)
	}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Error(err)
		}
	}
	for _, op := range []struct {
		name string
		do   func()
		want string
	}{
		{"look at a file", func() { _, err := s.Stat(ctx, "w", "d/f1"); must(err) }, "HEAD"},
		{"look at a directory", func() { _, err := s.Stat(ctx, "w", "d"); must(err) }, "HEAD HEAD"},
		{"list a directory", func() { _, err := s.List(ctx, "w", "d"); must(err) }, "GET"},
		{"save a file", func() { must(put(ctx, s, "w", "d/f1", "y", contents.PutOptions{})) }, "PUT HEAD"},
		{"read a file", func() { _, err := read(ctx, s, "w", "d/f1", ""); must(err) }, "GET"},
		{"make a checkpoint", func() { _, err := s.MakeCheckpoint(ctx, "w", "d/f1", "", ""); must(err) }, "HEAD GET PUT"},
		{"list checkpoints", func() { _, err := s.Checkpoints(ctx, "w", "d/f1"); must(err) }, "GET"},
	} {
		if got := strings.Join(c.requests(op.do), " "); got != op.want {
			t.Errorf("to %s takes %q, want %q", op.name, got, op.want)
		}
	}
}

// Of 50 writers of one file none is lost: each acknowledged save is a version.
func fiftyWritersOfOneFile(t *testing.T, at target) {
	s := at.open(t)
	fiftyWriters(t, func(int) *s3store.Store { return s })
	prefix := "test-" + rand.Text() + "/"
	all := []*s3store.Store{at.openAt(t, prefix), at.openAt(t, prefix), at.openAt(t, prefix)}
	fiftyWriters(t, func(i int) *s3store.Store { return all[i%3] })
}

func fiftyWriters(t *testing.T, store func(i int) *s3store.Store) {
	t.Helper()
	ctx := ctxOf(t)
	var mu sync.Mutex
	saved := map[string]string{} // content by version
	group, ctx := errgroup.WithContext(ctx)
	for i := range 50 {
		group.Go(func() error {
			content := fmt.Sprint("writer ", i)
			e, err := store(i).Put(ctx, "w", "f", strings.NewReader(content), contents.PutOptions{Author: content})
			if err != nil {
				return err
			}
			mu.Lock()
			defer mu.Unlock()
			saved[e.Version] = content
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		t.Fatal(err)
	}
	s := store(0)
	versions, err := s.Versions(ctxOf(t), "w", "f", "", 0)
	if err != nil || len(versions) != 50 || len(saved) != 50 {
		t.Fatalf("%d versions, %d acknowledged, %v: want 50", len(versions), len(saved), err)
	}
	for _, v := range versions {
		if got, err := read(ctxOf(t), s, "w", "f", v.Version); err != nil || got != saved[v.Version] || v.Author != got {
			t.Errorf("version %s holds %q of %q, %v: want %q", v.Version, got, v.Author, err, saved[v.Version])
		}
	}
}

// A name may be a file, then a directory, then a file, whatever versions are left.
func fileBecomesDirectory(t *testing.T, at target) {
	s := at.open(t)
	ctx := ctxOf(t)
	steps := []func() error{
		func() error { return put(ctx, s, "w", "data", "file", contents.PutOptions{}) },
		func() error { return s.Delete(ctx, "w", "data", "", contents.Match{}) },
		func() error { return put(ctx, s, "w", "data/in", "inside", contents.PutOptions{Parents: true}) },
		func() error { return s.Delete(ctx, "w", "data", "", contents.Match{}) },
		func() error { return listIs(ctx, s, "w", "") },
		func() error { return put(ctx, s, "w", "data", "file again", contents.PutOptions{IfNone: true}) },
		func() error { return versionsAre(ctx, s, "w", "data", "file again") },
		func() error { return trashIs(ctx, s, "w", "data/in", "data") },
	}
	for i, step := range steps {
		if err := step(); err != nil {
			t.Fatalf("step %d: %v", i+1, err)
		}
	}
}

// A history of more versions than a page of a listing has is shown whole, once.
func TestALongHistoryIsShownOnce(t *testing.T) {
	s := embedded.open(t)
	ctx := ctxOf(t)
	const versions = 1100
	for i := range versions {
		if err := put(ctx, s, "w", "f", fmt.Sprint(i), contents.PutOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	got, err := s.Versions(ctx, "w", "f", "", 0)
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for _, v := range got {
		seen[v.Version] = true
	}
	if len(got) != versions || len(seen) != versions {
		t.Errorf("%d versions, %d different: want %d", len(got), len(seen), versions)
	}
}

// A directory of 10,000 files is listed whole, within a second.
func TestALargeDirectory(t *testing.T) {
	files, prefix := 10_000, "test-large-directory/"
	if raceDetector {
		files = 2_500 // three pages
	}
	s := embedded.openAt(t, prefix)
	ctx := ctxOf(t)
	var group errgroup.Group
	group.SetLimit(16)
	for i := range files {
		group.Go(func() error { // as Put writes it, without its questions
			key := fmt.Sprintf("%sv1/w/f/f%05d", prefix, i)
			_, err := embedded.client.PutObject(ctx, &s3.PutObjectInput{Bucket: &embedded.bucket, Key: &key})
			return err
		})
	}
	if err := group.Wait(); err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	entries, err := s.List(ctx, "w", "")
	t.Logf("listed in %v", time.Since(start))
	if err != nil || len(entries) != files {
		t.Fatalf("%d entries, %v: want %d", len(entries), err, files)
	}
	if !slices.IsSortedFunc(entries, func(a, b contents.Entry) int { return strings.Compare(a.Path, b.Path) }) {
		t.Error("the entries are not sorted")
	}
}

// Checkpoints, history and creation time go along with a renamed directory, again
// and again.
func checkpointsSurviveRenames(t *testing.T, at target) {
	s := at.open(t)
	ctx := ctxOf(t)
	for _, content := range []string{"one", "two", "three"} {
		if err := put(ctx, s, "w", "d0/f", content, contents.PutOptions{Parents: true}); err != nil {
			t.Fatal(err)
		}
		if _, err := s.MakeCheckpoint(ctx, "w", "d0/f", "ann", content); err != nil {
			t.Fatal(err)
		}
	}
	for i := range 5 {
		if _, err := s.Move(ctx, "w", fmt.Sprint("d", i), fmt.Sprint("d", i+1), "bob", contents.Match{}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := s.Move(ctx, "w", "d5", "d0", "bob", contents.Match{}); err != nil {
		t.Fatal(err)
	}
	if err := versionsAre(ctx, s, "w", "d0/f", "three", "two", "one"); err != nil {
		t.Error(err)
	}
	checkpoints, err := s.Checkpoints(ctx, "w", "d0/f")
	if err != nil || len(checkpoints) != 3 {
		t.Fatalf("checkpoints %v, %v: want three", checkpoints, err)
	}
	if err := s.RestoreCheckpoint(ctx, "w", "d0/f", checkpoints[0].ID, "ann"); err != nil {
		t.Fatal(err)
	}
	if err := versionsAre(ctx, s, "w", "d0/f", "one", "three", "two", "one"); err != nil {
		t.Error(err)
	}
}

// A sweep takes what is old, and neither latest versions nor those that
// checkpoints or the trash hold.
func sweepKeepsWhatIsPinned(t *testing.T, at target) {
	s := at.open(t, func(o *s3store.Options) {
		o.Retention = s3store.Retention{All: time.Nanosecond, Hourly: time.Nanosecond, Daily: time.Nanosecond, Every: -1}
	})
	ctx := ctxOf(t)
	for i := range 5 {
		if err := put(ctx, s, "w", "d/f", fmt.Sprint("content ", i), contents.PutOptions{Parents: true}); err != nil {
			t.Fatal(err)
		}
		if i == 1 {
			if _, err := s.MakeCheckpoint(ctx, "w", "d/f", "", ""); err != nil {
				t.Fatal(err)
			}
		}
		if err := put(ctx, s, "w", "d/gone", fmt.Sprint("gone ", i), contents.PutOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := s.Move(ctx, "w", "d", "e", "", contents.Match{}); err != nil {
		t.Fatal(err)
	}
	if err := s.Delete(ctx, "w", "e/gone", "", contents.Match{}); err != nil {
		t.Fatal(err)
	}
	before, _, err := s.Usage(ctx, "w")
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := s.Sweep(ctx); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(
		versionsAre(ctx, s, "w", "e/f", "content 4", "content 1"), checkpointsAre(ctx, s, "w", "e/f", 1), trashIs(ctx, s, "w", "e/gone"),
	); err != nil {
		t.Error(err)
	}
	after, _, err := s.Usage(ctx, "w")
	want := 4 * contents.Charge(0) // three versions and a directory
	if err != nil || after != want {
		t.Errorf("the workspace holds %d bytes after %d, %v: want %d", after, before, err, want)
	}
	trash, err := s.Trash(ctx, "w", "", 0)
	if err != nil || len(trash) != 1 {
		t.Fatalf("trash %v, %v", trash, err)
	}
	if _, err := s.Undelete(ctx, "w", trash[0].ID); err != nil {
		t.Fatal(err)
	}
	if err := versionsAre(ctx, s, "w", "e/gone", "gone 4"); err != nil {
		t.Error(err)
	}
}

// What the trash keeps too long is purged, and its bytes are free.
func sweepEmptiesTheTrash(t *testing.T, at target) {
	s := at.open(t, func(o *s3store.Options) { o.Retention = s3store.Retention{Trash: time.Nanosecond, Every: -1} })
	ctx := ctxOf(t)
	for _, content := range []string{"one", "two"} {
		if err := put(ctx, s, "w", "f", content, contents.PutOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Delete(ctx, "w", "f", "", contents.Match{}); err != nil {
		t.Fatal(err)
	}
	if err := put(ctx, s, "w", "f", "other", contents.PutOptions{}); err != nil {
		t.Fatal(err)
	}
	time.Sleep(1100 * time.Millisecond) // the age of entries counts in seconds
	if err := s.Sweep(ctx); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(trashIs(ctx, s, "w"), versionsAre(ctx, s, "w", "f", "other")); err != nil {
		t.Error(err)
	}
	if used, _, err := s.Usage(ctx, "w"); err != nil || used != contents.Charge(0) {
		t.Errorf("the workspace holds %d bytes, %v: want one version", used, err)
	}
}

// Writes that begin together must not each find the same room.
func quotaHoldsForWritesAtOnce(t *testing.T, at target) {
	const limit, size = 100_000, 30_000
	s := at.open(t, func(o *s3store.Options) { o.QuotaBytes = limit })
	ctx := ctxOf(t)
	var mu sync.Mutex
	var full, other []error
	var writers sync.WaitGroup
	for i := range 20 {
		writers.Go(func() {
			err := put(ctx, s, "w", fmt.Sprint("f", i), strings.Repeat("x", size), contents.PutOptions{})
			var quota *contents.QuotaError
			mu.Lock()
			defer mu.Unlock()
			if errors.As(err, &quota) {
				full = append(full, err)
			} else if err != nil {
				other = append(other, err)
			}
		})
	}
	writers.Wait()
	used, _, err := s.Usage(ctx, "w")
	if err != nil || len(other) > 0 || used != limit/size*size || len(full) != 20-limit/size {
		t.Errorf("the workspace holds %d of %d bytes, %d writes were refused, %v %v", used, limit, len(full), err, other)
	}
	// What was refused, or has failed, keeps no room.
	if err := put(ctx, s, "w", "small", strings.Repeat("x", limit%size), contents.PutOptions{}); err != nil {
		t.Error(err)
	}
}

// A version that led to the history at another path may be deleted.
func historyOutlivesTheVersionThatLeadsOn(t *testing.T, at target) {
	s := at.open(t)
	ctx := ctxOf(t)
	for _, content := range []string{"one", "two"} {
		if err := put(ctx, s, "w", "a", content, contents.PutOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	e, err := s.Move(ctx, "w", "a", "b", "", contents.Match{})
	if err != nil {
		t.Fatal(err)
	}
	if err := put(ctx, s, "w", "b", "three", contents.PutOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := s.DeleteVersion(ctx, "w", "b", e.Version); err != nil {
		t.Fatal(err)
	}
	if err := versionsAre(ctx, s, "w", "b", "three", "one"); err != nil {
		t.Error(err)
	}
	if _, err := s.Move(ctx, "w", "b", "c", "", contents.Match{}); err != nil {
		t.Fatal(err)
	}
	if err := versionsAre(ctx, s, "w", "c", "three", "one"); err != nil {
		t.Error(err)
	}
}

// The end of a large file is read without the rest.
func TestTheTailOfALargeFile(t *testing.T) {
	s := embedded.open(t)
	ctx := ctxOf(t)
	content := bytes.Repeat([]byte("0123456789abcdef"), 4<<20) // 64 MiB
	e, err := s.Put(ctx, "w", "big", bytes.NewReader(content), contents.PutOptions{})
	if err != nil || e.Size != int64(len(content)) {
		t.Fatalf("%+v, %v", e, err)
	}
	body, _, err := s.Open(ctx, "w", "big", "", int64(len(content))-3, -1)
	if err != nil {
		t.Fatal(err)
	}
	defer body.Close()
	var tail bytes.Buffer
	if _, err := tail.ReadFrom(body); err != nil || tail.String() != "def" {
		t.Errorf("the tail is %q, %v", tail.String(), err)
	}
}

// Close waits for a move whose caller has left, and leaves nothing running. What
// it could not finish, the next gateway does.
// goroutinesOfTheStore are the stacks of those that run code of the store, by
// what tells them apart. (goleak cannot read stacks as deep as the embedded
// server's.)
func goroutinesOfTheStore() map[string]string {
	var all bytes.Buffer
	_ = pprof.Lookup("goroutine").WriteTo(&all, 2)
	found := make(map[string]string)
	for stack := range strings.SplitSeq(all.String(), "\n\n") {
		if strings.Contains(stack, "kernelgw/contents/s3store.") {
			id, _, _ := strings.Cut(stack, " [")
			found[id] = stack
		}
	}
	return found
}

func TestCloseJoinsAMoveThatWasLeft(t *testing.T) {
	const prefix = "test-close/"
	ctx := ctxOf(t)
	before := goroutinesOfTheStore()
	s, err := s3store.New(ctx, s3store.Options{Client: embedded.client, Bucket: embedded.bucket, Prefix: prefix})
	if err != nil {
		t.Fatal(err)
	}
	for i := range 40 {
		if err := put(ctx, s, "w", fmt.Sprint("d/f", i), "x", contents.PutOptions{Parents: true}); err != nil {
			t.Fatal(err)
		}
	}
	left, leave := context.WithTimeout(ctx, 5*time.Millisecond)
	defer leave()
	if _, err := s.Move(left, "w", "d", "e", "", contents.Match{}); err != nil && !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("move: %v", err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	for id, stack := range goroutinesOfTheStore() {
		if _, ok := before[id]; !ok {
			t.Errorf("still at work:\n%s", stack)
		}
	}
	next := embedded.openAt(t, prefix)
	entries, err := next.List(ctx, "w", "")
	if err != nil || len(entries) != 1 {
		t.Fatalf("the root holds %v, %v: want one directory", entries, err)
	}
	if files, err := next.List(ctx, "w", entries[0].Path); err != nil || len(files) != 40 {
		t.Errorf("%d files are in %s, %v: want 40", len(files), entries[0].Path, err)
	}
}
