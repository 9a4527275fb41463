package contents

import (
	"fmt"
	"path"
	"strings"
	"unicode"
	"unicode/utf8"
)

const (
	// MaxPathBytes bounds a clean path. An S3 key has 1024 bytes, and a store
	// needs some of them for what comes before the path.
	MaxPathBytes = 880
	// MaxNameBytes bounds each segment of a path: no file system has longer names.
	MaxNameBytes = 255
)

// pathError is a path that cannot be. It is ErrInvalid, and ErrNotFound besides
// when it can only have been made by hand: a file of such a path is never there,
// and stock servers answer 404.
type pathError struct {
	why    string
	absent bool
}

func (e *pathError) Error() string { return ErrInvalid.Error() + ": " + e.why }

func (e *pathError) Is(target error) bool {
	return target == ErrInvalid || e.absent && target == ErrNotFound
}

// Clean returns a path as stores know it: relative to the workspace, without a
// slash at either end; the root is "". It resolves nothing: what a store cannot
// keep on every server, and what a file system could take for another path, is
// ErrInvalid, and ErrNotFound too when it has an empty segment, ".", ".." or a
// NUL. A clean path is its own Clean.
func Clean(p string) (string, error) {
	if p == "" || p == "/" {
		return "", nil
	}
	p = strings.TrimSuffix(strings.TrimPrefix(p, "/"), "/")
	switch {
	case strings.IndexByte(p, 0) >= 0:
		return "", &pathError{why: "a path has no NUL", absent: true}
	case !utf8.ValidString(p):
		return "", &pathError{why: "a path is UTF-8"}
	case len(p) > MaxPathBytes:
		return "", &pathError{why: fmt.Sprintf("a path has at most %d bytes, this one has %d", MaxPathBytes, len(p))}
	case strings.ContainsFunc(p, unicode.IsControl):
		return "", &pathError{why: "a path has no control characters"}
	case strings.IndexByte(p, '\\') >= 0:
		// Some S3 servers cannot list a key with it, and Windows takes it for "/".
		return "", &pathError{why: `a path has no "\"`}
	}
	for name := range strings.SplitSeq(p, "/") {
		switch {
		case name == "":
			return "", &pathError{why: `a path has no "//"`, absent: true}
		case name == "." || name == "..":
			return "", &pathError{why: fmt.Sprintf("%q is no name", name), absent: true}
		case len(name) > MaxNameBytes:
			return "", &pathError{why: fmt.Sprintf("a name has at most %d bytes, this one has %d", MaxNameBytes, len(name))}
		}
	}
	return p, nil
}

// Hidden reports whether a clean path is, or is below, a dot file. Jupyter
// clients neither see nor make those.
func Hidden(p string) bool {
	return strings.HasPrefix(p, ".") || strings.Contains(p, "/.")
}

// unlisted reports whether a directory's listing leaves a name out: dot files,
// and what programs leave behind.
func unlisted(name string) bool {
	switch path.Ext(name) {
	case ".pyc", ".pyo":
		return true
	}
	return strings.HasPrefix(name, ".") || name == "__pycache__" || strings.HasSuffix(name, "~")
}

// Parent returns the directory that a clean path is in; the root is its own.
func Parent(p string) string {
	directory, _ := split(p)
	return directory
}

func split(p string) (directory, name string) {
	i := strings.LastIndexByte(p, '/')
	if i < 0 {
		return "", p
	}
	return p[:i], p[i+1:]
}

func join(directory, name string) string {
	if directory == "" {
		return name
	}
	return directory + "/" + name
}
