package contentstest

import (
	"bytes"
	"errors"
	"io/fs"
	"slices"
	"strings"
	"testing"
	"time"

	"kernelgw/contents"
)

// RunDocuments tests a store of documents against the sentences of
// contents.Documents.
func RunDocuments(t *testing.T, factory func(t *testing.T) contents.Documents) {
	ctx := t.Context()
	get := func(t *testing.T, d contents.Documents, owner, name string) []byte {
		t.Helper()
		body, modified, err := d.GetDocument(ctx, owner, name)
		if err != nil {
			t.Fatalf("get %q of %q: %v", name, owner, err)
		}
		if age := time.Since(modified); age < -2*time.Second || age > time.Minute {
			t.Errorf("modified at %v, which is not now", modified)
		}
		return body
	}
	put := func(t *testing.T, d contents.Documents, owner, name, body string) {
		t.Helper()
		if err := d.PutDocument(ctx, owner, name, []byte(body)); err != nil {
			t.Fatalf("put %q of %q: %v", name, owner, err)
		}
	}
	names := func(t *testing.T, d contents.Documents, owner, prefix string) []string {
		t.Helper()
		list, err := d.ListDocuments(ctx, owner, prefix)
		if err != nil {
			t.Fatalf("list %q of %q: %v", prefix, owner, err)
		}
		return list
	}
	t.Run("what was put is read back, and replaced whole", func(t *testing.T) {
		d := factory(t)
		for _, body := range []string{"first and longer", "second", ""} {
			put(t, d, "ann", "settings/a", body)
			if got := get(t, d, "ann", "settings/a"); !bytes.Equal(got, []byte(body)) {
				t.Errorf("got %q, want %q", got, body)
			}
		}
	})
	t.Run("what is not there does not exist", func(t *testing.T) {
		d := factory(t)
		put(t, d, "ann", "a", "x")
		if err := d.DeleteDocument(ctx, "ann", "a"); err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{"a", "never"} {
			if _, _, err := d.GetDocument(ctx, "ann", name); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("get %s: got error %v, want fs.ErrNotExist", name, err)
			}
			if err := d.DeleteDocument(ctx, "ann", name); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("delete %s: got error %v, want fs.ErrNotExist", name, err)
			}
		}
		if got := names(t, d, "ann", ""); len(got) != 0 {
			t.Errorf("listed %v", got)
		}
	})
	t.Run("names are listed by prefix, sorted", func(t *testing.T) {
		d := factory(t)
		for _, name := range []string{"b/2", "a/2", "a/1", "ab", "a"} {
			put(t, d, "ann", name, "x")
		}
		for prefix, want := range map[string][]string{"": {"a", "a/1", "a/2", "ab", "b/2"}, "a/": {"a/1", "a/2"}, "a": {"a", "a/1", "a/2", "ab"}, "c": nil} {
			if got := names(t, d, "ann", prefix); !slices.Equal(got, want) {
				t.Errorf("prefix %q: got %v, want %v", prefix, got, want)
			}
		}
	})
	t.Run("owners do not see each other, however they are called", func(t *testing.T) {
		d := factory(t)
		owners := []string{"ann", "ann/b", "an", "../ann", "Ann", "https://issuer/x|ann", ""}
		for _, owner := range owners {
			put(t, d, owner, "b/c", owner)
			put(t, d, owner, "c", owner)
		}
		for _, owner := range owners {
			if got := string(get(t, d, owner, "b/c")); got != owner {
				t.Errorf("%q reads the document of %q", owner, got)
			}
			if got := names(t, d, owner, ""); !slices.Equal(got, []string{"b/c", "c"}) {
				t.Errorf("%q lists %v", owner, got)
			}
		}
	})
	t.Run("any name up to 512 bytes", func(t *testing.T) {
		d := factory(t)
		all := []string{
			"..", ".", "/", "a//b", "/a", "a/", "../../x", "a\\b", "a\x00b", "a\nb", "%2e", "日本語", "@jupyterlab/apputils-extension:themes",
			strings.Repeat("n", 512), strings.Repeat("é", 256), "\xff\xfe", "A", "a?b#c",
		}
		for _, name := range all {
			put(t, d, "ann", name, name)
		}
		for _, name := range all {
			if got := string(get(t, d, "ann", name)); got != name {
				t.Errorf("%q holds what was put to %q", name, got)
			}
		}
		want := slices.Sorted(slices.Values(all))
		if got := names(t, d, "ann", ""); !slices.Equal(got, want) {
			t.Errorf("listed %q, want %q", got, want)
		}
	})
}
