package contentstest

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"kernelgw/contents"
)

// Versions implements contents.Store.
func (f *Fake) Versions(ctx context.Context, workspace, path, after string, limit int) ([]contents.Version, error) {
	if err := f.fault(ctx, "Versions"); err != nil {
		return nil, err
	}
	w := f.in(workspace)
	defer f.mu.Unlock()
	fl, err := w.file(path)
	if err != nil {
		return nil, err
	}
	var found []contents.Version
	for i, v := range slices.Backward(fl.versions) {
		v.Latest = i == len(fl.versions)-1
		v.Pinned = fl.pins(v.Entry.Version)
		found = append(found, v.Version)
	}
	if after != "" {
		i := slices.IndexFunc(found, func(v contents.Version) bool { return v.Entry.Version == after })
		if i < 0 {
			return nil, fmt.Errorf("version %s: %w", after, contents.ErrNotFound)
		}
		found = found[i+1:]
	}
	return page(found, limit), nil
}

func page[E any](list []E, limit int) []E {
	if limit > 0 && len(list) > limit {
		return list[:limit]
	}
	return list
}

func (fl *file) pins(version string) bool {
	return slices.ContainsFunc(fl.checkpoints, func(c contents.Checkpoint) bool { return c.Version == version })
}

// Restore implements contents.Store.
func (f *Fake) Restore(ctx context.Context, workspace, path, id, author string) (contents.Entry, error) {
	if err := f.fault(ctx, "Restore"); err != nil {
		return contents.Entry{}, err
	}
	w := f.in(workspace)
	defer f.mu.Unlock()
	return f.restore(w, path, id, author)
}

func (f *Fake) restore(w *workspace, path, id, author string) (contents.Entry, error) {
	fl, err := w.file(path)
	if err != nil {
		return contents.Entry{}, err
	}
	v, err := fl.version(id)
	if err != nil {
		return contents.Entry{}, err
	}
	return f.append(w, path, v.content, contents.PutOptions{Author: author, Source: "restore", Executable: v.Executable})
}

// DeleteVersion implements contents.Store.
func (f *Fake) DeleteVersion(ctx context.Context, workspace, path, id string) error {
	if err := f.fault(ctx, "DeleteVersion"); err != nil {
		return err
	}
	w := f.in(workspace)
	defer f.mu.Unlock()
	fl, err := w.file(path)
	if err != nil {
		return err
	}
	i := slices.IndexFunc(fl.versions, func(v version) bool { return v.Entry.Version == id })
	switch {
	case i < 0:
		return fmt.Errorf("version %s: %w", id, contents.ErrNotFound)
	case i == len(fl.versions)-1:
		return fmt.Errorf("version %s is the latest: %w", id, contents.ErrExists)
	case fl.pins(id):
		return fmt.Errorf("a checkpoint holds version %s: %w", id, contents.ErrExists)
	}
	fl.versions = slices.Delete(fl.versions, i, i+1)
	return nil
}

// Checkpoints implements contents.Store.
func (f *Fake) Checkpoints(ctx context.Context, workspace, path string) ([]contents.Checkpoint, error) {
	if err := f.fault(ctx, "Checkpoints"); err != nil {
		return nil, err
	}
	w := f.in(workspace)
	defer f.mu.Unlock()
	if fl := w.files[path]; fl != nil {
		return slices.Clone(fl.checkpoints), nil
	}
	return nil, nil
}

// MakeCheckpoint implements contents.Store.
func (f *Fake) MakeCheckpoint(ctx context.Context, workspace, path, author, label string) (contents.Checkpoint, error) {
	if err := f.fault(ctx, "MakeCheckpoint"); err != nil {
		return contents.Checkpoint{}, err
	}
	w := f.in(workspace)
	defer f.mu.Unlock()
	fl, err := w.file(path)
	if err != nil {
		return contents.Checkpoint{}, err
	}
	c := contents.Checkpoint{ID: f.id("c"), Version: fl.latest().Entry.Version, At: now(), Author: author, Label: label}
	fl.checkpoints = append(fl.checkpoints, c)
	if len(fl.checkpoints) > keptCheckpoints {
		fl.checkpoints = fl.checkpoints[1:]
	}
	return c, nil
}

// RestoreCheckpoint implements contents.Store.
func (f *Fake) RestoreCheckpoint(ctx context.Context, workspace, path, id, author string) error {
	if err := f.fault(ctx, "RestoreCheckpoint"); err != nil {
		return err
	}
	w := f.in(workspace)
	defer f.mu.Unlock()
	fl, i, err := w.checkpoint(path, id)
	if err != nil {
		return err
	}
	_, err = f.restore(w, path, fl.checkpoints[i].Version, author)
	return err
}

// DeleteCheckpoint implements contents.Store.
func (f *Fake) DeleteCheckpoint(ctx context.Context, workspace, path, id string) error {
	if err := f.fault(ctx, "DeleteCheckpoint"); err != nil {
		return err
	}
	w := f.in(workspace)
	defer f.mu.Unlock()
	fl, i, err := w.checkpoint(path, id)
	if err != nil {
		return err
	}
	fl.checkpoints = slices.Delete(fl.checkpoints, i, i+1)
	return nil
}

func (w *workspace) checkpoint(path, id string) (*file, int, error) {
	fl, err := w.file(path)
	if err != nil {
		return nil, 0, err
	}
	i := slices.IndexFunc(fl.checkpoints, func(c contents.Checkpoint) bool { return c.ID == id })
	if i < 0 {
		return nil, 0, fmt.Errorf("checkpoint %s: %w", id, contents.ErrNotFound)
	}
	return fl, i, nil
}

// Trash implements contents.Store.
func (f *Fake) Trash(ctx context.Context, workspace, after string, limit int) ([]contents.Trashed, error) {
	if err := f.fault(ctx, "Trash"); err != nil {
		return nil, err
	}
	w := f.in(workspace)
	defer f.mu.Unlock()
	before := f.ids + 1
	if after != "" {
		var err error
		if before, err = numberOf(after); err != nil {
			return nil, fmt.Errorf("trash entry %s: %w", after, contents.ErrNotFound)
		}
	}
	var found []contents.Trashed
	for _, t := range slices.Backward(w.trash) {
		if n, err := numberOf(t.ID); err == nil && n < before {
			found = append(found, t.Trashed)
		}
	}
	return page(found, limit), nil
}

// numberOf returns the number in an id of a trash entry.
func numberOf(id string) (int, error) { return strconv.Atoi(strings.TrimPrefix(id, "t")) }

// Undelete implements contents.Store.
func (f *Fake) Undelete(ctx context.Context, workspace, id string) (contents.Entry, error) {
	if err := f.fault(ctx, "Undelete"); err != nil {
		return contents.Entry{}, err
	}
	w := f.in(workspace)
	defer f.mu.Unlock()
	i, err := w.inTrash(id)
	if err != nil {
		return contents.Entry{}, err
	}
	t := w.trash[i]
	if w.files[t.Path] != nil || w.isDirectory(t.Path) {
		return contents.Entry{}, fmt.Errorf("%s: %w", t.Path, contents.ErrExists)
	}
	if err := f.makeDirectories(w, contents.Parent(t.Path)); err != nil {
		return contents.Entry{}, err
	}
	w.trash = slices.Delete(w.trash, i, i+1)
	w.files[t.Path] = t.file
	e := t.file.latest().Entry
	w.tell(contents.Change{Path: t.Path, Entry: e, Source: "restore"})
	return e, nil
}

func (w *workspace) inTrash(id string) (int, error) {
	i := slices.IndexFunc(w.trash, func(t trashed) bool { return t.ID == id })
	if i < 0 {
		return 0, fmt.Errorf("trash entry %s: %w", id, contents.ErrNotFound)
	}
	return i, nil
}

// Purge implements contents.Store.
func (f *Fake) Purge(ctx context.Context, workspace, id string) error {
	if err := f.fault(ctx, "Purge"); err != nil {
		return err
	}
	w := f.in(workspace)
	defer f.mu.Unlock()
	if id == "" {
		w.trash = nil
		return nil
	}
	i, err := w.inTrash(id)
	if err != nil {
		return err
	}
	w.trash = slices.Delete(w.trash, i, i+1)
	return nil
}
