// Package zmq speaks ZeroMQ to one Jupyter kernel. The kernel is hostile: what
// it sends can end the connection to it, and nothing else. The package knows
// frames and signatures; what messages mean is its caller's matter.
//
// It uses zmq4.Conn of go-zeromq, and never that package's sockets, for the
// handshake and to send, over a net.Conn of its own that checks each ZMTP frame
// (guard.go says what zmq4 would do otherwise) and receives.
//
// Sources: ZMTP 3.0 (rfc.zeromq.org/spec/23), "Messaging in Jupyter", section
// "The Wire Protocol".
package zmq

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"kernelgw/jupyter"
)

// Errors that callers test for.
var (
	// ErrBacklog: the kernel does not read that channel and too much waits for
	// it. The message was not sent, the connection stays.
	ErrBacklog = errors.New("the kernel does not read its messages")
	// ErrTooLarge: a message is larger than Options.MaxMessageBytes.
	ErrTooLarge = errors.New("message too large")
	// ErrProtocol: the kernel broke ZMTP, the connection is over.
	ErrProtocol = errors.New("the kernel broke the ZeroMQ protocol")
	// ErrClosed: the Client was closed.
	ErrClosed = errors.New("connection to the kernel is closed")
)

// Defaults of Options.
const (
	DefaultMaxMessageBytes  = 100 << 20
	DefaultHandshakeTimeout = 10 * time.Second
	DefaultBacklogBytes     = 16 << 20
	DefaultVerifyBytes      = 4 << 10
)

// Options are the limits of a Client. The zero value is useful.
type Options struct {
	// MaxMessageBytes caps one message in either direction, all frames together.
	// Zero means DefaultMaxMessageBytes.
	MaxMessageBytes int64
	// HandshakeTimeout is how long a kernel that accepted a connection may take
	// for the handshake. Zero means DefaultHandshakeTimeout.
	HandshakeTimeout time.Duration
	// Identity is the routing identity of shell, control and stdin, 1 to 255
	// bytes. A kernel sends input_request to the identity that the
	// execute_request came from, so the three share it. Empty means a random one.
	Identity []byte
	// BacklogBytes is how much may wait for a kernel that does not read a
	// channel; one message may always wait. Zero means DefaultBacklogBytes.
	BacklogBytes int64
	// VerifyBytes is the size of the JSON parts up to which the signature of
	// every message is checked; larger ones are checked until one message of
	// the same socket was right. A right signature proves that the socket's
	// other end holds the key, so that no stranger has taken the kernel's port;
	// checking each large output would only prove it again, at a cost above that
	// of relaying it. Zero means DefaultVerifyBytes, negative means all.
	VerifyBytes int64
	// TooLarge is called in the place of handle for a message of the kernel that
	// is larger than MaxMessageBytes (up to 16 times: beyond, the connection
	// ends). m has the parts that were within the limit, {} for the others, and
	// its signature was not checked; size is that of the whole. Its use is to
	// tell the reader that output is missing. Nil means that such messages are
	// only counted.
	TooLarge func(m *jupyter.Message, size int64)
}

func (o Options) withDefaults() Options {
	if o.MaxMessageBytes == 0 {
		o.MaxMessageBytes = DefaultMaxMessageBytes
	}
	if o.HandshakeTimeout == 0 {
		o.HandshakeTimeout = DefaultHandshakeTimeout
	}
	if len(o.Identity) == 0 {
		o.Identity = []byte(jupyter.NewID())
	}
	if o.BacklogBytes == 0 {
		o.BacklogBytes = DefaultBacklogBytes
	}
	if o.VerifyBytes == 0 {
		o.VerifyBytes = DefaultVerifyBytes
	}
	return o
}

// Stats counts what a kernel sent that was not delivered, since Dial.
type Stats struct {
	Unsigned  uint64 // wrong signature
	Malformed uint64 // no delimiter, too few parts, or a header that is no object
	TooLarge  uint64 // over Options.MaxMessageBytes
}

// Client is the connection to one kernel process: a DEALER each for shell,
// control and stdin, and a SUB for all of iopub. All methods are safe for
// concurrent use; Run is called once.
type Client struct {
	// set at construction
	channels  []*channel // shell, control, stdin, iopub
	tooLarge  func(*jupyter.Message, int64)
	lastWords time.Duration // how long the other sockets are read after the first failed

	deliver sync.Mutex // held during handle, so that it never runs twice at once
	ran     atomic.Bool
	close   sync.Once

	unsigned, malformed, skipped atomic.Uint64
}

// Dial connects to a kernel. The kernel may bind its sockets later: Dial tries
// again until ctx ends. A kernel that accepts a connection and then does not
// complete the handshake is an error at once. When Dial fails nothing is left
// open; when it returns, iopub is subscribed, and the caller must call Run or
// Close.
func Dial(ctx context.Context, info jupyter.ConnectionInfo, o Options) (*Client, error) {
	o = o.withDefaults()
	if len(o.Identity) > 255 {
		return nil, fmt.Errorf("cannot connect to the kernel: an identity of %d bytes, 255 at most", len(o.Identity))
	}
	if info.Key != "" && info.SignatureScheme != "" && info.SignatureScheme != "hmac-sha256" {
		return nil, fmt.Errorf("cannot connect to the kernel: signature scheme %q is not hmac-sha256", info.SignatureScheme)
	}
	c := &Client{channels: make([]*channel, 4), tooLarge: o.TooLarge, lastWords: time.Second}
	dial := func(ctx context.Context, i int, name jupyter.Channel, port int) error {
		ch, err := dialChannel(ctx, name, info, port, o)
		if err != nil {
			return fmt.Errorf("cannot connect to the kernel's %s socket: %w", name, err)
		}
		c.channels[i] = ch
		return nil
	}
	// Kernels bind shell first. While there is none, only it is tried: attempts
	// cost the sandbox CPU that the kernel needs to start.
	if err := dial(ctx, 0, jupyter.Shell, info.ShellPort); err != nil {
		return nil, err
	}
	group, groupCtx := errgroup.WithContext(ctx)
	group.Go(func() error { return dial(groupCtx, 1, jupyter.Control, info.ControlPort) })
	group.Go(func() error { return dial(groupCtx, 2, jupyter.Stdin, info.StdinPort) })
	group.Go(func() error { return dial(groupCtx, 3, jupyter.IOPub, info.IOPubPort) })
	if err := group.Wait(); err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

// Run receives from all four sockets, and sends what Send queued, until ctx ends
// or the first socket fails; then all are closed and the reason is returned.
// Every error is final: a new kernel has new sockets. When a socket fails, as all
// do when a kernel dies, the others are read to their end for one second more at
// most, so that the last output of a dying kernel is not lost; ErrProtocol ends
// all at once.
//
// handle is called for each message, for one at a time, in order within each
// channel. The message owns its bytes: handle may keep it. While handle runs
// nothing is received, and a kernel whose queue is full drops iopub messages
// silently, so handle must not wait for a client.
func (c *Client) Run(ctx context.Context, handle func(*jupyter.Message)) error {
	if c.ran.Swap(true) {
		return errors.New("cannot run a connection to a kernel twice")
	}
	stop := context.AfterFunc(ctx, func() { c.Close() })
	defer stop()

	var readers, writers sync.WaitGroup
	var first sync.Once
	var reason error
	for _, ch := range c.channels {
		writers.Go(func() { ch.writeLoop() })
		readers.Go(func() {
			err := c.readLoop(ch, handle)
			first.Do(func() {
				reason = err
				if errors.Is(err, ErrProtocol) {
					c.Close()
				}
				for _, other := range c.channels {
					other.guard.SetReadDeadline(time.Now().Add(c.lastWords))
				}
			})
		})
	}
	readers.Wait()
	c.Close()
	writers.Wait()
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return reason
}

// Send queues a message for the kernel: shell, control and stdin. It signs the
// message, copies it, and never waits. ErrBacklog when the kernel does not read
// that channel; ErrTooLarge; ErrClosed after the end of Run.
func (c *Client) Send(m *jupyter.Message) error {
	for _, ch := range c.channels {
		if ch.name == m.Channel && ch.name != jupyter.IOPub {
			return ch.send(m)
		}
	}
	return fmt.Errorf("cannot send to channel %q of a kernel", m.Channel)
}

// Stats returns the counts so far.
func (c *Client) Stats() Stats {
	return Stats{Unsigned: c.unsigned.Load(), Malformed: c.malformed.Load(), TooLarge: c.skipped.Load()}
}

// Close closes all sockets at once, and ends Run. What waits is not sent. It may
// be called twice.
func (c *Client) Close() error {
	c.close.Do(func() {
		for _, ch := range c.channels {
			if ch != nil {
				ch.close()
			}
		}
	})
	return nil
}

func (c *Client) readLoop(ch *channel, handle func(*jupyter.Message)) error {
	for {
		m, skipped, err := ch.receive()
		if skipped > 0 {
			c.skipped.Add(1)
		}
		switch {
		case errors.Is(err, errUnsigned):
			c.unsigned.Add(1)
		case errors.Is(err, errMalformed):
			c.malformed.Add(1)
		case err != nil:
			return err
		case skipped == 0:
			c.deliver.Lock()
			handle(m)
			c.deliver.Unlock()
		case c.tooLarge != nil:
			c.deliver.Lock()
			c.tooLarge(m, int64(skipped))
			c.deliver.Unlock()
		}
	}
}
