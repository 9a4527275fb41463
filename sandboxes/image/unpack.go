package image

import (
	"archive/tar"
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"
)

// Limits on what one image may unpack to. They stop a small download from
// filling the disk; real images stay far below.
const (
	defaultMaxBytes   = 32 << 30
	defaultMaxEntries = 2_000_000
	maxNameBytes      = 4096
	maxDepth          = 256     // directories above an entry
	dirBytes          = 4 << 10 // what a directory takes of maxBytes
)

const (
	whiteoutPrefix = ".wh."
	whiteoutOpaque = ".wh..wh..opq"
	whiteoutAUFS   = ".wh..wh." // aufs bookkeeping, never content
)

// unpacker writes tar streams from strangers into one directory.
type unpacker struct {
	root  *os.Root
	chown bool // set owners; only root can

	// keepLinks lets a directory entry land on a symlink to a directory, as
	// dpkg does, so that ./bin of an old package goes to usr/bin.
	keepLinks bool
	// skip leaves an entry out; name is clean and relative. nil skips nothing.
	skip func(name string, hdr *tar.Header) bool

	maxBytes, maxEntries int64

	bytes, entries int64 // written so far, all layers
	skipped        int64 // devices, FIFOs and the like

	made   map[string]bool // paths of the current layer, for opaque whiteouts
	parent string          // resolved directory that dir has open
	dir    *os.Root
	dirFor string // the unresolved path that led to parent
	buf    []byte
}

func newUnpacker(root *os.Root) *unpacker {
	return &unpacker{
		root: root, chown: os.Geteuid() == 0,
		maxBytes: defaultMaxBytes, maxEntries: defaultMaxEntries,
		buf: make([]byte, 256<<10),
	}
}

// close releases the directory that was kept open between entries. The root
// stays the caller's.
func (u *unpacker) close() { u.forgetDir() }

// unpack applies one layer: the entries of the tar stream r, and its
// whiteouts (OCI image spec, "Layer Filesystem Changeset"). Devices and FIFOs
// are left out, set-user-id and set-group-id bits and extended attributes are
// dropped. An entry that would leave the root ends it with an error.
func (u *unpacker) unpack(ctx context.Context, r io.Reader) error {
	u.made = make(map[string]bool)
	tr := tar.NewReader(bufio.NewReaderSize(r, 1<<20))
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		hdr, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil && !errors.Is(err, tar.ErrInsecurePath) {
			return fmt.Errorf("cannot read layer: %w", err)
		}
		if hdr.Typeflag == tar.TypeXGlobalHeader {
			continue
		}
		if err := u.count(1, 0); err != nil {
			return err
		}
		name, err := cleanName(hdr.Name)
		if err != nil {
			return err
		}
		if u.skip != nil && u.skip(name, hdr) {
			continue
		}
		if err := u.entry(name, hdr, tr); err != nil {
			return fmt.Errorf("cannot unpack %q: %w", hdr.Name, err)
		}
	}
}

// count adds what is about to be made to the image, within its limits.
func (u *unpacker) count(entries, bytes int64) error {
	if entries > u.maxEntries-u.entries {
		return fmt.Errorf("image has more than %d files", u.maxEntries)
	}
	if bytes < 0 || bytes > u.maxBytes-u.bytes {
		return fmt.Errorf("image is larger than %d bytes", u.maxBytes)
	}
	u.entries += entries
	u.bytes += bytes
	return nil
}

// cleanName makes an entry's name relative and refuses what would climb out.
func cleanName(name string) (string, error) {
	if len(name) > maxNameBytes {
		return "", fmt.Errorf("layer has a path of %d bytes, more than %d", len(name), maxNameBytes)
	}
	if strings.IndexByte(name, 0) >= 0 {
		return "", fmt.Errorf("layer has a path with a NUL byte: %q", name)
	}
	clean := path.Clean(strings.TrimLeft(name, "/"))
	if clean == ".." || strings.HasPrefix(clean, "../") {
		return "", fmt.Errorf("layer has a path that leaves the image: %q", name)
	}
	return clean, nil
}

func (u *unpacker) entry(name string, hdr *tar.Header, r io.Reader) error {
	if name == "." {
		return nil // the root itself keeps the mode it was made with
	}
	parent, base := path.Split(name)
	if strings.HasPrefix(base, whiteoutPrefix) {
		return u.whiteout(path.Clean(parent), base)
	}
	switch hdr.Typeflag {
	case tar.TypeDir, tar.TypeReg, tar.TypeGNUSparse, tar.TypeSymlink, tar.TypeLink:
	default:
		u.skipped++
		return nil
	}
	dir, err := u.openDir(path.Clean(parent))
	if err != nil {
		return err
	}
	old, err := dir.Lstat(base)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	exists := err == nil
	if hdr.Typeflag == tar.TypeDir && exists {
		if old.IsDir() {
			u.mark(base)
			return u.dirMeta(dir, base, hdr)
		}
		if u.keepLinks && old.Mode().Type() == fs.ModeSymlink {
			real, err := resolve(u.root, name, true)
			if err != nil {
				return err
			}
			if info, err := u.root.Lstat(real); err == nil && info.IsDir() {
				return nil
			}
		}
	}
	if exists && hdr.Typeflag == tar.TypeLink && u.sameLink(hdr, base) {
		return nil
	}
	if exists {
		if err := u.remove(dir, base, old); err != nil {
			return err
		}
		if dir, err = u.openDir(path.Clean(parent)); err != nil {
			return err
		}
	}
	u.mark(base)
	switch hdr.Typeflag {
	case tar.TypeDir:
		if err := u.count(0, dirBytes); err != nil {
			return err
		}
		if err := dir.Mkdir(base, 0o755); err != nil {
			return err
		}
		return u.dirMeta(dir, base, hdr)
	case tar.TypeSymlink:
		return u.symlink(dir, base, hdr)
	case tar.TypeLink:
		return u.link(base, hdr)
	default:
		return u.file(dir, base, hdr, r)
	}
}

func (u *unpacker) file(dir *os.Root, base string, hdr *tar.Header, r io.Reader) error {
	if err := u.count(0, hdr.Size); err != nil {
		return err
	}
	f, err := dir.OpenFile(base, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	n, err := io.CopyBuffer(struct{ io.Writer }{f}, r, u.buf)
	if err == nil && n != hdr.Size {
		err = io.ErrUnexpectedEOF
	}
	if err == nil && u.chown {
		err = f.Chown(hdr.Uid, hdr.Gid)
	}
	if err == nil {
		// Readable by whoever unpacked it, or the store could not serve it.
		err = f.Chmod(hdr.FileInfo().Mode().Perm() | 0o400)
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return err
	}
	// Modification times matter: Python compares them with those in .pyc files.
	return dir.Chtimes(base, hdr.ModTime, hdr.ModTime)
}

func (u *unpacker) symlink(dir *os.Root, base string, hdr *tar.Header) error {
	if hdr.Linkname == "" || len(hdr.Linkname) > maxNameBytes || strings.IndexByte(hdr.Linkname, 0) >= 0 {
		return fmt.Errorf("symlink target %.40q cannot be used", hdr.Linkname)
	}
	// The target is data: it is kept as it is and resolved inside the tree.
	if err := dir.Symlink(hdr.Linkname, base); err != nil {
		return err
	}
	if u.chown {
		return dir.Lchown(base, hdr.Uid, hdr.Gid)
	}
	return nil
}

func (u *unpacker) linkTarget(hdr *tar.Header) (string, error) {
	name, err := cleanName(hdr.Linkname)
	if err != nil {
		return "", err
	}
	target, err := resolve(u.root, name, false)
	if err != nil {
		return "", err
	}
	// resolve follows all but the last component, so target is inside.
	info, err := u.root.Lstat(target)
	if err != nil {
		return "", err
	}
	if !info.Mode().IsRegular() {
		return "", fmt.Errorf("hard link to %q, which is not a regular file", hdr.Linkname)
	}
	return target, nil
}

// sameLink reports whether a hard link entry names the file that is there.
func (u *unpacker) sameLink(hdr *tar.Header, base string) bool {
	target, err := u.linkTarget(hdr)
	return err == nil && target == path.Join(u.parent, base)
}

func (u *unpacker) link(base string, hdr *tar.Header) error {
	target, err := u.linkTarget(hdr)
	if err != nil {
		return err
	}
	return u.root.Link(target, path.Join(u.parent, base))
}

func (u *unpacker) dirMeta(dir *os.Root, base string, hdr *tar.Header) error {
	if u.chown {
		if err := dir.Lchown(base, hdr.Uid, hdr.Gid); err != nil {
			return err
		}
	}
	// Always usable by whoever unpacked it: later entries go inside, and an
	// ordinary user must be able to remove the tree.
	mode := hdr.FileInfo().Mode()
	return dir.Chmod(base, mode.Perm()|mode&fs.ModeSticky|0o700)
}

func (u *unpacker) whiteout(parent, base string) error {
	if base == whiteoutOpaque {
		real, err := resolve(u.root, parent, true)
		if err != nil {
			return err
		}
		u.forgetDir()
		return u.hideLower(real)
	}
	if strings.HasPrefix(base, whiteoutAUFS) {
		return nil
	}
	victim := strings.TrimPrefix(base, whiteoutPrefix)
	if victim == "" || victim == "." || victim == ".." {
		return errors.New("whiteout without a usable name")
	}
	real, err := resolve(u.root, parent, true)
	if err != nil {
		return err
	}
	u.forgetDir()
	return u.root.RemoveAll(path.Join(real, victim))
}

// hideLower removes what earlier layers put into dir and keeps what this
// layer put there, wherever in the stream the opaque mark stands.
func (u *unpacker) hideLower(dir string) error {
	f, err := u.root.Open(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	entries, err := f.ReadDir(-1)
	f.Close()
	if err != nil {
		return err
	}
	for _, e := range entries {
		full := path.Join(dir, e.Name())
		switch {
		case !u.made[full]:
			err = u.root.RemoveAll(full)
		case e.IsDir():
			err = u.hideLower(full)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// mark notes that base in the open directory, and so all above it, is of the
// current layer.
func (u *unpacker) mark(base string) {
	for p := path.Join(u.parent, base); p != "." && !u.made[p]; p = path.Dir(p) {
		u.made[p] = true
	}
}

func (u *unpacker) remove(dir *os.Root, base string, old fs.FileInfo) error {
	if old.Mode().IsRegular() {
		return dir.Remove(base)
	}
	// A directory or a link: paths that went through it lead elsewhere now.
	full := path.Join(u.parent, base)
	u.forgetDir()
	return u.root.RemoveAll(full)
}

// openDir returns the directory that name leads to inside the tree, made with
// its parents when missing. It stays open until another is asked for: layers
// list directory after directory.
func (u *unpacker) openDir(name string) (*os.Root, error) {
	if u.dir != nil && u.dirFor == name {
		return u.dir, nil
	}
	u.forgetDir()
	real, err := resolve(u.root, name, true)
	if err != nil {
		return nil, err
	}
	if err := u.mkdirAll(real); err != nil {
		return nil, err
	}
	dir, err := u.root.OpenRoot(real)
	if err != nil {
		return nil, err
	}
	u.dir, u.parent, u.dirFor = dir, real, name
	return dir, nil
}

// mkdirAll makes dir, a resolved path, with its parents. A layer need not name
// them, so that a short name can stand for many: each counts as if it had.
func (u *unpacker) mkdirAll(dir string) error {
	if strings.Count(dir, "/") >= maxDepth {
		return fmt.Errorf("more than %d directories lie above it", maxDepth)
	}
	var missing int64
	for p := dir; p != "."; p = path.Dir(p) {
		_, err := u.root.Lstat(p)
		if err == nil {
			break
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		missing++
	}
	if missing == 0 {
		return nil
	}
	if err := u.count(missing, missing*dirBytes); err != nil {
		return err
	}
	return u.root.MkdirAll(dir, 0o755)
}

func (u *unpacker) forgetDir() {
	if u.dir != nil {
		u.dir.Close()
		u.dir = nil
	}
}
