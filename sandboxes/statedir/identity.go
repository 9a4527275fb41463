package statedir

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// identityName can be no sandbox's: ids have no dots.
const identityName = "identity.json"

// Identity is a random word of 26 letters and digits that is made once and stays
// with the state directory, wherever that is moved: by it a driver knows its own
// among what several have made.
func (d *Dir) Identity() (string, error) {
	file := filepath.Join(d.path, identityName)
	var identity string
	err := Read(file, &identity)
	if err == nil {
		return identity, nil
	}
	made := strings.ToLower(rand.Text())
	switch {
	case IsCut(err): // before it was synced, so that nothing bears it
		err = Write(file, made)
	case errors.Is(err, fs.ErrNotExist):
		if err = WriteOnce(file, made); errors.Is(err, fs.ErrExist) {
			err = nil // another process was first
		}
	}
	if err = errors.Join(err, syncPath(file), syncPath(d.path)); err != nil {
		return "", fmt.Errorf("cannot give the state directory an identity: %w", err)
	}
	return identity, Read(file, &identity)
}

func syncPath(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}
