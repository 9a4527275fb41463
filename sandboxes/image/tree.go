package image

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"strings"
)

// maxLinks is how many symlinks one path may cross, as in Linux (ELOOP).
const maxLinks = 40

var errTooManyLinks = errors.New("too many levels of symbolic links")

// resolve turns name, a slash path inside the tree under root, into a path
// without symlinks, following links as a chroot would: absolute targets and
// ".." end at the tree's root. Components that do not exist are kept as they
// are. The last component is followed only when follow is set.
//
// The answer is used with the same os.Root, so that a mistake here, or a tree
// that changes meanwhile, ends in an error and not outside.
func resolve(root *os.Root, name string, follow bool) (string, error) {
	var done []string // resolved so far, no symlink in it
	rest := strings.Split(name, "/")
	for links := 0; len(rest) > 0; {
		part := rest[0]
		rest = rest[1:]
		switch part {
		case "", ".":
			continue
		case "..":
			if len(done) > 0 {
				done = done[:len(done)-1]
			}
			continue
		}
		full := path.Join(path.Join(done...), part)
		if len(rest) == 0 && !follow {
			return full, nil
		}
		info, err := root.Lstat(full)
		if errors.Is(err, fs.ErrNotExist) || (err == nil && info.Mode().Type() != fs.ModeSymlink) {
			done = append(done, part)
			continue
		}
		if err != nil {
			return "", err
		}
		if links++; links > maxLinks {
			return "", &fs.PathError{Op: "resolve", Path: name, Err: errTooManyLinks}
		}
		target, err := root.Readlink(full)
		if err != nil {
			return "", err
		}
		if path.IsAbs(target) {
			done = nil
		}
		rest = append(strings.Split(target, "/"), rest...)
	}
	if len(done) == 0 {
		return ".", nil
	}
	return path.Join(done...), nil
}

// treeFS is a root filesystem on disk as an fs.FS. Symlinks are followed as
// inside a chroot. It holds nothing open between calls and is safe for
// concurrent use.
type treeFS string

// Open opens a regular file or directory for reading. Anything else (a FIFO
// would block) is refused.
func (t treeFS) Open(name string) (fs.File, error) {
	root, real, info, err := t.find("open", name)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	if !info.Mode().IsRegular() && !info.IsDir() {
		return nil, &fs.PathError{Op: "open", Path: name, Err: fmt.Errorf("is a %s, not a file", info.Mode().Type())}
	}
	return root.Open(real)
}

// Stat describes what a path leads to.
func (t treeFS) Stat(name string) (fs.FileInfo, error) {
	root, _, info, err := t.find("stat", name)
	if err != nil {
		return nil, err
	}
	return info, root.Close()
}

// find returns where a path leads to, in root, which the caller closes.
func (t treeFS) find(op, name string) (root *os.Root, real string, info fs.FileInfo, err error) {
	if !fs.ValidPath(name) {
		return nil, "", nil, &fs.PathError{Op: op, Path: name, Err: fs.ErrInvalid}
	}
	if root, err = os.OpenRoot(string(t)); err != nil {
		return nil, "", nil, err
	}
	if real, err = resolve(root, name, true); err == nil {
		info, err = root.Lstat(real)
	}
	if err != nil {
		_ = root.Close()
		return nil, "", nil, err
	}
	return root, real, info, nil
}
