// Package s3store keeps the files of workspaces in one bucket of a versioned S3
// server: a contents.Store, and the small documents of users beside it. It knows
// the layout of keys, what servers do differently, and how nothing is lost when
// it is killed at any step. It refuses to know who may do what, and what is in a
// file.
package s3store

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/s3"

	"kernelgw/contents"
)

// Options are what a store needs.
type Options struct {
	Client *s3.Client // see NewClient; its retries are replaced
	Bucket string     // exists, with versioning on
	Prefix string     // of all keys; "" or ends with a slash
	// QuotaBytes bounds what each workspace holds, old versions included; 0 is no
	// bound.
	QuotaBytes int64
	Retention  Retention
	// OwnServer says that the server is in this program, or close: it then hashes
	// what is written once and not twice. The content is checked all the same.
	OwnServer bool
	Log       *slog.Logger // nil discards
}

// Store is a contents.Store in an S3 bucket. One gateway at a time writes to a
// workspace: conditional writes keep a second one from losing anything, but what
// it does is not told to watchers of the first.
type Store struct {
	// set at construction
	client    *s3.Client
	bucket    string
	prefix    string
	quota     int64
	retention Retention
	ownServer bool
	log       *slog.Logger
	quirks    quirks
	claims    claims
	lives     context.Context // ends at Close
	end       context.CancelFunc
	started   time.Time
	work      sync.WaitGroup // moves that outlive their callers

	known memory // latest versions, by key
	past  memory // versions, by identifier

	mu         sync.Mutex
	workspaces map[string]*workspace // guarded by mu
	closed     bool                  // guarded by mu
}

var _ contents.Store = (*Store)(nil)

// New looks at the server, and refuses one that cannot keep files: see Probe.
func New(ctx context.Context, o Options) (*Store, error) {
	if o.Client == nil || o.Bucket == "" {
		return nil, errors.New("cannot open the file storage: a client and a bucket are needed")
	}
	report, err := Probe(ctx, o.Client, o.Bucket, o.Prefix)
	if err != nil {
		return nil, fmt.Errorf("cannot open the file storage: %w", err)
	}
	if err := report.Unusable(); err != nil {
		return nil, fmt.Errorf("cannot open the file storage: %w", err)
	}
	lives, end := context.WithCancel(context.Background())
	s := &Store{
		client: tuned(o.Client), bucket: o.Bucket, prefix: o.Prefix, quota: o.QuotaBytes,
		retention: o.Retention.withDefaults(), log: o.Log, quirks: report.quirks, ownServer: o.OwnServer,
		lives: lives, end: end, started: now(), workspaces: map[string]*workspace{},
	}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	return s, nil
}

// Close waits for what is under way, and leaves what it cannot finish to the next
// start. The store cannot be used afterwards.
func (s *Store) Close() error {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	s.end()
	s.work.Wait()
	return nil
}

// workspace is what a store remembers of a workspace. Nothing of it is an answer:
// all of that is in S3.
type workspace struct {
	name    string
	feed    feed
	usage   usage
	carried carried

	opening sync.Mutex   // held while moves that were broken off are finished
	looked  atomic.Int64 // one more than broken was when that was done last
	broken  atomic.Int64 // moves that were broken off since the start
	moving  sync.Map     // ids of the moves that are under way
}

func (s *Store) workspace(name string) *workspace {
	s.mu.Lock()
	defer s.mu.Unlock()
	w := s.workspaces[name]
	if w == nil {
		w = &workspace{name: name}
		s.workspaces[name] = w
	}
	return w
}

// enter returns a workspace for an operation on paths in it, having finished what
// a gateway that died has left there.
func (s *Store) enter(ctx context.Context, name string, paths ...string) (*workspace, error) {
	if len(escapeWord(name)) > 200 || name == "" {
		return nil, fmt.Errorf("%w: %q cannot be the name of a workspace", contents.ErrInvalid, name)
	}
	for _, path := range paths {
		if err := s.checkPath(name, path); err != nil {
			return nil, err
		}
	}
	w := s.workspace(name)
	if w.looked.Load() == w.broken.Load()+1 {
		return w, nil
	}
	w.opening.Lock()
	defer w.opening.Unlock()
	broken := w.broken.Load()
	if w.looked.Load() == broken+1 {
		return w, nil
	}
	if err := s.resume(ctx, w); err != nil {
		return nil, fmt.Errorf("cannot finish what was begun in workspace %s: %w", name, err)
	}
	w.looked.Store(broken + 1)
	return w, nil
}

// cleanup is a context for what must be done although the caller left.
func cleanup(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
}
