package agent

import (
	"bufio"
	"encoding/binary"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/gorilla/websocket"
)

// corkedConn collects small writes until flush, so that many messages cross to
// the gateway in one system call. Large writes pass after what was collected.
// Writing is for one goroutine; gorilla calls Write from the reader too, when
// the client breaks the WebSocket protocol, but never into a frame.
type corkedConn struct {
	net.Conn
	wrote func(n int) // called with the size of what has left, from the writer

	mu   sync.Mutex
	buf  *[]byte  // taken from corks while there is something in it
	head [10]byte // of the frame that is written: on the stack it would be allocated for each
}

const (
	corkBytes  = 64 << 10
	writeChunk = 256 << 10 // so that a slow write shows its progress
)

var corks = sync.Pool{New: func() any {
	b := make([]byte, 0, corkBytes)
	return &b
}}

// Write implements net.Conn for gorilla, which writes the handshake and control
// frames.
func (c *corkedConn) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(p), c.put(p)
}

// writeMessage writes one message as a WebSocket frame of a server (RFC 6455,
// section 5.2): whole, not masked, its payload in pieces that are not joined
// before. It returns the size of the payload.
func (c *corkedConn) writeMessage(binaryMessage bool, parts [][]byte) (int, error) {
	size := 0
	for _, part := range parts {
		size += len(part)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	const final = 0x80
	head := append(c.head[:0], final|websocket.TextMessage)
	if binaryMessage {
		head[0] = final | websocket.BinaryMessage
	}
	switch {
	case size < 126:
		head = append(head, byte(size))
	case size <= 0xffff:
		head = binary.BigEndian.AppendUint16(append(head, 126), uint16(size))
	default:
		head = binary.BigEndian.AppendUint64(append(head, 127), uint64(size))
	}
	if err := c.put(head); err != nil {
		return 0, err
	}
	for _, part := range parts {
		if err := c.put(part); err != nil {
			return 0, err
		}
	}
	return size, nil
}

// put needs the lock.
func (c *corkedConn) put(p []byte) error {
	if c.buf == nil {
		c.buf = corks.Get().(*[]byte)
	}
	if len(*c.buf)+len(p) <= cap(*c.buf) {
		*c.buf = append(*c.buf, p...)
		return nil
	}
	if err := c.flushLocked(); err != nil {
		return err
	}
	if len(p) < corkBytes/2 {
		c.buf = corks.Get().(*[]byte)
		*c.buf = append(*c.buf, p...)
		return nil
	}
	return c.through(p)
}

// SetWriteDeadline does nothing: a client may be slow, and hub.tick cuts those
// that are silent.
func (c *corkedConn) SetWriteDeadline(time.Time) error { return nil }

// flush writes what was collected.
func (c *corkedConn) flush() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.flushLocked()
}

func (c *corkedConn) flushLocked() error {
	if c.buf == nil {
		return nil
	}
	buf := c.buf
	c.buf = nil
	err := c.through(*buf)
	*buf = (*buf)[:0]
	corks.Put(buf)
	return err
}

func (c *corkedConn) through(p []byte) error {
	for len(p) > 0 {
		n, err := c.Conn.Write(p[:min(len(p), writeChunk)])
		c.wrote(n)
		if err != nil {
			return err
		}
		p = p[n:]
	}
	return nil
}

// corkingWriter makes an upgrade take the connection corked.
type corkingWriter struct {
	http.ResponseWriter
	conn **corkedConn // set by Hijack
}

// Hijack implements http.Hijacker.
func (w *corkingWriter) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, buffered, err := http.NewResponseController(w.ResponseWriter).Hijack()
	if err != nil {
		return nil, nil, err
	}
	*w.conn = &corkedConn{Conn: conn, wrote: func(int) {}}
	return *w.conn, buffered, nil
}

var writeBuffers sync.Pool // of gorilla
