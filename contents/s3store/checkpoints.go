package s3store

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/oklog/ulid/v2"

	"kernelgw/contents"
)

// record is what the store knows of a file besides its versions. It is an object
// under checkpointsPart, at the path of the file, and goes where the file goes.
// Most files have none.
type record struct {
	Checkpoints []checkpoint `json:"checkpoints,omitempty"` // oldest first
	Links       []severed    `json:"links,omitempty"`
}

// checkpoint pins a version, wherever the file was when it was written.
type checkpoint struct {
	ID      string    `json:"id"`
	Path    string    `json:"path"`
	Version string    `json:"version"`
	At      time.Time `json:"at"`
	Author  string    `json:"author,omitempty"`
	Label   string    `json:"label,omitempty"`
}

// severed is a link whose version was deleted: the run of versions at From goes
// on at the link.
type severed struct {
	From string `json:"from"`
	link
}

func (r record) pins(version string) bool {
	return slices.ContainsFunc(r.Checkpoints, func(c checkpoint) bool { return c.Version == version })
}

func (r record) empty() bool { return len(r.Checkpoints) == 0 && len(r.Links) == 0 }

func (c checkpoint) public() contents.Checkpoint {
	return contents.Checkpoint{ID: c.ID, Version: c.Version, At: c.At, Author: c.Author, Label: c.Label}
}

const (
	maxCheckpoints = 10
	maxLabelBytes  = 256
)

func (s *Store) recordKey(w *workspace, path string) string {
	return s.base(w.name) + checkpointsPart + fileKey(path)
}

// record returns the record of a path, empty when there is none, and its ETag.
func (s *Store) record(ctx context.Context, w *workspace, path string) (r record, etag string, err error) {
	body, o, err := s.getBytes(ctx, s.recordKey(w, path))
	if errors.Is(err, contents.ErrNotFound) {
		return record{}, "", nil
	}
	if err != nil {
		return record{}, "", err
	}
	if err := json.Unmarshal(body, &r); err != nil {
		return record{}, "", fmt.Errorf("the record of checkpoints of %s is damaged: %w", path, err)
	}
	return r, o.etag, nil
}

// updateRecord changes the record of a path, which no other gateway then changes
// in between.
func (s *Store) updateRecord(ctx context.Context, w *workspace, path string, change func(*record) error) error {
	for range maxRaces {
		r, etag, err := s.record(ctx, w, path)
		if err != nil {
			return err
		}
		before, err := json.Marshal(r)
		if err != nil {
			return err
		}
		if err := change(&r); err != nil {
			return err
		}
		after, err := json.Marshal(r)
		if err != nil {
			return err
		}
		if string(before) == string(after) {
			return nil
		}
		w.carried.tell(func(pin func(identifier)) { s.pinsOf(w, r, pin) })
		c := condition{etag: etag, none: etag == ""}
		_, err = s.putBytes(ctx, s.recordKey(w, path), after, c)
		if !errors.Is(err, errPrecondition) && !errors.Is(err, contents.ErrNotFound) {
			return err
		}
		// It may have been this write that arrived twice; then the change, made
		// again, must not count twice.
		if r2, _, err := s.record(ctx, w, path); err == nil {
			if now, err := json.Marshal(r2); err == nil && string(now) == string(after) {
				return nil
			}
		}
	}
	return unavailable("others write the checkpoints of %s all the time", path)
}

// Checkpoints implements contents.Store.
func (s *Store) Checkpoints(ctx context.Context, workspace, path string) ([]contents.Checkpoint, error) {
	w, err := s.enter(ctx, workspace, path)
	if err != nil {
		return nil, err
	}
	r, _, err := s.record(ctx, w, path)
	if err != nil {
		return nil, fmt.Errorf("cannot list the checkpoints of %s: %w", path, err)
	}
	public := make([]contents.Checkpoint, len(r.Checkpoints))
	for i, c := range r.Checkpoints {
		public[i] = c.public()
	}
	return public, nil
}

// MakeCheckpoint implements contents.Store: nothing is copied.
func (s *Store) MakeCheckpoint(ctx context.Context, workspace, path, author, label string) (contents.Checkpoint, error) {
	w, err := s.enter(ctx, workspace, path)
	if err != nil {
		return contents.Checkpoint{}, err
	}
	release, err := s.claims.take(ctx, w.name, path)
	if err != nil {
		return contents.Checkpoint{}, err
	}
	defer release()
	o, err := s.file(ctx, w, path)
	if err != nil {
		err = s.orDirectory(ctx, w, path, err)
		return contents.Checkpoint{}, fmt.Errorf("cannot make a checkpoint of %s: %w", path, err)
	}
	made := checkpoint{
		ID: strings.ToLower(ulid.Make().String()), Path: path, Version: o.version, At: now(),
		Author: clip(author, maxAuthorBytes), Label: clip(label, maxLabelBytes),
	}
	err = s.updateRecord(ctx, w, path, func(r *record) error {
		r.Checkpoints = append(r.Checkpoints, made)
		if extra := len(r.Checkpoints) - maxCheckpoints; extra > 0 {
			r.Checkpoints = r.Checkpoints[extra:]
		}
		return nil
	})
	if err != nil {
		return contents.Checkpoint{}, fmt.Errorf("cannot make a checkpoint of %s: %w", path, err)
	}
	return made.public(), nil
}

// RestoreCheckpoint implements contents.Store.
func (s *Store) RestoreCheckpoint(ctx context.Context, workspace, path, id, author string) error {
	w, err := s.enter(ctx, workspace, path)
	if err != nil {
		return err
	}
	release, err := s.claims.take(ctx, w.name, path)
	if err != nil {
		return err
	}
	defer release()
	r, _, err := s.record(ctx, w, path)
	if err == nil {
		err = contents.ErrNotFound
		for _, c := range r.Checkpoints {
			if c.ID == id {
				_, err = s.restore(ctx, w, path, c.Version, author)
			}
		}
	}
	if err != nil {
		return fmt.Errorf("cannot restore the checkpoint %s of %s: %w", id, path, err)
	}
	return nil
}

// DeleteCheckpoint implements contents.Store.
func (s *Store) DeleteCheckpoint(ctx context.Context, workspace, path, id string) error {
	w, err := s.enter(ctx, workspace, path)
	if err != nil {
		return err
	}
	release, err := s.claims.take(ctx, w.name, path)
	if err != nil {
		return err
	}
	defer release()
	err = s.updateRecord(ctx, w, path, func(r *record) error {
		before := len(r.Checkpoints)
		r.Checkpoints = slices.DeleteFunc(r.Checkpoints, func(c checkpoint) bool { return c.ID == id })
		if len(r.Checkpoints) == before {
			return contents.ErrNotFound
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("cannot delete the checkpoint %s of %s: %w", id, path, err)
	}
	return nil
}
