package s3embed

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/gofrs/flock"
	"github.com/pkg/xattr"
)

// attributesWork refuses a directory that cannot keep what S3 needs besides
// content.
func attributesWork(dir string) error {
	file, err := os.CreateTemp(dir, ".attributes-*")
	if err != nil {
		return fmt.Errorf("cannot write to the directory of the embedded S3 server: %w", err)
	}
	defer os.Remove(file.Name())
	defer file.Close()
	// As much as an object may have: some file systems have room for little.
	const name = "user.kernelgw"
	value := make([]byte, 2048)
	if err := xattr.FSet(file, name, value); err != nil {
		return fmt.Errorf("cannot keep files in %s: its file system has no extended attributes of users (%w): choose a data directory on ext4, XFS or btrfs, or a tmpfs of Linux 6.6, or use an S3 server", dir, err)
	}
	if got, err := xattr.FGet(file, name); err != nil || len(got) != len(value) {
		return fmt.Errorf("cannot keep files in %s: its file system loses extended attributes: choose a data directory on ext4, XFS or btrfs, or use an S3 server", dir)
	}
	return nil
}

// lockDirectory keeps other programs out of a data directory, until it is closed
// or this program dies.
func lockDirectory(ctx context.Context, dir string) (*flock.Flock, error) {
	// A program that was killed holds it for a moment longer: a child that it was
	// starting does, until the child runs its own program.
	patient, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	lock := flock.New(filepath.Join(dir, "lock"))
	_, err := lock.TryLockContext(patient, 5*time.Millisecond)
	switch {
	case err == nil:
		return lock, nil
	case errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil:
		return nil, fmt.Errorf("cannot use %s: another kernelgw serves it; end that one, or choose another data directory", dir)
	}
	return nil, fmt.Errorf("cannot lock the directory of the embedded S3 server, %s: %w", dir, err)
}

// quietly runs f, and lets nothing that it prints on standard output out: the
// server has no other way to be silenced, and the gateway's standard output has
// a meaning of its own.
func quietly(f func() error) error {
	nowhere, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer nowhere.Close()
	before := os.Stdout
	os.Stdout = nowhere
	defer func() { os.Stdout = before }()
	return f()
}
