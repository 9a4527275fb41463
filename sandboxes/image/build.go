package image

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// recipe changes when the code of this package builds another image from the
// same inputs, so that what was built before is not taken for it.
const recipe = "4"

// mplDir holds matplotlib's font list in the image. It is writable for all, or
// matplotlib would not use it; in the home it would have an owner that differs
// with who unpacked the image.
const mplDir = "var/cache/matplotlib"

// BuildOptions say what to build.
type BuildOptions struct {
	Name   string // in the store; "" means DefaultName
	Inputs fs.FS  // packages, requirements.lock, exclude
	// Check builds twice in different places and fails when the results differ.
	Check bool
	// Force builds although the store has what these inputs give.
	Force    bool
	Progress *Progress
}

// Build makes an image from Debian packages and Python wheels and puts it into
// the store. It needs a Debian 12 host with apt-get and dpkg-deb and no root:
// packages come through the host's apt sources, wheels through its pip
// settings. What was downloaded stays in the store's cache, and nothing is built
// when these inputs and package versions were built before.
func (s *Store) Build(ctx context.Context, opts BuildOptions) (Image, error) {
	if opts.Name == "" {
		opts.Name = DefaultName
	}
	img, err := s.build(ctx, opts)
	if err != nil {
		return Image{}, fmt.Errorf("cannot build image %q: %w", opts.Name, err)
	}
	return img, nil
}

func (s *Store) build(ctx context.Context, opts BuildOptions) (Image, error) {
	p := opts.Progress
	if _, err := s.policy.Load().allows(localOrigin(opts.Name), ""); err != nil {
		return Image{}, &RefusedError{opts.Name, err}
	}
	in, err := readInputs(opts.Inputs)
	if err != nil {
		return Image{}, err
	}
	when, err := buildTime()
	if err != nil {
		return Image{}, err
	}
	cache := filepath.Join(s.dir, "cache")
	if err := os.MkdirAll(cache, 0o755); err != nil {
		return Image{}, err
	}
	unlock, err := lockFile(ctx, filepath.Join(cache, "lock"))
	if err != nil {
		return Image{}, err
	}
	defer unlock()
	// Files made by pip and others shall not depend on the caller's mask.
	defer syscall.Umask(syscall.Umask(0o022))

	b := &builder{in: &in, cache: cache, when: when, p: p}
	if err := b.fetchPackages(ctx); err != nil {
		return Image{}, err
	}
	key := b.key()
	if !opts.Force && !opts.Check {
		if img, ok := s.built(ctx, key, opts.Name); ok {
			p.Say("nothing to do: %s was built from these inputs before", img.Digest)
			return s.complete(ctx, opts, b, img)
		}
	}
	img, clean, err := b.make(ctx, "build")
	if err != nil {
		return Image{}, err
	}
	if opts.Check {
		if err := b.checkSame(ctx, img); err != nil {
			return Image{}, err // what was built stays, to be compared
		}
	}
	defer clean()
	p.Say("unpacking")
	done, err := s.Put(ctx, opts.Name, img, p)
	if err != nil {
		return Image{}, err
	}
	if err := s.describe(ctx, b, done.Digest); err != nil {
		return Image{}, err
	}
	return done, s.rememberBuilt(key, done.Digest)
}

// complete gives an image that was built before what an earlier version of this
// program did not give it: its seal, and its SBOM.
func (s *Store) complete(ctx context.Context, opts BuildOptions, b *builder, img Image) (Image, error) {
	digest, err := v1.NewHash(img.Digest)
	if err != nil {
		return Image{}, err
	}
	known, err := s.readRecord(digest)
	if err != nil {
		return Image{}, err
	}
	if known.Tree == nil {
		opts.Progress.Say("unpacking once more, to compare")
		stored, err := s.stored(digest)
		if err != nil {
			return Image{}, err
		}
		if img, err = s.Put(ctx, opts.Name, stored, opts.Progress); err != nil {
			return Image{}, err
		}
	}
	if _, err := s.artifact(img.Digest, sbomType); err == nil {
		return img, nil
	}
	if b.wheels, err = lockedWheels(b.in.lock, filepath.Join(b.cache, "wheels")); err != nil {
		return Image{}, err
	}
	if have, want := len(b.wheels), len(lockedName.FindAll(b.in.lock, -1)); have != want {
		opts.Progress.Say("no SBOM: %d of %d wheels are in the cache; build with --force to make one", have, want)
		return img, nil
	}
	return img, s.describe(ctx, b, img.Digest)
}

// describe writes down what the image is made of.
func (s *Store) describe(ctx context.Context, b *builder, digest string) error {
	m := madeOf{digest: digest, inputs: b.key(), arch: b.apt.arch, when: b.when, debs: make(map[string]string), wheels: b.wheels}
	for i, d := range b.debs {
		m.debs[d.file] = b.sums[i]
	}
	raw, err := m.sbom()
	if err != nil {
		return err
	}
	return s.putArtifact(ctx, digest, sbomType, raw)
}

// buildTime honours SOURCE_DATE_EPOCH (reproducible-builds.org).
func buildTime() (time.Time, error) {
	text := os.Getenv("SOURCE_DATE_EPOCH")
	if text == "" {
		return time.Unix(epoch, 0).UTC(), nil
	}
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil || n < 0 {
		return time.Time{}, fmt.Errorf("SOURCE_DATE_EPOCH=%q is not a number of seconds", text)
	}
	return time.Unix(n, 0).UTC(), nil
}

// builder holds what the steps of one build share.
type builder struct {
	in    *inputs
	cache string
	when  time.Time
	p     *Progress

	apt    *apt
	debs   []deb
	sums   []string          // SHA-256 of each of debs
	wheels map[string]string // installed wheels, with their SHA-256
}

func (b *builder) fetchPackages(ctx context.Context) error {
	var err error
	if b.apt, err = newApt(ctx, filepath.Join(b.cache, "apt"), b.in.without); err != nil {
		return err
	}
	b.p.Say("reading Debian's package lists")
	err = b.p.During(func() string { return "reading Debian's package lists" }, func() (err error) {
		if err = b.apt.update(ctx); err == nil {
			b.debs, err = b.apt.resolve(ctx, b.in.packages)
		}
		return err
	})
	if err != nil {
		return err
	}
	var total int64
	for _, d := range b.debs {
		total += d.size
	}
	b.p.Say("%d Debian packages, %s", len(b.debs), mb(total))
	if err := b.apt.download(ctx, b.in.packages, b.debs, b.p); err != nil {
		return err
	}
	for _, d := range b.debs {
		sum, err := fileSHA256(b.apt.path(d))
		if err != nil {
			return err
		}
		b.sums = append(b.sums, sum)
	}
	return nil
}

// key names what these inputs give.
func (b *builder) key() string {
	sum := sha256.New()
	fmt.Fprintf(sum, "%s %s %d %s\n", recipe, b.in.hash, b.when.Unix(), b.apt.arch)
	for i, d := range b.debs {
		fmt.Fprintf(sum, "%s %s\n", d.file, b.sums[i])
	}
	return hex.EncodeToString(sum.Sum(nil))
}

// make builds the image in a fresh directory of that name. clean removes it
// when the image has been stored.
func (b *builder) make(ctx context.Context, name string) (img v1.Image, clean func(), err error) {
	work := filepath.Join(b.cache, name)
	if err := os.RemoveAll(work); err != nil { // of a build that died
		return nil, nil, err
	}
	rootfs := filepath.Join(work, "rootfs")
	if err := os.MkdirAll(rootfs, 0o755); err != nil {
		return nil, nil, err
	}
	remove := func() { os.RemoveAll(work) } // if it fails the next build does it
	defer func() {
		if err != nil {
			remove()
		}
	}()
	if err := mergeDebs(ctx, rootfs, b.apt, b.debs, b.p); err != nil {
		return nil, nil, err
	}
	if err := configure(rootfs, triples[b.apt.arch]); err != nil {
		return nil, nil, err
	}
	if err := b.addPython(ctx, rootfs, work); err != nil {
		return nil, nil, err
	}
	b.p.Say("packing")
	layer, err := writeLayer(ctx, rootfs, filepath.Join(work, "layer.tar.gz"), b.when, b.in, b.p)
	if err != nil {
		return nil, nil, err
	}
	img, err = b.assemble(layer)
	return img, remove, err
}

func (b *builder) addPython(ctx context.Context, rootfs, work string) error {
	py, err := newPython(ctx, rootfs, b.apt.arch)
	if err != nil {
		return err
	}
	wheels := filepath.Join(b.cache, "wheels")
	if b.wheels, err = py.wheels(ctx, b.in.lock, wheels, b.p); err != nil {
		return err
	}
	b.p.Say("installing %d wheels", len(b.wheels))
	if err := py.install(ctx, b.in.lock, wheels, b.p); err != nil {
		return err
	}
	if err := py.writeKernelspec(); err != nil {
		return err
	}
	if err := py.bakeFontCache(ctx, work, mplDir); err != nil {
		return err
	}
	return py.compile(ctx, b.in, work, b.p)
}

// assemble wraps the layer into an image.
func (b *builder) assemble(layer v1.Layer) (v1.Image, error) {
	img := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON)
	img, err := mutate.Append(img, mutate.Addendum{
		Layer:   layer,
		History: v1.History{Created: v1.Time{Time: b.when}, CreatedBy: "kernelgw image build"},
	})
	if err != nil {
		return nil, err
	}
	config, err := img.ConfigFile()
	if err != nil {
		return nil, err
	}
	config = config.DeepCopy()
	config.OS, config.Architecture = "linux", b.apt.arch
	config.Created = v1.Time{Time: b.when}
	config.Config = v1.Config{
		User:       fmt.Sprintf("%d:%d", fallbackID, fallbackID),
		WorkingDir: fallbackHome,
		Cmd:        []string{"python3"},
		Env: []string{
			"PATH=" + fallbackHome + "/.local/bin:/usr/local/bin:/usr/bin:/bin",
			"LANG=C.UTF-8",
			"LC_ALL=C.UTF-8",
			"HOME=" + fallbackHome,
			"USER=" + fallbackName,
			"SHELL=/bin/bash",
			"TZ=Etc/UTC",
			"MPLCONFIGDIR=/" + mplDir,
		},
		Labels: map[string]string{
			"org.opencontainers.image.title": "kernelgw default",
			"kernelgw.inputs":                b.key(),
		},
	}
	return mutate.ConfigFile(img, config)
}

// checkSame builds once more, at a path of another length, and compares.
func (b *builder) checkSame(ctx context.Context, first v1.Image) error {
	want, err := first.Digest()
	if err != nil {
		return err
	}
	b.p.Say("building once more, to compare")
	second, clean, err := b.make(ctx, "build-to-compare")
	if err != nil {
		return err
	}
	got, err := second.Digest()
	if err != nil {
		return err
	}
	if got != want {
		// Both trees are kept for whoever wants to know the difference.
		return fmt.Errorf("two builds from the same inputs differ: %s and %s; compare %s with %s", want, got,
			filepath.Join(b.cache, "build"), filepath.Join(b.cache, "build-to-compare"))
	}
	clean()
	b.p.Say("both builds gave %s", got)
	return nil
}

// builds is the store's memory of which inputs gave which digest.
const builds = "builds.json"

func (s *Store) readBuilds() map[string]string {
	known := make(map[string]string)
	raw, err := os.ReadFile(filepath.Join(s.dir, "cache", builds))
	if err == nil && json.Unmarshal(raw, &known) == nil {
		return known
	}
	return make(map[string]string) // a cache: what it does not know is built
}

// built returns the image that key gave, under name, if the store still has
// it.
func (s *Store) built(ctx context.Context, key, name string) (Image, bool) {
	digest, ok := s.readBuilds()[key]
	if !ok {
		return Image{}, false
	}
	img, err := s.Resolve(ctx, name)
	if err != nil || img.Digest != digest {
		return Image{}, false
	}
	return img, true
}

// rememberBuilt needs the lock of the cache.
func (s *Store) rememberBuilt(key, digest string) error {
	known := s.readBuilds()
	if len(known) > 100 {
		clear(known)
	}
	known[key] = digest
	raw, err := json.MarshalIndent(known, "", "  ")
	if err != nil {
		return err
	}
	return replaceFile(filepath.Join(s.dir, "cache"), filepath.Join(s.dir, "cache", builds), raw)
}
