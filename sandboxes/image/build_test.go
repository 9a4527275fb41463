package image

import (
	"archive/tar"
	"bytes"
	"context"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/google/go-cmp/cmp"
	v1 "github.com/google/go-containerregistry/pkg/v1"

	"kernelgw/images"
)

func TestDefaultInputsAreWhole(t *testing.T) {
	in, err := readInputs(images.Default())
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"python3", "python3-pip", "bash", "coreutils"} {
		if !slices.Contains(in.packages, want) {
			t.Errorf("packages lack %s", want)
		}
	}
	if !slices.Contains(in.without, "dpkg") {
		t.Error("dpkg is not left out")
	}
	for _, want := range []string{"ipykernel==7.4.0", "matplotlib==", "numpy==", "pandas==", "ipywidgets=="} {
		if !bytes.Contains(in.lock, []byte("\n"+want)) {
			t.Errorf("the lock lacks %s", want)
		}
	}
	names, hashes := len(lockedName.FindAll(in.lock, -1)), len(lockedHash.FindAll(in.lock, -1))
	if names < 30 || hashes < names {
		t.Errorf("the lock has %d packages and %d hashes", names, hashes)
	}
	if bytes.Contains(in.lock, []byte("://")) {
		t.Error("the lock names a server")
	}
}

func TestExcluded(t *testing.T) {
	in, err := readInputs(fstest.MapFS{
		"packages": {}, "requirements.lock": {},
		"exclude": {Data: []byte("usr/share/doc/*  # all\n!usr/share/doc/*/copyright\nusr/share/man\na/*/tests\n")},
	})
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]bool{
		"usr/share/doc":               false,
		"usr/share/doc/x":             true,
		"usr/share/doc/x/README":      true,
		"usr/share/doc/x/copyright":   false,
		"usr/share/doc/x/y/copyright": true,
		"usr/share/man":               true,
		"usr/share/man/man1/ls.1":     true,
		"usr/share/manual":            false,
		"a/b/tests/c/d.py":            true,
		"a/tests":                     false,
	} {
		if in.excluded(name) != want {
			t.Errorf("excluded(%q) = %v", name, !want)
		}
	}
}

func TestBadInputsAreNamed(t *testing.T) {
	if _, err := readInputs(fstest.MapFS{"packages": {}, "requirements.lock": {}, "exclude": {Data: []byte("a[\n")}}); err == nil || !strings.Contains(err.Error(), "a[") {
		t.Errorf("bad pattern: %v", err)
	}
	if _, err := readInputs(fstest.MapFS{"packages": {}, "exclude": {}}); err == nil || !strings.Contains(err.Error(), "requirements.lock") {
		t.Errorf("missing lock: %v", err)
	}
}

func TestSourcesOfTheSuiteOnly(t *testing.T) {
	lines := suiteLines(`
# deb http://commented.example bookworm main
deb http://one.example/debian bookworm main contrib
deb [arch=amd64 signed-by=/k.gpg] http://two.example/debian-security bookworm-security main # why
deb-src http://one.example/debian bookworm main
deb http://third.example/party stable main
deb http://pg.example/apt bookworm-pgdg main
deb http://docker.example bookworm stable
deb [broken http://x.example bookworm main
`)
	want := []string{
		"deb http://one.example/debian bookworm main",
		"deb [arch=amd64 signed-by=/k.gpg] http://two.example/debian-security bookworm-security main",
	}
	if diff := cmp.Diff(want, lines); diff != "" {
		t.Errorf("one-line sources (-want +got):\n%s", diff)
	}
	stanzas := suiteStanzas(`# comment
Types: deb deb-src
URIs: http://one.example/debian
# in between
Suites: bookworm bookworm-updates bookworm-backports
Components: main contrib
Signed-By:
 -----BEGIN PGP PUBLIC KEY BLOCK-----
 .
 -----END PGP PUBLIC KEY BLOCK-----

Types: deb
URIs: http://node.example
Suites: nodistro
Components: main
 ` + `
Enabled: no
Types: deb
URIs: http://off.example
Suites: bookworm
Components: main

Types: deb-src
URIs: http://src.example
Suites: bookworm
Components: main
`)
	if len(stanzas) != 1 {
		t.Fatalf("stanzas = %q, want the first only", stanzas)
	}
	for _, want := range []string{"Types: deb\n", "Suites: bookworm bookworm-updates\n", "Components: main\n", "URIs: http://one.example/debian\n", "Signed-By:\n -----BEGIN", "\n ."} {
		if !strings.Contains(stanzas[0], want) {
			t.Errorf("stanza %q lacks %q", stanzas[0], want)
		}
	}
}

func TestPrivateAptConfigKeepsProxiesAndDropsHooks(t *testing.T) {
	a := &apt{dir: "/private", arch: "amd64"}
	conf := a.privateConfig([]byte(`APT "";
APT::Architecture "arm64";
APT::Architectures:: "i386";
APT::Update::Post-Invoke:: "rm -rf /";
DPkg::Post-Invoke:: "touch /pwned";
Dir "/";
Dir::State "var/lib/apt";
Dir::State::lists "lists/";
Dir::Cache "var/cache/apt";
Dir::Etc::trustedparts "trusted.gpg.d";
Dir::Etc::parts "apt.conf.d";
Acquire::http::Proxy "http://proxy.example:3128";
Binary::apt::APT::Update::Post-Invoke "x";
`))
	for _, gone := range []string{"rm -rf", "touch", "i386", "arm64", "var/lib/apt", "var/cache/apt", "apt.conf.d", "Binary::"} {
		if strings.Contains(conf, gone) {
			t.Errorf("configuration still has %q", gone)
		}
	}
	for _, kept := range []string{`Acquire::http::Proxy "http://proxy.example:3128";`, `Dir::Etc::trustedparts "trusted.gpg.d";`, `Dir::State "/private/state";`, `APT::Architecture "amd64";`} {
		if !strings.Contains(conf, kept) {
			t.Errorf("configuration lacks %q", kept)
		}
	}
}

func TestPretendInstalled(t *testing.T) {
	status := pretendInstalled([]string{"dpkg", "debconf"})
	if strings.Count(status, "Status: install ok installed\n") != 2 || !strings.Contains(status, "Provides: debconf-2.0") || !strings.HasSuffix(status, "\n\n") {
		t.Errorf("status = %q", status)
	}
}

// makeDeb builds a package of the given files with the host's dpkg-deb.
func makeDeb(t *testing.T, dir, name string, files map[string]string) deb {
	t.Helper()
	tree := filepath.Join(t.TempDir(), name)
	files["DEBIAN/control"] = fmt.Sprintf("Package: %s\nVersion: 1\nArchitecture: all\nMaintainer: x\nDescription: x\n", name)
	for file, body := range files {
		full := filepath.Join(tree, file)
		if err := os.MkdirAll(filepath.Dir(full), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(full, []byte(body), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	file := name + "_1_all.deb"
	if out, err := exec.Command("dpkg-deb", "--root-owner-group", "-b", tree, filepath.Join(dir, file)).CombinedOutput(); err != nil {
		t.Fatalf("dpkg-deb is needed, as Debian has it: %v\n%s", err, out)
	}
	return deb{file: file}
}

// A layer built twice from the same packages, at other paths, at another time
// and under another mask, has the same digest; and it holds what it should.
func TestLayerIsReproducible(t *testing.T) {
	a := &apt{dir: t.TempDir()}
	archives := filepath.Join(a.dir, "cache/archives")
	if err := os.MkdirAll(archives, 0o755); err != nil {
		t.Fatal(err)
	}
	debs := []deb{
		makeDeb(t, archives, "base-passwd", map[string]string{
			"usr/share/base-passwd/passwd.master": "root:*:0:0:root:/root:/bin/bash\n",
			"usr/share/base-passwd/group.master":  "root:*:0:\n",
		}),
		makeDeb(t, archives, "mawk", map[string]string{"usr/bin/mawk": "#!", "usr/share/doc/mawk/README": "x", "usr/share/doc/mawk/copyright": "c"}),
		makeDeb(t, archives, "dash", map[string]string{"bin/dash": "#!", "lib64/ld.so": "x", "lib/x86_64-linux-gnu/libnot.so.1": "text"}),
		makeDeb(t, archives, "ca-certificates", map[string]string{
			"usr/share/ca-certificates/mozilla/B.crt": "B\n", "usr/share/ca-certificates/mozilla/A.crt": "A\n",
		}),
	}
	in, err := readInputs(fstest.MapFS{
		"packages": {}, "requirements.lock": {}, "exclude": {Data: []byte("usr/share/doc/*\n!usr/share/doc/*/copyright\n")},
	})
	if err != nil {
		t.Fatal(err)
	}
	build := func(dir string) *fileLayer {
		root := filepath.Join(dir, "rootfs")
		if err := os.MkdirAll(root, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := mergeDebs(t.Context(), root, a, debs, nil); err != nil {
			t.Fatal(err)
		}
		if err := configure(root, "x86_64-linux-gnu"); err != nil {
			t.Fatal(err)
		}
		now := time.Now()
		if err := os.Chtimes(filepath.Join(root, "etc/passwd"), now, now.Add(-time.Hour*time.Duration(len(dir)))); err != nil {
			t.Fatal(err)
		}
		l, err := writeLayer(t.Context(), root, filepath.Join(dir, "layer"), time.Unix(epoch, 0), &in, nil)
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
	first := build(t.TempDir())
	second := build(filepath.Join(t.TempDir(), "a", "longer", "path"))
	if first.digest != second.digest || first.diffID != second.diffID {
		t.Errorf("digests differ: %v and %v", first.digest, second.digest)
	}
	files := readLayer(t, first)
	for name, want := range map[string]string{
		"bin": "-> usr/bin", "usr/bin/dash": "#!", "usr/bin/sh": "-> dash", "usr/bin/awk": "-> mawk", "usr/lib64/ld.so": "x",
		"usr/share/doc/mawk/copyright": "c", "etc/ssl/certs/ca-certificates.crt": "A\nB\n", "etc/mtab": "-> ../proc/self/mounts",
		"etc/passwd":   "root:*:0:0:root:/root:/bin/bash\njovyan:*:1000:1000::/home/jovyan:/bin/bash\n",
		"home/jovyan/": "1000:1000 700", "tmp/": "0:0 1777", "run/kernelgw/": "0:0 755",
	} {
		if files[name] != want {
			t.Errorf("%s = %q, want %q", name, files[name], want)
		}
	}
	for _, gone := range []string{"usr/share/doc/mawk/README", "usr/bin/which", "usr/bin/python", "bin/"} {
		if got, ok := files[gone]; ok {
			t.Errorf("%s is there: %q", gone, got)
		}
	}
}

// readLayer describes a layer's entries: a file by its content, a link by its
// target, a directory by owner and mode.
func readLayer(t *testing.T, l *fileLayer) map[string]string {
	t.Helper()
	r, err := l.Uncompressed()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	files := make(map[string]string)
	for tr := tar.NewReader(r); ; {
		hdr, err := tr.Next()
		if err == io.EOF {
			return files
		}
		if err != nil {
			t.Fatal(err)
		}
		if hdr.ModTime.Unix() != epoch {
			t.Errorf("%s has time %v", hdr.Name, hdr.ModTime)
		}
		switch hdr.Typeflag {
		case tar.TypeSymlink:
			files[hdr.Name] = "-> " + hdr.Linkname
		case tar.TypeDir:
			files[hdr.Name] = fmt.Sprintf("%d:%d %o", hdr.Uid, hdr.Gid, hdr.Mode)
		default:
			body, err := io.ReadAll(tr)
			if err != nil {
				t.Fatal(err)
			}
			files[hdr.Name] = string(body)
		}
	}
}

func TestWheelsOfAnotherLockAreRemoved(t *testing.T) {
	dir := t.TempDir()
	for name, body := range map[string]string{"good.whl": "good", "tampered.whl": "evil"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(body), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	sum, err := fileSHA256(filepath.Join(dir, "good.whl"))
	if err != nil {
		t.Fatal(err)
	}
	have, err := lockedWheels([]byte("x==1 --hash=sha256:"+sum), dir)
	if err != nil || len(have) != 1 || have["good.whl"] != sum {
		t.Errorf("lockedWheels = %v, %v", have, err)
	}
	if _, err := os.Stat(filepath.Join(dir, "tampered.whl")); !os.IsNotExist(err) {
		t.Error("a wheel that no hash names is kept, and pip would be offered it")
	}
}

func TestRunTellsWhatTheCommandSaid(t *testing.T) {
	_, err := run(t.Context(), os.Environ(), "sh", "-c", "echo why >&2; exit 3")
	if err == nil || !strings.Contains(err.Error(), "why") || !strings.Contains(err.Error(), "exit status 3") {
		t.Errorf("error = %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := run(ctx, os.Environ(), "sh", "-c", "exec sleep 60"); err == nil {
		t.Error("a cancelled command ended well")
	}
}

// TestDefaultImage looks at the default image that "make image" built.
func TestDefaultImage(t *testing.T) {
	if os.Getenv("KERNELGW_TEST_SKIP_IMAGE") == "1" {
		t.Skip("KERNELGW_TEST_SKIP_IMAGE=1")
	}
	dir := os.Getenv("KERNELGW_IMAGE_STORE")
	if dir == "" {
		dir = "../../.cache/images"
	}
	s, err := Open(Options{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	img, err := s.Resolve(t.Context(), "")
	if err != nil {
		t.Fatalf("run \"make image\", or set KERNELGW_TEST_SKIP_IMAGE=1: %v", err)
	}
	if len(img.Problems) != 0 || img.User != (User{"jovyan", 1000, 1000, "/home/jovyan"}) {
		t.Errorf("user %+v, problems %v", img.User, img.Problems)
	}
	spec, ok := img.Kernelspecs["python3"]
	if !ok || !strings.Contains(string(spec.JSON), "ipykernel_launcher") {
		t.Fatalf("kernelspecs = %v", img.Kernelspecs)
	}
	for _, logo := range []string{"logo-32x32.png", "logo-64x64.png", "logo-svg.svg"} {
		if raw, err := fs.ReadFile(spec.Files, logo); err != nil || len(raw) == 0 {
			t.Errorf("no %s: %v", logo, err)
		}
	}
	const site = "usr/local/lib/python3.11/dist-packages/"
	for _, name := range []string{"usr/bin/python3", "usr/bin/bash", "usr/bin/sh", site + "ipykernel/kernelapp.py", "etc/ssl/certs/ca-certificates.crt"} {
		if _, err := treeFS(img.RootFS).Stat(name); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	pyc, err := fs.ReadFile(treeFS(img.RootFS), site+"ipykernel/__pycache__/kernelapp.cpython-311.pyc")
	if err != nil || len(pyc) < 8 || pyc[4] != 1 {
		t.Errorf("ipykernel is not compiled to an unchecked hash-based .pyc (PEP 552 flags 1): %.16x, %v", pyc, err)
	}
	if !bytes.Contains(pyc, []byte("/"+site+"ipykernel/kernelapp.py")) || bytes.Contains(pyc, []byte("/cache/build")) {
		t.Error("the .pyc names another path than that inside the image")
	}
}

func TestBuildsAreRemembered(t *testing.T) {
	s := newStore(t)
	img, err := s.Put(t.Context(), "default", testImage(t, v1.Config{}, []entry{specEntry("a")}), nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.rememberBuilt("key", img.Digest); err != nil {
		t.Fatal(err)
	}
	if got, ok := s.built(t.Context(), "key", "default"); !ok || got.Digest != img.Digest {
		t.Errorf("built = %v, %v", got.Digest, ok)
	}
	if _, ok := s.built(t.Context(), "other inputs", "default"); ok {
		t.Error("other inputs give the same image")
	}
	if err := s.Remove(t.Context(), "default"); err != nil {
		t.Fatal(err)
	}
	if _, ok := s.built(t.Context(), "key", "default"); ok {
		t.Error("a removed image is not built again")
	}
}
