package contents_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"

	"kernelgw/contents"
	"kernelgw/contents/s3embed"
	"kernelgw/contents/s3store"
)

// embedded is the handlers over the store that people have by default.
func embedded(b *testing.B) *httptest.Server {
	b.Helper()
	server, err := s3embed.Start(context.Background(), filepath.Join(b.TempDir(), "s3"), nil)
	if err != nil {
		b.Skipf("no embedded storage here: %v", err)
	}
	store, err := s3store.New(b.Context(), s3store.Options{Bucket: server.Bucket, OwnServer: true, Client: s3store.NewClient(s3store.Access{
		Endpoint: server.Endpoint, Region: server.Region, AccessKey: server.AccessKey, SecretKey: server.SecretKey, HTTPClient: server.HTTPClient,
	})})
	if err != nil {
		b.Fatal(err)
	}
	handlers := contents.New(contents.Options{Store: store, Documents: store, SpoolDir: b.TempDir()})
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		at := contents.At{Workspace: "w", Path: strings.TrimPrefix(r.URL.Path, "/"), User: "Ann", Owner: "ann", Base: "/"}
		handle := handlers.Get
		if r.Method == http.MethodPut {
			handle = handlers.Put
		}
		if err := handle(w, r, at); err != nil {
			b.Error(err)
		}
	}))
	b.Cleanup(func() {
		web.Close()
		http.DefaultClient.CloseIdleConnections()
		for _, one := range []io.Closer{handlers, store, server} {
			if err := one.Close(); err != nil {
				b.Error(err)
			}
		}
	})
	return web
}

func exchange(b *testing.B, method, url, body string) {
	b.Helper()
	r, err := http.NewRequestWithContext(b.Context(), method, url, strings.NewReader(body))
	if err != nil {
		b.Fatal(err)
	}
	response, err := http.DefaultClient.Do(r)
	if err != nil {
		b.Fatal(err)
	}
	defer response.Body.Close()
	if _, err := io.Copy(io.Discard, response.Body); err != nil || response.StatusCode >= 300 {
		b.Fatal(response.Status, err)
	}
}

// fiveMegabytes is the notebook of the benchmarks, as a client sends it.
func fiveMegabytes(b *testing.B) string {
	b.Helper()
	var cells []string
	text, err := json.Marshal(strings.Repeat("a line of output, with \"quotes\" and ü\n", 100))
	if err != nil {
		b.Fatal(err)
	}
	picture := strings.Repeat("iVBORw0KGgo", 3000)
	for i, size := 0, 0; size < 5<<20; i++ {
		cell := codeCell(fmt.Sprint("c", i), `{"trusted":true}`, `{"output_type":"stream","name":"stdout","text":`+string(text)+`}`)
		if i%4 == 0 {
			cell = codeCell(fmt.Sprint("c", i), `{"trusted":true}`, `{"output_type":"display_data","metadata":{},"data":{"image/png":"`+picture+`"}}`)
		}
		cells, size = append(cells, cell), size+len(cell)
	}
	return save(notebookOf(strings.Join(cells, ",")))
}

// Budget: half of what jupyter_server takes for it on the same machine, 170 ms.
func BenchmarkSaveNotebookEmbedded(b *testing.B) {
	web, body := embedded(b), fiveMegabytes(b)
	b.SetBytes(int64(len(body)))
	for b.Loop() {
		exchange(b, http.MethodPut, web.URL+"/n.ipynb", body)
	}
}

// Budget: half of what jupyter_server takes for it on the same machine, 50 ms.
func BenchmarkLoadNotebookEmbedded(b *testing.B) {
	web, body := embedded(b), fiveMegabytes(b)
	exchange(b, http.MethodPut, web.URL+"/n.ipynb", body)
	b.SetBytes(int64(len(body)))
	for b.Loop() {
		exchange(b, http.MethodGet, web.URL+"/n.ipynb?content=1&hash=1", "")
	}
}
