package image

import (
	"fmt"
	"io"
	"os"
	"path/filepath"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/partial"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// stored returns the image of a manifest among the store's blobs, whether or
// not the index names it yet. Manifest and config are compared with their
// digests whenever they are read; layers are when they are unpacked, with those
// that the config names.
func (s *Store) stored(digest v1.Hash) (v1.Image, error) {
	raw, err := s.readBlob(digest)
	if err != nil {
		return nil, err
	}
	return partial.CompressedToImage(&storedImage{store: s, manifest: raw})
}

func (s *Store) blob(digest v1.Hash) string {
	return filepath.Join(s.dir, "blobs", digest.Algorithm, digest.Hex)
}

// readBlob reads a small blob and compares it with its digest.
func (s *Store) readBlob(digest v1.Hash) ([]byte, error) {
	raw, err := os.ReadFile(s.blob(digest))
	if err != nil {
		return nil, err
	}
	if got := digestOf(raw); got != digest.String() {
		return nil, fmt.Errorf("the blob %s was changed on disk: its content has digest %s; pull or build the image again", digest, got)
	}
	return raw, nil
}

// storedImage is a partial.CompressedImageCore over the store's blobs.
type storedImage struct {
	store    *Store
	manifest []byte
}

func (i *storedImage) RawManifest() ([]byte, error) { return i.manifest, nil }

func (i *storedImage) MediaType() (types.MediaType, error) {
	m, err := partial.Manifest(i)
	if err != nil {
		return "", err
	}
	if m.MediaType == "" { // optional in OCI manifests
		return types.OCIManifestSchema1, nil
	}
	return m.MediaType, nil
}

func (i *storedImage) RawConfigFile() ([]byte, error) {
	m, err := partial.Manifest(i)
	if err != nil {
		return nil, err
	}
	return i.store.readBlob(m.Config.Digest)
}

func (i *storedImage) LayerByDigest(h v1.Hash) (partial.CompressedLayer, error) {
	m, err := partial.Manifest(i)
	if err != nil {
		return nil, err
	}
	for _, desc := range append(m.Layers, m.Config) {
		if desc.Digest == h {
			return &storedLayer{i.store.blob(h), desc}, nil
		}
	}
	return nil, fmt.Errorf("the manifest has no blob %s", h)
}

type storedLayer struct {
	file string
	desc v1.Descriptor
}

func (l *storedLayer) Digest() (v1.Hash, error)            { return l.desc.Digest, nil }
func (l *storedLayer) Size() (int64, error)                { return l.desc.Size, nil }
func (l *storedLayer) MediaType() (types.MediaType, error) { return l.desc.MediaType, nil }
func (l *storedLayer) Compressed() (io.ReadCloser, error)  { return os.Open(l.file) }
