package image

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// sealedStore has an image, and whoever opens it again has checked nothing yet.
func sealedStore(t *testing.T) (*Store, Image, v1.Image) {
	t.Helper()
	s := newStore(t)
	img := testImage(t, v1.Config{}, []entry{specEntry("python3"), {name: "usr/bin/tool", body: "good"}})
	put, err := s.Put(t.Context(), "a", img, nil)
	if err != nil {
		t.Fatal(err)
	}
	return withPolicy(t, s, nil), put, img
}

func TestChangedFilesAreNoticedAndRepaired(t *testing.T) {
	for name, change := range map[string]func(rootfs string) error{
		"edited": func(dir string) error { return os.WriteFile(filepath.Join(dir, "usr/bin/tool"), []byte("evil"), 0o644) },
		"cut":    func(dir string) error { return os.Truncate(filepath.Join(dir, "usr/bin/tool"), 1) },
		"added":  func(dir string) error { return os.WriteFile(filepath.Join(dir, "usr/bin/more"), nil, 0o755) },
		"gone":   func(dir string) error { return os.Remove(filepath.Join(dir, "usr/bin/tool")) },
		"opened": func(dir string) error { return os.Chmod(filepath.Join(dir, "usr/bin"), 0o777) },
		"linked": func(dir string) error { return os.Symlink("/etc/shadow", filepath.Join(dir, "usr/bin/link")) },
	} {
		t.Run(name, func(t *testing.T) {
			s, put, img := sealedStore(t)
			if err := change(put.RootFS); err != nil {
				t.Fatal(err)
			}
			if _, err := s.Resolve(t.Context(), "a"); err == nil || !strings.Contains(err.Error(), "changed since they were unpacked") {
				t.Fatalf("error = %v", err)
			}
			if _, err := s.Put(t.Context(), "a", img, nil); err != nil {
				t.Fatal(err)
			}
			if raw, err := os.ReadFile(filepath.Join(put.RootFS, "usr/bin/tool")); err != nil || string(raw) != "good" {
				t.Errorf("not repaired: %q, %v", raw, err)
			}
			if _, err := s.Resolve(t.Context(), "a"); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestChangedManifestOrConfigIsNoticed(t *testing.T) {
	s, put, img := sealedStore(t)
	m, err := img.Manifest()
	if err != nil {
		t.Fatal(err)
	}
	for _, digest := range []string{put.Digest, m.Config.Digest.String()} {
		file := filepath.Join(s.Dir(), "blobs/sha256", strings.TrimPrefix(digest, "sha256:"))
		raw, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(strings.Replace(string(raw), "amd64", "arm64", 1)+" "), 0o644); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Resolve(t.Context(), "a"); err == nil || !strings.Contains(err.Error(), "changed on disk") {
			t.Errorf("error = %v", err)
		}
		if err := os.WriteFile(file, raw, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := s.Resolve(t.Context(), "a"); err != nil {
		t.Error(err)
	}
}

func TestChangedLayerIsFetchedAgainBeforeItIsUnpacked(t *testing.T) {
	s, put, img := sealedStore(t)
	layers, err := img.Layers()
	if err != nil {
		t.Fatal(err)
	}
	digest, err := layers[0].Digest()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(s.blob(digest), []byte("garbage"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(put.RootFS); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Put(t.Context(), "a", img, nil); err != nil {
		t.Fatal(err)
	}
	if sum, err := fileSHA256(s.blob(digest)); err != nil || sum != digest.Hex {
		t.Errorf("the blob is %s, %v", sum, err)
	}
}

// Sandboxes may run from a tree that an earlier version unpacked: it stays when
// it is as the image says, and gets a seal.
func TestTreeOfAnEarlierVersionIsComparedAndStays(t *testing.T) {
	s, put, img := sealedStore(t)
	digest, _ := img.Digest()
	if err := os.Remove(s.recordFile(digest)); err != nil {
		t.Fatal(err)
	}
	before, err := os.Stat(put.RootFS)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Resolve(t.Context(), "a"); err != nil {
		t.Errorf("without a record: %v", err)
	}
	if _, err := s.Put(t.Context(), "a", img, nil); err != nil {
		t.Fatal(err)
	}
	after, err := os.Stat(put.RootFS)
	if err != nil || !os.SameFile(before, after) {
		t.Errorf("the tree was replaced, %v", err)
	}
	if known, err := s.readRecord(digest); err != nil || known.Tree == nil || known.Origins[0] != "a" {
		t.Errorf("record = %+v, %v", known, err)
	}
}

func BenchmarkSealTree(b *testing.B) {
	dir := os.Getenv("KERNELGW_TEST_ROOTFS")
	if dir == "" {
		b.Skip("KERNELGW_TEST_ROOTFS names no unpacked image")
	}
	for b.Loop() {
		if _, err := sealTree(b.Context(), dir); err != nil {
			b.Fatal(err)
		}
	}
}
