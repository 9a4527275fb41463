package image

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

// PullOptions say what to pull.
type PullOptions struct {
	// Ref is a registry reference, or a local "oci:DIR" (OCI image layout),
	// "oci-archive:FILE" (such a layout in a tar) or "docker-archive:FILE"
	// (docker save).
	Ref string
	// Name is what the store calls it; "" means Ref in its full form.
	Name string
	// Insecure allows plain HTTP. Addresses of this machine always may use it.
	Insecure bool
	// Bundle is a file with a sigstore bundle of the image's signature, besides
	// those that are found where the image is. "" means the file beside a local
	// image that has its name with .sigstore.json behind it.
	Bundle   string
	Progress *Progress
}

// Pull brings an image into the store, for this machine's architecture. Any
// OCI or Docker image will do that holds a kernelspec and that the policy
// admits. Credentials come from Docker's configuration of the calling user.
func (s *Store) Pull(ctx context.Context, opts PullOptions) (Image, error) {
	var img Image
	err := s.withCandidate(ctx, opts, func(name, origin string, c *candidate) (err error) {
		img, err = s.admit(ctx, name, origin, c, opts.Progress)
		return err
	})
	if err != nil {
		return Image{}, fmt.Errorf("cannot pull %q: %w", opts.Ref, err)
	}
	return img, nil
}

// withCandidate finds the image that opts name, and calls use with it, the name
// that the store shall give it, and as what the policy judges it.
func (s *Store) withCandidate(ctx context.Context, opts PullOptions, use func(name, origin string, c *candidate) error) error {
	kind, file, local := strings.Cut(opts.Ref, ":")
	useLocal := func(c *candidate, err error) error {
		if err != nil {
			return err
		}
		name := cmp.Or(opts.Name, strings.TrimSuffix(filepath.Base(file), ".tar"))
		c.file = cmp.Or(opts.Bundle, file+bundleSuffix)
		return use(name, localOrigin(name), c)
	}
	switch {
	case local && kind == "oci":
		return useLocal(fromLayout(file))
	case local && kind == "oci-archive":
		dir, err := s.unpackArchive(ctx, file)
		if err != nil {
			return err
		}
		defer os.RemoveAll(dir)
		return useLocal(fromLayout(dir))
	case local && kind == "docker-archive":
		img, err := tarball.ImageFromPath(file, nil)
		if err != nil {
			return err
		}
		return useLocal(newCandidate(img, nil, nil))
	}
	var nameOpts []name.Option
	if opts.Insecure {
		nameOpts = append(nameOpts, name.Insecure)
	}
	ref, err := name.ParseReference(opts.Ref, nameOpts...)
	if err != nil {
		return err
	}
	// Before the registry is asked anything: a policy may be there to prevent it.
	digest, _ := ref.(name.Digest)
	if _, err := s.policy.Load().allows(ref.Name(), digest.DigestStr()); err != nil {
		return &RefusedError{opts.Ref, err}
	}
	opts.Progress.Say("asking %s for %s", ref.Context().RegistryStr(), ref.Identifier())
	c, err := fromRegistry(ctx, ref)
	if err != nil {
		return err
	}
	c.file = opts.Bundle
	return use(cmp.Or(opts.Name, ref.Name()), ref.Name(), c)
}

// fromRegistry asks for what ref names once: the tag may move, and what was
// verified must be what is stored.
func fromRegistry(ctx context.Context, ref name.Reference) (*candidate, error) {
	options := []remote.Option{remote.WithContext(ctx), remote.WithAuthFromKeychain(authn.DefaultKeychain), remote.WithPlatform(platform())}
	desc, err := remote.Get(ref, options...)
	if err != nil {
		return nil, err
	}
	img, err := desc.Image()
	if err != nil {
		return nil, err
	}
	var index []byte
	if desc.MediaType.IsIndex() {
		index = desc.Manifest
	}
	return newCandidate(img, index, registrySource{ref.Context(), options})
}

func platform() v1.Platform { return v1.Platform{OS: "linux", Architecture: runtime.GOARCH} }

// unpackArchive unpacks a tarred layout aside, as carefully as a layer. The
// caller removes the directory.
func (s *Store) unpackArchive(ctx context.Context, file string) (dir string, err error) {
	f, err := os.Open(file)
	if err != nil {
		return "", err
	}
	defer f.Close()
	if dir, err = os.MkdirTemp("", "kernelgw-archive-"); err != nil {
		return "", err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.RemoveAll(dir))
		}
	}()
	root, err := os.OpenRoot(dir)
	if err != nil {
		return "", err
	}
	defer root.Close()
	u := newUnpacker(root)
	u.chown, u.maxBytes = false, s.maxBytes
	defer u.close()
	if err := u.unpack(ctx, f); err != nil {
		return "", err
	}
	return dir, noLinks(root)
}

// noLinks refuses an archive with symlinks: the layout is read by their names,
// and they could name any file of this machine.
func noLinks(root *os.Root) error {
	return fs.WalkDir(root.FS(), ".", func(name string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() && !d.Type().IsRegular() {
			err = fmt.Errorf("the archive has a link or another special file: %s", name)
		}
		return err
	})
}

// fromLayout picks this machine's image from an OCI image layout.
func fromLayout(dir string) (*candidate, error) {
	path, err := layout.FromPath(dir)
	if err != nil {
		return nil, err
	}
	index, err := path.ImageIndex()
	if err != nil {
		return nil, err
	}
	img, from, err := fromIndex(index, 0)
	if err != nil {
		return nil, err
	}
	var raw []byte
	if from != index { // which lists what is in the directory, and nobody signs
		if raw, err = from.RawManifest(); err != nil {
			return nil, err
		}
	}
	return newCandidate(img, raw, layoutSource{path})
}

// fromIndex picks this machine's image, and returns the index that lists it.
func fromIndex(index v1.ImageIndex, depth int) (v1.Image, v1.ImageIndex, error) {
	if depth > 4 {
		return nil, nil, errors.New("its indexes are nested too deep")
	}
	manifest, err := index.IndexManifest()
	if err != nil {
		return nil, nil, err
	}
	var seen []string
	for _, desc := range manifest.Manifests {
		if desc.Platform != nil {
			seen = append(seen, desc.Platform.String())
			if !desc.Platform.Satisfies(platform()) {
				continue
			}
		}
		switch {
		case desc.MediaType.IsImage():
			img, err := index.Image(desc.Digest)
			if err == nil && belongsToAnother(img) {
				continue
			}
			return img, index, err
		case desc.MediaType.IsIndex():
			inner, err := index.ImageIndex(desc.Digest)
			if err != nil {
				return nil, nil, err
			}
			return fromIndex(inner, depth+1)
		}
	}
	return nil, nil, fmt.Errorf("it has no image for %s; it has: %s", platform(), strings.Join(seen, ", "))
}

// belongsToAnother reports whether an image manifest is a signature or the
// like, of the image that is its subject.
func belongsToAnother(img v1.Image) bool {
	m, err := img.Manifest()
	return err == nil && m.Subject != nil
}
