package netpolicy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/gofrs/flock"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// runtimeDir is where the names of networks are locked. Only root can enter it:
// a name that any user could take, as that of an abstract socket, would let any
// user keep the gateway from starting.
const runtimeDir = "/run/kernelgw"

// lockName keeps other processes from a network's name on a host until the lock
// is closed. Every network namespace is a host of its own.
func lockName(host netns.NsHandle, name string) (io.Closer, error) {
	if err := makeRuntimeDir(); err != nil {
		return nil, fmt.Errorf("cannot lock the network name %s: %w", name, err)
	}
	var namespace unix.Stat_t
	if err := unix.Fstat(int(host), &namespace); err != nil {
		return nil, fmt.Errorf("cannot lock the network name %s: cannot tell the host's network namespace: %w", name, err)
	}
	file := filepath.Join(runtimeDir, fmt.Sprintf("network-%s-%d", name, namespace.Ino))
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	for {
		lock := flock.New(file)
		_, err := lock.TryLockContext(ctx, 5*time.Millisecond)
		if errors.Is(err, context.DeadlineExceeded) {
			return nil, fmt.Errorf("another process has the network name %s, choose another one", name)
		}
		if err != nil {
			return nil, fmt.Errorf("cannot lock the network name %s: %w", name, err)
		}
		held, err := lock.Stat()
		if err != nil {
			_ = lock.Close()
			return nil, fmt.Errorf("cannot lock the network name %s: %w", name, err)
		}
		if now, err := os.Lstat(file); err == nil && os.SameFile(held, now) {
			return closer(func() {
				_ = os.Remove(file) // while it is locked: nobody else's
				_ = lock.Close()
			}), nil
		}
		_ = lock.Close() // who had it has removed the file
	}
}

// makeRuntimeDir makes runtimeDir, and refuses one in which others can write.
func makeRuntimeDir() error {
	if err := os.MkdirAll(runtimeDir, 0o700); err != nil {
		return err
	}
	info, err := os.Lstat(runtimeDir)
	if err != nil {
		return err
	}
	if owner := info.Sys().(*syscall.Stat_t).Uid; !info.IsDir() || int(owner) != os.Geteuid() || info.Mode().Perm()&0o022 != 0 {
		return fmt.Errorf("%s must be a directory in which only this user can write", runtimeDir)
	}
	return nil
}
