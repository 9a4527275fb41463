package netpolicy

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	"kernelgw/sandboxes"
	"kernelgw/sandboxes/netpolicy/egress"
)

// keepOldAuthority puts an authority into a directory that is about to be
// replaced.
func keepOldAuthority(t *testing.T, dir string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(7), Subject: pkix.Name{CommonName: "old"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(30 * 24 * time.Hour),
		KeyUsage: x509.KeyUsageCertSign, BasicConstraintsValid: true, IsCA: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	text := append(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private})...)
	if err := os.WriteFile(filepath.Join(dir, "authority-7.pem"), text, 0o600); err != nil {
		t.Fatal(err)
	}
}

// A sandbox outlives the gateway that told it whom to trust, and the next one has
// another authority.
func TestAdoptedSandboxesAreShownCertificatesThatTheyTrust(t *testing.T) {
	host, dir, kept := newHost(t), t.TempDir(), t.TempDir()
	keepOldAuthority(t, kept)
	renewed, err := egress.OpenAuthority(kept)
	if err != nil {
		t.Fatal(err)
	}
	old := renewed.Named("7")
	if old == nil {
		t.Fatal("the old authority is gone")
	}
	secret := egress.Secret{Name: "KEY", Placeholder: "placeholder", Value: "value-of-it", Hosts: []string{"api.example.org"}}
	options := func(a *egress.Authority) Options {
		return Options{StateDir: dir, Egress: egress.Options{Authority: a, Secrets: func(context.Context, string) ([]egress.Secret, error) {
			return []egress.Secret{secret}, nil
		}}}
	}
	policy := sandboxes.NetworkPolicy{Egress: sandboxes.EgressNone, Allow: []string{"api.example.org"}}
	n := openOn(t, host, options(old))
	given, err := n.Acquire(t.Context(), "adopted", policy)
	if err != nil {
		t.Fatal(err)
	}
	if err := n.Close(); err != nil {
		t.Fatal(err)
	}

	n = openOn(t, host, options(renewed))
	fresh, err := n.Acquire(t.Context(), "new", policy)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(fresh.Authority, renewed.PEM()) || bytes.Equal(fresh.Authority, given.Authority) {
		t.Error("a new sandbox is not told of the new authority")
	}
	for range 2 {
		for _, s := range []Slot{given, fresh} {
			if err := n.shakeHands(s, "api.example.org"); err != nil {
				t.Errorf("sandbox %s: %v", s.ID, err)
			}
		}
		if list := n.List(); !bytes.Equal(list[0].Authority, given.Authority) {
			t.Error("the adopted sandbox's slot names an authority that it was not told of")
		}
		// A change of its policy, and another gateway, do not change it.
		if err := n.SetPolicy(t.Context(), "adopted", policy); err != nil {
			t.Fatal(err)
		}
		if err := n.Close(); err != nil {
			t.Fatal(err)
		}
		n = openOn(t, host, options(renewed))
	}
}

// shakeHands has a sandbox that trusts its slot's authority, and nobody else,
// connect to a host that it has a secret for.
func (n *Network) shakeHands(s Slot, host string) error {
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(s.Authority)
	return n.in(s, func() error {
		conn, err := net.Dial("tcp4", netip.AddrPortFrom(n.identity.proxy(), ProxyPort).String())
		if err != nil {
			return err
		}
		defer conn.Close()
		if err := conn.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
			return err
		}
		if _, err := fmt.Fprintf(conn, "CONNECT %s:443 HTTP/1.1\r\nHost: %s:443\r\n\r\n", host, host); err != nil {
			return err
		}
		answer, err := http.ReadResponse(bufio.NewReader(conn), &http.Request{Method: http.MethodConnect})
		if err != nil {
			return err
		}
		if answer.StatusCode != http.StatusOK {
			return fmt.Errorf("CONNECT: %s", answer.Status)
		}
		return tls.Client(conn, &tls.Config{RootCAs: roots, ServerName: host}).Handshake()
	})
}
