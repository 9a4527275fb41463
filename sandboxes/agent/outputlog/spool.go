package outputlog

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"kernelgw/sandboxes/agentapi"
)

// spool holds parts on disk until they are stored elsewhere. One goroutine keeps
// parts; the rest is safe for concurrent use.
type spool struct {
	// set at construction
	place   string // where its directory is made, at the first part
	budget  int64  // bytes of all parts
	changed func()
	log     *slog.Logger

	waiting atomic.Int64 // how many parts there are

	mu      sync.Mutex
	dir     string // "" before the first part
	parts   []agentapi.OutputLogPart
	spooled int64     // bytes of parts
	asked   time.Time // when somebody asked for a part, or told that one is stored, or the first was kept
}

var errFull = errors.New("too much waits to be stored")

// keep writes a part to disk.
func (s *spool) keep(p agentapi.OutputLogPart, content []byte) error {
	name, err := s.room(p)
	if err != nil {
		return err
	}
	if err := write(name, content); err != nil {
		return err
	}
	s.mu.Lock()
	if len(s.parts) == 0 {
		s.asked = time.Now()
	}
	s.parts = append(s.parts, p)
	s.spooled += p.Size
	s.waiting.Store(int64(len(s.parts)))
	s.mu.Unlock()
	s.changed()
	return nil
}

// room returns where a part is to be written, if it may be.
func (s *spool) room(p agentapi.OutputLogPart) (name string, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.spooled+p.Size > s.budget {
		return "", errFull
	}
	if s.dir == "" {
		if s.dir, err = os.MkdirTemp(s.place, "output-"); err != nil {
			return "", err
		}
	}
	return s.file(p.Number), nil
}

// file returns where a part is. It needs the lock.
func (s *spool) file(number int64) string {
	return filepath.Join(s.dir, strconv.FormatInt(number, 10)+".gz")
}

// write makes a file. Where the kernel is the same user, something that it made may
// be in its place: that is removed, for the next.
func write(name string, content []byte) error {
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL|unix.O_NOFOLLOW, 0o600)
	if err == nil {
		_, err = f.Write(content)
		err = errors.Join(err, f.Close())
	}
	if err != nil {
		_ = os.Remove(name) // also what there is of it
	}
	return err
}

// read reads a file of a size. Where the kernel is the same user, something else may
// be in its place: it must not keep the agent waiting.
func read(name string, size int64) ([]byte, error) {
	f, err := os.OpenFile(name, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() || info.Size() != size {
		return nil, fmt.Errorf("cannot read %s: it is not the file that was written", name)
	}
	content := make([]byte, size)
	if _, err := io.ReadFull(f, content); err != nil {
		return nil, fmt.Errorf("cannot read %s: %w", name, err)
	}
	return content, nil
}

// oldest returns the oldest part; ok is false when there is none. A part that cannot
// be read is lost.
func (s *spool) oldest() (p agentapi.OutputLogPart, content []byte, ok bool) {
	for {
		s.mu.Lock()
		s.asked = time.Now()
		if len(s.parts) == 0 {
			s.mu.Unlock()
			return p, nil, false
		}
		p = s.parts[0]
		name := s.file(p.Number)
		s.mu.Unlock()
		content, err := read(name, p.Size)
		if err == nil {
			return p, content, true
		}
		if s.stored(p.Number) { // else it was stored meanwhile
			s.log.Warn("output is missing in its log", "from", p.From, "bytes", p.Bytes, "error", err.Error())
		}
	}
}

// stored forgets the parts up to a number, and reports whether there were any.
func (s *spool) stored(number int64) bool {
	s.mu.Lock()
	s.asked = time.Now()
	n := 0
	for n < len(s.parts) && s.parts[n].Number <= number {
		s.spooled -= s.parts[n].Size
		_ = os.Remove(s.file(s.parts[n].Number)) // forget removes what is left
		n++
	}
	s.parts = s.parts[n:]
	s.waiting.Store(int64(len(s.parts)))
	s.mu.Unlock()
	if n > 0 {
		s.changed()
	}
	return n > 0
}

// neglected returns for how long parts have been waiting, and nobody asked for one.
func (s *spool) neglected() time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.parts) == 0 {
		return 0
	}
	return time.Since(s.asked)
}

// forget removes everything from the disk.
func (s *spool) forget() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	dir := s.dir
	s.parts, s.spooled, s.dir = nil, 0, ""
	s.waiting.Store(0)
	if dir == "" {
		return nil
	}
	return os.RemoveAll(dir)
}
