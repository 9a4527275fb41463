package egress

import (
	"io"
	"net"
	"sync"
)

// copySize is the size of the buffers between a client and a host. Measured: 16,
// 48 and 64 KiB are slower, and so is splice(2), because what a host writes at
// once is two records of TLS, and stays in the processor's cache.
const copySize = 32 << 10

// join copies between a client and a host until both directions have ended or
// one has failed, and closes both.
func join(in *inbound, out *outbound) {
	defer in.Close()
	defer out.Close()
	var up sync.WaitGroup
	up.Go(func() { pour(out, in, out.Conn) })
	pour(in, out, in.Conn)
	up.Wait()
}

// pour copies one direction and passes on its end; a failure ends the other
// direction too. raw is to without its wrapping.
func pour(to, from net.Conn, raw net.Conn) {
	buffer := buffers.Get()
	defer buffers.Put(buffer)
	_, err := io.CopyBuffer(writer{to}, reader{from}, buffer)
	if half, ok := raw.(interface{ CloseWrite() error }); ok && err == nil {
		err = half.CloseWrite()
	}
	if err != nil {
		to.Close()
		from.Close()
	}
}

// writer and reader hide what io.CopyBuffer would use instead of the buffer.
type (
	writer struct{ io.Writer }
	reader struct{ io.Reader }
)

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
