package image

import (
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
	Progress *Progress
}

// Pull brings an image into the store, for this machine's architecture. Any
// OCI or Docker image will do that holds a kernelspec. Credentials come from
// Docker's configuration of the calling user.
func (s *Store) Pull(ctx context.Context, opts PullOptions) (Image, error) {
	img, err := s.pull(ctx, opts)
	if err != nil {
		return Image{}, fmt.Errorf("cannot pull %q: %w", opts.Ref, err)
	}
	return img, nil
}

func (s *Store) pull(ctx context.Context, opts PullOptions) (Image, error) {
	kind, file, local := strings.Cut(opts.Ref, ":")
	switch {
	case local && kind == "oci":
		img, err := fromLayout(file)
		return s.putLocal(ctx, opts, file, img, err)
	case local && kind == "oci-archive":
		return s.putArchive(ctx, opts, file)
	case local && kind == "docker-archive":
		img, err := tarball.ImageFromPath(file, nil)
		return s.putLocal(ctx, opts, file, img, err)
	}
	var nameOpts []name.Option
	if opts.Insecure {
		nameOpts = append(nameOpts, name.Insecure)
	}
	ref, err := name.ParseReference(opts.Ref, nameOpts...)
	if err != nil {
		return Image{}, err
	}
	if opts.Name == "" {
		opts.Name = ref.Name()
	}
	opts.Progress.Say("asking %s for %s", ref.Context().RegistryStr(), ref.Identifier())
	img, err := remote.Image(ref, remote.WithContext(ctx), remote.WithAuthFromKeychain(authn.DefaultKeychain), remote.WithPlatform(platform()))
	if err != nil {
		return Image{}, err
	}
	return s.Put(ctx, opts.Name, img, opts.Progress)
}

func platform() v1.Platform { return v1.Platform{OS: "linux", Architecture: runtime.GOARCH} }

func (s *Store) putLocal(ctx context.Context, opts PullOptions, file string, img v1.Image, err error) (Image, error) {
	if err != nil {
		return Image{}, err
	}
	if opts.Name == "" {
		opts.Name = strings.TrimSuffix(filepath.Base(file), ".tar")
	}
	return s.Put(ctx, opts.Name, img, opts.Progress)
}

// putArchive unpacks a tarred layout aside, as carefully as a layer.
func (s *Store) putArchive(ctx context.Context, opts PullOptions, file string) (Image, error) {
	f, err := os.Open(file)
	if err != nil {
		return Image{}, err
	}
	defer f.Close()
	dir, err := os.MkdirTemp("", "kernelgw-archive-")
	if err != nil {
		return Image{}, err
	}
	defer os.RemoveAll(dir)
	root, err := os.OpenRoot(dir)
	if err != nil {
		return Image{}, err
	}
	defer root.Close()
	u := newUnpacker(root)
	u.chown, u.maxBytes = false, s.maxBytes
	defer u.close()
	if err := u.unpack(ctx, f); err != nil {
		return Image{}, err
	}
	if err := noLinks(root); err != nil {
		return Image{}, err
	}
	img, err := fromLayout(dir)
	return s.putLocal(ctx, opts, file, img, err)
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
func fromLayout(dir string) (v1.Image, error) {
	path, err := layout.FromPath(dir)
	if err != nil {
		return nil, err
	}
	index, err := path.ImageIndex()
	if err != nil {
		return nil, err
	}
	return fromIndex(index, 0)
}

func fromIndex(index v1.ImageIndex, depth int) (v1.Image, error) {
	if depth > 4 {
		return nil, errors.New("its indexes are nested too deep")
	}
	manifest, err := index.IndexManifest()
	if err != nil {
		return nil, err
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
			return index.Image(desc.Digest)
		case desc.MediaType.IsIndex():
			inner, err := index.ImageIndex(desc.Digest)
			if err != nil {
				return nil, err
			}
			return fromIndex(inner, depth+1)
		}
	}
	return nil, fmt.Errorf("it has no image for %s; it has: %s", platform(), strings.Join(seen, ", "))
}
