package netpolicy

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// inside runs f on a thread that is in a network namespace. Sockets that f
// opens stay there.
func inside(ns netns.NsHandle, f func() error) error {
	return onThread(func() error {
		if err := netns.Set(ns); err != nil {
			return fmt.Errorf("cannot enter a network namespace: %w", err)
		}
		return f()
	})
}

// onThread runs f on a thread whose network namespace f may change.
func onThread(f func() error) error {
	done := make(chan error)
	go func() {
		// A goroutine of its own: a thread that could not be brought home ends with it.
		runtime.LockOSThread()
		home, err := netns.Get()
		if err != nil {
			done <- fmt.Errorf("cannot open the network namespace of a thread: %w", err)
			return
		}
		err = f()
		if netns.Set(home) == nil {
			runtime.UnlockOSThread()
		}
		_ = home.Close()
		done <- err
	}()
	return <-done
}

// makeNamespace makes a network namespace, has setup run in it, and pins it to
// a new file.
func makeNamespace(pin string, setup func() error) error {
	f, err := os.OpenFile(pin, os.O_CREATE|os.O_EXCL|os.O_RDONLY, 0o600)
	if err != nil {
		return fmt.Errorf("cannot make a network namespace: %w", err)
	}
	_ = f.Close()
	return onThread(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("cannot make a network namespace: %w", err)
		}
		if err := setup(); err != nil {
			return err
		}
		if err := unix.Mount("/proc/thread-self/ns/net", pin, "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("cannot pin a network namespace to %s: %w", pin, err)
		}
		return nil
	})
}

// pinned reports whether a file pins a namespace.
func pinned(pin string) bool {
	var s unix.Statfs_t
	return unix.Statfs(pin, &s) == nil && s.Type == unix.NSFS_MAGIC
}

// unpin lets go of a namespace and removes the file, if there is any. The
// namespace ends when no process is in it.
func unpin(pin string) error {
	for pinned(pin) {
		if err := unix.Unmount(pin, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil {
			return fmt.Errorf("cannot unpin the network namespace %s: %w", pin, err)
		}
	}
	if err := os.Remove(pin); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("cannot remove the file of a network namespace: %w", err)
	}
	return nil
}

// setting is a kernel setting below /proc/sys/net.
type setting struct {
	path, value string
}

// apply writes settings of the network namespace that the calling thread is in.
// Settings of IPv6 are missing where the kernel is without, and then needless.
func apply(settings []setting) error {
	for _, s := range settings {
		err := os.WriteFile(filepath.Join("/proc/sys/net", s.path), []byte(s.value), 0)
		if errors.Is(err, fs.ErrNotExist) && strings.HasPrefix(s.path, "ipv6/") {
			continue
		}
		if err != nil {
			return fmt.Errorf("cannot set net/%s to %s: %w", s.path, s.value, err)
		}
	}
	return nil
}
