package egress

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"testing"

	"kernelgw/sandboxes"
)

const (
	placeholder = "kgw-secret-4f1d2c"
	value       = "sk-live-VERYSECRET"
)

// vault is a world with a secret for api.example.org, whose log is kept.
type vault struct {
	*world
	api    recorder
	log    lockedBuffer
	secret []Secret
	fail   error
}

type lockedBuffer struct {
	mu sync.Mutex
	bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.Buffer.Write(p)
}

func newVault(t *testing.T) *vault {
	authority, err := NewAuthority()
	if err != nil {
		t.Fatal(err)
	}
	v := &vault{secret: []Secret{{Name: "api", Placeholder: placeholder, Value: value, Hosts: []string{"api.example.org"}}}}
	v.world = newWorld(t, func(o *Options) {
		o.Authority = authority
		o.Log = slog.New(slog.NewTextHandler(&v.log, &slog.HandlerOptions{Level: slog.LevelDebug}))
		o.Secrets = func(_ context.Context, client string) ([]Secret, error) {
			if client != "sandbox-1" {
				return nil, v.fail
			}
			return v.secret, v.fail
		}
	}).serve()
	v.host("api.example.org", publicIP, &v.api)
	// Whatever a test did: the value is in no log and no denial.
	t.Cleanup(func() {
		v.stop()
		if strings.Contains(v.log.String(), value) || strings.Contains(fmt.Sprint(v.denials), value) {
			t.Errorf("the value was told: %s %v", v.log.String(), v.denials)
		}
	})
	return v
}

func (s *sandbox) send(method, url string, header map[string]string, body string) (int, http.Header, string) {
	s.t.Helper()
	request, err := http.NewRequest(method, url, strings.NewReader(body))
	if err != nil {
		s.t.Fatal(err)
	}
	for name, value := range header {
		request.Header.Set(name, value)
	}
	if host := header["Host"]; host != "" {
		request.Host = host
	}
	response, err := s.http.Do(request)
	if err != nil {
		return 0, nil, err.Error()
	}
	defer response.Body.Close()
	got, _ := io.ReadAll(response.Body)
	return response.StatusCode, response.Header, string(got)
}

func TestPlaceholderBecomesTheValueInHeaders(t *testing.T) {
	v := newVault(t)
	s := v.admit(1, only("api.example.org"))
	basic := "Basic " + base64.StdEncoding.EncodeToString([]byte("me:"+placeholder))
	for _, h2 := range []bool{false, true} {
		s.ForceAttemptHTTP2 = h2
		for name, sent := range map[string]string{"Authorization": "Bearer " + placeholder, "X-Api-Key": placeholder, "Cookie": "session=" + placeholder + "; b=1"} {
			if status, _, body := s.send("GET", "https://api.example.org/x?y=1", map[string]string{name: sent}, ""); status != 200 {
				t.Fatal(status, body)
			}
			r := v.api.requests()[len(v.api.requests())-1]
			if got, want := r.Header.Get(name), strings.ReplaceAll(sent, placeholder, value); got != want || r.Host != "api.example.org" || r.URL.RequestURI() != "/x?y=1" {
				t.Errorf("%s: %q at %s, want %q", name, got, r.Host, want)
			}
		}
	}
	s.send("GET", "https://api.example.org/", map[string]string{"Authorization": basic}, "")
	r := v.api.requests()[len(v.api.requests())-1]
	if user, password, ok := r.BasicAuth(); !ok || user != "me" || password != value {
		t.Errorf("Basic: %q %q", user, password)
	}
	if r.ProtoMajor != 2 {
		t.Errorf("upstream speaks %s", r.Proto)
	}
}

// Placeholder exfiltration: by every way but the one, the placeholder stays
// what it is.
func TestPlaceholderIsNotReplacedElsewhere(t *testing.T) {
	v := newVault(t)
	var other, plain recorder
	v.host("evil.example.org", "93.184.216.40", &other)
	v.plainHost("api.example.org", publicIP, &plain)
	s := v.admit(1, only("api.example.org", "evil.example.org"))
	header := map[string]string{"Authorization": "Bearer " + placeholder}
	s.send("GET", "https://evil.example.org/", header, "")
	s.send("GET", "http://api.example.org/", header, "")
	s.send("POST", "https://api.example.org/"+placeholder+"?k="+placeholder, nil, "body "+placeholder)
	if status, _, _ := s.send("GET", "https://api.example.org/", map[string]string{"Authorization": placeholder, "Host": "evil.example.org"}, ""); status != http.StatusMisdirectedRequest {
		t.Errorf("Host of another: %d", status)
	}
	if d := v.lastDenial(); d.Host != "evil.example.org" {
		t.Errorf("%+v", d)
	}
	for what, r := range map[string]*recorder{"another host": &other, "plain HTTP": &plain, "URL and body": &v.api} {
		got := r.requests()
		if len(got) != 1 {
			t.Errorf("%s: %d requests", what, len(got))
			continue
		}
		if all := fmt.Sprint(got[0].Header, got[0].URL, got[0].Host, r.said); strings.Contains(all, value) || !strings.Contains(all, placeholder) {
			t.Errorf("%s: %s", what, all)
		}
	}
	// Another client's requests are not touched, nor is its TLS ended.
	second := v.admit(2, only("api.example.org"))
	second.TLSClientConfig.RootCAs = poolOf(v.web)
	if status, _, body := second.send("GET", "https://api.example.org/", header, ""); status != 200 {
		t.Error(status, body)
	}
	if got := v.api.requests()[1].Header.Get("Authorization"); got != "Bearer "+placeholder {
		t.Errorf("another client: %q", got)
	}
}

// Only hosts with a secret are intercepted: elsewhere the client sees the
// host's own certificate.
func TestOnlyHostsWithASecretAreIntercepted(t *testing.T) {
	v := newVault(t)
	v.host("data.example.org", "93.184.216.41", say("x"))
	s := v.admit(1, only("api.example.org", "data.example.org"))
	for name, issuer := range map[string]*Authority{"api.example.org": v.proxy.options.Authority, "data.example.org": v.web} {
		conn := tls.Client(s.tunnel(name+":443"), &tls.Config{ServerName: name, RootCAs: poolOf(issuer)})
		if err := conn.Handshake(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestInterceptionHoldsServerNamesToTheSame(t *testing.T) {
	v := newVault(t)
	s := v.admit(1, only("api.example.org"))
	for what, config := range map[string]*tls.Config{"spoofed": {ServerName: "evil.example.org"}, "none": {InsecureSkipVerify: true}} {
		if err := s.handshake("api.example.org:443", config); err == nil || !strings.Contains(err.Error(), "access denied") {
			t.Errorf("%s: %v", what, err)
		}
	}
}

// The value goes to whom the system's roots vouch for, and to nobody else.
func TestSecretsOnlyOverVerifiedTLS(t *testing.T) {
	v := newVault(t)
	stranger, err := NewAuthority()
	if err != nil {
		t.Fatal(err)
	}
	var fake recorder
	for what, leaf := range map[string]func() (*tls.Certificate, error){
		"from an unknown authority": func() (*tls.Certificate, error) { return stranger.leaf("api.example.org") },
		"for another host":          func() (*tls.Certificate, error) { return v.web.leaf("evil.example.org") },
		"of the sandbox's own":      func() (*tls.Certificate, error) { return v.proxy.options.Authority.leaf("api.example.org") },
	} {
		certificate, err := leaf()
		if err != nil {
			t.Fatal(err)
		}
		server := v.host("api.example.org", publicIP, &fake)
		server.TLS.Certificates = []tls.Certificate{*certificate}
		s := v.admit(1, only("api.example.org"))
		status, _, body := s.send("GET", "https://api.example.org/", map[string]string{"Authorization": placeholder}, "")
		if status != 502 || !strings.Contains(body, "certificate") || strings.Contains(body, value) {
			t.Errorf("%s: %d %s", what, status, body)
		}
		s.CloseIdleConnections()
		v.proxy.Dismiss(s.addr)
	}
	if n := len(fake.requests()); n != 0 {
		t.Errorf("%d requests arrived", n)
	}
}

// A host that repeats what it got does not give the value away in headers, and
// our own answers never hold it.
func TestValueDoesNotComeBack(t *testing.T) {
	v := newVault(t)
	v.host("api.example.org", publicIP, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/break" {
			conn, _, err := http.NewResponseController(w).Hijack()
			if err != nil {
				t.Error(err)
				return
			}
			io.WriteString(conn, r.Header.Get("X-Key")+" is not HTTP\r\n\r\n")
			conn.Close()
			return
		}
		w.Header().Set("X-Echo", "you sent "+r.Header.Get("X-Key"))
		http.Redirect(w, r, "https://evil.example.org/?k="+r.Header.Get("X-Key"), http.StatusFound)
	})).TLS.NextProtos = []string{"http/1.1"}
	s := v.admit(1, only("api.example.org"))
	status, header, body := s.send("GET", "https://api.example.org/", map[string]string{"X-Key": placeholder}, "")
	if status != 302 || header.Get("X-Echo") != "you sent "+placeholder || strings.Contains(fmt.Sprint(header), value) {
		t.Errorf("%d %v %s", status, header, body)
	}
	if status, header, body := s.send("GET", "https://api.example.org/break", map[string]string{"X-Key": placeholder}, ""); status != 502 || strings.Contains(fmt.Sprint(header, body), value) {
		t.Errorf("%d %v %s", status, header, body)
	}
	if status, _, _ := s.send("TRACE", "https://api.example.org/", map[string]string{"X-Key": placeholder}, ""); status != 405 {
		t.Errorf("TRACE: %d", status)
	}
}

func TestSecretDoesNotWidenThePolicy(t *testing.T) {
	v := newVault(t)
	s := v.admit(1, only("data.example.org"))
	if _, response := s.say("CONNECT api.example.org:443 HTTP/1.1\r\nHost: api.example.org:443\r\n\r\n"); response.StatusCode != 403 {
		t.Error(response.Status)
	}
}

func TestSecretHostThatLeadsToPrivateAddresses(t *testing.T) {
	v := newVault(t)
	v.dns.set("api.example.org", "10.0.0.1")
	s := v.admit(1, only("api.example.org"))
	if status, _, body := s.send("GET", "https://api.example.org/", map[string]string{"X-Key": placeholder}, ""); status != 403 || !strings.Contains(body, "private") {
		t.Errorf("%d %s", status, body)
	}
}

// An intercepted connection that is open does not outlive what it was allowed
// by: secrets are read, and the policy asked, at each request.
func TestSecretsAndPolicyOfAnOpenConnection(t *testing.T) {
	v := newVault(t)
	s := v.admit(1, only("api.example.org"))
	header := map[string]string{"X-Key": placeholder}
	s.send("GET", "https://api.example.org/", header, "")
	v.secret = nil // revoked
	s.send("GET", "https://api.example.org/", header, "")
	got := v.api.requests()
	if len(got) != 2 || got[0].Header.Get("X-Key") != value || got[1].Header.Get("X-Key") != placeholder {
		t.Errorf("%v", got)
	}
	if err := v.proxy.Admit(s.addr, "sandbox-1", only()); err != nil {
		t.Fatal(err)
	}
	if status, _, body := s.send("GET", "https://api.example.org/", header, ""); status != 0 {
		t.Errorf("%d %s", status, body)
	}
	if n := v.proxy.Usage(s.addr).Open; n != 0 {
		t.Errorf("%d connections open", n)
	}
}

func TestSecretsThatCannotBeRead(t *testing.T) {
	v := newVault(t)
	v.fail = errors.New("vault sealed")
	s := v.admit(1, only("api.example.org"))
	if _, response := s.say("CONNECT api.example.org:443 HTTP/1.1\r\nHost: api.example.org:443\r\n\r\n"); response.StatusCode != 503 {
		t.Error(response.Status)
	}
}

func TestSecretsThatCannotBeUsed(t *testing.T) {
	good := Secret{Name: "n", Placeholder: placeholder, Value: value, Hosts: []string{"api.example.org", "*.example.com:8443"}}
	if err := good.Check(); err != nil {
		t.Error(err)
	}
	for what, change := range map[string]func(*Secret){
		"short placeholder":    func(s *Secret) { s.Placeholder = "abc" },
		"space in placeholder": func(s *Secret) { s.Placeholder = "a placeholder" },
		"no value":             func(s *Secret) { s.Value = "" },
		"header injection":     func(s *Secret) { s.Value = value + "\r\nX-Evil: 1" },
		"NUL":                  func(s *Secret) { s.Value = value + "\x00" },
		"value in placeholder": func(s *Secret) { s.Placeholder = "x" + value },
		"placeholder in value": func(s *Secret) { s.Value = placeholder + "x" },
		"no host":              func(s *Secret) { s.Hosts = nil },
		"every host":           func(s *Secret) { s.Hosts = []string{"*"} },
		"private host":         func(s *Secret) { s.Hosts = []string{"10.0.0.1"} },
	} {
		s := good
		change(&s)
		if err := s.Check(); err == nil || strings.Contains(err.Error(), value) {
			t.Errorf("%s: %v", what, err)
		}
		to, err := parseTarget("api.example.org:443", 0)
		if err != nil {
			t.Fatal(err)
		}
		if s.isFor(to) {
			t.Errorf("%s: is used", what)
		}
	}
	if _, err := New(Options{Secrets: func(context.Context, string) ([]Secret, error) { return nil, nil }}); err == nil {
		t.Error("secrets without an authority")
	}
	if err := Check(sandboxes.NetworkPolicy{Egress: sandboxes.EgressOpen}); err != nil {
		t.Error(err)
	}
}

// One secret's value is no place for another's placeholder.
func TestValuesAreNotReplacedAgain(t *testing.T) {
	s := newSubstitution([]Secret{{Placeholder: "placeholder-a", Value: "placeholder-b"}, {Placeholder: "placeholder-b", Value: "VALUE-B"}})
	header := http.Header{"X": {"placeholder-a placeholder-b"}, "Authorization": {"Basic not base64 placeholder-a", "basic " + base64.RawStdEncoding.EncodeToString([]byte("u:placeholder-a"))}}
	s.put(header)
	if got := header.Get("X"); got != "placeholder-b VALUE-B" {
		t.Error(got)
	}
	if got := header["Authorization"][0]; got != "Basic not base64 placeholder-b" {
		t.Error(got)
	}
	if got := header["Authorization"][1]; got != "basic "+base64.StdEncoding.EncodeToString([]byte("u:placeholder-b")) {
		t.Error(got)
	}
}

// A short request must not become a hundred megabytes in the gateway's memory.
func TestRepeatedPlaceholdersAreBounded(t *testing.T) {
	v := newVault(t)
	v.secret[0].Value = value + strings.Repeat("x", 60<<10)
	s := v.admit(1, only("api.example.org"))
	if status, _, body := s.send("GET", "https://api.example.org/", map[string]string{"X-Api-Key": placeholder}, ""); status != 200 {
		t.Errorf("once: %d %s", status, body)
	}
	sent := len(v.api.requests())
	many := strings.Repeat(placeholder, 1000)
	for name, value := range map[string]string{
		"X-Api-Key": many, "Authorization": "Basic " + base64.StdEncoding.EncodeToString([]byte(many)),
	} {
		if status, _, _ := s.send("GET", "https://api.example.org/", map[string]string{name: value}, ""); status != http.StatusRequestHeaderFieldsTooLarge {
			t.Errorf("a thousand times in %s: %d", name, status)
		}
	}
	if len(v.api.requests()) != sent {
		t.Error("the host was sent the value a thousand times")
	}
}
