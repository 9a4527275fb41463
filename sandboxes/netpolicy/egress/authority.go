package egress

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"time"
)

const (
	authorityFile = "authority.pem"
	authorityLife = 5 * 365 * 24 * time.Hour
	authorityLeft = 90 * 24 * time.Hour // when less is left, a new one is made
	leafLife      = 7 * 24 * time.Hour
	maxLeaves     = 512
)

// Authority is a certificate authority for the hosts that clients have secrets
// for. It is safe for concurrent use.
type Authority struct {
	// set at construction
	certificate *x509.Certificate
	key         *ecdsa.PrivateKey
	pem         []byte
	leafKey     *ecdsa.PrivateKey // of all leaves; never stored

	mu     sync.Mutex
	leaves map[string]*tls.Certificate
}

// NewAuthority makes an authority that is kept nowhere.
func NewAuthority() (*Authority, error) { return makeAuthority(authorityLife) }

func makeAuthority(life time.Duration) (*Authority, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("cannot make the key of the egress authority: %w", err)
	}
	serial, err := newSerial()
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber: serial,
		// The serial number keeps authorities of several gateways apart in a trust store.
		Subject:   pkix.Name{CommonName: "kernelgw egress authority " + serial.Text(36)[:8]},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(life),
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		BasicConstraintsValid: true, IsCA: true, MaxPathLenZero: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, fmt.Errorf("cannot sign the certificate of the egress authority: %w", err)
	}
	return newAuthority(der, key)
}

func newAuthority(der []byte, key *ecdsa.PrivateKey) (*Authority, error) {
	certificate, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("cannot read the certificate of the egress authority: %w", err)
	}
	leafKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("cannot make a key for certificates of the egress authority: %w", err)
	}
	return &Authority{
		certificate: certificate, key: key, leafKey: leafKey,
		pem:    pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
		leaves: map[string]*tls.Certificate{},
	}, nil
}

// OpenAuthority returns the authority that is kept in a directory. It makes
// one, and the directory, when there is none or less than 90 days of it are
// left. The file is readable by its owner only, and refused when it is readable
// by others.
func OpenAuthority(dir string) (*Authority, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("cannot keep the egress authority: %w", err)
	}
	file := filepath.Join(dir, authorityFile)
	a, err := loadAuthority(file)
	if err == nil && time.Until(a.certificate.NotAfter) > authorityLeft {
		return a, nil
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("cannot open the egress authority: %w", err)
	}
	if a, err = NewAuthority(); err != nil {
		return nil, err
	}
	if err := a.store(file); err != nil {
		return nil, fmt.Errorf("cannot keep the egress authority: %w", err)
	}
	return a, nil
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

// PEM returns the authority's certificate, for the trust store of clients.
func (a *Authority) PEM() []byte { return bytes.Clone(a.pem) }

// leaf returns a certificate for a host, with its key.
func (a *Authority) leaf(host string) (*tls.Certificate, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if leaf := a.leaves[host]; leaf != nil && time.Until(leaf.Leaf.NotAfter) > leafLife/2 {
		return leaf, nil
	}
	serial, err := newSerial()
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber: serial,
		Subject:      pkix.Name{Organization: []string{"kernelgw egress"}},
		NotBefore:    time.Now().Add(-time.Hour), NotAfter: time.Now().Add(leafLife),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		BasicConstraintsValid: true,
	}
	if addr, err := netip.ParseAddr(host); err == nil {
		template.IPAddresses = append(template.IPAddresses, addr.AsSlice())
	} else {
		template.DNSNames = []string{host}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.certificate, a.leafKey.Public(), a.key)
	if err != nil {
		return nil, fmt.Errorf("cannot sign a certificate for %s: %w", host, err)
	}
	parsed, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("cannot read the certificate for %s: %w", host, err)
	}
	if len(a.leaves) >= maxLeaves {
		for old := range a.leaves { // any: it is made again when it is missed
			delete(a.leaves, old)
			break
		}
	}
	a.leaves[host] = &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: a.leafKey, Leaf: parsed}
	return a.leaves[host], nil
}

func newSerial() (*big.Int, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 126))
	if err != nil {
		return nil, fmt.Errorf("cannot make a serial number: %w", err)
	}
	return serial.Add(serial, new(big.Int).Lsh(big.NewInt(1), 126)), nil
}
