package filesync

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"kernelgw/contents"
	"kernelgw/contents/contentsync"
	"kernelgw/sandboxes/agentapi"
)

func TestAttackLinksOutAreNotFollowed(t *testing.T) {
	outside := t.TempDir()
	if err := os.WriteFile(filepath.Join(outside, "secret"), []byte("SECRET"), 0o600); err != nil {
		t.Fatal(err)
	}
	w := newWorld(t, nil)
	w.save("d/into.txt", "of the store")
	b := w.linked()
	// Out, by a link to a file, to a directory, relative, and by a directory that
	// was one when it was pulled.
	if err := errors.Join(
		os.Symlink(filepath.Join(outside, "secret"), b.path("file")),
		os.Symlink(outside, b.path("dir")),
		os.Symlink("../"+filepath.Base(outside)+"/secret", b.path("relative")),
		os.Symlink("/proc/self/environ", b.path("proc")),
		os.RemoveAll(b.path("d")),
		os.Symlink(outside, b.path("d")),
	); err != nil {
		t.Fatal(err)
	}
	b.flush()
	// And in: what the store has in d must not be written through the link.
	w.save("d/into.txt", "new of the store")
	w.save("d/secret", "overwritten")
	w.save("file", "of the store")
	b.holds("d/into.txt", "new of the store")
	b.holds("file", "of the store")
	b.flush()
	for p, content := range w.stored() {
		if strings.Contains(content, "SECRET") {
			t.Errorf("%s has the secret", p)
		}
	}
	names, err := os.ReadDir(outside)
	if err != nil || len(names) != 1 {
		t.Errorf("outside: %v, %v", names, err)
	}
	if got, err := os.ReadFile(filepath.Join(outside, "secret")); err != nil || string(got) != "SECRET" {
		t.Errorf("the secret is %q, %v", got, err)
	}
}

func TestAttackDirectoryIsExchangedForALinkAllTheTime(t *testing.T) {
	outside := t.TempDir()
	if err := os.WriteFile(filepath.Join(outside, "f"), []byte("SECRET"), 0o600); err != nil {
		t.Fatal(err)
	}
	w := newWorld(t, nil)
	b := w.linked()
	if err := errors.Join(os.Mkdir(b.path("d"), 0o755), os.Symlink(outside, b.path("link"))); err != nil {
		t.Fatal(err)
	}
	stop := make(chan struct{})
	var exchanger sync.WaitGroup
	exchanger.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
				unix.Renameat2(unix.AT_FDCWD, b.path("d"), unix.AT_FDCWD, b.path("link"), unix.RENAME_EXCHANGE)
			}
		}
	})
	for i := range 100 {
		w.save("d/f", fmt.Sprint("of the store ", i))
		os.WriteFile(b.path("d/g"), []byte(fmt.Sprint(i)), 0o644)
		os.Remove(filepath.Join(outside, "g")) // this test's own write may have gone there
		time.Sleep(2 * time.Millisecond)
	}
	close(stop)
	exchanger.Wait()
	os.Remove(filepath.Join(outside, "g"))
	if got, err := os.ReadFile(filepath.Join(outside, "f")); err != nil || string(got) != "SECRET" {
		t.Errorf("the file outside is %q, %v", got, err)
	}
	if names, _ := os.ReadDir(outside); len(names) != 1 {
		t.Errorf("outside: %v", names)
	}
	for p, content := range w.stored() {
		if strings.Contains(content, "SECRET") {
			t.Errorf("%s has the secret", p)
		}
	}
}

func TestAttackSpecialFilesAreLeftAlone(t *testing.T) {
	b := newWorld(t, nil).linked()
	if err := errors.Join(
		unix.Mkfifo(b.path("fifo"), 0o644), // opening it would wait for ever
		os.Symlink("fifo", b.path("link")),
	); err != nil {
		t.Fatal(err)
	}
	socket, err := agentapi.ListenUnix(b.path("socket"))
	if err != nil {
		t.Fatal(err)
	}
	defer socket.Close()
	b.write("plain", "yes")
	b.flush()
	if d := difference(b.stored(), map[string]string{"plain": "yes"}); d != "" {
		t.Error(d)
	}
}

func TestAttackHardLinkToAnothersFile(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("only root can have files of two users")
	}
	w := newWorld(t, nil)
	owner := &Owner{UID: 65534, GID: 65534}
	b := w.start(func(dir string, o *Options) {
		o.Owner = owner
		if err := errors.Join(os.Chmod(dir, 0o777), os.Chown(dir, 65534, 65534)); err != nil {
			t.Fatal(err)
		}
	})
	w.save("d/pulled", "x")
	b.link()
	b.pulled()
	b.syncer.KernelStarted()
	outside := filepath.Join(t.TempDir(), "secret")
	if err := errors.Join(os.WriteFile(outside, []byte("SECRET"), 0o600), os.Link(outside, b.path("mine"))); err != nil {
		t.Skip("no hard link between these directories: ", err)
	}
	b.flush()
	if d := difference(w.stored(), map[string]string{"d/": "", "d/pulled": "x"}); d != "" {
		t.Error(d)
	}
	for _, p := range []string{"d", "d/pulled"} {
		var st unix.Stat_t
		if err := unix.Stat(b.path(p), &st); err != nil || st.Uid != owner.UID || st.Gid != owner.GID {
			t.Errorf("%s belongs to %d:%d, %v", p, st.Uid, st.Gid, err)
		}
	}
	var st unix.Stat_t
	if err := unix.Stat(b.path(incoming), &st); err != nil || st.Uid != 0 || st.Mode&0o777 != 0o700 {
		t.Errorf("the directory for new files: %d, %o, %v", st.Uid, st.Mode, err)
	}
}

func TestAttackTheDirectoryForNewFilesIsTaken(t *testing.T) {
	outside := t.TempDir()
	w := newWorld(t, nil)
	b := w.linked()
	for i, attack := range []func() error{
		func() error { return os.Symlink(outside, b.path(incoming)) },
		func() error { return os.WriteFile(b.path(incoming), nil, 0o644) },
		func() error { return unix.Mkfifo(b.path(incoming), 0o644) },
	} {
		os.RemoveAll(b.path(incoming))
		if err := attack(); err != nil {
			t.Fatal(err)
		}
		w.save("f", fmt.Sprint(i))
		b.holds("f", fmt.Sprint(i))
	}
	if names, _ := os.ReadDir(outside); len(names) != 0 {
		t.Errorf("outside: %v", names)
	}
}

func TestAttackNamesThatCannotBeStored(t *testing.T) {
	b := newWorld(t, nil).linked()
	good := []string{"ünïcode 日本.txt", "with 'quotes\".txt", "a%2e%2e", "a?b#c&d=e", " lead", "trail ", "-rf", "...", "a:b", strings.Repeat("n", 255)}
	bad := []string{"not\xffutf8", "back\\slash", "new\nline", "tab\t"}
	for _, name := range append(good, bad...) {
		b.write(name, "x")
	}
	deep := strings.Repeat("d/", 90) + "f"
	b.write(deep, "x")
	b.write("plain", "x")
	b.flush()
	stored := b.stored()
	for _, name := range append(good, "plain") {
		if _, ok := stored[name]; !ok {
			t.Errorf("%q is not in the store", name)
		}
	}
	for _, name := range bad {
		if _, ok := stored[name]; ok {
			t.Errorf("%q is in the store", name)
		}
	}
	if st := b.syncer.Status(); st.Kept == 0 || !strings.Contains(b.said.String(), "only in the sandbox") {
		t.Errorf("nobody was told: %+v %s", st, b.said)
	}
	// They do not stop the rest.
	b.write("plain", "again")
	b.has("plain", "again")
}

func TestNoRoomIsSaidAndTriedAgain(t *testing.T) {
	w := newWorld(t, nil)
	b := w.linked()
	w.store.Limit(10_000) // a small file counts 4 KiB
	b.write("big", strings.Repeat("x", 20_000))
	b.flush()
	if _, ok := w.read("big"); ok || !strings.Contains(b.said.String(), "big") {
		t.Errorf("stored %v, said %s", ok, b.said)
	}
	b.write("small", "fits")
	b.has("small", "fits")
	w.store.Limit(0)
	b.write("big", strings.Repeat("y", 20_000))
	b.has("big", strings.Repeat("y", 20_000))
}

func TestTooLargeIsSaidAndStays(t *testing.T) {
	w := newWorld(t, nil)
	b := w.start(func(_ string, o *Options) { o.Config.MaxFileBytes = 1 << 20 })
	b.link()
	b.pulled()
	b.write("big", strings.Repeat("x", 1<<20+1))
	b.write("small", "x")
	b.flush()
	if d := difference(w.stored(), map[string]string{"small": "x"}); d != "" {
		t.Error(d)
	}
	if !strings.Contains(b.said.String(), "limit of 1 MiB") {
		t.Errorf("said %s", b.said)
	}
}

func TestRefusedChangeIsNotLostToTheStore(t *testing.T) {
	w := newWorld(t, nil)
	w.save("f", "base")
	b := w.linked()
	w.store.Limit(100)
	b.write("f", strings.Repeat("x", 2000))
	b.flush()
	w.store.Limit(0)
	w.save("f", "of the browser")
	b.holds("f", "of the browser")
	b.same()
	found := false
	for _, content := range w.stored() {
		found = found || content == strings.Repeat("x", 2000)
	}
	if !found {
		t.Errorf("the sandbox's version is lost: %v", b.local())
	}
}

func TestIgnoredNamesStay(t *testing.T) {
	b := newWorld(t, nil).linked()
	for _, p := range []string{
		".venv/bin/python", "node_modules/a", "x/__pycache__/y.pyc", ".cache/x", ".local/x", ".ipython/x", ".config/x", ".jupyter/x",
		".npm/x", ".conda/x", "repo/.git/index.lock", "db.sqlite-wal", "m.pyc",
	} {
		b.write(p, "no")
	}
	b.write("repo/.git/config", "yes")
	b.write("db.sqlite", "yes")
	b.write("a.lock", "yes")
	b.flush()
	want := map[string]string{"x/": "", "repo/": "", "repo/.git/": "", "repo/.git/config": "yes", "db.sqlite": "yes", "a.lock": "yes"}
	if d := difference(b.stored(), want); d != "" {
		t.Error(d)
	}
}

func TestStoreThatFailsLosesNothing(t *testing.T) {
	w := newWorld(t, nil)
	for i := range 20 {
		w.save(fmt.Sprint("in", i), strings.Repeat("i", 100_000))
	}
	w.store.FailNext("", 5, contents.ErrUnavailable)
	w.store.CutNext(50_000)
	b := w.start(nil)
	for range 20 { // a manifest that fails ends the link
		b.link()
		time.Sleep(20 * time.Millisecond)
		if b.syncer.Status().Linked {
			break
		}
		b.cutLink()
	}
	b.pulled()
	b.syncer.KernelStarted()
	w.store.FailNext("Put", 10, fmt.Errorf("slow down: %w", contents.ErrUnavailable))
	for i := range 20 {
		b.write(fmt.Sprint("out", i), fmt.Sprint(i))
	}
	b.flush()
	b.same()
	if st := b.syncer.Status(); st.Conflicts != 0 {
		t.Errorf("status %+v", st)
	}
}

func TestNewLinkReplacesTheOld(t *testing.T) {
	b := newWorld(t, nil).linked()
	old := b.cutLink
	b.link()
	b.write("a", "1")
	b.has("a", "1")
	old()
	b.write("a", "2")
	b.has("a", "2")
}

func TestNothingIsLeftBehindInTheDirectory(t *testing.T) {
	w := newWorld(t, nil)
	w.save("a", "b")
	b := w.linked()
	b.stop()
	if _, err := os.Lstat(b.path(incoming)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%s: %v", incoming, err)
	}
}

func TestFileThatIsNeverStillIsSavedAsItGrows(t *testing.T) {
	b := newWorld(t, nil).linked()
	f, err := os.Create(b.path("log"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	stop := make(chan struct{})
	var writer sync.WaitGroup
	writer.Go(func() {
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			case <-time.After(time.Millisecond):
				fmt.Fprintln(f, i)
			}
		}
	})
	b.until("some of it", func() string {
		if got, _ := b.read("log"); strings.HasPrefix(got, "0\n1\n") {
			return ""
		}
		return "nothing"
	})
	close(stop)
	writer.Wait()
	b.flush()
	b.same()
}

func TestFewEntriesAreAllowed(t *testing.T) {
	w := newWorld(t, func(o *contentsync.Options) { o.MaxEntries = 10 })
	b := w.linked()
	for i := range 30 {
		b.write(fmt.Sprint("f", i), "x")
	}
	b.flush()
	if n := len(w.stored()); n < 10 || n > 10+smallWorkers {
		t.Errorf("%d files are in the store, the limit is 10", n)
	}
	if !strings.Contains(b.said.String(), "too many files") {
		t.Errorf("said %s", b.said)
	}
}
