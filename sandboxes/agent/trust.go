package agent

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// rootFiles are where systems keep the certificates that they trust, as one
// file of PEM blocks (crypto/x509, root_linux.go).
var rootFiles = []string{
	"/etc/ssl/certs/ca-certificates.crt",                // Debian, Alpine
	"/etc/pki/tls/certs/ca-bundle.crt",                  // Fedora
	"/etc/ssl/ca-bundle.pem",                            // SUSE
	"/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem", // CentOS
	"/etc/ssl/cert.pem",
}

// trustVariables are what programs read to learn whom to trust instead: OpenSSL,
// and with it Python; requests and conda; pip; curl; git; npm; Node; the AWS SDKs.
var trustVariables = []string{
	"SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "PIP_CERT", "CURL_CA_BUNDLE", "GIT_SSL_CAINFO", "npm_config_cafile",
	"NODE_EXTRA_CA_CERTS", "AWS_CA_BUNDLE",
}

// Trust makes the programs of this sandbox trust a certificate authority beside
// those of its system: the egress proxy's, which stands between them and the
// hosts that they have secrets for. It writes all of them into a file of dir,
// which nobody but this user can replace, and names it in the environment,
// unless the image names another there. It is called before New.
func Trust(authority, dir string) error {
	own, err := os.ReadFile(authority)
	if err != nil {
		return fmt.Errorf("cannot read the certificate authority: %w", err)
	}
	var bundle bytes.Buffer
	for _, name := range rootFiles {
		if roots, err := os.ReadFile(name); err == nil {
			bundle.Write(roots)
			bundle.WriteByte('\n')
			break
		}
	}
	bundle.Write(own)
	file := filepath.Join(dir, "kernelgw-certificates.pem")
	err = os.WriteFile(file, bundle.Bytes(), 0o644)
	if err = errors.Join(err, os.Chmod(file, 0o644)); err != nil { // whatever the umask is
		return fmt.Errorf("cannot write the certificates to trust: %w", err)
	}
	for _, name := range trustVariables {
		if os.Getenv(name) != "" {
			continue
		}
		if err := os.Setenv(name, file); err != nil {
			return fmt.Errorf("cannot set %s: %w", name, err)
		}
	}
	return nil
}
