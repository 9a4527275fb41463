package egress

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"kernelgw/sandboxes"
)

// world is a proxy with an internet of its own: a DNS server and hosts, all on
// loopback, which the proxy takes for public addresses.
type world struct {
	t     testing.TB
	proxy *Proxy
	addr  string // of the proxy
	dns   *fakeDNS
	web   *Authority // signs the hosts' certificates
	stop  func()     // ends Serve and waits for it

	mu      sync.Mutex
	routes  map[netip.AddrPort]netip.AddrPort
	dialled []netip.AddrPort // public addresses that were dialled
	denials []Denial
	said    chan struct{} // one for each denial
}

func newWorld(t testing.TB, change ...func(*Options)) *world {
	t.Helper()
	web, err := NewAuthority()
	if err != nil {
		t.Fatal(err)
	}
	w := &world{t: t, dns: newFakeDNS(t), web: web, routes: map[netip.AddrPort]netip.AddrPort{}, said: make(chan struct{}, 1000)}
	options := Options{
		Log: slog.New(slog.DiscardHandler), Resolver: w.dns.resolver(), Roots: poolOf(web),
		Audit: func(d Denial) {
			w.mu.Lock()
			w.denials = append(w.denials, d)
			w.mu.Unlock()
			w.said <- struct{}{}
		},
	}
	for _, c := range change {
		c(&options)
	}
	w.proxy, err = New(options)
	if err != nil {
		t.Fatal(err)
	}
	w.proxy.route = func(a netip.AddrPort) netip.AddrPort {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.dialled = append(w.dialled, a)
		if to, ok := w.routes[a]; ok {
			return to
		}
		t.Errorf("the proxy dials %s, which is no host of this test", a)
		return netip.MustParseAddrPort("127.0.0.1:1")
	}
	return w
}

// serve starts the proxy, after limits were set perhaps.
func (w *world) serve() *world {
	w.t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		w.t.Fatal(err)
	}
	w.addr = listener.Addr().String()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- w.proxy.Serve(ctx, listener) }()
	var once sync.Once
	w.stop = func() {
		once.Do(func() {
			cancel()
			if err := <-done; err != nil {
				w.t.Errorf("Serve: %v", err)
			}
		})
	}
	w.t.Cleanup(w.stop)
	return w
}

func poolOf(authorities ...*Authority) *x509.CertPool {
	pool := x509.NewCertPool()
	for _, a := range authorities {
		pool.AppendCertsFromPEM(a.PEM())
	}
	return pool
}

// host starts a TLS server of that name at a public address.
func (w *world) host(name, public string, handler http.Handler) *httptest.Server {
	w.t.Helper()
	server := httptest.NewUnstartedServer(handler)
	leaf, err := w.web.leaf(name)
	if err != nil {
		w.t.Fatal(err)
	}
	server.TLS = &tls.Config{Certificates: []tls.Certificate{*leaf}, NextProtos: []string{"h2", "http/1.1"}}
	server.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelDebug)
	server.EnableHTTP2 = true
	server.StartTLS()
	w.place(server, name, public+":443")
	return server
}

// plainHost is host without TLS, at port 80.
func (w *world) plainHost(name, public string, handler http.Handler) *httptest.Server {
	w.t.Helper()
	server := httptest.NewServer(handler)
	w.place(server, name, public+":80")
	return server
}

func (w *world) place(server *httptest.Server, name, public string) {
	w.t.Cleanup(server.Close)
	at := netip.MustParseAddrPort(public)
	w.lead(public, server.Listener.Addr().String())
	if _, err := netip.ParseAddr(name); err != nil {
		w.dns.set(name, at.Addr().String())
	}
}

func (w *world) lead(public, to string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.routes[netip.MustParseAddrPort(public)] = netip.MustParseAddrPort(to)
}

// sandbox is a client of the proxy, at a source address of its own.
type sandbox struct {
	*world
	addr netip.Addr
	http *http.Client
	*http.Transport
}

func (w *world) admit(last byte, policy sandboxes.NetworkPolicy) *sandbox {
	w.t.Helper()
	s := &sandbox{world: w, addr: netip.AddrFrom4([4]byte{127, 0, 1, last})}
	if err := w.proxy.Admit(s.addr, fmt.Sprintf("sandbox-%d", last), policy); err != nil {
		w.t.Fatal(err)
	}
	trusted := []*Authority{w.web}
	if w.proxy.options.Authority != nil {
		trusted = append(trusted, w.proxy.options.Authority)
	}
	s.Transport = &http.Transport{
		Proxy:           http.ProxyURL(&url.URL{Scheme: "http", Host: w.addr}),
		DialContext:     s.dialer().DialContext,
		TLSClientConfig: &tls.Config{RootCAs: poolOf(trusted...)},
	}
	s.http = &http.Client{Transport: s.Transport, Timeout: 20 * time.Second, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	w.t.Cleanup(s.Transport.CloseIdleConnections)
	return s
}

func (s *sandbox) dialer() *net.Dialer {
	return &net.Dialer{LocalAddr: &net.TCPAddr{IP: s.addr.AsSlice()}}
}

// get returns the status and body of a GET; for a CONNECT that was refused the
// reason phrase.
func (s *sandbox) get(url string) (int, string) {
	s.t.Helper()
	response, err := s.http.Get(url)
	if err != nil {
		return 0, err.Error()
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		return response.StatusCode, err.Error()
	}
	return response.StatusCode, string(body)
}

// dial connects to the proxy as the sandbox.
func (s *sandbox) dial() net.Conn {
	s.t.Helper()
	conn, err := s.dialer().Dial("tcp", s.world.addr)
	if err != nil {
		s.t.Fatal(err)
	}
	conn.SetDeadline(time.Now().Add(20 * time.Second))
	s.t.Cleanup(func() { conn.Close() })
	return conn
}

// say sends raw bytes to the proxy and returns the first response.
func (s *sandbox) say(raw string) (net.Conn, *http.Response) {
	s.t.Helper()
	conn := s.dial()
	if _, err := io.WriteString(conn, raw); err != nil {
		s.t.Fatal(err)
	}
	method, _, _ := strings.Cut(raw, " ")
	response, err := http.ReadResponse(bufio.NewReader(conn), &http.Request{Method: method})
	if err != nil {
		return conn, nil
	}
	s.t.Cleanup(func() { response.Body.Close() })
	return conn, response
}

// tunnel opens a CONNECT tunnel, which must be granted.
func (s *sandbox) tunnel(authority string) net.Conn {
	s.t.Helper()
	conn, response := s.say("CONNECT " + authority + " HTTP/1.1\r\nHost: " + authority + "\r\n\r\n")
	if response == nil || response.StatusCode != 200 {
		s.t.Fatalf("CONNECT %s: %v", authority, response)
	}
	return conn
}

// lastDenial waits for the next denial that the audit is told of.
func (w *world) lastDenial() Denial {
	w.t.Helper()
	select {
	case <-w.said:
	case <-time.After(10 * time.Second):
		w.t.Fatal("no denial was audited")
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.denials[len(w.denials)-1]
}

// dials returns how often the proxy has dialled.
func (w *world) dials() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.dialled)
}

func say(text string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, text) })
}
