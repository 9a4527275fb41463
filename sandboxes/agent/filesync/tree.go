package filesync

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"
	"time"

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

// staging opens the directory for new files, and makes it if need be.
func (t *tree) staging() (int, error) {
	for range 3 {
		fd, err := t.open(incoming, unix.O_RDONLY|unix.O_DIRECTORY, 0)
		if err == nil {
			return fd, nil
		}
		if err := unix.Mkdirat(t.root, incoming, 0o700); err != nil && !errors.Is(err, unix.EEXIST) {
			return -1, fmt.Errorf("cannot make a directory for new files: %w", err)
		}
		if errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ELOOP) {
			// Something else took the name. Nobody has a right to it.
			unix.Unlinkat(t.root, incoming, 0)
		}
	}
	return -1, errors.New("cannot make a directory for new files: something is in the way")
}

// draft is a file that has no name in the tree yet.
type draft struct {
	*os.File
	dir  int // descriptor of staging
	name string
}

// draft makes a new file, the owner's when it is placed.
func (t *tree) draft() (*draft, error) {
	dir, err := t.staging()
	if err != nil {
		return nil, err
	}
	name := rand.Text()
	fd, err := unix.Openat(dir, name, unix.O_RDWR|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		unix.Close(dir)
		return nil, fmt.Errorf("cannot make a file: %w", err)
	}
	return &draft{os.NewFile(uintptr(fd), name), dir, name}, nil
}

// discard removes the draft, or what came into its place.
func (d *draft) discard() {
	unix.Unlinkat(d.dir, d.name, 0)
	d.File.Close()
	unix.Close(d.dir)
}

// finish makes the draft the owner's.
func (t *tree) finish(d *draft, executable bool, modified time.Time) error {
	mode := uint32(0o644)
	if executable {
		mode = 0o755
	}
	fd := int(d.Fd())
	if err := unix.Fchmod(fd, mode); err != nil {
		return err
	}
	at := unix.NsecToTimeval(modified.UnixNano())
	if err := unix.Futimes(fd, []unix.Timeval{at, at}); err != nil {
		return err
	}
	// Last: an agent that may give a file away may not change it afterwards.
	if t.owner != nil {
		return unix.Fchown(fd, int(t.owner.UID), int(t.owner.GID))
	}
	return nil
}

// errChanged says that a path is not as it was looked at any more.
var errChanged = errors.New("it changed meanwhile")

// place gives a finished draft the path p, where before was, and returns what it
// looks like there. errChanged when something else is there now.
func (t *tree) place(d *draft, p string, before stat) (stat, error) {
	dir, name, err := t.parent(p)
	if err != nil {
		return stat{}, err
	}
	defer unix.Close(dir)
	made, err := t.statFile(d.File)
	if err != nil {
		return stat{}, err
	}
	if before.kind == absent {
		err := unix.Renameat2(d.dir, d.name, dir, name, unix.RENAME_NOREPLACE)
		if errors.Is(err, unix.EEXIST) {
			return stat{}, errChanged
		}
		if err != nil {
			return stat{}, err
		}
		return t.placed(d, made)
	}
	// Both change places at once, so that what was there can still be looked at
	// when nobody can put anything else in its place.
	if err := unix.Renameat2(d.dir, d.name, dir, name, unix.RENAME_EXCHANGE); err != nil {
		if isAbsent(err) {
			return stat{}, errChanged
		}
		return stat{}, err
	}
	old, err := t.statIn(d.dir, d.name)
	if err == nil && old.moved(before) {
		return t.placed(d, made)
	}
	if back := unix.Renameat2(d.dir, d.name, dir, name, unix.RENAME_EXCHANGE); back != nil {
		// Gone again, or another came: what was taken must not be lost.
		_, keep := t.freeName(dir, name, time.Now())
		return stat{}, errors.Join(errChanged, unix.Renameat2(d.dir, d.name, dir, keep, unix.RENAME_NOREPLACE))
	}
	return stat{}, errChanged
}

// create makes a file where there is none. It can be seen before it is whole: this
// is for when nobody looks.
func (t *tree) create(p string, content []byte, executable bool, modified time.Time) (stat, error) {
	dir, name, err := t.parent(p)
	if err != nil {
		return stat{}, err
	}
	defer unix.Close(dir)
	mode := uint32(0o644)
	if executable {
		mode = 0o755
	}
	fd, err := unix.Openat(dir, name, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, mode)
	if err != nil {
		return stat{}, err
	}
	defer unix.Close(fd)
	err = fill(fd, content, modified)
	if err == nil && t.owner != nil {
		err = unix.Fchown(fd, int(t.owner.UID), int(t.owner.GID))
	}
	var st unix.Stat_t
	if err == nil {
		err = unix.Fstat(fd, &st)
	}
	if err != nil {
		return stat{}, errors.Join(err, unix.Unlinkat(dir, name, 0))
	}
	return t.describe(&st), nil
}

func fill(fd int, content []byte, modified time.Time) error {
	for len(content) > 0 {
		n, err := unix.Write(fd, content)
		if err != nil {
			return err
		}
		content = content[n:]
	}
	at := unix.NsecToTimeval(modified.UnixNano())
	return unix.Futimes(fd, []unix.Timeval{at, at})
}

// placed says what a draft looked like when it got its name: somebody may have
// written to it since, which must be seen as a change.
func (t *tree) placed(d *draft, made stat) (stat, error) {
	now, err := t.statFile(d.File)
	if err == nil && now.moved(made) {
		return now, nil
	}
	return made, nil
}

// makeDirectory makes a directory whose parent exists. It is no error when there
// is one.
func (t *tree) makeDirectory(p string) error {
	staging, err := t.staging()
	if err != nil {
		return err
	}
	defer unix.Close(staging)
	made := rand.Text()
	if err := unix.Mkdirat(staging, made, 0o755); err != nil {
		return fmt.Errorf("cannot make directory %q: %w", p, err)
	}
	defer unix.Unlinkat(staging, made, unix.AT_REMOVEDIR)
	if t.owner != nil {
		fd, err := unix.Openat(staging, made, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		if err == nil {
			err = unix.Fchown(fd, int(t.owner.UID), int(t.owner.GID))
			unix.Close(fd)
		}
		if err != nil {
			return fmt.Errorf("cannot make directory %q: %w", p, err)
		}
	}
	dir, name, err := t.parent(p)
	if err != nil {
		return fmt.Errorf("cannot make directory %q: %w", p, err)
	}
	defer unix.Close(dir)
	err = unix.Renameat2(staging, made, dir, name, unix.RENAME_NOREPLACE)
	if errors.Is(err, unix.EEXIST) {
		if st, err := t.statIn(dir, name); err == nil && st.kind == directory {
			return nil
		}
		return errChanged
	}
	if err != nil {
		return fmt.Errorf("cannot make directory %q: %w", p, err)
	}
	return nil
}

// remove removes a file that is still as it was.
func (t *tree) remove(p string, before stat) error {
	dir, name, err := t.parent(p)
	if isAbsent(err) {
		return nil
	}
	if err != nil {
		return err
	}
	defer unix.Close(dir)
	if before.kind == directory {
		return unix.Unlinkat(dir, name, unix.AT_REMOVEDIR) // only an empty one
	}
	staging, err := t.staging()
	if err != nil {
		return err
	}
	defer unix.Close(staging)
	aside := rand.Text()
	if err := unix.Renameat(dir, name, staging, aside); err != nil {
		return err
	}
	st, err := t.statIn(staging, aside)
	if err == nil && st.moved(before) {
		return unix.Unlinkat(staging, aside, 0)
	}
	if unix.Renameat2(staging, aside, dir, name, unix.RENAME_NOREPLACE) != nil {
		_, keep := t.freeName(dir, name, time.Now())
		return errors.Join(errChanged, unix.Renameat2(staging, aside, dir, keep, unix.RENAME_NOREPLACE))
	}
	return errChanged
}

// moveAside gives what is at p another name beside it, and returns that.
func (t *tree) moveAside(p string, now time.Time) (string, error) {
	dir, name, err := t.parent(p)
	if err != nil {
		return "", err
	}
	defer unix.Close(dir)
	for range 10 {
		_, aside := t.freeName(dir, name, now)
		err = unix.Renameat2(dir, name, dir, aside, unix.RENAME_NOREPLACE)
		if err == nil {
			return path.Join(path.Dir(p), aside), nil
		}
		if !errors.Is(err, unix.EEXIST) {
			break
		}
	}
	return "", fmt.Errorf("cannot keep %q beside the new one: %w", p, err)
}

// freeName is a name for a second version of a file.
func (t *tree) freeName(dir int, name string, now time.Time) (free bool, chosen string) {
	for n := range 100 {
		chosen = conflictName(name, now, n)
		if st, err := t.statIn(dir, chosen); err == nil && st.kind == absent {
			return true, chosen
		}
	}
	return false, conflictName(rand.Text(), now, 0)
}

// conflictName is the nth name for the version of a file that did not get its
// name: "plot (conflict 2026-01-31 12.00.00).png".
func conflictName(name string, now time.Time, n int) string {
	mark := " (conflict " + now.UTC().Format("2006-01-02 15.04.05")
	if n > 0 {
		mark += fmt.Sprintf(" %d", n+1)
	}
	mark += ")"
	extension := path.Ext(name)
	if len(extension) > 20 || extension == name {
		extension = ""
	}
	stem := strings.TrimSuffix(name, extension)
	const longest = 255
	if room := longest - len(mark) - len(extension); len(stem) > room {
		stem = strings.ToValidUTF8(stem[:room], "")
	}
	return stem + mark + extension
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
