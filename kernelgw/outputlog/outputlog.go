// Package outputlog keeps what kernels have printed: parts of text that agents have
// made, beside the files of a workspace, for some time and up to some size. It knows
// the names of parts, their order, what is missing between them, and how they are read
// as text. It refuses to know of agents, of who may read, and of S3.
package outputlog

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Store is what a Logs needs of whoever keeps objects beside the files of workspaces:
// written once and whole, and durable when the call has returned.
type Store interface {
	Workspaces(ctx context.Context) ([]string, error)
	CreateAside(ctx context.Context, workspace, name string, content []byte) (created bool, err error)
	OpenAside(ctx context.Context, workspace, name string) (io.ReadCloser, error) // or fs.ErrNotExist
	EachAside(ctx context.Context, workspace, prefix string, each func(name string, size int64, written time.Time) error) error
	PruneAsides(ctx context.Context, workspace, prefix string, drop func(name string, size int64, written time.Time) bool) error
}

// Options configure Logs. Store and Log are required.
type Options struct {
	Store Store
	Log   *slog.Logger
	Keep  time.Duration // how long a part is kept; required
	// WorkspaceBytes bounds what is kept of one workspace, compressed: over it the
	// oldest parts of the largest log go. 0 is no bound.
	WorkspaceBytes int64
	Every          time.Duration // between sweeps; default 1 hour, or Keep where that is shorter
}

// Logs are the output logs of all workspaces. All methods are safe for concurrent use.
type Logs struct {
	o Options // set at construction

	mu         sync.Mutex
	workspaces map[string]*workspace // guarded by mu
}

// workspace is what is remembered of a workspace.
type workspace struct {
	op chan struct{} // holds a token while something is written or removed

	// owned by the holder of op
	counted bool
	bytes   int64                      // as charge says
	named   map[string]map[string]bool // by log, the names that it certainly has
}

// New returns Logs. Run removes what is too old.
func New(o Options) *Logs {
	o.Every = cmp.Or(o.Every, min(time.Hour, o.Keep))
	return &Logs{o: o, workspaces: map[string]*workspace{}}
}

// Part is a part of what one kernel has printed, in one of the sandboxes that it had.
type Part struct {
	Log    string    // the kernel's id
	Run    string    // of the sandbox: see NewRun
	Number int64     // in the run: 1, 2, 3, ...
	From   int64     // bytes of text in the run before it
	Bytes  int64     // of its text
	Size   int64     // of the gzip file that it is; not part of what Put is given
	Begun  time.Time // when the first of it was printed, as its agent says: milliseconds
}

// ErrNotFound: there is no such part.
var ErrNotFound = errors.New("no such part of output")

// Names. A part is p/LOG/RUN-NUMBER-FROM-BYTES-BEGUN, so that a listing says all, and
// is in order. s/SESSION/LOG says that a session had that kernel.
const (
	partsPrefix = "p/"
	namesPrefix = "s/"
)

var (
	validID  = regexp.MustCompile(`^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$`)
	partName = regexp.MustCompile(`^p/([0-9a-f-]{36})/([0-9]{8}t[0-9]{9}[0-9a-f]{8})-([0-9]{8})-([0-9]{1,16})-([0-9]{1,16})-([0-9]{1,16})$`)
)

// NewRun returns the name of a run that begins now in a sandbox whose id ends with 32
// hexadecimal digits, as a UUID has them. Runs are in order of their names.
func NewRun(now time.Time, sandbox string) string {
	stamp := strings.Replace(now.UTC().Format("20060102t150405.000"), ".", "", 1)
	return stamp + sandbox[max(0, len(sandbox)-8):]
}

// Name is how a part is called among those of its log.
func (p Part) Name() string { return fmt.Sprintf("%s-%08d", p.Run, p.Number) }

func (p Part) key() string {
	return fmt.Sprintf("%s%s/%s-%d-%d-%d", partsPrefix, p.Log, p.Name(), p.From, p.Bytes, p.Begun.UnixMilli())
}

// parsePart is the reverse of key.
func parsePart(key string, size int64) (p Part, ok bool) {
	m := partName.FindStringSubmatch(key)
	if m == nil {
		return p, false
	}
	var numbers [4]int64
	for i := range numbers {
		var err error
		if numbers[i], err = strconv.ParseInt(m[3+i], 10, 64); err != nil {
			return p, false
		}
	}
	p = Part{Log: m[1], Run: m[2], Number: numbers[0], From: numbers[1], Bytes: numbers[2], Size: size, Begun: time.UnixMilli(numbers[3]).UTC()}
	return p, p.key() == key
}

// enter waits for the right to change what is kept of a workspace, which the caller
// must leave.
func (l *Logs) enter(ctx context.Context, name string) (w *workspace, leave func(), err error) {
	l.mu.Lock()
	w = l.workspaces[name]
	if w == nil {
		w = &workspace{op: make(chan struct{}, 1), named: map[string]map[string]bool{}}
		l.workspaces[name] = w
	}
	l.mu.Unlock()
	select {
	case w.op <- struct{}{}:
		return w, func() { <-w.op }, nil
	case <-ctx.Done():
		return nil, nil, ctx.Err()
	}
}

// Put keeps a part, and that the sessions have its log: the first of them, where they
// are many. One that is kept already is not kept twice, which is no error.
func (l *Logs) Put(ctx context.Context, workspace string, p Part, content []byte, sessions []string) error {
	key := p.key()
	if _, ok := parsePart(key, 0); !ok || !validID.MatchString(p.Log) {
		return fmt.Errorf("cannot keep part %d of the output of kernel %s: it has no place", p.Number, p.Log)
	}
	w, leave, err := l.enter(ctx, workspace)
	if err != nil {
		return err
	}
	defer leave()
	names := w.unnamed(p.Log, sessions)
	if err := l.room(ctx, workspace, w, charge(int64(len(content)))+int64(len(names))*leastCharge); err != nil {
		return fmt.Errorf("cannot make room for the output of kernel %s: %w", p.Log, err)
	}
	// Names first: a log that is kept can be found. Which it lacks now is for room to say.
	if err := l.name(ctx, workspace, w, p.Log, w.unnamed(p.Log, sessions)); err != nil {
		return err
	}
	created, err := l.o.Store.CreateAside(ctx, workspace, key, content)
	if err != nil {
		return fmt.Errorf("cannot keep the output of kernel %s: %w", p.Log, err)
	}
	if created {
		w.bytes += charge(int64(len(content)))
	}
	return nil
}

// Parts returns what is kept of an id, a session's or a kernel's, and of the kernels
// besides, in the order in which it was printed. None is no error.
func (l *Logs) Parts(ctx context.Context, workspace, id string, kernels ...string) ([]Part, error) {
	if !validID.MatchString(id) {
		return nil, nil
	}
	logs := append([]string{id}, kernels...)
	names := namesPrefix + id + "/"
	err := l.o.Store.EachAside(ctx, workspace, names, func(name string, _ int64, _ time.Time) error {
		logs = append(logs, strings.TrimPrefix(name, names))
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("cannot find the output of %s: %w", id, err)
	}
	slices.Sort(logs)
	var parts []Part
	for _, log := range slices.Compact(logs) {
		if !validID.MatchString(log) {
			continue
		}
		err := l.o.Store.EachAside(ctx, workspace, partsPrefix+log+"/", func(name string, size int64, _ time.Time) error {
			if p, ok := parsePart(name, size); ok {
				parts = append(parts, p)
			}
			return nil
		})
		if err != nil {
			return nil, fmt.Errorf("cannot list the output of %s: %w", id, err)
		}
	}
	slices.SortStableFunc(parts, func(a, b Part) int {
		return cmp.Or(cmp.Compare(a.Run, b.Run), cmp.Compare(a.Number, b.Number), cmp.Compare(a.From, b.From))
	})
	return parts, nil
}

// Open returns a part as it is: a gzip file, if its agent was honest. ErrNotFound when
// it was removed.
func (l *Logs) Open(ctx context.Context, workspace string, p Part) (io.ReadCloser, error) {
	content, err := l.o.Store.OpenAside(ctx, workspace, p.key())
	if errors.Is(err, fs.ErrNotExist) {
		err = ErrNotFound
	}
	if err != nil {
		return nil, fmt.Errorf("cannot read part %s of output: %w", p.Name(), err)
	}
	return content, nil
}
