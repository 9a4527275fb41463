package contents

import (
	"context"
	"hash/maphash"
	"log/slog"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"time"
)

// Documents keeps small documents of a person, here which notebooks they trust.
// All methods are safe for concurrent use. owner and name are any strings, name
// of up to 512 bytes. What is not there is an error for which
// errors.Is(err, fs.ErrNotExist) holds.
type Documents interface {
	// GetDocument returns a document as it was last put.
	GetDocument(ctx context.Context, owner, name string) (body []byte, modified time.Time, err error)
	// PutDocument makes or replaces a document, whole.
	PutDocument(ctx context.Context, owner, name string, body []byte) error
	// DeleteDocument removes a document.
	DeleteDocument(ctx context.Context, owner, name string) error
	// ListDocuments returns the names that begin with prefix, sorted. None is no
	// error.
	ListDocuments(ctx context.Context, owner, prefix string) (names []string, err error)
}

// Options are what Handlers need. Store is required.
type Options struct {
	Store     Store
	Documents Documents    // nil: no notebook is trusted after a reload
	Log       *slog.Logger // nil: nothing is logged
	SpoolDir  string       // for bodies that are too large for memory; "" is the system's
	// MaxFileBytes bounds a file that is written; 0 is 5 GiB.
	MaxFileBytes int64
	// MaxBodyBytes bounds the body of a request; 0 is 512 MiB, as in a stock
	// server. Larger files are uploaded in chunks.
	MaxBodyBytes int64
	// SpoolBytes bounds what the bodies of one person hold in SpoolDir together; 0
	// is room for one of the largest files and two of the largest bodies.
	SpoolBytes int64
	// ChunkExpiry ends a chunked upload that nobody continues; 0 is 15 minutes.
	ChunkExpiry time.Duration
	// Observe is told what a handler has done (get, create, save, upload, rename,
	// copy, delete), where, and for copy and rename from where. It must not
	// block. It may be nil.
	Observe func(action, workspace, path, source string)
}

// At is what a request is about, as the route table found it.
type At struct {
	Workspace string // opaque
	Path      string // as in the URL after the route's slash, decoded once, not cleaned
	ID        string // of a checkpoint, version or trash entry
	User      string // display name: the author of what is written
	// Owner is the identity of the user, opaque and never that of somebody else:
	// their chunked uploads and the notebooks they trust are kept under it.
	Owner string
	Base  string // URL path of the mount, with a slash at both ends
}

// Handlers answer /api/contents, /files and what the native API has of files.
// Each is a function of a request and what it is about, which writes an answer or
// returns an *Error and has written nothing. They read the request's body
// themselves and bound it themselves. All are safe for concurrent use.
type Handlers struct {
	o    Options
	skim sync.Pool // *bufio.Reader of bodies
	seed maphash.Seed

	inMemory atomic.Int64 // bytes of all spools
	spooled  shares
	// converting holds one for each notebook that is being converted: more at once
	// than there are processors would only need more memory.
	converting chan struct{}

	trusting [64]sync.Mutex // by person and document: who adds to one holds it

	mu      sync.Mutex
	uploads map[uploadKey]*upload
	closed  bool
}

// New returns the handlers. Close ends them.
func New(o Options) *Handlers {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.SpoolDir == "" {
		o.SpoolDir = os.TempDir()
	}
	if o.MaxFileBytes == 0 {
		o.MaxFileBytes = 5 << 30
	}
	if o.MaxBodyBytes == 0 {
		o.MaxBodyBytes = 512 << 20
	}
	if o.SpoolBytes == 0 {
		o.SpoolBytes = o.MaxFileBytes + 2*o.MaxBodyBytes
	}
	if o.ChunkExpiry == 0 {
		o.ChunkExpiry = 15 * time.Minute
	}
	if o.Observe == nil {
		o.Observe = func(string, string, string, string) {}
	}
	return &Handlers{
		o: o, seed: maphash.MakeSeed(), uploads: map[uploadKey]*upload{}, spooled: shares{limit: o.SpoolBytes},
		converting: make(chan struct{}, max(2, runtime.GOMAXPROCS(0))),
	}
}
