package conformance

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"kernelgw/conformance/probe"
)

// /files: images of notebooks, downloads, and pages opened in a tab.
var fileChecks = []check{
	{name: "FilesAreServedByteForByte", run: filesByteForByte},
	{name: "FilesHaveTheirType", run: filesHaveTheirType},
	{name: "FilesRunNoScriptsOfTheServer", run: filesRunNoScripts},
	{name: "FilesDownloadHasAName", run: filesDownload},
	{name: "FilesRange", run: filesRange},
	{name: "FilesHead", run: filesHead},
	{name: "FilesConditional", run: filesConditional},
	{name: "FilesRefusals", run: filesRefusals},
	{name: "FilesForStrangers", run: filesForStrangers},
	{name: "FilesForOtherSites", run: filesForOtherSites},
}

// upload saves bytes as they are.
func upload(t testing.TB, s *target, path string, content []byte) {
	t.Helper()
	put(t, s, path, map[string]any{"type": "file", "format": "base64", "content": base64.StdEncoding.EncodeToString(content)}).Want(t, 200, 201)
}

func filesAt(path string) string { return "files/" + escape(path) }

func filesByteForByte(t testing.TB, s *target) {
	dir := folder(t, s)
	content := bytes.Repeat([]byte("\x00\xff\r\n\n%"), 300_000)
	upload(t, s, dir+"/b.bin", content)
	got := s.Do(t, "GET", filesAt(dir+"/b.bin"), nil).Want(t, 200)
	if sha256.Sum256(got.Body) != sha256.Sum256(content) {
		t.Errorf("%d bytes come back as %d others", len(content), len(got.Body))
	}
	if length := got.Header.Get("Content-Length"); length != "" && length != fmt.Sprint(len(content)) {
		t.Errorf("Content-Length is %s", length)
	}
	upload(t, s, dir+"/empty.bin", nil)
	if got := s.Do(t, "GET", filesAt(dir+"/empty.bin"), nil).Want(t, 200); len(got.Body) != 0 {
		t.Errorf("an empty file has %d bytes", len(got.Body))
	}
}

func filesHaveTheirType(t testing.TB, s *target) {
	dir := folder(t, s)
	for name, want := range map[string]string{
		"a.txt": "text/plain; charset=utf-8", "a.png": "image/png", "a.svg": "image/svg+xml", "a.html": "text/html",
		"a.json": "application/json", "a.ipynb": "application/x-ipynb+json", "a.tar.gz": "application/gzip",
		"a.pdf": "application/pdf", "a.css": "text/css",
	} {
		upload(t, s, dir+"/"+name, []byte("{}"))
		got := s.Do(t, "GET", filesAt(dir+"/"+name), nil).Want(t, 200).Header.Get("Content-Type")
		if !strings.HasPrefix(strings.ToLower(got), want) {
			t.Errorf("%s is %q, want %s", name, got, want)
		}
	}
}

func filesRunNoScripts(t testing.TB, s *target) {
	dir := folder(t, s)
	for _, name := range []string{"a.html", "a.svg", "a.xml", "a.pdf", "a.js", "a.txt", "a.none", "a.xhtml", "a.ipynb"} {
		upload(t, s, dir+"/"+name, []byte(`<html><script>alert(document.cookie)</script></html>`))
		for _, query := range []string{"", "?download=1", "?download"} {
			header := s.Do(t, "GET", filesAt(dir+"/"+name)+query, nil).Want(t, 200).Header
			policy := header.Get("Content-Security-Policy")
			if !strings.Contains(policy, "sandbox") || strings.Contains(policy, "allow-same-origin") {
				t.Errorf("%s%s: Content-Security-Policy is %q", name, query, policy)
			}
			if header.Get("X-Content-Type-Options") != "nosniff" {
				t.Errorf("%s%s: X-Content-Type-Options is %q", name, query, header.Get("X-Content-Type-Options"))
			}
			if cache := header.Get("Cache-Control"); !strings.Contains(cache, "no-cache") && !strings.Contains(cache, "no-store") {
				t.Errorf("%s%s: Cache-Control is %q", name, query, cache)
			}
		}
	}
}

func filesDownload(t testing.TB, s *target) {
	dir := folder(t, s)
	for name, encoded := range map[string]string{
		"a.txt": "a.txt", `ü"; x=.txt`: "%C3%BC%22%3B%20x%3D.txt", "a b.csv": "a%20b.csv",
	} {
		upload(t, s, dir+"/"+name, []byte("x"))
		got := s.Do(t, "GET", filesAt(dir+"/"+name)+"?download=1", nil).Want(t, 200).Header.Get("Content-Disposition")
		if !strings.HasPrefix(got, "attachment") || !strings.Contains(strings.ToLower(got), "filename*=utf-8''"+strings.ToLower(encoded)) {
			t.Errorf("%s: Content-Disposition is %q", name, got)
		}
		if got := s.Do(t, "GET", filesAt(dir+"/"+name), nil).Header.Get("Content-Disposition"); got != "" {
			t.Errorf("%s without download: Content-Disposition is %q", name, got)
		}
	}
	upload(t, s, dir+"/n.ipynb", []byte("{}"))
	if got := s.Do(t, "GET", filesAt(dir+"/n.ipynb"), nil).Header.Get("Content-Disposition"); !strings.HasPrefix(got, "attachment") {
		t.Errorf("a notebook: Content-Disposition is %q", got)
	}
}

func filesRange(t testing.TB, s *target) {
	dir := folder(t, s)
	upload(t, s, dir+"/a.bin", []byte("0123456789"))
	for asked, want := range map[string]string{"bytes=2-4": "234", "bytes=7-": "789", "bytes=-3": "789", "bytes=0-0": "0", "bytes=5-100": "56789"} {
		answer := s.Do(t, "GET", filesAt(dir+"/a.bin"), nil, probe.With("Range", asked))
		if answer.Status != 206 || string(answer.Body) != want {
			t.Errorf("%s answered %d %q, want %q", asked, answer.Status, answer.Body, want)
		}
		if got := answer.Header.Get("Content-Range"); !strings.HasSuffix(got, "/10") {
			t.Errorf("%s: Content-Range is %q", asked, got)
		}
	}
	if answer := s.Do(t, "GET", filesAt(dir+"/a.bin"), nil, probe.With("Range", "bytes=20-30")); answer.Status != 416 {
		t.Errorf("a range beyond the end answered %d", answer.Status)
	}
	for _, malformed := range []string{"bytes=x-y", "lines=1-2", "bytes="} {
		if answer := s.Do(t, "GET", filesAt(dir+"/a.bin"), nil, probe.With("Range", malformed)); answer.Status != 200 && answer.Status != 416 {
			t.Errorf("Range %q answered %d", malformed, answer.Status)
		}
	}
}

func filesHead(t testing.TB, s *target) {
	dir := folder(t, s)
	upload(t, s, dir+"/a.txt", []byte("0123456789"))
	answer := s.Do(t, "HEAD", filesAt(dir+"/a.txt"), nil).Want(t, 200)
	if len(answer.Body) != 0 || answer.Header.Get("Content-Length") != "10" || answer.Header.Get("Accept-Ranges") != "bytes" {
		t.Errorf("HEAD gives %d bytes and %v", len(answer.Body), answer.Header)
	}
	if _, err := http.ParseTime(answer.Header.Get("Last-Modified")); err != nil {
		t.Errorf("Last-Modified is %q", answer.Header.Get("Last-Modified"))
	}
	s.Do(t, "HEAD", filesAt(dir+"/none.txt"), nil).Want(t, 404)
}

func filesConditional(t testing.TB, s *target) {
	dir := folder(t, s)
	upload(t, s, dir+"/a.txt", []byte("one"))
	answer := s.Do(t, "GET", filesAt(dir+"/a.txt"), nil).Want(t, 200)
	since := answer.Header.Get("Last-Modified")
	if got := s.Do(t, "GET", filesAt(dir+"/a.txt"), nil, probe.With("If-Modified-Since", since)); got.Status != 304 && got.Status != 200 {
		t.Errorf("If-Modified-Since answered %d", got.Status)
	}
	if tag := answer.Header.Get("ETag"); tag != "" {
		s.Do(t, "GET", filesAt(dir+"/a.txt"), nil, probe.With("If-None-Match", tag)).Want(t, 304)
		upload(t, s, dir+"/a.txt", []byte("two"))
		if got := s.Do(t, "GET", filesAt(dir+"/a.txt"), nil, probe.With("If-None-Match", tag)).Want(t, 200); string(got.Body) != "two" {
			t.Errorf("after a save the file is %q", got.Body)
		}
	}
}

func filesRefusals(t testing.TB, s *target) {
	dir := folder(t, s)
	s.Do(t, "GET", filesAt(dir+"/none.txt"), nil).Want(t, 404)
	s.Do(t, "GET", filesAt(dir), nil).Want(t, 403, 404)
	s.Do(t, "PUT", filesAt(dir+"/a.txt"), "x").Want(t, 404, 405)
	s.Do(t, "DELETE", filesAt(dir), nil).Want(t, 404, 405)
}

func filesForStrangers(t testing.TB, s *target) {
	dir := folder(t, s)
	upload(t, s, dir+"/a.txt", []byte("secret"))
	answer := s.Do(t, "GET", filesAt(dir+"/a.txt"), nil, probe.Anonymous).Want(t, 302)
	if location := answer.Header.Get("Location"); !strings.HasPrefix(location, "/login?next=") {
		t.Errorf("a stranger is sent to %q", location)
	}
	s.Do(t, "GET", filesAt(dir+"/a.txt"), nil, probe.WithCookies(login(t, s)), probe.With("Referer", s.Base+"lab")).Want(t, 200)
	s.Do(t, "GET", filesAt(dir+"/a.txt")+"?token="+s.Token, nil, probe.Anonymous).Want(t, 200)
}

func filesForOtherSites(t testing.TB, s *target) {
	dir := folder(t, s)
	upload(t, s, dir+"/a.json", []byte("secret"))
	cookies := login(t, s)
	for what, edits := range map[string][]probe.Edit{
		"a script of another site": {probe.With("Referer", "http://evil.example/page"), probe.With("Sec-Fetch-Site", "cross-site")},
		"a frame of another site":  {probe.With("Referer", "http://evil.example/"), probe.With("Origin", "http://evil.example")},
		"another port":             {probe.With("Referer", "http://127.0.0.1:1/"), probe.With("Sec-Fetch-Site", "same-site")},
	} {
		answer := s.Do(t, "GET", filesAt(dir+"/a.json"), nil, append(edits, probe.WithCookies(cookies))...)
		if bytes.Contains(answer.Body, []byte("secret")) {
			t.Errorf("%s reads the file", what)
		}
	}
	s.Do(t, "GET", filesAt(dir+"/a.json"), nil, probe.WithCookies(cookies),
		probe.With("Referer", s.Base+"lab"), probe.With("Sec-Fetch-Site", "same-origin")).Want(t, 200)
}
