package filesync

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"net/http"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"kernelgw/sandboxes/agentapi"
)

// push brings what is here to the store, where was was the last.
func (s *Syncer) push(r *remote, c change, was synced, here stat) error {
	p := c.path
	if err := agentapi.CheckFilesPath(p); err != nil {
		if here.kind == absent {
			s.table.set(p, synced{})
			return nil
		}
		return s.keep(p, here, err.Error())
	}
	switch here.kind {
	case absent:
		return s.pushDelete(r, c, was)
	case directory:
		return s.pushDirectory(r, c, was, here)
	case regular:
		if was.etag == directoryTag {
			return s.pushDelete(r, c, was) // first: a directory became a file
		}
		return s.pushFile(r, c, was, here)
	}
	return nil
}

// fillTries is how often a directory that is gone here and is not empty there is
// looked at again, before it comes back: what is in it may be on its way out.
const fillTries = 3

func (s *Syncer) pushDelete(r *remote, c change, was synced) error {
	p := c.path
	var err error
	switch {
	case was.etag == directoryTag && s.pendingBelow(p):
		return errAgain // it is not empty yet
	case was.etag != "":
		err = r.remove(r.ctx, p, was.etag)
	}
	var newer *overtaken
	switch {
	case err == nil:
		s.table.set(p, synced{})
		// Something else may be here by now.
		s.queue.add(change{path: p, local: true})
		return nil
	case statusOf(err) == http.StatusConflict && was.etag == directoryTag && c.tries < fillTries:
		return errAgain
	case errors.As(err, &newer), statusOf(err) == http.StatusConflict:
		// It was changed, or filled, after it was seen here: it comes back.
		s.table.set(p, synced{})
		s.ask(p)
		return nil
	}
	return err
}

func (s *Syncer) pushDirectory(r *remote, c change, was synced, here stat) error {
	p := c.path
	if was.etag != "" && was.etag != directoryTag {
		return s.pushDelete(r, c, was) // first: a file became a directory
	}
	err := r.makeDirectory(r.ctx, p)
	if statusOf(err) == http.StatusConflict {
		s.ask(p)
		return nil
	}
	if err != nil {
		return s.refusedBy(p, here, err)
	}
	s.table.set(p, synced{etag: directoryTag, stat: here})
	return nil
}

// patientTries is after how many tries a file that does not stop growing is
// brought to the store as far as it was there.
const patientTries = 5

func (s *Syncer) pushFile(r *remote, c change, was synced, here stat) error {
	p := c.path
	if here.size > s.o.Config.MaxFileBytes {
		return s.keep(p, here, fmt.Sprintf("it is larger than the limit of %d MiB", s.o.Config.MaxFileBytes>>20))
	}
	f, opened, err := s.tree.read(p)
	if errors.Is(err, unix.ENOENT) || errors.Is(err, errSpecial) {
		return errAgain
	}
	if err != nil {
		return err
	}
	defer f.Close()
	looked := time.Now()
	if was.etag != "" && opened.size == was.stat.size && opened.executable == was.stat.executable {
		sum, err := digest(f, opened.size)
		if err != nil {
			return err
		}
		if sum == was.sum {
			return s.pushed(p, f, opened, looked, was.etag, sum)
		}
		if _, err := f.Seek(0, io.SeekStart); err != nil {
			return err
		}
	}
	body := &unchanging{file: f, tree: s.tree, as: opened, left: opened.size, hash: sha256.New(), growing: c.tries >= patientTries}
	e, err := r.put(r.ctx, p, body, opened.size, was.etag, opened.executable)
	changed, read := body.end()
	var newer *overtaken
	switch {
	case changed:
		return errAgain // nothing was stored: the body was cut short
	case errors.As(err, &newer) && newer.entry.ETag == "" && was.etag != "":
		// Deleted there, changed here: the change is kept.
		s.table.set(p, synced{})
		return errAgain
	case errors.As(err, &newer), statusOf(err) == http.StatusConflict:
		s.ask(p)
		return nil
	case err != nil:
		return s.refusedBy(p, opened, err)
	case e.ETag == "":
		return errors.New("an answer of the store says too little")
	}
	return s.pushed(p, f, opened, looked, e.ETag, read)
}

// pushed remembers that the store has what f held.
func (s *Syncer) pushed(p string, f *os.File, opened stat, looked time.Time, etag string, held sum) error {
	now, err := s.tree.statFile(f)
	if err != nil {
		return err
	}
	is := synced{etag: etag, stat: opened, sum: held, unsure: unsure(opened, looked)}
	s.table.set(p, is)
	if is.unsure || !now.same(opened) {
		s.queue.add(change{path: p, local: true, after: settle})
	}
	return nil
}

// refusedBy handles an answer of the store to what is here.
func (s *Syncer) refusedBy(p string, here stat, err error) error {
	var no *answerError
	if errors.As(err, &no) {
		switch no.status {
		case http.StatusBadRequest, http.StatusRequestEntityTooLarge, http.StatusInsufficientStorage:
			return s.keep(p, here, no.message)
		}
	}
	return err
}

// unchanging reads a file as it was opened. At its end it fails when the file was
// changed while it was read: half of one and half of another version is none.
type unchanging struct {
	file    *os.File
	tree    *tree
	as      stat
	growing bool // what was appended meanwhile is no change

	mu      sync.Mutex // a request may read on when its answer is there
	left    int64      // guarded by mu
	hash    hash.Hash  // guarded by mu
	changed bool       // guarded by mu
	ended   bool       // guarded by mu
}

// Read implements io.Reader.
func (u *unchanging) Read(p []byte) (int, error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.ended {
		return 0, os.ErrClosed
	}
	if u.left == 0 {
		return 0, io.EOF
	}
	if int64(len(p)) > u.left {
		p = p[:u.left]
	}
	n, err := u.file.Read(p)
	u.left -= int64(n)
	u.hash.Write(p[:n]) //nolint:errcheck // a hash does not fail
	if u.left > 0 && err == nil {
		return n, nil
	}
	now, statErr := u.tree.statFile(u.file)
	same := now.size == u.as.size && now.modified == u.as.modified || u.growing && now.size >= u.as.size
	if u.left > 0 || statErr != nil || !same {
		u.changed = true
		return 0, errChanged
	}
	return n, nil
}

// end ends all reading, and says whether the file was changed meanwhile, and what
// was read.
func (u *unchanging) end() (changed bool, read sum) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.ended = true
	return u.changed, sum(u.hash.Sum(nil))
}

func digest(f io.Reader, size int64) (sum, error) {
	h := sha256.New()
	_, err := io.Copy(h, io.LimitReader(f, size))
	return sum(h.Sum(nil)), err
}
