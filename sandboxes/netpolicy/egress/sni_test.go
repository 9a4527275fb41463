package egress

import (
	"crypto/ecdh"
	"crypto/rand"
	"crypto/tls"
	"encoding/binary"
	"strings"
	"testing"
)

// handshake opens a tunnel and shakes hands in it.
func (s *sandbox) handshake(authority string, config *tls.Config) error {
	s.t.Helper()
	config.RootCAs = poolOf(s.web)
	return tls.Client(s.tunnel(authority), config).Handshake()
}

func TestSpoofedServerName(t *testing.T) {
	w := newWorld(t).serve()
	w.host("data.example.org", publicIP, say("secure"))
	s := w.admit(1, open)
	if err := s.handshake("data.example.org:443", &tls.Config{ServerName: "data.example.org"}); err != nil {
		t.Errorf("the true name: %v", err)
	}
	if err := s.handshake("DATA.example.org.:443", &tls.Config{ServerName: "data.example.org"}); err != nil {
		t.Errorf("the true name, written in another way: %v", err)
	}
	for what, c := range map[string]struct {
		to     string
		config *tls.Config
	}{
		"another name":             {"data.example.org:443", &tls.Config{ServerName: "evil.example.org"}},
		"a name below":             {"data.example.org:443", &tls.Config{ServerName: "x.data.example.org"}},
		"no name":                  {"data.example.org:443", &tls.Config{InsecureSkipVerify: true}},
		"address with a name":      {publicIP + ":443", &tls.Config{ServerName: "data.example.org"}},
		"ECH to another name":      {"data.example.org:443", &tls.Config{ServerName: "hidden.example", EncryptedClientHelloConfigList: echConfigs(t, "front.example"), MinVersion: tls.VersionTLS13}},
		"ECH whose inner is right": {"data.example.org:443", &tls.Config{ServerName: "data.example.org", EncryptedClientHelloConfigList: echConfigs(t, "front.example"), MinVersion: tls.VersionTLS13}},
	} {
		if err := s.handshake(c.to, c.config); err == nil || !strings.Contains(err.Error(), "access denied") {
			t.Errorf("%s: %v", what, err)
		}
		if d := w.lastDenial(); !strings.Contains(d.Reason, "SNI") {
			t.Errorf("%s: %+v", what, d)
		}
	}
	if u := w.proxy.Usage(s.addr); u.Denials != 6 {
		t.Errorf("usage %+v", u)
	}
}

// A raw address needs no name, and gets none.
func TestRawAddressUnderOpenPolicy(t *testing.T) {
	w := newWorld(t).serve()
	w.host(publicIP, publicIP, say("secure"))
	if err := w.admit(1, open).handshake(publicIP+":443", &tls.Config{ServerName: publicIP}); err != nil {
		t.Errorf("under open: %v", err)
	}
	s := w.admit(2, only("data.example.org"))
	if _, response := s.say("CONNECT " + publicIP + ":443 HTTP/1.1\r\nHost: " + publicIP + ":443\r\n\r\n"); response.StatusCode != 403 {
		t.Errorf("under a list of names: %v", response.Status)
	}
}

// echConfigs returns the ECHConfigList of a front: what clients get from DNS.
func echConfigs(t *testing.T, front string) []byte {
	t.Helper()
	key, err := ecdh.X25519().GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	var c []byte
	c = append(c, 1)                           // config id
	c = binary.BigEndian.AppendUint16(c, 0x20) // DHKEM(X25519)
	c = binary.BigEndian.AppendUint16(c, 32)   //
	c = append(c, key.PublicKey().Bytes()...)  //
	c = append(c, 0, 4, 0, 1, 0, 1)            // HKDF-SHA256, AES-128-GCM
	c = append(c, 32)                          // longest name
	c = append(append(c, byte(len(front))), front...)
	c = append(c, 0, 0) // no extensions
	config := append(binary.BigEndian.AppendUint16([]byte{0xfe, 0x0d}, uint16(len(c))), c...)
	return append(binary.BigEndian.AppendUint16(nil, uint16(len(config))), config...)
}

// DNS over HTTPS by a name that the policy names is HTTPS like any other: it
// resolves names for whoever asks, and opens nothing: connections go by our own
// resolver and check. By a name that it does not name it is refused, and so is DNS
// over TLS, by its port.
func TestDNSOverHTTPSOpensNothing(t *testing.T) {
	w := newWorld(t).serve()
	w.host("dns.example.org", publicIP, say("169.254.169.254"))
	w.dns.set("trap.example.org", "169.254.169.254")
	s := w.admit(1, only("dns.example.org", "trap.example.org"))
	if status, body := s.get("https://dns.example.org/dns-query?name=trap.example.org"); status != 200 || body != "169.254.169.254" {
		t.Errorf("%d %s", status, body)
	}
	for _, to := range []string{"http://trap.example.org/", "http://169.254.169.254/"} {
		if status, _ := s.get(to); status != 403 {
			t.Errorf("%s: %d", to, status)
		}
	}
	for _, to := range []string{"dns.example.org:853", "other-dns.example.org:443"} {
		if _, response := s.say("CONNECT " + to + " HTTP/1.1\r\nHost: " + to + "\r\n\r\n"); response.StatusCode != 403 {
			t.Errorf("%s: %v", to, response.Status)
		}
	}
}
