package egress

import (
	"context"
	"crypto/tls"
	"fmt"
	"log"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
)

// Serve answers clients on a listener until ctx ends, then cuts all
// connections, waits for what it started and returns nil. Clients are told
// apart by their source address; whoever was not admitted is hung up on.
func (p *Proxy) Serve(ctx context.Context, listener net.Listener) error {
	s := &server{proxy: p, handed: &handover{conns: make(chan net.Conn), closed: make(chan struct{}), addr: listener.Addr()}}
	logger := log.New(panicLog{p.log}, "", 0)
	s.outer = &http.Server{
		Handler:           http.HandlerFunc(s.serveOuter),
		ReadHeaderTimeout: p.limits.header,
		IdleTimeout:       p.limits.idle,
		MaxHeaderBytes:    p.limits.bytes,
		ErrorLog:          logger,
		Protocols:         new(http.Protocols),
		ConnContext: func(ctx context.Context, conn net.Conn) context.Context {
			return context.WithValue(ctx, inboundKey{}, conn.(*inbound))
		},
	}
	s.outer.Protocols.SetHTTP1(true)
	s.inner = &http.Server{
		Handler:           http.HandlerFunc(s.serveInner),
		ReadHeaderTimeout: p.limits.header,
		IdleTimeout:       p.limits.idle,
		MaxHeaderBytes:    p.limits.bytes,
		ErrorLog:          logger,
		HTTP2: &http.HTTP2Config{
			MaxConcurrentStreams: 32, MaxReceiveBufferPerConnection: 512 << 10, MaxReceiveBufferPerStream: 128 << 10,
		},
		ConnContext: func(ctx context.Context, conn net.Conn) context.Context {
			return context.WithValue(ctx, interceptedKey{}, conn.(*tls.Conn).NetConn().(*intercepted))
		},
	}

	stopped := context.AfterFunc(ctx, s.close)
	defer stopped()
	inner := make(chan struct{})
	go func() {
		defer close(inner)
		s.inner.Serve(s.handed)
	}()
	err := s.outer.Serve(&gate{Listener: listener, proxy: p})
	s.close()
	<-inner
	s.handlers.Wait()
	s.cutClients() // what handlers have opened meanwhile
	if ctx.Err() == nil {
		return fmt.Errorf("cannot serve the egress proxy: %w", err)
	}
	return nil
}

// server is one call of Serve: the proxy itself, and behind it the server of
// connections whose TLS is ended here.
type server struct {
	proxy        *Proxy
	outer, inner *http.Server
	handed       *handover

	mu       sync.Mutex
	ended    bool
	handlers sync.WaitGroup // added to before ended only
}

// begin counts a handler; false when it is too late to begin.
func (s *server) begin() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended {
		return false
	}
	s.handlers.Add(1)
	return true
}

type (
	inboundKey     struct{}
	interceptedKey struct{}
)

func (s *server) close() {
	s.mu.Lock()
	s.ended = true
	s.mu.Unlock()
	s.outer.Close()
	s.inner.Close()
	s.cutClients() // hijacked connections are not the servers' any more
}

func (s *server) cutClients() {
	s.proxy.mu.RLock()
	defer s.proxy.mu.RUnlock()
	for _, c := range s.proxy.clients {
		c.cutAll()
	}
}

// serveOuter handles one request to the proxy.
func (s *server) serveOuter(w http.ResponseWriter, r *http.Request) {
	if !s.begin() {
		return
	}
	defer s.handlers.Done()
	in := r.Context().Value(inboundKey{}).(*inbound)
	switch {
	case r.Method == http.MethodConnect:
		s.connect(w, r, in)
	case r.URL.Scheme == "http" && r.URL.Host != "":
		s.forward(w, r, in)
	default:
		s.proxy.answer(w, r, refusalOf(http.StatusBadRequest, "this is a proxy, for http:// URLs and CONNECT"))
	}
}

// gate lets only admitted clients connect.
type gate struct {
	net.Listener
	proxy *Proxy
}

// Accept returns the next connection of an admitted client that may have one
// more.
func (g *gate) Accept() (net.Conn, error) {
	for {
		conn, err := g.Listener.Accept()
		if err != nil {
			return nil, err
		}
		if in := g.proxy.receive(conn); in != nil {
			return in, nil
		}
		conn.Close()
	}
}

func (p *Proxy) receive(conn net.Conn) *inbound {
	source, err := netip.ParseAddrPort(conn.RemoteAddr().String())
	if err != nil {
		return nil
	}
	c := p.lookup(source.Addr().Unmap())
	if c == nil {
		p.denyStranger(source.Addr())
		return nil
	}
	in := &inbound{idleConn: idleConn{Conn: conn, idle: p.limits.idle}, client: c}
	if !c.hold(in, p.options.Connections) {
		p.deny(c, "", 0, fmt.Sprintf("more than %d connections at a time", p.options.Connections))
		return nil
	}
	return in
}

// handover is the listener of the inner server: it accepts what was handed to
// it.
type handover struct {
	conns  chan net.Conn
	once   sync.Once
	closed chan struct{}
	addr   net.Addr
}

// hand gives a connection to the inner server; false when that has ended.
func (h *handover) hand(conn net.Conn) bool {
	select {
	case h.conns <- conn:
		return true
	case <-h.closed:
		return false
	}
}

// Accept implements net.Listener.
func (h *handover) Accept() (net.Conn, error) {
	select {
	case conn := <-h.conns:
		return conn, nil
	case <-h.closed:
		return nil, net.ErrClosed
	}
}

// Close implements net.Listener.
func (h *handover) Close() error {
	h.once.Do(func() { close(h.closed) })
	return nil
}

// Addr implements net.Listener.
func (h *handover) Addr() net.Addr { return h.addr }

// panicLog passes on what http.Server says of panics. The rest quotes bytes of
// clients and hosts, and is theirs to know.
type panicLog struct{ log *slog.Logger }

// Write implements io.Writer.
func (l panicLog) Write(line []byte) (int, error) {
	if strings.HasPrefix(string(line), "http: panic") {
		l.log.Error("egress proxy panicked", "what", string(line))
	}
	return len(line), nil
}
