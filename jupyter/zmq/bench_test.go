package zmq

import (
	"fmt"
	"net"
	"testing"
	"time"

	"github.com/go-zeromq/zmq4"

	"kernelgw/jupyter"
)

// tape is a net.Conn that answers the handshake and then repeats some bytes for
// ever, so that a benchmark has no kernel and no system call in it.
type tape struct {
	net.Conn // nil: what is not below is not called
	start    []byte
	loop     []byte
	at       int
}

func (p *tape) Read(b []byte) (int, error) {
	if len(p.start) > 0 {
		n := copy(b, p.start)
		p.start = p.start[n:]
		return n, nil
	}
	total := 0
	for total < len(b) {
		n := copy(b[total:], p.loop[p.at:])
		total += n
		p.at = (p.at + n) % len(p.loop)
	}
	return total, nil
}

func (p *tape) Write(b []byte) (int, error) { return len(b), nil }
func (p *tape) SetDeadline(time.Time) error { return nil }
func (p *tape) Close() error                { return nil }

// tapeChannel is an iopub channel that receives the bytes again and again.
func tapeChannel(tb testing.TB, loop []byte, o Options) *channel {
	tb.Helper()
	o = o.withDefaults()
	g := newGuard(&tape{start: append(greeting(), ready("XPUB")...), loop: loop}, []string{"PUB", "XPUB"}, o.MaxMessageBytes)
	z, err := handshake(tb.Context(), g, zmq4.Sub, nil, o.HandshakeTimeout)
	if err != nil {
		tb.Fatal(err)
	}
	g.out = newOutbox(o.BacklogBytes)
	return &channel{
		name: jupyter.IOPub, guard: g, conn: z, out: g.out, max: o.MaxMessageBytes,
		parser: parser{channel: jupyter.IOPub, signer: jupyter.NewSigner([]byte(testKey)), verifyBytes: o.VerifyBytes},
	}
}

// BenchmarkReceive is the way of an iopub message from the socket to handle,
// without the system calls. Budget: 2 allocations, the message and the memory of
// all its frames (TestReceivingAllocatesTwice); a large one has some for each frame.
func BenchmarkReceive(b *testing.B) {
	for _, size := range []int{100, 1 << 10, 64 << 10, 1 << 20} {
		for _, verify := range []struct {
			name  string
			bytes int64
		}{{"verify-to-4KiB", 0}, {"verify-all", -1}, {"verify-one", 1}} {
			b.Run(fmt.Sprintf("%d/%s", size, verify.name), func(b *testing.B) {
				m := stream(string(fill('x', size)))
				m.ParentHeader = m.Header
				ch := tapeChannel(b, signed(testKey, m), Options{VerifyBytes: verify.bytes})
				b.SetBytes(int64(size))
				b.ReportAllocs()
				for b.Loop() {
					if _, _, err := ch.receive(); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}

// BenchmarkSend is a request on its way to the outbox.
func BenchmarkSend(b *testing.B) {
	ch := tapeChannel(b, []byte{0}, Options{})
	ch.signer = jupyter.NewSigner([]byte(testKey))
	m := stream("print(1)")
	b.ReportAllocs()
	for b.Loop() {
		if err := ch.send(m); err != nil {
			b.Fatal(err)
		}
		ch.out.queue = ch.out.queue[:0]
	}
}
