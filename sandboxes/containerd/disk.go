package containerd

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/containerd/containerd/v2/core/mount"
	"golang.org/x/sys/unix"
)

// A limit on what a sandbox writes is the size of a file system of its own, in a
// sparse file in the sandbox's directory, which takes the upper directory of its
// overlay. Snapshotters have no limit that holds everywhere: quotas of projects
// need a kernel and a file system that were made for them.

// The files of a sandbox's disk in its directory.
const (
	diskName = "disk"     // where it is mounted
	diskFile = "disk.img" // the file system
)

// diskProblem says why disks cannot be made on this host; nil when they can.
func diskProblem() error {
	if _, err := findMkfs(); err != nil {
		return err
	}
	control, err := os.OpenFile("/dev/loop-control", os.O_RDWR, 0)
	if err != nil {
		return fmt.Errorf("no loop devices: %w", err)
	}
	defer control.Close()
	n, err := unix.IoctlRetInt(int(control.Fd()), unix.LOOP_CTL_GET_FREE)
	if err == nil {
		_, err = os.Stat(fmt.Sprintf("/dev/loop%d", n))
	}
	if err != nil {
		return fmt.Errorf("no loop device is free: %w", err)
	}
	return nil
}

// makeDisk makes a sandbox's disk and returns the mounts of its root, changed so
// that writes go there.
func (d *Driver) makeDisk(ctx context.Context, id string, root []mount.Mount, bytes int64) ([]mount.Mount, error) {
	upper, _ := upperDir(root) // there is one, or there would be no disks
	image, dir := d.records.Path(id, diskFile), d.records.Path(id, diskName)
	if err := d.empty.copyTo(ctx, image, bytes); err != nil {
		return nil, fmt.Errorf("cannot format it: %w", err)
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		return nil, err
	}
	// Inode tables are not filled with zeros by and by: the file would grow by that.
	// Nothing is flushed: of a host that went down no sandbox comes back.
	m := mount.Mount{Type: "ext4", Source: image, Options: []string{"loop", "noinit_itable", "nobarrier"}}
	if err := m.Mount(dir); err != nil {
		return nil, fmt.Errorf("cannot mount it: %w", err)
	}
	own := filepath.Join(dir, "upper")
	if err := likeDir(own, upper); err != nil {
		return nil, err
	}
	work := filepath.Join(dir, "work")
	if err := os.Mkdir(work, 0o700); err != nil {
		return nil, err
	}
	return []mount.Mount{onDisk(root[0], own, work)}, nil
}

// likeDir makes a directory with the owner and the mode of another.
func likeDir(dir, other string) error {
	var stat unix.Stat_t
	if err := unix.Stat(other, &stat); err != nil {
		return &fs.PathError{Op: "stat", Path: other, Err: err}
	}
	err := os.Mkdir(dir, 0o700)
	return errors.Join(err, os.Chown(dir, int(stat.Uid), int(stat.Gid)), unix.Chmod(dir, stat.Mode&0o7777))
}

// onDisk is the mount of an overlay with other directories for what is written.
func onDisk(m mount.Mount, upper, work string) mount.Mount {
	options := make([]string, 0, len(m.Options))
	for _, o := range m.Options {
		switch {
		case strings.HasPrefix(o, "upperdir="):
			o = "upperdir=" + upper
		case strings.HasPrefix(o, "workdir="):
			o = "workdir=" + work
		}
		options = append(options, o)
	}
	m.Options = options
	return m
}

// layerDir returns the directory that takes what a sandbox writes.
func (d *Driver) layerDir(ctx context.Context, id string) (string, bool, error) {
	if _, err := os.Stat(d.records.Path(id, diskFile)); err == nil {
		dir := d.records.Path(id, diskName, "upper")
		if _, err := os.Stat(dir); err != nil {
			return "", false, fmt.Errorf("its disk is not mounted, as after a restart of the host: %w", err)
		}
		return dir, true, nil
	}
	mounts, err := d.snapshots.Mounts(ctx, d.names.work(id))
	if err != nil {
		return "", false, trim(err)
	}
	upper, ok := upperDir(mounts)
	return upper, ok, nil
}

// removeDisk unmounts a sandbox's disk. Its loop device goes with the last mount,
// the file with the sandbox's directory.
func (d *Driver) removeDisk(ctx context.Context, id string) error {
	dir := d.records.Path(id, diskName)
	flags := unix.UMOUNT_NOFOLLOW
	for deadline := time.Now().Add(diskPatience); ; {
		err := unix.Unmount(dir, flags)
		switch {
		case err == nil: // and again: as often as it was mounted
			continue
		case errors.Is(err, unix.EINVAL), errors.Is(err, unix.ENOENT): // not mounted
			return nil
		case !errors.Is(err, unix.EBUSY) || ctx.Err() != nil:
			return fmt.Errorf("cannot unmount %s: %w", dir, errors.Join(err, ctx.Err()))
		}
		if time.Now().After(deadline) {
			flags |= unix.MNT_DETACH // it goes when they do who are in it
		}
		select {
		case <-time.After(10 * time.Millisecond):
		case <-ctx.Done():
		}
	}
}

// diskPatience is how long somebody of this host may look into a disk that is to
// go.
const diskPatience = 2 * time.Second
