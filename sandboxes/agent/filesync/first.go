package filesync

import (
	"context"
	"crypto/sha256"
	"sync"

	"kernelgw/sandboxes/agentapi"
)

// batches is how many answers with many files are read at a time.
const batches = 4

// early is the time before the kernel runs: nobody else changes the directory,
// and nobody sees a file that is not whole.
type early struct {
	mu   sync.RWMutex // held for reading while a file is made in that time
	over bool         // guarded by mu
}

// begins ends the early time: from now on the directory is the kernel's.
func (s *Syncer) begins() {
	s.early.mu.Lock()
	defer s.early.mu.Unlock()
	if s.early.over {
		return
	}
	s.early.over = true
	s.watch.enable()
	for p, was := range s.table.paths() {
		if was.stat.kind == directory {
			s.watch.add(p)
		}
	}
}

func (s *Syncer) isEarly() bool {
	s.early.mu.RLock()
	defer s.early.mu.RUnlock()
	return !s.early.over
}

// pullEarly brings many small files, in few answers. What is not as easy as it
// should be is left to the queue, as is all that is left when the kernel starts.
func (s *Syncer) pullEarly(ctx context.Context, r *remote, files []change) {
	next := make(chan []change)
	var readers sync.WaitGroup
	for range batches {
		readers.Go(func() {
			for batch := range next {
				s.pullBatch(ctx, r, batch)
			}
		})
	}
	for len(files) > 0 {
		n := min(len(files), agentapi.MaxFilesBatch/2)
		next <- files[:n]
		files = files[n:]
	}
	close(next)
	readers.Wait()
}

func (s *Syncer) pullBatch(ctx context.Context, r *remote, batch []change) {
	open := make(map[string]change, len(batch))
	paths := make([]string, len(batch))
	for i, c := range batch {
		open[c.path], paths[i] = c, c.path
	}
	if s.isEarly() {
		err := r.batch(ctx, paths, func(e agentapi.FilesEntry, content []byte) {
			c, ok := open[e.Path]
			if ok && e.ETag != "" && s.createEarly(e, content) {
				delete(open, e.Path)
				s.queue.done(c, 0)
			}
		})
		if err != nil {
			s.o.Log.Debug("a batch of files did not come", "error", err.Error())
		}
	}
	for _, c := range open {
		s.queue.done(c, retryLast)
	}
}

// directoryEarly makes a directory whose parents are there, and reports whether it
// could.
func (s *Syncer) directoryEarly(p string) bool {
	s.early.mu.RLock()
	defer s.early.mu.RUnlock()
	if s.early.over || s.tree.makeDirectory(p) != nil {
		return false
	}
	st, err := s.tree.stat(p)
	if err != nil || st.kind != directory {
		return false
	}
	s.table.set(p, synced{etag: directoryTag, stat: st})
	return true
}

// createEarly makes a file where there is none, and reports whether it could.
func (s *Syncer) createEarly(e agentapi.FilesEntry, content []byte) bool {
	s.early.mu.RLock()
	defer s.early.mu.RUnlock()
	if s.early.over {
		return false
	}
	st, err := s.tree.create(e.Path, content, e.Executable, e.Modified)
	if err != nil {
		return false
	}
	s.table.set(e.Path, synced{etag: e.ETag, stat: st, sum: sha256.Sum256(content)})
	return true
}
