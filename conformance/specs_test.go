package conformance

import (
	"bytes"
	"strings"
	"testing"

	"kernelgw/conformance/probe"
)

var specChecks = []check{
	{name: "KernelspecsHaveAllThatClientsNeed", run: kernelspecsAreComplete},
	{name: "KernelspecByName", run: kernelspecByName},
	{name: "KernelspecLogoByGetAndHead", run: kernelspecLogo},
	{name: "KernelspecResourceThatIsMissingIs404", run: kernelspecResourceMissing},
	{name: "KernelspecResourceCannotEscape", run: kernelspecResourceCannotEscape},
	{
		name: "KernelspecResourceWithNULIs404", run: kernelspecResourceNUL,
		extension: &extension{because: "it answers 500", fails: "answered 500"},
	},
}

// specs is the answer of /api/kernelspecs.
type specs struct {
	Default     string `json:"default"`
	Kernelspecs map[string]struct {
		Name string `json:"name"`
		Spec struct {
			Argv        []string          `json:"argv"`
			DisplayName string            `json:"display_name"`
			Language    string            `json:"language"`
			Env         map[string]string `json:"env"`
			Interrupt   string            `json:"interrupt_mode"`
			Metadata    map[string]any    `json:"metadata"`
		} `json:"spec"`
		Resources map[string]string `json:"resources"`
	} `json:"kernelspecs"`
}

func kernelspecsAreComplete(t testing.TB, s *target) {
	var all specs
	s.Do(t, "GET", "api/kernelspecs", nil).Want(t, 200).Decode(t, &all)
	if _, ok := all.Kernelspecs[all.Default]; !ok {
		t.Fatalf("default %q is none of the specs", all.Default)
	}
	if _, ok := all.Kernelspecs["python3"]; !ok {
		t.Error("there is no python3")
	}
	for name, k := range all.Kernelspecs {
		if k.Name != name || len(k.Spec.Argv) == 0 || k.Spec.DisplayName == "" || k.Spec.Language == "" || k.Resources == nil {
			t.Errorf("JS clients drop spec %s: %+v", name, k)
		}
		if k.Spec.Interrupt != "signal" && k.Spec.Interrupt != "message" {
			t.Errorf("interrupt_mode of %s is %q", name, k.Spec.Interrupt)
		}
		for file, at := range k.Resources {
			if !strings.Contains(at, "/kernelspecs/") {
				t.Errorf("resource %s of %s is at %q, which gateway clients cannot rewrite", file, name, at)
			}
		}
	}
}

func kernelspecByName(t testing.TB, s *target) {
	one := s.Do(t, "GET", "api/kernelspecs/python3", nil).Want(t, 200).Object(t)
	if one["name"] != "python3" {
		t.Errorf("name is %v", one["name"])
	}
	s.Do(t, "GET", "api/kernelspecs/no-such-kernel", nil).Want(t, 404)
}

func kernelspecLogo(t testing.TB, s *target) {
	var all specs
	s.Do(t, "GET", "api/kernelspecs", nil).Want(t, 200).Decode(t, &all)
	logo := all.Kernelspecs["python3"].Resources["logo-64x64"]
	if !strings.HasPrefix(logo, "/") {
		t.Fatalf("logo-64x64 is at %q, want a path", logo)
	}
	got := s.Do(t, "GET", logo, nil).Want(t, 200)
	if !bytes.HasPrefix(got.Body, []byte("\x89PNG")) || got.Header.Get("Content-Type") != "image/png" {
		t.Errorf("%s is %s, begins with %q", logo, got.Header.Get("Content-Type"), got.Body[:min(8, len(got.Body))])
	}
	if cache := got.Header.Get("Cache-Control"); !strings.Contains(cache, "max-age=2592000") {
		t.Errorf("Cache-Control of a logo is %q", cache)
	}
	if head := s.Do(t, "HEAD", logo, nil).Want(t, 200); len(head.Body) != 0 {
		t.Errorf("HEAD sent %d bytes", len(head.Body))
	}
}

func kernelspecResourceMissing(t testing.TB, s *target) {
	s.Do(t, "GET", "kernelspecs/python3/no-such-file.png", nil).Want(t, 404)
	s.Do(t, "GET", "kernelspecs/no-such-kernel/logo-64x64.png", nil).Want(t, 404)
}

func kernelspecResourceCannotEscape(t testing.TB, s *target) {
	for _, file := range []string{"..%2f..%2fetc%2fpasswd", "%2e%2e/%2e%2e/%2e%2e/%2e%2e/etc/passwd", "%2fetc%2fpasswd"} {
		answer := s.Do(t, "GET", "kernelspecs/python3/"+file, nil)
		if answer.Status < 400 || answer.Status >= 500 {
			t.Errorf("kernelspecs/python3/%s answered %d", file, answer.Status)
		}
	}
	s.Do(t, "GET", "kernelspecs/python3/logo-64x64.png", nil, probe.Anonymous).Want(t, 302, 403)
}

func kernelspecResourceNUL(t testing.TB, s *target) {
	s.Do(t, "GET", "kernelspecs/python3/a%00b", nil).Want(t, 400, 404)
}
