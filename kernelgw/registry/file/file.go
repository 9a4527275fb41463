// Package file keeps registry records in one file on disk (bbolt): durable,
// for a single gateway.
package file

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"time"

	"go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"

	"kernelgw/kernelgw/registry"
)

// Store is a registry.Store in a file: a Put that returned is on disk. Safe
// for concurrent use.
type Store struct {
	db *bbolt.DB
}

// Open opens the file, or makes it. A file belongs to one process at a time:
// Open waits five seconds for another to let go, as when a gateway is replaced.
func Open(path string) (*Store, error) {
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{Timeout: 5 * time.Second})
	if errors.Is(err, bolterrors.ErrTimeout) {
		return nil, fmt.Errorf("cannot open %s: another gateway uses this data directory; stop it or choose another --data-dir", path)
	}
	if err != nil {
		return nil, fmt.Errorf("cannot open registry %s: %w", path, err)
	}
	return &Store{db: db}, nil
}

// A stored value is the version as eight big-endian bytes, then the document.
const versionBytes = 8

func decode(kind registry.Kind, id string, stored []byte) (registry.Record, error) {
	if len(stored) < versionBytes {
		return registry.Record{}, fmt.Errorf("registry record %s/%s is damaged: %d bytes", kind, id, len(stored))
	}
	return registry.Record{
		Kind: kind, ID: id,
		Version: binary.BigEndian.Uint64(stored),
		// Copy: bbolt's memory is valid only within the transaction.
		Value: slices.Clone(stored[versionBytes:]),
	}, nil
}

// Get implements registry.Store.
func (s *Store) Get(_ context.Context, kind registry.Kind, id string) (r registry.Record, err error) {
	err = s.db.View(func(tx *bbolt.Tx) error {
		bucket := tx.Bucket([]byte(kind))
		if bucket == nil {
			return registry.ErrNotFound
		}
		stored := bucket.Get([]byte(id))
		if stored == nil {
			return registry.ErrNotFound
		}
		r, err = decode(kind, id, stored)
		return err
	})
	return r, err
}

// List implements registry.Store.
func (s *Store) List(_ context.Context, kind registry.Kind) (list []registry.Record, err error) {
	err = s.db.View(func(tx *bbolt.Tx) error {
		bucket := tx.Bucket([]byte(kind))
		if bucket == nil {
			return nil
		}
		return bucket.ForEach(func(id, stored []byte) error {
			r, err := decode(kind, string(id), stored)
			list = append(list, r)
			return err
		})
	})
	return list, err
}

// Put implements registry.Store.
func (s *Store) Put(_ context.Context, r registry.Record) (version uint64, err error) {
	err = s.db.Update(func(tx *bbolt.Tx) error {
		bucket, err := tx.CreateBucketIfNotExists([]byte(r.Kind))
		if err != nil {
			return err
		}
		var current uint64
		if stored := bucket.Get([]byte(r.ID)); stored != nil {
			old, err := decode(r.Kind, r.ID, stored)
			if err != nil {
				return err
			}
			current = old.Version
		}
		if current != r.Version {
			return registry.ErrConflict
		}
		version = current + 1
		return bucket.Put([]byte(r.ID), append(binary.BigEndian.AppendUint64(nil, version), r.Value...))
	})
	return version, err
}

// Delete implements registry.Store.
func (s *Store) Delete(_ context.Context, kind registry.Kind, id string) error {
	return s.db.Update(func(tx *bbolt.Tx) error {
		bucket := tx.Bucket([]byte(kind))
		if bucket == nil {
			return nil
		}
		return bucket.Delete([]byte(id))
	})
}

// Close implements registry.Store.
func (s *Store) Close() error { return s.db.Close() }
