package egress

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"
)

const (
	authorityFile = "authority.pem"
	earlierFiles  = "authority-*.pem"   // those before it, by name
	authorityLeft = 90 * 24 * time.Hour // when less is left, a new one is made
)

// OpenAuthority returns the authority that is kept in a directory. It makes
// one, and the directory, when there is none or less than 90 days of it are
// left; what there was before is kept as long as it is valid, for clients that
// were told to trust it. The files are readable by their owner only, and refused
// when they are readable by others.
func OpenAuthority(dir string) (*Authority, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("cannot keep the egress authority: %w", err)
	}
	file := filepath.Join(dir, authorityFile)
	a, err := loadAuthority(file)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		a, err = renew(file)
	case err == nil && time.Until(a.certificate.NotAfter) <= authorityLeft:
		if err = os.Rename(file, filepath.Join(dir, "authority-"+a.Name()+".pem")); err == nil {
			a, err = renew(file)
		}
	}
	if err == nil {
		a.earlier, err = loadEarlier(dir)
	}
	if err != nil {
		return nil, fmt.Errorf("cannot open the egress authority: %w", err)
	}
	return a, nil
}

func renew(file string) (*Authority, error) {
	a, err := NewAuthority()
	if err != nil {
		return nil, err
	}
	return a, a.store(file)
}

// loadEarlier returns the authorities that were replaced, and removes those whom
// nobody can trust any more.
func loadEarlier(dir string) (earlier []*Authority, err error) {
	files, err := filepath.Glob(filepath.Join(dir, earlierFiles))
	if err != nil {
		return nil, err
	}
	for _, file := range files {
		a, err := loadAuthority(file)
		if err != nil {
			return nil, err
		}
		if time.Now().Before(a.certificate.NotAfter) {
			earlier = append(earlier, a)
		} else if err := os.Remove(file); err != nil {
			return nil, err
		}
	}
	return earlier, nil
}

func loadAuthority(file string) (*Authority, error) {
	info, err := os.Stat(file)
	if err != nil {
		return nil, err
	}
	if info.Mode().Perm()&0o077 != 0 {
		return nil, fmt.Errorf("%s is readable by others: chmod 600 it, or remove it to have a new one", file)
	}
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	pair, err := tls.X509KeyPair(text, text)
	if err != nil {
		return nil, fmt.Errorf("cannot read %s: %w", file, err)
	}
	key, ok := pair.PrivateKey.(*ecdsa.PrivateKey)
	if !ok || !pair.Leaf.IsCA {
		return nil, fmt.Errorf("%s is not an authority of ours", file)
	}
	return newAuthority(pair.Certificate[0], key)
}

// store writes certificate and key so that the file is there whole or not at
// all.
func (a *Authority) store(file string) error {
	key, err := x509.MarshalPKCS8PrivateKey(a.key)
	if err != nil {
		return err
	}
	temporary, err := os.CreateTemp(filepath.Dir(file), ".authority-*") // 0600
	if err != nil {
		return err
	}
	defer os.Remove(temporary.Name())
	text := append(bytes.Clone(a.pem), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key})...)
	_, err = temporary.Write(text)
	err = errors.Join(err, temporary.Sync(), temporary.Close())
	if err != nil {
		return err
	}
	return os.Rename(temporary.Name(), file)
}
