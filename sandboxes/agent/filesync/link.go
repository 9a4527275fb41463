package filesync

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	"kernelgw/sandboxes/agentapi"
)

// Link uses conn, which it closes, until it breaks. It ends the link before.
func (s *Syncer) Link(ctx context.Context, conn net.Conn) error {
	r, err := newRemote(ctx, conn)
	if err != nil {
		conn.Close()
		return fmt.Errorf("cannot use a link for files: %w", err)
	}
	defer r.close()
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return errors.New("files are not synced any more")
	}
	s.links.Add(1)
	defer s.links.Done()
	if s.using != nil {
		s.using.close()
	}
	s.using = r
	s.mu.Unlock()
	err = s.follow(r)
	s.mu.Lock()
	if s.link == r {
		s.setLink(nil)
	}
	s.mu.Unlock()
	return err
}

// setLink changes the link. The caller holds mu.
func (s *Syncer) setLink(r *remote) {
	s.link = r
	close(s.changed)
	s.changed = make(chan struct{})
}

func (s *Syncer) current() *remote {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.link
}

// linked waits for a link.
func (s *Syncer) linked(ctx context.Context) *remote {
	for {
		s.mu.Lock()
		link, changed := s.link, s.changed
		s.mu.Unlock()
		if link != nil {
			return link
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil
		}
	}
}

// follow compares all with the store and then takes what the store tells, until
// the link ends.
func (s *Syncer) follow(r *remote) error {
	ctx, cancel := context.WithCancel(r.ctx)
	defer cancel()
	lines := make(chan agentapi.FilesChange, 256)
	failed := make(chan error, 1)
	go func() {
		failed <- r.changes(ctx, lines)
		close(lines)
	}()
	defer func() {
		r.close()
		for range lines { // until it has ended
		}
	}()
	// The first line says that changes are watched: only then is the manifest
	// complete with what follows.
	if _, ok := <-lines; !ok {
		return <-failed
	}
	if err := s.compare(r, true); err != nil {
		return err
	}
	s.mu.Lock()
	if s.using == r {
		s.setLink(r)
	}
	s.mu.Unlock()
	s.queue.hurry() // what waited for a link
	first := make(chan struct{})
	go func() {
		defer close(first)
		s.pull(ctx, r)
	}()
	defer func() { <-first }()
	defer cancel()
	resync := time.NewTicker(resyncEvery)
	defer resync.Stop()
	for {
		again := false
		select {
		case c, ok := <-lines:
			if !ok {
				return <-failed
			}
			again = c.Lost
			if !c.Lost && c.Path != "" {
				s.told(c)
			}
		case <-resync.C:
			again = true
		}
		if again {
			if err := s.compare(r, false); err != nil {
				return err
			}
		}
	}
}

// compare asks about each path where the store is not as it was when both sides
// were last the same. Before the kernel has started, large files are put off.
func (s *Syncer) compare(r *remote, initial bool) error {
	known := s.table.remote()
	at := time.Now()
	var first, later []change
	early := initial && s.isEarly()
	defer func() {
		for _, c := range first { // it failed
			s.queue.done(c, retryLast)
		}
	}()
	err := r.manifest(r.ctx, func(e agentapi.FilesEntry) {
		if s.ignored(e.Path) {
			return
		}
		tag, ok := known[e.Path]
		delete(known, e.Path)
		if ok && tag == etagOf(e) {
			return
		}
		c := change{path: e.Path, remote: true, size: e.Size, etag: e.ETag, directory: e.Directory, at: at}
		if e.Size >= s.o.Config.LargeBytes && !isClosed(s.started) {
			later = append(later, c)
			return
		}
		switch {
		case s.queue.expects(e.Path, e.ETag), early && !ok && e.Directory && s.directoryEarly(e.Path):
			return
		case early && !ok && !e.Directory && e.Size <= agentapi.MaxFilesBatchSize && s.queue.reserve(c):
			first = append(first, c)
			return
		}
		s.queue.add(c)
	})
	if err != nil {
		return err
	}
	for p := range known {
		s.queue.add(change{path: p, remote: true, at: at})
	}
	s.mu.Lock()
	s.first, s.later = append(s.first, first...), later
	s.mu.Unlock()
	first = nil
	return nil
}

// pull waits for what the kernel needs at its start, and then lets the large
// files come.
func (s *Syncer) pull(ctx context.Context, r *remote) {
	begin := time.Now()
	s.mu.Lock()
	first := s.first
	s.first = nil
	s.mu.Unlock()
	s.pullEarly(ctx, r, first)
	if !isClosed(s.pulled) && !s.queue.waitRemote(ctx) {
		return
	}
	s.once.pulled.Do(func() {
		files, _ := s.table.count()
		s.o.Log.Info("files pulled", "files", files, "seconds", time.Since(begin).Seconds())
		close(s.pulled)
	})
	select {
	case <-s.started:
	case <-ctx.Done():
		return
	}
	s.mu.Lock()
	later := s.later
	s.later = nil
	s.mu.Unlock()
	for _, c := range later {
		s.queue.add(c)
	}
}

func isClosed(c chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// told takes a change that the store told.
func (s *Syncer) told(c agentapi.FilesChange) {
	if agentapi.CheckFilesPath(c.Path) != nil || s.ignored(c.Path) {
		return
	}
	// What this side did itself is known already.
	if s.table.get(c.Path).etag != c.ETag || s.queue.busy(c.Path) || !c.Gone && c.ETag == "" {
		s.queue.add(change{path: c.Path, remote: true, size: c.Size})
	}
	if c.Gone {
		for _, p := range s.table.below(c.Path) {
			s.queue.add(change{path: p, remote: true})
		}
	}
}

// etagOf is an entry's ETag; a directory has one for what it is.
func etagOf(e agentapi.FilesEntry) string {
	if e.Directory {
		return directoryTag
	}
	return e.ETag
}
