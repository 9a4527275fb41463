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
	"fmt"
	"math/big"
	"net/netip"
	"sync"
	"time"
)

const (
	authorityLife = 5 * 365 * 24 * time.Hour
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
	earlier     []*Authority      // which this one has replaced, and clients may still trust

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

// Name tells authorities apart.
func (a *Authority) Name() string { return a.certificate.SerialNumber.Text(36) }

// Named returns this authority or the one of those before it that has a name;
// nil when there is none.
func (a *Authority) Named(name string) *Authority {
	if name == a.Name() {
		return a
	}
	for _, before := range a.earlier {
		if name == before.Name() {
			return before
		}
	}
	return nil
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
