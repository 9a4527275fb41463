package zmq

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"testing"
)

// pieces reads so many bytes at a time at most.
type pieces struct {
	io.Reader
	most int
}

func (p pieces) Read(b []byte) (int, error) { return p.Reader.Read(b[:min(len(b), p.most)]) }

// received is all that a guard makes of some bytes, that come in pieces.
func received(wire []byte, most int, limit int64) (list []string) {
	g := newGuard(readingConn{Reader: pieces{bytes.NewReader(wire), most}}, nil, limit)
	g.phase, g.out = atTraffic, newOutbox(1<<20)
	for {
		frames, err := g.receive(nil)
		if err != nil {
			return append(list, err.Error())
		}
		list = append(list, fmt.Sprintf("%q skipped %d", frames, g.takeSkipped()))
	}
}

// readingConn is a net.Conn that is only read.
type readingConn struct {
	net.Conn // nil: what is not below is not called
	io.Reader
}

func (c readingConn) Read(b []byte) (int, error) { return c.Reader.Read(b) }

// FuzzReceive: what is received is the same, however it comes.
func FuzzReceive(f *testing.F) {
	f.Add(bytes.Join([][]byte{signed(testKey, stream("a")), signed(testKey, stream("b"))}, nil), uint16(1))
	f.Add(bytes.Join([][]byte{signed(testKey, stream("a")), command("PING", []byte("\x00\x01ctx")), signed(testKey, stream("b"))}, nil), uint16(10))
	f.Add(append(append([]byte{flagMore, 1, 't'}, command("PING", []byte("\x00\x01ctx"))...), signed(testKey, stream("a"))...), uint16(7))
	f.Add(append(multipart([]byte("t"), fill('x', 5000), []byte("{}")), signed(testKey, stream("a"))...), uint16(100))
	f.Add(append(multipart(bytes.Split(fill('\n', 200), nil)...), signed(testKey, stream("a"))...), uint16(3))
	f.Add(longHeader(1<<49), uint16(4))
	f.Add([]byte{flagMore | flagCommand, 0, 8, 8}, uint16(1))
	f.Add(signed(testKey, stream("a"))[:50], uint16(9))
	f.Fuzz(func(t *testing.T, wire []byte, most uint16) {
		const limit = 4 << 10
		whole, inPieces := received(wire, 1<<20, limit), received(wire, max(int(most), 1), limit)
		if fmt.Sprint(whole) != fmt.Sprint(inPieces) {
			t.Errorf("at once: %.2000s\nin pieces of %d: %.2000s", whole, most, inPieces)
		}
	})
}

func TestReceivedMessagesOwnTheirMemory(t *testing.T) {
	m := stream("first")
	m.Buffers = [][]byte{fill('b', 100), {}, fill('c', 100)}
	other := stream("other")
	other.Buffers = [][]byte{fill('x', 100), {}, fill('x', 100)}
	ch := tapeChannel(t, append(signed(testKey, m), signed(testKey, other)...), Options{})
	first, _, err := ch.receive()
	if err != nil {
		t.Fatal(err)
	}
	for range 1000 { // so that all that could be shared is used again
		if _, _, err := ch.receive(); err != nil {
			t.Fatal(err)
		}
	}
	if string(first.Content) != string(m.Content) || len(first.Buffers) != 3 || string(first.Buffers[2]) != string(m.Buffers[2]) {
		t.Errorf("the first message became %q, %d buffers", first.Content, len(first.Buffers))
	}
	if _ = append(first.Header, 'x'); string(first.ParentHeader) != string(m.ParentHeader) {
		t.Error("what is appended to a part of a message is written into the next")
	}
}

func TestReceivingAllocatesTwice(t *testing.T) {
	m := stream(string(fill('x', 100)))
	m.ParentHeader = m.Header
	ch := tapeChannel(t, signed(testKey, m), Options{})
	if allocs := testing.AllocsPerRun(5000, func() {
		if _, _, err := ch.receive(); err != nil {
			t.Fatal(err)
		}
	}); allocs > 2 {
		t.Errorf("%v allocations for a small message, want 2", allocs)
	}
}
