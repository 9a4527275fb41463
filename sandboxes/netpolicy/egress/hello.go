package egress

import (
	"bytes"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"strings"
	"time"
)

// maxHello bounds the bytes that are read to find a ClientHello.
const maxHello = 32 << 10

var (
	errHelloRead = errors.New("the ClientHello was read")
	errNoHello   = errors.New("what was sent is not the beginning of TLS")
)

// readHello reads a TLS ClientHello and returns the server name in it, "" when
// there is none, and all bytes that were read, more than the ClientHello perhaps. The
// parser is crypto/tls: its server is stopped when it has read that far.
func readHello(r io.Reader) (name string, read []byte, err error) {
	conn := &listening{r: io.LimitReader(r, maxHello)}
	err = tls.Server(conn, &tls.Config{
		GetConfigForClient: func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
			name = hello.ServerName
			return nil, errHelloRead
		},
	}).Handshake()
	if errors.Is(err, errHelloRead) {
		return name, conn.read.Bytes(), nil
	}
	return "", conn.read.Bytes(), errNoHello
}

// listening is a connection that remembers what was read and says nothing.
type listening struct {
	r    io.Reader
	read bytes.Buffer
}

func (l *listening) Read(b []byte) (int, error) {
	n, err := l.r.Read(b)
	l.read.Write(b[:n])
	return n, err
}

func (l *listening) Write(b []byte) (int, error)      { return len(b), nil }
func (l *listening) Close() error                     { return nil }
func (l *listening) LocalAddr() net.Addr              { return nil }
func (l *listening) RemoteAddr() net.Addr             { return nil }
func (l *listening) SetDeadline(time.Time) error      { return nil }
func (l *listening) SetReadDeadline(time.Time) error  { return nil }
func (l *listening) SetWriteDeadline(time.Time) error { return nil }

// checkHello says why a ClientHello must not go to a target; "" when it may.
// An encrypted ClientHello (ECH) shows its outer name, which is held to the same.
func checkHello(name string, t target) string {
	if name == "" {
		if t.addr.IsValid() {
			return ""
		}
		return "the TLS handshake names no server (SNI), and must name the host"
	}
	said, err := parseTarget(name, t.port)
	if err != nil || said != t || !strings.EqualFold(name, t.host) {
		return "the TLS handshake names another server (SNI)"
	}
	return ""
}

// alertDenied is a fatal TLS alert, access_denied, as a record of its own.
var alertDenied = []byte{21, 3, 3, 0, 2, 2, 49}
