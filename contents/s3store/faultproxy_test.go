package s3store_test

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"kernelgw/contents/s3store"
)

// fault is what a proxy does with a request instead of passing it on.
type fault string

const (
	none     fault = ""
	failed   fault = "500 before it arrives"
	slowDown fault = "503 SlowDown"
	silent   fault = "no answer"
	lost     fault = "delivered, the connection breaks before the answer"
	cut      fault = "delivered, the answer breaks off"
	twice    fault = "delivered twice"
	refused  fault = "412 before it arrives"
)

// request is what a proxy is asked to pass on.
type request struct {
	*http.Request
	body []byte
}

// writes reports whether the request changes something.
func (r request) writes() bool { return r.Method != http.MethodGet && r.Method != http.MethodHead }

func (r request) conditional() bool {
	return r.Header.Get("If-Match") != "" || r.Header.Get("If-None-Match") != ""
}

// about reports whether the request is about a workspace, wherever that is named.
func (r request) about(workspace string) bool {
	query, err := url.QueryUnescape(r.URL.RawQuery)
	if err != nil {
		return false
	}
	for _, name := range []string{"/" + workspace + "/", "/" + workspace + "!/"} { // as an owner of documents
		if strings.Contains(r.URL.Path, name) || strings.Contains(query, name) || bytes.Contains(r.body, []byte(name)) {
			return true
		}
	}
	return false
}

// proxy is between the SDK and a server, and has faults on command. Which one a
// request has is decided as it is sent. Without one it goes straight to the server;
// with one it goes by a server that has faults, and its answer is waited for: briefly
// if none will come, and else so long that a busy machine makes no faults of its own.
type proxy struct {
	target  target // through the proxy
	behind  target
	server  *url.URL // of the target behind
	t       *testing.T
	patient http.RoundTripper
	hasty   http.RoundTripper // to where no answer comes from

	mu     sync.Mutex
	decide map[string]func(r request) fault // by workspace
}

// set decides on the faults of a workspace's requests; nil ends them.
func (p *proxy) set(workspace string, decide func(r request) fault) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if decide == nil {
		delete(p.decide, workspace)
		return
	}
	p.decide[workspace] = decide
}

func (p *proxy) fault(r request) fault {
	p.mu.Lock()
	defer p.mu.Unlock()
	for workspace, decide := range p.decide {
		if r.about(workspace) {
			return decide(r)
		}
	}
	return none
}

// through puts a proxy before a server.
func through(t *testing.T, at target) *proxy {
	t.Helper()
	p := &proxy{t: t, behind: at, target: at, decide: map[string]func(request) fault{}}
	var err error
	if p.server, err = url.Parse(at.access.Endpoint); err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(p)
	patient := &http.Transport{ResponseHeaderTimeout: time.Minute, MaxIdleConnsPerHost: 64}
	hasty := &http.Transport{ResponseHeaderTimeout: 300 * time.Millisecond, MaxIdleConnsPerHost: 64}
	p.patient, p.hasty = patient, hasty
	client := &http.Client{Transport: p}
	t.Cleanup(func() {
		patient.CloseIdleConnections()
		hasty.CloseIdleConnections()
		server.Close()
	})
	p.target.access.Endpoint, p.target.access.HTTPClient = server.URL, client
	p.target.client = s3store.NewClient(p.target.access)
	return p
}

// faultHeader tells the proxy's server what was decided.
const faultHeader = "Test-Fault"

// RoundTrip implements http.RoundTripper.
func (p *proxy) RoundTrip(r *http.Request) (*http.Response, error) {
	var body []byte
	if r.Body != nil {
		var err error
		if body, err = io.ReadAll(r.Body); err != nil {
			return nil, err
		}
		r.Body.Close()
	}
	f := p.fault(request{r, body})
	sent := r.Clone(r.Context())
	if len(body) > 0 {
		sent.Body = io.NopCloser(bytes.NewReader(body))
	}
	switch f {
	case none:
		sent.Host = r.URL.Host // that is signed
		sent.URL.Scheme, sent.URL.Host = p.server.Scheme, p.server.Host
		return p.behind.access.HTTPClient.Transport.RoundTrip(sent)
	case silent:
		sent.Header.Set(faultHeader, string(f))
		return p.hasty.RoundTrip(sent)
	default:
		sent.Header.Set(faultHeader, string(f))
		return p.patient.RoundTrip(sent)
	}
}

// ServeHTTP implements http.Handler.
func (p *proxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	f := fault(r.Header.Get(faultHeader))
	r.Header.Del(faultHeader)
	switch f {
	case failed:
		answerError(w, http.StatusInternalServerError, "InternalError")
		return
	case slowDown:
		answerError(w, http.StatusServiceUnavailable, "SlowDown")
		return
	case refused:
		answerError(w, http.StatusPreconditionFailed, "PreconditionFailed")
		return
	case silent:
		<-r.Context().Done()
		return
	case twice:
		p.deliver(r, body)
	}
	response, content := p.deliver(r, body)
	switch {
	case response == nil:
	case f == lost:
		hijack(w, "")
	case f == cut && len(content) > 0:
		var head bytes.Buffer
		fmt.Fprintf(&head, "HTTP/1.1 %s\r\n", response.Status)
		response.Header.Set("Content-Length", fmt.Sprint(len(content)))
		_ = response.Header.Write(&head)
		hijack(w, head.String()+"\r\n"+string(content[:len(content)/2]))
	default:
		for name, values := range response.Header {
			w.Header()[name] = values
		}
		w.WriteHeader(response.StatusCode)
		_, _ = w.Write(content)
	}
}

// deliver passes a request on, as it was signed.
func (p *proxy) deliver(r *http.Request, body []byte) (*http.Response, []byte) {
	on, err := http.NewRequestWithContext(r.Context(), r.Method, p.behind.access.Endpoint, bytes.NewReader(body))
	if err != nil {
		p.t.Error(err)
		return nil, nil
	}
	on.URL.Opaque = r.RequestURI
	on.Header, on.Host, on.ContentLength = r.Header.Clone(), r.Host, r.ContentLength
	response, err := p.behind.access.HTTPClient.Do(on)
	if err != nil {
		return nil, nil // the client is gone
	}
	defer response.Body.Close()
	content, err := io.ReadAll(response.Body)
	if err != nil {
		return nil, nil
	}
	return response, content
}

func answerError(w http.ResponseWriter, status int, code string) {
	w.Header().Set("Content-Type", "application/xml")
	w.WriteHeader(status)
	fmt.Fprintf(w, `<?xml version="1.0" encoding="UTF-8"?><Error><Code>%s</Code><Message>from the proxy</Message></Error>`, code)
}

// hijack writes raw bytes and breaks the connection.
func hijack(w http.ResponseWriter, raw string) {
	conn, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return
	}
	_, _ = io.WriteString(conn, raw)
	conn.Close()
}
