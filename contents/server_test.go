package contents_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"

	"go.uber.org/goleak"

	"kernelgw/contents"
	"kernelgw/contents/contentstest"
)

func TestMain(m *testing.M) {
	// The embedded storage's library has a clock that never ends, and a goroutine
	// that sleeps for ten seconds after the end of its server.
	goleak.VerifyTestMain(m,
		goleak.IgnoreAnyFunction("github.com/valyala/fasthttp.updateServerDate.func1"),
		goleak.IgnoreAnyFunction("github.com/valyala/fasthttp.(*workerPool).Start.func2"))
}

// server is the handlers behind HTTP, as kernelgw has them, over a store that fails
// on command.
type server struct {
	t         *testing.T
	url       string
	store     *contentstest.Fake
	documents *contentstest.FakeDocuments
	handlers  *contents.Handlers

	mu       sync.Mutex
	observed []string
}

func serve(t *testing.T, change ...func(*contents.Options)) *server {
	t.Helper()
	s := &server{t: t, store: contentstest.NewFake(), documents: contentstest.NewFakeDocuments()}
	o := contents.Options{Store: s.store, Documents: s.documents, SpoolDir: t.TempDir(), Observe: s.observe}
	for _, f := range change {
		f(&o)
	}
	s.handlers = contents.New(o)
	web := httptest.NewServer(http.HandlerFunc(s.route))
	s.url = web.URL
	t.Cleanup(func() {
		web.Close()
		if err := s.handlers.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func (s *server) observe(action, workspace, path, source string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.observed = append(s.observed, strings.TrimRight(action+" "+path+" "+source, " "))
}

type handler func(http.ResponseWriter, *http.Request, contents.At) error

// route does what kernelgw's route table does.
func (s *server) route(w http.ResponseWriter, r *http.Request) {
	h := s.handlers
	at := contents.At{Workspace: "w", User: r.Header.Get("X-User"), Owner: r.Header.Get("X-User"), Base: "/base/"}
	serve := handler(nil)
	path := r.URL.Path
	switch {
	case strings.HasPrefix(path, "/files/"):
		at.Path, serve = strings.TrimPrefix(path, "/files/"), h.File
	case strings.HasPrefix(path, "/v1/trash"):
		at.ID = strings.TrimSuffix(strings.TrimPrefix(strings.TrimPrefix(path, "/v1/trash"), "/"), "/restore")
		serve = map[string]handler{"GET": h.Trash, "POST": h.Undelete, "DELETE": h.Purge}[r.Method]
	case path == "/v1/usage":
		serve = h.Usage
	case strings.HasPrefix(path, "/v1/files/") && strings.HasSuffix(path, "/diff"):
		at.Path, serve = strings.TrimSuffix(strings.TrimPrefix(path, "/v1/files/"), "/diff"), h.Diff
	case strings.HasPrefix(path, "/v1/files/"):
		at.Path, at.ID, _ = strings.Cut(strings.TrimPrefix(path, "/v1/files/"), "/versions")
		at.ID = strings.TrimSuffix(strings.TrimPrefix(at.ID, "/"), "/restore")
		serve = map[string]handler{"GET": h.VersionContent, "POST": h.RestoreVersion, "DELETE": h.DeleteVersion}[r.Method]
		if at.ID == "" {
			serve = h.Versions
		}
	case strings.Contains(path, "/checkpoints"):
		at.Path, at.ID, _ = strings.Cut(strings.TrimPrefix(strings.TrimPrefix(path, "/api/contents"), "/"), "/checkpoints")
		at.ID = strings.TrimPrefix(at.ID, "/")
		serve = map[string]handler{"GET": h.Checkpoints, "POST": h.RestoreCheckpoint, "DELETE": h.DeleteCheckpoint}[r.Method]
		if at.ID == "" && r.Method == http.MethodPost {
			serve = h.MakeCheckpoint
		}
	case strings.HasSuffix(path, "/trust"):
		at.Path, serve = strings.TrimSuffix(strings.TrimPrefix(strings.TrimPrefix(path, "/api/contents"), "/"), "/trust"), h.Trust
	default:
		at.Path = strings.TrimPrefix(strings.TrimPrefix(path, "/api/contents"), "/")
		serve = map[string]handler{"GET": h.Get, "PUT": h.Put, "POST": h.Post, "PATCH": h.Patch, "DELETE": h.Delete}[r.Method]
	}
	err := serve(w, r, at)
	if err == nil {
		return
	}
	var answered *contents.Error
	if !errors.As(err, &answered) {
		s.t.Errorf("%s %s: an error of another kind: %v", r.Method, path, err)
		w.WriteHeader(http.StatusInternalServerError)
		return
	}
	if answered.Message == "" || answered.Message == answered.Error() && strings.Contains(answered.Message, "\n") {
		s.t.Errorf("%s %s: message %q is not for a person", r.Method, path, answered.Message)
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(answered.Status)
	_ = json.NewEncoder(w).Encode(map[string]any{"message": answered.Message, "reason": answered.Reason, "retry_after": answered.RetryAfter})
}

// answer is what the server said.
type answer struct {
	t      *testing.T
	what   string
	status int
	header http.Header
	body   []byte
}

// do sends a request. body is a string, JSON of something else, or nil.
func (s *server) do(method, path string, body any, headers ...string) answer {
	s.t.Helper()
	var reader io.Reader
	switch b := body.(type) {
	case nil:
	case string:
		reader = strings.NewReader(b)
	case io.Reader:
		reader = b
	default:
		encoded, err := json.Marshal(b)
		if err != nil {
			s.t.Fatal(err)
		}
		reader = bytes.NewReader(encoded)
	}
	r, err := http.NewRequestWithContext(s.t.Context(), method, s.url+path, reader)
	if err != nil {
		s.t.Fatal(err)
	}
	r.Header.Set("X-User", "ann")
	for i := 0; i+1 < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	response, err := http.DefaultClient.Do(r)
	if err != nil {
		s.t.Fatal(err)
	}
	defer response.Body.Close()
	got, err := io.ReadAll(response.Body)
	if err != nil && response.StatusCode != http.StatusOK {
		s.t.Fatal(err)
	}
	return answer{s.t, method + " " + path, response.StatusCode, response.Header, got}
}

// api is do below api/contents, with each segment of the path escaped.
func (s *server) api(method, path string, body any, headers ...string) answer {
	s.t.Helper()
	return s.do(method, "/api/contents/"+escape(path), body, headers...)
}

func escape(path string) string {
	path, query, has := strings.Cut(path, "?")
	var escaped []string
	for segment := range strings.SplitSeq(path, "/") {
		escaped = append(escaped, url.PathEscape(segment))
	}
	if has {
		return strings.Join(escaped, "/") + "?" + query
	}
	return strings.Join(escaped, "/")
}

func (a answer) want(status int) answer {
	a.t.Helper()
	if a.status != status {
		a.t.Errorf("%s: got status %d, want %d: %.300s", a.what, a.status, status, a.body)
	}
	return a
}

func (a answer) json() map[string]any {
	a.t.Helper()
	var m map[string]any
	if err := json.Unmarshal(a.body, &m); err != nil {
		a.t.Fatalf("%s: %v: %.300s", a.what, err, a.body)
	}
	return m
}

// field is a member of a JSON answer.
func (a answer) field(name string) any {
	a.t.Helper()
	return a.json()[name]
}

func (a answer) wantField(name string, want any) answer {
	a.t.Helper()
	got := a.field(name)
	encoded, err := json.Marshal(got)
	if err != nil {
		a.t.Fatal(err)
	}
	wanted, err := json.Marshal(want)
	if err != nil {
		a.t.Fatal(err)
	}
	if string(encoded) != string(wanted) {
		a.t.Errorf("%s: %s is %.300s, want %.300s", a.what, name, encoded, wanted)
	}
	return a
}

func (a answer) wantMessage(part string) answer {
	a.t.Helper()
	if message, _ := a.field("message").(string); !strings.Contains(message, part) {
		a.t.Errorf("%s: message is %q, want it to have %q", a.what, message, part)
	}
	return a
}

func (s *server) put(path, content string) contents.Entry {
	s.t.Helper()
	e, err := s.store.Put(s.t.Context(), "w", path, strings.NewReader(content), contents.PutOptions{Author: "bob", Parents: true})
	if err != nil {
		s.t.Fatal(err)
	}
	return e
}

func (s *server) stored(path string) string {
	s.t.Helper()
	body, _, err := s.store.Open(s.t.Context(), "w", path, "", 0, -1)
	if err != nil {
		s.t.Fatal(err)
	}
	defer body.Close()
	b, err := io.ReadAll(body)
	if err != nil {
		s.t.Fatal(err)
	}
	return string(b)
}

func (s *server) mkdir(path string) {
	s.t.Helper()
	if _, _, err := s.store.MakeDirectory(s.t.Context(), "w", path); err != nil {
		s.t.Fatal(err)
	}
}

// get returns the body of an answer, or why it is not whole.
func (s *server) get(path string) ([]byte, error) {
	r, err := http.NewRequestWithContext(s.t.Context(), http.MethodGet, s.url+path, nil)
	if err != nil {
		return nil, err
	}
	response, err := http.DefaultClient.Do(r)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	return io.ReadAll(response.Body)
}
