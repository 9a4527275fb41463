package egress

import (
	"crypto/tls"
	"io"
	"net"
	"strings"
	"testing"
	"time"
)

func TestConnectTricks(t *testing.T) {
	w := newWorld(t).serve()
	w.host("data.example.org", publicIP, say("secure"))
	s := w.admit(1, open)
	for what, c := range map[string]struct {
		request string
		status  int
	}{
		"to SSH":                  {"CONNECT data.example.org:22 HTTP/1.1\r\nHost: data.example.org:22\r\n\r\n", 403},
		"to SMTP":                 {"CONNECT data.example.org:25 HTTP/1.1\r\nHost: data.example.org:25\r\n\r\n", 403},
		"to Redis":                {"CONNECT data.example.org:6379 HTTP/1.1\r\nHost: data.example.org:6379\r\n\r\n", 403},
		"to DNS over TLS":         {"CONNECT data.example.org:853 HTTP/1.1\r\nHost: data.example.org:853\r\n\r\n", 403},
		"without a port":          {"CONNECT data.example.org HTTP/1.1\r\nHost: data.example.org\r\n\r\n", 400},
		"with a user":             {"CONNECT user@data.example.org:443 HTTP/1.1\r\nHost: data.example.org:443\r\n\r\n", 400},
		"with a user and a trap":  {"CONNECT data.example.org:443@169.254.169.254:443 HTTP/1.1\r\nHost: data.example.org:443\r\n\r\n", 400},
		"with a path":             {"CONNECT data.example.org:443/x HTTP/1.1\r\nHost: data.example.org:443\r\n\r\n", 400},
		"with a query":            {"CONNECT data.example.org:443?x HTTP/1.1\r\nHost: data.example.org:443\r\n\r\n", 400},
		"absolute":                {"CONNECT https://data.example.org:443 HTTP/1.1\r\nHost: data.example.org:443\r\n\r\n", 400},
		"absolute path":           {"CONNECT /data.example.org:443 HTTP/1.1\r\nHost: data.example.org:443\r\n\r\n", 400},
		"two ports":               {"CONNECT data.example.org:443:22 HTTP/1.1\r\nHost: data.example.org:443\r\n\r\n", 400},
		"encoded":                 {"CONNECT data%2eexample.org:443 HTTP/1.1\r\nHost: data.example.org:443\r\n\r\n", 400},
		"with a body":             {"CONNECT data.example.org:443 HTTP/1.1\r\nHost: data.example.org:443\r\nContent-Length: 5\r\n\r\nhello", 400},
		"with chunks":             {"CONNECT data.example.org:443 HTTP/1.1\r\nHost: data.example.org:443\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400},
		"with two Hosts":          {"CONNECT data.example.org:443 HTTP/1.1\r\nHost: data.example.org:443\r\nHost: evil.example\r\n\r\n", 400},
		"GET of an https URL":     {"GET https://data.example.org/ HTTP/1.1\r\nHost: data.example.org\r\n\r\n", 400},
		"GET of an ftp URL":       {"GET ftp://data.example.org/ HTTP/1.1\r\nHost: data.example.org\r\n\r\n", 400},
		"GET of a file URL":       {"GET file:///etc/passwd HTTP/1.1\r\nHost: data.example.org\r\n\r\n", 400},
		"GET of the proxy itself": {"GET / HTTP/1.1\r\nHost: data.example.org\r\n\r\n", 400},
		"HTTP/2 in plain text":    {"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400},
	} {
		conn, response := s.say(c.request)
		if response == nil || response.StatusCode != c.status {
			t.Errorf("%s: %v, want %d", what, response, c.status)
		}
		conn.Close()
	}
	if w.dials() != 0 {
		t.Errorf("dialled %v", w.dialled)
	}
}

// A tunnel carries TLS and nothing else, on whatever port.
func TestOtherProtocolsInATunnel(t *testing.T) {
	w := newWorld(t).serve()
	w.host("data.example.org", publicIP, say("secure"))
	w.place(w.plainHost("data.example.org", publicIP, say("plain")), "data.example.org", publicIP+":22")
	s := w.admit(1, only("data.example.org", "data.example.org:22"))
	for what, c := range map[string]struct{ to, said string }{
		"SSH":              {"data.example.org:443", "SSH-2.0-OpenSSH_9.2\r\n"},
		"SSH where listed": {"data.example.org:22", "SSH-2.0-OpenSSH_9.2\r\n"},
		"HTTP":             {"data.example.org:80", "GET / HTTP/1.1\r\nHost: evil.example\r\n\r\n"},
		"SMTP":             {"data.example.org:443", "EHLO x\r\n"},
		"SOCKS":            {"data.example.org:443", "\x05\x01\x00"},
		"an alert":         {"data.example.org:443", "\x15\x03\x01\x00\x02\x02\x28"},
		"another CONNECT":  {"data.example.org:443", "CONNECT evil.example:443 HTTP/1.1\r\nHost: evil.example:443\r\n\r\n"},
	} {
		conn := s.tunnel(c.to)
		io.WriteString(conn, c.said)
		conn.(*net.TCPConn).CloseWrite()
		answer, _ := io.ReadAll(conn)
		if string(answer) != string(alertDenied) {
			t.Errorf("%s: answered %q", what, answer)
		}
		if d := w.lastDenial(); d.Host != "data.example.org" || !strings.Contains(d.Reason, "TLS") {
			t.Errorf("%s: %+v", what, d)
		}
	}
	if u := w.proxy.Usage(s.addr); u.Up != 0 {
		t.Errorf("%d bytes went out", u.Up)
	}
}

// A client may send its ClientHello together with CONNECT.
func TestEarlyHello(t *testing.T) {
	w := newWorld(t).serve()
	w.host("data.example.org", publicIP, say("secure"))
	s := w.admit(1, only("data.example.org"))
	conn := s.dial()
	hello := helloOf(t, &tls.Config{ServerName: "data.example.org"})
	io.WriteString(conn, "CONNECT data.example.org:443 HTTP/1.1\r\nHost: data.example.org:443\r\n\r\n"+string(hello))
	answer := make([]byte, len("HTTP/1.1 200 Connection established\r\n\r\n")+1)
	if _, err := io.ReadFull(conn, answer); err != nil || answer[len(answer)-1] != 22 {
		t.Errorf("%q %v", answer, err)
	}
}

func TestHostThatCannotBeReached(t *testing.T) {
	w := newWorld(t).serve()
	s := w.admit(1, open)
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed.Close()
	w.dns.set("closed.example.org", publicIP)
	w.lead(publicIP+":80", closed.Addr().String())
	if status, body := s.get("http://closed.example.org/"); status != 502 || !strings.Contains(body, "does not accept") || strings.Contains(body, "127.0.0.1") {
		t.Errorf("closed: %d %s", status, body)
	}
	if status, body := s.get("http://nowhere.example.org/"); status != 502 || !strings.Contains(body, "no address") {
		t.Errorf("without an address: %d %s", status, body)
	}
	if u := w.proxy.Usage(s.addr); u.Denials != 0 || u.Connections != 0 {
		t.Errorf("usage %+v", u)
	}
}

// The second address is tried when the first does not accept.
func TestNextAddressIsTried(t *testing.T) {
	w := newWorld(t).serve()
	server := w.plainHost("two.example.org", publicIP, say("second"))
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed.Close()
	w.lead("93.184.216.35:80", closed.Addr().String())
	w.lead("93.184.216.36:80", server.Listener.Addr().String())
	w.dns.set("two.example.org", "93.184.216.35", "93.184.216.36")
	s := w.admit(1, open)
	if status, body := s.get("http://two.example.org/"); status != 200 || body != "second" {
		t.Errorf("%d %s", status, body)
	}
}

// A client that does not wait for the answer to its CONNECT loses nothing of what
// it has sent behind its ClientHello.
func TestWhatIsSentAheadOfTheAnswerArrives(t *testing.T) {
	w := newWorld(t).serve()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	w.lead(publicIP+":443", listener.Addr().String())
	w.dns.set("data.example.org", publicIP)
	hello := string(helloOf(t, &tls.Config{ServerName: "data.example.org"}))
	ahead := hello + strings.Repeat("early data", 200)
	conn, response := w.admit(1, open).say("CONNECT data.example.org:443 HTTP/1.1\r\nHost: data.example.org:443\r\n\r\n" + ahead)
	if response == nil || response.StatusCode != 200 {
		t.Fatal(response)
	}
	conn.(*net.TCPConn).CloseWrite()
	host, err := listener.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer host.Close()
	host.SetDeadline(time.Now().Add(10 * time.Second))
	if got, err := io.ReadAll(host); err != nil || string(got) != ahead {
		t.Errorf("%d bytes arrived of %d: %v", len(got), len(ahead), err)
	}
}
