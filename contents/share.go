package contents

import (
	"fmt"
	"sync"
)

// spoolFiles is how many bodies of one person may be in files at once: each holds
// a descriptor open.
const spoolFiles = 128

// shares are what the spools of each person hold in files: nobody's uploads may
// take the room of all others'.
type shares struct {
	limit int64 // bytes of one person

	mu sync.Mutex
	by map[string]*held // by owner; those who hold something
}

type held struct {
	files int
	bytes int64
}

// share is what one spool holds of its owner's share. A nil share is without
// bounds. It belongs to one goroutine.
type share struct {
	of    *shares
	owner string
	open  bool  // it has a file
	bytes int64 // of it
}

// shareError says that a person's bodies on their way hold as much as one person's
// may.
type shareError struct {
	files int   // 0 when it is the bytes
	bytes int64 // that are held
}

// Error implements error.
func (e *shareError) Error() string {
	if e.files > 0 {
		return fmt.Sprintf("%d of your uploads and large files are on their way at once, and no more may be", e.files)
	}
	return fmt.Sprintf("your uploads and large files under way hold %d bytes of the server's disk, which is as much as one person's may", e.bytes)
}

// file counts the file of a spool.
func (s *share) file() error {
	if s == nil || s.open {
		return nil
	}
	s.of.mu.Lock()
	defer s.of.mu.Unlock()
	h := s.of.by[s.owner]
	if h == nil {
		h = &held{}
		if s.of.by == nil {
			s.of.by = map[string]*held{}
		}
		s.of.by[s.owner] = h
	}
	if h.files >= spoolFiles {
		return &shareError{files: h.files}
	}
	h.files++
	s.open = true
	return nil
}

// grow counts the bytes of a spool's file, which will be so many.
func (s *share) grow(bytes int64) error {
	if s == nil {
		return nil
	}
	s.of.mu.Lock()
	defer s.of.mu.Unlock()
	h := s.of.by[s.owner]
	if h.bytes+bytes-s.bytes > s.of.limit {
		return &shareError{bytes: h.bytes}
	}
	h.bytes += bytes - s.bytes
	s.bytes = bytes
	return nil
}

// leaves refuses when the owner holds more than is left for all others.
func (s *share) leaves(left int64) error {
	if s == nil {
		return nil
	}
	s.of.mu.Lock()
	defer s.of.mu.Unlock()
	if h := s.of.by[s.owner]; h.bytes > left {
		return &shareError{bytes: h.bytes}
	}
	return nil
}

// end gives all of it back. It may be called twice.
func (s *share) end() {
	if s == nil || !s.open {
		return
	}
	s.of.mu.Lock()
	defer s.of.mu.Unlock()
	h := s.of.by[s.owner]
	h.files--
	h.bytes -= s.bytes
	s.open, s.bytes = false, 0
	if h.files == 0 {
		delete(s.of.by, s.owner)
	}
}
