package containerd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// emptyDisk is a formatted file system, kept in memory for the next sandbox with
// as much room: to run mkfs for each, which flushes what it writes to the host's
// disk, would take longer than all else that a sandbox is made of. The zero value
// is ready.
type emptyDisk struct {
	mu sync.Mutex

	// guarded by mu
	room int64    // of file, in bytes
	file *os.File // nil before the first use
}

// copyTo makes a file with an empty file system in which there is room for so
// many bytes. The holes of its inside are holes of the file, too.
func (e *emptyDisk) copyTo(ctx context.Context, path string, room int64) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.file == nil || e.room != room {
		file, err := format(ctx, room)
		if err != nil {
			return err
		}
		e.closeLocked()
		e.file, e.room = file, room
	}
	to, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	return errors.Join(copySparse(to, e.file), to.Close())
}

// close lets the memory go.
func (e *emptyDisk) close() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.closeLocked()
}

func (e *emptyDisk) closeLocked() {
	if e.file != nil {
		_ = e.file.Close()
	}
	e.file = nil
}

// format makes a file system in memory. It has no journal: what is on it is of no
// use once its host went down.
func format(ctx context.Context, room int64) (*os.File, error) {
	mkfs, err := findMkfs()
	if err != nil {
		return nil, err
	}
	fd, err := unix.MemfdCreate("kernelgw-disk", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("memfd_create", err)
	}
	file := os.NewFile(uintptr(fd), "kernelgw-disk")
	// The file system's own needs are a fiftieth or less.
	err = file.Truncate(room + room/32 + 4<<20)
	if err == nil {
		// -F: it is no device, and that is meant.
		cmd := exec.CommandContext(ctx, mkfs, "-q", "-F", "-m", "0", "-O", "^has_journal,^resize_inode", "-E", "lazy_itable_init=1,nodiscard", "/proc/self/fd/3")
		cmd.Env = []string{"PATH=" + safePath}
		cmd.ExtraFiles = []*os.File{file}
		var out []byte
		if out, err = cmd.CombinedOutput(); ctx.Err() != nil {
			err = ctx.Err()
		} else if err != nil {
			err = fmt.Errorf("%w: %s", err, cut(strings.TrimSpace(string(out))))
		}
	}
	if err != nil {
		_ = file.Close()
		return nil, err
	}
	return file, nil
}

// findMkfs returns the path of mkfs.ext4, which is not on every service's PATH.
func findMkfs() (string, error) {
	const name = "mkfs.ext4"
	for _, dir := range append(filepath.SplitList(os.Getenv("PATH")), "/usr/sbin", "/sbin") {
		if path, err := exec.LookPath(filepath.Join(dir, name)); err == nil && filepath.IsAbs(path) {
			return path, nil
		}
	}
	return "", fmt.Errorf("no %s (Debian: e2fsprogs)", name)
}

// copySparse makes one file as another is, without writing its holes.
func copySparse(to, from *os.File) error {
	info, err := from.Stat()
	if err != nil {
		return err
	}
	if err := to.Truncate(info.Size()); err != nil {
		return err
	}
	for at := int64(0); ; {
		begin, err := from.Seek(at, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) {
			return nil // there is no more
		}
		if err != nil {
			return err
		}
		if at, err = from.Seek(begin, unix.SEEK_HOLE); err != nil {
			return err
		}
		if _, err := io.Copy(io.NewOffsetWriter(to, begin), io.NewSectionReader(from, begin, at-begin)); err != nil {
			return err
		}
	}
}
