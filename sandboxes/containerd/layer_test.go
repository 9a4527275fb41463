package containerd

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/klauspost/compress/zstd"
	"golang.org/x/sys/unix"

	"kernelgw/sandboxes"
)

func overlayAt(upper string) []mount.Mount {
	return []mount.Mount{{Type: "overlay", Source: "overlay", Options: []string{"lowerdir=/x", "upperdir=" + upper, "workdir=/y"}}}
}

// layerFile is a compressed archive.
func layerFile(t testing.TB, archive []byte) string {
	t.Helper()
	var compressed bytes.Buffer
	w, err := zstd.NewWriter(&compressed)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(archive); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "layer")
	if err := os.WriteFile(file, compressed.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

func tarOf(t testing.TB, headers ...tar.Header) []byte {
	t.Helper()
	var archive bytes.Buffer
	w := tar.NewWriter(&archive)
	for _, h := range headers {
		if h.Typeflag == tar.TypeReg {
			h.Size = 3
		}
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if h.Typeflag == tar.TypeReg {
			_, _ = io.WriteString(w, "bad")
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return archive.Bytes()
}

func TestWhatWasRemovedIsRemovedAgain(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("NOT CHECKED: whiteouts: only root makes them")
	}
	from, to := t.TempDir(), t.TempDir()
	if err := os.MkdirAll(filepath.Join(from, "replaced"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mknod(filepath.Join(from, "removed"), unix.S_IFCHR, 0); err != nil {
		t.Skipf("NOT CHECKED: whiteouts: %v", err)
	}
	if err := unix.Setxattr(filepath.Join(from, "replaced"), "trusted.overlay.opaque", []byte("y"), 0); err != nil {
		t.Skipf("NOT CHECKED: opaque directories: %v", err)
	}
	var archive bytes.Buffer
	if err := writeLayer(t.Context(), &archive, from); err != nil {
		t.Fatal(err)
	}
	if err := importLayer(t.Context(), layerFile(t, archive.Bytes()), overlayAt(to), 0); err != nil {
		t.Fatal(err)
	}
	var stat unix.Stat_t
	if err := unix.Lstat(filepath.Join(to, "removed"), &stat); err != nil || stat.Mode&unix.S_IFMT != unix.S_IFCHR || stat.Rdev != 0 {
		t.Errorf("what was removed is %o, %v", stat.Mode, err)
	}
	var value [4]byte
	n, err := unix.Getxattr(filepath.Join(to, "replaced"), "trusted.overlay.opaque", value[:])
	if err != nil || string(value[:n]) != "y" {
		t.Errorf("a directory that hides the image's is opaque: %q, %v", value[:max(n, 0)], err)
	}
}

func TestLayerNeverLeavesItsDirectory(t *testing.T) {
	for name, headers := range map[string][]tar.Header{
		"dots":     {{Name: "../../../../outside/file", Typeflag: tar.TypeReg, Mode: 0o644}},
		"link":     {{Name: "out", Linkname: "OUTSIDE", Typeflag: tar.TypeSymlink}, {Name: "out/file", Typeflag: tar.TypeReg, Mode: 0o644}},
		"hardlink": {{Name: "same", Linkname: "../outside/secret", Typeflag: tar.TypeLink}},
		"device":   {{Name: "disk", Typeflag: tar.TypeBlock, Devmajor: 8, Mode: 0o666}},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			outside, upper := filepath.Join(dir, "outside"), filepath.Join(dir, "upper")
			for _, d := range []string{outside, upper} {
				if err := os.Mkdir(d, 0o755); err != nil {
					t.Fatal(err)
				}
			}
			if err := os.WriteFile(filepath.Join(outside, "secret"), []byte("secret"), 0o600); err != nil {
				t.Fatal(err)
			}
			for i := range headers {
				headers[i].Linkname = strings.ReplaceAll(headers[i].Linkname, "OUTSIDE", outside)
			}
			_ = importLayer(t.Context(), layerFile(t, tarOf(t, headers...)), overlayAt(upper), 0) // it may be refused
			entries, err := os.ReadDir(outside)
			if err != nil || len(entries) != 1 {
				t.Errorf("outside there are %v, %v", entries, err)
			}
			if data, _ := os.ReadFile(filepath.Join(upper, "same")); string(data) == "secret" {
				t.Error("a file of the host's is linked into the layer")
			}
			if _, err := os.Lstat(filepath.Join(upper, "disk")); err == nil {
				t.Error("a device is in the layer")
			}
		})
	}
}

func TestLayerLargerThanTheDiskIsRefused(t *testing.T) {
	var archive bytes.Buffer
	w := tar.NewWriter(&archive)
	if err := w.WriteHeader(&tar.Header{Name: "zeros", Typeflag: tar.TypeReg, Mode: 0o644, Size: 16 << 20}); err != nil {
		t.Fatal(err)
	}
	if _, err := io.CopyN(w, zeros{}, 16<<20); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	err := importLayer(t.Context(), layerFile(t, archive.Bytes()), overlayAt(t.TempDir()), 1<<20)
	if !errors.Is(err, sandboxes.ErrInvalid) || !strings.Contains(err.Error(), "larger") {
		t.Errorf("a layer of 16 MiB for a disk of 1 MiB: %v, want ErrInvalid", err)
	}
}

func FuzzImportLayer(f *testing.F) {
	f.Add(tarOf(f, tar.Header{Name: "a", Typeflag: tar.TypeReg, Mode: 0o644}))
	f.Add(tarOf(f, tar.Header{Name: "l", Linkname: "/", Typeflag: tar.TypeSymlink}, tar.Header{Name: "l/etc/x", Typeflag: tar.TypeReg}))
	f.Add(tarOf(f, tar.Header{Name: ".wh..wh..opq", Typeflag: tar.TypeReg}))
	f.Fuzz(func(t *testing.T, archive []byte) {
		dir := t.TempDir()
		upper := filepath.Join(dir, "upper")
		if err := os.Mkdir(upper, 0o755); err != nil {
			t.Fatal(err)
		}
		_ = importLayer(t.Context(), layerFile(t, archive), overlayAt(upper), 1<<20)
		if entries, err := os.ReadDir(dir); err != nil || len(entries) != 1 {
			t.Errorf("beside the layer there are %v, %v", entries, err)
		}
	})
}
