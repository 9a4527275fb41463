// Package probe is a Jupyter client that hides nothing: it speaks REST and the
// three WebSocket encodings byte by byte, so that a test can say exactly what
// a server answered. It knows no particular server.
package probe

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

// Server is a Jupyter server seen from outside. Its methods fail the test they
// are given when the server cannot be reached or says what no client parses.
type Server struct {
	Base  string // base URL with a trailing slash
	Token string // sent as "Authorization: token ..." unless an edit removes it
}

// Answer is what a request got, whole.
type Answer struct {
	Status int
	Header http.Header
	Body   []byte
	what   string
}

// Edit changes a request before it is sent.
type Edit func(*http.Request)

// Anonymous removes the credentials.
func Anonymous(r *http.Request) { r.Header.Del("Authorization") }

// With sets a header; an empty value is sent as such.
func With(key, value string) Edit {
	return func(r *http.Request) { r.Header.Set(key, value) }
}

// WithCookies sends the cookies and no token, as a browser does.
func WithCookies(cookies []*http.Cookie) Edit {
	return func(r *http.Request) {
		Anonymous(r)
		for _, c := range cookies {
			r.AddCookie(c)
		}
	}
}

// httpClient never follows redirects and keeps no connection: a server that
// was killed and started again must not be met through an old one.
var httpClient = &http.Client{
	Timeout:       90 * time.Second,
	Transport:     &http.Transport{DisableKeepAlives: true, DisableCompression: true},
	CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
}

// Try sends one request and returns the error of the transport, for requests
// that may meet a server that is down. A string or []byte body is sent as it
// is, anything else as JSON.
func (s *Server) Try(t testing.TB, method, path string, body any, edits ...Edit) (*Answer, error) {
	t.Helper()
	var payload io.Reader
	switch b := body.(type) {
	case nil:
	case string:
		payload = strings.NewReader(b)
	case []byte:
		payload = bytes.NewReader(b)
	default:
		encoded, err := json.Marshal(b)
		if err != nil {
			t.Fatalf("cannot encode the body of %s %s: %v", method, path, err)
		}
		payload = bytes.NewReader(encoded)
	}
	r, err := http.NewRequestWithContext(t.Context(), method, s.Base+strings.TrimPrefix(path, "/"), payload)
	if err != nil {
		t.Fatalf("cannot make %s %s: %v", method, path, err)
	}
	if s.Token != "" {
		r.Header.Set("Authorization", "token "+s.Token)
	}
	if payload != nil {
		r.Header.Set("Content-Type", "application/json")
	}
	for _, edit := range edits {
		edit(r)
	}
	resp, err := httpClient.Do(r)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	answer := &Answer{Status: resp.StatusCode, Header: resp.Header, what: method + " " + path}
	if answer.Body, err = io.ReadAll(resp.Body); err != nil {
		return nil, err
	}
	answer.checkTimes(t)
	return answer, nil
}

// Do is Try for a server that must answer.
func (s *Server) Do(t testing.TB, method, path string, body any, edits ...Edit) *Answer {
	t.Helper()
	answer, err := s.Try(t, method, path, body, edits...)
	if err != nil {
		t.Fatalf("%s %s: %v", method, path, err)
	}
	return answer
}

// Download writes the body of what is at a path to w as it comes, for what is too
// large to be kept.
func (s *Server) Download(t testing.TB, path string, w io.Writer) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, s.Base+path, nil)
	if err != nil {
		t.Fatalf("cannot make GET %s: %v", path, err)
	}
	r.Header.Set("Authorization", "token "+s.Token)
	resp, err := httpClient.Do(r)
	if err != nil {
		t.Fatalf("GET %s: %v", path, err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		t.Fatalf("GET %s answered %s", path, resp.Status)
	}
	if _, err := io.Copy(w, resp.Body); err != nil {
		t.Fatalf("GET %s breaks off: %v", path, err)
	}
}

// Want fails the test unless the status is one of those given.
func (a *Answer) Want(t testing.TB, statuses ...int) *Answer {
	t.Helper()
	if !slices.Contains(statuses, a.Status) {
		t.Fatalf("%s answered %d, want %v; body: %.300s", a.what, a.Status, statuses, a.Body)
	}
	return a
}

// Decode parses the body into v.
func (a *Answer) Decode(t testing.TB, v any) {
	t.Helper()
	if err := json.Unmarshal(a.Body, v); err != nil {
		t.Fatalf("%s: body is no such JSON: %v; body: %.300s", a.what, err, a.Body)
	}
}

// Object parses the body as a JSON object.
func (a *Answer) Object(t testing.TB) map[string]any {
	t.Helper()
	var object map[string]any
	a.Decode(t, &object)
	return object
}

// Cookies returns the cookies that the answer sets, in order.
func (a *Answer) Cookies() []*http.Cookie {
	return (&http.Response{Header: a.Header}).Cookies()
}

// strictTime is what jupyter_server's gateway client parses: anything else
// raises in the client.
var strictTime = regexp.MustCompile(`^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z$`)

// checkTimes holds every model of every answer against strictTime. The API of
// JupyterLab's own server is not among what the gateway client reads.
func (a *Answer) checkTimes(t testing.TB) {
	t.Helper()
	if !strings.HasPrefix(a.Header.Get("Content-Type"), "application/json") || strings.Contains(a.what, " lab/api/") {
		return
	}
	var body any
	if json.Unmarshal(a.Body, &body) == nil {
		checkTimesIn(t, a.what, body)
	}
}

func checkTimesIn(t testing.TB, what string, v any) {
	t.Helper()
	switch v := v.(type) {
	case []any:
		for _, element := range v {
			checkTimesIn(t, what, element)
		}
	case map[string]any:
		for _, key := range slices.Sorted(maps.Keys(v)) {
			switch key {
			case "last_activity", "started", "created", "last_modified":
				if text, ok := v[key].(string); !ok || !strictTime.MatchString(text) {
					t.Errorf("%s: %s is %v, want a time like 2006-01-02T15:04:05.000000Z", what, key, v[key])
				}
			default:
				checkTimesIn(t, what, v[key])
			}
		}
	}
}

// DeleteKernel shuts a kernel down outside of any test. A kernel that is gone
// is no error.
func (s *Server) DeleteKernel(kernel string) error {
	return s.outside(http.MethodDelete, "api/kernels/"+kernel, nil)
}

// Delete deletes what is at a path outside of any test.
func (s *Server) Delete(path string) error { return s.outside(http.MethodDelete, path, nil) }

// KernelIDs lists the kernels that the token sees, outside of any test.
func (s *Server) KernelIDs() ([]string, error) {
	var kernels []Kernel
	if err := s.outside(http.MethodGet, "api/kernels", &kernels); err != nil {
		return nil, err
	}
	ids := make([]string, len(kernels))
	for i, k := range kernels {
		ids[i] = k.ID
	}
	return ids, nil
}

// DeleteTerminals ends all terminals that the token sees, outside of any test.
func (s *Server) DeleteTerminals() error {
	var terminals []struct{ Name string }
	if err := s.outside(http.MethodGet, "api/terminals", &terminals); err != nil {
		return err
	}
	for _, t := range terminals {
		if err := s.Delete("api/terminals/" + t.Name); err != nil {
			return err
		}
	}
	return nil
}

// CreateKernel starts a kernel outside of any test.
func (s *Server) CreateKernel() (string, error) {
	var k Kernel
	err := s.outside(http.MethodPost, "api/kernels", &k)
	return k.ID, err
}

// outside sends a request with no body for code that has no test to fail.
func (s *Server) outside(method, path string, v any) error {
	ctx, cancel := context.WithTimeout(context.Background(), Patience)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, method, s.Base+path, nil)
	if err != nil {
		return err
	}
	r.Header.Set("Authorization", "token "+s.Token)
	resp, err := httpClient.Do(r)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if v == nil {
		return nil
	}
	if resp.StatusCode >= 300 {
		return fmt.Errorf("%s %s answered %s", method, path, resp.Status)
	}
	return json.NewDecoder(resp.Body).Decode(v)
}
