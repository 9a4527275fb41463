package secrets

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"filippo.io/age"
)

// Identities is a Keeper with age identities in a file, as age-keygen writes
// them. To rotate, append a new one to the file: the last seals, all open. Safe
// for concurrent use.
type Identities struct {
	path string

	mu   sync.Mutex
	keys []age.Identity // guarded by mu; empty until there is a file
}

// OpenIdentities reads a file of identities. One that is not there is made when
// the first secret is sealed; one that others can read is refused.
func OpenIdentities(path string) (*Identities, error) {
	i := &Identities{path: path}
	if err := i.read(); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	return i, nil
}

// read reads the file. i.mu is held, or nobody else knows i yet.
func (i *Identities) read() error {
	file, err := os.Open(i.path)
	if err != nil {
		return fmt.Errorf("cannot read the keys of secrets: %w", err)
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return fmt.Errorf("cannot read the keys of secrets: %w", err)
	}
	if info.Mode().Perm()&0o077 != 0 {
		return fmt.Errorf("the keys of secrets in %s can be read by others (mode %04o): chmod 600 it", i.path, info.Mode().Perm())
	}
	keys, err := age.ParseIdentities(file)
	if err != nil { // its text may quote a key
		return fmt.Errorf("the keys of secrets in %s are damaged: each line is an age identity, or begins with #", i.path)
	}
	i.keys = keys
	return nil
}

// Rotating reports whether there is more than one key, so that there may be what
// an older one sealed.
func (i *Identities) Rotating() bool {
	i.mu.Lock()
	defer i.mu.Unlock()
	return len(i.keys) > 1
}

// Seal implements Keeper.
func (i *Identities) Seal(_ context.Context, plain []byte) ([]byte, error) {
	keys, err := i.need()
	if err != nil {
		return nil, err
	}
	var to age.Recipient
	switch newest := keys[len(keys)-1].(type) {
	case *age.HybridIdentity:
		to = newest.Recipient()
	case *age.X25519Identity:
		to = newest.Recipient()
	default:
		return nil, fmt.Errorf("the last key in %s cannot seal: it is none that age-keygen makes", i.path)
	}
	var sealed bytes.Buffer
	w, err := age.Encrypt(&sealed, to)
	if err != nil {
		return nil, err
	}
	if _, err := w.Write(plain); err != nil {
		return nil, err
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return sealed.Bytes(), nil
}

// Open implements Keeper.
func (i *Identities) Open(_ context.Context, sealed []byte) ([]byte, error) {
	i.mu.Lock()
	keys := slices.Clone(i.keys)
	i.mu.Unlock()
	if len(keys) == 0 {
		return nil, fmt.Errorf("there are no keys in %s", i.path)
	}
	slices.Reverse(keys) // most were sealed by the newest
	r, err := age.Decrypt(bytes.NewReader(sealed), keys...)
	if err != nil {
		return nil, err
	}
	return io.ReadAll(r)
}

// need returns the keys, after making the first if there is none.
func (i *Identities) need() ([]age.Identity, error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if len(i.keys) == 0 {
		if err := i.make(); err != nil {
			return nil, fmt.Errorf("cannot make a key for secrets: %w", err)
		}
		if err := i.read(); err != nil {
			return nil, err
		}
	}
	return i.keys, nil
}

// Rotate appends a new identity to the file, which seals from the next start on,
// and makes the file when there is none.
func (i *Identities) Rotate() error {
	i.mu.Lock()
	defer i.mu.Unlock()
	if len(i.keys) == 0 {
		return i.make()
	}
	before, err := os.ReadFile(i.path)
	if err != nil {
		return fmt.Errorf("cannot read the keys of secrets: %w", err)
	}
	if !bytes.HasSuffix(before, []byte("\n")) {
		before = append(before, '\n')
	}
	return i.write(before, os.Rename)
}

// make writes a file with one new identity. A file that came to be there
// meanwhile stays.
func (i *Identities) make() error {
	const begins = "# Keys of the secrets of workspaces. Without this file they cannot be read.\n"
	err := i.write([]byte(begins), os.Link)
	if errors.Is(err, fs.ErrExist) {
		return nil
	}
	return err
}

// write puts a file with a new identity behind what it begins with in place:
// whole and on disk, or not at all.
func (i *Identities) write(begins []byte, place func(from, to string) error) error {
	identity, err := age.GenerateHybridIdentity()
	if err != nil {
		return err
	}
	dir := filepath.Dir(i.path)
	file, err := os.CreateTemp(dir, filepath.Base(i.path)+".new-*") // 0600
	if err != nil {
		return err
	}
	defer os.Remove(file.Name())
	_, err = fmt.Fprintf(file, "%s%s\n", begins, identity)
	if err == nil {
		err = file.Sync()
	}
	if err = errors.Join(err, file.Close()); err != nil {
		return err
	}
	if err := place(file.Name(), i.path); err != nil {
		return err
	}
	return syncDir(dir)
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
