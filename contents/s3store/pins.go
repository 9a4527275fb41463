package s3store

import (
	"context"
	"sync"
)

// carried are the versions that checkpoints and the trash hold as they are written
// while a sweep reads. A checkpoint that a move carries from what the sweep has yet
// to read to what it has read would be missed otherwise, and its version removed;
// to keep moves away meanwhile would keep all writers away.
type carried struct {
	mu     sync.Mutex
	sweeps int                 // that are reading
	pins   map[identifier]bool // since the first of them began
}

func (c *carried) begin() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.sweeps++; c.sweeps == 1 {
		c.pins = map[identifier]bool{}
	}
}

func (c *carried) end() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.sweeps--; c.sweeps == 0 {
		c.pins = nil
	}
}

// has reports whether a version was pinned since begin.
func (c *carried) has(id identifier) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.pins[id]
}

// tell takes note of pins, before they are written.
func (c *carried) tell(pins func(pin func(identifier))) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.sweeps > 0 {
		pins(func(id identifier) { c.pins[id] = true })
	}
}

// pinsOf calls pin for the versions that a record holds.
func (s *Store) pinsOf(w *workspace, r record, pin func(identifier)) {
	for _, c := range r.Checkpoints {
		pin(identifier{s.base(w.name) + filesPart + fileKey(c.Path), c.Version})
	}
}

// pinsIn calls pin for the versions that an entry of the trash holds.
func (s *Store) pinsIn(w *workspace, entry trashed, pin func(identifier)) {
	for _, f := range entry.Files {
		pin(identifier{s.base(w.name) + filesPart + fileKey(f.Path), f.Version})
		if f.Record != nil {
			s.pinsOf(w, *f.Record, pin)
		}
	}
}

// pins returns the versions that checkpoints hold, and what is in the trash. While
// it reads it keeps nobody waiting: what is written meanwhile is told to carried.
func (s *Store) pins(ctx context.Context, w *workspace) (map[identifier]bool, error) {
	pins := map[identifier]bool{}
	pin := func(id identifier) { pins[id] = true }
	paths, err := s.recorded(ctx, w, "")
	if err != nil {
		return nil, err
	}
	records, err := s.recordsOf(ctx, w, paths)
	if err != nil {
		return nil, err
	}
	for _, r := range records {
		s.pinsOf(w, r, pin)
	}
	ids, err := s.trashIDs(ctx, w)
	if err != nil {
		return nil, err
	}
	for entry, err := range s.trash(ctx, w, ids) {
		if err != nil {
			return nil, err
		}
		s.pinsIn(w, entry, pin)
	}
	return pins, nil
}
