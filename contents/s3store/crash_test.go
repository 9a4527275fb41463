package s3store_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"kernelgw/contents"
	"kernelgw/contents/s3embed"
	"kernelgw/contents/s3store"
)

// This test program runs again as a gateway that is killed: with crashTask set,
// it opens the storage in crashDir and does a task.
const (
	crashTask = "KERNELGW_TEST_CRASH_TASK"
	crashDir  = "KERNELGW_TEST_CRASH_DIR"
	// crashAt is the number of the request at which the program kills itself:
	// before it is sent, or, when negative, after it was answered.
	crashAt = "KERNELGW_TEST_CRASH_AT"
)

const (
	// movedFiles is how many files the directory has that is moved.
	movedFiles = 500
	// manyFiles is how many files the directory has that is deleted: more than go
	// to the trash in one step.
	manyFiles = 2500
)

func runCrashTask(task string) error {
	ctx := context.Background()
	server, err := s3embed.Start(ctx, os.Getenv(crashDir), slog.New(slog.NewTextHandler(os.Stderr, nil)))
	if err != nil {
		return err
	}
	defer server.Close()
	at, _ := strconv.Atoi(os.Getenv(crashAt))
	mine := &mortal{on: server.HTTPClient.Transport, at: at}
	s, err := s3store.New(ctx, s3store.Options{
		Client: s3store.NewClient(s3store.Access{
			Endpoint: server.Endpoint, Region: server.Region, AccessKey: server.AccessKey, SecretKey: server.SecretKey,
			HTTPClient: &http.Client{Transport: mine},
		}), Bucket: server.Bucket,
	})
	if err != nil {
		return err
	}
	defer s.Close()
	return crashTasks[task](ctx, s, mine)
}

// mortal counts requests while it is armed, and kills the program at one.
type mortal struct {
	on    http.RoundTripper
	at    int
	armed atomic.Bool
	count atomic.Int64
}

// RoundTrip implements http.RoundTripper.
func (m *mortal) RoundTrip(r *http.Request) (*http.Response, error) {
	if !m.armed.Load() {
		return m.on.RoundTrip(r)
	}
	n := int(m.count.Add(1))
	if n == m.at {
		die()
	}
	response, err := m.on.RoundTrip(r)
	if -n == m.at {
		die()
	}
	return response, err
}

func die() {
	_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
	select {}
}

var crashTasks = map[string]func(ctx context.Context, s *s3store.Store, m *mortal) error{
	// fill makes the directory d, each tenth file with an older version and a
	// checkpoint of it.
	"fill": func(ctx context.Context, s *s3store.Store, _ *mortal) error {
		group, ctx := errgroup.WithContext(ctx)
		group.SetLimit(8)
		for i := range movedFiles {
			group.Go(func() error {
				path := fmt.Sprintf("d/%d/f%d", i%5, i)
				if i%10 == 0 {
					if err := put(ctx, s, "w", path, fmt.Sprint("older ", i), contents.PutOptions{Parents: true}); err != nil {
						return err
					}
					if _, err := s.MakeCheckpoint(ctx, "w", path, "ann", ""); err != nil {
						return err
					}
				}
				return put(ctx, s, "w", path, fmt.Sprint("content ", i), contents.PutOptions{Parents: true})
			})
		}
		return group.Wait()
	},
	"fillmany": func(ctx context.Context, s *s3store.Store, _ *mortal) error {
		group, ctx := errgroup.WithContext(ctx)
		group.SetLimit(8)
		for i := range manyFiles {
			group.Go(func() error {
				return put(ctx, s, "w", fmt.Sprintf("d/%d/f%d", i%3, i), "x", contents.PutOptions{Parents: true})
			})
		}
		return group.Wait()
	},
	"delete": func(ctx context.Context, s *s3store.Store, m *mortal) error {
		m.armed.Store(true)
		err := s.Delete(ctx, "w", "d", "ann", contents.Match{})
		fmt.Println(m.count.Load())
		return err
	},
	// deleted looks whether all is in the trash, or nothing.
	"deleted": func(ctx context.Context, s *s3store.Store, _ *mortal) error {
		where, want := "gone", manyFiles
		if _, err := s.Stat(ctx, "w", "d"); err == nil {
			where, want = "there", 0
		}
		trash, err := s.Trash(ctx, "w", "", 0)
		if err != nil || len(trash) != want {
			return fmt.Errorf("%d files are in the trash, want %d: %w", len(trash), want, err)
		}
		fmt.Println(where)
		return s.Walk(ctx, "w", "", func(e contents.Entry) error {
			if where == "gone" {
				return fmt.Errorf("%s is left", e.Path)
			}
			return nil
		})
	},
	"move": func(ctx context.Context, s *s3store.Store, m *mortal) error {
		m.armed.Store(true)
		_, err := s.Move(ctx, "w", "d", "e", "ann", contents.Match{})
		fmt.Println(m.count.Load())
		return err
	},
	// moved looks whether the move is done or not begun, and all is there.
	"moved": func(ctx context.Context, s *s3store.Store, _ *mortal) error {
		root := "e"
		if _, err := s.Stat(ctx, "w", "d"); err == nil {
			root = "d"
		}
		if entries, err := s.List(ctx, "w", ""); err != nil || len(entries) != 1 {
			return fmt.Errorf("the root holds %v, %w", entries, err)
		}
		fmt.Println(root)
		files := 0
		err := s.Walk(ctx, "w", root, func(e contents.Entry) error {
			if !e.Directory {
				files++
			}
			return nil
		})
		if err != nil || files != movedFiles {
			return fmt.Errorf("%d files of %d are there, %w", files, movedFiles, err)
		}
		group, ctx := errgroup.WithContext(ctx)
		group.SetLimit(8)
		for i := range movedFiles {
			group.Go(func() error {
				path := fmt.Sprintf("%s/%d/f%d", root, i%5, i)
				content, err := read(ctx, s, "w", path, "")
				if err != nil || content != fmt.Sprint("content ", i) {
					return fmt.Errorf("%s holds %q, %w", path, content, err)
				}
				if i%10 != 0 {
					return nil
				}
				if err := versionsAre(ctx, s, "w", path, fmt.Sprint("content ", i), fmt.Sprint("older ", i)); err != nil {
					return err
				}
				return checkpointsAre(ctx, s, "w", path, 1)
			})
		}
		return group.Wait()
	},
	"save": func(ctx context.Context, s *s3store.Store, m *mortal) error {
		m.armed.Store(true)
		e, err := s.Put(ctx, "w", "d/0/f0", strings.NewReader("saved"), contents.PutOptions{})
		fmt.Println(m.count.Load(), e.Version)
		return err
	},
	"saved": func(ctx context.Context, s *s3store.Store, _ *mortal) error {
		content, err := read(ctx, s, "w", "d/0/f0", "")
		if err != nil {
			return err
		}
		versions, err := s.Versions(ctx, "w", "d/0/f0", "", 0)
		if err != nil {
			return err
		}
		fmt.Println(content, len(versions))
		return checkpointsAre(ctx, s, "w", "d/0/f0", 1)
	},
	// write saves files all the time and prints what is acknowledged.
	"write": func(ctx context.Context, s *s3store.Store, _ *mortal) error {
		var mu sync.Mutex
		group, ctx := errgroup.WithContext(ctx)
		for writer := range 8 {
			group.Go(func() error {
				for i := 0; ; i++ {
					path, content := fmt.Sprint("f", rand.IntN(4)), fmt.Sprintf("%d-%d", writer, i)
					if i%20 == 19 {
						if err := s.Delete(ctx, "w", path, "ann", contents.Match{}); err != nil && !errors.Is(err, contents.ErrNotFound) {
							return err
						}
						continue
					}
					e, err := s.Put(ctx, "w", path, strings.NewReader(content), contents.PutOptions{})
					if err != nil {
						return err
					}
					mu.Lock()
					fmt.Println(path, e.Version, content)
					mu.Unlock()
				}
			})
		}
		return group.Wait()
	},
	// fillup saves until the disk is full, and looks at what that does.
	"fillup": func(ctx context.Context, s *s3store.Store, _ *mortal) error {
		large := strings.Repeat("0123456789abcdef", 1<<16)
		none := contents.Match{}
		for _, path := range []string{"gone", "d/large", "d/small"} {
			content := large
			if path == "d/small" {
				content = "small"
			}
			if err := put(ctx, s, "w", path, content, contents.PutOptions{Parents: true}); err != nil {
				return err
			}
		}
		if _, err := s.MakeCheckpoint(ctx, "w", "d/small", "ann", ""); err != nil {
			return err
		}
		if err := s.Delete(ctx, "w", "gone", "ann", none); err != nil {
			return err
		}
		var err error
		saved := 0
		for ; err == nil && saved < 100; saved++ {
			err = put(ctx, s, "w", fmt.Sprint("f", saved), fmt.Sprint(saved, large), contents.PutOptions{})
		}
		saved--
		if !errors.Is(err, contents.ErrFull) || errors.Is(err, contents.ErrUnavailable) {
			return fmt.Errorf("after %d saves the error is %w, want ErrFull", saved, err)
		}
		for i := range saved {
			got, err := read(ctx, s, "w", fmt.Sprint("f", i), "")
			if err != nil || got != fmt.Sprint(i, large) {
				return fmt.Errorf("f%d has %d bytes on a full disk: %w", i, len(got), err)
			}
		}
		// A move that finds no room has not happened, and does not happen later.
		if _, err := s.Move(ctx, "w", "d", "e", "ann", none); !errors.Is(err, contents.ErrFull) {
			return fmt.Errorf("a move of a large file on a full disk: %w, want ErrFull", err)
		}
		if err := s.Purge(ctx, "w", ""); err != nil {
			return fmt.Errorf("on a full disk: %w", err)
		}
		if err := put(ctx, s, "w", "again", large, contents.PutOptions{}); err != nil {
			return err
		}
		if _, err := s.Stat(ctx, "w", "e"); !errors.Is(err, contents.ErrNotFound) {
			return fmt.Errorf("what a move left at its end: %w, want ErrNotFound", err)
		}
		return errors.Join(
			listIs(ctx, s, "w", "d", "d/large", "d/small"),
			versionsAre(ctx, s, "w", "d/large", large), checkpointsAre(ctx, s, "w", "d/small", 1),
		)
	},
	// written reads the acknowledged versions that are on standard input.
	"written": func(ctx context.Context, s *s3store.Store, _ *mortal) error {
		lines := bufio.NewScanner(os.Stdin)
		n := 0
		for lines.Scan() {
			var path, version, want string
			if _, err := fmt.Sscan(lines.Text(), &path, &version, &want); err != nil {
				continue // cut off by the kill
			}
			if got, err := read(ctx, s, "w", path, version); err != nil || got != want {
				return fmt.Errorf("version %s of %s holds %q, want %q: %w", version, path, got, want, err)
			}
			n++
		}
		fmt.Println(n)
		return nil
	},
}

// mortalProgram is this test program without the race detector, which watches the
// same code in the other tests: these run it some fifty times, and what they look
// for is left on the disk.
var mortalProgram = sync.OnceValues(func() (string, error) {
	if !raceDetector {
		return os.Args[0], nil
	}
	program := filepath.Join(scratch, "gateway.test")
	build := exec.Command("go", "test", "-c", "-o", program, ".")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("cannot build the program that is killed: %w: %s", err, out)
	}
	return program, nil
})

// gateway is a process that does a task. It dies with this one.
func gateway(t *testing.T, dir, task string, at int) *exec.Cmd {
	t.Helper()
	program, err := mortalProgram()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(program)
	cmd.Env = append(os.Environ(), crashTask+"="+task, crashDir+"="+dir, crashAt+"="+strconv.Itoa(at))
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	return cmd
}

// crash runs a task in another process, and returns what it printed and whether
// it was killed.
func crash(t *testing.T, dir, task string, at int, stdin string) (stdout string, killed bool) {
	t.Helper()
	cmd := gateway(t, dir, task, at)
	cmd.Stdin = strings.NewReader(stdin)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		if status, ok := exit.Sys().(syscall.WaitStatus); ok && status.Signaled() {
			return out.String(), true
		}
	}
	if err != nil {
		t.Errorf("task %s at %d: %v: %s", task, at, err, errs.String())
	}
	return out.String(), false
}

// storageDir is removed at the end of the test.
func storageDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp(scratch, "*")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// copyOf copies a storage with its extended attributes.
func copyOf(t *testing.T, dir string) string {
	t.Helper()
	to := filepath.Join(storageDir(t), "storage")
	if out, err := exec.Command("cp", "-a", dir, to).CombinedOutput(); err != nil {
		t.Fatalf("cannot copy the storage: %v: %s", err, out)
	}
	return to
}

func filled(t *testing.T, task string) string {
	t.Helper()
	dir := filepath.Join(storageDir(t), "filled")
	crash(t, dir, task, 0, "")
	if t.Failed() {
		t.FailNow()
	}
	return dir
}

// A gateway that is killed during a move of 500 files finishes it at its next
// start. No file, version or checkpoint is lost, and none is there twice.
func TestAMoveSurvivesAKill(t *testing.T) {
	t.Parallel()
	dir := filled(t, "fill")
	out, _ := crash(t, copyOf(t, dir), "move", 0, "")
	requests, err := strconv.Atoi(strings.TrimSpace(out))
	if err != nil || requests < 2*movedFiles {
		t.Fatalf("a move takes %q requests, %v", out, err)
	}
	// All of the first steps and of the last, and some of the many in between.
	steps := []int{1, 5, movedFiles, movedFiles + 10, requests - 60}
	for n := requests - 9; n <= requests; n += 3 {
		steps = append(steps, n)
	}
	finished := 0
	for i, n := range steps {
		if i%2 == 1 {
			n = -n // after the answer
		}
		dir := copyOf(t, dir)
		if _, killed := crash(t, dir, "move", n, ""); !killed {
			t.Errorf("not killed at request %d: the test tests nothing", n)
		}
		where, _ := crash(t, dir, "moved", 0, "")
		if strings.TrimSpace(where) == "e" {
			finished++
		}
		if t.Failed() {
			t.Fatalf("after a kill at request %d of %d", n, requests)
		}
	}
	if finished == 0 || finished == len(steps) {
		t.Errorf("%d of %d moves were finished: want some begun and some not", finished, len(steps))
	}
}

// A save is there whole or not at all, at whichever step the gateway is killed;
// what was there before stays.
func TestASaveSurvivesAKill(t *testing.T) {
	t.Parallel()
	dir := filled(t, "fill")
	out, _ := crash(t, copyOf(t, dir), "save", 0, "")
	var requests int
	var version string
	if _, err := fmt.Sscan(out, &requests, &version); err != nil {
		t.Fatalf("a save printed %q: %v", out, err)
	}
	for n := 1; n <= requests; n++ {
		for _, at := range []int{n, -n} {
			dir := copyOf(t, dir)
			if _, killed := crash(t, dir, "save", at, ""); !killed {
				t.Errorf("not killed at request %d: the test tests nothing", at)
			}
			got, _ := crash(t, dir, "saved", 0, "")
			if got = strings.TrimSpace(got); got != "content 0 2" && got != "saved 3" {
				t.Errorf("after a kill at request %d of %d: content and versions are %q", at, requests, got)
			}
		}
	}
}

// A full disk is told as such, not as a storage that does not answer: trying again
// would not help. Emptying the trash does.
func TestAFullDiskIsTold(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := syscall.Mount("full", dir, "tmpfs", 0, "size=16m"); err != nil {
		t.Skipf("NOT CHECKED: a full disk; nothing can be mounted here: %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	})
	crash(t, dir, "fillup", 0, "")
}

// Every version that was acknowledged is there after a kill at any time.
func TestAcknowledgedSavesSurviveAKill(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(storageDir(t), "storage")
	all := ""
	for range 4 {
		cmd := gateway(t, dir, "write", 0)
		cmd.Stderr = os.Stderr
		stdout, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		// Killed while it writes: after some lines, at a moment of its own.
		lines := bufio.NewReader(stdout)
		var text strings.Builder
		for range 50 + rand.IntN(100) {
			line, err := lines.ReadString('\n')
			if err != nil {
				t.Fatalf("the writer ended: %v", err)
			}
			text.WriteString(line)
		}
		time.Sleep(time.Duration(rand.IntN(20)) * time.Millisecond)
		_ = cmd.Process.Kill()
		rest, _ := io.ReadAll(lines)
		_ = cmd.Wait()
		text.Write(rest)
		all += text.String()
		out, _ := crash(t, dir, "written", 0, all)
		if n, err := strconv.Atoi(strings.TrimSpace(out)); err != nil || n < 50 {
			t.Fatalf("read %q versions back: %v", out, err)
		}
	}
}
