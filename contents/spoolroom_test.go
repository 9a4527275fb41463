package contents

import (
	"bytes"
	"errors"
	"syscall"
	"testing"
)

// Somebody reads one large file many times at once: the file system of the spool
// may be that of the storage.
func TestSpoolsDoNotFillTheFileSystem(t *testing.T) {
	dir := t.TempDir()
	if err := syscall.Mount("spool", dir, "tmpfs", 0, "size=64m"); err != nil {
		t.Skipf("a file system of its own cannot be mounted here: %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	})
	some := bytes.Repeat([]byte("x"), 1<<20)
	full := func(s *spool) (n int, err error) {
		for ; err == nil && n < 100; n++ {
			_, err = s.Write(some)
		}
		return n, err
	}
	first := &spool{dir: dir, limit: 1 << 30}
	defer first.Close()
	n, err := full(first)
	if err == nil || errors.Is(err, syscall.ENOSPC) || n < 30 {
		t.Errorf("after %d MiB of 64: %v", n, err)
	}
	second := &spool{dir: dir, limit: 1 << 30}
	if n, err := full(second); err == nil || errors.Is(err, syscall.ENOSPC) || n > 2*roomEvery>>20 {
		t.Errorf("another one, after %d MiB: %v", n, err)
	}
	second.Close()
	first.Close()
	third := &spool{dir: dir, limit: 1 << 30}
	defer third.Close()
	if n, err := full(third); n < 30 {
		t.Errorf("when the others are gone, after %d MiB: %v", n, err)
	}
}
