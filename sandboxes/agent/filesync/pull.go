package filesync

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"path"

	"golang.org/x/sys/unix"
)

// pullFile brings a file of the store here. What changed here, and is not the
// same by chance, is kept beside it.
func (s *Syncer) pullFile(p string, here stat, changed bool, there *content) error {
	if err := s.parents(p); err != nil {
		return err
	}
	d, err := s.tree.draft()
	if err != nil {
		return err
	}
	defer d.discard()
	hash := sha256.New()
	n, err := io.Copy(io.MultiWriter(d, hash), there)
	if err == nil && n != there.size {
		err = io.ErrUnexpectedEOF
	}
	if err == nil {
		err = s.tree.finish(d, there.executable, there.modified)
	}
	if err != nil {
		return fmt.Errorf("cannot bring %q: %w", p, err)
	}
	got := sum(hash.Sum(nil))
	if changed && here.kind == regular {
		same, err := s.holds(p, here, got)
		if err != nil {
			return err
		}
		if same {
			here.executable = there.executable // where it differs, it is yet to be pushed
			s.table.set(p, synced{etag: there.etag, stat: here, sum: got, unsure: true})
			s.queue.add(change{path: p, local: true, after: settle})
			return nil
		}
	}
	if here, err = s.makeWay(p, here, changed); err != nil {
		return err
	}
	placed, err := s.tree.place(d, p, here)
	if err != nil {
		return err
	}
	s.table.set(p, synced{etag: there.etag, stat: placed, sum: got})
	return nil
}

// makeWay clears a path for what the store has there, and returns what is there
// afterwards: nothing, or a file that can be replaced.
func (s *Syncer) makeWay(p string, here stat, changed bool) (stat, error) {
	switch {
	case here.kind == absent, here.kind == regular && !changed:
		return here, nil
	case here.kind == directory:
		if s.tree.remove(p, here) == nil {
			s.watch.remove(p)
			return stat{}, nil
		}
		if s.pendingBelow(p) {
			return here, errAgain // it may be empty soon
		}
	}
	return stat{}, s.conflict(p)
}

// pullDirectory makes a directory of the store here.
func (s *Syncer) pullDirectory(p string, here stat, changed bool) error {
	if here.kind != directory {
		here, err := s.makeWay(p, here, changed)
		if err == nil && here.kind == regular {
			err = s.tree.remove(p, here)
		}
		if err == nil {
			err = s.parents(p)
		}
		if err == nil {
			err = s.tree.makeDirectory(p)
		}
		if err != nil {
			return err
		}
	}
	made, err := s.tree.stat(p)
	if err != nil {
		return err
	}
	if made.kind != directory {
		return errAgain
	}
	s.table.set(p, synced{etag: directoryTag, stat: made})
	s.look(p, settle)
	return nil
}

// parents makes the directories above p. What is in their place and is none
// makes way.
func (s *Syncer) parents(p string) error {
	dir := path.Dir(p)
	if dir == "." {
		return nil
	}
	st, err := s.tree.stat(dir)
	if err != nil || st.kind == directory {
		return err
	}
	if err := s.parents(dir); err != nil {
		return err
	}
	if st.kind != absent {
		if err := s.conflict(dir); err != nil {
			return err
		}
	}
	return s.tree.makeDirectory(dir)
}

// holds reports whether the file here has the content of that sum.
func (s *Syncer) holds(p string, here stat, content sum) (bool, error) {
	f, opened, err := s.tree.read(p)
	if errors.Is(err, unix.ENOENT) || errors.Is(err, errSpecial) {
		return false, errAgain
	}
	if err != nil {
		return false, err
	}
	defer f.Close()
	if !opened.same(here) {
		return false, errAgain
	}
	mine, err := digest(f, opened.size)
	return mine == content, err
}
