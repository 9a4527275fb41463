package image

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"

	"kernelgw/sandboxes"
)

const specJSON = `{"argv":["python3","-m","ipykernel_launcher","-f","{connection_file}"],"display_name":"Python 3","language":"python"}`

// specEntry is a kernelspec of a test image.
func specEntry(name string) entry {
	return entry{name: "usr/share/jupyter/kernels/" + name + "/kernel.json", body: specJSON}
}

// testImage is an image of the given layers, run as config's user.
func testImage(t testing.TB, config v1.Config, layers ...[]entry) v1.Image {
	t.Helper()
	img := empty.Image
	for _, entries := range layers {
		raw := layerTar(t, entries...)
		layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(raw)), nil })
		if err != nil {
			t.Fatal(err)
		}
		if img, err = mutate.AppendLayers(img, layer); err != nil {
			t.Fatal(err)
		}
	}
	file, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	file = file.DeepCopy()
	file.OS, file.Architecture, file.Config = "linux", platform().Architecture, config
	if img, err = mutate.ConfigFile(img, file); err != nil {
		t.Fatal(err)
	}
	return img
}

func newStore(t testing.TB) *Store {
	t.Helper()
	s, err := Open(Options{Dir: filepath.Join(t.TempDir(), "images")})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestResolveAfterPut(t *testing.T) {
	s := newStore(t)
	img := testImage(t, v1.Config{User: "1000:100", Env: []string{"PATH=/opt/x/bin:/usr/bin", "LANG=C.UTF-8"}, WorkingDir: "/w"},
		[]entry{{name: "etc/passwd", body: "root:x:0:0::/root:/bin/sh\nann:x:1000:1000::/home/ann:/bin/sh\n"}, specEntry("python3")},
		[]entry{{name: "opt/x/bin/python3", body: "#!"}, {name: "opt/x/share/jupyter/kernels/IR/kernel.json", body: specJSON}, {name: "opt/x/share/jupyter/kernels/ir/logo.png", body: "png"}},
	)
	put, err := s.Put(t.Context(), "default", img, nil)
	if err != nil {
		t.Fatal(err)
	}
	got, err := s.Resolve(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	digest, _ := img.Digest()
	if got.Name != "default" || got.Digest != digest.String() || got.RootFS != put.RootFS || got.WorkingDir != "/w" {
		t.Errorf("resolved %+v", got)
	}
	if want := (User{Name: "ann", UID: 1000, GID: 100, Home: "/home/ann"}); got.User != want {
		t.Errorf("user = %+v, want %+v", got.User, want)
	}
	if strings.Contains(got.RootFS, ":") {
		t.Error("the path has a colon, which ends it in mount options")
	}
	if got.Kernelspecs["python3"].Dir != "/usr/share/jupyter/kernels/python3" || got.Kernelspecs["ir"].Dir != "/opt/x/share/jupyter/kernels/IR" {
		t.Errorf("kernelspecs = %v", got.Kernelspecs)
	}
	for _, dir := range []string{"tmp", "proc", "run/kernelgw", "home/ann"} {
		if info, err := os.Stat(filepath.Join(got.RootFS, dir)); err != nil || !info.IsDir() {
			t.Errorf("no mount point %s: %v", dir, err)
		}
	}
	for _, ref := range []string{digest.String(), "default@" + digest.String()} {
		if byDigest, err := s.Resolve(t.Context(), ref); err != nil || byDigest.Digest != got.Digest {
			t.Errorf("Resolve(%q) = %v, %v", ref, byDigest.Digest, err)
		}
	}
}

func TestResolveOfAMissingImageSaysHowToGetIt(t *testing.T) {
	s := newStore(t)
	for ref, remedy := range map[string]string{"": "make image", "registry.example/x/y:z": "kernelgw image pull registry.example/x/y:z", "Not A Ref": "Not A Ref"} {
		_, err := s.Resolve(t.Context(), ref)
		if !errors.Is(err, sandboxes.ErrNotFound) || !strings.Contains(err.Error(), remedy) || !strings.Contains(err.Error(), s.Dir()) {
			t.Errorf("Resolve(%q) = %v, want ErrNotFound with %q", ref, err, remedy)
		}
	}
	if _, err := os.Stat(s.Dir()); !errors.Is(err, fs.ErrNotExist) {
		t.Error("reading made the store's directory")
	}
}

func TestLaterLayersWin(t *testing.T) {
	s := newStore(t)
	img := testImage(t, v1.Config{},
		[]entry{specEntry("old"), specEntry("python3"), {name: "f", body: "1"}},
		[]entry{{name: "usr/share/jupyter/kernels/.wh.old"}, {name: "f", body: "2"}})
	got, err := s.Put(t.Context(), "x", img, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, ok := got.Kernelspecs["old"]; ok || len(got.Kernelspecs) != 1 {
		t.Errorf("kernelspecs = %v, want python3 only", got.Kernelspecs)
	}
	if raw, _ := os.ReadFile(filepath.Join(got.RootFS, "f")); string(raw) != "2" {
		t.Errorf("f = %q", raw)
	}
}

func TestImageWithoutKernelspecIsRefusedAndNamesWhereItLooked(t *testing.T) {
	s := newStore(t)
	img := testImage(t, v1.Config{Env: []string{"JUPYTER_PATH=/my/jupyter"}},
		[]entry{{name: "bin/sh", body: "x"}, {name: "usr/share/jupyter/kernels/broken/kernel.json", body: "{"}})
	_, err := s.Put(t.Context(), "x", img, nil)
	if err == nil {
		t.Fatal("accepted")
	}
	for _, want := range []string{"/my/jupyter", "/usr/local/share/jupyter", "/opt/conda/share/jupyter", "kernels/broken"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("error %q does not name %s", err, want)
		}
	}
	if _, err := s.Resolve(t.Context(), "x"); !errors.Is(err, sandboxes.ErrNotFound) {
		t.Errorf("a refused image was named: %v", err)
	}
	assertNoLeftovers(t, s, 0)
}

// assertNoLeftovers fails when the store holds other root filesystems than n,
// or temporary files.
func assertNoLeftovers(t *testing.T, s *Store, n int) {
	t.Helper()
	if got, _ := os.ReadDir(filepath.Join(s.Dir(), "rootfs")); len(got) != n {
		t.Errorf("%d root filesystems are left, want %d", len(got), n)
	}
	if got, _ := os.ReadDir(filepath.Join(s.Dir(), "tmp")); len(got) != 0 {
		t.Errorf("temporary files are left: %v", got)
	}
}

func TestRemoveAndPrune(t *testing.T) {
	s := newStore(t)
	first := testImage(t, v1.Config{}, []entry{specEntry("a")})
	second := testImage(t, v1.Config{}, []entry{specEntry("a")}, []entry{specEntry("b")}) // shares a layer
	for _, step := range []struct {
		name string
		img  v1.Image
	}{{"one", first}, {"two", second}, {"three", second}} {
		if _, err := s.Put(t.Context(), step.name, step.img, nil); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Remove(t.Context(), "two"); err != nil {
		t.Fatal(err)
	}
	assertNoLeftovers(t, s, 2) // "three" still names it
	if err := s.Remove(t.Context(), "one"); err != nil {
		t.Fatal(err)
	}
	assertNoLeftovers(t, s, 1)
	if _, err := s.Resolve(t.Context(), "three"); err != nil {
		t.Errorf("a blob that two images share went with one: %v", err)
	}
	if err := s.Remove(t.Context(), "one"); !errors.Is(err, sandboxes.ErrNotFound) {
		t.Errorf("removed twice: %v", err)
	}
	// A name that moves leaves the old files for those who run from them.
	if _, err := s.Put(t.Context(), "three", first, nil); err != nil {
		t.Fatal(err)
	}
	assertNoLeftovers(t, s, 2)
	if err := s.Prune(t.Context()); err != nil {
		t.Fatal(err)
	}
	assertNoLeftovers(t, s, 1)
	blobs, _ := os.ReadDir(filepath.Join(s.Dir(), "blobs/sha256"))
	if len(blobs) != 3 {
		t.Errorf("%d blobs, want manifest, config and layer", len(blobs))
	}
	if list, err := s.List(t.Context()); err != nil || len(list) != 1 || list[0].Name != "three" || list[0].Size == 0 {
		t.Errorf("List = %v, %v", list, err)
	}
}

func TestPutOfManyAtATimeKeepsAllNames(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "images")
	var wg sync.WaitGroup
	for i := range 6 {
		img := testImage(t, v1.Config{}, []entry{specEntry(fmt.Sprintf("k%d", i%3))})
		wg.Go(func() {
			s, err := Open(Options{Dir: dir}) // as another process would
			if err == nil {
				_, err = s.Put(t.Context(), fmt.Sprintf("n%d", i), img, nil)
			}
			if err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	s, _ := Open(Options{Dir: dir})
	if list, err := s.List(t.Context()); err != nil || len(list) != 6 {
		t.Errorf("List = %v, %v; want 6 names", list, err)
	}
	assertNoLeftovers(t, s, 3)
}

func TestPutAfterADeadProcessCleansUp(t *testing.T) {
	s := newStore(t)
	if err := os.MkdirAll(filepath.Join(s.Dir(), "tmp/rootfs-123/etc"), 0o755); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Put(t.Context(), "x", testImage(t, v1.Config{}, []entry{specEntry("a")}), nil); err != nil {
		t.Fatal(err)
	}
	assertNoLeftovers(t, s, 1)
}

func TestReadOnlyStoreCanBeReadByOthers(t *testing.T) {
	s := newStore(t)
	if _, err := s.Put(t.Context(), "default", testImage(t, v1.Config{}, []entry{specEntry("a")}), nil); err != nil {
		t.Fatal(err)
	}
	err := filepath.WalkDir(s.Dir(), func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		if want := fs.FileMode(0o4); info.Mode()&want == 0 && d.Type() != fs.ModeSymlink {
			t.Errorf("%s has mode %v", p, info.Mode())
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestAttackKernelspecFilesLinkOut(t *testing.T) {
	secret := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(secret, []byte("host secret"), 0o644); err != nil {
		t.Fatal(err)
	}
	s := newStore(t)
	const dir = "usr/share/jupyter/kernels/a/"
	img, err := s.Put(t.Context(), "x", testImage(t, v1.Config{}, []entry{
		{name: dir + "kernel.json", body: specJSON},
		{name: dir + "logo-64x64.png", kind: tar.TypeSymlink, link: secret},
		{name: dir + "up.png", kind: tar.TypeSymlink, link: strings.Repeat("../", 40) + strings.TrimPrefix(secret, "/")},
		{name: dir + "in.png", kind: tar.TypeSymlink, link: "/etc/logo.png"},
		{name: "etc/logo.png", body: "the image's own"},
		{name: dir + "loop.png", kind: tar.TypeSymlink, link: "loop.png"},
	}), nil)
	if err != nil {
		t.Fatal(err)
	}
	files := img.Kernelspecs["a"].Files
	for _, name := range []string{"logo-64x64.png", "up.png", "loop.png", "../../../../../../etc/passwd"} {
		if raw, err := fs.ReadFile(files, name); err == nil {
			t.Errorf("%s gave %q", name, raw)
		}
	}
	if raw, err := fs.ReadFile(files, "in.png"); err != nil || string(raw) != "the image's own" {
		t.Errorf("a link inside the image gave %q, %v", raw, err)
	}
}

func TestAttackKernelspecDirectoryLinksOut(t *testing.T) {
	host := t.TempDir()
	if err := os.MkdirAll(filepath.Join(host, "kernels/stolen"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(host, "kernels/stolen/kernel.json"), []byte(specJSON), 0o644); err != nil {
		t.Fatal(err)
	}
	s := newStore(t)
	img, err := s.Put(t.Context(), "x", testImage(t, v1.Config{Env: []string{"JUPYTER_PATH=/../../../.." + host}}, []entry{
		{name: "usr/local/share/jupyter", kind: tar.TypeSymlink, link: host}, specEntry("a"),
	}), nil)
	if err != nil {
		t.Fatal(err)
	}
	if len(img.Kernelspecs) != 1 {
		t.Errorf("kernelspecs = %v, want the image's own only", img.Kernelspecs)
	}
}

// lyingLayer is a layer whose content is not what its digest says.
type lyingLayer struct {
	v1.Layer
	raw []byte
}

func (l lyingLayer) Compressed() (io.ReadCloser, error) {
	return io.NopCloser(bytes.NewReader(l.raw)), nil
}

// lyingImage gives its layers' digests another content.
type lyingImage struct {
	v1.Image
	raw []byte
}

func (i lyingImage) Layers() ([]v1.Layer, error) {
	layers, err := i.Image.Layers()
	for n, l := range layers {
		layers[n] = lyingLayer{l, i.raw}
	}
	return layers, err
}

func TestAttackBlobThatIsNotItsDigest(t *testing.T) {
	s := newStore(t)
	img := lyingImage{testImage(t, v1.Config{}, []entry{specEntry("a")}), []byte("something else")}
	if _, err := s.Put(t.Context(), "x", img, nil); err == nil || !strings.Contains(err.Error(), "digest") {
		t.Errorf("error = %v, want a digest that does not match", err)
	}
	assertNoLeftovers(t, s, 0)
}

func TestAttackDiffIDThatIsNotTheContent(t *testing.T) {
	img := testImage(t, v1.Config{}, []entry{specEntry("a")})
	file, _ := img.ConfigFile()
	file = file.DeepCopy()
	file.RootFS.DiffIDs[0] = v1.Hash{Algorithm: "sha256", Hex: strings.Repeat("0", 64)}
	img, err := mutate.ConfigFile(img, file)
	if err != nil {
		t.Fatal(err)
	}
	s := newStore(t)
	if _, err := s.Put(t.Context(), "x", img, nil); err == nil || !strings.Contains(err.Error(), "digest") {
		t.Errorf("error = %v, want a digest that does not match", err)
	}
	assertNoLeftovers(t, s, 0)
}

func TestAttackMountPointThatLinksOut(t *testing.T) {
	outside := t.TempDir()
	s := newStore(t)
	img, err := s.Put(t.Context(), "x", testImage(t, v1.Config{}, []entry{
		specEntry("a"), {name: "run", kind: tar.TypeSymlink, link: outside}, {name: "home", kind: tar.TypeSymlink, link: "../../../../.." + outside},
	}), nil)
	if err != nil {
		t.Fatal(err)
	}
	if left, _ := os.ReadDir(outside); len(left) != 0 {
		t.Errorf("mount points were made outside: %v", left)
	}
	if _, err := os.Stat(filepath.Join(img.RootFS, outside, "kernelgw")); err != nil {
		t.Errorf("the mount point is not where the link leads inside: %v", err)
	}
}

func TestLockEndsWithItsContext(t *testing.T) {
	s := newStore(t)
	unlock, err := s.lock(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer unlock()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.lock(ctx); err == nil {
		t.Error("locked twice")
	}
}
