package agent

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestTrustAddsToTheSystemsRoots(t *testing.T) {
	dir := t.TempDir()
	roots, authority := filepath.Join(dir, "roots"), filepath.Join(dir, "authority")
	for name, text := range map[string]string{roots: "ROOTS", authority: "AUTHORITY"} {
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	before := rootFiles
	t.Cleanup(func() { rootFiles = before })
	rootFiles = []string{filepath.Join(dir, "missing"), roots}
	for _, name := range trustVariables {
		t.Setenv(name, "")
	}
	t.Setenv("PIP_CERT", "/the/image's/own")

	if err := Trust(authority, dir); err != nil {
		t.Fatal(err)
	}
	file := os.Getenv("SSL_CERT_FILE")
	text, err := os.ReadFile(file)
	if err != nil || string(text) != "ROOTS\nAUTHORITY" {
		t.Errorf("SSL_CERT_FILE names %q with %q, %v", file, text, err)
	}
	if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o644 {
		t.Errorf("it is not for everybody to read: %v, %v", info, err)
	}
	if got := os.Getenv("PIP_CERT"); !strings.HasPrefix(got, "/the/image") {
		t.Errorf("PIP_CERT of the image became %q", got)
	}
}
