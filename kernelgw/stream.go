package kernelgw

import (
	"errors"
	"io"
	"net/http"
	"time"
)

// Files take as long as they take, but not for ever: a transfer must go on at
// slowest this fast on average, after a patience that any request has.
const (
	slowestTransfer = 16 << 10 // bytes per second
	deadlineStep    = time.Second
)

// steady moves a connection's deadline along with the bytes that cross it.
type steady struct {
	set      func(time.Time) error // fails without a network only
	patience time.Duration
	started  time.Time
	bytes    int64
	last     time.Time // deadline that was set; zero: the connection's own
}

func (s *steady) moved(n int) {
	s.bytes += int64(n)
	next := s.started.Add(s.patience + time.Duration(s.bytes/slowestTransfer)*time.Second)
	if next.Sub(s.last) >= deadlineStep {
		s.last = next
		_ = s.set(next)
	}
}

// steadyBody is a request's body that may take long while it comes.
type steadyBody struct {
	io.ReadCloser
	pace steady
}

func (b *steadyBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if errors.Is(err, io.EOF) {
		// From here on net/http reads only to see whether the client leaves, and
		// would take the deadline for that: the handler may take its time.
		_ = b.pace.set(time.Time{})
		return n, err
	}
	b.pace.moved(n)
	return n, err
}

// steadyWriter is an answer that may take long while it goes, and before.
type steadyWriter struct {
	http.ResponseWriter
	pace steady // started with the answer
}

func (w *steadyWriter) begin() {
	if w.pace.started.IsZero() {
		w.pace.started = time.Now()
		w.pace.moved(0)
	}
}

// WriteHeader implements http.ResponseWriter.
func (w *steadyWriter) WriteHeader(status int) {
	w.begin()
	w.ResponseWriter.WriteHeader(status)
}

func (w *steadyWriter) Write(p []byte) (int, error) {
	w.begin()
	n, err := w.ResponseWriter.Write(p)
	w.pace.moved(n)
	return n, err
}

// Unwrap lets http.ResponseController find what is below.
func (w *steadyWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// stream lets a request's body and answer take as long as they move.
func (s *Server) stream(c *call) {
	now := time.Now()
	connection := http.NewResponseController(c.Response().Writer)
	if r := c.Request(); r.ContentLength != 0 {
		r.Body = &steadyBody{r.Body, steady{set: connection.SetReadDeadline, patience: bodyTimeout, started: now}}
	}
	c.Response().Writer = &steadyWriter{c.Response().Writer, steady{set: connection.SetWriteDeadline, patience: writeTimeout}}
}
