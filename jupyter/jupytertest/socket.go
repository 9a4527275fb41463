package jupytertest

import (
	"bufio"
	"encoding/binary"
	"errors"
	"net"
	"sync"

	"github.com/go-zeromq/zmq4"
	"github.com/go-zeromq/zmq4/security/null"
)

// socket is a bound ZeroMQ socket: a listener and the peers that connected.
// The handshake and the reading of frames are zmq4's, so that the fake kernel
// shares no code with package jupyter/zmq, which is tested against it. Frames
// are written here, because zmq4's two writes for each are too slow for a load
// test.
type socket struct {
	listener net.Listener
	kind     zmq4.SocketType
	receive  func(*peer, [][]byte) // called by each peer's own goroutine

	mu    sync.Mutex
	peers map[*peer]struct{} // guarded by mu
	done  bool               // guarded by mu
	group sync.WaitGroup
}

func listen(network, address string, kind zmq4.SocketType, receive func(*peer, [][]byte)) (*socket, error) {
	l, err := net.Listen(network, address)
	if err != nil {
		return nil, err
	}
	s := &socket{listener: l, kind: kind, receive: receive, peers: make(map[*peer]struct{})}
	return s, nil
}

// serve accepts peers until close, and returns when all their goroutines have.
func (s *socket) serve() {
	for {
		conn, err := s.listener.Accept()
		if err != nil {
			break
		}
		p := newPeer(conn)
		if !s.add(p) {
			conn.Close()
			break
		}
		s.group.Go(func() {
			defer s.remove(p)
			defer conn.Close()
			s.read(p)
		})
	}
	s.group.Wait()
}

func (s *socket) read(p *peer) {
	z, err := zmq4.Open(p, null.Security(), s.kind, nil, true, nil)
	if err != nil {
		return
	}
	s.mu.Lock()
	p.identity = z.Peer.Meta["Identity"]
	s.mu.Unlock()
	for {
		m, err := z.RecvMsg()
		if err != nil {
			return
		}
		if m.Type == zmq4.UsrMsg {
			s.receive(p, m.Frames)
		}
	}
}

func (s *socket) add(p *peer) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.done {
		return false
	}
	s.peers[p] = struct{}{}
	return true
}

func (s *socket) remove(p *peer) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.peers, p)
}

// find returns the peer with that identity, nil when it is not connected.
func (s *socket) find(identity string) *peer {
	s.mu.Lock()
	defer s.mu.Unlock()
	for p := range s.peers {
		if p.identity == identity {
			return p
		}
	}
	return nil
}

// publish sends bytes to all subscribers.
func (s *socket) publish(wire []byte, flush bool) {
	s.mu.Lock()
	var to []*peer
	for p := range s.peers {
		if p.subscribed {
			to = append(to, p)
		}
	}
	s.mu.Unlock()
	for _, p := range to {
		p.send(wire, flush)
	}
}

func (s *socket) subscribe(p *peer) {
	s.mu.Lock()
	defer s.mu.Unlock()
	p.subscribed = true
}

func (s *socket) close() {
	s.listener.Close()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.done = true
	for p := range s.peers {
		p.Conn.Close()
	}
}

// peer is one connection: the buffered net.Conn that zmq4 works on.
type peer struct {
	net.Conn
	r *bufio.Reader

	identity   string // guarded by the socket's mu; set by the handshake
	subscribed bool   // guarded by the socket's mu

	mu sync.Mutex
	w  *bufio.Writer // guarded by mu
}

func newPeer(conn net.Conn) *peer {
	return &peer{Conn: conn, r: bufio.NewReaderSize(conn, 64<<10), w: bufio.NewWriterSize(conn, 64<<10)}
}

func (p *peer) Read(b []byte) (int, error) { return p.r.Read(b) }

// Write is for zmq4's handshake.
func (p *peer) Write(b []byte) (int, error) { return len(b), p.send(b, true) }

// send writes bytes that are whole frames.
func (p *peer) send(wire []byte, flush bool) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	_, err := p.w.Write(wire)
	if flush {
		err = errors.Join(err, p.w.Flush())
	}
	return err
}

// appendFrames appends a multipart in ZMTP 3.0 framing.
func appendFrames(dst []byte, frames ...[]byte) []byte {
	for i, f := range frames {
		flags := byte(0)
		if i < len(frames)-1 {
			flags |= 1
		}
		if len(f) < 256 {
			dst = append(dst, flags, byte(len(f)))
		} else {
			dst = append(dst, flags|2)
			dst = binary.BigEndian.AppendUint64(dst, uint64(len(f)))
		}
		dst = append(dst, f...)
	}
	return dst
}
