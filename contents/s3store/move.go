package s3store

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/oklog/ulid/v2"
	"golang.org/x/sync/errgroup"

	"kernelgw/contents"
)

// journal says what a move is about, from before its first step to after its
// last. Whoever finds it finishes the move: every step can be done again. Files
// are copied, then the checkpoints, and only then removed where they were, so
// that each file is there at least once, whenever the store is killed. With
// Delete it is of a directory that is deleted in more than one step.
type journal struct {
	From   string    `json:"from"`
	To     string    `json:"to,omitempty"`
	Delete bool      `json:"delete,omitempty"`
	Author string    `json:"author,omitempty"`
	At     time.Time `json:"at"`

	id string
}

func (s *Store) journalKey(w *workspace, id string) string { return s.base(w.name) + journalPart + id }

func (s *Store) putJournal(ctx context.Context, w *workspace, j journal) error {
	body, err := json.Marshal(j)
	if err != nil {
		return err
	}
	_, err = s.putBytes(ctx, s.journalKey(w, j.id), body, condition{})
	return err
}

// Move implements contents.Store. It goes on when ctx ends.
func (s *Store) Move(ctx context.Context, workspace, from, to, author string, match contents.Match) (contents.Entry, error) {
	w, err := s.enter(ctx, workspace, from, to)
	if err != nil {
		return contents.Entry{}, err
	}
	if from == "" || to == "" {
		return contents.Entry{}, fmt.Errorf("cannot move the root: %w", contents.ErrInvalid)
	}
	if from != to && within(from, to) {
		return contents.Entry{}, fmt.Errorf("cannot move %s: %w: a directory cannot be moved into itself", from, contents.ErrInvalid)
	}
	var e contents.Entry
	err = s.goOn(ctx, func(ctx context.Context) (err error) {
		e, err = s.move(ctx, w, from, to, author, match)
		return err
	})
	if err != nil {
		return contents.Entry{}, fmt.Errorf("cannot move %s to %s: %w", from, to, err)
	}
	return e, nil
}

// goOn does what does not end when ctx ends, but at Close, and waits for it as
// long as ctx lasts.
func (s *Store) goOn(ctx context.Context, do func(context.Context) error) error {
	if !s.begin() {
		return unavailable("the store is closed")
	}
	done := make(chan error, 1)
	go func() {
		defer s.work.Done()
		done <- do(s.lives)
	}()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return fmt.Errorf("it goes on: %w", ctx.Err())
	}
}

// begin adds to the work that Close waits for, unless the store is closed.
func (s *Store) begin() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return false
	}
	s.work.Add(1)
	return true
}

func (s *Store) move(ctx context.Context, w *workspace, from, to, author string, match contents.Match) (contents.Entry, error) {
	claimed := []string{from, to}
	if from == to {
		claimed = claimed[:1]
	}
	release, err := s.claims.take(ctx, w.name, claimed...)
	if err != nil {
		return contents.Entry{}, err
	}
	defer release()
	if err := s.meets(ctx, w, from, match); err != nil {
		return contents.Entry{}, err
	}
	t, err := s.tree(ctx, w, from)
	if err != nil {
		return contents.Entry{}, err
	}
	if err := s.vacant(ctx, w, to); err != nil {
		return contents.Entry{}, err
	}
	for _, path := range append([]string{from}, slices.Concat(t.paths(), t.directories)...) {
		if err := s.checkPath(w.name, t.rebased(path, to)); err != nil {
			return contents.Entry{}, err
		}
	}
	j := journal{From: from, To: to, Author: clip(author, maxAuthorBytes), At: now(), id: strings.ToLower(ulid.Make().String())}
	w.moving.Store(j.id, true)
	err = s.putJournal(ctx, w, j)
	if err == nil {
		err = s.carryOut(ctx, w, j, t, false)
	}
	w.moving.Delete(j.id)
	if err != nil {
		// The next operation in the workspace finishes it first, if there is a
		// journal: a write that failed may have been done.
		w.broken.Add(1)
		return contents.Entry{}, err
	}
	return s.stat(ctx, w, to)
}

// meets checks a condition on what is at a claimed path.
func (s *Store) meets(ctx context.Context, w *workspace, path string, match contents.Match) error {
	if match == (contents.Match{}) {
		return nil
	}
	e, err := s.stat(ctx, w, path)
	if errors.Is(err, contents.ErrNotFound) {
		return &contents.ChangedError{}
	}
	if err == nil && !match.Met(e) {
		err = &contents.ChangedError{Current: e}
	}
	return err
}

func (t *tree) paths() []string {
	paths := make([]string, len(t.files))
	for i, f := range t.files {
		paths[i] = f.path
	}
	return paths
}

// vacant reports whether something may be moved or copied to a path.
func (s *Store) vacant(ctx context.Context, w *workspace, path string) error {
	if _, err := s.stat(ctx, w, path); err == nil {
		return contents.ErrExists
	} else if !errors.Is(err, contents.ErrNotFound) {
		return err
	}
	if _, err := s.directory(ctx, w, parent(path)); errors.Is(err, contents.ErrNotFound) {
		return contents.ErrNoParent
	} else if err != nil {
		return err
	}
	return nil
}

// carryOut does, or finishes, a move whose journal is written and whose paths are
// claimed. When there is no room for it, nothing has happened, and there is no
// journal any more.
func (s *Store) carryOut(ctx context.Context, w *workspace, j journal, t *tree, again bool) error {
	b, err := s.bring(ctx, w, j, t, again)
	if errors.Is(err, contents.ErrFull) {
		return errors.Join(err, s.takeBack(ctx, w, j, t))
	}
	if err != nil {
		return err
	}
	if err := s.removeRecords(ctx, w, b.recorded); err != nil {
		return err
	}
	if err := s.leave(ctx, w, t, b.below); err != nil {
		return err
	}
	if err := s.remove(ctx, s.journalKey(w, j.id)); err != nil {
		return err
	}
	t.tellDeleted(w)
	for _, e := range b.arrived {
		w.feed.publish(contents.Change{Path: e.Path, Entry: e, Source: "move"})
	}
	return nil
}

// brought is what a move has copied.
type brought struct {
	arrived  []contents.Entry
	below    map[string]under // the latest versions of the files where they were, by path
	recorded []string         // where checkpoints were
}

// bring makes the copies of what is moved, with its checkpoints.
func (s *Store) bring(ctx context.Context, w *workspace, j journal, t *tree, again bool) (b brought, err error) {
	for _, path := range t.directories {
		if err := s.mark(ctx, w, t.rebased(path, j.To)); err != nil {
			return b, err
		}
	}
	if b.below, err = s.belowLatest(ctx, w, t); err != nil {
		return b, err
	}
	moved := make([]relocated, len(t.files))
	group, groupCtx := errgroup.WithContext(ctx)
	group.SetLimit(parallel)
	for i, f := range t.files {
		group.Go(func() (err error) {
			moved[i], err = s.moveFile(groupCtx, w, j, f, b.below[f.path].link, t.rebased(f.path, j.To), again)
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return b, err
	}
	if b.recorded, err = s.bringRecords(ctx, w, j, t, moved); err != nil {
		return b, err
	}
	b.arrived, err = s.arrived(ctx, w, j, t)
	return b, err
}

// takeBack removes what bring has made, and the journal. That needs no room: the
// copies are removed for good, which their files are not.
func (s *Store) takeBack(ctx context.Context, w *workspace, j journal, t *tree) error {
	copies := make([]identifier, len(t.files))
	group, groupCtx := errgroup.WithContext(ctx)
	group.SetLimit(parallel)
	for i, f := range t.files {
		group.Go(func() error {
			key := s.base(w.name) + filesPart + fileKey(t.rebased(f.path, j.To))
			s.known.forget(key)
			there, err := s.head(groupCtx, key, "")
			if err == nil && there.move == j.moveMark(f) {
				copies[i] = identifier{key, there.version}
			} else if err != nil && !errors.Is(err, contents.ErrNotFound) {
				return err
			}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return err
	}
	copies = slices.DeleteFunc(copies, func(id identifier) bool { return id.key == "" })
	if err := s.removeAll(ctx, copies); err != nil {
		return err
	}
	paths, err := s.recorded(ctx, w, j.To)
	if err != nil {
		return err
	}
	if err := s.removeRecords(ctx, w, paths); err != nil {
		return err
	}
	var directories []string
	for _, path := range t.directories {
		directories = append(directories, t.rebased(path, j.To))
	}
	if err := s.unmark(ctx, w, directories); err != nil {
		return err
	}
	return s.remove(ctx, s.journalKey(w, j.id))
}

// tellDeleted publishes that a tree has moved away, from below.
func (t *tree) tellDeleted(w *workspace) {
	for _, f := range t.files {
		w.feed.publish(contents.Change{Path: f.path, Deleted: true, Source: "move"})
	}
	for _, path := range slices.Backward(t.directories) {
		w.feed.publish(contents.Change{Path: path, Deleted: true, Source: "move"})
	}
}

// relocated is a version that became one of another path.
type relocated struct {
	from    identifier // of the version as it was
	oldPath string
	last    bool // nothing of the file's history is left at oldPath
	path    string
	version string
}

func (s *Store) relocation(w *workspace, f treeFile, below link, to string) relocated {
	return relocated{
		from:    identifier{s.base(w.name) + filesPart + fileKey(f.path), f.version},
		oldPath: f.path, last: below.Path == "", path: to,
	}
}

// rewrite returns a record in which the old version is the new one.
func (m relocated) rewrite(r record) record {
	r.Checkpoints, r.Links = slices.Clone(r.Checkpoints), slices.Clone(r.Links)
	for i := range r.Checkpoints {
		if c := &r.Checkpoints[i]; c.Version == m.from.version {
			c.Path, c.Version = m.path, m.version
		}
	}
	if m.last {
		if i := slices.IndexFunc(r.Links, func(l severed) bool { return l.From == m.oldPath }); i >= 0 {
			r.Links[i].From = m.path
		}
	}
	return r
}

// relocate copies a version of a file to another path, as a version that
// continues its history there: below is what is below it where it was. The caller
// removes the old one: its content is there twice.
func (s *Store) relocate(ctx context.Context, w *workspace, f treeFile, below link, to, source, mark string) (relocated, error) {
	m := s.relocation(w, f, below, to)
	meta := f.metadata
	meta.source, meta.nonce, meta.move = source, "", mark
	if below.Path != "" {
		meta.previous = below
	}
	if meta.created.IsZero() {
		meta.created = f.modified
	}
	var err error
	_, m.version, err = s.copyObject(ctx, m.from.key, f.version, s.base(w.name)+filesPart+fileKey(to), meta)
	return m, err
}

// under is what is below the latest version of a file, at its path.
type under struct {
	link       // the next version of the file; nothing when that is a deletion
	alone bool // nothing is below, not even a deletion
}

// belowLatest returns what is below the latest versions of the files of a tree,
// by path.
func (s *Store) belowLatest(ctx context.Context, w *workspace, t *tree) (map[string]under, error) {
	base := s.base(w.name) + filesPart
	prefix := base + directoryKey(t.root)
	if len(t.directories) == 0 {
		prefix = base + fileKey(t.root)
	}
	below := make(map[string]under, len(t.files))
	byKey := make(map[string]treeFile, len(t.files))
	for _, f := range t.files {
		below[f.path] = under{alone: true}
		byKey[base+fileKey(f.path)] = f
	}
	var above seenVersion
	for v, err := range s.versions(ctx, prefix) {
		if err != nil {
			return nil, err
		}
		f, ok := byKey[v.key]
		switch {
		case !ok && len(t.directories) == 0:
			return below, nil // those of longer keys follow
		case ok && v.version != f.version:
			u := under{}
			if above.key == v.key && above.version == f.version && !v.deleted {
				u.link = link{Path: f.path, Version: v.version, At: v.modified}
			} else {
				u.link = below[f.path].link
			}
			below[f.path] = u
		}
		above = v
	}
	return below, nil
}

// belowVersion returns what is below a version of a file, nothing when that is a
// deletion.
func belowVersion(all []seenVersion, f treeFile) link {
	i := slices.IndexFunc(all, func(v seenVersion) bool { return v.version == f.version })
	if i < 0 || i+1 == len(all) || all[i+1].deleted {
		return link{}
	}
	return link{Path: f.path, Version: all[i+1].version, At: all[i+1].modified}
}

// leave removes a tree that was moved. What is below a file stays, for its
// history, under a deletion; its latest version goes, for it is there twice.
func (s *Store) leave(ctx context.Context, w *workspace, t *tree, below map[string]under) error {
	var first, second []identifier
	for _, f := range t.files {
		id := identifier{key: s.base(w.name) + filesPart + fileKey(f.path)}
		s.known.forget(id.key)
		version := identifier{id.key, f.version}
		if below[f.path].alone {
			first = append(first, version)
		} else {
			first = append(first, id)
			second = append(second, version)
		}
	}
	if err := s.removeAll(ctx, first); err != nil {
		return err
	}
	if err := s.removeAll(ctx, second); err != nil {
		return err
	}
	return s.unmark(ctx, w, t.directories)
}

// moveMark tells a copy that a move has made, and of which version.
func (j journal) moveMark(f treeFile) string { return j.id + "." + f.version }

func (s *Store) moveFile(ctx context.Context, w *workspace, j journal, f treeFile, below link, to string, again bool) (relocated, error) {
	if again {
		there, err := s.head(ctx, s.base(w.name)+filesPart+fileKey(to), "")
		if err == nil && there.move == j.moveMark(f) {
			m := s.relocation(w, f, below, to)
			m.version = there.version
			return m, nil
		}
		if err != nil && !errors.Is(err, contents.ErrNotFound) {
			return relocated{}, err
		}
	}
	return s.relocate(ctx, w, f, below, to, "move", j.moveMark(f))
}

// bringRecords copies checkpoints to where their files are now, and returns the
// paths where they were.
func (s *Store) bringRecords(ctx context.Context, w *workspace, j journal, t *tree, moved []relocated) (recorded []string, err error) {
	records, err := s.records(ctx, w, j.From)
	if err != nil || len(records) == 0 {
		return nil, err
	}
	byPath := map[string]relocated{}
	for _, m := range moved {
		byPath[m.oldPath] = m
	}
	group, groupCtx := errgroup.WithContext(ctx)
	group.SetLimit(parallel)
	for path, r := range records {
		group.Go(func() error {
			if m, ok := byPath[path]; ok {
				r = m.rewrite(r)
			} else if there, _, err := s.record(groupCtx, w, t.rebased(path, j.To)); err != nil || !there.empty() {
				return err // it was brought before the store was killed
			}
			return s.putRecord(groupCtx, w, t.rebased(path, j.To), r)
		})
	}
	return slices.Collect(maps.Keys(records)), group.Wait()
}

// arrived makes sure that all files are where they were copied to, before they
// are removed where they were.
func (s *Store) arrived(ctx context.Context, w *workspace, j journal, t *tree) ([]contents.Entry, error) {
	there := map[string]contents.Entry{}
	var entries []contents.Entry
	if len(t.directories) == 0 {
		o, err := s.file(ctx, w, j.To)
		if err != nil {
			return nil, err
		}
		entries = []contents.Entry{entryOf(j.To, o)}
	} else {
		var err error
		if entries, err = s.entries(ctx, w, j.To, false); err != nil {
			return nil, err
		}
		e, err := s.directory(ctx, w, j.To)
		if err != nil {
			return nil, err
		}
		entries = append([]contents.Entry{e}, entries...)
	}
	for _, e := range entries {
		there[e.Path] = e
	}
	for _, f := range t.files {
		if e, ok := there[t.rebased(f.path, j.To)]; !ok || e.Directory || e.Size != f.size {
			return nil, unavailable("the copy of %s is not there", f.path)
		}
	}
	metas := map[string]treeFile{}
	for _, f := range t.files {
		metas[t.rebased(f.path, j.To)] = f
	}
	for i := range entries {
		if f, ok := metas[entries[i].Path]; ok {
			e := &entries[i]
			e.SHA256, e.Author, e.Executable = f.sha256, f.author, f.executable
			if !f.created.IsZero() {
				e.Created = f.created
			}
		}
	}
	return entries, nil
}

// resume finishes the moves that a gateway which died, or a storage that failed,
// has left in a workspace.
func (s *Store) resume(ctx context.Context, w *workspace) error {
	for o, err := range s.list(ctx, s.base(w.name)+journalPart, false) {
		if err != nil {
			return err
		}
		if _, ok := w.moving.Load(o.key); ok {
			continue
		}
		body, _, err := s.getBytes(ctx, s.journalKey(w, o.key))
		if errors.Is(err, contents.ErrNotFound) {
			continue // finished meanwhile
		}
		if err != nil {
			return err
		}
		j := journal{id: o.key}
		if err := json.Unmarshal(body, &j); err != nil || j.From == "" || s.checkPath(w.name, j.From) != nil || (j.To == "") != j.Delete || s.checkPath(w.name, j.To) != nil {
			s.log.Error("a move cannot be finished: its journal is damaged", "workspace", w.name, "journal", o.key)
			continue
		}
		if j.Delete {
			err = s.finishDelete(ctx, w, j)
		} else {
			err = s.finish(ctx, w, j)
		}
		if errors.Is(err, contents.ErrUnavailable) || errors.Is(err, contents.ErrBusy) || ctx.Err() != nil {
			return err // to be tried again: a journal that stays would move what has its old name later
		}
		if err != nil {
			// Trying again would not help, and the workspace must stay usable. The
			// files are where they were, or there twice.
			s.log.Error("a move or deletion cannot be finished", "workspace", w.name, "from", j.From, "to", j.To, "err", err)
			continue
		}
		s.log.Info("finished a move or deletion that was broken off", "workspace", w.name, "from", j.From, "to", j.To)
	}
	return nil
}

func (s *Store) finish(ctx context.Context, w *workspace, j journal) error {
	release, err := s.claims.take(ctx, w.name, j.From, j.To)
	if err != nil {
		return err
	}
	defer release()
	t := &tree{root: j.From}
	o, err := s.file(ctx, w, j.From)
	switch {
	case err == nil:
		t.files = []treeFile{{j.From, o}}
	case !errors.Is(err, contents.ErrNotFound):
		return err
	default:
		// What is left of a directory: its marker goes last.
		if _, err := s.directory(ctx, w, j.From); errors.Is(err, contents.ErrNotFound) {
			recorded, err := s.bringRecords(ctx, w, j, t, nil)
			if err != nil {
				return err
			}
			if err := s.removeRecords(ctx, w, recorded); err != nil {
				return err
			}
			return s.remove(ctx, s.journalKey(w, j.id))
		} else if err != nil {
			return err
		}
		if err := s.below(ctx, w, t); err != nil {
			return err
		}
	}
	return s.carryOut(ctx, w, j, t, true)
}
