package main

import (
	"encoding/binary"
	"net"
	"sync"
)

// socket is the writing end of one WebSocket. What comes while a write is under
// way is written together.
type socket struct {
	conn net.Conn // set at construction

	mu     sync.Mutex
	change sync.Cond
	queue  []byte // guarded by mu
	closed bool   // guarded by mu
}

// most is how much waits for a client before the kernel does.
const most = 1 << 20

func newSocket(conn net.Conn) *socket {
	s := &socket{conn: conn}
	s.change.L = &s.mu
	return s
}

// put queues one binary message as a frame of a server (RFC 6455, section 5.2).
func (s *socket) put(payload []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for len(s.queue) > most && !s.closed {
		s.change.Wait()
	}
	s.queue = append(s.queue, 0x82)
	switch size := len(payload); {
	case size < 126:
		s.queue = append(s.queue, byte(size))
	case size <= 0xffff:
		s.queue = binary.BigEndian.AppendUint16(append(s.queue, 126), uint16(size))
	default:
		s.queue = binary.BigEndian.AppendUint64(append(s.queue, 127), uint64(size))
	}
	s.queue = append(s.queue, payload...)
	s.change.Broadcast()
}

func (s *socket) writeLoop() {
	var writing []byte
	for {
		s.mu.Lock()
		for len(s.queue) == 0 && !s.closed {
			s.change.Wait()
		}
		if s.closed {
			s.mu.Unlock()
			return
		}
		s.queue, writing = writing[:0], s.queue
		s.change.Broadcast()
		s.mu.Unlock()
		if _, err := s.conn.Write(writing); err != nil {
			s.close()
			return
		}
	}
}

func (s *socket) close() {
	s.mu.Lock()
	s.closed = true
	s.change.Broadcast()
	s.mu.Unlock()
	_ = s.conn.Close()
}
