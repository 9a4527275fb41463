package image

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"kernelgw/sandboxes"
)

// Artifacts are OCI manifests with a subject: what belongs to an image and is
// not of it, so that the image's digest stays. In the store's index they have no
// name, and this annotation instead.
const subjectAnnotation = "kernelgw.subject"

const emptyConfig = "application/vnd.oci.empty.v1+json"

func isArtifact(desc v1.Descriptor) bool { return desc.Annotations[subjectAnnotation] != "" }

// dropOrphans takes the artifacts out of an index whose image is not in it.
func dropOrphans(index *v1.IndexManifest) {
	named := make(map[string]bool)
	for _, desc := range index.Manifests {
		named[desc.Digest.String()] = true
	}
	index.Manifests = slices.DeleteFunc(index.Manifests, func(d v1.Descriptor) bool {
		return isArtifact(d) && !named[d.Annotations[subjectAnnotation]]
	})
}

// artifact returns the content of an image's artifact of that type. The error
// wraps sandboxes.ErrNotFound when there is none.
func (s *Store) artifact(subject, artifactType string) ([]byte, error) {
	index, err := s.readIndex()
	if err != nil {
		return nil, err
	}
	for _, desc := range index.Manifests {
		if desc.Annotations[subjectAnnotation] != subject || desc.ArtifactType != artifactType {
			continue
		}
		raw, err := s.readBlob(desc.Digest)
		if err != nil {
			return nil, err
		}
		var m v1.Manifest
		if err := json.Unmarshal(raw, &m); err != nil {
			return nil, err
		}
		if len(m.Layers) != 1 {
			return nil, fmt.Errorf("artifact %s of image %s has %d parts, not one", desc.Digest, subject, len(m.Layers))
		}
		return s.readBlob(m.Layers[0].Digest)
	}
	return nil, fmt.Errorf("image %s has no %s: %w", subject, artifactType, sandboxes.ErrNotFound)
}

// putArtifact gives an image an artifact, in place of one of the same type.
func (s *Store) putArtifact(ctx context.Context, subject, artifactType string, content []byte) error {
	unlock, err := s.lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	image, err := s.find(subject)
	if err != nil {
		return err
	}
	part := func(mediaType types.MediaType, raw []byte) (v1.Descriptor, error) {
		digest, err := v1.NewHash(digestOf(raw))
		if err != nil {
			return v1.Descriptor{}, err
		}
		err = s.writeBlob(ctx, digest, func() (io.ReadCloser, error) {
			return io.NopCloser(strings.NewReader(string(raw))), nil
		})
		return v1.Descriptor{MediaType: mediaType, Digest: digest, Size: int64(len(raw))}, err
	}
	config, err := part(emptyConfig, []byte("{}"))
	if err != nil {
		return err
	}
	layer, err := part(types.MediaType(artifactType), content)
	if err != nil {
		return err
	}
	manifest, err := json.Marshal(v1.Manifest{
		SchemaVersion: 2, MediaType: types.OCIManifestSchema1, ArtifactType: artifactType,
		Config: config, Layers: []v1.Descriptor{layer},
		Subject: &v1.Descriptor{MediaType: image.MediaType, Digest: image.Digest, Size: image.Size},
	})
	if err != nil {
		return err
	}
	desc, err := part(types.OCIManifestSchema1, manifest)
	if err != nil {
		return err
	}
	desc.ArtifactType = artifactType
	desc.Annotations = map[string]string{subjectAnnotation: subject}
	index, err := s.readIndex()
	if err != nil {
		return err
	}
	index.Manifests = slices.DeleteFunc(index.Manifests, func(d v1.Descriptor) bool {
		return d.Annotations[subjectAnnotation] == subject && d.ArtifactType == artifactType
	})
	index.Manifests = append(index.Manifests, desc)
	return s.writeIndex(index)
}
