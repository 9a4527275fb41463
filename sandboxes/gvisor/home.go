package gvisor

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// homeLayer returns what a new writable layer must hold so that the kernel's
// user owns its home, as a tar archive; nil when the image alone is enough.
//
// An image that an ordinary user unpacked belongs to that user altogether, who
// is root inside; and the home that an image's passwd file names need not exist.
func homeLayer(root Rootfs) ([]byte, error) {
	home := filepath.Clean(root.Home)
	if !filepath.IsAbs(home) || home == "/" {
		return nil, nil
	}
	mode, opaque := int64(0o700), false
	info, err := os.Lstat(filepath.Join(root.Dir, home))
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return nil, fmt.Errorf("cannot look at the image's %s: %w", home, err)
	case !info.IsDir():
		return nil, nil // a link: somebody else's to understand
	default:
		stat, ok := info.Sys().(*syscall.Stat_t)
		if ok && stat.Uid == root.UID && !rootless() {
			return nil, nil
		}
		mode = int64(info.Mode().Perm()) | 0o700
		// Another user unpacked the image: what is in there is out of reach,
		// so that the home begins empty.
		opaque = unix.Access(filepath.Join(root.Dir, home), unix.R_OK|unix.X_OK) != nil
	}
	return writeHomeLayer(root, home, mode, opaque)
}

func writeHomeLayer(root Rootfs, home string, mode int64, opaque bool) ([]byte, error) {
	var layer bytes.Buffer
	w := tar.NewWriter(&layer)
	// Every directory on the way, each before what it holds, as runsc wants it;
	// and so that these are as in the image.
	var way string
	names := append([]string{"."}, strings.Split(strings.Trim(home, "/"), "/")...)
	for i, name := range names {
		way += name + "/"
		header := &tar.Header{Typeflag: tar.TypeDir, Name: way, Mode: 0o755, Format: tar.FormatPAX}
		info, err := os.Lstat(filepath.Join(root.Dir, way))
		switch {
		case err == nil && !info.IsDir():
			return nil, nil // a link on the way, which the layer would hide
		case err == nil:
			header.Mode, header.ModTime = int64(info.Mode().Perm()), info.ModTime()
			if info.Mode()&fs.ModeSticky != 0 {
				header.Mode |= 0o1000
			}
		case !errors.Is(err, fs.ErrNotExist):
			return nil, fmt.Errorf("cannot look at the image's %s: %w", way, err)
		}
		if i == len(names)-1 {
			header.Uid, header.Gid, header.Mode = int(root.UID), int(root.GID), mode
			if opaque {
				header.PAXRecords = map[string]string{"SCHILY.xattr.trusted.overlay.opaque": "y"}
			}
		}
		if err := w.WriteHeader(header); err != nil {
			return nil, fmt.Errorf("cannot write the home's layer: %w", err)
		}
	}
	if err := w.Close(); err != nil {
		return nil, fmt.Errorf("cannot write the home's layer: %w", err)
	}
	return layer.Bytes(), nil
}
