package servers

import (
	"errors"
	"io"
	"net"
	"testing"
	"time"

	"kernelgw/conformance/probe"
)

// ends are those of a connection over a link, and the link.
type ends struct {
	link           *link
	client, server net.Conn
}

// joined opens a connection over a link of its own.
func joined(t *testing.T) ends {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	l, err := newLink(listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.close(); err != nil {
			t.Error(err)
		}
	})
	e := ends{link: l}
	if e.client, err = net.Dial("tcp", l.listener.Addr().String()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { e.client.Close() })
	if e.server, err = listener.Accept(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { e.server.Close() })
	crosses(t, e.client, e.server)
	crosses(t, e.server, e.client)
	return e
}

func crosses(t *testing.T, from, to net.Conn) {
	t.Helper()
	if _, err := from.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	arrives(t, to)
}

func arrives(t *testing.T, at net.Conn) {
	t.Helper()
	_ = at.SetReadDeadline(time.Now().Add(probe.Patience))
	if _, err := io.ReadFull(at, make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
}

// silent wants nothing to come for a moment.
func silent(t *testing.T, at net.Conn) {
	t.Helper()
	_ = at.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
	var timeout net.Error
	if n, err := at.Read(make([]byte, 1)); !errors.As(err, &timeout) || !timeout.Timeout() {
		t.Fatalf("it reads %d bytes, %v", n, err)
	}
}

func ended(t *testing.T, at net.Conn) {
	t.Helper()
	_ = at.SetReadDeadline(time.Now().Add(probe.Patience))
	var timeout net.Error
	if n, err := at.Read(make([]byte, 1)); err == nil || errors.As(err, &timeout) && timeout.Timeout() {
		t.Fatalf("it reads %d bytes, %v", n, err)
	}
}

func TestStalledLinkLosesNothing(t *testing.T) {
	e := joined(t)
	e.link.stall()
	if _, err := e.client.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	silent(t, e.server)
	e.link.mend()
	arrives(t, e.server)
	crosses(t, e.server, e.client)
}

func TestCutLinkEndsBothEnds(t *testing.T) {
	e := joined(t)
	e.link.cut()
	ended(t, e.client)
	ended(t, e.server)
}

func TestForgottenConnectionIsOpenAtTheServer(t *testing.T) {
	e := joined(t)
	e.link.forget()
	ended(t, e.client)
	e.link.mend()
	silent(t, e.server)
	if _, err := e.server.Write([]byte("x")); err != nil {
		t.Error(err)
	}
}

func TestNewConnectionsWaitForTheLink(t *testing.T) {
	e := joined(t)
	e.link.cut()
	late, err := net.Dial("tcp", e.link.listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer late.Close()
	silent(t, late)
	e.link.mend()
	silent(t, late) // it is open, with a server that says nothing
}

func TestEndOfAConnectionCrosses(t *testing.T) {
	e := joined(t)
	if err := e.client.(*net.TCPConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	ended(t, e.server)
	crosses(t, e.server, e.client)
}
