package image

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"

	cdx "github.com/CycloneDX/cyclonedx-go"
	"github.com/google/uuid"
)

// sbomType is the artifact type under which an image's SBOM is kept.
const sbomType = "application/vnd.cyclonedx+json"

// SBOM returns what an image is made of, as CycloneDX JSON, as it was written
// down when the image was built. The error wraps sandboxes.ErrNotFound when
// there is no such image, or when it was not built here.
func (s *Store) SBOM(ctx context.Context, ref string) ([]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	desc, err := s.find(cmp.Or(ref, DefaultName))
	if err != nil {
		return nil, err
	}
	raw, err := s.artifact(desc.Digest.String(), sbomType)
	if err != nil {
		return nil, fmt.Errorf("cannot print the SBOM of %q, which only an image that was built here has: %w", ref, err)
	}
	return raw, nil
}

// madeOf is what went into an image.
type madeOf struct {
	digest string // of the image
	inputs string // key of the build
	arch   string
	when   time.Time
	debs   map[string]string // file names of Debian packages, with their SHA-256
	wheels map[string]string // of Python wheels
}

// sbom writes it down. The same content gives the same bytes.
func (m madeOf) sbom() ([]byte, error) {
	var parts []cdx.Component
	for file, sum := range m.debs {
		part, err := debComponent(file, sum)
		if err != nil {
			return nil, err
		}
		parts = append(parts, part)
	}
	for file, sum := range m.wheels {
		part, err := wheelComponent(file, sum)
		if err != nil {
			return nil, err
		}
		parts = append(parts, part)
	}
	slices.SortFunc(parts, func(a, b cdx.Component) int { return strings.Compare(a.BOMRef, b.BOMRef) })

	self := "pkg:oci/kernelgw-default@" + url.QueryEscape(m.digest) + "?arch=" + m.arch
	refs := make([]string, len(parts))
	for i, part := range parts {
		refs[i] = part.BOMRef
	}
	bom := cdx.NewBOM()
	bom.SerialNumber = uuid.NewSHA1(uuid.NameSpaceURL, []byte(self)).URN()
	bom.Metadata = &cdx.Metadata{
		Timestamp: m.when.Format(time.RFC3339),
		Tools:     &cdx.ToolsChoice{Components: &[]cdx.Component{{Type: cdx.ComponentTypeApplication, Name: "kernelgw image build", Version: "recipe " + recipe}}},
		Component: &cdx.Component{
			BOMRef: self, Type: cdx.ComponentTypeContainer, Name: "kernelgw default", Version: m.digest, PackageURL: self,
			Properties: &[]cdx.Property{{Name: "kernelgw:inputs", Value: m.inputs}},
		},
	}
	bom.Components = &parts
	bom.Dependencies = &[]cdx.Dependency{{Ref: self, Dependencies: &refs}}
	var out bytes.Buffer
	if err := cdx.NewBOMEncoder(&out, cdx.BOMFileFormatJSON).SetPretty(true).EncodeVersion(bom, cdx.SpecVersion1_6); err != nil {
		return nil, fmt.Errorf("cannot write the SBOM: %w", err)
	}
	return out.Bytes(), nil
}

// debComponent describes a package by apt's name of its file,
// NAME_VERSION_ARCH.deb with the colon of an epoch escaped.
func debComponent(file, sum string) (cdx.Component, error) {
	parts := strings.Split(strings.TrimSuffix(file, ".deb"), "_")
	if len(parts) != 3 {
		return cdx.Component{}, fmt.Errorf("cannot describe package %s: its name is not NAME_VERSION_ARCH.deb", file)
	}
	version, err := url.PathUnescape(parts[1])
	if err != nil {
		return cdx.Component{}, fmt.Errorf("cannot describe package %s: %w", file, err)
	}
	purl := fmt.Sprintf("pkg:deb/debian/%s@%s?arch=%s&distro=%s", url.QueryEscape(parts[0]), url.QueryEscape(version), parts[2], suite)
	return component(parts[0], version, purl, sum), nil
}

// wheelComponent describes a wheel by its file name (PyPA's "Binary
// distribution format").
func wheelComponent(file, sum string) (cdx.Component, error) {
	parts := strings.Split(strings.TrimSuffix(file, ".whl"), "-")
	if len(parts) < 5 {
		return cdx.Component{}, fmt.Errorf("cannot describe wheel %s: its name is not NAME-VERSION-PYTHON-ABI-PLATFORM.whl", file)
	}
	name := strings.ToLower(strings.ReplaceAll(parts[0], "_", "-"))
	purl := fmt.Sprintf("pkg:pypi/%s@%s?file_name=%s", url.QueryEscape(name), url.QueryEscape(parts[1]), url.QueryEscape(file))
	return component(name, parts[1], purl, sum), nil
}

func component(name, version, purl, sum string) cdx.Component {
	return cdx.Component{
		BOMRef: purl, Type: cdx.ComponentTypeLibrary, Name: name, Version: version, PackageURL: purl,
		Hashes: &[]cdx.Hash{{Algorithm: cdx.HashAlgoSHA256, Value: sum}},
	}
}
