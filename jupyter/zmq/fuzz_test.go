package zmq

import (
	"bytes"
	"errors"
	"net"
	"testing"
	"time"

	"github.com/go-zeromq/zmq4"

	"kernelgw/jupyter"
)

// scroll is a net.Conn whose peer says some bytes, and closes.
type scroll struct {
	net.Conn
	*bytes.Reader
}

func (s scroll) Read(b []byte) (int, error)  { return s.Reader.Read(b) }
func (s scroll) Write(b []byte) (int, error) { return len(b), nil }
func (s scroll) SetDeadline(time.Time) error { return nil }
func (s scroll) Close() error                { return nil }

// FuzzConnection plays any bytes at our end of iopub, handshake included. zmq4
// panics at some of them when nothing stands before it.
func FuzzConnection(f *testing.F) {
	open := append(greeting(), ready("XPUB")...)
	after := func(b ...[]byte) []byte { return bytes.Join(append([][]byte{open}, b...), nil) }
	f.Add(open)
	f.Add(after(signed(testKey, stream("a")), signed("other", stream("b"))))
	f.Add(after(command("PING", []byte("\x00\x01ctx")), signed(testKey, stream("a"))))
	f.Add(after(longHeader(1 << 49)))
	f.Add(after(longHeader(8 << 30)))
	f.Add(after([]byte{flagMore, 1, 't'}, longHeader(5000), fill('x', 5000), signed(testKey, stream("a"))))
	f.Add(after(multipart([]byte("t"), delimiter, []byte("sig"), []byte("{}"))))
	f.Add(append(greeting(), ready("FOO")...))
	f.Add(append(greeting(), command("READY", property("SOcket-Type", "XPUB"))...))
	f.Add(append(greeting(), command("READY", []byte("\xffSocket"))...))
	f.Add(append(greeting(), command("READY", append(property("Socket-Type", "PUB"), property("socket-type", "X")...))...))
	f.Fuzz(func(t *testing.T, wire []byte) {
		const limit = 4 << 10
		g := newGuard(scroll{Reader: bytes.NewReader(wire)}, []string{"PUB", "XPUB"}, limit)
		z, err := handshake(t.Context(), g, zmq4.Sub, nil, time.Hour)
		if err != nil {
			return
		}
		g.out = newOutbox(limit)
		ch := &channel{
			name: jupyter.IOPub, guard: g, conn: z, out: g.out, max: limit,
			parser: parser{channel: jupyter.IOPub, signer: jupyter.NewSigner([]byte(testKey)), verifyBytes: -1},
		}
		for received := 0; ; received++ {
			m, skipped, err := ch.receive()
			switch {
			case errors.Is(err, errUnsigned), errors.Is(err, errMalformed):
			case err != nil:
				return
			case m.Size() > limit+frameCost*16:
				t.Errorf("a message of %d bytes, the limit is %d", m.Size(), limit)
			case skipped == 0 && !bytes.Contains(wire, []byte(jupyter.Sign([]byte(testKey), m))):
				t.Error("delivered without its signature")
			}
			if received > len(wire) {
				t.Fatalf("more messages than bytes")
			}
		}
	})
}

// FuzzParse makes messages of any frames, which newlines separate.
func FuzzParse(f *testing.F) {
	m := stream("a")
	sig := jupyter.Sign([]byte(testKey), m)
	f.Add(bytes.Join([][]byte{[]byte("t"), delimiter, []byte(sig), m.Header, m.ParentHeader, m.Metadata, m.Content, {}}, []byte("\n")), false)
	f.Add(bytes.Join([][]byte{delimiter, []byte(sig), m.Header, {}}, []byte("\n")), true)
	f.Add([]byte("<IDS|MSG>"), true)
	f.Add([]byte("\n\n\n"), false)
	f.Fuzz(func(t *testing.T, joined []byte, cut bool) {
		frames := bytes.Split(joined, []byte("\n"))
		sent := len(frames)
		p := parser{channel: jupyter.IOPub, signer: jupyter.NewSigner([]byte(testKey)), verifyBytes: -1}
		m, err := p.parse(frames, cut)
		if err != nil {
			return
		}
		if !isObject(m.Header) || len(m.Buffers) > sent-6 && !cut {
			t.Errorf("%d frames made header %q and %d buffers", sent, m.Header, len(m.Buffers))
		}
	})
}
