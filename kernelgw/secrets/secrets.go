// Package secrets keeps what the code of a workspace may use and must never see:
// API keys and the like. A secret is a name, a value, and the hosts that the
// value may be sent to. Kernels get a random placeholder by the name; whoever
// carries their requests out puts the value in its place, for those hosts only.
// Values are encrypted at rest and come out of Open and nowhere else. The package
// knows nothing of HTTP, of kernels and of proxies.
package secrets

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"kernelgw/kernelgw/registry"
)

// Errors that callers test for.
var (
	ErrNotFound = errors.New("secret does not exist")
	ErrInvalid  = errors.New("invalid secret") // the text says what; never the value
	ErrTooMany  = errors.New("too many secrets")
)

// Limits of one workspace.
const (
	maxSecrets = 64
	maxSealed  = 1 << 20 // bytes of all of them, encrypted
)

// Keeper encrypts at rest. Implementations are safe for concurrent use, and
// their errors do not quote what they were given.
type Keeper interface {
	// Seal encrypts with the newest key.
	Seal(ctx context.Context, plain []byte) (sealed []byte, err error)
	// Open decrypts what Seal made with this or an older key.
	Open(ctx context.Context, sealed []byte) (plain []byte, err error)
}

// Options configure Secrets; all are required.
type Options struct {
	Store  registry.Store
	Keeper Keeper
	Log    *slog.Logger
}

// Secrets are the secrets of all workspaces. Safe for concurrent use.
type Secrets struct {
	// set at construction
	o Options

	mu     sync.Mutex
	opened map[string]opened // guarded by mu; by workspace
}

// opened is what a document held, so that a proxy can ask at each request.
type opened struct {
	version uint64
	list    []Secret
	until   time.Time // when what did not open is tried again; zero when all did
}

// retryOpening is how long a secret that does not open is left alone: a kernel
// decides how often is asked.
const retryOpening = 30 * time.Second

// New returns Secrets over a store.
func New(o Options) *Secrets { return &Secrets{o: o, opened: map[string]opened{}} }

// Info is a secret without its value.
type Info struct {
	Name        string
	Placeholder string
	Hosts       []string
	Created     time.Time
	Changed     time.Time // when it was last set
	By          string    // who set it last
}

// Secret is one with its value, for whoever sends it to its hosts.
type Secret struct {
	Name        string
	Placeholder string
	Hosts       []string
	Value       Value
}

// document is the stored record of a workspace's secrets. Its id is the
// workspace's name, and it stays when it is empty: versions must not come again.
type document struct {
	Secrets map[string]entry `json:"secrets"` // by name
}

type entry struct {
	Placeholder string    `json:"placeholder"`
	Hosts       []string  `json:"hosts"`
	Created     time.Time `json:"created"`
	Changed     time.Time `json:"changed"`
	By          string    `json:"by"`
	Sealed      []byte    `json:"sealed"` // bound, encrypted
}

// bound is what is encrypted: the value with all that it is bound to, so that a
// record that was copied elsewhere, or given other hosts, does not open.
type bound struct {
	Workspace   string   `json:"workspace"`
	Name        string   `json:"name"`
	Placeholder string   `json:"placeholder"`
	Hosts       []string `json:"hosts"`
	Value       string   `json:"value"`
}

// List returns the secrets of a workspace in order of their names.
func (s *Secrets) List(ctx context.Context, workspace string) ([]Info, error) {
	doc, _, err := s.load(ctx, workspace)
	if err != nil {
		return nil, err
	}
	list := make([]Info, 0, len(doc.Secrets))
	for _, name := range slices.Sorted(maps.Keys(doc.Secrets)) {
		list = append(list, doc.Secrets[name].info(name))
	}
	return list, nil
}

func (e entry) info(name string) Info {
	return Info{Name: name, Placeholder: e.Placeholder, Hosts: e.Hosts, Created: e.Created, Changed: e.Changed, By: e.By}
}

// Environment returns what the kernels and terminals of a workspace get: names
// with placeholders.
func (s *Secrets) Environment(ctx context.Context, workspace string) (map[string]string, error) {
	list, err := s.List(ctx, workspace)
	env := make(map[string]string, len(list))
	for _, one := range list {
		env[one.Name] = one.Placeholder
	}
	return env, err
}

// Set makes a secret or replaces its value and hosts, on behalf of somebody. A
// secret that is replaced keeps its placeholder, so that kernels that run use the
// new value at once. ErrInvalid, ErrTooMany.
func (s *Secrets) Set(ctx context.Context, workspace, name string, value Value, hosts []string, by string) (info Info, made bool, err error) {
	if err := CheckName(name); err != nil {
		return Info{}, false, err
	}
	if err := value.check(); err != nil {
		return Info{}, false, err
	}
	if hosts, err = checkHosts(hosts); err != nil {
		return Info{}, false, err
	}
	err = s.change(ctx, workspace, func(doc *document) error {
		now := time.Now().UTC()
		e, ok := doc.Secrets[name]
		if !ok {
			e = entry{Placeholder: newPlaceholder(), Created: now}
		}
		e.Hosts, e.Changed, e.By = hosts, now, by
		if e.Sealed, err = s.seal(ctx, workspace, name, e, value); err != nil {
			return err
		}
		doc.Secrets[name] = e
		info, made = e.info(name), !ok
		return doc.checkSize()
	})
	return info, made, err
}

// Delete removes a secret. ErrNotFound.
func (s *Secrets) Delete(ctx context.Context, workspace, name string) error {
	return s.change(ctx, workspace, func(doc *document) error {
		if _, ok := doc.Secrets[name]; !ok {
			return ErrNotFound
		}
		delete(doc.Secrets, name)
		return nil
	})
}

// Open returns the secrets of a workspace with their values, as they are now. One
// that does not open, because its key is gone or its record was tampered with, is
// left out and logged.
func (s *Secrets) Open(ctx context.Context, workspace string) ([]Secret, error) {
	doc, version, err := s.load(ctx, workspace)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	known := s.opened[workspace]
	s.mu.Unlock()
	if known.version == version && (known.until.IsZero() || time.Now().Before(known.until)) {
		return known.list, nil
	}
	fresh := opened{version: version}
	for _, name := range slices.Sorted(maps.Keys(doc.Secrets)) {
		value, err := s.open(ctx, workspace, name, doc.Secrets[name])
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		if err != nil {
			s.o.Log.Error("a secret does not open and is not used: set it again", "workspace", workspace, "name", name, "error", err)
			fresh.until = time.Now().Add(retryOpening)
			continue
		}
		e := doc.Secrets[name]
		fresh.list = append(fresh.list, Secret{Name: name, Placeholder: e.Placeholder, Hosts: e.Hosts, Value: value})
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.opened[workspace].version <= version {
		s.opened[workspace] = fresh
	}
	return fresh.list, nil
}

// Reseal encrypts all secrets with the Keeper's newest key, after one was added,
// and returns how many. What does not open stays as it is, and is logged.
func (s *Secrets) Reseal(ctx context.Context) (n int, err error) {
	records, err := s.o.Store.List(ctx, registry.Secrets)
	if err != nil {
		return 0, fmt.Errorf("cannot list secrets: %w", err)
	}
	for _, r := range records {
		done := 0
		err := s.change(ctx, r.ID, func(doc *document) error {
			done = 0
			for name, e := range doc.Secrets {
				value, err := s.open(ctx, r.ID, name, e)
				if err != nil {
					s.o.Log.Error("a secret does not open and stays as it is", "workspace", r.ID, "name", name, "error", err)
					continue
				}
				if e.Sealed, err = s.seal(ctx, r.ID, name, e, value); err != nil {
					return err
				}
				doc.Secrets[name] = e
				done++
			}
			return nil
		})
		if err != nil {
			return n, err
		}
		n += done
	}
	return n, nil
}

// load reads a workspace's document.
func (s *Secrets) load(ctx context.Context, workspace string) (document, uint64, error) {
	stored, err := s.o.Store.Get(ctx, registry.Secrets, workspace)
	if errors.Is(err, registry.ErrNotFound) {
		return document{Secrets: map[string]entry{}}, 0, nil
	}
	if err != nil {
		return document{}, 0, fmt.Errorf("cannot read the secrets of workspace %s: %w", workspace, err)
	}
	var doc document
	if err := json.Unmarshal(stored.Value, &doc); err != nil || doc.Secrets == nil {
		return document{}, 0, fmt.Errorf("the secrets of workspace %s in the registry are damaged", workspace)
	}
	return doc, stored.Version, nil
}

// change changes a workspace's document, again when somebody else was faster.
func (s *Secrets) change(ctx context.Context, workspace string, edit func(*document) error) error {
	for {
		doc, version, err := s.load(ctx, workspace)
		if err != nil {
			return err
		}
		if err := edit(&doc); err != nil {
			return err
		}
		value, err := json.Marshal(doc)
		if err != nil {
			return fmt.Errorf("cannot encode the secrets of workspace %s: %w", workspace, err)
		}
		_, err = s.o.Store.Put(ctx, registry.Record{Kind: registry.Secrets, ID: workspace, Version: version, Value: value})
		if errors.Is(err, registry.ErrConflict) && ctx.Err() == nil {
			continue
		}
		if err != nil {
			return fmt.Errorf("cannot save the secrets of workspace %s: %w", workspace, err)
		}
		return nil
	}
}

func (d document) checkSize() error {
	size := 0
	for _, e := range d.Secrets {
		size += len(e.Sealed)
	}
	if len(d.Secrets) > maxSecrets || size > maxSealed {
		return fmt.Errorf("%w: a workspace has at most %d, of %d KiB together", ErrTooMany, maxSecrets, maxSealed>>10)
	}
	return nil
}

func (s *Secrets) seal(ctx context.Context, workspace, name string, e entry, value Value) ([]byte, error) {
	plain, err := json.Marshal(bound{workspace, name, e.Placeholder, e.Hosts, value.Reveal()})
	if err != nil {
		return nil, fmt.Errorf("cannot encode secret %s of workspace %s", name, workspace)
	}
	defer clear(plain)
	sealed, err := s.o.Keeper.Seal(ctx, plain)
	if err != nil {
		return nil, fmt.Errorf("cannot encrypt secret %s of workspace %s: %w", name, workspace, err)
	}
	return sealed, nil
}

func (s *Secrets) open(ctx context.Context, workspace, name string, e entry) (Value, error) {
	plain, err := s.o.Keeper.Open(ctx, e.Sealed)
	if err != nil {
		return Value{}, fmt.Errorf("cannot decrypt it: %w", err)
	}
	defer clear(plain)
	var b bound
	if json.Unmarshal(plain, &b) != nil {
		return Value{}, errors.New("what was encrypted is no secret")
	}
	if b.Workspace != workspace || b.Name != name || b.Placeholder != e.Placeholder || !slices.Equal(b.Hosts, e.Hosts) {
		return Value{}, errors.New("its record was changed, or is that of another secret")
	}
	return NewValue(b.Value), nil
}

// newPlaceholder returns 128 random bits in a form that no key of anybody has.
func newPlaceholder() string {
	var random [16]byte
	rand.Read(random[:]) //nolint:errcheck // never fails: crypto/rand ends the program instead
	return "kgw-secret-" + hex.EncodeToString(random[:])
}
