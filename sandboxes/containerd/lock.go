package containerd

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// lockDir opens a sandbox's directory and locks it until the file is closed or
// this process ends. The error is fs.ErrNotExist also when the sandbox was
// destroyed while the lock was waited for.
func lockDir(ctx context.Context, dir string) (*os.File, error) {
	return lockHow(ctx, dir, unix.LOCK_EX)
}

func lockHow(ctx context.Context, dir string, how int) (*os.File, error) {
	f, err := os.Open(dir)
	if err != nil {
		return nil, fmt.Errorf("cannot lock: %w", err)
	}
	for {
		// Tried again and again: a flock that blocks cannot be cancelled.
		err = unix.Flock(int(f.Fd()), how|unix.LOCK_NB)
		if !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR) {
			break
		}
		select {
		case <-time.After(5 * time.Millisecond):
			continue
		case <-ctx.Done():
			err = ctx.Err()
		}
		break
	}
	if err == nil {
		err = sameFile(f, dir)
	}
	if err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("cannot lock %s: %w", dir, err)
	}
	return f, nil
}

// sameFile fails with fs.ErrNotExist when path does not lead to f any more.
func sameFile(f *os.File, path string) error {
	held, err := f.Stat()
	if err != nil {
		return err
	}
	now, err := os.Stat(path)
	if err != nil {
		return err
	}
	if !os.SameFile(held, now) {
		return fs.ErrNotExist
	}
	return nil
}
