package contentsync

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"

	"golang.org/x/time/rate"

	"kernelgw/contents"
	"kernelgw/contents/contentstest"
	"kernelgw/sandboxes/agentapi"
)

// What a hostile sandbox sends over its link is answered, whatever it is: with
// its own fault, and never as if the gateway or its store had failed.

// fuzzed is a link whose requests are made by a fuzzer.
type fuzzed struct {
	t     testing.TB
	store *contentstest.Fake
	link  *link
	log   *bytes.Buffer
}

func newFuzzed(t testing.TB, spool string, files map[string]string) *fuzzed {
	z := &fuzzed{t: t, store: contentstest.NewFake(), log: &bytes.Buffer{}}
	z.store.Limit(1 << 20)
	o := New(Options{
		Store: z.store, SpoolDir: spool, MaxFileBytes: 128 << 10, MaxEntries: 20,
		Log: slog.New(slog.NewTextHandler(z.log, &slog.HandlerOptions{Level: slog.LevelInfo})),
	}).o
	z.link = &link{
		Options: &o, workspace: "w", author: "attacker",
		uploads: make(chan struct{}, maxUploads), rate: rate.NewLimiter(rate.Inf, 0),
	}
	for p, text := range files {
		if _, err := z.store.Put(t.Context(), "w", p, strings.NewReader(text), contents.PutOptions{Parents: true}); err != nil {
			t.Fatal(err)
		}
	}
	return z
}

// do sends a request whose body may be shorter or longer than its length.
func (z *fuzzed) do(method, route, query string, header http.Header, length int64, body []byte) *httptest.ResponseRecorder {
	r := (&http.Request{
		Method: method, URL: &url.URL{Path: route, RawQuery: query}, Header: header,
		Body: http.NoBody, ContentLength: length, Proto: "HTTP/2.0", ProtoMajor: 2,
	}).WithContext(z.t.Context())
	if len(body) > 0 {
		r.Body = nopCloser{bytes.NewReader(body)}
	}
	w := httptest.NewRecorder()
	defer func() {
		if p := recover(); p != nil && !errors.Is(asError(p), http.ErrAbortHandler) {
			panic(p)
		}
		if z.log.Len() > 0 {
			z.t.Errorf("%s %s?%s fills the log: %s", method, route, query, z.log)
		}
	}()
	z.link.handler().ServeHTTP(w, r)
	return w
}

type nopCloser struct{ *bytes.Reader }

func (nopCloser) Close() error { return nil }

func asError(v any) error {
	err, _ := v.(error)
	return err
}

// intact fails the test when the store holds a name that is none.
func (z *fuzzed) intact() {
	z.t.Helper()
	n := 0
	err := z.store.Walk(z.t.Context(), "w", "", func(e contents.Entry) error {
		n++
		return checkPath(e.Path)
	})
	if err != nil {
		z.t.Errorf("in the store: %v", err)
	}
	if n > 20 {
		z.t.Errorf("the store holds %d entries", n)
	}
}

func FuzzRequest(f *testing.F) {
	for route := range uint8(5) {
		for _, query := range []string{
			"path=a.txt", "path=d", "path=d/b.bin", "path=new/deep/file", "path=../../other", "path=%2e%2e%2fother", "path=a%00b", "path=%ff",
			"path=d//b.bin", "path=/a.txt", "path=a.txt&path=d", "path", "", "%zz", "path=a%5cb", "path=" + strings.Repeat("n", 300),
			"path=" + strings.Repeat("d/", 70) + "x", "path=.ssh/id", "path=a.txt/b", "path=a%0ab", "path=;",
		} {
			f.Add(route, query, "", "*", false, int64(3), []byte("abc"))
			f.Add(route, query, `"x"`, "", true, int64(-1), []byte("abc"))
		}
		f.Add(route, "path=new", "", "*", false, int64(1<<62), []byte("abc"))
		f.Add(route, "path=new", "", "*", false, int64(100<<10), bytes.Repeat([]byte("x"), 100<<10))
		f.Add(route, "path=new", "", "*", false, int64(100<<10), bytes.Repeat([]byte("x"), 99<<10))
		f.Add(route, "path=new", "", "*", false, int64(1), []byte("abc"))
		f.Add(route, "path=a.txt", "\xff\n*", "W/\"\"", true, int64(0), []byte{})
	}
	routes := []struct{ method, path string }{
		{"GET", agentapi.FilesContent},
		{"PUT", agentapi.FilesContent},
		{"DELETE", agentapi.FilesContent},
		{"POST", agentapi.FilesDirectory},
		{"DELETE", agentapi.FilesDirectory},
	}
	answers := []int{200, 204, 304, 400, 404, 409, 411, 412, 413, 428, 507}
	spool, files := f.TempDir(), map[string]string{"a.txt": "text", "d/b.bin": "\n{\x00"}
	f.Fuzz(func(t *testing.T, route uint8, query, match, none string, executable bool, length int64, body []byte) {
		z := newFuzzed(t, spool, files)
		to := routes[int(route)%len(routes)]
		header := http.Header{"If-Match": {match}, "If-None-Match": {none}}
		if executable {
			header.Set(agentapi.FilesExecutableHeader, "1")
		}
		w := z.do(to.method, to.path, query, header, length, body)
		short := w.Code == http.StatusServiceUnavailable && strings.Contains(w.Body.String(), errCutShort.Error()) && int64(len(body)) < length
		if !short && !slices.Contains(answers, w.Code) {
			t.Errorf("%s %s?%s answered %d: %.200s", to.method, to.path, query, w.Code, w.Body)
		}
		if w.Code >= 400 && w.Code != http.StatusPreconditionFailed {
			var m struct{ Message string }
			if json.Unmarshal(w.Body.Bytes(), &m) != nil || m.Message == "" {
				t.Errorf("%d says nothing: %.200s", w.Code, w.Body)
			}
		}
		z.intact()
	})
}

func FuzzContents(f *testing.F) {
	many := "[" + strings.Repeat(`"a.txt",`, agentapi.MaxFilesBatch-1) + `"d/b.bin"]`
	for _, seed := range []string{
		`["a.txt","d/b.bin","d/large","d","none"]`, `["a.txt","a.txt"] trailing`, "[]", "null", "{}", `[null]`, `[1]`, `[""]`, `["../x"]`,
		`["a\u0000b"]`, `["\ud800"]`, "[\"\xff\"]", `["/a.txt"]`, `["d/../a.txt"]`, `["a\\b"]`, "", "[", strings.Repeat("[", 100_000),
		many, many[:len(many)-1] + `,"x"]`, `["` + strings.Repeat("n", 600<<10) + `"]`,
	} {
		f.Add([]byte(seed))
	}
	spool, files := f.TempDir(), map[string]string{
		"a.txt": "text", "d/b.bin": strings.Repeat("\n{\x00", 1000), "d/large": strings.Repeat("x", agentapi.MaxFilesBatchSize+1),
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		z := newFuzzed(t, spool, files)
		w := z.do("POST", agentapi.FilesContents, "", http.Header{}, int64(len(body)), body)
		if w.Code == http.StatusBadRequest {
			return
		}
		if w.Code != http.StatusOK {
			t.Fatalf("%d: %.200s", w.Code, w.Body)
		}
		var paths []string
		if err := json.NewDecoder(bytes.NewReader(body)).Decode(&paths); err != nil || len(paths) > agentapi.MaxFilesBatch {
			t.Fatalf("%d paths are served, %v", len(paths), err)
		}
		for i, p := range append(paths, "") {
			line, err := w.Body.ReadBytes('\n')
			var e agentapi.FilesEntry
			if err != nil || json.Unmarshal(line, &e) != nil || e.Path != p || e.End != (i == len(paths)) {
				t.Fatalf("entry %d is %.100q, %v; want that of %q", i, line, err, p)
			}
			if e.ETag == "" {
				continue
			}
			if err := z.same(p, w.Body.Next(int(e.Size))); err != nil {
				t.Fatal(err)
			}
		}
		if w.Body.Len() > 0 {
			t.Fatalf("behind the end: %.100q", w.Body)
		}
	})
}

// same compares a content with that of the store.
func (z *fuzzed) same(p string, got []byte) error {
	body, _, err := z.store.Open(z.t.Context(), "w", p, "", 0, -1)
	if err != nil {
		return err
	}
	defer body.Close()
	var want bytes.Buffer
	if _, err := want.ReadFrom(body); err != nil {
		return err
	}
	if !bytes.Equal(got, want.Bytes()) {
		return fmt.Errorf("%s comes as %.40q, want %.40q", p, got, want.Bytes())
	}
	return nil
}
