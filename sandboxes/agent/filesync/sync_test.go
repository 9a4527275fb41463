package filesync

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"kernelgw/contents"
	"kernelgw/contents/contentsync"
	"kernelgw/sandboxes/agentapi"
)

func TestFirstPullBringsTheWorkspace(t *testing.T) {
	w := newWorld(t, nil)
	w.save("a.txt", "one")
	w.save("deep/er/b.txt", "two")
	w.save("empty", "")
	w.save("node_modules/x", "not this")
	if _, _, err := w.store.MakeDirectory(t.Context(), workspace, "hollow"); err != nil {
		t.Fatal(err)
	}
	if _, err := w.store.Put(t.Context(), workspace, "run.sh", strings.NewReader("#!"), contents.PutOptions{Executable: true}); err != nil {
		t.Fatal(err)
	}
	b := w.start(nil)
	b.link()
	b.pulled()
	want := map[string]string{"a.txt": "one", "deep/": "", "deep/er/": "", "deep/er/b.txt": "two", "empty": "", "hollow/": "", "run.sh": "#!"}
	if d := difference(b.local(), want); d != "" {
		t.Error(d)
	}
	if info, err := os.Stat(b.path("run.sh")); err != nil || info.Mode().Perm() != 0o755 {
		t.Errorf("run.sh: %v, %v", info, err)
	}
	if info, err := os.Stat(b.path("a.txt")); err != nil || info.Mode().Perm() != 0o644 {
		t.Errorf("a.txt: %v, %v", info, err)
	}
}

func TestLargeFilesComeAfterTheKernelHasStarted(t *testing.T) {
	w := newWorld(t, nil)
	large := strings.Repeat("x", 3<<20)
	w.save("large", large)
	w.save("small", "s")
	b := w.start(func(_ string, o *Options) { o.Config.LargeBytes = 2 << 20 })
	b.link()
	b.pulled()
	b.status("all but one pulled", func(st agentapi.FilesStatus) bool {
		return st.Waiting == 1 && st.WaitBytes == 3<<20 && st.Pulled
	})
	if _, err := os.Stat(b.path("large")); err == nil {
		t.Error("the large file came before the kernel")
	}
	b.holds("small", "s")
	b.syncer.KernelStarted()
	b.holds("large", large)
	b.status("all here", func(st agentapi.FilesStatus) bool { return st.Waiting == 0 && st.Files == 2 })
}

func TestKernelStartsWithoutFilesThatDoNotCome(t *testing.T) {
	w := newWorld(t, nil)
	b := w.start(func(_ string, o *Options) { o.Config.StartPatience = time.Millisecond })
	if err := b.syncer.WaitPulled(t.Context()); err == nil || !strings.Contains(err.Error(), "not here yet") {
		t.Errorf("got %v", err)
	}
}

// The figures are printed: -v.
func TestBothWaysWithinTheTimesThatArePromised(t *testing.T) {
	w := newWorld(t, nil)
	b := w.linked()
	var out, in []time.Duration
	for i := range 10 {
		content := fmt.Sprint("version ", i)
		b.write("from-cell.txt", content)
		out = append(out, w.has("from-cell.txt", content))
		w.save("from-browser.txt", content)
		in = append(in, b.holds("from-browser.txt", content))
	}
	slices.Sort(out)
	slices.Sort(in)
	t.Logf("cell to store: median %v, worst %v; store to sandbox: median %v, worst %v", out[5], out[9], in[5], in[9])
	// Two seconds and one are promised; the host of a test may be busy for more at a
	// time, but hardly most of the time.
	if out[5] > 4*time.Second || in[5] > 2*time.Second {
		t.Error("too slow")
	}
}

// unwatched is how long what nobody watches may take on a busy host before it can
// have been found by a look at everything.
const unwatched = rescanEvery / 2

func TestNewDirectoriesAreWatched(t *testing.T) {
	b := newWorld(t, nil).linked()
	b.write("a/b/c/one.txt", "1")
	b.has("a/b/c/one.txt", "1")
	b.write("a/b/c/one.txt", "2")
	if took := b.has("a/b/c/one.txt", "2"); took > unwatched {
		t.Errorf("took %v", took)
	}
	b.save("x/y/z.txt", "3")
	b.holds("x/y/z.txt", "3")
	b.write("x/y/z.txt", "4")
	if took := b.has("x/y/z.txt", "4"); took > unwatched {
		t.Errorf("took %v in a directory that came from the store", took)
	}
	b.same()
}

func TestRenamedDirectoryIsRenamedInTheStore(t *testing.T) {
	b := newWorld(t, nil).linked()
	for i := range 5 {
		b.write(fmt.Sprintf("old/sub/%d.txt", i), fmt.Sprint(i))
	}
	b.has("old/sub/4.txt", "4")
	b.flush()
	if err := os.Rename(b.path("old"), b.path("new")); err != nil {
		t.Fatal(err)
	}
	b.has("new/sub/4.txt", "4")
	b.without("old/sub/0.txt")
	b.without("old")
	// It is still watched, under its new name.
	b.write("new/sub/late.txt", "late")
	if took := b.has("new/sub/late.txt", "late"); took > unwatched {
		t.Errorf("took %v", took)
	}
	b.write("new/sub/0.txt", "changed")
	b.has("new/sub/0.txt", "changed")
	b.same()
	if st := b.syncer.Status(); st.Conflicts != 0 {
		t.Errorf("status %+v", st)
	}
}

func TestDirectoryRenamedInTheStoreIsRenamedHere(t *testing.T) {
	w := newWorld(t, nil)
	w.save("old/sub/a", "a")
	w.save("old/b", "b")
	b := w.linked()
	if _, err := w.store.Move(t.Context(), workspace, "old", "new", "browser", contents.Match{}); err != nil {
		t.Fatal(err)
	}
	b.holds("new/sub/a", "a")
	b.without("old/sub/a")
	b.without("old")
	b.same()
}

func TestDeletesGoBothWaysAndToTheTrash(t *testing.T) {
	w := newWorld(t, nil)
	w.save("here.txt", "1")
	w.save("there.txt", "2")
	w.save("dir/in.txt", "3")
	b := w.linked()
	if err := os.Remove(b.path("here.txt")); err != nil {
		t.Fatal(err)
	}
	b.without("here.txt")
	trash, err := w.store.Trash(t.Context(), workspace, "", 0)
	if err != nil || len(trash) != 1 || trash[0].Path != "here.txt" || trash[0].Author != "sandbox" {
		t.Errorf("trash: %+v, %v", trash, err)
	}
	if err := w.store.Delete(t.Context(), workspace, "there.txt", "browser", contents.Match{}); err != nil {
		t.Fatal(err)
	}
	b.without("there.txt")
	if err := os.RemoveAll(b.path("dir")); err != nil {
		t.Fatal(err)
	}
	b.without("dir/in.txt")
	b.until("dir gone", func() string { return difference(w.stored(), map[string]string{}) })
	b.write("dir/in.txt", "again")
	b.has("dir/in.txt", "again")
	b.same()
}

func TestDirectoryDeletedInTheStoreKeepsWhatNeverLeaves(t *testing.T) {
	w := newWorld(t, nil)
	w.save("p/a.py", "1")
	b := w.linked()
	b.write("p/__pycache__/a.pyc", "x")
	if err := w.store.Delete(t.Context(), workspace, "p", "browser", contents.Match{}); err != nil {
		t.Fatal(err)
	}
	b.without("p/a.py")
	b.flush()
	b.flush()
	if d := difference(w.stored(), map[string]string{}); d != "" {
		t.Error("it came back: ", d)
	}
	if _, err := os.Stat(b.path("p/__pycache__/a.pyc")); err != nil {
		t.Error(err)
	}
	b.write("p/b.py", "2")
	b.has("p/b.py", "2")
}

func TestConcurrentEditsKeepBoth(t *testing.T) {
	w := newWorld(t, nil)
	w.save("n.ipynb", "base")
	b := w.linked()
	b.cutLink()
	b.write("n.ipynb", "of the sandbox")
	w.save("n.ipynb", "of the browser")
	b.link()
	b.holds("n.ipynb", "of the browser")
	b.same()
	var second string
	for p, content := range w.stored() {
		if content == "of the sandbox" {
			second = p
		}
	}
	if !strings.HasPrefix(second, "n (conflict ") || filepath.Ext(second) != ".ipynb" {
		t.Errorf("the sandbox's version is %q; store: %v", second, w.stored())
	}
	if !strings.Contains(b.said.String(), second) {
		t.Errorf("nobody was told: %s", b.said)
	}
	if st := b.syncer.Status(); st.Conflicts != 1 {
		t.Errorf("status %+v", st)
	}
}

func TestSameEditOnBothSidesIsNoConflict(t *testing.T) {
	w := newWorld(t, nil)
	w.save("a", "base")
	b := w.linked()
	b.cutLink()
	b.write("a", "the same")
	w.save("a", "the same")
	b.link()
	b.same()
	b.flush()
	if st := b.syncer.Status(); st.Conflicts != 0 || len(w.stored()) != 1 {
		t.Errorf("status %+v, store %v", st, w.stored())
	}
}

func TestChangeWinsOverDelete(t *testing.T) {
	w := newWorld(t, nil)
	w.save("changed-here", "base")
	w.save("changed-there", "base")
	b := w.linked()
	b.cutLink()
	b.write("changed-here", "new here")
	if err := os.Remove(b.path("changed-there")); err != nil {
		t.Fatal(err)
	}
	if err := w.store.Delete(t.Context(), workspace, "changed-here", "browser", contents.Match{}); err != nil {
		t.Fatal(err)
	}
	w.save("changed-there", "new there")
	b.link()
	b.has("changed-here", "new here")
	b.holds("changed-there", "new there")
	b.same()
	if st := b.syncer.Status(); st.Conflicts != 0 {
		t.Errorf("status %+v", st)
	}
}

func TestFileAndDirectoryOfOneName(t *testing.T) {
	w := newWorld(t, nil)
	w.save("x", "base")
	w.save("y/in", "base")
	b := w.linked()
	b.cutLink()
	// Here x becomes a directory and y a file; there each is changed.
	if err := os.Remove(b.path("x")); err != nil {
		t.Fatal(err)
	}
	b.write("x/in", "of the sandbox")
	if err := os.RemoveAll(b.path("y")); err != nil {
		t.Fatal(err)
	}
	b.write("y", "a file now")
	w.save("x", "of the browser")
	w.save("y/new", "of the browser")
	b.link()
	b.holds("x", "of the browser")
	b.holds("y/new", "of the browser")
	b.same()
	found := map[string]bool{}
	for _, content := range w.stored() {
		found[content] = true
	}
	if !found["of the sandbox"] || !found["a file now"] {
		t.Errorf("lost something: %v", w.stored())
	}
}

func TestFileBecomesADirectoryAndBack(t *testing.T) {
	b := newWorld(t, nil).linked()
	b.write("x", "file")
	b.has("x", "file")
	if err := os.Remove(b.path("x")); err != nil {
		t.Fatal(err)
	}
	b.write("x/in", "inside")
	b.has("x/in", "inside")
	b.same()
	b.flush() // the agent knows, too: what it has not heard of yet it would keep twice
	if err := os.RemoveAll(b.path("x")); err != nil {
		t.Fatal(err)
	}
	b.write("x", "file again")
	b.has("x", "file again")
	b.same()
}

func TestExecutableBitGoesBothWays(t *testing.T) {
	w := newWorld(t, nil)
	b := w.linked()
	b.write("s.sh", "#!/bin/sh")
	b.has("s.sh", "#!/bin/sh")
	if err := os.Chmod(b.path("s.sh"), 0o755); err != nil {
		t.Fatal(err)
	}
	b.until("executable in the store", func() string {
		if e, err := w.store.Stat(context.Background(), workspace, "s.sh"); err != nil || !e.Executable {
			return fmt.Sprint(e, err)
		}
		return ""
	})
}

func TestImagesFilesAreNotTakenUntilTheyChange(t *testing.T) {
	w := newWorld(t, nil)
	w.save(".profile", "of the workspace")
	b := w.start(func(dir string, _ *Options) {
		for name, content := range map[string]string{".bashrc": "of the image", ".profile": "of the image"} {
			if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o644); err != nil {
				t.Fatal(err)
			}
		}
	})
	b.link()
	b.pulled()
	b.syncer.KernelStarted()
	b.flush()
	b.holds(".profile", "of the workspace")
	if d := difference(w.stored(), map[string]string{".profile": "of the workspace"}); d != "" {
		t.Error(d)
	}
	b.write(".bashrc", "changed")
	b.has(".bashrc", "changed")
	if st := b.syncer.Status(); st.Conflicts != 0 {
		t.Errorf("status %+v", st)
	}
}

func TestFlushWaitsForWhatWasWritten(t *testing.T) {
	w := newWorld(t, nil)
	b := w.linked()
	for round := range 5 {
		want := map[string]string{}
		for i := range 50 {
			p, content := fmt.Sprintf("f%d", i), fmt.Sprint(round, i)
			b.write(p, content)
			want[p] = content
		}
		begin := time.Now()
		b.flush()
		if d := difference(w.stored(), want); d != "" {
			t.Fatalf("round %d: %s", round, d)
		}
		if took := time.Since(begin); round > 0 && took > 20*time.Second {
			t.Errorf("a flush of 50 files took %v", took)
		}
	}
}

func TestFlushSaysWhenItCannot(t *testing.T) {
	b := newWorld(t, nil).linked()
	b.cutLink()
	b.write("a", "b")
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if err := b.syncer.Flush(ctx); err == nil {
		t.Error("it said that all was well")
	}
	b.link()
	b.flush()
	b.has("a", "b")
}

func TestTwoSandboxesOfOneWorkspaceSeeEachOther(t *testing.T) {
	w := newWorld(t, nil)
	a, b := w.linked(), w.linked()
	a.write("a/from-a", "1")
	b.holds("a/from-a", "1")
	b.write("a/from-a", "2")
	a.holds("a/from-a", "2")
	if err := os.RemoveAll(a.path("a")); err != nil {
		t.Fatal(err)
	}
	b.without("a/from-a")
	a.same()
	b.same()
}

func TestLargeFilesGoBothWays(t *testing.T) {
	w := newWorld(t, func(o *contentsync.Options) { o.MaxFileBytes = 1 << 30 })
	b := w.linked()
	content := strings.Repeat("0123456789abcdef", 4<<20) // 64 MiB
	begin := time.Now()
	b.write("out.bin", content)
	b.flush()
	if got, _ := w.read("out.bin"); got != content {
		t.Errorf("%d bytes are in the store", len(got))
	}
	out := time.Since(begin)
	begin = time.Now()
	w.save("in.bin", content)
	b.until("in.bin here", func() string {
		if info, err := os.Stat(b.path("in.bin")); err != nil || info.Size() != int64(len(content)) {
			return fmt.Sprint(err)
		}
		return ""
	})
	t.Logf("64 MiB: to the store in %v, to the sandbox in %v", out, time.Since(begin))
	if got, err := os.ReadFile(b.path("in.bin")); err != nil || string(got) != content {
		t.Errorf("%d bytes are here, %v", len(got), err)
	}
}

func TestManySmallFilesAreThereSoon(t *testing.T) {
	w := newWorld(t, nil)
	for i := range 5000 {
		w.save(fmt.Sprintf("d%02d/f%04d.txt", i%50, i), strings.Repeat("x", 1000))
	}
	begin := time.Now()
	b := w.start(func(_ string, o *Options) { o.Config.StartPatience = time.Minute })
	b.link()
	b.pulled()
	t.Logf("5,000 files of 1 kB in %v", time.Since(begin))
	if d := difference(b.local(), w.stored()); d != "" {
		t.Error(d)
	}
}
