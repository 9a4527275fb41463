package contents

import (
	"bytes"
	"fmt"
	"io"
	"math"
	"os"
	"sync/atomic"
	"syscall"
)

const (
	// spoolMemory is how much of a spool is in memory. A notebook of ordinary
	// size stays there.
	spoolMemory = 8 << 20
	// spoolsMemory is how much of all spools together is in memory. What comes
	// when it is full goes to files at once.
	spoolsMemory = 16 << 20
	// spoolWindow is how much of a mapped file is walked through before its pages
	// are let go.
	spoolWindow = 4 << 20
)

// spool holds bytes that are too many for memory perhaps: in memory first, then in
// a file without a name, so that nothing is left when the process is killed. It
// belongs to one goroutine.
type spool struct {
	dir    string
	limit  int64 // bytes that it may hold
	size   int64
	memory []byte
	all    *atomic.Int64 // what all spools hold in memory; nil: that does not matter
	mine   int64         // of it
	share  *share        // of whose body it is; nil: that does not matter
	file   *os.File
	// up to checked there is room for it in the file system.
	checked int64
	mapped  []byte
}

// spool returns one for a body of a person.
func (h *Handlers) spool(owner string, limit int64) *spool {
	return &spool{dir: h.o.SpoolDir, limit: limit, all: &h.inMemory, share: &share{of: &h.spooled, owner: owner}}
}

// Write implements io.Writer. *tooLargeError when it is full, *shareError when its
// owner has too much.
func (s *spool) Write(p []byte) (int, error) {
	if s.size+int64(len(p)) > s.limit {
		return 0, &tooLargeError{s.limit}
	}
	s.size += int64(len(p))
	if s.file == nil && s.size <= spoolMemory && s.reserve(s.size) {
		s.memory = append(s.memory, p...)
		return len(p), nil
	}
	if err := s.toFile(); err != nil {
		return 0, err
	}
	if err := s.share.grow(s.size); err != nil {
		return 0, err
	}
	if s.size > s.checked {
		if err := s.room(); err != nil {
			return 0, err
		}
		s.checked = s.size + roomEvery
	}
	n, err := s.file.Write(p)
	if err != nil {
		return n, fmt.Errorf("cannot spool: %w", err)
	}
	return n, nil
}

// expect makes room for so many bytes, which is a guess.
func (s *spool) expect(n int64) {
	if n += n / 8; n > 0 && n <= spoolMemory && s.memory == nil && s.reserve(n) {
		s.memory = make([]byte, 0, n)
	}
}

// reserve counts n bytes of memory, if there are so many for spools.
func (s *spool) reserve(n int64) bool {
	more := n - s.mine
	if more <= 0 || s.all == nil {
		return true
	}
	if s.all.Add(more) > spoolsMemory {
		s.all.Add(-more)
		return false
	}
	s.mine += more
	return true
}

// free lets go what is in memory.
func (s *spool) free() {
	if s.all != nil {
		s.all.Add(-s.mine)
	}
	s.memory, s.mine = nil, 0
}

// toFile moves what is in memory to a file.
func (s *spool) toFile() error {
	if s.file != nil {
		return nil
	}
	if err := s.share.file(); err != nil {
		return err
	}
	file, err := os.CreateTemp(s.dir, "kernelgw-spool-")
	if err != nil {
		return fmt.Errorf("cannot spool: %w", err)
	}
	s.file = file
	if err := os.Remove(file.Name()); err != nil {
		return fmt.Errorf("cannot spool: %w", err)
	}
	if err := s.room(); err != nil {
		return err
	}
	s.checked = roomEvery
	if _, err := file.Write(s.memory); err != nil {
		return fmt.Errorf("cannot spool: %w", err)
	}
	s.free()
	return nil
}

const (
	// roomEvery is how much is written to a file before it is seen again whether
	// there is room.
	roomEvery = 16 << 20
	// roomKept is what spools leave free of a file system, but at most a twentieth
	// of it: without that, a few people who read large files at once would keep all
	// others from saving small ones.
	roomKept = 1 << 30
)

// SpoolRoom refuses when a file system has no room for so many bytes of a body that
// waits in a file of it.
func SpoolRoom(file *os.File, wanted int64) error {
	_, err := roomFor(file, wanted)
	return err
}

// roomFor returns what a file system has room for besides so many bytes.
func roomFor(file *os.File, wanted int64) (left int64, err error) {
	var fs syscall.Statfs_t
	if err := syscall.Fstatfs(int(file.Fd()), &fs); err != nil {
		return 0, fmt.Errorf("cannot spool: %w", err)
	}
	free, total := int64(fs.Bavail)*fs.Bsize, int64(fs.Blocks)*fs.Bsize
	if left = free - wanted - min(roomKept, total/20); left < 0 {
		return 0, fmt.Errorf("cannot spool: %d bytes are free, which is kept for others", free)
	}
	return left, nil
}

// room refuses when there is no room for what comes next.
func (s *spool) room() error {
	left, err := roomFor(s.file, roomEvery)
	if err != nil {
		return err
	}
	return s.share.leaves(left)
}

// appendAll appends what another spool holds.
func (s *spool) appendAll(other *spool) error {
	_, err := io.Copy(s, other.reader())
	return err
}

// view returns all of it, until it is closed. Nothing may be written afterwards.
func (s *spool) view() ([]byte, error) {
	if s.file == nil {
		return s.memory, nil
	}
	if s.mapped != nil {
		return s.mapped, nil
	}
	if s.size > math.MaxInt {
		return nil, &tooLargeError{math.MaxInt}
	}
	mapped, err := syscall.Mmap(int(s.file.Fd()), 0, int(s.size), syscall.PROT_READ, syscall.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("cannot map a spool: %w", err)
	}
	s.mapped = mapped
	return mapped, nil
}

// release lets the pages of the view go that are resident, so that a large file
// does not become resident as a whole. Whoever walks through a view calls it every
// spoolWindow bytes.
func (s *spool) release() {
	if s != nil && s.mapped != nil {
		// What fails here costs memory only.
		_ = syscall.Madvise(s.mapped, syscall.MADV_DONTNEED)
	}
}

// reader returns a reader of all of it, apart from other readers.
func (s *spool) reader() io.ReadSeeker {
	if s.file != nil {
		return io.NewSectionReader(s.file, 0, s.size)
	}
	return bytes.NewReader(s.memory)
}

// Close lets it go. It may be called twice.
func (s *spool) Close() {
	if s.mapped != nil {
		_ = syscall.Munmap(s.mapped)
		s.mapped = nil
	}
	if s.file != nil {
		s.file.Close()
		s.file = nil
	}
	s.share.end()
	s.free()
}

// tooLargeError says that a file is larger than this server takes.
type tooLargeError struct{ limit int64 }

func (e *tooLargeError) Error() string {
	return fmt.Sprintf("the file is larger than %d bytes, which is the most that this server takes", e.limit)
}
