package gvisor

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// lockDir opens a directory and locks it until the file is closed or this
// process ends. The error is fs.ErrNotExist also when it was removed while the
// lock was waited for.
func lockDir(ctx context.Context, dir string, how int) (*os.File, error) {
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
		var stat unix.Stat_t
		if err = unix.Fstat(int(f.Fd()), &stat); err == nil && stat.Nlink == 0 {
			err = fs.ErrNotExist
		}
	}
	if err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("cannot lock %s: %w", dir, err)
	}
	return f, nil
}
