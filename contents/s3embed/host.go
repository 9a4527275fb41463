package s3embed

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/pkg/xattr"
	"golang.org/x/sys/unix"
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

// lockDirectory keeps other programs out of a data directory, until the file is
// closed or this program dies.
func lockDirectory(dir string) (*os.File, error) {
	file, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("cannot lock the directory of the embedded S3 server: %w", err)
	}
	if err := unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		file.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fmt.Errorf("cannot use %s: another kernelgw serves it; end that one, or choose another data directory", dir)
		}
		return nil, fmt.Errorf("cannot lock %s: %w", dir, err)
	}
	return file, nil
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
