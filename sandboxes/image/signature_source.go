package image

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
)

// registrySource reads signatures from the repository of an image.
type registrySource struct {
	repo    name.Repository
	options []remote.Option
}

func (r registrySource) referrers(digest v1.Hash) ([]v1.Descriptor, error) {
	index, err := remote.Referrers(r.repo.Digest(digest.String()), r.options...)
	if err != nil {
		return nil, err
	}
	m, err := index.IndexManifest()
	if err != nil {
		return nil, err
	}
	return m.Manifests, nil
}

func (r registrySource) manifest(digest v1.Hash) (*v1.Manifest, error) {
	desc, err := remote.Get(r.repo.Digest(digest.String()), r.options...)
	if err != nil {
		return nil, err
	}
	return v1.ParseManifest(bytes.NewReader(desc.Manifest))
}

func (r registrySource) tagged(tag string) (*v1.Manifest, error) {
	desc, err := remote.Get(r.repo.Tag(tag), r.options...)
	if missing := new(transport.Error); errors.As(err, &missing) && missing.StatusCode == http.StatusNotFound {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return v1.ParseManifest(bytes.NewReader(desc.Manifest))
}

func (r registrySource) blob(desc v1.Descriptor) (io.ReadCloser, error) {
	layer, err := remote.Layer(r.repo.Digest(desc.Digest.String()), r.options...)
	if err != nil {
		return nil, err
	}
	return layer.Compressed()
}

// cosignSaved marks signatures in a layout that "cosign save" wrote.
const cosignSaved = "dev.cosignproject.cosign/sigs"

// layoutSource reads signatures from an OCI image layout: as referrers beside
// the image, or as "cosign save" puts them there.
type layoutSource struct{ path layout.Path }

func (l layoutSource) index() (*v1.IndexManifest, error) {
	index, err := l.path.ImageIndex()
	if err != nil {
		return nil, err
	}
	return index.IndexManifest()
}

func (l layoutSource) referrers(digest v1.Hash) ([]v1.Descriptor, error) {
	index, err := l.index()
	if err != nil {
		return nil, err
	}
	var found []v1.Descriptor
	for _, desc := range index.Manifests {
		if !desc.MediaType.IsImage() || desc.Digest == digest {
			continue
		}
		m, err := l.manifest(desc.Digest)
		if err != nil || m.Subject == nil || m.Subject.Digest != digest {
			continue
		}
		if desc.ArtifactType = m.ArtifactType; desc.ArtifactType == "" {
			desc.ArtifactType = string(m.Config.MediaType) // OCI image spec, "Guidelines for Artifact Usage"
		}
		found = append(found, desc)
	}
	return found, nil
}

func (l layoutSource) manifest(digest v1.Hash) (*v1.Manifest, error) {
	r, err := l.path.Blob(digest)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	raw, err := readSmall(r)
	if err != nil {
		return nil, fmt.Errorf("manifest %s: %w", digest, err)
	}
	return v1.ParseManifest(bytes.NewReader(raw))
}

func (l layoutSource) tagged(tag string) (*v1.Manifest, error) {
	index, err := l.index()
	if err != nil {
		return nil, err
	}
	for _, desc := range index.Manifests {
		named := desc.Annotations[refAnnotation]
		if named == tag || strings.HasSuffix(named, ":"+tag) || desc.Annotations["kind"] == cosignSaved {
			return l.manifest(desc.Digest)
		}
	}
	return nil, nil
}

func (l layoutSource) blob(desc v1.Descriptor) (io.ReadCloser, error) {
	return l.path.Blob(desc.Digest)
}
