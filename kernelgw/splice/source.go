package splice

import (
	"errors"
	"io"
	"net"
	"sync"
	"syscall"
)

// buffer is what one read and one write move at most.
type buffer [64 << 10]byte

// buffers are shared by all connections: one is taken when a descriptor has
// something to read and given back when that has been written, so that an idle
// connection holds none.
var buffers = sync.Pool{New: func() any { return new(buffer) }}

// smallBuffer is what a connection keeps for itself when it has no descriptor
// to wait on, as with TLS.
const smallBuffer = 4 << 10

// source reads one connection, and holds back what the follower has not taken.
// It is owned by one goroutine.
type source struct {
	conn net.Conn
	raw  syscall.RawConn // nil when conn has no descriptor that carries the same bytes
	try  func(fd uintptr) bool

	held    [maxHeld]byte
	holding int

	buf   *buffer // taken from the pool, between read and release
	small []byte  // instead of buf, for good, when raw is nil
	n     int
	err   error
}

// start readies the source; early are bytes of conn that were read before.
func (s *source) start(conn net.Conn) {
	s.conn = conn
	if c, ok := conn.(syscall.Conn); ok {
		s.raw, _ = c.SyscallConn()
	}
	if s.raw == nil {
		s.small = make([]byte, smallBuffer)
	}
	// Bound once: a closure made at each read would be garbage at each read.
	s.try = s.tryRead
}

// read blocks until there are bytes and returns them behind those held back.
// They are valid until release. An error comes without bytes.
func (s *source) read() ([]byte, error) {
	if s.raw == nil {
		n := copy(s.small, s.held[:s.holding])
		m, err := s.conn.Read(s.small[n:])
		if m == 0 && err != nil {
			return nil, err
		}
		s.holding = 0
		return s.small[:n+m], nil
	}
	if err := s.raw.Read(s.try); err != nil {
		s.release()
		return nil, err
	}
	if s.err != nil || s.n == 0 {
		s.release()
		if s.err != nil {
			return nil, s.err
		}
		return nil, io.EOF
	}
	n := s.holding + s.n
	s.holding = 0
	return s.buf[:n], nil
}

// tryRead reads once from a descriptor that does not block. It returns false
// to wait until that is ready, without a buffer.
func (s *source) tryRead(fd uintptr) bool {
	s.buf = buffers.Get().(*buffer)
	copy(s.buf[:], s.held[:s.holding])
	for {
		s.n, s.err = syscall.Read(int(fd), s.buf[s.holding:])
		if !errors.Is(s.err, syscall.EINTR) {
			break
		}
	}
	if errors.Is(s.err, syscall.EAGAIN) {
		s.release()
		return false
	}
	return true
}

// hold keeps rest, the tail of what read returned, for the next read.
func (s *source) hold(rest []byte) { s.holding = copy(s.held[:], rest) }

// release gives the buffer back.
func (s *source) release() {
	if s.buf != nil {
		buffers.Put(s.buf)
		s.buf = nil
	}
}
