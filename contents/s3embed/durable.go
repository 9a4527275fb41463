package s3embed

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/versity/versitygw/backend/meta"
)

// replacement is a write that puts a new version in the place of the one before.
type replacement struct {
	object   string    // path of the object's newest version
	above    string    // the lowest directory above it that was there before
	old      string    // path of where the version before goes; "" when there is none
	oldAbove string    // as above, of old
	oldTime  time.Time // when that was written
}

// replacing is called before a write, by who owns the object.
func (d *directory) replacing(key string) (*replacement, error) {
	r := &replacement{object: filepath.Join(d.bucket, key)}
	r.above = existing(filepath.Dir(r.object), d.bucket)
	before, err := os.Stat(r.object)
	if errors.Is(err, fs.ErrNotExist) {
		return r, nil
	}
	if err != nil {
		return nil, err
	}
	version, err := meta.XattrMeta{}.RetrieveAttribute(nil, d.bucket, key, "version-id")
	if err != nil {
		return nil, err
	}
	r.old = filepath.Join(d.versionsOf(key), string(version))
	r.oldAbove = existing(filepath.Dir(r.old), d.versions)
	r.oldTime = before.ModTime()
	return r, nil
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

// done is called after a write: it makes it last.
func (r *replacement) done() error {
	if r.old != "" {
		// A version's time is when it was written, not when it was replaced.
		if err := os.Chtimes(r.old, time.Time{}, r.oldTime); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return notSynced(err)
		}
		if err := syncUp(r.old, r.oldAbove); err != nil {
			return notSynced(err)
		}
	}
	if err := syncUp(r.object, r.above); err != nil {
		return notSynced(err)
	}
	return nil
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
