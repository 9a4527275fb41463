package s3store

import (
	"slices"
	"strings"
	"testing"
	"time"

	"kernelgw/contents"
)

func TestKeysOfPaths(t *testing.T) {
	long := strings.Repeat("n", 250)
	for path, want := range map[string]string{
		"a":            "a",
		"a/b.txt":      "a!/b.txt",
		"a!/b":         "a!21!/b",
		"ünï code/ +&": "ünï code!/ +&",
		"100%/%2e":     "100%!/%2e",
		"a\ufffeb":     "a!EF!BF!BEb",
		long:           long[:240] + "!+/" + long[240:],
	} {
		if got := fileKey(path); got != want {
			t.Errorf("%q has the key %q, want %q", path, got, want)
		}
		if got, directory, ok := parseKey(want); got != path || directory || !ok {
			t.Errorf("key %q is %q, %t, %t", want, got, directory, ok)
		}
		if got, directory, ok := parseKey(markerKey(path)); got != path || !directory || !ok {
			t.Errorf("marker %q is %q, %t, %t", markerKey(path), got, directory, ok)
		}
	}
}

// Objects that others have put into the bucket are not taken for files.
func TestForeignKeysAreRefused(t *testing.T) {
	for _, key := range []string{
		"", "/", "a/b", "a/", "a!/", "a!", "!d", "a!/!d", "a!2", "a!zz", "a!2fb", "a!2Fb", "a!41", "a!/../b", "..!/a", "a!//b", "a!+/b", "a!00",
	} {
		if path, directory, ok := parseKey(key); ok {
			t.Errorf("key %q is taken for %q (directory: %t)", key, path, directory)
		}
	}
}

func FuzzParseKey(f *testing.F) {
	for _, key := range []string{"a!/b!d", "!21", "a!+/b", "x", "a!/b!/c!E2!80"} {
		f.Add(key)
	}
	f.Fuzz(func(t *testing.T, key string) {
		path, directory, ok := parseKey(key)
		if !ok {
			return
		}
		if clean, err := contents.Clean(path); err != nil || clean != path {
			t.Errorf("key %q has the path %q, which is not clean", key, path)
		}
		again := fileKey(path)
		if directory {
			again = markerKey(path)
		}
		if again != key {
			t.Errorf("key %q has the path %q, whose key is %q", key, path, again)
		}
	})
}

func FuzzPathsAndDocuments(f *testing.F) {
	for _, name := range []string{"a", "a/b", "!", "a!d", "Ünï\u202e/ x", strings.Repeat("ü", 200), "!b", "!+/", "@jupyterlab/apputils-extension:themes"} {
		f.Add(name)
	}
	f.Fuzz(func(t *testing.T, name string) {
		if clean, err := contents.Clean(name); err == nil && clean != "" {
			if path, directory, ok := parseKey(fileKey(clean)); path != clean || directory || !ok {
				t.Errorf("%q comes back as %q, %t, %t", clean, path, directory, ok)
			}
			for part := range strings.SplitSeq(markerKey(clean), "/") {
				if len(part) > 255 {
					t.Errorf("a part of the key of %q has %d bytes", clean, len(part))
				}
			}
		}
		if name == "" || len(name) > maxDocumentName {
			return
		}
		key := documentKey(name)
		if got, ok := parseDocumentKey(key); got != name || !ok {
			t.Errorf("document %q comes back as %q, %t", name, got, ok)
		}
		if len(key) > 800 {
			t.Errorf("the key of document %q has %d bytes", name, len(key))
		}
	})
}

// Workspaces whose names look like paths stay apart, and away from what the store
// keeps for itself.
func TestWorkspacesStayApart(t *testing.T) {
	s := &Store{}
	seen := map[string]string{}
	for _, name := range []string{"a", "a/b", "../a", "..", ".", "a!", "A", "a b", "ä", "!documents", "a!/f"} {
		base := s.base(name)
		if other, ok := seen[base]; ok {
			t.Errorf("%q and %q share %q", name, other, base)
		}
		seen[base] = name
		if strings.Count(base, "/") != 2 || strings.HasPrefix(base, documentsPart) || strings.Contains(base, "/.") {
			t.Errorf("%q is kept at %q", name, base)
		}
		if got, ok := unescapeWord(escapeWord(name)); got != name || !ok {
			t.Errorf("%q comes back as %q", name, got)
		}
	}
}

func TestMetadataComesBack(t *testing.T) {
	m := metadata{
		sha256: strings.Repeat("a", 64), created: time.Unix(1700000000, 0).UTC(), author: "José Müller <j@example.org>\n", source: "sync",
		executable: true, nonce: "n", previous: link{Path: "ä/b c", Version: "v.1+/=", At: time.Unix(1700000001, 0).UTC()}, move: "id.v.1+",
	}
	encoded := m.encode()
	size := 0
	for name, value := range encoded {
		size += len(name) + len(value)
		if strings.ContainsFunc(value, func(r rune) bool { return r <= ' ' || r > '~' }) {
			t.Errorf("%s is %q, which does not travel in a header", name, value)
		}
	}
	if got := decodeMetadata(encoded); got != m {
		t.Errorf("got %+v, want %+v", got, m)
	}
	m.author, m.previous.Path = strings.Repeat("ü", 1000), strings.Repeat("p", contents.MaxPathBytes)
	size = 0
	for name, value := range m.encode() {
		size += len(name) + len(value)
	}
	if size > 2048 {
		t.Errorf("metadata of %d bytes: S3 takes 2048", size)
	}
}

func FuzzDecodeMetadata(f *testing.F) {
	f.Add("a", "1", "%zz", "!!", "-9223372036854775808")
	f.Fuzz(func(t *testing.T, sha, created, author, previous, at string) {
		m := decodeMetadata(map[string]string{
			"kgw-sha256": sha, "kgw-created": created, "kgw-author": author, "kgw-previous": previous, "kgw-previous-at": at,
		})
		if p := m.previous.Path; p != "" {
			if clean, err := contents.Clean(p); err != nil || clean != p {
				t.Errorf("the previous path %q is not clean", p)
			}
		}
	})
}

func FuzzParseOrder(f *testing.F) {
	f.Add([]byte(`<ListVersionsResult><Version><Key>a</Key><VersionId>1</VersionId></Version><DeleteMarker><Key>a</Key><VersionId>2</VersionId></DeleteMarker></ListVersionsResult>`))
	f.Add([]byte(`<a><Version>`))
	f.Fuzz(func(t *testing.T, body []byte) {
		order, err := parseOrder(body)
		if err == nil && len(order) > len(body)/len("<Version/>") {
			t.Errorf("%d versions in %d bytes", len(order), len(body))
		}
	})
}

func TestOrderOfAnAnswer(t *testing.T) {
	order, err := parseOrder([]byte(`<ListVersionsResult><DeleteMarker><Key>a</Key><VersionId>2</VersionId></DeleteMarker><Version><Key>a</Key><VersionId>1</VersionId></Version><Version><VersionId>3</VersionId><Key>b</Key></Version></ListVersionsResult>`))
	if want := []identifier{{"a", "2"}, {"a", "1"}, {"b", "3"}}; err != nil || !slices.Equal(order, want) {
		t.Errorf("order %v, %v: want %v", order, err, want)
	}
}

// What is above is kept or not, one hour, day and month after another.
func TestRetention(t *testing.T) {
	at := time.Date(2026, 6, 30, 12, 0, 0, 0, time.UTC)
	version := func(age time.Duration) seenVersion {
		return seenVersion{key: "k", object: object{version: age.String(), modified: at.Add(-age)}}
	}
	deletion := func(age time.Duration) seenVersion { v := version(age); v.deleted = true; return v }
	const day = 24 * time.Hour
	for name, c := range map[string]struct {
		all  []seenVersion // newest first
		gone []string
	}{
		"the latest is kept for ever":           {[]seenVersion{version(900 * day)}, nil},
		"all of a day are kept":                 {[]seenVersion{version(0), version(time.Minute), version(2 * time.Minute)}, nil},
		"one of an hour is kept of a week":      {[]seenVersion{version(0), version(26*time.Hour + 10*time.Minute), version(26*time.Hour + 20*time.Minute), version(27*time.Hour + 10*time.Minute)}, []string{"26h20m0s"}},
		"one of a day is kept of a month":       {[]seenVersion{version(0), version(10*day + time.Hour), version(10*day + 2*time.Hour), version(11 * day)}, []string{"242h0m0s"}},
		"none is kept that is older":            {[]seenVersion{version(0), version(31 * day)}, []string{"744h0m0s"}},
		"a deletion of what is there is kept":   {[]seenVersion{deletion(0), version(time.Hour)}, nil},
		"a deletion of nothing goes":            {[]seenVersion{version(0), deletion(time.Hour)}, []string{"1h0m0s"}},
		"the last deletion of nothing goes":     {[]seenVersion{deletion(time.Hour)}, []string{"1h0m0s"}},
		"the version below a deletion may go":   {[]seenVersion{deletion(0), version(31 * day)}, []string{"744h0m0s"}},
		"deletions between versions are kept":   {[]seenVersion{version(0), deletion(time.Hour), version(2 * time.Hour)}, nil},
		"the newest of an hour is the one kept": {[]seenVersion{version(48 * time.Hour), version(48*time.Hour + time.Minute)}, nil},
	} {
		var gone []string
		for _, c := range (Retention{}).withDefaults().outdated(c.all, at) {
			gone = append(gone, c.version)
		}
		if !slices.Equal(gone, c.gone) {
			t.Errorf("%s: %q go, want %q", name, gone, c.gone)
		}
	}
}
