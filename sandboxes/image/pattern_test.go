package image

import (
	"strings"
	"testing"
)

const (
	digestA = "sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
	digestB = "sha256:bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb"
)

func TestPatternsMatchWhatTheySay(t *testing.T) {
	for _, tc := range []struct {
		pattern, origin, digest string
		want                    bool
	}{
		{"default", "default", digestA, true},
		{"default", "default2", digestA, false},
		{"def*", "default", digestA, true},
		{"default", "registry.example/default:1", digestA, false},
		{"*", "registry.example/x:1", digestA, false},
		{digestA, "anything/at/all:1", digestA, true},
		{digestA, "default", digestA, true},
		{digestA, "default", digestB, false},
		{digestA, "default", "", true}, // may turn out to be it
		{"registry.example/team/x", "registry.example/team/x:1", digestA, true},
		{"registry.example/team/x", "registry.example/team/x@" + digestA, digestA, true},
		{"registry.example/team/x", "registry.example/team/xy:1", digestA, false},
		{"registry.example/team/x", "registry.example.evil/team/x:1", digestA, false},
		{"registry.example/team/x", "evil.example/registry.example/team/x:1", digestA, false},
		{"registry.example/team/x:1", "registry.example/team/x:1", digestA, true},
		{"registry.example/team/x:1", "registry.example/team/x:2", digestA, false},
		{"registry.example/team/x:1", "registry.example/team/x@" + digestA, digestA, false},
		{"registry.example/team/x:2026-*", "registry.example/team/x:2026-11", digestA, true},
		{"registry.example/team/x@" + digestA, "registry.example/team/x:1", digestA, true},
		{"registry.example/team/x@" + digestA, "registry.example/team/x:1", digestB, false},
		{"registry.example/team/x@" + digestA, "registry.example/team/y:1", digestA, false},
		{"registry.example/team/*", "registry.example/team/x:1", digestA, true},
		{"registry.example/team/*", "registry.example/team/x/y:1", digestA, false},
		{"registry.example/team/**", "registry.example/team/x/y:1", digestA, true},
		{"registry.example/team/**", "registry.example/team:1", digestA, false},
		{"registry.example/team/**", "registry.example/teamster/x:1", digestA, false},
		{"*.example/team/x", "registry.example/team/x:1", digestA, true},
		{"localhost:5000/x", "localhost:5000/x:1", digestA, true},
		{"localhost:5000/x", "localhost:5001/x:1", digestA, false},
		{"docker.io/library/python", "index.docker.io/library/python:3.12", digestA, true},
	} {
		p, err := ParsePattern(tc.pattern)
		if err != nil {
			t.Errorf("%q: %v", tc.pattern, err)
			continue
		}
		if got := p.matches(tc.origin, tc.digest); got != tc.want {
			t.Errorf("%q matches %s %.9s = %v", tc.pattern, tc.origin, tc.digest, got)
		}
	}
}

func TestUnusablePatternsSayWhy(t *testing.T) {
	for pattern, want := range map[string]string{
		"":                               "no name",
		"a b":                            "spaces",
		"python:3.12":                    "HOST/REPOSITORY:TAG",
		"library/python":                 "docker.io/",
		"registry.example//x":            "empty",
		"registry.example/x:":            "empty",
		"registry.example/**/x":          "only at the end",
		"registry.example/[":             "bracket",
		"registry.example/x@sha256:abcd": "64 hexadecimal digits",
		"x@" + strings.ToUpper(digestA):  "64 hexadecimal digits",
		"sha256:abcd":                    "a digest",
	} {
		if _, err := ParsePattern(pattern); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("ParsePattern(%q) = %v, want %q", pattern, err, want)
		}
	}
}

// A pattern of registries never names an image of this host, nor the other way
// round, whatever either is called.
func FuzzPattern(f *testing.F) {
	for _, seed := range []string{"default", "registry.example/team/**", "a.b/c:d@" + digestA, "*", "[a-z]*/x", digestA} {
		f.Add(seed, "registry.example/team/x:1")
	}
	f.Fuzz(func(t *testing.T, text, origin string) {
		p, err := ParsePattern(text)
		if err != nil || p.text != text {
			return
		}
		if p.name == "" && p.repo == nil {
			return // a digest
		}
		if p.matches(localOrigin(origin), digestA) && p.repo != nil {
			t.Errorf("%q, of registries, names the local image %q", text, localOrigin(origin))
		}
		if strings.Contains(strings.SplitN(origin, "@", 2)[0], "/") && p.matches(origin, digestA) && p.repo == nil {
			t.Errorf("%q, of this host, names %q", text, origin)
		}
	})
}
