package image

import (
	"bytes"
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"time"
)

func someContent() madeOf {
	return madeOf{
		digest: digestA, inputs: "cafe", arch: "amd64", when: time.Unix(1700000000, 0).UTC(),
		debs: map[string]string{
			"python3_3.11.2-1+b1_amd64.deb":          strings.Repeat("1", 64),
			"libstdc++6_12.2.0-14+deb12u1_amd64.deb": strings.Repeat("2", 64),
			"zlib1g_1%3a1.2.13.dfsg-1_amd64.deb":     strings.Repeat("3", 64),
			"tzdata_2026a-0+deb12u1_all.deb":         strings.Repeat("4", 64),
		},
		wheels: map[string]string{
			"matplotlib_inline-0.2.1-py3-none-any.whl":          strings.Repeat("5", 64),
			"numpy-2.4.1-cp311-cp311-manylinux_2_28_x86_64.whl": strings.Repeat("6", 64),
		},
	}
}

func TestSBOMNamesEverythingThatWentIn(t *testing.T) {
	raw, err := someContent().sbom()
	if err != nil {
		t.Fatal(err)
	}
	var doc struct {
		BomFormat, SpecVersion, SerialNumber string
		Metadata                             struct {
			Timestamp string
			Component struct{ Version string }
		}
		Components []struct {
			Name, Version, Purl string
			Hashes              []struct{ Alg, Content string }
		}
		Dependencies []struct{ DependsOn []string }
	}
	if err := json.Unmarshal(raw, &doc); err != nil {
		t.Fatal(err)
	}
	if doc.BomFormat != "CycloneDX" || doc.SpecVersion != "1.6" || doc.Metadata.Component.Version != digestA || doc.Metadata.Timestamp != "2023-11-14T22:13:20Z" {
		t.Errorf("document = %+v", doc)
	}
	var purls []string
	for _, c := range doc.Components {
		purls = append(purls, c.Purl)
		if len(c.Hashes) != 1 || c.Hashes[0].Alg != "SHA-256" || len(c.Hashes[0].Content) != 64 {
			t.Errorf("%s has hashes %v", c.Name, c.Hashes)
		}
	}
	want := []string{
		"pkg:deb/debian/libstdc%2B%2B6@12.2.0-14%2Bdeb12u1?arch=amd64&distro=bookworm",
		"pkg:deb/debian/python3@3.11.2-1%2Bb1?arch=amd64&distro=bookworm",
		"pkg:deb/debian/tzdata@2026a-0%2Bdeb12u1?arch=all&distro=bookworm",
		"pkg:deb/debian/zlib1g@1%3A1.2.13.dfsg-1?arch=amd64&distro=bookworm",
		"pkg:pypi/matplotlib-inline@0.2.1?file_name=matplotlib_inline-0.2.1-py3-none-any.whl",
		"pkg:pypi/numpy@2.4.1?file_name=numpy-2.4.1-cp311-cp311-manylinux_2_28_x86_64.whl",
	}
	if !slices.Equal(purls, want) {
		t.Errorf("components:\n%s", strings.Join(purls, "\n"))
	}
	if len(doc.Dependencies) != 1 || len(doc.Dependencies[0].DependsOn) != len(want) {
		t.Errorf("dependencies = %v", doc.Dependencies)
	}
}

func TestSBOMIsTheSameForTheSameContent(t *testing.T) {
	first, err := someContent().sbom()
	if err != nil {
		t.Fatal(err)
	}
	for range 20 { // maps are walked in another order each time
		again, err := someContent().sbom()
		if err != nil || !bytes.Equal(first, again) {
			t.Fatalf("another document, %v:\n%s", err, again)
		}
	}
	other := someContent()
	other.digest = digestB
	if raw, _ := other.sbom(); bytes.Equal(raw, first) {
		t.Error("another image has the same document")
	}
}

func TestSBOMRefusesWhatItCannotDescribe(t *testing.T) {
	for file, add := range map[string]func(m madeOf, file string){
		"nothing.deb":     func(m madeOf, file string) { m.debs[file] = "" },
		"a_%zz_amd64.deb": func(m madeOf, file string) { m.debs[file] = "" },
		"a-1.whl":         func(m madeOf, file string) { m.wheels[file] = "" },
	} {
		m := someContent()
		add(m, file)
		if _, err := m.sbom(); err == nil || !strings.Contains(err.Error(), file) {
			t.Errorf("%s: %v", file, err)
		}
	}
}
