package filesync

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"kernelgw/contents"
	"kernelgw/contents/contentstest"
	"kernelgw/contents/contentsync"
	"kernelgw/sandboxes/agentapi"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience is for what must come; no test waits for it to pass.
const patience = 30 * time.Second

const workspace = "w"

// world is a store and the gateway's end of links.
type world struct {
	t      testing.TB
	store  *contentstest.Fake
	server *contentsync.Server
	log    *syncBuffer
}

// syncBuffer is a log that tests read while it is written.
type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

func newWorld(t testing.TB, change func(*contentsync.Options)) *world {
	w := &world{t: t, store: contentstest.NewFake(), log: &syncBuffer{}}
	o := contentsync.Options{
		Store: w.store, SpoolDir: t.TempDir(), Log: slog.New(slog.NewTextHandler(w.log, nil)),
	}
	if change != nil {
		change(&o)
	}
	w.server = contentsync.New(o)
	return w
}

// box is a sandbox's directory that is synced.
type box struct {
	*world
	dir    string
	syncer *Syncer
	said   *syncBuffer // notices
	log    *syncBuffer
	stop   func() // ends the Syncer, once

	cutLink func() // ends the link, if there is one
}

// start begins to sync a new directory; prepare may fill it before.
func (w *world) start(prepare func(dir string, o *Options)) *box {
	w.t.Helper()
	b := &box{world: w, dir: w.t.TempDir(), said: &syncBuffer{}, log: &syncBuffer{}, cutLink: func() {}}
	o := Options{
		Dir:    b.dir,
		Notice: func(text string) { fmt.Fprintln(b.said, text) },
		Log:    slog.New(slog.NewTextHandler(b.log, &slog.HandlerOptions{Level: slog.LevelDebug})),
	}
	if prepare != nil {
		prepare(b.dir, &o)
	}
	var err error
	if b.syncer, err = New(o); err != nil {
		w.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		b.syncer.Run(ctx)
	}()
	var once sync.Once
	b.stop = func() {
		once.Do(func() {
			cancel()
			<-ended
			b.cutLink()
		})
	}
	w.t.Cleanup(func() {
		b.stop()
		if w.t.Failed() {
			w.t.Logf("log of %s:\n%s\nnotices:\n%s", b.dir, b.log, b.said)
		}
	})
	return b
}

// linked is a box whose first pull is done and whose kernel has started.
func (w *world) linked() *box {
	w.t.Helper()
	b := w.start(nil)
	b.link()
	b.pulled()
	b.syncer.KernelStarted()
	return b
}

// pair is the two ends of a connection.
func pair(t testing.TB) (a, b net.Conn) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	ends := [2]net.Conn{}
	for i, fd := range fds {
		f := os.NewFile(uintptr(fd), "link")
		if ends[i], err = net.FileConn(f); err != nil {
			t.Fatal(err)
		}
		f.Close()
	}
	return ends[0], ends[1]
}

// link links the box with the store.
func (b *box) link() {
	b.t.Helper()
	ours, theirs := pair(b.t)
	ctx, cancel := context.WithCancel(context.Background())
	var both sync.WaitGroup
	both.Go(func() { b.server.Serve(ctx, ours, workspace, "sandbox") })
	both.Go(func() {
		if err := b.syncer.Link(ctx, theirs); err != nil {
			fmt.Fprintln(b.log, "link ended:", err)
		}
	})
	b.cutLink = func() {
		ours.Close()
		cancel()
		both.Wait()
	}
}

func (b *box) pulled() {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := b.syncer.WaitPulled(ctx); err != nil {
		b.t.Fatalf("the first pull: %v; %+v", err, b.syncer.Status())
	}
}

func (b *box) flush() {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := b.syncer.Flush(ctx); err != nil {
		b.t.Fatalf("flush: %v; %+v", err, b.syncer.Status())
	}
}

func (b *box) path(p string) string { return filepath.Join(b.dir, p) }

// write writes a file as a cell does.
func (b *box) write(p, content string) {
	b.t.Helper()
	if err := errors.Join(os.MkdirAll(filepath.Dir(b.path(p)), 0o755), os.WriteFile(b.path(p), []byte(content), 0o644)); err != nil {
		b.t.Fatal(err)
	}
}

// save writes a file of the store as a browser does.
func (w *world) save(p, content string) contents.Entry {
	w.t.Helper()
	e, err := w.store.Put(context.Background(), workspace, p, strings.NewReader(content), contents.PutOptions{Author: "browser", Parents: true})
	if err != nil {
		w.t.Fatal(err)
	}
	return e
}

// until waits until ok says "", and fails with what it says last.
func (w *world) until(what string, ok func() string) time.Duration {
	w.t.Helper()
	begin := time.Now()
	for {
		said := ok()
		if said == "" {
			return time.Since(begin)
		}
		if time.Since(begin) > patience {
			w.t.Fatalf("%s never came: %s", what, said)
		}
		time.Sleep(2 * time.Millisecond)
	}
}

// stored is the tree of the store, as path to content; directories end in /.
func (w *world) stored() map[string]string {
	w.t.Helper()
	all := map[string]string{}
	err := w.store.Walk(context.Background(), workspace, "", func(e contents.Entry) error {
		if e.Directory {
			all[e.Path+"/"] = ""
			return nil
		}
		all[e.Path] = ""
		return nil
	})
	if err != nil {
		w.t.Fatal(err)
	}
	for p := range all {
		if !strings.HasSuffix(p, "/") {
			all[p], _ = w.read(p)
		}
	}
	return all
}

func (w *world) read(p string) (string, bool) {
	body, _, err := w.store.Open(context.Background(), workspace, p, "", 0, -1)
	if err != nil {
		return "", false
	}
	defer body.Close()
	b, err := io.ReadAll(body)
	return string(b), err == nil
}

// local is the tree of the directory in the form of stored, without what is
// ignored.
func (b *box) local() map[string]string {
	all := map[string]string{}
	err := filepath.WalkDir(b.dir, func(full string, d fs.DirEntry, err error) error {
		p, _ := filepath.Rel(b.dir, full)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return nil
		case err != nil:
			return err
		case p == ".":
		case b.syncer.ignored(p) && d.IsDir():
			return fs.SkipDir
		case b.syncer.ignored(p):
		case d.IsDir():
			all[p+"/"] = ""
		case d.Type().IsRegular():
			content, err := os.ReadFile(full)
			if err == nil {
				all[p] = string(content)
			}
		}
		return nil
	})
	if err != nil {
		b.t.Fatal(err)
	}
	return all
}

// difference says how two trees differ, "" when they do not.
func difference(a, b map[string]string) string {
	var said []string
	for p, content := range a {
		if other, ok := b[p]; !ok {
			said = append(said, fmt.Sprintf("only in the first: %q", p))
		} else if other != content {
			said = append(said, fmt.Sprintf("%q is %.40q and %.40q", p, content, other))
		}
	}
	for p := range b {
		if _, ok := a[p]; !ok {
			said = append(said, fmt.Sprintf("only in the second: %q", p))
		}
	}
	slices.Sort(said)
	if len(said) > 10 {
		said = append(said[:10], fmt.Sprintf("and %d more", len(said)-10))
	}
	return strings.Join(said, "\n")
}

// same waits until the store and the directory are the same.
func (b *box) same() {
	b.t.Helper()
	b.until("the same tree on both sides", func() string { return difference(b.local(), b.stored()) })
}

// status waits until the status is as wanted.
func (b *box) status(what string, want func(agentapi.FilesStatus) bool) {
	b.t.Helper()
	b.until(what, func() string {
		if st := b.syncer.Status(); !want(st) {
			return fmt.Sprintf("%+v", st)
		}
		return ""
	})
}

// holds waits until the directory has a file of that content.
func (b *box) holds(p, content string) time.Duration {
	b.t.Helper()
	return b.until(p+" here", func() string {
		got, err := os.ReadFile(b.path(p))
		if err == nil && string(got) == content {
			return ""
		}
		return fmt.Sprintf("%.60q, %v", got, err)
	})
}

// has waits until the store has a file of that content.
func (w *world) has(p, content string) time.Duration {
	w.t.Helper()
	return w.until(p+" in the store", func() string {
		got, ok := w.read(p)
		if ok && got == content {
			return ""
		}
		return fmt.Sprintf("%.60q, %v", got, ok)
	})
}

// without waits until a file is on neither side.
func (b *box) without(p string) {
	b.t.Helper()
	b.until(p+" gone", func() string {
		_, stored := b.read(p)
		_, err := os.Lstat(b.path(p))
		if !stored && errors.Is(err, fs.ErrNotExist) {
			return ""
		}
		return fmt.Sprintf("in the store %v, here %v", stored, err)
	})
}
