package egress

import (
	"bufio"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
)

// recorder is a host that keeps the requests it gets.
type recorder struct {
	mu   sync.Mutex
	got  []*http.Request
	said []string // bodies
}

func (r *recorder) ServeHTTP(w http.ResponseWriter, request *http.Request) {
	body, _ := io.ReadAll(request.Body)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.got = append(r.got, request)
	r.said = append(r.said, string(body))
	io.WriteString(w, "seen")
}

func (r *recorder) requests() []*http.Request {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.got)
}

func TestHostHeaderIsThatOfTheTarget(t *testing.T) {
	w := newWorld(t).serve()
	var host recorder
	w.plainHost("data.example.org", publicIP, &host)
	s := w.admit(1, only("data.example.org"))
	// RFC 9112, section 3.2.2: a proxy ignores the Host header of an absolute URL.
	s.say("GET http://data.example.org/a HTTP/1.1\r\nHost: fronted.example\r\n\r\n")
	s.say("GET http://DATA.example.org.:80/b HTTP/1.1\r\nHost: 169.254.169.254\r\nX-Forwarded-Host: fronted.example\r\n\r\n")
	got := host.requests()
	if len(got) != 2 {
		t.Fatalf("%d requests", len(got))
	}
	for _, r := range got {
		if r.Host != "data.example.org" || r.Header.Get("X-Forwarded-Host") != "" {
			t.Errorf("%s: Host %q, %v", r.URL, r.Host, r.Header)
		}
	}
}

func TestRedirectToPrivateIsAnotherRequest(t *testing.T) {
	w := newWorld(t).serve()
	for _, to := range []string{"http://169.254.169.254/latest/", "http://10.0.0.1/", "http://localhost/", "http://other.example.org/", "https://internal.example.org/"} {
		w.plainHost("data.example.org", publicIP, http.RedirectHandler(to, http.StatusFound))
		w.dns.set("internal.example.org", "10.0.0.1")
		s := w.admit(1, only("data.example.org", "internal.example.org"))
		response, err := s.http.Get("http://data.example.org/")
		if err != nil {
			t.Fatal(err)
		}
		response.Body.Close()
		if response.StatusCode != 302 || response.Header.Get("Location") != to {
			t.Errorf("the proxy did not pass on the redirect: %v", response.Header)
		}
		if status, _ := s.get(to); status != 403 && status != 0 {
			t.Errorf("%s: %d", to, status)
		}
		s.CloseIdleConnections()
		w.proxy.Dismiss(s.addr)
	}
	if w.dials() != 5 {
		t.Errorf("dialled %v", w.dialled)
	}
}

func TestHopByHopHeadersAreStripped(t *testing.T) {
	w := newWorld(t).serve()
	var host recorder
	w.plainHost("data.example.org", publicIP, &host)
	s := w.admit(1, only("data.example.org"))
	_, response := s.say("GET http://data.example.org/?a=1;b=2 HTTP/1.1\r\nHost: data.example.org\r\nProxy-Authorization: Basic c2VjcmV0\r\nProxy-Connection: keep-alive\r\n" +
		"Connection: close, X-Hop, upgrade\r\nX-Hop: 1\r\nKeep-Alive: 5\r\nTE: trailers, gzip\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA\r\nX-End: 1\r\n\r\n")
	if response == nil || response.StatusCode != 200 {
		t.Fatal(response)
	}
	r := host.requests()[0]
	for _, name := range []string{"Proxy-Authorization", "Proxy-Connection", "Connection", "X-Hop", "Keep-Alive", "Upgrade", "Accept-Encoding", "User-Agent", "X-Forwarded-For", "Via"} {
		if r.Header.Get(name) != "" {
			t.Errorf("%s: %q arrived", name, r.Header.Get(name))
		}
	}
	if r.Header.Get("X-End") != "1" || r.URL.RawQuery != "a=1;b=2" {
		t.Errorf("what is for the host did not arrive: %v", r)
	}
}

// Each request is ambiguous to two parsers in a row. Either it is refused, or
// the host sees one request, as the proxy does.
func TestRequestSmuggling(t *testing.T) {
	const smuggled = "GET http://evil.example/ HTTP/1.1\r\nHost: evil.example\r\n\r\n"
	for what, c := range map[string]string{
		"CL.TE":            "Content-Length: %d\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + smuggled,
		"TE.CL":            "Transfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n39\r\n" + smuggled + "\r\n0\r\n\r\n",
		"two lengths":      "Content-Length: 0\r\nContent-Length: %d\r\n\r\n" + smuggled,
		"length list":      "Content-Length: 0, %d\r\n\r\n" + smuggled,
		"length with sign": "Content-Length: +%d\r\n\r\n" + smuggled,
		"TE twice":         "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n",
		"TE misspelt":      "Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
		"TE in tabs":       "Transfer-Encoding:\tchunked\r\nContent-Length: 3\r\n\r\n0\r\n\r\n",
		"space in name":    "Content-Length : %d\r\n\r\n" + smuggled,
		"folded":           "X: a\r\n Content-Length: %d\r\n\r\n" + smuggled,
		"bare LF":          "X: a\nTransfer-Encoding: chunked\r\nContent-Length: 0\r\n\r\n0\r\n\r\n",
		"NUL":              "X: a\x00b\r\nContent-Length: 0\r\n\r\n",
		"CR in value":      "X: a\rContent-Length: 9\r\nContent-Length: 0\r\n\r\n",
		"chunk extension":  "Transfer-Encoding: chunked\r\n\r\n0;x=\"\r\n\r\n" + smuggled,
		"bad chunk":        "Transfer-Encoding: chunked\r\n\r\n0x1\r\na\r\n0\r\n\r\n",
	} {
		t.Run(what, func(t *testing.T) {
			w := newWorld(t).serve()
			var host recorder
			w.plainHost("data.example.org", publicIP, &host)
			w.plainHost("evil.example", "93.184.216.99", &host)
			s := w.admit(1, only("data.example.org"))
			if strings.Contains(c, "%d") {
				c = fmt.Sprintf(c, len(smuggled)+5)
			}
			conn, response := s.say("POST http://data.example.org/ HTTP/1.1\r\nHost: data.example.org\r\n" + c)
			if response == nil {
				t.Fatal("no answer")
			}
			conn.Close()
			w.stop()
			got := host.requests()
			if response.StatusCode >= 400 && len(got) == 0 {
				return
			}
			if len(got) != 1 || got[0].Host != "data.example.org" || strings.Contains(host.said[0], "\r\n\r\nGET") {
				t.Errorf("answered %s, the host saw %d requests: %q", response.Status, len(got), host.said)
			}
		})
	}
}

func TestTraceIsRefused(t *testing.T) {
	w := newWorld(t).serve()
	s := w.admit(1, open)
	for _, method := range []string{"TRACE", "TRACK"} {
		if _, response := s.say(method + " http://data.example.org/ HTTP/1.1\r\nHost: data.example.org\r\n\r\n"); response.StatusCode != 405 {
			t.Errorf("%s: %v", method, response)
		}
	}
}

func TestUserNameInURLIsRefused(t *testing.T) {
	w := newWorld(t).serve()
	w.plainHost("data.example.org", publicIP, say("x"))
	s := w.admit(1, open)
	for _, url := range []string{"http://user@data.example.org/", "http://data.example.org:80@evil.example/", "http://a:b@data.example.org/"} {
		if _, response := s.say("GET " + url + " HTTP/1.1\r\nHost: data.example.org\r\n\r\n"); response.StatusCode != 400 {
			t.Errorf("%s: %v", url, response)
		}
	}
}

func TestWebSocketPasses(t *testing.T) {
	w := newWorld(t).serve()
	w.plainHost("data.example.org", publicIP, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		conn, rw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer conn.Close()
		io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
		line, _ := rw.ReadString('\n')
		io.WriteString(conn, "echo "+line)
	}))
	s := w.admit(1, only("data.example.org"))
	conn, response := s.say("GET http://data.example.org/ HTTP/1.1\r\nHost: data.example.org\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
	if response == nil || response.StatusCode != 101 {
		t.Fatal(response)
	}
	io.WriteString(conn, "hello\n")
	if line, _ := bufio.NewReader(conn).ReadString('\n'); line != "echo hello\n" {
		t.Errorf("%q", line)
	}
}

func TestBodyArrivesAsItWasSent(t *testing.T) {
	w := newWorld(t).serve()
	w.plainHost("data.example.org", publicIP, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Encoding", "gzip")
		w.Header().Set("X-Encodings", r.Header.Get("Accept-Encoding"))
		io.WriteString(w, "not unpacked")
	}))
	s := w.admit(1, only("data.example.org"))
	s.DisableCompression = true
	response, err := s.http.Get("http://data.example.org/")
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	body, _ := io.ReadAll(response.Body)
	if string(body) != "not unpacked" || response.Header.Get("Content-Encoding") != "gzip" || response.Header.Get("X-Encodings") != "" {
		t.Errorf("%q %v", body, response.Header)
	}
}
