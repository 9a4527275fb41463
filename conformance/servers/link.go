package servers

import (
	"errors"
	"io"
	"net"
	"sync"
)

// link is a network of one hop, on the loopback: a relay of TCP connections that
// can be broken in the ways in which networks break.
type link struct {
	listener net.Listener
	to       string
	joined   sync.WaitGroup

	mu    sync.Mutex         // guards the rest
	up    chan struct{}      // closed while bytes cross
	whole map[*pair]struct{} // connections from end to end
	lost  []net.Conn         // ends whose other end is gone, and which do not know it
	done  bool
}

// pair is the two halves of a connection.
type pair struct{ client, server *net.TCPConn }

// newLink returns a link to a host and port, which is up.
func newLink(to string) (*link, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	l := &link{listener: listener, to: to, up: make(chan struct{}), whole: make(map[*pair]struct{})}
	close(l.up)
	l.joined.Go(l.accept)
	return l, nil
}

func (l *link) accept() {
	for {
		client, err := l.listener.Accept()
		if err != nil {
			return
		}
		l.joined.Go(func() { l.carry(client.(*net.TCPConn)) })
	}
}

// carry joins a client with the server, once the network is there, until an end
// or the network breaks the connection.
func (l *link) carry(client *net.TCPConn) {
	<-l.way()
	server, err := net.Dial("tcp", l.to)
	if err != nil {
		reset(client)
		return
	}
	p := &pair{client, server.(*net.TCPConn)}
	l.mu.Lock()
	l.whole[p] = struct{}{}
	l.mu.Unlock()
	if l.closed() {
		l.end(p, reset)
	}
	var both sync.WaitGroup
	both.Go(func() { l.copy(p, p.server, p.client) })
	both.Go(func() { l.copy(p, p.client, p.server) })
	both.Wait()
	l.end(p, func(c *net.TCPConn) { _ = c.Close() })
}

// copy passes bytes on, and their end.
func (l *link) copy(p *pair, to, from *net.TCPConn) {
	buf := make([]byte, 64<<10)
	for {
		n, err := from.Read(buf)
		<-l.way()
		if n > 0 {
			if _, failed := to.Write(buf[:n]); failed != nil {
				err = failed
			}
		}
		switch {
		case errors.Is(err, io.EOF):
			_ = to.CloseWrite()
			return
		case err != nil:
			l.end(p, reset)
			return
		}
	}
}

// end ends both halves of a connection, unless that was done.
func (l *link) end(p *pair, half func(*net.TCPConn)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if _, whole := l.whole[p]; whole {
		delete(l.whole, p)
		half(p.client)
		half(p.server)
	}
}

// reset ends a connection without a word, and drops what was not sent.
func reset(c *net.TCPConn) {
	_ = c.SetLinger(0)
	_ = c.Close()
}

// way is closed while bytes cross.
func (l *link) way() <-chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.up
}

func (l *link) closed() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.done
}

// stall lets nothing cross, and loses nothing: bytes and new connections wait.
func (l *link) stall() {
	l.mu.Lock()
	defer l.mu.Unlock()
	select {
	case <-l.up:
		l.up = make(chan struct{})
	default: // it stands already
	}
}

// mend lets bytes cross again.
func (l *link) mend() {
	l.mu.Lock()
	defer l.mu.Unlock()
	select {
	case <-l.up:
	default:
		close(l.up)
	}
}

// cut resets every connection; new ones wait until mend.
func (l *link) cut() { l.lose(func(p *pair) { reset(p.server) }) }

// forget is cut, but the server is told nothing: its ends stay open, and silent.
func (l *link) forget() { l.lose(func(p *pair) { l.lost = append(l.lost, p.server) }) }

// lose stalls, resets the client's end of every connection, and does something with
// the server's, with the lock held.
func (l *link) lose(server func(*pair)) {
	l.stall()
	l.mu.Lock()
	defer l.mu.Unlock()
	for p := range l.whole {
		delete(l.whole, p)
		reset(p.client)
		server(p)
	}
}

// close ends all connections and waits for what carried them.
func (l *link) close() error {
	err := l.listener.Close()
	l.mu.Lock()
	l.done = true
	for _, c := range l.lost {
		_ = c.Close()
	}
	l.mu.Unlock()
	l.cut()
	l.mend()
	l.joined.Wait()
	return err
}
