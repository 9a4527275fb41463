package contents_test

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"testing"

	"kernelgw/contents"
	"kernelgw/contents/contentstest"
)

// diskStore is a store whose contents are files, so that what is resident is not
// the store's. It has what saving and reading one file needs.
type diskStore struct {
	*contentstest.Fake
	dir string
}

func (d *diskStore) name(path string) string { return filepath.Join(d.dir, path) }

func (d *diskStore) Put(_ context.Context, _, path string, body io.ReadSeeker, o contents.PutOptions) (contents.Entry, error) {
	file, err := os.Create(d.name(path))
	if err != nil {
		return contents.Entry{}, err
	}
	defer file.Close()
	sum := sha256.New()
	if _, err := io.Copy(io.MultiWriter(file, sum), body); err != nil {
		return contents.Entry{}, err
	}
	if err := os.WriteFile(d.name(path)+".sum", []byte(hex.EncodeToString(sum.Sum(nil))), 0o600); err != nil {
		return contents.Entry{}, err
	}
	return d.Stat(context.Background(), "", path)
}

func (d *diskStore) Stat(_ context.Context, _, path string) (contents.Entry, error) {
	if path == "" {
		return contents.Entry{Directory: true}, nil
	}
	info, err := os.Stat(d.name(path))
	if err != nil {
		return contents.Entry{}, contents.ErrNotFound
	}
	sum, err := os.ReadFile(d.name(path) + ".sum")
	if err != nil {
		return contents.Entry{}, err
	}
	return contents.Entry{Path: path, Size: info.Size(), SHA256: string(sum), ETag: string(sum), Version: "v", Modified: info.ModTime(), Created: info.ModTime()}, nil
}

func (d *diskStore) Open(ctx context.Context, _, path, _ string, offset, _ int64) (io.ReadCloser, contents.Entry, error) {
	e, err := d.Stat(ctx, "", path)
	if err != nil {
		return nil, e, err
	}
	file, err := os.Open(d.name(path))
	if err != nil {
		return nil, e, err
	}
	_, err = file.Seek(offset, io.SeekStart)
	return file, e, err
}

// resident returns the most memory that was resident since the last call.
func resident(t *testing.T) int {
	t.Helper()
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	match := regexp.MustCompile(`VmHWM:\s+(\d+) kB`).FindSubmatch(status)
	if match == nil {
		t.Fatal("no VmHWM")
	}
	kilobytes, err := strconv.Atoi(string(match[1]))
	if err != nil {
		t.Fatal(err)
	}
	debug.FreeOSMemory()
	if err := os.WriteFile("/proc/self/clear_refs", []byte("5"), 0); err != nil {
		t.Skipf("cannot reset the memory mark: %v", err)
	}
	return kilobytes / 1024
}

// repeated reads head, n times each piece, and tail.
func repeated(head string, n int, piece func(i int) string, tail string) io.Reader {
	i, current := -1, strings.NewReader(head)
	return readerFunc(func(p []byte) (int, error) {
		for {
			if k, err := current.Read(p); err == nil {
				return k, nil
			}
			i++
			switch {
			case i < n:
				current.Reset(piece(i))
			case i == n:
				current.Reset(tail)
			default:
				return 0, io.EOF
			}
		}
	})
}

type readerFunc func(p []byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

// download reads an answer without keeping it, and returns its length.
func (s *server) download(path string) int64 {
	s.t.Helper()
	r, err := http.NewRequestWithContext(s.t.Context(), http.MethodGet, s.url+path, nil)
	if err != nil {
		s.t.Fatal(err)
	}
	response, err := http.DefaultClient.Do(r)
	if err != nil {
		s.t.Fatal(err)
	}
	defer response.Body.Close()
	n, err := io.Copy(io.Discard, response.Body)
	if err != nil || response.StatusCode != 200 {
		s.t.Fatalf("GET %s: status %d, %d bytes, %v", path, response.StatusCode, n, err)
	}
	return n
}

func TestLargeFilesNeedLittleMemory(t *testing.T) {
	if raceDetector || testing.Short() {
		t.Skip("measures memory")
	}
	const limit = 100 // MiB resident, of which the test binary is about 20
	store := &diskStore{contentstest.NewFake(), t.TempDir()}
	s := serve(t, func(o *contents.Options) { o.Store = store })
	resident(t)
	check := func(what string) {
		t.Helper()
		if got := resident(t); got > limit {
			t.Errorf("%s: %d MiB were resident, want at most %d", what, got, limit)
		} else {
			t.Logf("%s: %d MiB", what, got)
		}
	}
	line := strings.Repeat("0123456789abcdef", 64)
	cells := repeated(`{"type":"notebook","content":{"cells":[`+codeCell("first", "{}", ""), 50_000, func(i int) string {
		return "," + codeCell(fmt.Sprint("c", i), `{"trusted":true}`, `{"output_type":"stream","name":"stdout","text":"`+line+`\n`+line+`"}`)
	}, `],"metadata":{},"nbformat":4,"nbformat_minor":5}}`)
	s.api("PUT", "many.ipynb", cells).want(201).wantField("message", nil)
	check("saving a notebook of 100 MB in many cells")
	if n := s.download("/api/contents/many.ipynb?content=1&hash=1"); n < 100<<20 {
		t.Errorf("read %d bytes", n)
	}
	check("reading it")
	one := repeated(`{"type":"notebook","content":{"nbformat":4,"nbformat_minor":5,"metadata":{},"cells":[{"cell_type":"code","id":"a","execution_count":1,"metadata":{},"source":"","outputs":[{"output_type":"display_data","metadata":{},"data":{"image/png":"`,
		100<<10, func(int) string { return line }, `"}}]}]}}`)
	s.api("PUT", "one.ipynb", one).want(201).wantField("message", nil)
	check("saving a notebook with a picture of 100 MB")
	s.download("/api/contents/one.ipynb")
	check("reading it")
	encoded := base64.StdEncoding.EncodeToString([]byte(strings.Repeat(line, 1024)))
	for i := range 300 {
		number := i + 1
		if i == 299 {
			number = -1
		}
		body := fmt.Sprintf(`{"type":"file","format":"base64","chunk":%d,"content":"%s"}`, number, encoded)
		if a := s.api("PUT", "big.bin", body); a.status >= 300 {
			t.Fatalf("chunk %d: %d %s", number, a.status, a.body)
		}
	}
	check("uploading 300 MB in chunks")
	if n := s.download("/files/big.bin"); n != 300<<20 {
		t.Errorf("downloaded %d bytes", n)
	}
	check("downloading it")
	if n := s.download("/api/contents/big.bin?format=base64"); n < 400<<20 {
		t.Errorf("read %d bytes", n)
	}
	check("reading it as base64")
	s.api("PUT", "text.txt", repeated(`{"type":"file","format":"text","content":"`, 300<<10, func(int) string { return line }, `"}`)).want(201).wantField("size", 300<<20)
	check("saving 300 MB of text at once")
}

func TestManyLargeSavesAtOnceNeedLittleMemory(t *testing.T) {
	if raceDetector || testing.Short() {
		t.Skip("measures memory")
	}
	// MiB. Forty times the least that one could hold, its body, are 200 and the
	// clients besides. How much it is hangs on how many a busy machine runs at once:
	// 100 to 140 were seen.
	const limit = 180
	store := &diskStore{contentstest.NewFake(), t.TempDir()}
	s := serve(t, func(o *contents.Options) { o.Store = store })
	line := strings.Repeat("0123456789abcdef", 64)
	body := save(notebookOf(codeCell("a", "{}", `{"output_type":"stream","name":"stdout","text":"`+strings.Repeat(line, 5<<10)+`"}`)))
	resident(t)
	var done sync.WaitGroup
	for i := range 40 {
		done.Go(func() {
			path := fmt.Sprint(i, ".ipynb")
			s.api("PUT", path, body).want(201)
			if n := s.download("/api/contents/" + path); n < 5<<20 {
				t.Errorf("read %d bytes", n)
			}
		})
	}
	done.Wait()
	if got := resident(t); got > limit {
		t.Errorf("%d MiB were resident, want at most %d", got, limit)
	} else {
		t.Logf("%d MiB", got)
	}
}

func TestABombOfValuesIsRefused(t *testing.T) {
	if raceDetector || testing.Short() {
		t.Skip("takes long")
	}
	s := serve(t)
	bomb := notebookOf(codeCell("a", "{}", strings.Repeat("{},", 3<<20)+"{}"))
	s.api("PUT", "n.ipynb", save(bomb)).want(400).wantMessage("too many values")
	numbers := notebookOf(codeCell("a", "{}", `{"output_type":"display_data","metadata":{},"data":{"application/json":[`+strings.Repeat("1,", 3<<20)+`1]}}`))
	s.api("PUT", "n.ipynb", save(numbers)).want(201).wantField("message", nil)
	var deep strings.Builder
	for range 300_000 {
		deep.WriteString(`{"a":{"b":{"c":{"d":{"e":1}}}}},`)
	}
	s.api("PUT", "deep.ipynb", save(notebookOf(codeCell("a", "{}", `{"output_type":"display_data","metadata":{},"data":{"application/json":[`+deep.String()+`1]}}`)))).want(201)
	if !json.Valid([]byte(s.stored("deep.ipynb"))) {
		t.Error("stored no JSON")
	}
}
