// Package registry keeps runtime records: kernels, sessions, logins. A record
// is a small JSON document with a version; every write is a compare-and-swap.
// It knows nothing of what the documents mean.
package registry

import (
	"context"
	"encoding/json"
	"errors"
)

// Errors that callers test for.
var (
	ErrNotFound = errors.New("record not found")
	ErrConflict = errors.New("record was changed by someone else")
)

// Kind separates the key spaces of records.
type Kind string

// The kinds in use.
const (
	Kernels      Kind = "kernels"
	Sessions     Kind = "sessions"
	Logins       Kind = "logins"
	Capabilities Kind = "capabilities"
	Workspaces   Kind = "workspaces"
	Policies     Kind = "policies"
	Secrets      Kind = "secrets"
)

// Record is one document.
type Record struct {
	Kind    Kind
	ID      string
	Version uint64 // 0 before the first Put
	Value   json.RawMessage
}

// Store keeps records. All methods are safe for concurrent use. A Put or
// Delete that returned nil is seen by every later Get and List, and survives
// the death of the process where the implementation says that it is durable.
type Store interface {
	// Get returns ErrNotFound when there is no such record.
	Get(ctx context.Context, kind Kind, id string) (Record, error)
	// List returns all records of a kind in order of id.
	List(ctx context.Context, kind Kind) ([]Record, error)
	// Put writes r if the stored version equals r.Version (0: none is stored)
	// and returns the new version; else ErrConflict.
	Put(ctx context.Context, r Record) (uint64, error)
	// Delete removes the record, whatever its version. Deleting what does not
	// exist is no error.
	Delete(ctx context.Context, kind Kind, id string) error
	Close() error
}
