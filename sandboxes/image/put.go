package image

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/partial"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"golang.org/x/sys/unix"
)

// mountPoints exist in every unpacked image, because the root filesystem is
// read-only to the runtimes that mount there.
var mountPoints = []string{"dev", "proc", "sys", "tmp", "run", "run/kernelgw"}

// agentMountPoint is where the agent's binary is mounted: a file.
const agentMountPoint = "run/kernelgw-agent"

// Put writes img, an image of this host, to the store and unpacks it, then
// names it ref; a name that was there moves. An image that the policy does not
// admit is refused, and so is one without a usable kernelspec: the error lists
// where one was looked for. When Put fails the store is as before, but for blobs
// that a later Put or Remove cleans up.
func (s *Store) Put(ctx context.Context, ref string, img v1.Image, p *Progress) (Image, error) {
	c, err := newCandidate(img, nil, nil)
	if err != nil {
		return Image{}, fmt.Errorf("cannot read image %q: %w", ref, err)
	}
	return s.admit(ctx, ref, localOrigin(ref), c, p)
}

// admit stores the candidate when the policy admits it as of that origin. What
// the policy saw is the manifest that is stored: everything else is named by
// digests in it.
func (s *Store) admit(ctx context.Context, ref, origin string, c *candidate, p *Progress) (Image, error) {
	verdict := s.policy.Load().judge(origin, c.manifest, false, c.signatures)
	if verdict.Refused != nil {
		return Image{}, &RefusedError{ref, verdict.Refused}
	}
	switch {
	case verdict.Signer != "":
		p.Say("signed by %s", verdict.Signer)
	case verdict.Warning() != "":
		p.Say("warning: %s", verdict.Warning())
	}
	return s.put(ctx, ref, c.image, verdict, p)
}

func (s *Store) put(ctx context.Context, ref string, img v1.Image, verdict Verdict, p *Progress) (Image, error) {
	unlock, err := s.lock(ctx)
	if err != nil {
		return Image{}, err
	}
	defer unlock()
	if err := s.clearTemp(); err != nil {
		return Image{}, err
	}
	digest, err := img.Digest()
	if err != nil {
		return Image{}, fmt.Errorf("cannot read image %q: %w", ref, err)
	}
	if digest.String() != verdict.Digest {
		return Image{}, fmt.Errorf("cannot store image %q: it is %s, and %s was admitted", ref, digest, verdict.Digest)
	}
	known, err := s.readRecord(digest)
	if err != nil {
		return Image{}, err
	}
	if !s.whole(ctx, digest, known) {
		if err := s.writeBlobs(ctx, img, p); err != nil {
			return Image{}, fmt.Errorf("cannot store image %q: %w", ref, err)
		}
		if known.Tree, err = s.unpackImage(ctx, digest, p); err != nil {
			return Image{}, fmt.Errorf("cannot unpack image %q: %w", ref, err)
		}
	}
	known.learn(verdict.Origin, verdict.counted)
	if err := s.writeRecord(digest, known); err != nil {
		return Image{}, err
	}
	if err := s.setName(ref, img); err != nil {
		return Image{}, err
	}
	return s.Resolve(ctx, ref)
}

// Remove takes a name (or with a digest all names of an image) away, then
// prunes. The error wraps sandboxes.ErrNotFound when there is no such name.
func (s *Store) Remove(ctx context.Context, ref string) error {
	if _, err := s.find(ref); err != nil {
		return err // also when the store may not be written to
	}
	unlock, err := s.lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	desc, err := s.find(ref)
	if err != nil {
		return err
	}
	index, err := s.readIndex()
	if err != nil {
		return err
	}
	byDigest := strings.Contains(ref, "sha256:")
	index.Manifests = slices.DeleteFunc(index.Manifests, func(d v1.Descriptor) bool {
		return d.Digest == desc.Digest && (byDigest || d.Annotations[refAnnotation] == desc.Annotations[refAnnotation])
	})
	dropOrphans(&index)
	if err := s.writeIndex(index); err != nil {
		return err
	}
	return s.collect(index)
}

// Prune removes the images that no name leads to any more. Sandboxes that
// still run from one lose their files.
func (s *Store) Prune(ctx context.Context) error {
	unlock, err := s.lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	index, err := s.readIndex()
	if err != nil {
		return err
	}
	dropOrphans(&index)
	if err := s.writeIndex(index); err != nil { // a new store has none
		return err
	}
	return s.collect(index)
}

// collect removes what no name leads to any more.
func (s *Store) collect(index v1.IndexManifest) error {
	dirs, err := os.ReadDir(filepath.Join(s.dir, "rootfs"))
	if err != nil {
		return fmt.Errorf("cannot clean image store: %w", err)
	}
	for _, d := range dirs {
		if slices.ContainsFunc(index.Manifests, func(m v1.Descriptor) bool { return m.Digest.Hex == d.Name() }) {
			continue
		}
		// Moved first: it goes at once as a whole, whatever happens then.
		aside := filepath.Join(s.dir, "tmp", "removed-"+d.Name())
		if err := os.Rename(filepath.Join(s.dir, "rootfs", d.Name()), aside); err != nil {
			return fmt.Errorf("cannot clean image store: %w", err)
		}
	}
	if err := s.collectRecords(index); err != nil {
		return err
	}
	unused, err := layout.Path(s.dir).GarbageCollect()
	if err != nil {
		return fmt.Errorf("cannot clean image store: %w", err)
	}
	for _, h := range unused {
		if err := layout.Path(s.dir).RemoveBlob(h); err != nil {
			return fmt.Errorf("cannot clean image store: %w", err)
		}
	}
	return s.clearTemp()
}

// clearTemp removes what a process that died left. Everything in tmp belongs
// to the holder of the lock.
func (s *Store) clearTemp() error {
	entries, err := os.ReadDir(filepath.Join(s.dir, "tmp"))
	if err != nil {
		return fmt.Errorf("cannot clean image store: %w", err)
	}
	for _, e := range entries {
		if err := os.RemoveAll(filepath.Join(s.dir, "tmp", e.Name())); err != nil {
			return fmt.Errorf("cannot clean image store: %w", err)
		}
	}
	return nil
}

func (s *Store) writeBlobs(ctx context.Context, img v1.Image, p *Progress) error {
	layers, err := img.Layers()
	if err != nil {
		return err
	}
	var total, done int64
	for _, l := range layers {
		n, err := l.Size()
		if err != nil {
			return err
		}
		total += n
	}
	if total > s.maxBytes {
		return fmt.Errorf("its layers are %d bytes, more than %d", total, s.maxBytes)
	}
	for i, l := range layers {
		digest, err := l.Digest()
		if err != nil {
			return err
		}
		size, err := l.Size()
		if err != nil {
			return err
		}
		open := func() (io.ReadCloser, error) {
			r, err := l.Compressed()
			if err != nil {
				return nil, err
			}
			before := done
			count := &counter{r: io.LimitReader(r, size+1), tell: func(n int64) {
				p.Tick("layer %d of %d: %s of %s", i+1, len(layers), mb(before+n), mb(total))
			}}
			return struct {
				io.Reader
				io.Closer
			}{count, r}, nil
		}
		if err := s.writeBlob(ctx, digest, open); err != nil {
			return fmt.Errorf("layer %s: %w", digest, err)
		}
		done += size
	}
	config, err := img.RawConfigFile()
	if err != nil {
		return err
	}
	manifest, err := img.RawManifest()
	if err != nil {
		return err
	}
	for _, raw := range [][]byte{config, manifest} {
		sum := sha256.Sum256(raw)
		h := v1.Hash{Algorithm: "sha256", Hex: hex.EncodeToString(sum[:])}
		if err := s.writeBlob(ctx, h, func() (io.ReadCloser, error) {
			return io.NopCloser(strings.NewReader(string(raw))), nil
		}); err != nil {
			return err
		}
	}
	return nil
}

// writeBlob stores a blob unless it is there, whole and right. The name is
// checked against the content.
func (s *Store) writeBlob(ctx context.Context, want v1.Hash, open func() (io.ReadCloser, error)) error {
	if want.Algorithm != "sha256" || len(want.Hex) != 64 {
		return fmt.Errorf("digest %s is not a SHA-256", want)
	}
	final := s.blob(want)
	if got, err := fileSHA256(final); err == nil && got == want.Hex {
		return nil
	}
	r, err := open()
	if err != nil {
		return err
	}
	defer r.Close()
	f, err := os.CreateTemp(filepath.Join(s.dir, "tmp"), "blob-")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) // after the rename there is nothing to remove
	defer f.Close()
	sum := sha256.New()
	if _, err := io.Copy(io.MultiWriter(f, sum), contextReader{ctx, r}); err != nil {
		return err
	}
	if got := hex.EncodeToString(sum.Sum(nil)); got != want.Hex {
		return fmt.Errorf("content has digest sha256:%s, not %s", got, want)
	}
	if err := f.Chmod(0o644); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	return os.Rename(f.Name(), final)
}

// contextReader ends a copy when its context does.
type contextReader struct {
	ctx context.Context
	r   io.Reader
}

func (c contextReader) Read(b []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, err
	}
	return c.r.Read(b)
}

// whole reports whether an image is unpacked and as it was then.
func (s *Store) whole(ctx context.Context, digest v1.Hash, known record) bool {
	return known.Tree != nil && s.checkTree(ctx, digest, known.Tree) == nil
}

// unpackImage makes the root filesystem of an image whose blobs are stored, and
// its seal. A tree that is there already stays when it has the same seal, as
// sandboxes may run from it.
func (s *Store) unpackImage(ctx context.Context, digest v1.Hash, p *Progress) (*seal, error) {
	img, err := s.stored(digest)
	if err != nil {
		return nil, err
	}
	tmp, err := os.MkdirTemp(filepath.Join(s.dir, "tmp"), "rootfs-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(tmp)
	if err := os.Chmod(tmp, 0o755); err != nil {
		return nil, err
	}
	if err := s.makeTree(ctx, tmp, img, p); err != nil {
		return nil, err
	}
	made, err := sealTree(ctx, tmp)
	if err != nil {
		return nil, err
	}
	final := s.rootfs(digest)
	if there, err := sealTree(ctx, final); err == nil && there == made {
		return &made, nil
	}
	aside := filepath.Join(s.dir, "tmp", "changed-"+digest.Hex)
	if err := os.Rename(final, aside); err == nil {
		p.Say("what was unpacked before is not as the image says, and is replaced")
		defer os.RemoveAll(aside)
	}
	return &made, os.Rename(tmp, final)
}

// makeTree fills dir with the root filesystem of an image.
func (s *Store) makeTree(ctx context.Context, dir string, img v1.Image, p *Progress) error {
	if err := unpackLayers(ctx, dir, img, s.maxBytes, p); err != nil {
		return err
	}
	config, err := img.ConfigFile()
	if err != nil {
		return err
	}
	user, err := findUser(treeFS(dir), config.Config.User)
	if err != nil {
		return err
	}
	if err := makeMountPoints(dir, user); err != nil {
		return err
	}
	specs, problems := findKernelspecs(dir, config.Config.Env, user.Home)
	if len(specs) == 0 {
		return noKernelspec(searchPath(treeFS(dir), config.Config.Env, user.Home), problems)
	}
	return syncFS(dir)
}

func unpackLayers(ctx context.Context, dir string, img v1.Image, maxBytes int64, p *Progress) error {
	layers, err := img.Layers()
	if err != nil {
		return err
	}
	config, err := img.ConfigFile()
	if err != nil {
		return err
	}
	if len(config.RootFS.DiffIDs) != len(layers) {
		return fmt.Errorf("its config lists %d layers and its manifest %d", len(config.RootFS.DiffIDs), len(layers))
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	u := newUnpacker(root)
	u.maxBytes = maxBytes
	defer u.close()
	for i, l := range layers {
		if err := unpackLayer(ctx, u, l, config.RootFS.DiffIDs[i], func() {
			p.Tick("unpacking layer %d of %d: %d files, %s", i+1, len(layers), u.entries, mb(u.bytes))
		}); err != nil {
			return fmt.Errorf("layer %d of %d: %w", i+1, len(layers), err)
		}
	}
	p.Say("unpacked %d files, %s", u.entries, mb(u.bytes))
	if u.skipped > 0 {
		p.Say("left out %d device nodes, pipes and the like", u.skipped)
	}
	return nil
}

func unpackLayer(ctx context.Context, u *unpacker, l v1.Layer, want v1.Hash, tick func()) error {
	r, err := l.Uncompressed()
	if err != nil {
		return err
	}
	defer r.Close()
	sum := sha256.New()
	// Bounded here too: padding between entries is not counted as content.
	limited := io.LimitReader(r, u.maxBytes+u.maxBytes/4+1<<20)
	stream := io.TeeReader(&counter{r: limited, tell: func(int64) { tick() }}, sum)
	if err := u.unpack(ctx, stream); err != nil {
		return err
	}
	if _, err := io.Copy(io.Discard, contextReader{ctx, stream}); err != nil {
		return err
	}
	if got := hex.EncodeToString(sum.Sum(nil)); want.Algorithm != "sha256" || got != want.Hex {
		return fmt.Errorf("its content has digest sha256:%s, not %s as the image's config says", got, want)
	}
	return nil
}

func noKernelspec(looked []string, problems []error) error {
	text := "it has no kernelspec (kernels/NAME/kernel.json) in " + strings.Join(looked, ", ")
	if len(problems) > 0 {
		return fmt.Errorf("%s; unusable: %w", text, errors.Join(problems...))
	}
	return errors.New(text + "; install one in the image, for instance with \"pip install ipykernel\"")
}

// makeMountPoints adds what every sandbox needs to a tree, where missing.
func makeMountPoints(dir string, user User) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	for _, point := range append(slices.Clone(mountPoints), user.Home) {
		real, err := resolve(root, point, true)
		if err != nil {
			return fmt.Errorf("cannot make mount point /%s: %w", point, err)
		}
		if info, err := root.Lstat(real); err == nil && info.IsDir() {
			continue
		} else if err == nil {
			return fmt.Errorf("cannot make mount point /%s: the image has a file there", point)
		}
		if err := root.MkdirAll(real, 0o755); err != nil {
			return fmt.Errorf("cannot make mount point /%s: %w", point, err)
		}
		switch {
		case point == "tmp":
			err = root.Chmod(real, 0o777|fs.ModeSticky)
		case point == user.Home && os.Geteuid() == 0:
			err = root.Lchown(real, int(user.UID), int(user.GID))
		}
		if err != nil {
			return fmt.Errorf("cannot make mount point /%s: %w", point, err)
		}
	}
	real, err := resolve(root, agentMountPoint, false)
	if err == nil {
		var f *os.File
		if f, err = root.OpenFile(real, os.O_CREATE|os.O_WRONLY, 0o755); err == nil {
			err = f.Close()
		}
	}
	if err != nil {
		return fmt.Errorf("cannot make mount point /%s: %w", agentMountPoint, err)
	}
	return nil
}

// syncFS writes the file system of dir to disk: once for the whole tree, not
// once for each of its many files.
func syncFS(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := unix.Syncfs(int(f.Fd())); err != nil {
		return fmt.Errorf("cannot sync %s: %w", dir, err)
	}
	return nil
}

// setName points ref at img, whose blobs are stored.
func (s *Store) setName(ref string, img v1.Image) error {
	desc, err := partial.Descriptor(img)
	if err != nil {
		return fmt.Errorf("cannot name image %q: %w", ref, err)
	}
	index, err := s.readIndex()
	if err != nil {
		return err
	}
	index.Manifests = slices.DeleteFunc(index.Manifests, func(d v1.Descriptor) bool {
		return d.Annotations[refAnnotation] == ref
	})
	named := v1.Descriptor{
		MediaType: desc.MediaType, Size: desc.Size, Digest: desc.Digest, Platform: desc.Platform,
		Annotations: map[string]string{refAnnotation: ref},
	}
	index.Manifests = append(index.Manifests, named)
	return s.writeIndex(index)
}

func (s *Store) writeIndex(index v1.IndexManifest) error {
	index.SchemaVersion, index.MediaType = 2, types.OCIImageIndex
	if index.Manifests == nil {
		index.Manifests = []v1.Descriptor{}
	}
	raw, err := json.MarshalIndent(index, "", "  ")
	if err != nil {
		return fmt.Errorf("cannot write image store index: %w", err)
	}
	// First, so that what has an index is always a valid layout.
	tmp := filepath.Join(s.dir, "tmp")
	if err := replaceFile(tmp, filepath.Join(s.dir, "oci-layout"), []byte(`{"imageLayoutVersion":"1.0.0"}`)); err != nil {
		return err
	}
	return replaceFile(tmp, filepath.Join(s.dir, "index.json"), raw)
}

// replaceFile writes a file so that readers see the old or the new one, whole.
// tmp is a directory of the same file system.
func replaceFile(tmp, file string, raw []byte) error {
	f, err := os.CreateTemp(tmp, filepath.Base(file)+"-")
	if err != nil {
		return fmt.Errorf("cannot write image store: %w", err)
	}
	defer os.Remove(f.Name()) // after the rename there is nothing to remove
	_, err = f.Write(raw)
	if err == nil {
		err = f.Chmod(0o644)
	}
	if err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = os.Rename(f.Name(), file)
	}
	if err != nil {
		return fmt.Errorf("cannot write image store: %w", err)
	}
	return nil
}
