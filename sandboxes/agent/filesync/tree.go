package filesync

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// incoming is the directory where files are made before they get their names.
// It is in the tree, because a rename does not leave a file system; where the
// kernel is another user it cannot be entered by it.
const incoming = ".kernelgw-incoming"

// tree is a directory and all below it, reached from its descriptor. No method
// follows a symbolic link, or leaves the directory, whoever renames what
// meanwhile.
type tree struct {
	root  int // descriptor
	owner *Owner
}

// kind is what is at a path.
type kind int

const (
	absent kind = iota
	regular
	directory
	special // a link, a device, a pipe, a socket, or somebody else's file
)

// stat is what a file looked like. Two that are equal are of the same content,
// if it did not change within the grain of the clock.
type stat struct {
	kind       kind
	device     uint64
	inode      uint64
	size       int64
	modified   int64 // nanoseconds
	changed    int64 // nanoseconds
	executable bool
}

// same reports whether a file is still as it was. A directory is, whatever is in
// it.
func (a stat) same(b stat) bool {
	if a.kind == directory && b.kind == directory {
		return true
	}
	return a == b
}

// moved is like same for a file that was renamed, which changes one time.
func (a stat) moved(b stat) bool {
	a.changed = b.changed
	return a.same(b)
}

func openTree(dir string, owner *Owner) (*tree, error) {
	root, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("cannot open directory %s: %w", dir, err)
	}
	return &tree{root, owner}, nil
}

func (t *tree) close() {
	// What is left in it is of nobody.
	if dir, err := t.open(incoming, unix.O_RDONLY|unix.O_DIRECTORY, 0); err == nil {
		f := os.NewFile(uintptr(dir), incoming)
		names, _ := f.Readdirnames(-1)
		for _, name := range names {
			unix.Unlinkat(dir, name, 0)
			unix.Unlinkat(dir, name, unix.AT_REMOVEDIR)
		}
		f.Close()
		unix.Unlinkat(t.root, incoming, unix.AT_REMOVEDIR)
	}
	unix.Close(t.root)
}

// open opens a path below the root. It is never a link, nor is anything above.
func (t *tree) open(p string, flags int, mode uint32) (int, error) {
	if p == "" {
		p = "."
	}
	how := unix.OpenHow{
		Flags:   uint64(flags | unix.O_CLOEXEC | unix.O_NOFOLLOW | unix.O_NOCTTY | unix.O_NONBLOCK),
		Mode:    uint64(mode),
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS,
	}
	for range 100 {
		fd, err := unix.Openat2(t.root, p, &how)
		if errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EINTR) { // a rename went on
			continue
		}
		return fd, err
	}
	return -1, unix.EAGAIN
}

// parent opens the directory that a path is in.
func (t *tree) parent(p string) (fd int, name string, err error) {
	fd, err = t.open(strings.TrimSuffix(path.Dir(p), "."), unix.O_RDONLY|unix.O_DIRECTORY, 0)
	return fd, path.Base(p), err
}

// stat says what is at a path.
func (t *tree) stat(p string) (stat, error) {
	dir, name, err := t.parent(p)
	if isAbsent(err) {
		return stat{}, nil
	}
	if err != nil {
		return stat{}, fmt.Errorf("cannot look at %q: %w", p, err)
	}
	defer unix.Close(dir)
	return t.statIn(dir, name)
}

// isAbsent reports whether an error says that there is nothing of that name, as
// when something in its way is no directory.
func isAbsent(err error) bool {
	return errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ELOOP) || errors.Is(err, unix.EXDEV)
}

func (t *tree) statIn(dir int, name string) (stat, error) {
	var st unix.Stat_t
	err := unix.Fstatat(dir, name, &st, unix.AT_SYMLINK_NOFOLLOW)
	if isAbsent(err) {
		return stat{}, nil
	}
	if err != nil {
		return stat{}, fmt.Errorf("cannot look at %q: %w", name, err)
	}
	return t.describe(&st), nil
}

func (t *tree) describe(st *unix.Stat_t) stat {
	s := stat{
		kind: special, device: st.Dev, inode: st.Ino, size: st.Size,
		modified: st.Mtim.Nano(), changed: st.Ctim.Nano(), executable: st.Mode&0o100 != 0,
	}
	// A hard link to another's file, or one that the agent alone may read, is not
	// the kernel's to have copied.
	foreign := t.owner != nil && st.Uid != t.owner.UID
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		if !foreign {
			s.kind = regular
		}
	case unix.S_IFDIR:
		s.kind = directory
	}
	return s
}

// errSpecial is for what is no file that can be read.
var errSpecial = errors.New("it is no regular file")

// read opens a regular file.
func (t *tree) read(p string) (*os.File, stat, error) {
	fd, err := t.open(p, unix.O_RDONLY, 0)
	if err != nil {
		return nil, stat{}, fmt.Errorf("cannot open %q: %w", p, err)
	}
	f := os.NewFile(uintptr(fd), p)
	st, err := t.statFile(f)
	if err == nil && st.kind != regular {
		err = errSpecial
	}
	if err != nil {
		f.Close()
		return nil, st, fmt.Errorf("cannot open %q: %w", p, err)
	}
	return f, st, nil
}

func (t *tree) statFile(f *os.File) (stat, error) {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return stat{}, fmt.Errorf("cannot look at %q: %w", f.Name(), err)
	}
	return t.describe(&st), nil
}

// list returns the names in a directory, sorted, at most so many.
func (t *tree) list(p string, most int) (names []string, err error) {
	fd, err := t.open(p, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil, fmt.Errorf("cannot list %q: %w", p, err)
	}
	f := os.NewFile(uintptr(fd), p)
	defer f.Close()
	names, err = f.Readdirnames(most)
	if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("cannot list %q: %w", p, err)
	}
	slices.Sort(names)
	return names, nil
}

// walk calls each for what is below a directory, parents first, until left is
// 0. It neither enters nor tells what skip says. It reports whether it could look
// everywhere.
func (t *tree) walk(dir string, skip func(string) bool, left *int, each func(string, stat)) bool {
	names, err := t.list(dir, *left)
	if err != nil {
		return isAbsent(err)
	}
	fd, err := t.open(dir, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return isAbsent(err)
	}
	defer unix.Close(fd)
	complete := true
	for _, name := range names {
		p := path.Join(dir, name)
		if skip(p) {
			continue
		}
		if *left == 0 {
			return false
		}
		*left--
		st, err := t.statIn(fd, name)
		if err != nil {
			complete = false
			continue
		}
		if st.kind == absent {
			continue
		}
		each(p, st)
		if st.kind == directory && strings.Count(p, "/") < 64 {
			complete = t.walk(p, skip, left, each) && complete
		}
	}
	return complete
}
