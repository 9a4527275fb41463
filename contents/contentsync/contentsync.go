// Package contentsync is the gateway's end of the file sync of a sandbox: it
// serves the link of package agentapi over a contents.Store, for one workspace.
// It knows nothing of kernels and sandboxes, and believes nothing that comes
// over a link: what is at its other end is as hostile as the kernel's code.
package contentsync

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"kernelgw/contents"
	"kernelgw/sandboxes/agentapi"
)

// Options configure a Server. Store is required.
type Options struct {
	Store contents.Store
	Log   *slog.Logger // nil discards it
	// SpoolDir is where bodies wait that are too large for memory. Empty means
	// the directory for temporary files.
	SpoolDir string
	// MaxFileBytes caps one file. Zero means agentapi.DefaultMaxFile.
	MaxFileBytes int64
	// MaxEntries is how many files and directories of a workspace a sandbox may
	// fill it up to. Zero means 200,000.
	MaxEntries int64
	// Requests is how many requests a second one link may do on average. Zero
	// means 2,000. More wait.
	Requests float64
}

// Server serves links. All methods are safe for concurrent use.
type Server struct{ o Options }

// New returns a Server.
func New(o Options) *Server {
	o.MaxFileBytes = cmp.Or(o.MaxFileBytes, agentapi.DefaultMaxFile)
	o.MaxEntries = cmp.Or(o.MaxEntries, 200_000)
	o.Requests = cmp.Or(o.Requests, 2000)
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return &Server{o}
}

// What one link may hold at a time.
const (
	maxStreams     = 32        // requests
	maxUploads     = 4         // bodies being taken
	burst          = 5         // seconds of requests at once: a first pull
	streamBuffer   = 256 << 10 // bytes of one body on their way
	linkBuffer     = 1 << 20   // of all
	maxHeaderBytes = 16 << 10  // of one request
	bodySilence    = 30 * time.Second
	linkSilence    = 20 * time.Second // then it is asked whether it is still there
)

// Serve serves a link of a sandbox for a workspace, until ctx ends or the other
// side closes it, and closes it. author is told as who wrote what comes over it.
func (s *Server) Serve(ctx context.Context, conn net.Conn, workspace, author string) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	l := &link{
		Options: &s.o, workspace: workspace, author: author,
		uploads: make(chan struct{}, maxUploads),
		rate:    rate.NewLimiter(rate.Limit(s.o.Requests), int(burst*s.o.Requests)),
	}
	var protocols http.Protocols
	protocols.SetUnencryptedHTTP2(true)
	server := &http.Server{
		Handler:        l.handler(),
		Protocols:      &protocols,
		MaxHeaderBytes: maxHeaderBytes,
		BaseContext:    func(net.Listener) context.Context { return ctx },
		ErrorLog:       slog.NewLogLogger(s.o.Log.Handler(), slog.LevelDebug),
		HTTP2: &http.HTTP2Config{
			MaxConcurrentStreams:          maxStreams,
			MaxReceiveBufferPerConnection: linkBuffer,
			MaxReceiveBufferPerStream:     streamBuffer,
			SendPingTimeout:               linkSilence,
			PingTimeout:                   linkSilence,
			WriteByteTimeout:              linkSilence,
		},
	}
	only := &oneConn{conn: conn, closed: make(chan struct{})}
	stop := context.AfterFunc(ctx, func() { server.Close() })
	defer stop()
	err := server.Serve(only)
	server.Close()
	cancel()
	l.end()
	if errors.Is(err, http.ErrServerClosed) || errors.Is(err, errLinkClosed) {
		return ctx.Err()
	}
	return fmt.Errorf("cannot serve a link for files: %w", err)
}

// link is one link and what it has used.
type link struct {
	*Options
	workspace string
	author    string
	rate      *rate.Limiter
	uploads   chan struct{} // holds one for each body being taken
	entries   entries

	mu       sync.Mutex
	ended    bool           // guarded by mu: no request begins any more
	handlers sync.WaitGroup // of requests
}

// begin says whether a request may be handled. Then handlers must be told of its
// end.
func (l *link) begin() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.ended {
		l.handlers.Add(1)
	}
	return !l.ended
}

// end waits for the requests that are being handled, and lets no more begin.
func (l *link) end() {
	l.mu.Lock()
	l.ended = true
	l.mu.Unlock()
	l.handlers.Wait()
}

var errLinkClosed = errors.New("the link is closed")

// oneConn is a listener of one connection. Accept fails for good when that is
// closed, which ends http.Server.Serve.
type oneConn struct {
	conn   net.Conn
	given  bool // owned by who calls Accept
	once   sync.Once
	closed chan struct{}
}

// Accept implements net.Listener.
func (l *oneConn) Accept() (net.Conn, error) {
	if !l.given {
		l.given = true
		return &closingConn{l.conn, l}, nil
	}
	<-l.closed
	return nil, errLinkClosed
}

// Close implements net.Listener.
func (l *oneConn) Close() error {
	l.once.Do(func() {
		close(l.closed)
		l.conn.Close()
	})
	return nil
}

// Addr implements net.Listener.
func (l *oneConn) Addr() net.Addr { return l.conn.LocalAddr() }

type closingConn struct {
	net.Conn
	listener *oneConn
}

// Close implements net.Conn.
func (c *closingConn) Close() error { return c.listener.Close() }
