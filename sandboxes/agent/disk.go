package agent

import (
	"context"
	"time"

	"golang.org/x/sys/unix"
)

const (
	diskEvery = 250 * time.Millisecond
	// A file system with less free than diskFull refuses most of what programs write:
	// ext4 keeps more than a hundred KiB back. It is told again when diskFree had
	// become free meanwhile.
	diskFull = 512 << 10
	diskFree = 4 << 20
)

// room is what a file system has left.
type room struct {
	bytes, size int64
	noInodes    bool
}

func roomAt(dir string) (room, error) {
	var s unix.Statfs_t
	if err := unix.Statfs(dir, &s); err != nil {
		return room{}, err
	}
	return roomOf(&s), nil
}

func roomOf(s *unix.Statfs_t) room {
	// No inodes at all: they are not counted.
	return room{bytes: int64(s.Bavail) * s.Bsize, size: int64(s.Blocks) * s.Bsize, noInodes: s.Files > 0 && s.Ffree == 0}
}

func (r room) full() bool  { return r.size > 0 && r.bytes < min(diskFull, r.size/8) || r.noInodes }
func (r room) again() bool { return !r.noInodes && r.bytes >= min(diskFree, r.size/4) }

// watchDisk tells the user when a file system that kernels write to is full: what
// a program says of it, if it says anything, may be far from that.
func (a *Agent) watchDisk(ctx context.Context) {
	dirs := distinct(a.opts.Home, a.opts.RuntimeDir, "/dev/shm")
	told := make(map[string]bool, len(dirs))
	tick := time.NewTicker(diskEvery)
	defer tick.Stop()
	for {
		for _, dir := range dirs {
			r, err := roomAt(dir)
			switch {
			case err != nil: // it is gone
			case r.full() && !told[dir]:
				told[dir] = true
				a.notice(fullText(dir, r))
			case r.again():
				told[dir] = false
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

func fullText(dir string, r room) string {
	what := "its " + bytesText(r.size) + " are used"
	if r.noInodes {
		what = "it has as many files as it can have"
	}
	return "the disk is full: " + what + ", nothing can be written to " + dir + " until files there are deleted"
}

// distinct returns those directories that are on a file system of their own.
func distinct(dirs ...string) []string {
	seen := make(map[uint64]bool)
	var found []string
	for _, dir := range dirs {
		var s unix.Stat_t
		if unix.Stat(dir, &s) != nil || seen[s.Dev] {
			continue
		}
		seen[s.Dev] = true
		found = append(found, dir)
	}
	return found
}
