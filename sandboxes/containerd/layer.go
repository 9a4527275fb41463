package containerd

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"
	"syscall"
	"time"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/pkg/archive"
	"github.com/containerd/errdefs"
	"github.com/klauspost/compress/zstd"
	"golang.org/x/sys/unix"

	"kernelgw/sandboxes"
)

// ExportLayer implements sandboxes.Driver. The archive has OCI's form: a file
// that is removed is an empty ".wh.NAME".
func (d *Driver) ExportLayer(ctx context.Context, id string, w io.Writer) error {
	if err := d.exportLayer(ctx, id, w); err != nil {
		return fmt.Errorf("cannot export the layer of sandbox %q: %w", id, err)
	}
	return nil
}

func (d *Driver) exportLayer(ctx context.Context, id string, w io.Writer) error {
	if !d.records.Exists(id) {
		return sandboxes.ErrNotFound
	}
	upper, ok, err := d.layerDir(ctx, id)
	if err != nil {
		return err
	}
	if !ok {
		return fmt.Errorf("%w: snapshotter %s keeps no layer apart", sandboxes.ErrInvalid, d.snapshotter)
	}
	compressed, err := zstd.NewWriter(w, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(1))
	if err != nil {
		return err
	}
	err = writeLayer(ctx, compressed, upper)
	return errors.Join(err, compressed.Close())
}

// keepsLayers asks the snapshotter whether it keeps what a sandbox writes apart
// from the image. It is told by a snapshot's mounts.
func (d *Driver) keepsLayers(ctx context.Context) (bool, error) {
	pod, err := d.podSnapshot(ctx)
	if err != nil {
		return false, fmt.Errorf("cannot use snapshotter %s: %w", d.snapshotter, err)
	}
	ctx, done, err := d.client.WithLease(ctx)
	if err != nil {
		return false, fmt.Errorf("cannot lease a snapshot: %w", trim(err))
	}
	defer func() { _ = done(context.WithoutCancel(ctx)) }() // and with it goes what is not removed
	key := fmt.Sprintf("%s-asking-%d", podRoot, time.Now().UnixNano())
	mounts, err := d.snapshots.Prepare(ctx, key, pod)
	if err != nil {
		return false, fmt.Errorf("cannot use snapshotter %s: %w", d.snapshotter, trim(err))
	}
	_, apart := upperDir(mounts)
	if err := d.snapshots.Remove(ctx, key); err != nil && !errdefs.IsNotFound(err) {
		return false, fmt.Errorf("cannot remove a snapshot: %w", trim(err))
	}
	return apart, nil
}

// upperDir returns the directory that takes the writes of an overlay.
func upperDir(mounts []mount.Mount) (string, bool) {
	if len(mounts) != 1 || mounts[0].Type != "overlay" {
		return "", false
	}
	for _, o := range mounts[0].Options {
		if dir, ok := strings.CutPrefix(o, "upperdir="); ok {
			return dir, true
		}
	}
	return "", false
}

// writeLayer writes the upper directory of an overlay as a tar archive. Code in
// the sandbox may change it at the same time, and what is in it is that code's:
// nothing is followed out of it, and files are read to the length that their
// header says.
func writeLayer(ctx context.Context, w io.Writer, upper string) error {
	root, err := os.OpenRoot(upper)
	if err != nil {
		return err
	}
	defer root.Close()
	l := layerWriter{root: root, tar: tar.NewWriter(w), linked: map[uint64]string{}}
	err = fs.WalkDir(root.FS(), ".", func(name string, entry fs.DirEntry, err error) error {
		if err == nil {
			err = ctx.Err()
		}
		if err == nil && name != "." {
			err = l.add(name)
		}
		if errors.Is(err, fs.ErrNotExist) {
			return nil // it was removed meanwhile
		}
		return err
	})
	if err != nil {
		return err
	}
	return l.tar.Close()
}

type layerWriter struct {
	root   *os.Root
	tar    *tar.Writer
	linked map[uint64]string // name by inode, of files with several names
}

const opaqueMarker = ".wh..wh..opq"

func (l *layerWriter) add(name string) error {
	info, err := l.root.Lstat(name)
	if err != nil {
		return err
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return fmt.Errorf("cannot tell what %s is", name)
	}
	if info.Mode()&fs.ModeCharDevice != 0 && stat.Rdev == 0 {
		return l.tar.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: path.Join(path.Dir(name), ".wh."+path.Base(name))})
	}
	header := &tar.Header{
		Name: name, Mode: int64(info.Mode().Perm()), ModTime: info.ModTime(),
		Uid: int(stat.Uid), Gid: int(stat.Gid), Format: tar.FormatPAX,
	}
	for bit, mode := range map[fs.FileMode]int64{fs.ModeSetuid: 0o4000, fs.ModeSetgid: 0o2000, fs.ModeSticky: 0o1000} {
		if info.Mode()&bit != 0 {
			header.Mode |= mode
		}
	}
	switch {
	case info.IsDir():
		header.Typeflag, header.Name = tar.TypeDir, name+"/"
		if err := l.tar.WriteHeader(header); err != nil {
			return err
		}
		if l.opaque(name) {
			return l.tar.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: path.Join(name, opaqueMarker)})
		}
		return nil
	case info.Mode()&fs.ModeSymlink != 0:
		header.Typeflag = tar.TypeSymlink
		if header.Linkname, err = l.root.Readlink(name); err != nil {
			return err
		}
		return l.tar.WriteHeader(header)
	case info.Mode().IsRegular():
		if stat.Nlink > 1 {
			if first, ok := l.linked[stat.Ino]; ok {
				header.Typeflag, header.Linkname = tar.TypeLink, first
				return l.tar.WriteHeader(header)
			}
			l.linked[stat.Ino] = name
		}
		return l.addFile(header)
	}
	return nil // pipes, sockets and devices are not files to keep
}

func (l *layerWriter) addFile(header *tar.Header) error {
	// Not blocked by a pipe that took the file's place.
	f, err := l.root.OpenFile(header.Name, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		if errors.Is(err, unix.ELOOP) || errors.Is(err, unix.ENXIO) {
			return nil // it became something else
		}
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() {
		return nil
	}
	header.Typeflag, header.Size = tar.TypeReg, info.Size()
	if err := l.tar.WriteHeader(header); err != nil {
		return err
	}
	n, err := io.CopyN(l.tar, f, header.Size)
	if errors.Is(err, io.EOF) { // it was cut meanwhile
		_, err = io.CopyN(l.tar, zeros{}, header.Size-n)
	}
	return err
}

// opaque reports whether a directory hides what the image has in its place.
func (l *layerWriter) opaque(name string) bool {
	f, err := l.root.OpenFile(name, os.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return false
	}
	defer f.Close()
	var value [1]byte
	for _, attr := range []string{"trusted.overlay.opaque", "user.overlay.opaque"} {
		if n, err := unix.Fgetxattr(int(f.Fd()), attr, value[:]); err == nil && n == 1 && value[0] == 'y' {
			return true
		}
	}
	return false
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}

// importLayer unpacks an exported layer into a new sandbox's file system.
func importLayer(ctx context.Context, file string, mounts []mount.Mount, disk int64) error {
	upper, ok := upperDir(mounts)
	if !ok {
		return fmt.Errorf("%w: this snapshotter keeps no layer apart", sandboxes.ErrInvalid)
	}
	f, err := os.Open(file)
	if err != nil {
		return fmt.Errorf("cannot read the layer: %w", err)
	}
	defer f.Close()
	compressed, err := zstd.NewReader(f, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(64<<20))
	if err != nil {
		return fmt.Errorf("%w: the layer is not compressed with zstd: %w", sandboxes.ErrInvalid, err)
	}
	defer compressed.Close()
	// A small archive may unpack to any size.
	most := int64(defaultDisk)
	if disk > 0 {
		most = disk
	}
	limited := &limitedReader{r: compressed, left: 2*most + 1<<20}
	// No devices: the sandbox's disk is the host's.
	filter := archive.WithFilter(func(h *tar.Header) (bool, error) {
		switch h.Typeflag {
		case tar.TypeReg, tar.TypeDir, tar.TypeSymlink, tar.TypeLink:
			return true, nil
		}
		return false, nil
	})
	if _, err := archive.Apply(ctx, upper, limited, archive.WithConvertWhiteout(archive.OverlayConvertWhiteout), filter); err != nil {
		if limited.left <= 0 {
			return fmt.Errorf("%w: the layer is larger than the sandbox's disk", sandboxes.ErrInvalid)
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		return fmt.Errorf("%w: cannot unpack the layer: %w", sandboxes.ErrInvalid, err)
	}
	return nil
}

// defaultDisk bounds a layer where there is no limit.
const defaultDisk = 4 << 30

var errTooLarge = errors.New("too large")

// limitedReader fails after so many bytes.
type limitedReader struct {
	r    io.Reader
	left int64
}

func (l *limitedReader) Read(p []byte) (int, error) {
	if l.left <= 0 {
		return 0, errTooLarge
	}
	if int64(len(p)) > l.left {
		p = p[:l.left]
	}
	n, err := l.r.Read(p)
	l.left -= int64(n)
	return n, err
}
