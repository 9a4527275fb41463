package contentstest

import (
	"bytes"
	"cmp"
	"context"
	"crypto/md5"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"kernelgw/contents"
)

// keptCheckpoints is how many checkpoints of a file the fake keeps.
const keptCheckpoints = 10

// Fake is a contents.Store in memory, for tests of what is above a store. It
// passes Run, and its faults are those that a real store has.
type Fake struct {
	faults

	mu         sync.Mutex
	limit      int64
	workspaces map[string]*workspace
	ids        int
}

// NewFake returns an empty store without a limit.
func NewFake() *Fake { return &Fake{workspaces: map[string]*workspace{}} }

// Limit bounds the bytes of each workspace; 0 is no bound.
func (f *Fake) Limit(bytes int64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.limit = bytes
}

// Age makes the latest version of a file older than it is.
func (f *Fake) Age(workspace, path string, by time.Duration) {
	w := f.in(workspace)
	defer f.mu.Unlock()
	v := w.files[path].latest()
	v.Modified = v.Modified.Add(-by)
}

var _ contents.Store = (*Fake)(nil)

type workspace struct {
	files       map[string]*file
	directories map[string]time.Time // made at
	trash       []trashed            // oldest first
	watchers    map[*watcher]bool
}

type trashed struct {
	contents.Trashed
	file *file
}

type file struct {
	created     time.Time
	versions    []version // oldest first, never empty
	checkpoints []contents.Checkpoint
}

type version struct {
	contents.Version
	content []byte
}

func (fl *file) latest() *version { return &fl.versions[len(fl.versions)-1] }

func (fl *file) version(id string) (*version, error) {
	if id == "" {
		return fl.latest(), nil
	}
	i := slices.IndexFunc(fl.versions, func(v version) bool { return v.Entry.Version == id })
	if i < 0 {
		return nil, fmt.Errorf("version %s: %w", id, contents.ErrNotFound)
	}
	return &fl.versions[i], nil
}

func now() time.Time { return time.Now().UTC().Truncate(time.Second) }

// id returns a new name; callers hold mu.
func (f *Fake) id(kind string) string {
	f.ids++
	return kind + strconv.Itoa(f.ids)
}

// in locks and returns a workspace.
func (f *Fake) in(name string) *workspace {
	f.mu.Lock()
	w := f.workspaces[name]
	if w == nil {
		w = &workspace{files: map[string]*file{}, directories: map[string]time.Time{}, watchers: map[*watcher]bool{}}
		f.workspaces[name] = w
	}
	return w
}

func (w *workspace) isDirectory(path string) bool {
	_, ok := w.directories[path]
	return ok || path == ""
}

func (w *workspace) directory(path string) contents.Entry {
	made := w.directories[path]
	return contents.Entry{Path: path, Directory: true, Modified: made, Created: made}
}

func (w *workspace) file(path string) (*file, error) {
	if fl := w.files[path]; fl != nil {
		return fl, nil
	}
	if w.isDirectory(path) {
		return nil, fmt.Errorf("%s: %w", path, contents.ErrIsDirectory)
	}
	return nil, fmt.Errorf("%s: %w", path, contents.ErrNotFound)
}

// room makes sure that a file can be at path.
func (f *Fake) room(w *workspace, path string, parents bool) error {
	if path == "" {
		return fmt.Errorf("the root: %w", contents.ErrIsDirectory)
	}
	if parents {
		return f.makeDirectories(w, contents.Parent(path))
	}
	for d := contents.Parent(path); d != ""; d = contents.Parent(d) {
		if w.files[d] != nil {
			return fmt.Errorf("%s: %w", d, contents.ErrNotDirectory)
		}
	}
	if !w.isDirectory(contents.Parent(path)) {
		return fmt.Errorf("%s: %w", path, contents.ErrNoParent)
	}
	return nil
}

func (f *Fake) makeDirectories(w *workspace, path string) error {
	if w.isDirectory(path) {
		return nil
	}
	if w.files[path] != nil {
		return fmt.Errorf("%s: %w", path, contents.ErrNotDirectory)
	}
	if err := f.makeDirectories(w, contents.Parent(path)); err != nil {
		return err
	}
	if err := f.hasRoom(w, contents.Charge(0)); err != nil {
		return err
	}
	w.directories[path] = now()
	w.tell(contents.Change{Path: path, Entry: w.directory(path), Source: "api"})
	return nil
}

// below returns the paths of files and directories below path, sorted.
func (w *workspace) below(path string) []string {
	var found []string
	for p := range w.files {
		if isBelow(p, path) {
			found = append(found, p)
		}
	}
	for p := range w.directories {
		if isBelow(p, path) {
			found = append(found, p)
		}
	}
	slices.Sort(found)
	return found
}

func isBelow(path, directory string) bool {
	return path != directory && (directory == "" || strings.HasPrefix(path, directory+"/"))
}

// listed is an entry as listings show it.
func (w *workspace) listed(path string) contents.Entry {
	fl := w.files[path]
	if fl == nil {
		return w.directory(path)
	}
	e := fl.latest().Entry
	return contents.Entry{Path: path, Size: e.Size, Modified: e.Modified, Created: e.Modified, ETag: e.ETag}
}

func (w *workspace) used() (n int64) {
	add := func(fl *file) {
		for _, v := range fl.versions {
			n += contents.Charge(v.Size)
		}
	}
	for _, fl := range w.files {
		add(fl)
	}
	for _, t := range w.trash {
		add(t.file)
	}
	return n + int64(len(w.directories))*contents.Charge(0)
}

// hasRoom makes sure that so much more may be kept, as contents.Charge says.
func (f *Fake) hasRoom(w *workspace, wanted int64) error {
	if used := w.used(); f.limit > 0 && used+wanted > f.limit {
		return &contents.QuotaError{Used: used, Limit: f.limit, Wanted: wanted}
	}
	return nil
}

// append makes content the latest version of the file at path.
func (f *Fake) append(w *workspace, path string, content []byte, o contents.PutOptions) (contents.Entry, error) {
	if err := f.hasRoom(w, contents.Charge(int64(len(content)))); err != nil {
		return contents.Entry{}, err
	}
	fl := w.files[path]
	if fl == nil {
		fl = &file{created: now()}
		w.files[path] = fl
	}
	tag, sum := md5.Sum(content), sha256.Sum256(content)
	e := contents.Entry{
		Path: path, Size: int64(len(content)), Modified: now(), Created: fl.created,
		ETag: hex.EncodeToString(tag[:]), SHA256: hex.EncodeToString(sum[:]), Version: f.id("v"),
		Author: o.Author, Executable: o.Executable,
	}
	source := cmp.Or(o.Source, "api")
	fl.versions = append(fl.versions, version{Version: contents.Version{Entry: e, Source: source}, content: content})
	w.tell(contents.Change{Path: path, Entry: e, Source: source})
	return e, nil
}

// Stat implements contents.Store.
func (f *Fake) Stat(ctx context.Context, workspace, path string) (contents.Entry, error) {
	if err := f.fault(ctx, "Stat"); err != nil {
		return contents.Entry{}, err
	}
	w := f.in(workspace)
	defer f.mu.Unlock()
	if w.isDirectory(path) {
		return w.directory(path), nil
	}
	fl, err := w.file(path)
	if err != nil {
		return contents.Entry{}, err
	}
	return fl.latest().Entry, nil
}

// List implements contents.Store.
func (f *Fake) List(ctx context.Context, workspace, path string) ([]contents.Entry, error) {
	if err := f.fault(ctx, "List"); err != nil {
		return nil, err
	}
	w := f.in(workspace)
	defer f.mu.Unlock()
	if err := w.mustBeDirectory(path); err != nil {
		return nil, err
	}
	var found []contents.Entry
	for _, p := range w.below(path) {
		if contents.Parent(p) == path {
			found = append(found, w.listed(p))
		}
	}
	return found, nil
}

func (w *workspace) mustBeDirectory(path string) error {
	if w.isDirectory(path) {
		return nil
	}
	if _, err := w.file(path); err != nil {
		return err
	}
	return fmt.Errorf("%s: %w", path, contents.ErrNotDirectory)
}

// Walk implements contents.Store.
func (f *Fake) Walk(ctx context.Context, workspace, path string, each func(contents.Entry) error) error {
	if err := f.fault(ctx, "Walk"); err != nil {
		return err
	}
	w := f.in(workspace)
	err := w.mustBeDirectory(path)
	var found []contents.Entry
	for _, p := range w.below(path) {
		found = append(found, w.listed(p))
	}
	f.mu.Unlock()
	if err != nil {
		return err
	}
	for _, e := range found {
		if err := each(e); err != nil {
			return err
		}
	}
	return nil
}

// Open implements contents.Store.
func (f *Fake) Open(ctx context.Context, workspace, path, id string, offset, n int64) (io.ReadCloser, contents.Entry, error) {
	if err := f.fault(ctx, "Open"); err != nil {
		return nil, contents.Entry{}, err
	}
	w := f.in(workspace)
	defer f.mu.Unlock()
	fl, err := w.file(path)
	if err != nil {
		return nil, contents.Entry{}, err
	}
	v, err := fl.version(id)
	if err != nil {
		return nil, contents.Entry{}, err
	}
	content := v.content[min(offset, v.Size):]
	if n >= 0 && n < int64(len(content)) {
		content = content[:n]
	}
	return io.NopCloser(f.cut(bytes.NewReader(content))), v.Entry, nil
}

// Put implements contents.Store.
func (f *Fake) Put(ctx context.Context, workspace, path string, body io.ReadSeeker, o contents.PutOptions) (contents.Entry, error) {
	if err := f.fault(ctx, "Put"); err != nil {
		return contents.Entry{}, err
	}
	if _, err := body.Seek(0, io.SeekStart); err != nil {
		return contents.Entry{}, err
	}
	content, err := io.ReadAll(body)
	if err != nil {
		return contents.Entry{}, err
	}
	w := f.in(workspace)
	defer f.mu.Unlock()
	if w.isDirectory(path) {
		return contents.Entry{}, fmt.Errorf("%s: %w", path, contents.ErrIsDirectory)
	}
	if err := f.room(w, path, o.Parents); err != nil {
		return contents.Entry{}, err
	}
	if err := w.allowed(path, o); err != nil {
		return contents.Entry{}, err
	}
	return f.append(w, path, content, o)
}

// meets checks a condition on what is at path.
func (w *workspace) meets(path string, match contents.Match) error {
	current := w.listed(path)
	if fl := w.files[path]; fl != nil {
		current = fl.latest().Entry
	}
	if !match.Met(current) {
		return &contents.ChangedError{Current: current}
	}
	return nil
}

// allowed checks the conditions of a write.
func (w *workspace) allowed(path string, o contents.PutOptions) error {
	var current contents.Entry
	if fl := w.files[path]; fl != nil {
		current = fl.latest().Entry
	}
	if o.IfMatch != "" && o.IfMatch != current.ETag || o.IfVersion != "" && o.IfVersion != current.Version || o.IfNone && current.ETag != "" {
		return &contents.ChangedError{Current: current}
	}
	return nil
}

// MakeDirectory implements contents.Store.
func (f *Fake) MakeDirectory(ctx context.Context, workspace, path string) (contents.Entry, bool, error) {
	if err := f.fault(ctx, "MakeDirectory"); err != nil {
		return contents.Entry{}, false, err
	}
	w := f.in(workspace)
	defer f.mu.Unlock()
	was := w.isDirectory(path)
	if err := f.makeDirectories(w, path); err != nil {
		return contents.Entry{}, false, err
	}
	return w.directory(path), !was, nil
}

// Delete implements contents.Store.
func (f *Fake) Delete(ctx context.Context, workspace, path, author string, match contents.Match) error {
	if err := f.fault(ctx, "Delete"); err != nil {
		return err
	}
	w := f.in(workspace)
	defer f.mu.Unlock()
	if w.files[path] == nil && (path == "" || !w.isDirectory(path)) {
		if match != (contents.Match{}) {
			return &contents.ChangedError{}
		}
		return fmt.Errorf("%s: %w", path, contents.ErrNotFound)
	}
	if err := w.meets(path, match); err != nil {
		return err
	}
	if w.files[path] != nil {
		f.discard(w, path, author)
		return nil
	}
	below := w.below(path)
	for _, p := range below {
		if w.files[p] != nil {
			f.discard(w, p, author)
		}
	}
	w.forgetDirectories(path, below, "api")
	return nil
}

func (f *Fake) discard(w *workspace, path, author string) {
	fl := w.files[path]
	delete(w.files, path)
	w.trash = append(w.trash, trashed{
		Trashed: contents.Trashed{ID: f.id("t"), Path: path, Size: fl.latest().Size, Deleted: now(), Author: author},
		file:    fl,
	})
	w.tell(contents.Change{Path: path, Deleted: true, Source: "api"})
}

// Usage implements contents.Store.
func (f *Fake) Usage(ctx context.Context, workspace string) (used, limit int64, err error) {
	if err := f.fault(ctx, "Usage"); err != nil {
		return 0, 0, err
	}
	w := f.in(workspace)
	defer f.mu.Unlock()
	return w.used(), f.limit, nil
}
