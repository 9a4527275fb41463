package zmq

import (
	"context"
	"encoding/binary"
	"net"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"kernelgw/jupyter"
)

// The goroutine that is left out belongs to zmq4's XPUB, the independent peer of
// one test: Close does not end it.
func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("github.com/go-zeromq/zmq4.(*pubMWriter).run"))
}

const testKey = "0123456789abcdef"

// hostile is the kernel's end of four connections, written byte by byte.
type hostile struct {
	info  jupyter.ConnectionInfo
	conns chan net.Conn // of the channel under attack
}

// newHostile listens as a kernel. On all channels but the attacked one it does
// the handshake and then reads what comes; on that one it does nothing.
func newHostile(t *testing.T, attacked jupyter.Channel) *hostile {
	t.Helper()
	h := &hostile{
		info:  jupyter.ConnectionInfo{Transport: "tcp", IP: "127.0.0.1", Key: testKey},
		conns: make(chan net.Conn, 1),
	}
	var group sync.WaitGroup
	var mu sync.Mutex
	var open []net.Conn
	var listeners []net.Listener
	for name, port := range map[jupyter.Channel]*int{
		jupyter.Shell:   &h.info.ShellPort,
		jupyter.Control: &h.info.ControlPort,
		jupyter.Stdin:   &h.info.StdinPort,
		jupyter.IOPub:   &h.info.IOPubPort,
	} {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		listeners = append(listeners, l)
		*port = l.Addr().(*net.TCPAddr).Port
		group.Go(func() {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			open = append(open, conn)
			mu.Unlock()
			if name == attacked {
				h.conns <- conn
				return
			}
			conn.Write(greeting())
			conn.Write(readyOf(name))
			drain(conn)
		})
	}
	t.Cleanup(func() {
		for _, l := range listeners {
			l.Close()
		}
		mu.Lock()
		for _, c := range open {
			c.Close()
		}
		mu.Unlock()
		group.Wait()
	})
	return h
}

func drain(conn net.Conn) {
	b := make([]byte, 64<<10)
	for {
		if _, err := conn.Read(b); err != nil {
			return
		}
	}
}

func greeting() []byte {
	b := make([]byte, 64)
	b[0], b[8], b[9], b[10] = 0xff, 1, 0x7f, 3
	copy(b[12:], "NULL")
	return b
}

func ready(socketType string) []byte {
	return command("READY", property("Socket-Type", socketType))
}

func readyOf(name jupyter.Channel) []byte {
	if name == jupyter.IOPub {
		return ready("XPUB")
	}
	return ready("ROUTER")
}

func property(name, value string) []byte {
	b := append([]byte{byte(len(name))}, name...)
	b = binary.BigEndian.AppendUint32(b, uint32(len(value)))
	return append(b, value...)
}

func command(name string, body []byte) []byte {
	b := append([]byte{flagCommand, byte(1 + len(name) + len(body)), byte(len(name))}, name...)
	return append(b, body...)
}

// multipart is the frames in ZMTP framing.
func multipart(frames ...[]byte) []byte {
	var b []byte
	for i, f := range frames {
		flags := byte(flagLong)
		if i < len(frames)-1 {
			flags |= flagMore
		}
		b = append(b, flags)
		b = binary.BigEndian.AppendUint64(b, uint64(len(f)))
		b = append(b, f...)
	}
	return b
}

// signed is the wire form of a message under the key, with the topic "t".
func signed(key string, m *jupyter.Message) []byte {
	frames := [][]byte{
		[]byte("t"), delimiter, []byte(jupyter.Sign([]byte(key), m)), m.Header, m.ParentHeader, m.Metadata, m.Content,
	}
	return multipart(append(frames, m.Buffers...)...)
}

func stream(text string) *jupyter.Message {
	return jupyter.NewStream("stdout", text, "kernel", nil)
}

// attack connects a Client, and plays script at the kernel's end of iopub after
// the handshake. It returns what was delivered until Run ended, and why it did.
// The script ends the connection when it returns.
func attack(t *testing.T, o Options, script func(net.Conn)) (*Client, []*jupyter.Message, error) {
	t.Helper()
	return attackOn(t, jupyter.IOPub, o, script)
}

func attackOn(t *testing.T, name jupyter.Channel, o Options, script func(net.Conn)) (*Client, []*jupyter.Message, error) {
	t.Helper()
	h := newHostile(t, name)
	var group sync.WaitGroup
	defer group.Wait()
	group.Go(func() {
		conn := <-h.conns
		defer conn.Close()
		conn.Write(greeting())
		conn.Write(readyOf(name))
		script(conn)
		// Not Close: unread bytes would make it a reset, which overtakes data.
		conn.(*net.TCPConn).CloseWrite()
		drain(conn)
	})
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	c, err := Dial(ctx, h.info, o)
	if err != nil {
		t.Fatal(err)
	}
	c.lastWords = 10 * time.Millisecond // the other sockets stay open, and silent
	var got []*jupyter.Message
	err = c.Run(ctx, func(m *jupyter.Message) { got = append(got, m) })
	if ctx.Err() != nil {
		t.Fatalf("the attack did not end the connection within 20 s; delivered %d messages", len(got))
	}
	return c, got, err
}
