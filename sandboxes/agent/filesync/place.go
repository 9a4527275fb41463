package filesync

import (
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

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
