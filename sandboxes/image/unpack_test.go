package image

import (
	"archive/tar"
	"bytes"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// entry is a tar entry of a test layer.
type entry struct {
	name, link, body string
	kind             byte // 0 is a regular file, or a directory when name ends in "/"
	mode             int64
	size             int64 // claimed when it differs from the body's
}

func layerTar(t testing.TB, entries ...entry) []byte {
	t.Helper()
	var buf bytes.Buffer
	tw := tar.NewWriter(&buf)
	for _, e := range entries {
		hdr := &tar.Header{Name: e.name, Linkname: e.link, Typeflag: e.kind, Mode: e.mode, ModTime: time.Unix(1e9, 0), Uid: os.Geteuid(), Gid: os.Getegid()}
		if hdr.Typeflag == 0 {
			hdr.Typeflag = tar.TypeReg
			if strings.HasSuffix(e.name, "/") {
				hdr.Typeflag = tar.TypeDir
			}
		}
		if hdr.Mode == 0 {
			hdr.Mode = 0o755
		}
		if hdr.Typeflag == tar.TypeReg {
			hdr.Size = int64(len(e.body))
			if e.size != 0 {
				hdr.Size = e.size
			}
		}
		if err := tw.WriteHeader(hdr); err != nil {
			t.Fatal(err)
		}
		if e.size == 0 {
			if _, err := tw.Write([]byte(e.body)); err != nil {
				t.Fatal(err)
			}
		}
	}
	tw.Flush()
	buf.Write(make([]byte, 1024))
	return buf.Bytes()
}

// arena is a directory to unpack into, with a file beside it to attack.
type arena struct {
	root, outside string
	u             *unpacker
}

func newArena(t testing.TB) *arena {
	t.Helper()
	dir := t.TempDir()
	a := &arena{root: filepath.Join(dir, "rootfs"), outside: filepath.Join(dir, "outside")}
	for _, d := range []string{a.root, a.outside} {
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(a.outside, "victim"), []byte("untouched"), 0o644); err != nil {
		t.Fatal(err)
	}
	root, err := os.OpenRoot(a.root)
	if err != nil {
		t.Fatal(err)
	}
	a.u = newUnpacker(root)
	t.Cleanup(func() { a.u.close(); root.Close() })
	return a
}

func (a *arena) unpack(t testing.TB, entries ...entry) error {
	t.Helper()
	return a.u.unpack(t.Context(), bytes.NewReader(layerTar(t, entries...)))
}

func (a *arena) mustUnpack(t testing.TB, entries ...entry) {
	t.Helper()
	if err := a.unpack(t, entries...); err != nil {
		t.Fatal(err)
	}
}

// assertOutsideUntouched fails when anything beside the root changed.
func (a *arena) assertOutsideUntouched(t testing.TB) {
	t.Helper()
	var names []string
	err := filepath.WalkDir(filepath.Dir(a.root), func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if p == a.root {
			return fs.SkipDir
		}
		names = append(names, p)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(names) != 3 { // the parent, outside, victim
		t.Errorf("files outside the root: %v", names)
	}
	if raw, err := os.ReadFile(filepath.Join(a.outside, "victim")); err != nil || string(raw) != "untouched" {
		t.Errorf("victim = %q, %v", raw, err)
	}
	if info, err := os.Stat(filepath.Join(a.outside, "victim")); err != nil || info.Sys().(*syscall.Stat_t).Nlink != 1 || info.Mode().Perm() != 0o644 {
		t.Errorf("victim's inode changed: %v, %v", info, err)
	}
}

func (a *arena) read(t testing.TB, name string) string {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join(a.root, name))
	if err != nil {
		t.Fatal(err)
	}
	return string(raw)
}

func (a *arena) exists(name string) bool {
	_, err := os.Lstat(filepath.Join(a.root, name))
	return err == nil
}

func TestAttackDotDotPathIsRefused(t *testing.T) {
	for _, name := range []string{"../outside/victim", "a/../../outside/victim", "/../outside/victim", "..", "a/b/../../../x"} {
		a := newArena(t)
		if err := a.unpack(t, entry{name: name, body: "evil"}); err == nil {
			t.Errorf("%q was accepted", name)
		}
		a.assertOutsideUntouched(t)
	}
}

func TestAttackAbsolutePathStaysInside(t *testing.T) {
	a := newArena(t)
	a.mustUnpack(t, entry{name: filepath.Join(a.outside, "victim"), body: "evil"})
	a.assertOutsideUntouched(t)
	if got := a.read(t, filepath.Join(a.outside, "victim")); got != "evil" {
		t.Errorf("the path inside = %q", got)
	}
}

func TestAttackWriteThroughAbsoluteSymlink(t *testing.T) {
	a := newArena(t)
	a.mustUnpack(t,
		entry{name: "out", kind: tar.TypeSymlink, link: a.outside},
		entry{name: "out/victim", body: "evil"},
		entry{name: "out/new", body: "evil"},
	)
	a.assertOutsideUntouched(t)
	if got := a.read(t, filepath.Join(a.outside, "new")); got != "evil" {
		t.Errorf("the link leads, as in a chroot, to %q", got)
	}
}

func TestAttackWriteThroughRelativeSymlink(t *testing.T) {
	a := newArena(t)
	a.mustUnpack(t,
		entry{name: "d/"},
		entry{name: "d/out", kind: tar.TypeSymlink, link: "../../../../../../outside"},
		entry{name: "d/out/victim", body: "evil"},
	)
	a.assertOutsideUntouched(t)
	if got := a.read(t, "outside/victim"); got != "evil" {
		t.Errorf("inside = %q", got)
	}
}

func TestAttackWriteThroughSymlinkOfAnEarlierLayer(t *testing.T) {
	a := newArena(t)
	a.mustUnpack(t, entry{name: "out", kind: tar.TypeSymlink, link: a.outside})
	a.mustUnpack(t, entry{name: "out/victim", body: "evil"})
	a.assertOutsideUntouched(t)
}

func TestAttackFileReplacesSymlinkAndNotItsTarget(t *testing.T) {
	a := newArena(t)
	a.mustUnpack(t,
		entry{name: "x", kind: tar.TypeSymlink, link: filepath.Join(a.outside, "victim")},
		entry{name: "x", body: "evil"},
	)
	a.assertOutsideUntouched(t)
	if info, err := os.Lstat(filepath.Join(a.root, "x")); err != nil || !info.Mode().IsRegular() {
		t.Errorf("x = %v, %v; want a regular file", info, err)
	}
}

func TestAttackSymlinkLoop(t *testing.T) {
	a := newArena(t)
	err := a.unpack(t,
		entry{name: "a", kind: tar.TypeSymlink, link: "b"},
		entry{name: "b", kind: tar.TypeSymlink, link: "a"},
		entry{name: "a/x", body: "evil"},
	)
	if err == nil {
		t.Error("a symlink loop was followed")
	}
}

func TestAttackSymlinkBomb(t *testing.T) {
	// Each link doubles the work of the next, were links not counted.
	a := newArena(t)
	entries := []entry{{name: "l0", kind: tar.TypeSymlink, link: "."}}
	for i := range 40 {
		prev := "l" + string(rune('0'+i))
		entries = append(entries, entry{name: "l" + string(rune('1'+i)), kind: tar.TypeSymlink, link: prev + "/" + prev})
	}
	entries = append(entries, entry{name: "l" + string(rune('0'+40)) + "/x", body: "evil"})
	if err := a.unpack(t, entries...); err == nil {
		t.Error("a bomb of links was followed")
	}
}

func TestAttackHardLinkOut(t *testing.T) {
	for _, link := range []string{"../outside/victim", "/../outside/victim", "out/victim", "v", "nothere", "d"} {
		a := newArena(t)
		err := a.unpack(t,
			entry{name: "out", kind: tar.TypeSymlink, link: a.outside},
			entry{name: "v", kind: tar.TypeSymlink, link: filepath.Join(a.outside, "victim")},
			entry{name: "d/"},
			entry{name: "hard", kind: tar.TypeLink, link: link},
			entry{name: "hard", body: "evil"},
		)
		if err == nil {
			t.Errorf("hard link to %q was accepted", link)
		}
		a.assertOutsideUntouched(t)
	}
}

func TestHardLinkInside(t *testing.T) {
	a := newArena(t)
	a.mustUnpack(t,
		entry{name: "d/a", body: "text"},
		entry{name: "l", kind: tar.TypeSymlink, link: "/d"},
		entry{name: "b", kind: tar.TypeLink, link: "l/a"},
		entry{name: "b", kind: tar.TypeLink, link: "d/a"}, // again, onto itself
	)
	if a.read(t, "b") != "text" {
		t.Error("b is not a")
	}
	a.mustUnpack(t, entry{name: "b", body: "other"})
	if a.read(t, "d/a") != "text" {
		t.Error("a later layer wrote through a hard link")
	}
}

func TestAttackDevicesAndPipesAreLeftOut(t *testing.T) {
	a := newArena(t)
	a.mustUnpack(t,
		entry{name: "mem", kind: tar.TypeChar}, entry{name: "sda", kind: tar.TypeBlock}, entry{name: "fifo", kind: tar.TypeFifo},
		entry{name: "file", body: "x"},
	)
	for _, name := range []string{"mem", "sda", "fifo"} {
		if a.exists(name) {
			t.Errorf("%s was made", name)
		}
	}
	if a.u.skipped != 3 || !a.exists("file") {
		t.Errorf("skipped %d, want 3, and the file kept", a.u.skipped)
	}
}

func TestAttackSetuidBitsAreDropped(t *testing.T) {
	a := newArena(t)
	a.mustUnpack(t, entry{name: "su", body: "x", mode: 0o6755}, entry{name: "d/", mode: 0o2775}, entry{name: "tmp/", mode: 0o1777})
	for name, want := range map[string]fs.FileMode{"su": 0o755, "d": 0o775 | fs.ModeDir, "tmp": 0o777 | fs.ModeDir | fs.ModeSticky} {
		info, err := os.Lstat(filepath.Join(a.root, name))
		if err != nil || info.Mode() != want {
			t.Errorf("%s has mode %v, want %v (%v)", name, info.Mode(), want, err)
		}
	}
}

func TestUnreadableModesStayUsableForTheStore(t *testing.T) {
	a := newArena(t)
	a.mustUnpack(t, entry{name: "d/", mode: 0o1}, entry{name: "d/f", body: "x", mode: 0o1})
	if info, _ := os.Lstat(filepath.Join(a.root, "d")); info.Mode().Perm() != 0o701 {
		t.Errorf("d has mode %v", info.Mode())
	}
	if info, _ := os.Lstat(filepath.Join(a.root, "d/f")); info.Mode().Perm() != 0o401 {
		t.Errorf("d/f has mode %v", info.Mode())
	}
}

func TestAttackHugeClaimedSize(t *testing.T) {
	a := newArena(t)
	a.u.maxBytes = 1 << 20
	if err := a.unpack(t, entry{name: "big", size: 1 << 50}); err == nil || !strings.Contains(err.Error(), "larger") {
		t.Errorf("error = %v, want the limit named", err)
	}
	// The sum of both does not fit into an int64.
	a = newArena(t)
	if err := a.unpack(t, entry{name: "some", body: "x"}, entry{name: "big", size: math.MaxInt64}); err == nil || !strings.Contains(err.Error(), "larger") {
		t.Errorf("error = %v, want the limit named", err)
	}
	a = newArena(t)
	if err := a.unpack(t, entry{name: "short", size: 1 << 20}); err == nil {
		t.Error("a body shorter than its header says was accepted")
	}
}

func TestAttackManySmallFilesOverTheByteLimit(t *testing.T) {
	a := newArena(t)
	a.u.maxBytes = 100
	body := strings.Repeat("x", 60)
	if err := a.unpack(t, entry{name: "a", body: body}, entry{name: "b", body: body}); err == nil {
		t.Error("the limit holds for each file and not for the image")
	}
}

func TestAttackTooManyEntries(t *testing.T) {
	a := newArena(t)
	a.u.maxEntries = 3
	if err := a.unpack(t, entry{name: "a/"}, entry{name: "b/"}, entry{name: "c/"}, entry{name: "d/"}); err == nil {
		t.Error("more entries than the limit were accepted")
	}
}

// A gzip of such names is a thousandth of the directories they make.
func TestAttackDirectoriesThatOnlyNamesImply(t *testing.T) {
	layer := func(deep string) []entry {
		return []entry{{name: "1/" + deep + "x"}, {name: "2/" + deep + "x"}, {name: "3/" + deep + "x"}}
	}
	for name, limit := range map[string]func(u *unpacker){
		"more than 200 files":      func(u *unpacker) { u.maxEntries = 200 },
		"larger than 819200 bytes": func(u *unpacker) { u.maxBytes = 200 * dirBytes },
	} {
		a := newArena(t)
		limit(a.u)
		if err := a.unpack(t, layer(strings.Repeat("d/", 99))...); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("error = %v, want %q", err, name)
		}
		made := 0
		_ = filepath.WalkDir(a.root, func(string, fs.DirEntry, error) error { made++; return nil })
		if made > 203 { // two branches with a file each at most, and the root
			t.Errorf("%s: %d were made", name, made)
		}
	}
	a := newArena(t)
	if err := a.unpack(t, layer(strings.Repeat("d/", 300))...); err == nil || !strings.Contains(err.Error(), "256 directories") {
		t.Errorf("300 directories deep: %v", err)
	}
	// A link goes on where the name would be too deep.
	deep := strings.Repeat("d/", 200)
	if err := newArena(t).unpack(t, entry{name: deep + "x"}, entry{name: "l", kind: tar.TypeSymlink, link: deep}, entry{name: "l/" + deep + "x"}); err == nil {
		t.Error("400 directories deep through a link were accepted")
	}
	if err := newArena(t).unpack(t, layer(deep)...); err != nil {
		t.Errorf("200 directories deep: %v", err)
	}
}

func TestAttackLongName(t *testing.T) {
	a := newArena(t)
	if err := a.unpack(t, entry{name: strings.Repeat("a/", 4000) + "x", body: "x"}); err == nil {
		t.Error("a name of 8000 bytes was accepted")
	}
}

func TestAttackDirectoryBelowAFile(t *testing.T) {
	a := newArena(t)
	if err := a.unpack(t, entry{name: "f", body: "x"}, entry{name: "f/g", body: "x"}); err == nil {
		t.Error("a file below a file was accepted")
	}
}

func TestWhiteoutRemovesFromLowerLayers(t *testing.T) {
	a := newArena(t)
	a.mustUnpack(t, entry{name: "d/a", body: "x"}, entry{name: "d/b/c", body: "x"}, entry{name: "keep", body: "x"})
	a.mustUnpack(t, entry{name: "d/.wh.a"}, entry{name: "d/.wh.b"}, entry{name: "none/.wh.x"}, entry{name: ".wh..wh.plnk"})
	if a.exists("d/a") || a.exists("d/b") || !a.exists("keep") || a.exists("d/.wh.a") || a.exists(".wh..wh.plnk") {
		t.Error("whiteouts were not applied, or unpacked as files")
	}
}

func TestOpaqueWhiteoutKeepsItsOwnLayer(t *testing.T) {
	a := newArena(t)
	a.mustUnpack(t, entry{name: "d/old", body: "x"}, entry{name: "d/sub/old", body: "x"}, entry{name: "d/both", body: "old"})
	// The mark stands last here; the specification asks readers to cope.
	a.mustUnpack(t, entry{name: "d/new", body: "x"}, entry{name: "d/sub/new", body: "x"}, entry{name: "d/both", body: "new"}, entry{name: "d/.wh..wh..opq"})
	if a.exists("d/old") || a.exists("d/sub/old") {
		t.Error("lower files shine through")
	}
	if !a.exists("d/new") || !a.exists("d/sub/new") || a.read(t, "d/both") != "new" {
		t.Error("the layer's own files are gone")
	}
}

func TestAttackWhiteoutOutside(t *testing.T) {
	for _, e := range []entry{
		{name: "../outside/.wh.victim"},
		{name: ".wh..."},
		{name: ".wh.."},
		{name: ".wh."},
		{name: "out/.wh.victim"},
		{name: "up/.wh.outside"},
		{name: "out/.wh..wh..opq"},
		{name: "up/.wh..wh..opq"},
	} {
		a := newArena(t)
		a.mustUnpack(t,
			entry{name: "out", kind: tar.TypeSymlink, link: a.outside},
			entry{name: "up", kind: tar.TypeSymlink, link: "../.."})
		_ = a.unpack(t, e) // refused or harmless
		a.assertOutsideUntouched(t)
	}
}

func TestDirectoryReplacesSymlinkAndFile(t *testing.T) {
	a := newArena(t)
	a.mustUnpack(t, entry{name: "x", kind: tar.TypeSymlink, link: "y"}, entry{name: "y/"}, entry{name: "y/f", body: "1"}, entry{name: "x/g", body: "2"})
	if a.read(t, "y/g") != "2" {
		t.Error("x does not lead to y")
	}
	a.mustUnpack(t, entry{name: "x/"}, entry{name: "x/h", body: "3"})
	if a.exists("y/h") || a.read(t, "x/h") != "3" {
		t.Error("the directory did not take the link's place")
	}
}

func TestKeepLinksMergesIntoUsr(t *testing.T) {
	a := newArena(t)
	a.u.keepLinks = true
	a.mustUnpack(t, entry{name: "usr/bin/"}, entry{name: "bin", kind: tar.TypeSymlink, link: "usr/bin"})
	a.mustUnpack(t, entry{name: "./bin/"}, entry{name: "./bin/sh", body: "x"})
	if !a.exists("usr/bin/sh") {
		t.Error("./bin/sh is not in usr/bin")
	}
}

func TestModificationTimesAreKept(t *testing.T) {
	a := newArena(t)
	a.mustUnpack(t, entry{name: "f.py", body: "x"})
	if info, _ := os.Stat(filepath.Join(a.root, "f.py")); info.ModTime().Unix() != 1e9 {
		t.Errorf("modified %v: Python would not believe its .pyc files", info.ModTime())
	}
}

func FuzzUnpackStaysInside(f *testing.F) {
	seed := func(entries ...entry) { f.Add(layerTar(f, entries...)) }
	seed(entry{name: "a/b", body: "x"}, entry{name: "a/.wh.b"}, entry{name: "a/.wh..wh..opq"})
	seed(entry{name: "l", kind: tar.TypeSymlink, link: "../../outside"}, entry{name: "l/victim", body: "evil"})
	seed(entry{name: "l", kind: tar.TypeSymlink, link: "/"}, entry{name: "h", kind: tar.TypeLink, link: "l/../../outside/victim"})
	seed(entry{name: "../x", body: "x"}, entry{name: "d/", mode: 0o7777}, entry{name: "c", kind: tar.TypeChar})
	f.Fuzz(func(t *testing.T, raw []byte) {
		a := newArena(t)
		a.u.maxBytes, a.u.maxEntries, a.u.chown = 1<<16, 200, false
		err := a.u.unpack(t.Context(), bytes.NewReader(raw))
		_ = err // any answer will do, as long as it stays inside
		a.assertOutsideUntouched(t)
	})
}
