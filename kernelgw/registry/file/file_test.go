package file_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.etcd.io/bbolt"

	"kernelgw/kernelgw/registry"
	"kernelgw/kernelgw/registry/file"
	"kernelgw/kernelgw/registry/registrytest"
)

func open(t *testing.T, path string) *file.Store {
	t.Helper()
	s, err := file.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func TestContract(t *testing.T) {
	registrytest.Run(t, func(t *testing.T) registry.Store { return open(t, filepath.Join(t.TempDir(), "r.db")) })
}

func TestRecordsSurviveAReopen(t *testing.T) {
	path := filepath.Join(t.TempDir(), "r.db")
	s := open(t, path)
	if _, err := s.Put(t.Context(), registry.Record{Kind: registry.Sessions, ID: "x", Value: []byte(`1`)}); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	got, err := open(t, path).Get(t.Context(), registry.Sessions, "x")
	if err != nil || got.Version != 1 || string(got.Value) != "1" {
		t.Errorf("Get = %+v, %v", got, err)
	}
	if info, _ := os.Stat(path); info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v: others can read it", info.Mode())
	}
}

func TestDamagedRecordIsNamed(t *testing.T) {
	path := filepath.Join(t.TempDir(), "r.db")
	db, err := bbolt.Open(path, 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	err = db.Update(func(tx *bbolt.Tx) error {
		bucket, err := tx.CreateBucket([]byte(registry.Kernels))
		if err != nil {
			return err
		}
		return bucket.Put([]byte("short"), []byte("x"))
	})
	if err != nil {
		t.Fatal(err)
	}
	db.Close()
	s := open(t, path)
	if _, err := s.Get(t.Context(), registry.Kernels, "short"); err == nil || !strings.Contains(err.Error(), "kernels/short") {
		t.Errorf("Get: %v", err)
	}
	if _, err := s.List(t.Context(), registry.Kernels); err == nil {
		t.Error("List hides a damaged record")
	}
	if _, err := s.Put(t.Context(), registry.Record{Kind: registry.Kernels, ID: "short"}); err == nil {
		t.Error("Put overwrites a damaged record")
	}
}

func TestSecondGatewayOnOneDataDirectoryIsRefused(t *testing.T) {
	path := filepath.Join(t.TempDir(), "r.db")
	open(t, path)
	if _, err := file.Open(path); err == nil || !strings.Contains(err.Error(), "another gateway") {
		t.Errorf("second Open: %v", err)
	}
}
