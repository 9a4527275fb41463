package zmq

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"syscall"
	"time"

	"github.com/go-zeromq/zmq4"
	"github.com/go-zeromq/zmq4/security/null"

	"kernelgw/jupyter"
)

// channel is one socket to the kernel.
type channel struct {
	// set at construction
	name  jupyter.Channel
	guard *guard
	conn  *zmq4.Conn
	out   *outbox
	max   int64

	signer *jupyter.Signer // guarded by out.send

	// owned by the reader
	parser parser
	frames [][]byte // scratch
}

// dialChannel connects, does the handshake, and subscribes when it is iopub.
func dialChannel(ctx context.Context, name jupyter.Channel, info jupyter.ConnectionInfo, port int, o Options) (*channel, error) {
	network, address, err := endpoint(info, port)
	if err != nil {
		return nil, err
	}
	conn, err := connect(ctx, network, address)
	if err != nil {
		return nil, err
	}
	kind, id, peers := zmq4.Dealer, zmq4.SocketIdentity(o.Identity), []string{"ROUTER"}
	if name == jupyter.IOPub {
		kind, id, peers = zmq4.Sub, nil, []string{"PUB", "XPUB"}
	}
	g := newGuard(conn, peers, o.MaxMessageBytes)
	z, err := handshake(ctx, g, kind, id, o.HandshakeTimeout)
	if err != nil {
		conn.Close()
		return nil, err
	}
	key := []byte(info.Key)
	ch := &channel{
		name:   name,
		guard:  g,
		conn:   z,
		out:    newOutbox(o.BacklogBytes),
		max:    o.MaxMessageBytes,
		signer: jupyter.NewSigner(key),
		parser: parser{channel: name, signer: jupyter.NewSigner(key), verifyBytes: o.VerifyBytes},
	}
	g.out = ch.out
	return ch, nil
}

// endpoint is the address of a port of the kernel, as net.Dial takes it.
func endpoint(info jupyter.ConnectionInfo, port int) (network, address string, err error) {
	switch info.Transport {
	case "tcp", "":
		return "tcp", net.JoinHostPort(info.IP, strconv.Itoa(port)), nil
	case "ipc":
		return "unix", info.IP + "-" + strconv.Itoa(port), nil
	}
	return "", "", fmt.Errorf("transport %q is neither tcp nor ipc", info.Transport)
}

// connect dials until the kernel has bound its socket or ctx ends.
func connect(ctx context.Context, network, address string) (net.Conn, error) {
	// A kernel takes 100 ms to seconds to bind. Often at first, so that a fast
	// one is not made to wait; then in steps that are small beside its start.
	started := time.Now()
	for {
		var d net.Dialer
		conn, err := d.DialContext(ctx, network, address)
		if err == nil {
			return conn, nil
		}
		if ctx.Err() == nil && !notBoundYet(err) {
			return nil, err
		}
		pause := 5 * time.Millisecond
		switch waited := time.Since(started); {
		case waited > 2*time.Second:
			pause = 50 * time.Millisecond
		case waited > 200*time.Millisecond:
			pause = 15 * time.Millisecond
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("%w (last attempt: %v)", context.Cause(ctx), err)
		case <-time.After(pause):
		}
	}
}

func notBoundYet(err error) bool {
	var timeout net.Error
	if errors.As(err, &timeout) && timeout.Timeout() {
		return true // ctx's deadline, which the dialer notices before ctx does
	}
	for _, e := range []error{syscall.ECONNREFUSED, syscall.ENOENT, syscall.EAGAIN, syscall.ECONNRESET} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// handshake opens the ZMTP connection within the time given.
func handshake(ctx context.Context, g *guard, kind zmq4.SocketType, id zmq4.SocketIdentity, timeout time.Duration) (*zmq4.Conn, error) {
	if err := g.SetDeadline(time.Now().Add(timeout)); err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { g.SetDeadline(time.Unix(1, 0)) })
	z, err := zmq4.Open(g, null.Security(), kind, id, false, nil)
	if err == nil && kind == zmq4.Sub {
		// A message of one byte 1 subscribes to everything (ZMTP 3.0, "The SUB Socket Type").
		err = z.SendMsg(zmq4.NewMsg([]byte{1}))
	}
	if !stop() && err == nil {
		err = context.Cause(ctx)
	}
	switch {
	case ctx.Err() != nil:
		return nil, fmt.Errorf("%w during the handshake", context.Cause(ctx))
	case errors.Is(err, os.ErrDeadlineExceeded):
		return nil, fmt.Errorf("no ZeroMQ handshake within %v", timeout)
	case err != nil:
		return nil, err
	}
	return z, g.SetDeadline(time.Time{})
}

func (ch *channel) close() {
	ch.out.close()
	ch.guard.Close()
}

// send queues a message.
func (ch *channel) send(m *jupyter.Message) error {
	size := int64(m.Size())
	if size > ch.max {
		return fmt.Errorf("%w: %d bytes for %s, the limit is %d", ErrTooLarge, size, ch.name, ch.max)
	}
	ch.out.send.Lock()
	defer ch.out.send.Unlock()
	if err := ch.out.admit(size); err != nil {
		return fmt.Errorf("cannot send to %s: %w", ch.name, err)
	}
	frames := make([][]byte, 0, 6+len(m.Buffers))
	frames = append(frames, delimiter, ch.signer.Sign(m), m.Header, m.ParentHeader, m.Metadata, m.Content)
	frames = append(frames, m.Buffers...)
	err := ch.conn.SendMsg(zmq4.NewMsgFrom(frames...))
	ch.out.flush()
	if err != nil {
		return fmt.Errorf("cannot send to %s: %w", ch.name, err)
	}
	return nil
}

// writeLoop sends what is queued until the socket is closed. When writing fails
// nothing more is taken; what the kernel still said is read all the same, and
// reading finds the end too.
func (ch *channel) writeLoop() {
	ch.out.writeTo(ch.guard.Conn)
	ch.out.close()
}

// receive returns the next message: errUnsigned and errMalformed are of that
// message alone, all other errors end the connection. skipped is the size of a
// message of which only the parts within the limit were received.
func (ch *channel) receive() (m *jupyter.Message, skipped uint64, err error) {
	ch.frames, err = ch.guard.receive(ch.frames[:0])
	defer clear(ch.frames) // do not keep what the message is made of
	switch {
	case err == nil:
		skipped = ch.guard.takeSkipped()
		m, err = ch.parser.parse(ch.frames, skipped > 0)
		return m, skipped, err
	case errors.Is(err, net.ErrClosed):
		return nil, 0, ErrClosed
	case errors.Is(err, io.EOF):
		return nil, 0, fmt.Errorf("the kernel closed its %s socket: %w", ch.name, err)
	}
	return nil, 0, fmt.Errorf("cannot read the kernel's %s socket: %w", ch.name, err)
}
