package s3store_test

import (
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/s3"
	"golang.org/x/sync/errgroup"

	"kernelgw/contents"
)

// A directory is deleted however much is in it, and all of that is in the trash.
func TestADirectoryOfManyFilesIsDeleted(t *testing.T) {
	t.Parallel()
	files, prefix := 25_000, "test-many-files/"
	if raceDetector {
		files = 2_500 // three steps
	}
	s := embedded.openAt(t, prefix)
	ctx := ctxOf(t)
	if err := put(ctx, s, "w", "d/e/first", "x", contents.PutOptions{Parents: true}); err != nil {
		t.Fatal(err)
	}
	if _, err := s.MakeCheckpoint(ctx, "w", "d/e/first", "ann", ""); err != nil {
		t.Fatal(err)
	}
	var group errgroup.Group
	group.SetLimit(16)
	for i := range files - 1 {
		group.Go(func() error { // as Put writes it, without its questions
			key := fmt.Sprintf("%sv1/w/f/d!/f%05d", prefix, i)
			_, err := embedded.client.PutObject(ctx, &s3.PutObjectInput{Bucket: &embedded.bucket, Key: &key})
			return err
		})
	}
	if err := group.Wait(); err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	if err := s.Delete(ctx, "w", "d", "ann", contents.Match{}); err != nil {
		t.Fatal(err)
	}
	t.Logf("deleted in %v", time.Since(start))
	if left, err := s.List(ctx, "w", ""); err != nil || len(left) != 0 {
		t.Errorf("the root holds %v, %v", left, err)
	}
	trash, err := s.Trash(ctx, "w", "", 0)
	paths := map[string]string{}
	for _, one := range trash {
		paths[one.Path] = one.ID
	}
	if err != nil || len(trash) != files || len(paths) != files {
		t.Fatalf("in the trash are %d files, %d of them different, %v: want %d", len(trash), len(paths), err, files)
	}
	if _, err := s.Undelete(ctx, "w", paths["d/e/first"]); err != nil {
		t.Fatal(err)
	}
	if err := checkpointsAre(ctx, s, "w", "d/e/first", 1); err != nil {
		t.Error(err)
	}
}

// A gateway that is killed while it deletes a large directory finishes that at its
// next start, and no file is lost: each is in the trash.
func TestADeletionSurvivesAKill(t *testing.T) {
	t.Parallel()
	dir := filled(t, "fillmany")
	out, _ := crash(t, copyOf(t, dir), "delete", 0, "")
	requests, err := strconv.Atoi(strings.TrimSpace(out))
	if err != nil || requests < manyFiles {
		t.Fatalf("a deletion takes %q requests, %v", out, err)
	}
	for i, n := range []int{1, requests / 2, requests * 3 / 4, requests - 4, requests - 1} {
		if i%2 == 1 {
			n = -n // after the answer
		}
		dir := copyOf(t, dir)
		if _, killed := crash(t, dir, "delete", n, ""); !killed {
			t.Errorf("not killed at request %d: the test tests nothing", n)
		}
		where, _ := crash(t, dir, "deleted", 0, "")
		want := "gone"
		if n == 1 {
			want = "there"
		}
		if strings.TrimSpace(where) != want || t.Failed() {
			t.Fatalf("after a kill at request %d of %d the directory is %q, want %s", n, requests, where, want)
		}
	}
}
