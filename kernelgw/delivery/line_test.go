package delivery

import (
	"context"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// line is the network between a gateway and an agent, with its faults: what goes
// over it can be delayed, torn into single bytes, held and cut.
type line struct {
	// set at construction
	listener net.Listener
	dial     func(context.Context) (net.Conn, error)
	all      sync.WaitGroup

	delay atomic.Int64 // nanoseconds for each piece
	drips atomic.Int64 // bytes that go one by one before the rest goes as it comes

	mu    sync.Mutex
	gate  chan struct{}      // closed while nothing is held; guarded by mu
	lanes map[*lane]struct{} // guarded by mu
	over  bool               // guarded by mu
}

// lane is one connection over the line.
type lane struct {
	near, far net.Conn
	once      sync.Once
	gone      chan struct{}
}

func (l *lane) close() {
	l.once.Do(func() {
		close(l.gone)
		l.near.Close()
		l.far.Close()
	})
}

// newLine accepts connections on loopback and dials one for each.
func newLine(dial func(context.Context) (net.Conn, error)) (*line, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	l := &line{listener: listener, dial: dial, gate: make(chan struct{}), lanes: make(map[*lane]struct{})}
	close(l.gate)
	l.all.Go(l.accept)
	return l, nil
}

func (l *line) accept() {
	for {
		near, err := l.listener.Accept()
		if err != nil {
			return
		}
		far, err := l.dial(context.Background())
		if err != nil {
			near.Close()
			continue
		}
		narrow(near)
		narrow(far)
		x := &lane{near: near, far: far, gone: make(chan struct{})}
		l.mu.Lock()
		over := l.over
		l.lanes[x] = struct{}{}
		l.mu.Unlock()
		if over {
			x.close()
		}
		var both sync.WaitGroup
		both.Go(func() { l.carry(x, near, far) })
		both.Go(func() { l.carry(x, far, near) })
		l.all.Go(func() {
			both.Wait()
			x.close()
			l.mu.Lock()
			delete(l.lanes, x)
			l.mu.Unlock()
		})
	}
}

// narrow keeps little on its way, so that one that does not read is soon noticed
// by one that writes.
func narrow(conn net.Conn) {
	if c, ok := conn.(interface {
		SetReadBuffer(bytes int) error
		SetWriteBuffer(bytes int) error
	}); ok {
		_ = c.SetReadBuffer(16 << 10) // a wide one is only slower to notice
		_ = c.SetWriteBuffer(16 << 10)
	}
}

// carry takes bytes from one end to the other until either is gone. What one end
// sent before it closed arrives.
func (l *line) carry(x *lane, from, to net.Conn) {
	defer to.(interface{ CloseWrite() error }).CloseWrite()
	buf := make([]byte, 16<<10)
	for {
		n, err := from.Read(buf)
		for b := buf[:n]; len(b) > 0; {
			piece, delay := b, time.Duration(l.delay.Load())
			if l.drips.Load() > 0 && l.drips.Add(-1) >= 0 {
				piece, delay = b[:1], 0 // together they would take minutes
			}
			if !l.pass(x, delay) {
				return
			}
			if _, err := to.Write(piece); err != nil {
				return
			}
			b = b[len(piece):]
		}
		if err != nil {
			return
		}
	}
}

// pass waits for as long as a piece is delayed and held, and reports whether the
// lane is still there.
func (l *line) pass(x *lane, delay time.Duration) bool {
	if delay > 0 {
		select {
		case <-time.After(delay):
		case <-x.gone:
			return false
		}
	}
	for {
		l.mu.Lock()
		gate := l.gate
		l.mu.Unlock()
		select {
		case <-gate:
			return true
		case <-x.gone:
			return false
		}
	}
}

// hold lets nothing pass until release: a partition, or an agent that is stopped.
// Nobody is told.
func (l *line) hold() {
	l.mu.Lock()
	defer l.mu.Unlock()
	select {
	case <-l.gate:
		l.gate = make(chan struct{})
	default: // it is held already
	}
}

func (l *line) release() {
	l.mu.Lock()
	defer l.mu.Unlock()
	select {
	case <-l.gate:
	default:
		close(l.gate)
	}
}

// cut resets all connections; what is on its way is lost.
func (l *line) cut() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for x := range l.lanes {
		for _, end := range []net.Conn{x.near, x.far} {
			if tcp, ok := end.(*net.TCPConn); ok {
				_ = tcp.SetLinger(0) // else it ends politely, which is no less an end
			}
		}
		x.close()
	}
}

// close ends the line and waits for all that runs in it.
func (l *line) close() {
	l.listener.Close()
	l.mu.Lock()
	l.over = true
	l.mu.Unlock()
	l.cut()
	l.all.Wait()
}
