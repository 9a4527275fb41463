package agent

import (
	"testing"

	"golang.org/x/sys/unix"
)

func TestWhenADiskIsFull(t *testing.T) {
	const blocks = 16384 // 64 MiB
	for name, c := range map[string]struct {
		left        unix.Statfs_t
		full, again bool
	}{
		"empty":                {unix.Statfs_t{Bsize: 4096, Blocks: blocks, Bavail: blocks}, false, true},
		"full":                 {unix.Statfs_t{Bsize: 4096, Blocks: blocks}, true, false},
		"a little left":        {unix.Statfs_t{Bsize: 4096, Blocks: blocks, Bavail: 200}, false, false},
		"as full as ext4":      {unix.Statfs_t{Bsize: 1024, Blocks: 67169, Bavail: 145}, true, false},
		"some deleted":         {unix.Statfs_t{Bsize: 4096, Blocks: blocks, Bavail: 1024}, false, true},
		"no inodes":            {unix.Statfs_t{Bsize: 4096, Blocks: blocks, Bavail: blocks, Files: 1000}, true, false},
		"uncounted inodes":     {unix.Statfs_t{Bsize: 4096, Blocks: blocks, Bavail: blocks, Files: 0}, false, true},
		"reserved for root":    {unix.Statfs_t{Bsize: 4096, Blocks: blocks, Bfree: 4096, Files: 10, Ffree: 5}, true, false},
		"no size, as of /proc": {unix.Statfs_t{Bsize: 4096}, false, true},
		"tiny":                 {unix.Statfs_t{Bsize: 4096, Blocks: 16, Bavail: 16}, false, true},
	} {
		r := roomOf(&c.left)
		if r.full() != c.full || r.again() != c.again {
			t.Errorf("%s: full %v, want %v; free again %v, want %v", name, r.full(), c.full, r.again(), c.again)
		}
	}
}

func TestAFullDiskIsToldOnceForEachFileSystem(t *testing.T) {
	dir := t.TempDir()
	if got := distinct(dir, dir+"/.", "/proc", "/nowhere/at/all"); len(got) != 2 || got[0] != dir || got[1] != "/proc" {
		t.Errorf("distinct file systems: %q", got)
	}
}
