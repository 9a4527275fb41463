package image

import (
	"archive/tar"
	"io"
	"io/fs"
	"log"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

// newRegistry is a registry on the loopback address; the answer is its host:port.
func newRegistry(t *testing.T) string {
	t.Helper()
	server := httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	t.Cleanup(server.Close)
	return strings.TrimPrefix(server.URL, "http://")
}

func push(t *testing.T, ref string, what remote.Taggable) {
	t.Helper()
	parsed, err := name.ParseReference(ref)
	if err != nil {
		t.Fatal(err)
	}
	switch what := what.(type) {
	case v1.Image:
		err = remote.Write(parsed, what)
	case v1.ImageIndex:
		err = remote.WriteIndex(parsed, what)
	}
	if err != nil {
		t.Fatal(err)
	}
}

func TestPullFromARegistry(t *testing.T) {
	ref := newRegistry(t) + "/team/kernels"
	push(t, ref+":latest", testImage(t, v1.Config{}, []entry{specEntry("python3")}))
	s := newStore(t)
	var out strings.Builder
	img, err := s.Pull(t.Context(), PullOptions{Ref: ref, Progress: NewProgress(&out)})
	if err != nil {
		t.Fatal(err)
	}
	if len(img.Kernelspecs) != 1 || img.Name != ref+":latest" {
		t.Errorf("pulled %+v", img)
	}
	// By what the user typed, and by the full name.
	for _, r := range []string{ref, ref + ":latest"} {
		if got, err := s.Resolve(t.Context(), r); err != nil || got.Digest != img.Digest {
			t.Errorf("Resolve(%q) = %v, %v", r, got.Digest, err)
		}
	}
	if !strings.Contains(out.String(), "unpacked") {
		t.Errorf("progress says nothing: %q", out.String())
	}
}

func TestPullPicksThisMachinesPlatform(t *testing.T) {
	ref := newRegistry(t) + "/multi:1"
	mine := testImage(t, v1.Config{}, []entry{specEntry("mine")})
	other := testImage(t, v1.Config{}, []entry{specEntry("other")})
	arch := platform()
	index := mutate.AppendManifests(empty.Index,
		mutate.IndexAddendum{Add: other, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: "s390x"}}},
		mutate.IndexAddendum{Add: mine, Descriptor: v1.Descriptor{Platform: &arch}})
	push(t, ref, index)
	img, err := newStore(t).Pull(t.Context(), PullOptions{Ref: ref, Name: "mine"})
	if err != nil {
		t.Fatal(err)
	}
	if _, ok := img.Kernelspecs["mine"]; !ok || img.Name != "mine" {
		t.Errorf("pulled %+v", img)
	}
}

func TestPullWithoutKernelspecNamesWhereItLooked(t *testing.T) {
	ref := newRegistry(t) + "/plain:1"
	push(t, ref, testImage(t, v1.Config{}, []entry{{name: "bin/sh", body: "x"}}))
	_, err := newStore(t).Pull(t.Context(), PullOptions{Ref: ref})
	if err == nil || !strings.Contains(err.Error(), "/usr/local/share/jupyter") || !strings.Contains(err.Error(), ref) {
		t.Errorf("error = %v", err)
	}
}

func TestPullOfWhatIsNotThere(t *testing.T) {
	host := newRegistry(t)
	for _, ref := range []string{host + "/none:1", "UPPER CASE", "oci:/nowhere", "oci-archive:/nowhere.tar", "docker-archive:/nowhere.tar"} {
		if _, err := newStore(t).Pull(t.Context(), PullOptions{Ref: ref}); err == nil || !strings.Contains(err.Error(), ref) {
			t.Errorf("Pull(%q) = %v", ref, err)
		}
	}
}

func TestPullFromALayoutAndArchives(t *testing.T) {
	img := testImage(t, v1.Config{}, []entry{specEntry("python3")})
	want, _ := img.Digest()
	dir := filepath.Join(t.TempDir(), "layout")
	if _, err := layout.Write(dir, mutate.AppendManifests(empty.Index, mutate.IndexAddendum{Add: img})); err != nil {
		t.Fatal(err)
	}
	archive := filepath.Join(t.TempDir(), "saved.tar")
	tarDir(t, dir, archive)
	for _, tc := range []struct{ ref, name string }{{"oci:" + dir, "layout"}, {"oci-archive:" + archive, "saved"}} {
		s := newStore(t)
		got, err := s.Pull(t.Context(), PullOptions{Ref: tc.ref})
		if err != nil || got.Digest != want.String() || got.Name != tc.name {
			t.Errorf("Pull(%q) = %q %s, %v; want %q %s", tc.ref, got.Name, got.Digest, err, tc.name, want)
		}
	}
	docker := filepath.Join(t.TempDir(), "docker.tar")
	tag, _ := name.NewTag("x:1")
	if err := tarball.WriteToFile(docker, tag, img); err != nil {
		t.Fatal(err)
	}
	if got, err := newStore(t).Pull(t.Context(), PullOptions{Ref: "docker-archive:" + docker, Name: "d"}); err != nil || len(got.Kernelspecs) != 1 {
		t.Errorf("docker-archive = %+v, %v", got, err)
	}
}

func tarDir(t *testing.T, dir, file string) {
	t.Helper()
	var entries []entry
	err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		raw, err := os.ReadFile(p)
		rel, _ := filepath.Rel(dir, p)
		entries = append(entries, entry{name: rel, body: string(raw)})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, layerTar(t, entries...), 0o644); err != nil {
		t.Fatal(err)
	}
}

func TestAttackArchiveWithLinksToHostFiles(t *testing.T) {
	secret := filepath.Join(t.TempDir(), "index.json")
	if err := os.WriteFile(secret, []byte(`{"schemaVersion":2,"manifests":[]}`), 0o644); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "evil.tar")
	raw := layerTar(t, entry{name: "oci-layout", body: `{"imageLayoutVersion":"1.0.0"}`}, entry{name: "index.json", kind: tar.TypeSymlink, link: secret})
	if err := os.WriteFile(file, raw, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := newStore(t).Pull(t.Context(), PullOptions{Ref: "oci-archive:" + file}); err == nil || !strings.Contains(err.Error(), "link") {
		t.Errorf("error = %v, want the link refused", err)
	}
}
