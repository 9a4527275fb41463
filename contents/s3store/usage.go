package s3store

import (
	"context"
	"fmt"
	"sync"

	"kernelgw/contents"
)

// usage is what a workspace holds, as contents.Charge says: counted once, then kept up with this
// gateway's own writes, and counted again by each sweep.
type usage struct {
	mu      sync.Mutex
	counted bool
	bytes   int64
	coming  int64 // bytes of writes under way, for which there is room
}

// add takes note of bytes that were written, or freed when n is negative.
func (u *usage) add(n int64) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.bytes += n
}

// Usage implements contents.Store.
func (s *Store) Usage(ctx context.Context, workspace string) (used, limit int64, err error) {
	w, err := s.enter(ctx, workspace)
	if err != nil {
		return 0, 0, err
	}
	used, err = s.used(ctx, w)
	if err != nil {
		return 0, 0, fmt.Errorf("cannot tell what workspace %s holds: %w", workspace, err)
	}
	return used, s.quota, nil
}

func (s *Store) used(ctx context.Context, w *workspace) (int64, error) {
	w.usage.mu.Lock()
	defer w.usage.mu.Unlock()
	if !w.usage.counted {
		// What is written meanwhile waits to be added, and may be counted twice: the
		// next sweep puts that right.
		total := int64(0)
		for v, err := range s.versions(ctx, s.base(w.name)+filesPart) {
			if err != nil {
				return 0, err
			}
			if !v.deleted {
				total += contents.Charge(v.size)
			}
		}
		w.usage.bytes, w.usage.counted = total, true
	}
	return w.usage.bytes, nil
}

// space is room for one write. It belongs to one goroutine.
type space struct {
	of    *usage
	bytes int64
	kept  bool // counted as coming
}

// room keeps room for so many bytes, until the caller calls written or release:
// otherwise writes at once would each find the same room.
func (s *Store) room(ctx context.Context, w *workspace, wanted int64) (*space, error) {
	r := &space{of: &w.usage, bytes: wanted}
	if s.quota <= 0 {
		return r, nil
	}
	if _, err := s.used(ctx, w); err != nil {
		return nil, err
	}
	w.usage.mu.Lock()
	defer w.usage.mu.Unlock()
	if used := w.usage.bytes + w.usage.coming; used+wanted > s.quota {
		return nil, &contents.QuotaError{Used: used, Limit: s.quota, Wanted: wanted}
	}
	w.usage.coming += wanted
	r.kept = true
	return r, nil
}

// written takes note that the bytes are there.
func (r *space) written() {
	r.of.mu.Lock()
	defer r.of.mu.Unlock()
	r.of.bytes += r.bytes
	r.forget()
}

// release gives back the room of a write that has failed. After written it does
// nothing.
func (r *space) release() {
	r.of.mu.Lock()
	defer r.of.mu.Unlock()
	r.forget()
}

// forget stops counting the bytes as coming; of.mu is held.
func (r *space) forget() {
	if r.kept {
		r.kept = false
		r.of.coming -= r.bytes
	}
}

// mark returns the counter, for recount.
func (u *usage) mark() int64 {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.bytes
}

// recount sets the counter to what was counted since mark, and what was written
// in the meantime.
func (u *usage) recount(bytes, mark int64) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.bytes = bytes + u.bytes - mark
	u.counted = true
}
