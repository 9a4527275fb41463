package image

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// Limits on what is read of the signatures of one image. Real bundles have
// some kilobytes.
const (
	maxSignatures     = 32
	maxSignatureBytes = 256 << 10
)

// Media types and annotations of signatures. The first is how bundles are
// attached as referrers (Sigstore bundle specification), the others are
// cosign's older form (cosign's SIGNATURE_SPEC.md).
const (
	bundleMediaType   = "application/vnd.dev.sigstore.bundle"
	simpleMediaType   = "application/vnd.dev.cosign.simplesigning.v1+json"
	simpleSignature   = "dev.cosignproject.cosign/signature"
	simpleCertificate = "dev.sigstore.cosign/certificate"
	simpleLogEntry    = "dev.sigstore.cosign/bundle"
)

// bundleSuffix of a file beside a local image: its sigstore bundle.
const bundleSuffix = ".sigstore.json"

// Signature is a signature as it was found. Nothing in it is believed.
type Signature struct {
	Found string `json:"found"` // where, for people
	// Bundle is a sigstore bundle in JSON. Without it, the rest is cosign's
	// older form.
	Bundle []byte `json:"bundle,omitempty"`

	Payload     []byte `json:"payload,omitempty"`     // simple signing JSON: what was signed
	Signature   string `json:"signature,omitempty"`   // of Payload, in base64
	Certificate string `json:"certificate,omitempty"` // PEM, of a keyless signature
	LogEntry    []byte `json:"log_entry,omitempty"`   // JSON, from a transparency log

	// Index is the image index that was signed, when it was not the image's own
	// manifest: it lists the images of several platforms.
	Index []byte `json:"index,omitempty"`

	unreadable error // why the rest is missing
}

// signed is the manifest that the signature must be of: that of the image, or
// the index from which the image was chosen, which has to list it.
func (s Signature) signed(manifest []byte) ([]byte, error) {
	if s.unreadable != nil {
		return nil, fmt.Errorf("it cannot be read: %w", s.unreadable)
	}
	if s.Index == nil {
		return manifest, nil
	}
	index, err := v1.ParseIndexManifest(bytes.NewReader(s.Index))
	if err != nil {
		return nil, fmt.Errorf("the index that was signed cannot be read: %w", err)
	}
	digest := digestOf(manifest)
	if !slices.ContainsFunc(index.Manifests, func(d v1.Descriptor) bool { return d.Digest.String() == digest }) {
		return nil, errors.New("it is of an index that does not list this image")
	}
	return s.Index, nil
}

func digestOf(raw []byte) string {
	sum := sha256.Sum256(raw)
	return "sha256:" + hex.EncodeToString(sum[:])
}

// source is where the parts of signatures are read: a registry, or a layout.
type source interface {
	// referrers lists what refers to a manifest.
	referrers(digest v1.Hash) ([]v1.Descriptor, error)
	// manifest returns a manifest by its digest.
	manifest(digest v1.Hash) (*v1.Manifest, error)
	// tagged returns a manifest by its tag; nil when there is none.
	tagged(tag string) (*v1.Manifest, error)
	// blob opens a blob.
	blob(desc v1.Descriptor) (io.ReadCloser, error)
}

// candidate is an image on its way into the store.
type candidate struct {
	image    v1.Image
	manifest []byte
	index    []byte // from which it was chosen; nil when from none
	source   source // of signatures; nil when there is none
	file     string // a bundle; "" when there is none
}

func newCandidate(img v1.Image, index []byte, src source) (*candidate, error) {
	manifest, err := img.RawManifest()
	if err != nil {
		return nil, err
	}
	return &candidate{image: img, manifest: manifest, index: index, source: src}, nil
}

// signatures finds the signatures of the image and of its index. One that
// cannot be read is among them, and says so: a stranger who may add signatures
// must not hide those of others.
func (c *candidate) signatures() ([]Signature, error) {
	var found []Signature
	if sig, ok := readBundleFile(c.file); ok {
		found = append(found, sig)
		if c.index != nil {
			sig.Index = c.index
			found = append(found, sig)
		}
	}
	if c.source == nil {
		return found, nil
	}
	own, err := findSignatures(c.source, digestOf(c.manifest))
	if err != nil || c.index == nil {
		return append(found, own...), err
	}
	ofIndex, err := findSignatures(c.source, digestOf(c.index))
	for i := range ofIndex {
		ofIndex[i].Index = c.index
	}
	return append(append(found, own...), ofIndex...), err
}

// readBundleFile reports false when there is no such file.
func readBundleFile(file string) (Signature, bool) {
	sig := Signature{Found: "file " + file}
	if file == "" {
		return sig, false
	}
	f, err := os.Open(file)
	if err != nil {
		sig.unreadable = err
		return sig, !errors.Is(err, os.ErrNotExist)
	}
	defer f.Close()
	sig.Bundle, sig.unreadable = readSmall(f)
	return sig, true
}

// findSignatures reads the bundles that refer to a manifest, and the signatures
// under the tag that cosign's older form gives it.
func findSignatures(src source, digest string) ([]Signature, error) {
	hash, err := v1.NewHash(digest)
	if err != nil {
		return nil, err
	}
	referrers, err := src.referrers(hash)
	if err != nil {
		return nil, err
	}
	var found []Signature
	looked := 0
	for _, desc := range referrers {
		if !mayBeBundle(desc.ArtifactType) {
			continue
		}
		sig := Signature{Found: fmt.Sprintf("referrer %s", desc.Digest)}
		if looked++; looked > maxSignatures {
			sig.unreadable = errTooMany
			return append(found, sig), nil
		}
		var isBundle bool
		isBundle, sig.Bundle, sig.unreadable = readBundle(src, desc)
		if isBundle {
			found = append(found, sig)
		}
	}
	older, err := findSimple(src, hash)
	return append(found, older...), err
}

// mayBeBundle leaves out what is surely none. Some registries list the type of
// an artifact's empty config where its own belongs.
func mayBeBundle(artifactType string) bool {
	return strings.HasPrefix(artifactType, bundleMediaType) || artifactType == "" ||
		strings.HasPrefix(artifactType, "application/vnd.oci.") || strings.HasPrefix(artifactType, "application/vnd.docker.")
}

func readBundle(src source, desc v1.Descriptor) (isBundle bool, raw []byte, err error) {
	m, err := src.manifest(desc.Digest)
	if err != nil {
		return true, nil, err // perhaps
	}
	isBundle = slices.ContainsFunc(m.Layers, func(l v1.Descriptor) bool { return strings.HasPrefix(string(l.MediaType), bundleMediaType) })
	if isBundle && len(m.Layers) != 1 {
		return true, nil, errors.New("it is not one sigstore bundle")
	}
	if isBundle {
		raw, err = readBlob(src, m.Layers[0])
	}
	return isBundle, raw, err
}

// findSimple reads cosign's older form.
func findSimple(src source, of v1.Hash) ([]Signature, error) {
	tag := of.Algorithm + "-" + of.Hex + ".sig"
	m, err := src.tagged(tag)
	if err != nil || m == nil {
		return nil, err
	}
	var found []Signature
	for i, layer := range m.Layers {
		if layer.MediaType != simpleMediaType {
			continue
		}
		sig := Signature{Found: fmt.Sprintf("tag %s, layer %d", tag, i)}
		if len(found) == maxSignatures {
			sig.unreadable = errTooMany
			return append(found, sig), nil
		}
		sig.Payload, sig.unreadable = readBlob(src, layer)
		sig.Signature, sig.Certificate = layer.Annotations[simpleSignature], layer.Annotations[simpleCertificate]
		if entry := layer.Annotations[simpleLogEntry]; entry != "" {
			sig.LogEntry = []byte(entry)
		}
		found = append(found, sig)
	}
	return found, nil
}

func readBlob(src source, desc v1.Descriptor) ([]byte, error) {
	if desc.Size > maxSignatureBytes {
		return nil, errTooLarge
	}
	r, err := src.blob(desc)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	return readSmall(r)
}

func readSmall(r io.Reader) ([]byte, error) {
	raw, err := io.ReadAll(io.LimitReader(r, maxSignatureBytes+1))
	if err != nil {
		return nil, err
	}
	if len(raw) > maxSignatureBytes {
		return nil, errTooLarge
	}
	return raw, nil
}

var (
	errTooLarge = fmt.Errorf("it is larger than %d bytes", maxSignatureBytes)
	errTooMany  = fmt.Errorf("there are more than %d, and the others were not looked at", maxSignatures)
)
