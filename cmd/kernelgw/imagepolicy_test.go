package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// writePolicy writes a configuration file beside a public key, team.pub.
func writePolicy(t *testing.T, text string) string {
	t.Helper()
	dir := t.TempDir()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	public := filepath.Join(dir, "team.pub")
	if err := os.WriteFile(public, pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "kernelgw.yaml")
	if err := os.WriteFile(file, []byte(strings.ReplaceAll(text, "TEAM", public)), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

func TestImagePolicyIsCheckedWithTheConfiguration(t *testing.T) {
	for text, want := range map[string]string{
		"image_allow: [default, registry.example.org/team/*]\n":                            "",
		"image_signers: [{keys: [TEAM]}]\n":                                                "",
		"image_signers: [{images: [default], verify: \"off\"}]\n":                          "",
		"image_allow: [python:3]\n":                                                        "image_allow: cannot use",
		"image_signers: [{images: [library/python], keys: [TEAM]}]\n":                      "image_signers[0].images: cannot use",
		"image_signers: [{images: [default]}]\n":                                           "image_signers[0]: nobody may sign",
		"image_signers: [{keys: [/nowhere.pub]}]\n":                                        "image_signers[0].keys",
		"image_signers: [{keys: [TEAM], log: true}]\n":                                     "image_trust_root",
		"image_signers: [{keys: [TEAM], verify: perhaps}]\n":                               "image_signers[0].verify",
		"image_signers: [{identities: [{issuer: https://i.example.org, subject: ann}]}]\n": "image_trust_root",
		"image_signers: [{key: TEAM}]\n":                                                   "image_signers",
		"image_signers: [{keys: [TEAM]}]\nimage_trust_root: /nowhere.json\n":               "image_trust_root",
	} {
		err := run(t.Context(), []string{"config", "check", "--config", writePolicy(t, text)}, noEnv, io.Discard, io.Discard)
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%s: %v, want %q", text, err, want)
		}
	}
}

func noEnv(string) string { return "" }

func TestImageCommandsFollowThePolicyOfTheFile(t *testing.T) {
	config := writePolicy(t, "image_allow: [registry.example.org/team/*]\n")
	for _, command := range []string{"pull", "sign-check"} {
		err := run(t.Context(), []string{"image", command, "127.0.0.1:1/evil/x:1", "--image-store", t.TempDir(), "--config", config}, noEnv, io.Discard, io.Discard)
		if err == nil || !strings.Contains(err.Error(), "image_allow does not name 127.0.0.1:1/evil/x:1") {
			t.Errorf("%s: %v", command, err)
		}
	}
}
