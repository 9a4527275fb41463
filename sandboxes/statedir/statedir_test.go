package statedir_test

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"kernelgw/sandboxes"
	"kernelgw/sandboxes/statedir"
)

// removals remembers what was to be removed.
type removals struct {
	mu   sync.Mutex
	ids  []string
	fail error
}

func (r *removals) remove(ctx context.Context, id string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.ids = append(r.ids, id)
	return errors.Join(r.fail, ctx.Err())
}

func open(t *testing.T, path string) (*statedir.Dir, *removals) {
	t.Helper()
	r := &removals{}
	d, err := statedir.Open(path, statedir.Options{Remove: r.remove, Deadline: time.Minute, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	return d, r
}

func sandbox(id string) sandboxes.Sandbox {
	return sandboxes.Sandbox{Spec: sandboxes.Spec{ID: id, Labels: map[string]string{"a": "b"}}, Image: "sha256:0"}
}

func create(t *testing.T, d *statedir.Dir, id string) {
	t.Helper()
	if err := d.Create(t.Context(), id, func() error { return d.Put(sandbox(id)) }); err != nil {
		t.Fatal(err)
	}
}

func ids(t *testing.T, d *statedir.Dir) (ids []string) {
	t.Helper()
	list, err := d.List(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, sb := range list {
		ids = append(ids, sb.Spec.ID)
	}
	return ids
}

// files lists what is in a directory.
func files(t *testing.T, path string) (names []string) {
	t.Helper()
	entries, err := os.ReadDir(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

func TestASandboxExistsFromItsRecordToItsDestruction(t *testing.T) {
	path := t.TempDir()
	d, removed := open(t, path)
	err := d.Create(t.Context(), "a", func() error {
		if d.Exists("a") || !d.Taken("a") {
			t.Error("it exists before its record, or its id is not taken")
		}
		if _, err := d.Get("a"); !errors.Is(err, sandboxes.ErrNotFound) {
			t.Errorf("Get while it is made: %v", err)
		}
		if got := ids(t, d); len(got) > 0 {
			t.Errorf("listed while it is made: %v", got)
		}
		return d.Put(sandbox("a"))
	})
	if err != nil {
		t.Fatal(err)
	}
	again, _ := open(t, path) // as after a restart
	if got, err := again.Get("a"); err != nil || got.Spec.Labels["a"] != "b" || !again.Exists("a") {
		t.Errorf("Get: %+v, %v", got, err)
	}
	if err := again.Create(t.Context(), "a", nil); !errors.Is(err, sandboxes.ErrExists) {
		t.Errorf("a second one of the same id: %v", err)
	}
	for range 2 {
		if err := d.Destroy(t.Context(), "a"); err != nil {
			t.Fatal(err)
		}
	}
	if left := files(t, path); len(left) > 0 || d.Exists("a") || d.Taken("a") {
		t.Errorf("left behind: %v", left)
	}
	if !slices.Equal(removed.ids, []string{"a"}) {
		t.Errorf("removed: %v", removed.ids)
	}
}

func TestWhatIsNoIDIsNoSandbox(t *testing.T) {
	path := t.TempDir()
	d, removed := open(t, filepath.Join(path, "state"))
	for _, id := range []string{"", ".", "..", "../x", "A", "identity.json", ".gone-a", strings.Repeat("a", 64)} {
		if err := d.Create(t.Context(), id, func() error { t.Errorf("%q: started", id); return nil }); !errors.Is(err, sandboxes.ErrInvalid) {
			t.Errorf("%q: %v", id, err)
		}
		if d.Exists(id) || d.Taken(id) {
			t.Errorf("%q exists", id)
		}
		if _, err := d.Get(id); !errors.Is(err, sandboxes.ErrNotFound) {
			t.Errorf("Get %q: %v", id, err)
		}
		if err := d.Destroy(t.Context(), id); err != nil {
			t.Errorf("Destroy %q: %v", id, err)
		}
	}
	if left := files(t, path); !slices.Equal(left, []string{"state"}) || len(removed.ids) > 0 {
		t.Errorf("left %v, removed %v", left, removed.ids)
	}
	if _, err := statedir.Open("state", statedir.Options{}); err == nil {
		t.Error("a state directory that is not absolute is taken")
	}
}

// However start fails, and also when nobody waits for it any more.
func TestAFailedCreateLeavesNothing(t *testing.T) {
	path := t.TempDir()
	d, removed := open(t, path)
	ctx, cancel := context.WithCancel(t.Context())
	failed := errors.New("no room")
	err := d.Create(ctx, "a", func() error {
		cancel()
		return errors.Join(failed, os.WriteFile(d.Path("a", "half"), nil, 0o600))
	})
	if !errors.Is(err, failed) || errors.Is(err, context.Canceled) {
		t.Errorf("the error is %v, want that of the start alone", err)
	}
	if left := files(t, path); len(left) > 0 || !slices.Equal(removed.ids, []string{"a"}) {
		t.Errorf("left %v, removed %v", left, removed.ids)
	}
	if err := d.Create(ctx, "a", nil); !errors.Is(err, context.Canceled) || d.Taken("a") {
		t.Errorf("nobody waits: %v", err)
	}
}

func TestADestroyThatFailedCanBeCalledAgain(t *testing.T) {
	path := t.TempDir()
	d, removed := open(t, path)
	create(t, d, "a")
	removed.fail = errors.New("it resists")
	if err := d.Destroy(t.Context(), "a"); !errors.Is(err, removed.fail) || !strings.Contains(err.Error(), "cannot destroy sandbox a") {
		t.Errorf("a Destroy that failed: %v", err)
	}
	if !slices.Equal(ids(t, d), []string{"a"}) {
		t.Error("what could not be removed is not listed any more")
	}
	removed.fail = nil
	// Files of an earlier sandbox of the id, and of this one.
	for _, dir := range []string{filepath.Join(path, ".gone-a", "layer"), d.Path("a", "layer")} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := d.Destroy(t.Context(), "a"); err != nil {
		t.Fatal(err)
	}
	if left := files(t, path); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
	if err := os.Mkdir(filepath.Join(path, ".gone-a"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := d.Destroy(t.Context(), "a"); err != nil {
		t.Fatal(err)
	}
	if left := files(t, path); len(left) > 0 {
		t.Errorf("left of the first call: %v", left)
	}
}

func TestALossOfPowerKeepsNoSandboxFromBeingDestroyed(t *testing.T) {
	d, _ := open(t, t.TempDir())
	create(t, d, "whole")
	for id, content := range map[string]string{"empty": "", "half": `{"Spec":{"ID":"ha`, "zeros": "\x00\x00\x00"} {
		create(t, d, id)
		if err := os.WriteFile(d.Path(id, "sandbox.json"), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := d.Get(id); !statedir.IsCut(err) {
			t.Errorf("%s: %v", id, err)
		}
	}
	got := ids(t, d)
	slices.Sort(got)
	if !slices.Equal(got, []string{"empty", "half", "whole", "zeros"}) {
		t.Errorf("listed: %v", got)
	}
	for _, id := range got {
		if err := d.Destroy(t.Context(), id); err != nil {
			t.Error(err)
		}
	}
}

func TestWhoeverWaitedForASandboxThatWasRemovedIsToldSo(t *testing.T) {
	d, _ := open(t, t.TempDir())
	create(t, d, "a")
	held, err := d.Lock(t.Context(), "a")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := d.Lock(ctx, "a"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("locked twice: %v", err)
	}
	waited := make(chan error, 3)
	waiting := make(chan struct{}, 3)
	for _, wait := range []func() error{
		func() error { _, err := d.Lock(t.Context(), "a"); return err },
		func() error {
			return d.Change(t.Context(), "a", func(*sandboxes.Sandbox) error { t.Error("changed"); return nil })
		},
		func() error { return d.Destroy(t.Context(), "a") },
	} {
		go func() { waiting <- struct{}{}; waited <- wait() }()
	}
	for range 3 {
		<-waiting
	}
	// Another of the same id is there before they look again.
	if err := errors.Join(os.Rename(d.Path("a"), d.Path("was-a")), os.Mkdir(d.Path("a"), 0o700), held.Close()); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if err := <-waited; err != nil && !errors.Is(err, sandboxes.ErrNotFound) {
			t.Errorf("waited for one that was removed: %v", err)
		}
	}
}

func TestAChangeIsKeptWhenItSucceeds(t *testing.T) {
	d, _ := open(t, t.TempDir())
	create(t, d, "a")
	failed := errors.New("no")
	for image, fail := range map[string]error{"kept": nil, "not kept": failed} {
		err := d.Change(t.Context(), "a", func(sb *sandboxes.Sandbox) error { sb.Image = image; return fail })
		if !errors.Is(err, fail) {
			t.Errorf("%s: %v", image, err)
		}
	}
	if sb, err := d.Get("a"); err != nil || sb.Image != "kept" {
		t.Errorf("%+v, %v", sb, err)
	}
	if err := d.Change(t.Context(), "b", nil); !errors.Is(err, sandboxes.ErrNotFound) {
		t.Errorf("a change of nothing: %v", err)
	}
}

func TestWhoEndedFirstIsRight(t *testing.T) {
	dir := t.TempDir()
	if _, err := statedir.ReadExit(dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("before the end: %v", err)
	}
	first, err := statedir.RecordExit(dir, sandboxes.Exit{Code: 1, Reason: "first"})
	if err != nil || first.Code != 1 || time.Since(first.At) > time.Minute {
		t.Fatalf("%+v, %v", first, err)
	}
	second, err := statedir.RecordExit(dir, sandboxes.Exit{Code: 2, Reason: "second", At: time.Unix(1, 0)})
	read, readErr := statedir.ReadExit(dir)
	if err != nil || readErr != nil || second != first || read != first {
		t.Errorf("second: %+v, %v; read: %+v, %v; first: %+v", second, err, read, readErr, first)
	}
	// Half a record, as a loss of power leaves it, is none.
	if err := os.WriteFile(filepath.Join(dir, "exit.json"), []byte(`{"Code":`), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := statedir.ReadExit(dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("half a record: %v", err)
	}
	third, err := statedir.RecordExit(dir, sandboxes.Exit{Code: -1, Reason: "the host restarted"})
	if read, readErr := statedir.ReadExit(dir); err != nil || readErr != nil || read != third || third.Code != -1 {
		t.Errorf("after half a record: %+v, %v; read %+v, %v", third, err, read, readErr)
	}
	if left := files(t, dir); len(left) != 1 {
		t.Errorf("left behind: %v", left)
	}
	if _, err := statedir.RecordExit(filepath.Join(dir, "gone"), sandboxes.Exit{}); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("of one that is gone: %v", err)
	}
}

func TestFilesAppearWholeOrNotAtAll(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "f")
	if err := statedir.Write(file, []int{1}); err != nil {
		t.Fatal(err)
	}
	if err := statedir.Write(file, []int{1, 2}); err != nil {
		t.Fatal(err)
	}
	if err := statedir.WriteOnce(file, []int{3}); !errors.Is(err, fs.ErrExist) {
		t.Errorf("written twice: %v", err)
	}
	if err := statedir.Write(file, make(chan int)); err == nil {
		t.Error("a channel was written")
	}
	var got []int
	if err := statedir.Read(file, &got); err != nil || !slices.Equal(got, []int{1, 2}) {
		t.Errorf("%v, %v", got, err)
	}
	if info, err := os.Stat(file); err != nil || info.Mode() != 0o600 {
		t.Errorf("mode: %v, %v", info.Mode(), err)
	}
	if err := statedir.Write(filepath.Join(dir, "none", "f"), 1); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("into no directory: %v", err)
	}
	// What is not what was written is no cut file: it must not be taken for one.
	var number int
	if err := statedir.Read(file, &number); err == nil || statedir.IsCut(err) {
		t.Errorf("a list as a number: %v", err)
	}
	if left := files(t, dir); !slices.Equal(left, []string{"f"}) {
		t.Errorf("left behind: %v", left)
	}
}

func TestAnIdentityStaysWhereverTheDirectoryGoes(t *testing.T) {
	root := t.TempDir()
	path := filepath.Join(root, "a")
	d, _ := open(t, path)
	first, err := d.Identity()
	if err != nil || len(first) != 26 {
		t.Fatalf("%q, %v", first, err)
	}
	moved := filepath.Join(root, "b")
	if err := os.Rename(path, moved); err != nil {
		t.Fatal(err)
	}
	d, _ = open(t, moved)
	if second, err := d.Identity(); err != nil || second != first {
		t.Errorf("after a move: %q, %v; before: %q", second, err, first)
	}
	if err := d.Sweep(t.Context()); err != nil {
		t.Fatal(err)
	}
	other, _ := open(t, path)
	if id, err := other.Identity(); err != nil || id == first {
		t.Errorf("two directories, one identity: %q, %v", id, err)
	}
	// Cut short before anything could bear it.
	if err := os.WriteFile(filepath.Join(path, "identity.json"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	made, err := other.Identity()
	if again, errAgain := other.Identity(); err != nil || errAgain != nil || made != again || len(made) != 26 {
		t.Errorf("%q, %v; again %q, %v", made, err, again, errAgain)
	}
}
