package statedir

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"time"

	"github.com/gofrs/flock"
)

// Patience is how long is waited for what a process that was killed still holds:
// a child that it was starting holds it, too, until the child runs its own
// program.
const Patience = 2 * time.Second

// LockDir locks a directory until the lock is closed or this process ends. The
// error is fs.ErrNotExist also when the directory was removed while the lock was
// waited for, and that of ctx when another has it for longer.
func LockDir(ctx context.Context, dir string) (*flock.Flock, error) {
	return lockDir(ctx, dir, (*flock.Flock).TryLockContext)
}

// shareDir is LockDir for a lock that others can share.
func shareDir(ctx context.Context, dir string) (*flock.Flock, error) {
	return lockDir(ctx, dir, (*flock.Flock).TryRLockContext)
}

func lockDir(ctx context.Context, dir string, try func(*flock.Flock, context.Context, time.Duration) (bool, error)) (*flock.Flock, error) {
	lock := flock.New(dir, flock.SetFlag(os.O_RDONLY))
	if _, err := try(lock, ctx, 5*time.Millisecond); err != nil {
		return nil, fmt.Errorf("cannot lock %s: %w", dir, err)
	}
	held, err := lock.Stat()
	if err == nil {
		var now fs.FileInfo
		if now, err = os.Stat(dir); err == nil && !os.SameFile(held, now) {
			err = fs.ErrNotExist
		}
	}
	if err != nil {
		_ = lock.Close()
		return nil, fmt.Errorf("cannot lock %s: %w", dir, err)
	}
	return lock, nil
}
