package s3embed_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
	"github.com/aws/smithy-go"
	"github.com/pkg/xattr"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"kernelgw/contents/s3embed"
)

func ctxOf(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

// client is of one bucket.
type client struct {
	*s3.Client
	t      *testing.T
	bucket string
}

func start(t *testing.T, dir string) (*s3embed.Server, client) {
	t.Helper()
	server, err := s3embed.Start(ctxOf(t), dir, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { server.Close() })
	return server, clientOf(t, server, server.SecretKey)
}

func clientOf(t *testing.T, server *s3embed.Server, secret string) client {
	return client{t: t, bucket: server.Bucket, Client: s3.New(s3.Options{
		Region: server.Region, BaseEndpoint: &server.Endpoint, UsePathStyle: true, HTTPClient: server.HTTPClient, RetryMaxAttempts: 1,
		Credentials: credentials.NewStaticCredentialsProvider(server.AccessKey, secret, ""),
	})}
}

func (c client) put(key, content string, change ...func(*s3.PutObjectInput)) (version string, err error) {
	in := &s3.PutObjectInput{Bucket: &c.bucket, Key: &key, Body: strings.NewReader(content)}
	for _, f := range change {
		f(in)
	}
	out, err := c.PutObject(ctxOf(c.t), in)
	if err != nil {
		return "", err
	}
	return aws.ToString(out.VersionId), nil
}

func (c client) mustPut(key, content string) (version string) {
	c.t.Helper()
	version, err := c.put(key, content)
	if err != nil || version == "" {
		c.t.Fatalf("put: version %q, %v", version, err)
	}
	return version
}

func (c client) read(key, version string) (string, error) {
	in := &s3.GetObjectInput{Bucket: &c.bucket, Key: &key}
	if version != "" {
		in.VersionId = &version
	}
	out, err := c.GetObject(ctxOf(c.t), in)
	if err != nil {
		return "", err
	}
	defer out.Body.Close()
	content, err := io.ReadAll(out.Body)
	return string(content), err
}

func (c client) delete(key, version string) {
	c.t.Helper()
	in := &s3.DeleteObjectInput{Bucket: &c.bucket, Key: &key}
	if version != "" {
		in.VersionId = &version
	}
	if _, err := c.DeleteObject(ctxOf(c.t), in); err != nil {
		c.t.Fatal(err)
	}
}

func wantCode(t *testing.T, what string, err error, code string) {
	t.Helper()
	var api smithy.APIError
	if !errors.As(err, &api) || api.ErrorCode() != code {
		t.Errorf("%s: error %v, want %s", what, err, code)
	}
}

func ifNone(in *s3.PutObjectInput) { in.IfNoneMatch = aws.String("*") }

// What was written is there after another start, in a directory that has been
// moved, with all versions.
func TestObjectsSurviveAStartElsewhere(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "one")
	server, c := start(t, dir)
	first, second := c.mustPut("a/b", "one"), c.mustPut("a/b", "two")
	if err := server.Close(); err != nil {
		t.Fatal(err)
	}
	moved := filepath.Join(t.TempDir(), "two")
	if err := os.Rename(dir, moved); err != nil {
		t.Skip("the directory cannot be renamed: ", err)
	}
	_, c = start(t, moved)
	for version, want := range map[string]string{first: "one", second: "two", "": "two"} {
		if got, err := c.read("a/b", version); err != nil || got != want {
			t.Errorf("version %q holds %q, %v: want %q", version, got, err, want)
		}
	}
}

// The program around keeps its working directory and its standard output, and the
// server leaves nothing behind.
func TestTheProgramIsLeftAlone(t *testing.T) {
	ignore := goleak.IgnoreCurrent()
	before, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout := os.Stdout
	os.Stdout = w
	begin := time.Now()
	server, err := s3embed.Start(ctxOf(t), t.TempDir(), nil)
	took := time.Since(begin)
	if err != nil {
		os.Stdout = stdout
		t.Fatal(err)
	}
	c := clientOf(t, server, server.SecretKey)
	c.mustPut("k", "v")
	for range 2 {
		if err := server.Close(); err != nil {
			t.Error(err)
		}
	}
	os.Stdout = stdout
	w.Close()
	if printed, err := io.ReadAll(r); err != nil || len(printed) > 0 {
		t.Errorf("printed %q, %v", printed, err)
	}
	if took > 20*time.Second {
		t.Errorf("it took %v to start, want less than a second on a host with nothing else to do", took)
	}
	if after, err := os.Getwd(); err != nil || after != before {
		t.Errorf("the working directory is %s, %v: want %s", after, err, before)
	}
	if err := goleak.Find(ignore,
		// Clocks of the server's libraries, which end with the program, and a sleep
		// of ten seconds that nothing wakes.
		goleak.IgnoreAnyFunction("github.com/valyala/fasthttp.(*workerPool).Start.func2"),
		goleak.IgnoreAnyFunction("github.com/valyala/fasthttp.updateServerDate.func1"),
		goleak.IgnoreAnyFunction("github.com/gofiber/utils/v2.StartTimeStampUpdater.func1.1"),
	); err != nil {
		t.Error(err)
	}
}

// What fails inside is told to the log, and the standard error is left alone.
func TestFailuresAreLogged(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	stderr := os.Stderr
	os.Stderr = w
	defer func() { os.Stderr = stderr }()
	var logged bytes.Buffer
	dir := t.TempDir()
	server, err := s3embed.Start(ctxOf(t), dir, slog.New(slog.NewTextHandler(&logged, nil)))
	if err != nil {
		t.Fatal(err)
	}
	c := clientOf(t, server, server.SecretKey)
	c.mustPut("k", "v")
	// Somebody damages an object behind the server's back.
	found, err := filepath.Glob(filepath.Join(dir, "objects", "*", "k"))
	if err != nil || len(found) != 1 {
		t.Fatalf("found %v, %v", found, err)
	}
	if err := xattr.Remove(found[0], "user.version-id"); err != nil {
		t.Fatal(err)
	}
	_, err = c.put("k", "w")
	wantCode(t, "a put over a damaged object", err, "InternalError")
	if err := server.Close(); err != nil {
		t.Error(err)
	}
	os.Stderr = stderr
	w.Close()
	if printed, err := io.ReadAll(r); err != nil || len(printed) > 0 {
		t.Errorf("printed %q, %v", printed, err)
	}
	if !strings.Contains(logged.String(), "key=k ") || !strings.Contains(logged.String(), "PutObject") {
		t.Errorf("logged %q", logged.String())
	}
}

func TestADirectoryIsServedOnce(t *testing.T) {
	dir := t.TempDir()
	server, _ := start(t, dir)
	if _, err := s3embed.Start(ctxOf(t), dir, nil); err == nil || !strings.Contains(err.Error(), "another kernelgw") {
		t.Errorf("a second start: %v", err)
	}
	if err := server.Close(); err != nil {
		t.Fatal(err)
	}
	start(t, dir)
}

// A gateway is killed while it starts a program: its child has the lock for a
// moment more.
func TestALockThatAKilledGatewayLetsGoOfLateIsWaitedFor(t *testing.T) {
	dir := t.TempDir()
	lock, err := os.Create(filepath.Join(dir, "lock"))
	if err == nil {
		err = unix.Flock(int(lock.Fd()), unix.LOCK_EX)
	}
	if err != nil {
		t.Fatal(err)
	}
	child := exec.Command("sleep", "0.3")
	child.ExtraFiles = []*os.File{lock}
	if err := errors.Join(child.Start(), lock.Close()); err != nil {
		t.Fatal(err)
	}
	start(t, dir)
	if err := child.Wait(); err != nil {
		t.Error(err)
	}
}

// A file system without extended attributes is refused, with the remedy.
func TestAFileSystemWithoutAttributesIsRefused(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root to mount")
	}
	dir := t.TempDir()
	if out, err := exec.Command("mount", "-t", "ramfs", "ramfs", dir).CombinedOutput(); err != nil {
		t.Skipf("no ramfs here: %v: %s", err, out)
	}
	defer func() {
		if out, err := exec.Command("umount", dir).CombinedOutput(); err != nil {
			t.Errorf("umount: %v: %s", err, out)
		}
	}()
	_, err := s3embed.Start(ctxOf(t), dir, nil)
	if err == nil || !strings.Contains(err.Error(), "extended attributes") || !strings.Contains(err.Error(), "choose a data directory") {
		t.Errorf("the error is %v", err)
	}
}

func TestOnlyTheKeysOfThisRunWork(t *testing.T) {
	server, _ := start(t, t.TempDir())
	if _, err := clientOf(t, server, "wrong").put("k", "v"); err == nil {
		t.Error("a wrong secret key works")
	}
}

// The repairs, each of which S3 does and versity's server does not.
func TestItIsAsS3Is(t *testing.T) {
	dir := t.TempDir()
	_, c := start(t, dir)
	t.Run("a deleted object can be created", func(t *testing.T) {
		c.mustPut("created", "one")
		_, err := c.put("created", "two", ifNone)
		wantCode(t, "create what is there", err, "PreconditionFailed")
		c.delete("created", "")
		if _, err := c.put("created", "three", ifNone); err != nil {
			t.Errorf("create what was deleted: %v", err)
		}
	})
	t.Run("a deleted object has no ETag", func(t *testing.T) {
		c.mustPut("matched", "one")
		head, err := c.HeadObject(ctxOf(t), &s3.HeadObjectInput{Bucket: &c.bucket, Key: aws.String("matched")})
		if err != nil {
			t.Fatal(err)
		}
		c.delete("matched", "")
		_, err = c.put("matched", "two", func(in *s3.PutObjectInput) { in.IfMatch = head.ETag })
		wantCode(t, "change what was deleted", err, "NoSuchKey")
	})
	t.Run("a version keeps its time", func(t *testing.T) {
		version := c.mustPut("timed", "one")
		path := filepath.Join(dir, "objects", c.bucket, "timed")
		written := time.Now().Add(-time.Hour).Truncate(time.Second)
		if err := os.Chtimes(path, written, written); err != nil {
			t.Fatal(err)
		}
		c.mustPut("timed", "two")
		old, err := c.HeadObject(ctxOf(t), &s3.HeadObjectInput{Bucket: &c.bucket, Key: aws.String("timed"), VersionId: &version})
		if err != nil || !old.LastModified.Equal(written) {
			t.Errorf("the old version is of %v, %v: want %v", old.LastModified, err, written)
		}
	})
	t.Run("a page repeats nothing", func(t *testing.T) {
		for i := range 7 {
			c.mustPut("paged", fmt.Sprint(i))
		}
		c.delete("paged", "")
		seen := map[string]int{}
		pages := s3.NewListObjectVersionsPaginator(c, &s3.ListObjectVersionsInput{Bucket: &c.bucket, Prefix: aws.String("paged"), MaxKeys: aws.Int32(3)})
		for pages.HasMorePages() {
			page, err := pages.NextPage(ctxOf(t))
			if err != nil {
				t.Fatal(err)
			}
			for _, v := range page.Versions {
				seen[*v.VersionId]++
			}
			for _, m := range page.DeleteMarkers {
				seen[*m.VersionId]++
			}
		}
		for version, n := range seen {
			if n != 1 {
				t.Errorf("version %s is listed %d times", version, n)
			}
		}
		if len(seen) != 8 {
			t.Errorf("%d versions are listed, want 8", len(seen))
		}
	})
	t.Run("deletes lose no version", func(t *testing.T) {
		var mu sync.Mutex
		acknowledged := map[string]string{}
		var group sync.WaitGroup
		for writer := range 8 {
			group.Go(func() {
				for i := range 20 {
					content := fmt.Sprint(writer, "-", i)
					version, err := c.put("raced", content)
					if err != nil {
						t.Error(err)
						return
					}
					mu.Lock()
					acknowledged[version] = content
					mu.Unlock()
					c.delete("raced", "")
				}
			})
		}
		group.Wait()
		for version, want := range acknowledged {
			if got, err := c.read("raced", version); err != nil || got != want {
				t.Errorf("version %s holds %q, %v: want %q", version, got, err, want)
			}
		}
	})
	t.Run("copies keep or replace metadata", func(t *testing.T) {
		_, err := c.put("from +ü", "content", func(in *s3.PutObjectInput) { in.Metadata = map[string]string{"a": "1"} })
		if err != nil {
			t.Fatal(err)
		}
		for _, directive := range []types.MetadataDirective{types.MetadataDirectiveCopy, types.MetadataDirectiveReplace} {
			_, err := c.CopyObject(ctxOf(t), &s3.CopyObjectInput{
				Bucket: &c.bucket, Key: aws.String("to"), CopySource: aws.String(c.bucket + "/from%20%2B%C3%BC"),
				MetadataDirective: directive, Metadata: map[string]string{"b": "2"},
			})
			if err != nil {
				t.Fatal(err)
			}
			head, err := c.HeadObject(ctxOf(t), &s3.HeadObjectInput{Bucket: &c.bucket, Key: aws.String("to")})
			if err != nil {
				t.Fatal(err)
			}
			kept, replaced := head.Metadata["a"] == "1", head.Metadata["b"] == "2"
			if kept != (directive == types.MetadataDirectiveCopy) || replaced != (directive == types.MetadataDirectiveReplace) {
				t.Errorf("with %s the metadata is %v", directive, head.Metadata)
			}
		}
	})
	t.Run("a wrong checksum is refused", func(t *testing.T) {
		_, err := c.put("checked", "content", func(in *s3.PutObjectInput) {
			in.ChecksumSHA256 = aws.String("47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=")
		})
		if err == nil {
			t.Error("content of another checksum was taken")
		}
	})
	t.Run("there is one bucket", func(t *testing.T) {
		for _, bucket := range []string{"other", "..", "."} {
			if _, err := c.HeadBucket(ctxOf(t), &s3.HeadBucketInput{Bucket: &bucket}); err == nil {
				t.Errorf("there is a bucket %q", bucket)
			}
			if _, err := c.PutObject(ctxOf(t), &s3.PutObjectInput{Bucket: &bucket, Key: aws.String("k"), Body: bytes.NewReader(nil)}); err == nil {
				t.Errorf("an object can be put into the bucket %q", bucket)
			}
		}
	})
}
