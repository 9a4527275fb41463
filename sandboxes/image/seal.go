package image

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"golang.org/x/sys/unix"
)

// seal is what an unpacked tree looked like when its content had just been
// compared with the image's digests: a hash over the path, type, mode, size,
// modification time and link target of everything in it. It is cheap to make
// again, and shows whatever was added, removed, cut short or edited since; not
// a change of bytes that keeps size and time.
type seal struct {
	Entries int    `json:"entries"`
	SHA256  string `json:"sha256"`
}

// sealTree makes the seal of the tree as it is.
func sealTree(ctx context.Context, dir string) (seal, error) {
	var s seal
	sum := sha256.New()
	err := filepath.WalkDir(dir, func(file string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		rel, err := filepath.Rel(dir, file)
		if err != nil {
			return err
		}
		if rel == "." || rel == agentMountPoint {
			return nil // of the store's own making, at whatever time
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		s.Entries++
		fmt.Fprintf(sum, "%q %v", rel, info.Mode())
		switch {
		case info.Mode().IsRegular():
			fmt.Fprintf(sum, " %d %d\n", info.Size(), info.ModTime().Unix())
		case info.Mode()&fs.ModeSymlink != 0:
			target, err := os.Readlink(file)
			if err != nil {
				return err
			}
			fmt.Fprintf(sum, " %q\n", target)
		default:
			fmt.Fprintln(sum)
		}
		return nil
	})
	s.SHA256 = hex.EncodeToString(sum.Sum(nil))
	return s, err
}

// treeIdentity changes when a tree is replaced by another.
type treeIdentity struct {
	device, inode uint64
	changed       unix.Timespec
}

// checkTree compares an unpacked tree with its seal, once in the life of this
// Store unless the tree is replaced. A tree without a seal is of an earlier
// version, and one that this user may not read as a whole cannot be compared:
// both pass.
func (s *Store) checkTree(ctx context.Context, digest v1.Hash, want *seal) error {
	if want == nil {
		return nil
	}
	dir := s.rootfs(digest)
	var stat unix.Stat_t
	if err := unix.Stat(dir, &stat); err != nil {
		return err
	}
	now := treeIdentity{stat.Dev, stat.Ino, stat.Ctim}
	s.mu.Lock()
	known, ok := s.checked[digest]
	s.mu.Unlock()
	if ok && known == now {
		return nil
	}
	got, err := sealTree(ctx, dir)
	if errors.Is(err, fs.ErrPermission) {
		return nil
	}
	if err != nil {
		return err
	}
	if got != *want {
		return fmt.Errorf("its files in %s were changed since they were unpacked (%d entries, then %d); pull or build it again", dir, got.Entries, want.Entries)
	}
	s.mu.Lock()
	s.checked[digest] = now
	s.mu.Unlock()
	return nil
}
