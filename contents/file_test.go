package contents_test

import (
	"fmt"
	"net/url"
	"slices"
	"strings"
	"testing"

	"kernelgw/contents"
)

func TestFilesAreServedInAnOriginOfTheirOwn(t *testing.T) {
	s := serve(t)
	for name, kind := range map[string]string{
		"a.html": "text/html", "a.svg": "image/svg+xml", "a.js": "text/javascript", "a.txt": "text/plain; charset=UTF-8", "a.png": "image/png", "a.PNG": "image/png",
		"a.ipynb": "application/x-ipynb+json", "a.csv.gz": "application/gzip", "a.txt.xz": "application/octet-stream", "noext": "text/plain; charset=UTF-8", "a.xml": "text/xml",
		"a.pdf": "application/pdf", "<script>.html": "text/html", "quo\"te; x=y.html": "text/html",
	} {
		s.put(name, "<script>alert(1)</script>")
		a := s.do("GET", "/files/"+url.PathEscape(name)+"?1795502306591", nil).want(200)
		for header, want := range map[string]string{
			"Content-Type": kind, "X-Content-Type-Options": "nosniff", "Cache-Control": "no-cache", "Accept-Ranges": "bytes",
			"Content-Security-Policy": "frame-ancestors 'self'; report-uri /base/api/security/csp-report; sandbox allow-scripts",
		} {
			if got := a.header.Get(header); got != want {
				t.Errorf("%s: %s is %q, want %q", name, header, got, want)
			}
		}
		if string(a.body) != "<script>alert(1)</script>" || a.header.Get("Last-Modified") == "" {
			t.Errorf("%s: %q", name, a.body)
		}
		attached := a.header.Get("Content-Disposition") != ""
		if attached != (name == "a.ipynb") {
			t.Errorf("%s: attachment: %v", name, attached)
		}
	}
	s.put("ü \"x\".bin", "\x00\xff")
	a := s.do("GET", "/files/"+url.PathEscape("ü \"x\".bin")+"?download=1", nil).want(200)
	if got := a.header.Get("Content-Disposition"); got != "attachment; filename*=utf-8''%C3%BC%20%22x%22.bin" {
		t.Errorf("Content-Disposition %q", got)
	}
	s.put("binary", "\x00\xff")
	if got := s.do("GET", "/files/binary", nil).header.Get("Content-Type"); got != "application/octet-stream" {
		t.Errorf("type of a binary file without extension: %q", got)
	}
	s.mkdir("d")
	s.do("GET", "/files/d", nil).want(403)
	s.do("GET", "/files/", nil).want(403)
	s.put("empty", "")
	s.do("GET", "/files/empty", nil).want(200)
}

func TestRangesAndConditionsOfFiles(t *testing.T) {
	s := serve(t)
	content := strings.Repeat("0123456789", 1000)
	s.put("a.bin", content)
	for ranges, want := range map[string]string{"bytes=0-4": content[:5], "bytes=9995-": content[9995:], "bytes=-3": content[9997:], "bytes=5-1000000": content[5:]} {
		a := s.do("GET", "/files/a.bin", nil, "Range", ranges).want(206)
		if string(a.body) != want {
			t.Errorf("%s: got %.20q of %d bytes", ranges, a.body, len(a.body))
		}
		if !strings.HasSuffix(a.header.Get("Content-Range"), "/10000") {
			t.Errorf("%s: Content-Range %q", ranges, a.header.Get("Content-Range"))
		}
	}
	s.do("GET", "/files/a.bin", nil, "Range", "bytes=20000-").want(416)
	if a := s.do("GET", "/files/a.bin", nil, "Range", "bytes=0-1,5-6").want(206); !strings.Contains(string(a.body), "56") {
		t.Errorf("two ranges: %q", a.body)
	}
	many := "bytes=0-0" + strings.Repeat(",5-5", 1000)
	if a := s.do("GET", "/files/a.bin", nil, "Range", many).want(200); string(a.body) != content {
		t.Error("a thousand ranges are not answered by the whole file")
	}
	a := s.do("HEAD", "/files/a.bin", nil).want(200)
	if len(a.body) != 0 || a.header.Get("Content-Length") != "10000" {
		t.Errorf("HEAD: %d bytes, length %s", len(a.body), a.header.Get("Content-Length"))
	}
	etag := a.header.Get("ETag")
	s.do("GET", "/files/a.bin", nil, "If-None-Match", etag).want(304)
	s.do("GET", "/files/a.bin", nil, "If-None-Match", `"x"`).want(200)
	if a := s.do("GET", "/files/a.bin", nil, "Range", "bytes=0-1", "If-Range", `"x"`).want(200); len(a.body) != len(content) {
		t.Error("If-Range of another version gets a range")
	}
}

func TestAStorageThatFailsBeforeTheFirstByteIs503(t *testing.T) {
	s := serve(t)
	s.put("a.bin", strings.Repeat("x", 100_000))
	for _, ranges := range []string{"", "bytes=5-9", "bytes=5-"} {
		s.store.FailNext("Open", 1, contents.ErrUnavailable)
		a := s.do("GET", "/files/a.bin?download=1", nil, "Range", ranges).want(503)
		for _, header := range []string{"Content-Range", "ETag", "Content-Disposition"} {
			if got := a.header.Get(header); got != "" {
				t.Errorf("range %q: the error has %s %q", ranges, header, got)
			}
		}
	}
	s.store.CutNext(0)
	s.do("GET", "/files/a.bin", nil).want(503)
}

func TestAFileThatBreaksOffIsNotTakenForWhole(t *testing.T) {
	s := serve(t)
	s.put("a.bin", strings.Repeat("x", 100_000))
	s.store.CutNext(50_000)
	response, err := s.get("/files/a.bin")
	if err == nil {
		t.Errorf("got all of %d bytes", len(response))
	}
}

func TestHistory(t *testing.T) {
	s := serve(t)
	one := s.put("d/a.txt", "one\ntwo\nthree\n")
	two := s.put("d/a.txt", "one\nzwei\nthree\n")
	list, _ := s.do("GET", "/v1/files/d/a.txt/versions", nil).want(200).field("versions").([]any)
	if len(list) != 2 {
		t.Fatalf("versions: %v", list)
	}
	first, _ := list[0].(map[string]any)
	for key, want := range map[string]any{
		"id": two.Version, "path": "d/a.txt", "size": float64(two.Size), "author": "bob", "source": "api", "sha256": two.SHA256,
		"etag": two.ETag, "latest": true, "pinned": false, "executable": false, "modified": two.Modified.Format("2006-01-02T15:04:05Z"),
	} {
		if first[key] != want {
			t.Errorf("%s is %v, want %v", key, first[key], want)
		}
	}
	if list, _ := s.do("GET", "/v1/files/d/a.txt/versions?limit=1", nil).want(200).field("versions").([]any); len(list) != 1 {
		t.Errorf("limited to 1: %v", list)
	}
	s.do("GET", "/v1/files/d/a.txt/versions?limit=x", nil).want(400)
	s.do("GET", "/v1/files/d/a.txt/versions?after=none", nil).want(404).wantMessage("none")
	a := s.do("GET", "/v1/files/d/a.txt/versions/"+one.Version, nil).want(200)
	if string(a.body) != "one\ntwo\nthree\n" || !strings.Contains(a.header.Get("Content-Security-Policy"), "sandbox") {
		t.Errorf("version: %q", a.body)
	}
	s.do("GET", "/v1/files/d/a.txt/versions/none", nil).want(404)
	for _, query := range []string{"", "?to=" + two.Version, "?from=" + one.Version, "?from=" + one.Version + "&to=" + two.Version} {
		unified, _ := s.do("GET", "/v1/files/d/a.txt/diff"+query, nil).want(200).wantField("kind", "text").wantField("same", false).field("unified").(string)
		if !strings.Contains(unified, "\n-two\n+zwei\n three\n") {
			t.Errorf("diff%s:\n%s", query, unified)
		}
	}
	s.do("GET", "/v1/files/d/a.txt/diff?from=none", nil).want(404)
	s.do("GET", "/v1/files/d/a.txt/diff?to="+one.Version, nil).want(404).wantMessage("before")
	s.do("POST", "/v1/files/d/a.txt/versions/"+one.Version+"/restore", nil).want(200).wantField("path", "d/a.txt")
	if got := s.stored("d/a.txt"); got != "one\ntwo\nthree\n" {
		t.Errorf("restored %q", got)
	}
	s.do("POST", "/v1/files/d/a.txt/versions/none/restore", nil).want(404)
	s.do("DELETE", "/v1/files/d/a.txt/versions/"+two.Version, nil).want(204)
	s.do("DELETE", "/v1/files/d/a.txt/versions/"+two.Version, nil).want(404)
	latest := s.do("GET", "/v1/files/d/a.txt/versions", nil)
	top, _ := latest.field("versions").([]any)
	newest, _ := top[0].(map[string]any)
	s.do("DELETE", fmt.Sprint("/v1/files/d/a.txt/versions/", newest["id"]), nil).want(409)
	s.do("GET", "/v1/files/.ssh/versions", nil).want(404)
}

// Whoever has ten thousand files in the trash is not sent all of them at once.
func TestLongListsComeInPages(t *testing.T) {
	s := serve(t)
	for i := range 1500 {
		s.put("a.txt", "x")
		if i < 1100 {
			s.put(fmt.Sprint("d/", i), "x")
		}
	}
	s.api("DELETE", "d", nil).want(204)
	for path, list := range map[string]string{"/v1/trash": "trash", "/v1/files/a.txt/versions": "versions"} {
		seen := map[any]bool{}
		pages := []int{}
		for query := "?limit=100000"; query != ""; {
			a := s.do("GET", path+query, nil).want(200)
			found, _ := a.field(list).([]any)
			for _, one := range found {
				fields, _ := one.(map[string]any)
				seen[fields["id"]] = true
			}
			pages = append(pages, len(found))
			query = ""
			if next, more := a.json()["next"].(string); more {
				query = "?after=" + next
			}
		}
		want := map[string][]int{"trash": {1000, 100}, "versions": {1000, 500}}[list]
		if !slices.Equal(pages, want) || len(seen) != pages[0]+pages[1] {
			t.Errorf("%s: pages of %v with %d different entries, want %v", path, pages, len(seen), want)
		}
	}
}

func TestDiffOfNotebooksIsByCell(t *testing.T) {
	s := serve(t)
	cell := func(id, source, output string) string {
		if output != "" {
			output = `{"output_type":"stream","name":"stdout","text":"` + output + `"}`
		}
		return strings.Replace(codeCell(id, "{}", output), `"source":"x"`, `"source":"`+source+`"`, 1)
	}
	s.put("n.ipynb", notebookOf(strings.Join([]string{cell("a", "1", ""), cell("b", "x = 1\\ny", "1"), cell("c", "gone", ""), cell("d", "same", "o")}, ",")))
	s.put("n.ipynb", notebookOf(strings.Join([]string{cell("a", "1", ""), cell("n", "new", ""), cell("b", "x = 2\\ny", "2"), cell("d", "same", "o")}, ",")))
	a := s.do("GET", "/v1/files/n.ipynb/diff", nil).want(200).wantField("kind", "notebook").wantField("metadata_changed", false)
	var got []string
	list, _ := a.field("cells").([]any)
	for _, one := range list {
		c, _ := one.(map[string]any)
		got = append(got, fmt.Sprint(c["change"], " ", c["id"], " ", c["from_index"], " ", c["to_index"], " ", c["outputs_changed"]))
	}
	want := "same a 0 0 false|added n <nil> 1 false|modified b 1 2 true|removed c 2 <nil> false|same d 3 3 false"
	if strings.Join(got, "|") != want {
		t.Errorf("got  %s\nwant %s", strings.Join(got, "|"), want)
	}
	modified, _ := list[2].(map[string]any)
	if source, _ := modified["source"].(string); !strings.Contains(source, "-x = 1\n+x = 2\n") {
		t.Errorf("source: %q", source)
	}
	s.put("n.ipynb", "broken")
	s.do("GET", "/v1/files/n.ipynb/diff", nil).want(200).wantField("kind", "text")
	s.put("b.bin", "\x00a")
	s.put("b.bin", "\x00b")
	s.do("GET", "/v1/files/b.bin/diff", nil).want(200).wantField("kind", "binary").wantField("same", false)
	s.put("big.txt", strings.Repeat("x\n", 2<<20))
	s.put("big.txt", strings.Repeat("y\n", 2<<20))
	s.do("GET", "/v1/files/big.txt/diff", nil).want(200).wantField("too_long", true)
	s.put("long.txt", strings.Repeat("x\n", 11_000))
	s.put("long.txt", strings.Repeat("y\n", 11_000))
	s.do("GET", "/v1/files/long.txt/diff", nil).want(200).wantField("too_long", true)
}

func TestAStorageThatFailsInTheNativeAPI(t *testing.T) {
	s := serve(t)
	s.put("a.txt", "x")
	for path, method := range map[string]string{"/v1/files/a.txt/versions": "Versions", "/v1/trash": "Trash", "/v1/usage": "Usage", "/v1/files/a.txt/versions/v1": "Open"} {
		s.store.FailNext(method, 1, contents.ErrUnavailable)
		s.do("GET", path, nil).want(503)
	}
	s.do("GET", "/v1/usage", nil).want(200).wantField("used", int(contents.Charge(1))).wantField("limit", nil)
}
