package egress

import (
	"bytes"
	"crypto/tls"
	"io"
	"net"
	"strings"
	"testing"
	"testing/iotest"
)

// helloOf returns the first bytes of a TLS client.
func helloOf(t testing.TB, config *tls.Config) []byte {
	t.Helper()
	client, server := net.Pipe()
	done := make(chan []byte)
	go func() {
		buffer := make([]byte, 64<<10)
		n, _ := server.Read(buffer)
		server.Close()
		done <- buffer[:n]
	}()
	tls.Client(client, config).Handshake()
	client.Close()
	return <-done
}

// records cuts a handshake message into records of n bytes each.
func records(hello []byte, n int) []byte {
	message, cut := hello[5:], []byte(nil)
	for len(message) > 0 {
		part := message[:min(n, len(message))]
		message = message[len(part):]
		cut = append(cut, 22, 3, 1, byte(len(part)>>8), byte(len(part)))
		cut = append(cut, part...)
	}
	return cut
}

func TestHelloIsReadInAnyPieces(t *testing.T) {
	hello := helloOf(t, &tls.Config{ServerName: "data.example.org", NextProtos: []string{"h2", "http/1.1"}})
	for what, in := range map[string]io.Reader{
		"at once":          bytes.NewReader(hello),
		"byte by byte":     iotest.OneByteReader(bytes.NewReader(hello)),
		"in small records": bytes.NewReader(records(hello, 7)),
		"with more behind": bytes.NewReader(append(bytes.Clone(hello), "early data"...)),
		"TLS 1.2":          bytes.NewReader(helloOf(t, &tls.Config{ServerName: "data.example.org", MaxVersion: tls.VersionTLS12})),
	} {
		name, read, err := readHello(in)
		if err != nil || name != "data.example.org" || len(read) < 100 {
			t.Errorf("%s: %q, %d bytes, %v", what, name, len(read), err)
		}
	}
	name, _, err := readHello(bytes.NewReader(helloOf(t, &tls.Config{ServerName: "93.184.216.34", InsecureSkipVerify: true})))
	if err != nil || name != "" {
		t.Errorf("for an address: %q %v", name, err)
	}
}

func TestWhatIsNotAHelloIsRefused(t *testing.T) {
	hello := helloOf(t, &tls.Config{ServerName: "data.example.org"})
	for what, in := range map[string]string{
		"nothing":        "",
		"SSH":            "SSH-2.0-OpenSSH_9.2\r\n",
		"HTTP":           "GET / HTTP/1.1\r\nHost: data.example.org\r\n\r\n",
		"HTTP/2":         "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
		"SMTP":           "EHLO evil\r\n",
		"SSLv2":          "\x80\x2e\x01\x03\x01\x00\x15\x00\x00\x00\x10",
		"alert":          "\x15\x03\x01\x00\x02\x02\x28",
		"half":           string(hello[:len(hello)/2]),
		"other message":  "\x16\x03\x01\x00\x04\x02\x00\x00\x00",
		"endless record": "\x16\x03\x01\xff\xff" + strings.Repeat("\x01", 1<<17),
		"endless hello":  "\x16\x03\x01\x40\x00\x01\xff\xff\xff" + strings.Repeat("\x00", 1<<17),
		"long hello":     longHello(60000),
		"cut extensions": string(hello[:len(hello)-3]),
	} {
		if name, read, err := readHello(strings.NewReader(in)); err == nil || len(read) > maxHello {
			t.Errorf("%s: %q, %d bytes, %v", what, name, len(read), err)
		}
	}
}

// longHello is a ClientHello of that many bytes, in records as long as they may
// be.
func longHello(size int) string {
	hello := "\x01" + string([]byte{0, byte(size >> 8), byte(size)}) + strings.Repeat("\x03", size)
	var b strings.Builder
	for len(hello) > 0 {
		part := hello[:min(len(hello), 1<<14)]
		hello = hello[len(part):]
		b.WriteString("\x16\x03\x01" + string([]byte{byte(len(part) >> 8), byte(len(part))}) + part)
	}
	return b.String()
}

func FuzzReadHello(f *testing.F) {
	// Small ones: without the keys of TLS 1.3, and without those after quantum ones.
	f.Add(helloOf(f, &tls.Config{ServerName: "data.example.org", MaxVersion: tls.VersionTLS12}))
	f.Add(helloOf(f, &tls.Config{ServerName: "data.example.org", CurvePreferences: []tls.CurveID{tls.X25519}}))
	f.Add(records(helloOf(f, &tls.Config{ServerName: "a.b", MaxVersion: tls.VersionTLS12}), 50))
	f.Add([]byte("\x16\x03\x01\x00\x04\x02\x00\x00\x00"))
	f.Add([]byte("SSH-2.0-x"))
	to := target{host: "data.example.org", port: 443}
	f.Fuzz(func(t *testing.T, in []byte) {
		name, read, err := readHello(bytes.NewReader(in))
		if !bytes.HasPrefix(in, read) {
			t.Fatal("bytes that were not sent")
		}
		if err != nil {
			return
		}
		if checkHello(name, to) == "" && !strings.EqualFold(name, to.host) {
			t.Fatalf("%q passes for %s", name, to)
		}
	})
}
