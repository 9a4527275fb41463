package image

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gofrs/flock"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/partial"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"kernelgw/sandboxes"
)

// DefaultName is the name of the image that is meant when none is named.
const DefaultName = "default"

// refAnnotation names an image in an OCI layout's index (OCI image spec,
// "Annotations").
const refAnnotation = "org.opencontainers.image.ref.name"

// Options configure a Store.
type Options struct {
	// Dir holds everything: an OCI image layout (oci-layout, index.json,
	// blobs), the unpacked root filesystems (rootfs/HEX), what is known of where
	// images came from (records/HEX.json), and what builds keep (cache). It is made when something is first written, with the modes
	// that the umask leaves of rwxr-xr-x. Files in an image belong to the user ids
	// that the image says and some are writable for all: where a host has
	// users who must not change what sandboxes see, make Dir with mode 0700.
	Dir string
	// MaxBytes is the most that one image may unpack to; 0 means 32 GiB.
	MaxBytes int64
	// Policy says which images may be stored and used; nil admits all.
	Policy *Policy
}

// Store keeps images on disk. Several processes may use one directory at a
// time: a change is prepared aside and appears whole, or not at all. Reading
// needs no write permission. Safe for concurrent use.
type Store struct {
	dir      string // set at construction, as is the next
	maxBytes int64
	policy   atomic.Pointer[Policy]

	mu      sync.Mutex
	checked map[v1.Hash]treeIdentity // guarded by mu
}

// Open returns the store in opts.Dir, which need not exist yet.
func Open(opts Options) (*Store, error) {
	if opts.Dir == "" {
		return nil, errors.New("cannot open image store: no directory given")
	}
	dir, err := filepath.Abs(opts.Dir)
	if err != nil {
		return nil, fmt.Errorf("cannot open image store: %w", err)
	}
	if opts.MaxBytes <= 0 {
		opts.MaxBytes = defaultMaxBytes
	}
	s := &Store{dir: dir, maxBytes: opts.MaxBytes, checked: make(map[v1.Hash]treeIdentity)}
	s.policy.Store(opts.Policy)
	return s, nil
}

// SetPolicy says which images may be stored and used from now on; nil admits all.
// Sandboxes that there are already stay.
func (s *Store) SetPolicy(p *Policy) { s.policy.Store(p) }

// Dir is the store's directory, absolute.
func (s *Store) Dir() string { return s.dir }

// Image is an unpacked image, ready to make sandboxes of.
type Image struct {
	Name       string // as asked for; DefaultName when nothing was
	Digest     string // of the manifest, "sha256:..."
	RootFS     string // absolute directory; shared, never to be written
	User       User   // who kernels run as, never root
	Env        []string
	WorkingDir string
	// Kernelspecs by kernel name. Their Files follow no link out of RootFS.
	Kernelspecs map[string]sandboxes.Kernelspec
	// Problems are kernelspecs that were found and cannot be used.
	Problems []error
	// Verdict is why the policy admits it.
	Verdict Verdict
}

// Resolve returns the image that ref names: a name, a digest ("sha256:..."),
// a name with a digest, which decides, or "" for the default image. The error
// wraps sandboxes.ErrNotFound when there is none, and says how to get it; it is
// a RefusedError when the policy does not admit the image, as it was stored and
// with the signatures that it was stored with.
//
// Each time the manifest and the config are compared with their digests, and
// once in the life of the Store the unpacked files with their seal.
func (s *Store) Resolve(ctx context.Context, ref string) (Image, error) {
	if err := ctx.Err(); err != nil {
		return Image{}, err
	}
	if ref == "" {
		ref = DefaultName
	}
	desc, err := s.find(ref)
	if err != nil {
		return Image{}, err
	}
	img, err := s.stored(desc.Digest)
	if err != nil {
		return Image{}, fmt.Errorf("cannot read image %q: %w", ref, err)
	}
	config, err := img.ConfigFile()
	if err != nil {
		return Image{}, fmt.Errorf("cannot read image %q: %w", ref, err)
	}
	rootfs := s.rootfs(desc.Digest)
	if _, err := os.Stat(rootfs); err != nil {
		return Image{}, fmt.Errorf("image %q is in %s but not unpacked: pull or build it again: %w", ref, s.dir, err)
	}
	known, err := s.readRecord(desc.Digest)
	if err != nil {
		return Image{}, err
	}
	verdict, err := s.judgeStored(desc, known, false)
	if err != nil {
		return Image{}, fmt.Errorf("cannot read image %q: %w", ref, err)
	}
	if verdict.Refused != nil {
		return Image{}, &RefusedError{ref, verdict.Refused}
	}
	if err := s.checkTree(ctx, desc.Digest, known.Tree); err != nil {
		return Image{}, fmt.Errorf("cannot use image %q: %w", ref, err)
	}
	user, err := findUser(treeFS(rootfs), config.Config.User)
	if err != nil {
		return Image{}, fmt.Errorf("cannot use image %q: %w", ref, err)
	}
	specs, problems := findKernelspecs(rootfs, config.Config.Env, user.Home)
	return Image{
		Name: ref, Digest: desc.Digest.String(), RootFS: rootfs,
		User: user, Env: config.Config.Env, WorkingDir: config.Config.WorkingDir,
		Kernelspecs: specs, Problems: problems, Verdict: verdict,
	}, nil
}

// Entry is one name in the store.
type Entry struct {
	Name   string
	Digest string
	Size   int64 // bytes of the image's blobs, compressed
}

// List returns the store's names in order. A store that was never written to
// is empty.
func (s *Store) List(ctx context.Context) ([]Entry, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	index, err := s.readIndex()
	if err != nil {
		return nil, err
	}
	var entries []Entry
	for _, desc := range index.Manifests {
		if isArtifact(desc) {
			continue
		}
		e := Entry{Name: desc.Annotations[refAnnotation], Digest: desc.Digest.String(), Size: desc.Size}
		if img, err := s.stored(desc.Digest); err == nil {
			if m, err := img.Manifest(); err == nil {
				e.Size += m.Config.Size
				for _, l := range m.Layers {
					e.Size += l.Size
				}
			}
		}
		entries = append(entries, e)
	}
	slices.SortFunc(entries, func(a, b Entry) int { return strings.Compare(a.Name, b.Name) })
	return entries, nil
}

// find returns the descriptor that ref names.
func (s *Store) find(ref string) (v1.Descriptor, error) {
	index, err := s.readIndex()
	if err != nil {
		return v1.Descriptor{}, err
	}
	wantName, wantDigest := ref, ""
	if i := strings.Index(ref, "sha256:"); i == 0 {
		wantName, wantDigest = "", ref
	} else if i > 0 && ref[i-1] == '@' {
		wantName, wantDigest = "", ref[i:]
	}
	for _, candidate := range []string{wantName, normalize(wantName)} {
		for _, desc := range index.Manifests {
			if isArtifact(desc) {
				continue
			}
			if wantDigest != "" && desc.Digest.String() == wantDigest {
				return desc, nil
			}
			if candidate != "" && desc.Annotations[refAnnotation] == candidate {
				return desc, nil
			}
		}
	}
	if desc, ok := s.unnamed(wantDigest); ok {
		return desc, nil
	}
	remedy := fmt.Sprintf("run \"kernelgw image pull %s\"", ref)
	if ref == DefaultName {
		remedy = "run \"make image\" or \"kernelgw image build\""
	}
	return v1.Descriptor{}, fmt.Errorf("no image %q in %s; %s: %w", ref, s.dir, remedy, sandboxes.ErrNotFound)
}

// unnamed finds an image whose name has moved on to another: whoever pinned its
// digest gets it until it is pruned.
func (s *Store) unnamed(digest string) (v1.Descriptor, bool) {
	if !digestForm.MatchString(digest) {
		return v1.Descriptor{}, false
	}
	hash, err := v1.NewHash(digest)
	if err != nil {
		return v1.Descriptor{}, false
	}
	if _, err := os.Stat(s.rootfs(hash)); err != nil {
		return v1.Descriptor{}, false
	}
	img, err := s.stored(hash)
	if err != nil {
		return v1.Descriptor{}, false
	}
	desc, err := partial.Descriptor(img)
	if err != nil {
		return v1.Descriptor{}, false
	}
	return *desc, true
}

// normalize is the full form of a registry reference, "" when ref is none.
func normalize(ref string) string {
	parsed, err := name.ParseReference(ref)
	if err != nil {
		return ""
	}
	return parsed.Name()
}

func (s *Store) rootfs(digest v1.Hash) string {
	// Without the algorithm: a colon in a path ends it in mount options.
	return filepath.Join(s.dir, "rootfs", digest.Hex)
}

func (s *Store) readIndex() (v1.IndexManifest, error) {
	raw, err := os.ReadFile(filepath.Join(s.dir, "index.json"))
	if errors.Is(err, fs.ErrNotExist) {
		return emptyIndex(), nil
	}
	if err != nil {
		return v1.IndexManifest{}, fmt.Errorf("cannot read image store: %w", err)
	}
	var index v1.IndexManifest
	if err := json.Unmarshal(raw, &index); err != nil {
		return v1.IndexManifest{}, fmt.Errorf("cannot read image store %s: index.json: %w", s.dir, err)
	}
	return index, nil
}

func emptyIndex() v1.IndexManifest {
	return v1.IndexManifest{SchemaVersion: 2, MediaType: types.OCIImageIndex}
}

// lock makes the store's directories and takes its lock, which the death of
// the process also frees.
func (s *Store) lock(ctx context.Context) (unlock func(), err error) {
	for _, dir := range []string{"", "blobs/sha256", "rootfs", recordDir, "tmp", "cache"} {
		if err := os.MkdirAll(filepath.Join(s.dir, dir), 0o755); err != nil {
			return nil, fmt.Errorf("cannot make image store: %w", err)
		}
	}
	return lockFile(ctx, filepath.Join(s.dir, "lock"))
}

// lockFile takes the exclusive lock of a file, made when missing.
func lockFile(ctx context.Context, file string) (unlock func(), err error) {
	lock := flock.New(file, flock.SetPermissions(0o644))
	_, err = lock.TryLockContext(ctx, 50*time.Millisecond)
	if ctx.Err() != nil && err != nil {
		return nil, fmt.Errorf("cannot lock %s, which another process holds: %w", file, err)
	}
	if err != nil {
		return nil, fmt.Errorf("cannot lock %s: %w", file, err)
	}
	return func() { _ = lock.Close() }, nil
}
