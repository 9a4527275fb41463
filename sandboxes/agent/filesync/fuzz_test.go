package filesync

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"strings"
	"testing"

	"kernelgw/sandboxes/agentapi"
)

// What comes over a link is read by an agent that may do more than its kernel:
// none of it may crash the agent, fill its memory or lead out of the directory.

// still is a Syncer that does nothing by itself.
func still(t *testing.T, dir string) *Syncer {
	t.Helper()
	tree, err := openTree(dir, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(tree.close)
	return &Syncer{tree: tree, table: newTable(), queue: newQueue()}
}

const wholeManifest = `{"path":"a.txt","size":3,"etag":"\"1\"","sha256":"00","modified":"2026-01-31T12:00:00Z"}
{"path":"d","directory":true}
{"path":"d/run.sh","size":0,"etag":"\"2\"","executable":true}
{"end":true}
`

func FuzzManifestStaysInside(f *testing.F) {
	for _, seed := range []string{
		wholeManifest, strings.TrimSuffix(wholeManifest, "{\"end\":true}\n"), "", "\n", "null\n", "[]\n", `{"end":true}`,
		`{"path":"../out","size":1,"etag":"x"}` + "\n" + `{"end":true}`,
		`{"path":"d/../../out","directory":true}` + "\n" + `{"path":"/out","etag":"x"}` + "\n" + `{"end":true}`,
		`{"path":"..\u0000/out","etag":"x"}` + "\n" + `{"path":"a//b","etag":"x"}` + "\n" + `{"path":"\ud800","etag":"x"}` + "\n" + `{"end":true}`,
		`{"path":"link/out","size":1,"etag":"x"}` + "\n" + `{"path":"link","size":1,"etag":"x"}` + "\n" + `{"end":true}`,
		`{"path":"a","size":-1,"etag":"x","modified":"9999-12-31T23:59:59Z"}` + "\n" + `{"path":"a/b","size":9223372036854775807,"etag":"x"}` + "\n" + `{"end":true}`,
		`{"path":"a","size":1e400}`, `{"path":"` + strings.Repeat("x", maxLine) + `"}` + "\n" + `{"end":true}`,
		strings.Repeat("d/", 100), `{"path":"` + strings.Repeat("d/", 100) + `x","etag":"x"}` + "\n" + `{"end":true}`,
		`{"path":".kernelgw-incoming","etag":"x"}` + "\n" + `{"path":".kernelgw-incoming/x","etag":"x"}` + "\n" + `{"end":true}`,
	} {
		f.Add([]byte(seed))
	}
	outer := f.TempDir()
	f.Fuzz(func(t *testing.T, body []byte) {
		complete := slices.ContainsFunc(bytes.Split(body, []byte("\n")), isEnd)
		dir := filepath.Join(outer, "workspace")
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		defer os.RemoveAll(dir)
		if err := os.Symlink("..", filepath.Join(dir, "link")); err != nil {
			t.Fatal(err)
		}
		s := still(t, dir)
		err := readManifest(bytes.NewReader(body), func(e agentapi.FilesEntry) {
			if err := agentapi.CheckFilesPath(e.Path); err != nil {
				t.Fatalf("%q: %v", e.Path, err)
			}
			if e.Directory {
				s.directoryEarly(e.Path)
			} else if e.Size >= 0 && e.Size <= agentapi.MaxFilesBatchSize {
				s.createEarly(e, make([]byte, e.Size))
			}
		})
		if err == nil && !complete {
			t.Fatal("a manifest without its last line is taken for whole")
		}
		if there, _ := os.ReadDir(outer); len(there) != 1 {
			t.Fatalf("beside the workspace: %v", there)
		}
		if target, err := os.Readlink(filepath.Join(dir, "link")); err != nil || target != ".." {
			t.Fatalf("the link of the kernel's is now to %q, %v", target, err)
		}
	})
}

func FuzzBatch(f *testing.F) {
	for _, seed := range []string{
		`{"path":"a","size":3,"etag":"1"}` + "\nabc" + `{"path":"alone"}` + "\n" + `{"path":"empty","etag":"2"}` + "\n" + `{"end":true}` + "\n",
		`{"path":"a","size":3,"etag":"1"}` + "\nab", `{"path":"a","size":-1,"etag":"1"}` + "\n", `{"path":"a","size":65537,"etag":"1"}` + "\n",
		`{"path":"a","size":9223372036854775807}` + "\n" + `{"end":true}` + "\n", `{"end":true}`, "", "\n", "null\n", "{}\n{}\n",
		"{\"size\":3,\"etag\":\"1\"}\n\n\n+{\"end\":true}\n", strings.Repeat(" ", maxLine) + "\n", `{"size":3,"etag":"1"}` + "\n\n\n\n" + `{"end":true}` + "\n",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		total, entries := 0, 0
		read := func(body []byte) error {
			return readBatch(bytes.NewReader(body), func(e agentapi.FilesEntry, content []byte) {
				if e.ETag == "" && content != nil || e.ETag != "" && int64(len(content)) != e.Size {
					t.Fatalf("%+v comes with %d bytes", e, len(content))
				}
				total += len(content)
				entries++
			})
		}
		err := read(body)
		if total > len(body) || entries > len(body)/2 {
			t.Fatalf("%d bytes of %d files out of %d", total, entries, len(body))
		}
		if err != nil {
			return
		}
		// However it is cut, what is taken for whole ends with its last line.
		whole := body[:sort.Search(len(body), func(n int) bool { return read(body[:n]) == nil })]
		last, ok := bytes.CutSuffix(whole, []byte("\n"))
		last = last[bytes.LastIndexByte(last, '\n')+1:]
		for len(last) > 0 && !isEnd(last) { // content comes before it without an end of line
			last = last[1:]
		}
		if !ok || len(last) == 0 {
			t.Fatalf("an answer without its last line is taken for whole: %q", whole)
		}
	})
}

// isEnd reports whether a line says that it is the last.
func isEnd(line []byte) bool {
	var e struct{ End bool }
	return json.Unmarshal(line, &e) == nil && e.End
}

func FuzzChanges(f *testing.F) {
	for _, seed := range []string{
		"{}\n" + `{"path":"a","etag":"1","size":3}` + "\n" + `{"path":"d","gone":true}` + "\n" + `{"lost":true}` + "\n",
		`{"path":"../out"}` + "\n", `{"path":"a","size":-9223372036854775808}` + "\n", "null\n", "[", "", strings.Repeat("x", maxLine+1),
	} {
		f.Add([]byte(seed))
	}
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, body []byte) {
		s := still(t, dir)
		lines := make(chan agentapi.FilesChange, 1)
		heard := 0
		ended := make(chan error, 1)
		go func() {
			ended <- readChanges(t.Context(), bytes.NewReader(body), func() { heard++ }, lines)
			close(lines)
		}()
		n := 0
		for c := range lines {
			s.told(c)
			n++
		}
		if err := <-ended; err == nil {
			t.Fatal("the end of changes is no error")
		}
		if n > heard || heard > bytes.Count(body, []byte("\n"))+1 {
			t.Fatalf("%d changes in %d lines", n, heard)
		}
		for p := range s.queue.jobs {
			if err := agentapi.CheckFilesPath(p); err != nil {
				t.Fatalf("asks about %q: %v", p, err)
			}
		}
	})
}

func FuzzRefusal(f *testing.F) {
	for _, seed := range []string{
		`{"message":"the workspace is full"}`, `{"path":"a","etag":"1","size":3}`, `{"message":7}`, "", "<html>", `{"message":""}`,
		`{"modified":"yesterday"}`, strings.Repeat("[", 100_000),
	} {
		f.Add(http.StatusPreconditionFailed, []byte(seed))
		f.Add(http.StatusInsufficientStorage, []byte(seed))
	}
	f.Fuzz(func(t *testing.T, status int, body []byte) {
		err := refusal(&http.Response{StatusCode: status, Body: io.NopCloser(bytes.NewReader(body))})
		if err == nil {
			t.Fatal("a refusal is no error")
		}
		if len(err.Error()) > maxAnswer+1000 {
			t.Fatalf("an error of %d bytes", len(err.Error()))
		}
	})
}
