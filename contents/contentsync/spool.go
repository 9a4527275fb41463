package contentsync

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"time"

	"kernelgw/contents"
)

// inMemory is up to what size a body is kept in memory.
const inMemory = 64 << 10

// spooled is a body that was taken whole.
type spooled struct {
	io.ReadSeeker
	close func()
}

// Close gives back what the body holds.
func (s *spooled) Close() { s.close() }

// spool takes the body of a request, whole: a store may read it twice, and a
// sandbox that sends it slowly must not hold a connection to the storage. What
// is sent must be as long as was said, or the link broke in the middle.
func (l *link) spool(w http.ResponseWriter, r *http.Request) (*spooled, error) {
	if r.ContentLength < 0 {
		return nil, &refused{http.StatusLengthRequired, "the length is missing"}
	}
	if r.ContentLength > l.MaxFileBytes {
		return nil, &refused{http.StatusRequestEntityTooLarge, fmt.Sprintf("the limit for one file is %d bytes", l.MaxFileBytes)}
	}
	if r.ContentLength <= inMemory {
		b, err := io.ReadAll(&patient{r.Body, http.NewResponseController(w), r.ContentLength})
		if err != nil || int64(len(b)) != r.ContentLength {
			return nil, errCutShort
		}
		return &spooled{bytes.NewReader(b), func() {}}, nil
	}
	select {
	case l.uploads <- struct{}{}:
	case <-r.Context().Done():
		return nil, context.Cause(r.Context())
	}
	f, err := os.CreateTemp(l.SpoolDir, "sync-")
	if err != nil {
		<-l.uploads
		return nil, fmt.Errorf("cannot spool a file of a sandbox: %w", err)
	}
	os.Remove(f.Name()) // it lives as long as it is open, whatever dies
	s := &spooled{f, func() {
		f.Close()
		<-l.uploads
	}}
	if err := contents.SpoolRoom(f, r.ContentLength); err != nil {
		s.Close()
		return nil, err
	}
	n, err := io.Copy(f, &patient{r.Body, http.NewResponseController(w), r.ContentLength})
	if err == nil && n != r.ContentLength {
		err = errCutShort
	}
	if err == nil {
		_, err = f.Seek(0, io.SeekStart)
	}
	if err != nil {
		s.Close()
		return nil, fmt.Errorf("cannot spool a file of a sandbox: %w", err)
	}
	return s, nil
}

var errCutShort = errors.New("the body was cut short")

// patient reads a body that must not stop for long.
type patient struct {
	io.Reader
	control *http.ResponseController
	left    int64
}

// Read implements io.Reader.
func (p *patient) Read(b []byte) (int, error) {
	if p.left <= 0 {
		return 0, io.EOF
	}
	if int64(len(b)) > p.left {
		b = b[:p.left]
	}
	p.control.SetReadDeadline(time.Now().Add(bodySilence))
	n, err := p.Reader.Read(b)
	p.left -= int64(n)
	if err != nil && !errors.Is(err, io.EOF) {
		err = errors.Join(errCutShort, err)
	}
	return n, err
}
