package conformance

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// What is large costs a server of ours little memory. A stock server holds in
// memory what it is sent.
var largeChecks = []check{
	{name: "LargeDirectoryOfTenThousandFiles", alone: true, storage: true, run: tenThousandFiles},
	{name: "LargeUploadAndDownloadOf300MB", alone: true, storage: true, run: threeHundredMegabytes},
	{name: "LargeNotebookOf100MB", alone: true, storage: true, run: hundredMegabyteNotebook},
}

// mostMemory is what a kernelgw may ever need, its storage included.
const mostMemory = 150 << 20

// staysSmall fails the test when a kernelgw that was started here has needed too
// much memory.
func staysSmall(t testing.TB, s *target) {
	t.Helper()
	if s.process == nil || s.stock {
		return
	}
	peak, err := s.process.PeakMemory()
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("the gateway needed %d MiB at most", peak>>20)
	if peak > mostMemory {
		t.Errorf("the gateway needed %d MiB, want at most %d", peak>>20, mostMemory>>20)
	}
}

// lap logs how long a step took.
func lap(t testing.TB, what string, begin *time.Time) {
	t.Helper()
	t.Logf("%s: %v", what, time.Since(*begin).Round(time.Millisecond))
	*begin = time.Now()
}

// largeFolder makes a directory that goes with its server, where that was started
// here: to delete what is large one by one takes long.
func largeFolder(t testing.TB, s *target) string {
	t.Helper()
	if s.process == nil {
		return folder(t, s)
	}
	s.Do(t, "PUT", contentsAt("large"), map[string]string{"type": "directory"}).Want(t, 201)
	return "large"
}

func tenThousandFiles(t testing.TB, s *target) {
	const files, writers = 10_000, 8
	dir := largeFolder(t, s)
	begin := time.Now()
	name := func(i int) string { return fmt.Sprintf("%s/file %05d.txt", dir, i) }
	if s.stock { // its files are files
		for i := range files {
			if err := os.WriteFile(filepath.Join(s.process.Dir, "home", name(i)), []byte("x"), 0o644); err != nil {
				t.Fatal(err)
			}
		}
	} else {
		var all sync.WaitGroup
		for w := range writers {
			all.Go(func() {
				for i := w; i < files && !t.Failed(); i += writers {
					answer, err := s.Try(t, "PUT", contentsAt(name(i)), map[string]any{"type": "file", "format": "text", "content": "x"})
					if err != nil || answer.Status != 201 {
						t.Errorf("cannot save %s: %v, %+v", name(i), err, answer)
					}
				}
			})
		}
		all.Wait()
		if t.Failed() {
			return
		}
	}
	lap(t, "making 10,000 files", &begin)
	list := read(t, s, dir, "content=1&hash=0").entries(t)
	lap(t, "listing them", &begin)
	seen := map[string]bool{}
	for _, m := range list {
		seen[m.Path] = true
		if m.Type != "file" || m.Size == nil || *m.Size != 1 || string(m.Content) != "null" {
			t.Fatalf("an entry is %+v", m)
		}
	}
	if len(list) != files || len(seen) != files || !seen[name(files-1)] {
		t.Errorf("%d entries of %d names are listed, want %d", len(list), len(seen), files)
	}
	begin = time.Now()
	if m := read(t, s, dir, "content=0"); m.Type != "directory" || string(m.Content) != "null" {
		t.Errorf("without content the directory is %+v", m)
	}
	lap(t, "the directory without content", &begin)
	staysSmall(t, s)
}

func threeHundredMegabytes(t testing.TB, s *target) {
	path := largeFolder(t, s) + "/large.bin"
	const parts, size = 300, 1 << 20
	begin := time.Now()
	random := rand.NewChaCha8([32]byte{1})
	sum, piece := sha256.New(), make([]byte, size)
	var body bytes.Buffer
	for n := 1; n <= parts; n++ {
		if _, err := random.Read(piece); err != nil {
			t.Fatal(err)
		}
		sum.Write(piece)
		number := n
		if n == parts {
			number = -1
		}
		body.Reset()
		fmt.Fprintf(&body, `{"type":"file","format":"base64","chunk":%d,"content":"%s"}`, number, base64.StdEncoding.EncodeToString(piece))
		s.Do(t, "PUT", contentsAt(path), body.Bytes()).Want(t, 200, 201)
	}
	lap(t, "uploading 300 MB", &begin)
	want := hex.EncodeToString(sum.Sum(nil))
	if m := read(t, s, path, "content=0&hash=1"); *m.Size != parts*size || show(m.Hash) != want {
		t.Errorf("the upload is of %d bytes and has the hash %s, want %s", *m.Size, show(m.Hash), want)
	}
	got := sha256.New()
	s.Download(t, filesAt(path), got)
	lap(t, "downloading them", &begin)
	if hex.EncodeToString(got.Sum(nil)) != want {
		t.Error("the download is not what was uploaded")
	}
	staysSmall(t, s)
}

func hundredMegabyteNotebook(t testing.TB, s *target) {
	path := largeFolder(t, s) + "/large.ipynb"
	const cells, size = 100, 1 << 20
	begin := time.Now()
	line := strings.Repeat("0123456789abcdef", 4)[:63] + "\n"
	output := func(i int) string { return fmt.Sprintf("cell %d\n", i) + strings.Repeat(line, size/len(line)) }
	var body bytes.Buffer
	body.WriteString(`{"type":"notebook","format":"json","content":{"nbformat":4,"nbformat_minor":5,"metadata":{},"cells":[`)
	for i := range cells {
		if i > 0 {
			body.WriteByte(',')
		}
		encoded, err := json.Marshal(output(i))
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&body, `{"id":"c%d","cell_type":"code","metadata":{},"execution_count":1,"source":"1","outputs":[{"output_type":"stream","name":"stdout","text":%s}]}`, i, encoded)
	}
	body.WriteString(`]}}`)
	if m := fileModel(t, s.Do(t, "PUT", contentsAt(path), body.Bytes()).Want(t, 201)); m.Message != "" || *m.Size < cells*size {
		t.Errorf("the saved notebook is %+v", m)
	}
	lap(t, "saving a notebook of 100 MB", &begin)
	body.Reset()
	s.Download(t, contentsAt(path)+"?type=notebook&content=1", &body)
	lap(t, "loading it", &begin)
	var m struct {
		Content struct {
			Cells []struct {
				ID      string
				Outputs []struct{ Text string }
			}
		}
	}
	if err := json.Unmarshal(body.Bytes(), &m); err != nil {
		t.Fatal(err)
	}
	if len(m.Content.Cells) != cells {
		t.Fatalf("%d cells came back of %d", len(m.Content.Cells), cells)
	}
	for i, c := range m.Content.Cells {
		if len(c.Outputs) != 1 || c.Outputs[0].Text != output(i) || c.ID != fmt.Sprint("c", i) {
			t.Fatalf("cell %d did not come back as it was saved", i)
		}
	}
	staysSmall(t, s)
}
