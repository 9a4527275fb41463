package contents_test

import (
	"errors"
	"strings"
	"testing"
	"unicode/utf8"

	"kernelgw/contents"
)

func TestCleanTakesWhatPeopleCallFiles(t *testing.T) {
	for path, want := range map[string]string{
		"": "", "/": "", "a": "a", "/a": "a", "a/": "a", "/a/b/": "a/b", "a b/ü": "a b/ü", "%2e%2e/%2f": "%2e%2e/%2f", "...": "...", "a..": "a..",
		" ": " ", "a.": "a.", ".hidden/x": ".hidden/x", "\u2024\u2024/x": "\u2024\u2024/x", "<script>": "<script>", "\"'": "\"'",
		strings.Repeat("n", 255): strings.Repeat("n", 255),
	} {
		if got, err := contents.Clean(path); err != nil || got != want {
			t.Errorf("Clean(%q) is %q, %v, want %q", path, got, err, want)
		}
	}
}

func TestCleanRefusesAttacks(t *testing.T) {
	for path, absent := range map[string]bool{
		"..": true, "../x": true, "a/../b": true, "a/..": true, ".": true, "a/./b": true, "a//b": true, "//a": true, "a//": true, "//": true,
		"a\x00b": true, "\x00": true, "../" + strings.Repeat("x/", 10): true,
		`a\b`: false, `..\..\etc`: false, "a\nb": false, "a\x7f": false, "\u0085": false, "\xff": false, "a/\xc3(": false,
		strings.Repeat("n", 256): false, strings.Repeat("n/", 2048): false, strings.Repeat("n", 4096): false,
	} {
		got, err := contents.Clean(path)
		if got != "" || !errors.Is(err, contents.ErrInvalid) || errors.Is(err, contents.ErrNotFound) != absent {
			t.Errorf("Clean(%q) is %q, %v; is ErrNotFound: %v, want %v", path, got, err, errors.Is(err, contents.ErrNotFound), absent)
		}
	}
}

func TestHidden(t *testing.T) {
	for path, want := range map[string]bool{"": false, "a": false, ".a": true, "a/.b": true, "a/.b/c": true, "a.b/c.d": false, "..a": true} {
		if got := contents.Hidden(path); got != want {
			t.Errorf("Hidden(%q) is %v", path, got)
		}
	}
}

func FuzzClean(f *testing.F) {
	for _, seed := range []string{"a/b", "../a", "/a/", "a//b", "a\\b", "%2e%2e/x", "\xff", "日本"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, path string) {
		clean, err := contents.Clean(path)
		if err != nil {
			if !errors.Is(err, contents.ErrInvalid) {
				t.Fatalf("%q: error %v is not ErrInvalid", path, err)
			}
			return
		}
		again, err := contents.Clean(clean)
		if err != nil || again != clean {
			t.Fatalf("%q: clean path %q is not its own: %q, %v", path, clean, again, err)
		}
		if !utf8.ValidString(clean) || len(clean) > contents.MaxPathBytes || strings.ContainsAny(clean, "\x00\\\n") || strings.HasPrefix(clean, "/") {
			t.Fatalf("%q: %q is not clean", path, clean)
		}
		for segment := range strings.SplitSeq(clean, "/") {
			if clean != "" && (segment == "" || segment == "." || segment == ".." || len(segment) > contents.MaxNameBytes) {
				t.Fatalf("%q: %q has the segment %q", path, clean, segment)
			}
		}
	})
}
