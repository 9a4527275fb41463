package contents_test

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/iotest"
	"time"

	"kernelgw/contents"
)

func file(format, content string) map[string]any {
	return map[string]any{"type": "file", "format": format, "content": content}
}

func TestSavingAFile(t *testing.T) {
	s := serve(t)
	a := s.api("PUT", "a b.txt", file("text", "ü\n\"x\"")).want(201).wantField("content", nil).wantField("format", nil).wantField("type", "file").
		wantField("path", "a b.txt").wantField("size", 6)
	if got := a.header.Get("Location"); got != "/base/api/contents/a%20b.txt" {
		t.Errorf("Location %q", got)
	}
	if got := s.stored("a b.txt"); got != "ü\n\"x\"" {
		t.Errorf("stored %q", got)
	}
	binary := "\x00\xff\xfe"
	wrapped := base64.StdEncoding.EncodeToString([]byte(binary)) + "\n"
	s.api("PUT", "a b.txt", file("base64", wrapped)).want(200)
	if got := s.stored("a b.txt"); got != binary {
		t.Errorf("stored %q", got)
	}
	s.api("PUT", "empty.txt", `{"type":"file"}`).want(201).wantField("size", 0)
	s.api("PUT", "new.ipynb", `{}`).want(201).wantField("type", "notebook")
	s.api("GET", "new.ipynb", nil).want(200).wantField("content", map[string]any{"cells": []any{}, "metadata": map[string]any{}, "nbformat": 4, "nbformat_minor": 5})
	if e, err := s.store.Stat(t.Context(), "w", "a b.txt"); err != nil || e.Author != "ann" {
		t.Errorf("author %q, %v", e.Author, err)
	}
	if want := []string{"save a b.txt", "save a b.txt", "save empty.txt", "save new.ipynb"}; !slices.Equal(s.observed, want) {
		t.Errorf("observed %q, want %q", s.observed, want)
	}
}

func TestWhatCannotBeSaved(t *testing.T) {
	s := serve(t)
	s.mkdir("d")
	s.put("a.txt", "x")
	for _, c := range []struct {
		path, body string
		status     int
	}{
		{"b.txt", `{"type":"file","content":"x"}`, 400},
		{"b.txt", `{"type":"file","format":"json","content":"x"}`, 400},
		{"b.txt", `{"type":"file","format":"text","content":{"a":1}}`, 400},
		{"b.txt", `{"type":"file","format":"text","content":3}`, 400},
		{"b.txt", `{"type":"file","format":"base64","content":"a"}`, 400},
		{"b.txt", `{"type":"file","format":"base64","content":"***"}`, 400},
		{"b.txt", `{"type":"file","format":"text","content":"\ud800"}`, 400},
		{"b.txt", "{\"type\":\"file\",\"format\":\"text\",\"content\":\"\xff\"}", 400},
		{"b.txt", `{"copy_from":"a.txt"}`, 400},
		{"b.txt", `{`, 400},
		{"b.txt", `[]`, 400},
		{"b.txt", `{"type":3}`, 400},
		{"b.txt", `{} {}`, 400},
		{"b.txt", `{"type":"file","format":"text","content":"x"`, 400},
		{"b.txt", `{"content":"x","content":"y"}`, 400},
		{"b.txt", `"x"`, 400},
		{"b.txt", `{"type":"` + strings.Repeat("x", 100_000) + `"}`, 400},
		{"b.txt", `{"x":` + strings.Repeat("[", 100_000), 400},
		{"b.txt", `{"content":` + strings.Repeat("1", 1000) + `}`, 400},
		{"b.txt", "{\"content\":\"a\nb\"}", 400},
		{"b.txt", `{"content":"\x"}`, 400},
		{"a.txt", `{"type":"file","format":"text"}`, 400},
		{"a.txt", `{"type":"directory"}`, 400},
		{"a.txt", ``, 400},
		{"b.ipynb", `{"type":"notebook","content":"text"}`, 400},
		{"b.ipynb", `{"type":"notebook","content":[]}`, 400},
		{"d", `{"type":"file","format":"text","content":"x"}`, 400},
		{"", `{"type":"file","format":"text","content":"x"}`, 400},
		{"no/where.txt", `{"type":"file","format":"text","content":"x"}`, 404},
		{"no/where", `{"type":"directory"}`, 404},
		{"nothing", ``, 404},
		{"a.txt/below.txt", `{"type":"file","format":"text","content":"x"}`, 400},
		{".hidden", `{"type":"file","format":"text","content":"x"}`, 400},
		{"d/.hidden/x", `{"type":"directory"}`, 400},
		{"b.txt", `{"type":"file","format":"text","content":"x","chunk":"1"}`, 400},
	} {
		a := s.api("PUT", c.path, c.body)
		if a.status != c.status {
			t.Errorf("PUT %s %.60s: got %d, want %d: %s", c.path, c.body, a.status, c.status, a.body)
		}
	}
	err := s.store.Walk(t.Context(), "w", "", func(e contents.Entry) error {
		if e.Path != "d" && e.Path != "a.txt" {
			t.Errorf("%s was made", e.Path)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestADirectoryIsMadeOnceAndAlways201(t *testing.T) {
	s := serve(t)
	s.api("PUT", "d", `{"type":"directory"}`).want(201).wantField("type", "directory").wantField("size", nil)
	s.api("PUT", "d", `{"type":"directory"}`).want(201)
	s.api("PUT", "d", ``).want(201).wantField("path", "d/untitled")
}

func TestTheFirstSaveOfANotebookMakesACheckpoint(t *testing.T) {
	s := serve(t)
	count := func() int {
		var list []any
		if err := json.Unmarshal(s.api("GET", "n.ipynb/checkpoints", nil).want(200).body, &list); err != nil {
			t.Fatal(err)
		}
		return len(list)
	}
	if count() != 0 {
		t.Error("a checkpoint without a file")
	}
	s.api("PUT", "n.ipynb", save(notebookOf(""))).want(201)
	s.api("PUT", "n.ipynb", save(notebookOf(""))).want(200)
	if got := count(); got != 1 {
		t.Errorf("%d checkpoints, want 1", got)
	}
	s.store.FailNext("Checkpoints", 1, contents.ErrUnavailable)
	s.api("PUT", "n.ipynb", save(notebookOf(""))).want(200)
}

func TestTheContentMayComeBeforeItsType(t *testing.T) {
	s := serve(t)
	s.api("PUT", "a.txt", ` { "content" : "aGk=" , "unknown":{"a":[1,"]}\"",null]}, "format":"base64","type":"file" } `).want(201)
	if got := s.stored("a.txt"); got != "hi" {
		t.Errorf("stored %q", got)
	}
	s.api("PUT", "a.txt", `{"\u0063ontent":"\u00fc\ud83d\ude00\n\/","format":"text","name":"a.txt","path":"a.txt"}`).want(200)
	if got := s.stored("a.txt"); got != "ü😀\n/" {
		t.Errorf("stored %q", got)
	}
}

func TestTooLargeIs413(t *testing.T) {
	s := serve(t, func(o *contents.Options) { o.MaxBodyBytes, o.MaxFileBytes = 1000, 300 })
	s.api("PUT", "a.txt", file("text", strings.Repeat("x", 2000))).want(413).wantMessage("chunks")
	s.api("PUT", "a.txt", file("text", strings.Repeat("x", 400))).want(413).wantMessage("300 bytes")
	s.api("PUT", "a.txt", file("base64", base64.StdEncoding.EncodeToString(make([]byte, 400)))).want(413)
	s.api("PUT", "n.ipynb", save(notebookOf(strings.Repeat(codeCell("a", "{}", "")+",", 3)+codeCell("a", "{}", "")))).want(413)
	s.api("PUT", "a.txt", file("text", strings.Repeat("x", 300))).want(201)
}

func TestAFullWorkspaceIs507AndSaysWhatToDo(t *testing.T) {
	s := serve(t)
	s.store.Limit(5000)
	s.api("PUT", "a.txt", file("text", "0123456789")).want(201)
	s.api("PUT", "a.txt", file("text", "x")).want(507).wantMessage("4096 of 5000 bytes").wantMessage("delete")
	s.do("GET", "/v1/usage", nil).want(200).wantField("used", 4096).wantField("limit", 5000)
}

func TestADiskThatIsFullIs503(t *testing.T) {
	s := serve(t, func(o *contents.Options) { o.SpoolDir = "/nonexistent" })
	s.api("PUT", "a.txt", file("text", strings.Repeat("x", 9<<20))).want(503).wantMessage("no room")
	s.api("PUT", "a.txt", file("text", "small")).want(201)
}

// The storage's disk, not the workspace's quota.
func TestAFullStorageIs507AndSaysWhoCanHelp(t *testing.T) {
	s := serve(t)
	s.store.FailNext("Put", 1, contents.ErrFull)
	s.api("PUT", "a.txt", file("text", "x")).want(507).wantField("reason", "full").wantMessage("disk of the file storage is full").wantMessage("whoever runs the server")
	s.api("PUT", "a.txt", file("text", "x")).want(201)
}

func TestABodyThatBreaksOffSavesNothing(t *testing.T) {
	s := serve(t)
	body := `{"type":"file","format":"text","content":"hello`
	r := io.MultiReader(strings.NewReader(body), iotest.ErrReader(io.ErrUnexpectedEOF))
	request, err := http.NewRequestWithContext(t.Context(), http.MethodPut, s.url+"/api/contents/a.txt", r)
	if err != nil {
		t.Fatal(err)
	}
	if response, err := http.DefaultClient.Do(request); err == nil {
		response.Body.Close()
		t.Errorf("status %d", response.StatusCode)
	}
	s.api("GET", "a.txt", nil).want(404)
}

func chunk(n int, content string) map[string]any {
	return map[string]any{"type": "file", "format": "base64", "content": base64.StdEncoding.EncodeToString([]byte(content)), "chunk": n}
}

func TestAChunkedUploadAppearsWholeAtItsEnd(t *testing.T) {
	s := serve(t)
	s.api("PUT", "big.bin", chunk(1, "one ")).want(201).wantField("size", 4).wantField("type", "file").wantField("content", nil)
	s.api("PUT", "big.bin", chunk(2, "two ")).want(200).wantField("size", 8)
	s.api("GET", "big.bin", nil).want(404)
	a := s.api("PUT", "big.bin", chunk(-1, "three")).want(200).wantField("size", 13)
	if got := s.stored("big.bin"); got != "one two three" {
		t.Errorf("stored %q", got)
	}
	if a.header.Get("ETag") == "" || a.field("hash") == nil {
		t.Error("the last answer has no hash")
	}
	s.api("PUT", "big.bin", chunk(1, "again")).want(200)
	s.api("PUT", "big.bin", map[string]any{"type": "file", "format": "text", "content": " ü", "chunk": -1}).want(200)
	if got := s.stored("big.bin"); got != "again ü" {
		t.Errorf("stored %q", got)
	}
	if want := []string{"upload big.bin", "upload big.bin"}; !slices.Equal(s.observed, want) {
		t.Errorf("observed %q", s.observed)
	}
}

func TestChunksOutOfOrderEndTheUpload(t *testing.T) {
	s := serve(t)
	for _, numbers := range [][]int{{2}, {-1}, {1, 3}, {1, 2, 2}, {1, 2, -1, 3}, {1, -1, -1}} {
		for i, n := range numbers {
			want := 400
			if i < len(numbers)-1 {
				want = 0
			}
			a := s.api("PUT", "x.bin", chunk(n, "x"))
			if want != 0 && a.status != want {
				t.Errorf("chunks %v: got %d, want 400: %s", numbers, a.status, a.body)
			}
		}
		s.api("PUT", "x.bin", chunk(-1, "x")).want(400)
	}
	for _, body := range []string{`{"type":"file","format":"text","content":"x","chunk":0}`, `{"type":"file","format":"text","content":"x","chunk":-2}`, `{"type":"notebook","content":{},"chunk":1}`, `{"type":"directory","chunk":1}`} {
		s.api("PUT", "x.bin", body).want(400)
	}
	s.api("PUT", "no/where.bin", chunk(1, "x")).want(404)
	s.api("PUT", "y.bin", chunk(1, "x")).want(201)
	s.api("PUT", "y.bin", `{"type":"file","format":"base64","content":"*","chunk":2}`).want(400)
	s.api("PUT", "y.bin", chunk(2, "x")).want(400)
}

func TestUploadsOfTwoPeopleToOnePathDoNotMix(t *testing.T) {
	s := serve(t)
	s.api("PUT", "x.bin", chunk(1, "ann "), "X-User", "ann").want(201)
	s.api("PUT", "x.bin", chunk(1, "bob "), "X-User", "bob").want(201)
	s.api("PUT", "x.bin", chunk(-1, "ann"), "X-User", "ann").want(200)
	if got := s.stored("x.bin"); got != "ann ann" {
		t.Errorf("stored %q", got)
	}
	s.api("PUT", "x.bin", chunk(-1, "bob"), "X-User", "bob").want(200)
	if got := s.stored("x.bin"); got != "bob bob" {
		t.Errorf("stored %q", got)
	}
}

func TestAnUploadThatNobodyContinuesExpires(t *testing.T) {
	s := serve(t, func(o *contents.Options) { o.ChunkExpiry = time.Nanosecond })
	for { // until the timer was faster than the second chunk
		s.api("PUT", "x.bin", chunk(1, "x"))
		if a := s.api("PUT", "x.bin", chunk(-1, "x")); a.status != 200 {
			a.want(400).wantMessage("pload the file again")
			return
		}
	}
}

func TestUploadsUnderWayAreBounded(t *testing.T) {
	s := serve(t)
	refused := false
	for i := range 40 {
		if a := s.api("PUT", fmt.Sprint(i, ".bin"), chunk(1, "x")); a.status == 429 {
			refused = true
		}
	}
	if !refused {
		t.Error("forty uploads at once were taken")
	}
	s.api("PUT", "x.bin", chunk(1, "x"), "X-User", "bob").want(201)
	if err := s.handlers.Close(); err != nil {
		t.Fatal(err)
	}
	s.api("PUT", "0.bin", chunk(-1, "x")).want(400)
	s.api("PUT", "0.bin", chunk(1, "x")).want(503)
}

// One person's uploads, in chunks and whole, do not fill the disk that all use.
func TestUploadsOfOnePersonHoldSoMuchOfTheDisk(t *testing.T) {
	const limit = 64 << 20
	rounds := 3
	if raceDetector {
		rounds = 2 // each takes it ten seconds
	}
	s := serve(t, func(o *contents.Options) { o.SpoolBytes = limit })
	piece := strings.Repeat("0123456789abcdef", 10<<16) // 10 MiB: too many for memory
	for round := range rounds {
		taken, path := 0, fmt.Sprint(round, ".bin")
		for i := 0; ; i++ {
			a := s.api("PUT", path, chunk(i+1, piece))
			if a.status == 429 {
				a.wantMessage("as much as one person's may").wantMessage("wait")
				break
			}
			if taken += len(piece); taken > limit {
				t.Fatalf("%d bytes are held, and a chunk had the answer %d", taken, a.status)
			}
		}
		// So much in every round: what was refused holds nothing.
		if taken < limit/2 {
			t.Errorf("refused at %d of %d bytes", taken, limit)
		}
	}
	hold := func(user string, n int) (release func()) {
		var ends []*io.PipeWriter
		var done sync.WaitGroup
		for i := range n {
			r, w := io.Pipe()
			ends = append(ends, w)
			request, err := http.NewRequestWithContext(t.Context(), http.MethodPut, fmt.Sprint(s.url, "/api/contents/", user, i, ".bin"), r)
			if err != nil {
				t.Fatal(err)
			}
			request.Header.Set("X-User", user)
			done.Go(func() {
				if response, err := http.DefaultClient.Do(request); err == nil {
					response.Body.Close()
				}
			})
			// The answer may come before the end: it is refused.
			if _, err := io.WriteString(w, `{"type":"file","format":"text","content":"`+piece); err != nil {
				break
			}
		}
		return func() {
			for _, w := range ends {
				_ = w.CloseWithError(io.ErrUnexpectedEOF)
			}
			done.Wait()
		}
	}
	release := hold("ann", 10)
	s.api("PUT", "a.bin", file("text", piece), "X-User", "ann").want(429)
	s.api("PUT", "small.txt", file("text", "x"), "X-User", "bob").want(201)
	s.api("PUT", "b.bin", file("text", piece), "X-User", "bob").want(201)
	release()
	s.api("PUT", "a.bin", file("text", piece), "X-User", "ann").want(201)
}

func TestALargeUploadLeavesNothingInTheSpoolDirectory(t *testing.T) {
	dir := t.TempDir()
	s := serve(t, func(o *contents.Options) { o.SpoolDir = dir })
	piece := strings.Repeat("0123456789abcdef", 3<<16) // 3 MiB, of which three are too many for memory
	for i := range 3 {
		s.api("PUT", "x.bin", chunk(i+1, piece))
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 0 {
		t.Errorf("in the spool directory during an upload: %v, %v", left, err)
	}
	s.api("PUT", "x.bin", chunk(-1, "end")).want(200).wantField("size", 3*len(piece)+3)
	if got := s.stored("x.bin"); got != strings.Repeat(piece, 3)+"end" {
		t.Errorf("stored %d bytes that are others", len(got))
	}
	s.store.Limit(1 << 20)
	s.api("PUT", "y.bin", chunk(1, piece)).want(507)
}

func TestFiftyWritersOfOneFile(t *testing.T) {
	s := serve(t)
	var done sync.WaitGroup
	for i := range 50 {
		done.Go(func() {
			if a := s.api("PUT", "a.txt", file("text", fmt.Sprint(i))); a.status != 200 && a.status != 201 {
				t.Errorf("writer %d: %d %s", i, a.status, a.body)
			}
		})
	}
	done.Wait()
	list, err := s.store.Versions(t.Context(), "w", "a.txt", "", 0)
	if err != nil || len(list) != 50 {
		t.Errorf("%d versions, %v, want 50", len(list), err)
	}
}
