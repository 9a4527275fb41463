package image

import (
	"bytes"
	"context"
	"crypto/sha256"
	_ "embed"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"

	"golang.org/x/sync/errgroup"
)

// pythonVersion is what the image's Debian release has and the lock is for.
const pythonVersion = "3.11"

// compileShards is how many processes compile, each a fixed share of the files
// in a fixed order: what Python writes into a .pyc depends a little on what the
// same process compiled before, so the split must not depend on the host.
const compileShards = 8

var (
	//go:embed compile.py
	compileScript string
	//go:embed fontcache.py
	fontScript string
)

// python runs the Python of an image that is being built, on this host: by the
// image's own dynamic loader and libraries, so neither root nor a container is
// needed, and what it installs fits it.
type python struct {
	rootfs string
	triple string // multiarch directory, as in x86_64-linux-gnu
	loader string
}

// What Debian calls an architecture's libraries and its dynamic loader. Others
// than these cannot be built for: the wheels are locked for these two.
var (
	triples = map[string]string{"amd64": "x86_64-linux-gnu", "arm64": "aarch64-linux-gnu"}
	loaders = map[string]string{"amd64": "usr/lib64/ld-linux-x86-64.so.2", "arm64": "usr/lib/ld-linux-aarch64.so.1"}
)

// newPython finds the interpreter in rootfs and tries it.
func newPython(ctx context.Context, rootfs, debArch string) (*python, error) {
	py := &python{rootfs: rootfs, triple: triples[debArch], loader: loaders[debArch]}
	if _, err := os.Stat(py.path("usr/bin/python" + pythonVersion)); err != nil {
		return nil, fmt.Errorf("the packages brought no Python %s, for which the wheels are locked: the default image is built on Debian 12: %w", pythonVersion, err)
	}
	out, err := py.run(ctx, "-c", "import sys, ssl, zlib; print(sys.prefix)")
	if err != nil {
		return nil, fmt.Errorf("cannot run the image's own Python on this host through its dynamic loader (another kernel or architecture, or a noexec file system?): %w", err)
	}
	if got := strings.TrimSpace(string(out)); got != py.path("usr") {
		return nil, fmt.Errorf("the image's own Python takes %q for its prefix instead of %q, so nothing can be installed with it", got, py.path("usr"))
	}
	return py, nil
}

func (py *python) path(elems ...string) string {
	return filepath.Join(append([]string{py.rootfs}, elems...)...)
}

// run runs the interpreter with the host's environment (proxies, certificates
// and pip's settings) less what would lead Python astray.
func (py *python) run(ctx context.Context, args ...string) ([]byte, error) {
	env := slices.DeleteFunc(os.Environ(), func(kv string) bool {
		return strings.HasPrefix(kv, "PYTHON") || strings.HasPrefix(kv, "LD_") || strings.HasPrefix(kv, "MPL") || strings.HasPrefix(kv, "VIRTUAL_ENV=")
	})
	env = append(env,
		"PYTHONHOME="+py.path("usr"), "PYTHONNOUSERSITE=1", "PYTHONDONTWRITEBYTECODE=1",
		"PYTHONHASHSEED=0", "PYTHONUTF8=1", "LC_ALL=C.UTF-8",
	)
	if os.Getenv("PIP_CERT") == "" && os.Getenv("SSL_CERT_FILE") == "" {
		if _, err := os.Stat("/etc/ssl/certs/ca-certificates.crt"); err != nil {
			env = append(env, "PIP_CERT="+py.path("etc/ssl/certs/ca-certificates.crt"))
		}
	}
	libs := strings.Join([]string{py.path("usr/lib", py.triple), py.path("usr/lib")}, ":")
	argv := []string{py.path(py.loader), "--library-path", libs, py.path("usr/bin/python" + pythonVersion)}
	return run(ctx, env, append(argv, args...)...)
}

// pip runs the image's pip. sys.executable is set to the path inside, because
// pip writes it into the scripts that it makes.
func (py *python) pip(ctx context.Context, args ...string) error {
	const start = "import sys; sys.executable = '/usr/bin/python3'; from pip._internal.cli.main import main; sys.exit(main())"
	args = append([]string{"-c", start, "--disable-pip-version-check", "--no-input", "--no-color"}, args...)
	_, err := py.run(ctx, args...)
	return err
}

var (
	lockedHash = regexp.MustCompile(`--hash=sha256:([0-9a-f]{64})`)
	lockedName = regexp.MustCompile(`(?m)^[A-Za-z0-9._-]+==`)
)

// wheels downloads the locked wheels that dir lacks and returns what is there
// and right, by name, with their digests.
func (py *python) wheels(ctx context.Context, lock []byte, dir string, p *Progress) (map[string]string, error) {
	want := len(lockedName.FindAll(lock, -1))
	have, err := lockedWheels(lock, dir)
	if err != nil {
		return nil, err
	}
	if len(have) == want {
		return have, nil
	}
	p.Say("downloading %d wheels", want-len(have))
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	requirements := filepath.Join(dir, "requirements.lock")
	if err := os.WriteFile(requirements, lock, 0o644); err != nil {
		return nil, err
	}
	err = p.During(func() string {
		// pip keeps what it has elsewhere until all are there.
		return "downloading wheels"
	}, func() error {
		return py.pip(ctx, "download", "-q", "--no-deps", "--require-hashes", "--only-binary", ":all:", "-r", requirements, "-d", dir)
	})
	if err != nil {
		return nil, fmt.Errorf("cannot download wheels: %w", err)
	}
	if have, err = lockedWheels(lock, dir); err != nil {
		return nil, err
	}
	if len(have) != want {
		return nil, fmt.Errorf("cannot download wheels: %d of %d are in %s", len(have), want, dir)
	}
	return have, nil
}

// lockedWheels returns the wheels in dir whose digest the lock names, and
// removes other files: those of an earlier lock, or broken ones.
func lockedWheels(lock []byte, dir string) (map[string]string, error) {
	hashes := make(map[string]bool)
	for _, m := range lockedHash.FindAllSubmatch(lock, -1) {
		hashes[string(m[1])] = true
	}
	files, err := filepath.Glob(filepath.Join(dir, "*.whl"))
	if err != nil {
		return nil, err
	}
	have := make(map[string]string)
	for _, file := range files {
		sum, err := fileSHA256(file)
		if err != nil {
			return nil, err
		}
		if !hashes[sum] {
			if err := os.Remove(file); err != nil {
				return nil, err
			}
			continue
		}
		have[filepath.Base(file)] = sum
	}
	return have, nil
}

func fileSHA256(file string) (string, error) {
	f, err := os.Open(file)
	if err != nil {
		return "", err
	}
	defer f.Close()
	sum := sha256.New()
	if _, err := io.Copy(sum, f); err != nil {
		return "", err
	}
	return hex.EncodeToString(sum.Sum(nil)), nil
}

// install installs the locked wheels of dir under /usr/local, where Debian's
// Python looks for what is not Debian's.
func (py *python) install(ctx context.Context, lock []byte, dir string, p *Progress) error {
	site := py.path("usr/local/lib/python"+pythonVersion, "dist-packages")
	requirements := filepath.Join(dir, "requirements.lock")
	if err := os.WriteFile(requirements, lock, 0o644); err != nil {
		return err
	}
	err := p.During(func() string { return "installing wheels" }, func() error {
		return py.pip(ctx, "install", "-q", "--no-index", "--find-links", dir, "--no-deps", "--require-hashes",
			"--only-binary", ":all:", "--no-compile", "--no-warn-script-location", "--root-user-action", "ignore",
			"-r", requirements, "--target", site)
	})
	if err != nil {
		return fmt.Errorf("cannot install wheels: %w", err)
	}
	// --target puts all schemes below one directory; ours are apart.
	for from, to := range map[string]string{"bin": "bin", "share": "share", "etc": "etc", "include": "include"} {
		if err := mergeMove(filepath.Join(site, from), py.path("usr/local", to)); err != nil {
			return fmt.Errorf("cannot install wheels: %w", err)
		}
	}
	return py.fixRecords(site)
}

// mergeMove moves the files below from to the same places below to.
func mergeMove(from, to string) error {
	err := filepath.WalkDir(from, func(file string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(from, file)
		if err != nil {
			return err
		}
		if d.IsDir() {
			return os.MkdirAll(filepath.Join(to, rel), 0o755)
		}
		return os.Rename(file, filepath.Join(to, rel))
	})
	if os.IsNotExist(err) {
		return nil
	}
	if err != nil {
		return err
	}
	return os.RemoveAll(from)
}

// fixRecords makes the RECORD files name the moved files where they are, so
// that pip inside can list and remove the packages.
func (py *python) fixRecords(site string) error {
	records, err := filepath.Glob(filepath.Join(site, "*.dist-info", "RECORD"))
	if err != nil {
		return err
	}
	moved := regexp.MustCompile(`(?m)^(?:\.\./\.\./)?(bin|share|etc|include)/`)
	for _, record := range records {
		raw, err := os.ReadFile(record)
		if err != nil {
			return err
		}
		fixed := moved.ReplaceAll(raw, []byte("../../../$1/"))
		if bytes.Equal(raw, fixed) {
			continue
		}
		if err := os.WriteFile(record, fixed, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// writeKernelspec replaces the kernelspec of the ipykernel wheel, which starts
// a "python" of the reader's PATH, by one that starts the image's own.
func (py *python) writeKernelspec() error {
	dir := py.path("usr/local/share/jupyter/kernels/python3")
	spec := map[string]any{
		"argv":           []string{"/usr/bin/python3", "-Xfrozen_modules=off", "-m", "ipykernel_launcher", "-f", "{connection_file}"},
		"display_name":   "Python 3 (ipykernel)",
		"language":       "python",
		"interrupt_mode": "signal",
		"metadata":       map[string]any{"debugger": true},
	}
	raw, err := json.MarshalIndent(spec, "", " ")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, "kernel.json"), append(raw, '\n'), 0o644)
}

// compile writes .pyc files for all of the image's Python sources that in does
// not leave out. They are hash-based and unchecked: valid whatever the
// modification times are, and Python does not look at the source when it
// starts.
func (py *python) compile(ctx context.Context, in *inputs, work string, p *Progress) error {
	var sources []string
	for _, dir := range []string{"usr/lib/python3", "usr/lib/python" + pythonVersion, "usr/local/lib/python" + pythonVersion} {
		err := filepath.WalkDir(py.path(dir), func(file string, d fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			rel := strings.TrimPrefix(file, py.rootfs+"/")
			if d.Type().IsRegular() && path.Ext(rel) == ".py" && !in.excluded(rel) {
				sources = append(sources, rel)
			}
			return nil
		})
		if err != nil {
			return fmt.Errorf("cannot compile: %w", err)
		}
	}
	slices.Sort(sources)
	p.Say("compiling %d Python files", len(sources))
	script := filepath.Join(work, "compile.py")
	if err := os.WriteFile(script, []byte(compileScript), 0o644); err != nil {
		return err
	}
	shards := make([][]string, compileShards)
	for i, s := range sources {
		shards[i%compileShards] = append(shards[i%compileShards], s)
	}
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(runtime.NumCPU())
	for i, shard := range shards {
		group.Go(func() error {
			list := filepath.Join(work, fmt.Sprintf("compile-%d", i))
			if err := os.WriteFile(list, []byte(strings.Join(shard, "\n")), 0o644); err != nil {
				return err
			}
			if _, err := py.run(ctx, script, py.rootfs, list); err != nil {
				return fmt.Errorf("cannot compile: %w", err)
			}
			p.Tick("compiling Python files, share %d of %d", i+1, compileShards)
			return nil
		})
	}
	return group.Wait()
}

// bakeFontCache writes matplotlib's list of fonts, which it would otherwise
// make at a user's first plot, to a path below rootfs.
func (py *python) bakeFontCache(ctx context.Context, work, dir string) error {
	script := filepath.Join(work, "fontcache.py")
	if err := os.WriteFile(script, []byte(fontScript), 0o644); err != nil {
		return err
	}
	if _, err := py.run(ctx, script, py.path(dir), filepath.Join(work, "mpl")); err != nil {
		return fmt.Errorf("cannot make matplotlib's font cache: %w", err)
	}
	return nil
}
