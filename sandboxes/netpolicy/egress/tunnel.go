package egress

import (
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// copySize is the size of the buffers between a client and a host. What fills
// one comes in bulk.
const copySize = 16 << 10

// join copies between a client and a host until both directions have ended or
// one has failed, and closes both.
func join(in *inbound, out *outbound, burst time.Duration) {
	defer in.Close()
	defer out.Close()
	up := stream{
		from: in, to: out, fromIdle: &in.idleConn, toIdle: &out.idleConn,
		burst: burst, bursts: &in.client.up,
	}
	down := stream{
		from: out, to: in, fromIdle: &out.idleConn, toIdle: &in.idleConn,
		burst: burst, bursts: &in.client.down,
	}
	var other sync.WaitGroup
	other.Go(up.run)
	down.run()
	other.Wait()
}

// stream is one direction of a tunnel.
type stream struct {
	from, to         net.Conn
	fromIdle, toIdle *idleConn
	burst            time.Duration  // how long bulk is moved at a time
	bursts           *atomic.Uint64 // counts the bytes that from and to do not see
}

// run passes on the end of its direction; a failure ends the other one too.
func (s stream) run() {
	err := s.copy()
	if err == nil {
		if half, ok := s.toIdle.Conn.(interface{ CloseWrite() error }); ok {
			err = half.CloseWrite()
		} else {
			err = io.ErrClosedPipe
		}
	}
	if err != nil {
		s.from.Close()
		s.to.Close()
	}
}

// copy copies until the end. While data comes in bulk the kernel moves it, which
// costs a third and holds a pipe; the rest of the time a small buffer does.
func (s stream) copy() error {
	buffer := buffers.Get()
	defer func() { buffers.Put(buffer) }()
	source, fromTCP := s.fromIdle.Conn.(*net.TCPConn)
	sink, toTCP := s.toIdle.Conn.(*net.TCPConn)
	for {
		n, err := s.from.Read(buffer)
		if n > 0 {
			if _, err := s.to.Write(buffer[:n]); err != nil {
				return err
			}
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		for bulk := n == len(buffer) && fromTCP && toTCP; bulk; {
			moved, err := s.splice(sink, source)
			if err != nil {
				return err
			}
			bulk = moved > copySize
		}
	}
}

// splice lets the kernel move what comes for the time of one burst, and returns
// how much that was.
func (s stream) splice(sink, source *net.TCPConn) (int64, error) {
	start := time.Now()
	s.from.SetReadDeadline(start.Add(s.burst))
	defer s.from.SetReadDeadline(time.Time{})
	s.toIdle.move()
	moved, err := sink.ReadFrom(source)
	s.bursts.Add(uint64(moved))
	// The burst is over. When it is the idle time that is over, the sink took
	// nothing, and bytes are lost in the pipe.
	if errors.Is(err, os.ErrDeadlineExceeded) && time.Since(start) < s.toIdle.idle {
		return moved, nil
	}
	return moved, err
}

// buffers are shared by all connections.
var buffers bufferPool

type bufferPool struct{ pool sync.Pool }

// Get implements httputil.BufferPool.
func (b *bufferPool) Get() []byte {
	if buffer, ok := b.pool.Get().(*[copySize]byte); ok {
		return buffer[:]
	}
	return make([]byte, copySize)
}

// Put implements httputil.BufferPool.
func (b *bufferPool) Put(buffer []byte) { b.pool.Put((*[copySize]byte)(buffer)) }
