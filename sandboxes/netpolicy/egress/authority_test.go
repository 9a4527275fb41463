package egress

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
)

func TestAuthorityIsKept(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "authority")
	first, err := OpenAuthority(dir)
	if err != nil {
		t.Fatal(err)
	}
	second, err := OpenAuthority(dir)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(first.PEM(), second.PEM()) {
		t.Error("another authority at the second time")
	}
	leaf, err := second.leaf("api.example.org")
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(first.PEM()) {
		t.Fatal("not a certificate")
	}
	if _, err := leaf.Leaf.Verify(x509.VerifyOptions{Roots: pool, DNSName: "api.example.org"}); err != nil {
		t.Error(err)
	}
	if bytes.Contains(first.PEM(), []byte("PRIVATE")) {
		t.Error("the key is given away")
	}
	for name, mode := range map[string]os.FileMode{dir: 0o700, filepath.Join(dir, authorityFile): 0o600} {
		if info, err := os.Stat(name); err != nil || info.Mode().Perm() != mode {
			t.Errorf("%s: %v %v, want %v", name, info.Mode(), err, mode)
		}
	}
}

func TestAuthorityThatOthersCanReadIsRefused(t *testing.T) {
	dir := t.TempDir()
	if _, err := OpenAuthority(dir); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, authorityFile)
	if err := os.Chmod(file, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenAuthority(dir); err == nil {
		t.Error("opened")
	}
	if err := os.WriteFile(file, []byte("garbage"), 0o600); err != nil {
		t.Fatal(err)
	}
	os.Chmod(file, 0o600)
	if _, err := OpenAuthority(dir); err == nil {
		t.Error("garbage opened")
	}
}

func TestAuthorityIsRenewedInTime(t *testing.T) {
	dir := t.TempDir()
	old, err := makeAuthority(authorityLeft - time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	if err := old.store(filepath.Join(dir, authorityFile)); err != nil {
		t.Fatal(err)
	}
	renewed, err := OpenAuthority(dir)
	if err != nil || bytes.Equal(renewed.PEM(), old.PEM()) {
		t.Fatalf("not renewed: %v", err)
	}
	// The old one is still there for those who trust it, also for the next process.
	again, err := OpenAuthority(dir)
	if err != nil || !bytes.Equal(again.PEM(), renewed.PEM()) {
		t.Fatalf("renewed twice: %v", err)
	}
	for _, a := range []*Authority{renewed, again} {
		before := a.Named(old.Name())
		if before == nil || !bytes.Equal(before.PEM(), old.PEM()) || a.Named(a.Name()) != a || a.Named("nobody") != nil {
			t.Fatal("the old one is not kept")
		}
		leaf, err := before.leaf("api.example.org")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := leaf.Leaf.Verify(x509.VerifyOptions{Roots: poolOf(old), DNSName: "api.example.org"}); err != nil {
			t.Error(err)
		}
	}
}

func TestAuthoritiesThatHaveExpiredAreRemoved(t *testing.T) {
	dir := t.TempDir()
	old, err := makeAuthority(-time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	if err := old.store(filepath.Join(dir, authorityFile)); err != nil {
		t.Fatal(err)
	}
	a, err := OpenAuthority(dir)
	if err != nil {
		t.Fatal(err)
	}
	if files, err := os.ReadDir(dir); err != nil || len(files) != 1 || a.Named(old.Name()) != nil {
		t.Errorf("%v, %v", files, err)
	}
}

func TestLeavesAreBounded(t *testing.T) {
	a, err := NewAuthority()
	if err != nil {
		t.Fatal(err)
	}
	one, err := a.leaf("h0.example.org")
	if err != nil {
		t.Fatal(err)
	}
	if again, _ := a.leaf("h0.example.org"); again != one {
		t.Error("signed twice")
	}
	for i := range maxLeaves + 10 {
		if _, err := a.leaf(fmt.Sprintf("h%d.example.org", i)); err != nil {
			t.Fatal(err)
		}
	}
	if n := len(a.leaves); n > maxLeaves {
		t.Errorf("%d leaves", n)
	}
	address, err := a.leaf("93.184.216.34")
	if err != nil || address.Leaf.VerifyHostname("93.184.216.34") != nil {
		t.Errorf("%v", err)
	}
}

// OpenSSL is stricter than Go, and Python asks it to be.
func TestOpenSSLTakesTheCertificates(t *testing.T) {
	openssl, err := exec.LookPath("openssl")
	if err != nil {
		t.Skip("NOT CHECKED: no openssl here to verify certificates strictly")
	}
	a, err := NewAuthority()
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := a.leaf("api.example.org")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	ca, cert := filepath.Join(dir, "ca.pem"), filepath.Join(dir, "leaf.pem")
	if err := os.WriteFile(ca, a.PEM(), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(cert, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: leaf.Certificate[0]}), 0o600); err != nil {
		t.Fatal(err)
	}
	said, err := exec.Command(openssl, "verify", "-x509_strict", "-purpose", "sslserver", "-verify_hostname", "api.example.org", "-CAfile", ca, cert).CombinedOutput()
	if err != nil {
		t.Errorf("%v: %s", err, said)
	}
}
