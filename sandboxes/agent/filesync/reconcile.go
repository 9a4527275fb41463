package filesync

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"path"
	"time"

	"golang.org/x/sys/unix"
)

// work asks about paths until ctx ends.
func (s *Syncer) work(ctx context.Context, large bool) {
	for {
		c, ok := s.queue.take(ctx, large)
		if !ok {
			return
		}
		r := s.linked(ctx)
		if r == nil {
			s.queue.done(c, retryLast)
			return
		}
		err := s.reconcile(r, c)
		if err != nil {
			s.o.Log.Debug("a file is not synced yet", "path", c.path, "error", err.Error())
			if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) {
				s.notices.say("disk", "files of the workspace cannot be brought here: the sandbox's disk is full")
			}
		}
		switch {
		case err == nil:
			s.queue.done(c, 0)
		case errors.Is(err, errAgain), errors.Is(err, errChanged):
			s.queue.done(c, retrySoon)
		default:
			s.queue.done(c, retryLast)
		}
	}
}

// errAgain asks for the path to be looked at again.
var errAgain = errors.New("it is not settled yet")

// reconcile makes both sides of a path the same. An error means that it must be
// asked about again.
func (s *Syncer) reconcile(r *remote, c change) error {
	was := s.table.get(c.path)
	here, err := s.tree.stat(c.path)
	if err != nil {
		return err
	}
	changed := !here.same(was.stat)
	refused := was.kept && !was.retry.IsZero()
	if !changed && was.unsure {
		if changed, err = s.changedUnseen(c.path, was); err != nil {
			return err
		}
	}
	if !c.remote {
		switch {
		case here.kind == special: // neither taken nor followed; what the store has of that name stays
			return nil
		case changed, refused && time.Now().After(was.retry):
			return s.push(r, c, was, here)
		}
		return nil
	}
	there, err := r.get(r.ctx, c.path, was.etag)
	if err != nil {
		return err
	}
	// What the store refused is only here: it must not be lost.
	changed = changed || refused
	if there == nil {
		return s.gone(r, c, was, here, changed)
	}
	defer there.Close()
	if there.unchanged || there.directory && was.etag == directoryTag && here.kind == directory {
		if changed && here.kind != special {
			return s.push(r, c, was, here)
		}
		return nil
	}
	if there.directory {
		return s.pullDirectory(c.path, here, changed)
	}
	return s.pullFile(c.path, here, changed, there)
}

// changedUnseen reports whether a file that looks the same is another: it
// changed within the grain of the clock.
func (s *Syncer) changedUnseen(p string, was synced) (bool, error) {
	f, opened, err := s.tree.read(p)
	if errors.Is(err, unix.ENOENT) || errors.Is(err, errSpecial) {
		return false, errAgain
	}
	if err != nil {
		return false, err
	}
	defer f.Close()
	looked := time.Now()
	sum, err := digest(f, opened.size)
	if err != nil {
		return false, err
	}
	if sum != was.sum || !opened.same(was.stat) {
		return true, nil
	}
	was.unsure = unsure(opened, looked)
	s.table.set(p, was)
	return false, nil
}

// clockGrain is within what time a file can change twice and bear one time.
const clockGrain = 20 * time.Millisecond

func unsure(st stat, looked time.Time) bool {
	return looked.Sub(time.Unix(0, st.modified)) < clockGrain
}

// ask has the store asked about a path and what is above it, after something
// there was in the way.
func (s *Syncer) ask(p string) {
	for ; p != "."; p = path.Dir(p) {
		s.queue.add(change{path: p, remote: true, local: true})
	}
}

// pendingBelow reports whether something below a directory is not settled.
func (s *Syncer) pendingBelow(p string) bool {
	for _, inside := range s.table.below(p) {
		if s.queue.busy(inside) {
			return true
		}
	}
	return false
}

// gone handles a path that the store does not have.
func (s *Syncer) gone(r *remote, c change, was synced, here stat, changed bool) error {
	p := c.path
	switch {
	case was.etag == "":
		if changed && here.kind != special {
			return s.push(r, c, was, here)
		}
		return nil
	case was.etag == directoryTag && here.kind == directory:
		return s.goneDirectory(p, here)
	case changed && here.kind != absent && here.kind != special:
		// Deleted there, changed here: the change is kept.
		s.table.set(p, synced{})
		return s.push(r, c, synced{}, here)
	case here.kind == regular:
		if err := s.tree.remove(p, here); err != nil {
			return err
		}
	}
	s.table.set(p, synced{})
	return nil
}

func (s *Syncer) goneDirectory(p string, here stat) error {
	err := s.tree.remove(p, here)
	switch {
	case err == nil:
		s.watch.remove(p)
		s.table.set(p, synced{})
		return nil
	case !errors.Is(err, unix.ENOTEMPTY) && !errors.Is(err, unix.EEXIST):
		return err
	case s.pendingBelow(p):
		return errAgain
	}
	// What is still in it was made here, and brings the directory back if the
	// store is to have it; or it never leaves the sandbox.
	s.table.set(p, synced{stat: here, kept: true})
	return nil
}

// conflict keeps what is here beside what comes from the store.
func (s *Syncer) conflict(p string) error {
	aside, err := s.tree.moveAside(p, time.Now())
	if err != nil {
		return err
	}
	s.watch.remove(p)
	for _, inside := range s.table.below(p) {
		s.table.set(inside, synced{})
	}
	s.table.set(p, synced{})
	s.notices.conflict(p, aside)
	s.queue.add(change{path: aside, local: true})
	s.look(aside, 0)
	return nil
}

// keepFor is how long what the store refused is kept before it is offered again.
const keepFor = time.Minute

// keep remembers that a file cannot be in the store, and says so.
func (s *Syncer) keep(p string, here stat, why string) error {
	was := s.table.get(p)
	s.table.set(p, synced{etag: was.etag, stat: here, sum: was.sum, kept: true, retry: time.Now().Add(keepFor)})
	s.notices.say(p, fmt.Sprintf("%q is only in the sandbox and will be lost with it: %s", p, why))
	return nil
}

// sum is the SHA-256 of a content.
type sum = [sha256.Size]byte
