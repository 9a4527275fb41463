package zmq

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
)

// guard is the net.Conn that a zmq4.Conn reads from and writes to. It follows
// ZMTP 3.0 on the reading side and passes on only what zmq4 v0.17.0 survives.
// Without it, from its source and from trials, a kernel can do this to zmq4:
//
//   - claim a frame of 2^49 bytes: makeslice panics, the process dies;
//   - claim 8 GiB: they are allocated at once;
//   - send a READY with a short property, or with an unknown Socket-Type, or one
//     that zmq4 does not find ("SOcket-Type" is as good by the standard): panic;
//   - accept and never greet: Open waits for ever (dialChannel sets a deadline);
//   - send PING: the PONG lacks its context, and is written between the frames
//     of a message that another goroutine sends;
//   - send any other command: it arrives as a message.
//
// zmq4 does the handshake and frames what is sent. Messages are received past it
// (receive.go), out of a buffer: it reads two or three times for each frame.
//
// A message over the limit does not end the connection, unless it is so far over
// that skipping it makes no sense: the guard lets the frames up to the limit
// pass, puts an empty last frame in the place of the rest, and remembers that
// it did (takeSkipped).
type guard struct {
	net.Conn

	// set at construction
	peers    []string // Socket-Types that may be at the other end
	maxBytes uint64   // of a message

	// owned by the reader
	r       *bufio.Reader
	phase   phase
	left    uint64 // bytes of the greeting that zmq4 may still have
	instead []byte // what zmq4 gets before anything else of r
	bytes   uint64 // of the present message so far
	frames  uint64 // of the present message so far
	skipped uint64 // size of the message that was cut, 0 when it was whole

	// owned by the dialer until the loops start
	out *outbox // nil during the handshake: then writes go through at once
}

type phase uint8

const (
	atGreeting phase = iota
	atReady
	atTraffic
)

// Limits of ZMTP frames. A message is skipped, not refused, up to skipFactor
// times the limit, because an output too large is a user's mistake and no attack.
const (
	greetingBytes   = 64
	maxReadyBytes   = 4 << 10
	maxCommandBytes = 512
	maxFrames       = 1 << 14
	frameCost       = 64 // what a frame costs us beside its bytes
	skipFactor      = 16
	readBufferBytes = 64 << 10 // more than a frame header and maxReadyBytes

	flagMore     = 1
	flagLong     = 2
	flagCommand  = 4
	flagReserved = 0xff &^ (flagMore | flagLong | flagCommand)
)

func newGuard(conn net.Conn, peers []string, maxBytes int64) *guard {
	return &guard{
		Conn:     conn,
		peers:    peers,
		maxBytes: uint64(maxBytes),
		r:        bufio.NewReaderSize(conn, readBufferBytes),
	}
}

// Read gives zmq4 what it reads of the handshake.
func (g *guard) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	if g.left == 0 && len(g.instead) == 0 {
		if err := g.next(); err != nil {
			return 0, err
		}
	}
	if len(g.instead) > 0 {
		n := copy(p, g.instead)
		g.instead = g.instead[n:]
		return n, nil
	}
	n, err := g.r.Read(p[:min(uint64(len(p)), g.left)])
	g.left -= uint64(n)
	if err == io.EOF && g.left > 0 {
		err = io.ErrUnexpectedEOF
	}
	return n, err
}

// Write sends during the handshake, and queues afterwards.
func (g *guard) Write(p []byte) (int, error) {
	if g.out == nil {
		return g.Conn.Write(p)
	}
	return len(p), g.out.append(p)
}

// takeSkipped returns the size of the message that was just received when the
// guard cut it, and 0 when it is whole.
func (g *guard) takeSkipped() uint64 {
	n := g.skipped
	g.skipped = 0
	return n
}

// next lets one unit of the handshake pass.
func (g *guard) next() error {
	switch g.phase {
	case atGreeting:
		g.left, g.phase = greetingBytes, atReady
		return nil
	case atReady:
		return g.ready()
	}
	return errors.New("the handshake is over: messages are received, not read")
}

// frame is what a frame header says.
type frame struct {
	head, body    uint64 // lengths
	more, command bool
}

// header looks at the next frame header and leaves it in the buffer.
func (g *guard) header() (frame, error) {
	b, err := g.peek(2)
	if err != nil {
		return frame{}, err
	}
	f, err := readHeader(b)
	if err == nil && f.head == 0 {
		if b, err = g.peek(9); err == nil {
			f, err = readHeader(b)
		}
	}
	return f, err
}

// readHeader reads the frame header that b begins with. Its head is 0 when b does
// not have all of it.
func readHeader(b []byte) (frame, error) {
	if len(b) < 2 {
		return frame{}, nil
	}
	flags := b[0]
	f := frame{head: 2, body: uint64(b[1]), more: flags&flagMore != 0, command: flags&flagCommand != 0}
	if flags&flagReserved != 0 || f.more && f.command {
		return frame{}, fmt.Errorf("%w: frame flags %#02x", ErrProtocol, flags)
	}
	if flags&flagLong != 0 {
		if len(b) < 9 {
			return frame{}, nil
		}
		f.head, f.body = 9, binary.BigEndian.Uint64(b[1:])
	}
	return f, nil
}

// account adds a frame to the present message and reports whether it is within
// the limits.
func (g *guard) account(f frame) (bool, error) {
	if f.body > skipFactor*g.maxBytes || g.bytes+f.body > skipFactor*g.maxBytes {
		return false, fmt.Errorf("%w: a frame of %d bytes, the limit of a message is %d", ErrProtocol, f.body, g.maxBytes)
	}
	g.bytes += f.body
	g.frames++
	pass := g.within(g.bytes, g.frames)
	if pass && !f.more {
		g.bytes, g.frames = 0, 0
	}
	return pass, nil
}

// within reports whether so many bytes in so many frames are within the limits.
func (g *guard) within(bytes, frames uint64) bool {
	return bytes+frameCost*frames <= g.maxBytes+frameCost*16 && frames <= maxFrames
}

// skip discards a frame and all frames of its message after it.
func (g *guard) skip(f frame) error {
	for {
		if err := g.discard(f.head + f.body); err != nil {
			return err
		}
		if !f.more {
			g.skipped, g.bytes, g.frames = max(g.bytes, 1), 0, 0
			return nil
		}
		for {
			var err error
			if f, err = g.header(); err != nil {
				return err
			}
			if !f.command {
				break
			}
			if err = g.command(f); err != nil {
				return err
			}
		}
		if _, err := g.account(f); err != nil {
			return err
		}
	}
}

// discard is for any length; bufio's own takes an int.
func (g *guard) discard(n uint64) error {
	for n > 0 {
		d, err := g.r.Discard(int(min(n, 1<<30)))
		if err != nil {
			return unexpected(err)
		}
		n -= uint64(d)
	}
	return nil
}

// command answers a PING and ignores the rest.
func (g *guard) command(f frame) error {
	name, body, err := g.peekCommand(f, maxCommandBytes)
	if err != nil {
		return err
	}
	// The body of a PING is a time-to-live and a context that the PONG repeats
	// (ZMTP 3.1, section "Connection Heartbeating").
	if name == "PING" && len(body) >= 2 && len(body) <= 2+16 && g.out != nil {
		context := body[2:]
		pong := append([]byte{flagCommand, byte(5 + len(context)), 4, 'P', 'O', 'N', 'G'}, context...)
		if err := g.out.appendCommand(pong); err != nil {
			return err
		}
	}
	return g.discard(f.head + f.body)
}

// ready checks the READY command and gives zmq4 one of our own that says what
// matters of it, so that zmq4 decodes no metadata of the kernel.
func (g *guard) ready() error {
	f, err := g.header()
	if err != nil {
		return err
	}
	if !f.command {
		return fmt.Errorf("%w: a message during the handshake", ErrProtocol)
	}
	name, body, err := g.peekCommand(f, maxReadyBytes)
	if err != nil {
		return err
	}
	if name != "READY" {
		return fmt.Errorf("%w: command %.32q during the handshake", ErrProtocol, name)
	}
	socketType, err := g.socketType(body)
	if err != nil {
		return err
	}
	const property = "\x05READY\x0bSocket-Type\x00\x00\x00"
	g.instead = append([]byte{flagCommand, byte(len(property) + 1 + len(socketType))}, property...)
	g.instead = append(append(g.instead, byte(len(socketType))), socketType...)
	g.phase = atTraffic
	return g.discard(f.head + f.body)
}

// socketType reads the metadata of READY: well formed properties, and exactly one
// Socket-Type, of a kind that fits ours. Names are not case-sensitive.
func (g *guard) socketType(b []byte) (string, error) {
	found := ""
	for len(b) > 0 {
		n := int(b[0])
		if n == 0 || len(b) < 1+n+4 {
			return "", fmt.Errorf("%w: READY has a truncated property", ErrProtocol)
		}
		key := string(b[1 : 1+n])
		size := uint64(binary.BigEndian.Uint32(b[1+n:]))
		b = b[1+n+4:]
		if size > uint64(len(b)) {
			return "", fmt.Errorf("%w: READY has a truncated property", ErrProtocol)
		}
		if strings.EqualFold(key, "Socket-Type") {
			if found != "" {
				return "", fmt.Errorf("%w: READY has two socket types", ErrProtocol)
			}
			found = string(b[:size])
		}
		b = b[size:]
	}
	if !slices.Contains(g.peers, found) {
		return "", fmt.Errorf("%w: its socket is a %.16q, not one of %s", ErrProtocol, found, strings.Join(g.peers, ", "))
	}
	return found, nil
}

// peekCommand splits a command and leaves it in the buffer.
func (g *guard) peekCommand(f frame, limit uint64) (name string, body []byte, err error) {
	if f.body == 0 || f.body > limit {
		return "", nil, fmt.Errorf("%w: a command of %d bytes", ErrProtocol, f.body)
	}
	b, err := g.peek(int(f.head + f.body))
	if err != nil {
		return "", nil, err
	}
	b = b[f.head:]
	n := int(b[0])
	if 1+n > len(b) {
		return "", nil, fmt.Errorf("%w: a truncated command", ErrProtocol)
	}
	return string(b[1 : 1+n]), b[1+n:], nil
}

// peek returns the next n bytes. io.EOF means that the peer closed between two
// frames.
func (g *guard) peek(n int) ([]byte, error) {
	b, err := g.r.Peek(n)
	if err != nil && len(b) > 0 {
		err = unexpected(err)
	}
	return b, err
}

func unexpected(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}
