package agentapi

import (
	"context"
	"errors"
	"net"
)

// socketBuffer is what the operating systems at both ends of a connection to an
// agent may hold of what it sends: as much as a Unix socket does. By themselves
// they take megabytes when the other side is slow, all of which is sent twice
// when the gateway dies.
const socketBuffer = 208 << 10

// dialTCP connects to an agent.
func dialTCP(ctx context.Context, address string) (net.Conn, error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, err
	}
	if err := conn.(*net.TCPConn).SetReadBuffer(socketBuffer); err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	return conn, nil
}

// ListenTCP listens as an agent does on host:port.
func ListenTCP(address string) (net.Listener, error) {
	l, err := net.Listen("tcp", address)
	if err != nil {
		return nil, err
	}
	return tcpListener{l.(*net.TCPListener)}, nil
}

type tcpListener struct{ *net.TCPListener }

// Accept implements net.Listener.
func (l tcpListener) Accept() (net.Conn, error) {
	conn, err := l.AcceptTCP()
	if err != nil {
		return nil, err
	}
	// One that has ended already says so at the first read.
	_ = conn.SetWriteBuffer(socketBuffer)
	return conn, nil
}
