package s3embed

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"syscall"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/versity/versitygw/backend/meta"
	"github.com/versity/versitygw/s3err"
	"github.com/versity/versitygw/s3response"
)

// The server's library copies the content of a version that is replaced, without
// writing the copy to the disk before the version goes: a save of a large file costs
// twice, needs room for two, and a power failure may take a version that was there
// for years. Here a new version is a file of its own first, written to the disk
// whole; then the one before gets a second name, where older versions are, and the
// new one takes its first.

// staged is a new version that is in its own file.
type staged struct {
	path string // of the file
	key  string // of the object that it is to be a version of
}

// stage writes a new version to a file of its own, and to the disk.
func (d *directory) stage(ctx context.Context, in s3response.PutObjectInput, prepare func(*os.File) error) (staged, s3response.PutObjectOutput, error) {
	name := rand.Text()
	s := staged{path: filepath.Join(d.incoming, name), key: aws.ToString(in.Key)}
	in.Bucket, in.Key, in.IfMatch, in.IfNoneMatch = &d.incoming, &name, nil, nil
	out, err := d.files.PutObjectWithPostFunc(ctx, in, prepare)
	if err == nil {
		if err = syncOne(s.path); err != nil {
			err = errors.Join(notSynced(err), os.Remove(s.path))
		}
	}
	return s, out, err
}

// publish makes a staged version the newest, by who owns the object. What it has
// done when it returns is on the disk.
func (d *directory) publish(s staged) error {
	object := filepath.Join(d.bucket, s.key)
	if err := d.keepBefore(object, s.key); err != nil {
		return err
	}
	above := existing(filepath.Dir(object), d.bucket)
	err := intoDirectory(object, func() error { return os.Rename(s.path, object) })
	if err != nil {
		return asS3(err, s.key)
	}
	if err := syncUp(filepath.Dir(object), above); err != nil {
		return notSynced(err)
	}
	return nil
}

// keepBefore gives the newest version of an object its name among the older ones.
func (d *directory) keepBefore(object, key string) error {
	before, err := os.Stat(object)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return asS3(err, key)
	}
	if before.IsDir() {
		return s3err.GetAPIError(s3err.ErrExistingObjectIsDirectory)
	}
	version, err := meta.XattrMeta{}.RetrieveAttribute(nil, d.bucket, key, "version-id")
	if err != nil {
		return fmt.Errorf("cannot tell which version of %s is the newest: %w", key, err)
	}
	old := filepath.Join(d.versionsOf(key), string(version))
	above := existing(filepath.Dir(old), d.versions)
	err = intoDirectory(old, func() error { return os.Link(object, old) })
	// It is there already when a program was killed between this and what follows.
	if err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	if err := syncUp(filepath.Dir(old), above); err != nil {
		return notSynced(err)
	}
	return nil
}

// intoDirectory makes the directory of a path and puts something there. Whoever
// removes what else was in it may remove it in between.
func intoDirectory(path string, put func() error) error {
	for tries := 1; ; tries++ {
		err := os.MkdirAll(filepath.Dir(path), 0o700)
		if err == nil {
			err = put()
		}
		if tries == 100 || !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
}

// asS3 returns what S3 answers to names that a file system does not take.
func asS3(err error, key string) error {
	switch {
	case errors.Is(err, syscall.ENAMETOOLONG):
		return s3err.GetKeyTooLongErr(int64(len(key)), 1024)
	case errors.Is(err, syscall.ENOTDIR):
		return s3err.GetAPIError(s3err.ErrObjectParentIsFile)
	case errors.Is(err, syscall.EISDIR), errors.Is(err, syscall.ENOTEMPTY):
		return s3err.GetAPIError(s3err.ErrExistingObjectIsDirectory)
	}
	return err
}

// removeNewest removes the newest version of an object, by who owns it: the one
// before takes its place, in one step. It reports false, and has done nothing, when
// that is another version or the only one.
func (d *directory) removeNewest(key, version string) (bool, error) {
	newest, err := meta.XattrMeta{}.RetrieveAttribute(nil, d.bucket, key, "version-id")
	if err != nil || string(newest) != version {
		return false, nil
	}
	older, err := os.ReadDir(d.versionsOf(key))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return false, err
	}
	for _, one := range slices.Backward(older) { // by name, which grows with time
		path := filepath.Join(d.versionsOf(key), one.Name())
		if one.Name() != version {
			return true, os.Rename(path, filepath.Join(d.bucket, key))
		}
		// A program was killed while another version was to take its place.
		if err := os.Remove(path); err != nil {
			return false, err
		}
	}
	return false, nil
}

// existing returns the lowest directory from dir up to root that is there.
func existing(dir, root string) string {
	for len(dir) > len(root) {
		if _, err := os.Stat(dir); err == nil {
			return dir
		}
		dir = filepath.Dir(dir)
	}
	return root
}

// syncRemoved makes the removal of versions of objects last. A directory that held
// several is synced once.
func (d *directory) syncRemoved(keys ...string) error {
	directories := map[string]bool{}
	for _, key := range keys {
		directories[existing(filepath.Dir(filepath.Join(d.bucket, key)), d.bucket)] = true
		directories[existing(d.versionsOf(key), d.versions)] = true
	}
	for path := range directories {
		if err := syncOne(path); err != nil {
			return notSynced(err)
		}
	}
	return nil
}

// versionsOf returns the directory of the older versions of an object.
func (d *directory) versionsOf(key string) string {
	sum := sha256.Sum256([]byte(key))
	name := hex.EncodeToString(sum[:])
	return filepath.Join(d.versions, name[:2], name[2:4], name[4:6], name)
}

// syncUp syncs a file and the directories above it up to and with one.
func syncUp(path, up string) error {
	for {
		if err := syncOne(path); err != nil {
			return err
		}
		if path == up || len(path) < len(up) {
			return nil
		}
		path = filepath.Dir(path)
	}
}

func syncOne(path string) error {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // removed meanwhile, with or without what was in it
	}
	if err != nil {
		return err
	}
	defer f.Close()
	return f.Sync()
}
