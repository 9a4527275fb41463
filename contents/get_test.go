package contents_test

import (
	"encoding/base64"
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"kernelgw/contents"
)

var modelKeys = []string{
	"content", "created", "format", "hash", "hash_algorithm", "last_modified", "mimetype", "name", "path", "size", "type", "writable",
}

func TestAModelHasAllKeysAlways(t *testing.T) {
	s := serve(t)
	s.put("d/a.txt", "x")
	s.put("n.ipynb", `{"cells":[],"metadata":{},"nbformat":4,"nbformat_minor":5}`)
	stamp := regexp.MustCompile(`^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z$`)
	for _, path := range []string{"", "?content=0", "d", "d?hash=1", "d/a.txt", "d/a.txt?content=0", "d/a.txt?content=0&hash=1", "n.ipynb", "n.ipynb?content=0"} {
		a := s.api("GET", path, nil).want(200)
		m := a.json()
		var keys []string
		for k := range m {
			keys = append(keys, k)
		}
		slices.Sort(keys)
		if !slices.Equal(keys, modelKeys) {
			t.Errorf("%s: keys %v, want %v", path, keys, modelKeys)
		}
		for _, k := range []string{"created", "last_modified"} {
			if at, _ := m[k].(string); !stamp.MatchString(at) {
				t.Errorf("%s: %s is %q", path, k, at)
			}
		}
		if _, err := time.Parse(http.TimeFormat, a.header.Get("Last-Modified")); err != nil {
			t.Errorf("%s: Last-Modified: %v", path, err)
		}
		if a.header.Get("Content-Type") != "application/json" {
			t.Errorf("%s: type %q", path, a.header.Get("Content-Type"))
		}
	}
}

func TestADirectoryListsWhatIsNotHidden(t *testing.T) {
	s := serve(t)
	for _, p := range []string{"d/b.ipynb", "d/a.py", "d/.hidden", "d/x.pyc", "d/x.pyo", "d/__pycache__/x", "d/.DS_Store", "d/a.py~", "d/sub/deep"} {
		s.put(p, "x")
	}
	a := s.api("GET", "d", nil).want(200).wantField("format", "json").wantField("type", "directory").wantField("size", nil).wantField("name", "d").wantField("hash", nil)
	var got []string
	list, _ := a.field("content").([]any)
	for _, one := range list {
		m, _ := one.(map[string]any)
		got = append(got, fmt.Sprint(m["path"], " ", m["type"], " ", m["mimetype"], " ", m["content"], " ", m["format"]))
	}
	want := []string{
		"d/a.py file text/x-python <nil> <nil>", "d/b.ipynb notebook <nil> <nil> <nil>", "d/sub directory <nil> <nil> <nil>",
	}
	if !slices.Equal(got, want) {
		t.Errorf("listed %q, want %q", got, want)
	}
	s.api("GET", "", nil).want(200).wantField("name", "").wantField("path", "")
	s.api("GET", "d?content=0", nil).want(200).wantField("content", nil).wantField("format", nil)
	s.mkdir("empty")
	s.api("GET", "empty", nil).want(200).wantField("content", []any{})
	s.api("GET", "d?content=1&hash=1&1795502306591&contentProviderId=undefined", nil).want(200).wantField("hash", nil)
}

func TestAFileIsTextOrBase64(t *testing.T) {
	s := serve(t)
	text := "quote \" backslash \\ tab \t null \x00 line\nü 日本 😀 \u2028 </script>"
	binary := "\x89PNG\xff\xfe" + strings.Repeat("\xf0", 100)
	s.put("a.txt", text)
	s.put("a.weird", text)
	s.put("b.bin", binary)
	s.put("b", binary)
	s.api("GET", "a.txt", nil).want(200).wantField("format", "text").wantField("content", text).wantField("mimetype", "text/plain").wantField("size", len(text))
	s.api("GET", "a.weird", nil).want(200).wantField("mimetype", "text/plain")
	s.api("GET", "a.weird?content=0", nil).want(200).wantField("mimetype", nil)
	s.api("GET", "a.txt?format=base64", nil).want(200).wantField("format", "base64").wantField("content", base64.StdEncoding.EncodeToString([]byte(text)))
	s.api("GET", "b", nil).want(200).wantField("format", "base64").wantField("content", base64.StdEncoding.EncodeToString([]byte(binary))).
		wantField("mimetype", "application/octet-stream")
	s.api("GET", "b.bin?format=text", nil).want(400).wantField("reason", "bad format")
	s.api("GET", "a.txt?type=strange", nil).want(200).wantField("type", "file")
}

func TestTheHashIsOfTheStoredBytesAndNeedsNoContent(t *testing.T) {
	s := serve(t)
	e := s.put("a.txt", "x")
	s.api("GET", "a.txt?hash=1", nil).want(200).wantField("hash", e.SHA256).wantField("hash_algorithm", "sha256")
	s.api("GET", "a.txt", nil).want(200).wantField("hash", nil).wantField("hash_algorithm", nil)
	s.store.FailNext("Open", 1, contents.ErrUnavailable)
	s.api("GET", "a.txt?content=0&hash=1", nil).want(200).wantField("hash", e.SHA256)
}

func TestBadQueriesAreRefused(t *testing.T) {
	s := serve(t)
	s.put("d/a.txt", "x")
	for query, part := range map[string]string{"format=zz": "zz", "content=2": "Content", "hash=yes": "Hash", "content=": "Content"} {
		s.api("GET", "d/a.txt?"+query, nil).want(400).wantMessage(part)
	}
	s.api("GET", "d?type=file", nil).want(400).wantField("reason", "bad type")
	s.api("GET", "d?type=notebook", nil).want(400).wantField("reason", "bad type")
	s.api("GET", "d/a.txt?type=directory", nil).want(400).wantField("reason", "bad type")
	s.api("GET", "d/a.txt?type=directory&content=0", nil).want(400).wantField("reason", "bad type")
}

func TestPathsThatAreNotThere(t *testing.T) {
	s := serve(t)
	s.put("a.txt", "x")
	s.put(".ssh/id", "secret")
	for _, path := range []string{"nothing", "a.txt/below", ".ssh", ".ssh/id", "%2e%2e/a.txt", "a%00", "%2e/a.txt", "x//a.txt", "/a.txt", "..%2f..%2fetc%2fpasswd"} {
		for _, prefix := range []string{"/api/contents/", "/files/"} {
			if a := s.do("GET", prefix+path, nil); a.status != 404 {
				t.Errorf("GET %s%s: got %d, want 404", prefix, path, a.status)
			}
		}
	}
	for _, path := range []string{"a%5cb", strings.Repeat("n", 4096), strings.Repeat("n", 256), "%ff", "a%0ab"} {
		for _, method := range []string{"GET", "PUT", "POST", "PATCH", "DELETE"} {
			if a := s.do(method, "/api/contents/"+path, `{"type":"file","format":"text","content":"x","path":"y"}`); a.status != 400 {
				t.Errorf("%s %.20s: got %d, want 400: %s", method, path, a.status, a.body)
			}
		}
	}
}

func TestAStorageThatFailsIs503AndNoSilentSuccess(t *testing.T) {
	s := serve(t)
	s.put("a.txt", "x")
	for _, c := range []struct{ method, path, body, fails string }{
		{"GET", "a.txt", "", "Open"},
		{"GET", "a.txt?content=0", "", "Stat"},
		{"GET", "", "", "List"},
		{"PUT", "a.txt", `{"type":"file","format":"text","content":"y"}`, "Put"},
		{"PUT", "a.txt", `{"type":"file","format":"text","content":"y"}`, "Stat"},
		{"POST", "", `{"type":"file"}`, "Put"},
		{"PATCH", "a.txt", `{"path":"b.txt"}`, "Move"},
		{"DELETE", "a.txt", "", "Delete"},
		{"GET", "a.txt/checkpoints", "", "Checkpoints"},
		{"POST", "a.txt/checkpoints", "", "MakeCheckpoint"},
	} {
		s.store.FailNext(c.fails, 1, contents.ErrUnavailable)
		a := s.api(c.method, c.path, c.body).want(503).wantMessage("storage")
		if a.field("retry_after") == 0.0 {
			t.Errorf("%s %s: no Retry-After", c.method, c.path)
		}
	}
	if got := s.stored("a.txt"); got != "x" {
		t.Errorf("content is %q", got)
	}
	s.store.CutNext(0)
	s.api("GET", "a.txt", nil).want(503)
	s.store.FailNext("Open", 1, contents.ErrUnavailable)
	s.do("GET", "/files/a.txt", nil).want(503)
}
