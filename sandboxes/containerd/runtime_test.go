package containerd

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func shimThatSays(t *testing.T, name, says string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"+says+"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestRuntimeIsWhatContainerdTakes(t *testing.T) {
	config := filepath.Join(t.TempDir(), "configuration.toml")
	if err := os.WriteFile(config, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	golang := shimThatSays(t, "containerd-shim-kata-v2", `echo 'Kata Containers containerd shim (Golang): id: "io.containerd.kata.v2", version: 4.1.0, commit: abc'`)
	rust := shimThatSays(t, "containerd-shim-kata-v2", `echo 'Kata Containers containerd shim (Rust): id: io.containerd.kata.v2, version: 4.10.2-alpha0, commit: abc'`)
	for configured, want := range map[string]runtime{
		"":     {name: "io.containerd.runc.v2"},
		"runc": {name: "io.containerd.runc.v2"},
		golang: {name: golang, kata: true, version: "4.1.0", config: config},
		rust:   {name: rust, kata: true, version: "4.10.2-alpha0", config: config},
	} {
		file := config
		if !want.kata {
			file = ""
		}
		got, err := findRuntime(t.Context(), configured, file)
		got.options = nil
		if err != nil || got != want {
			t.Errorf("runtime %q: %+v, %v; want %+v", configured, got, err, want)
		}
	}
}

func TestUnusableRuntimesAreRefused(t *testing.T) {
	for says, want := range map[string]string{
		"echo 'Kata Containers containerd shim (Golang): id: x, version: 4.0.9, commit: a'": "too old",
		"echo 'Kata Containers containerd shim (Rust): id: x, version: 3.31.0, commit: a'":  "too old",
		"echo 'some other shim'": "cannot find a version",
		"exit 1":                 "cannot ask",
	} {
		_, err := findRuntime(t.Context(), shimThatSays(t, "containerd-shim-kata-v2", says), "")
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("a shim that does %q: %v, want %q", says, err, want)
		}
	}
	for _, configured := range []string{"docker", "kata-no-such-handler", "katana", "/no/such/containerd-shim-kata-v2"} {
		if _, err := findRuntime(t.Context(), configured, ""); err == nil {
			t.Errorf("runtime %q is taken", configured)
		}
	}
	if _, err := findRuntime(t.Context(), "runc", "/etc/passwd"); err == nil {
		t.Error("a configuration for runc is taken")
	}
	if _, err := findRuntime(t.Context(), shimThatSays(t, "containerd-shim-kata-v2", "echo version: 4.1.0"), "/no/such/configuration"); err == nil {
		t.Error("a configuration that does not exist is taken")
	}
}

func TestRustHandlersAreKnown(t *testing.T) {
	for handler, want := range map[string]bool{
		"": true, "qemu-runtime-rs": true, "clh-runtime-rs": true, "dragonball": true, "qemu-snp-runtime-rs": true,
		"qemu": false, "clh": false, "fc": false, "remote": false,
	} {
		if isRust(handler) != want {
			t.Errorf("handler kata-%s: runtime-rs is %v", handler, !want)
		}
	}
}

func FuzzKataVersion(f *testing.F) {
	f.Add(`Kata Containers containerd shim (Golang): id: "io.containerd.kata.v2", version: 4.1.0, commit: abc`)
	f.Add("version: 999999.999999.999999-x")
	f.Add("version: \"v1.2.3")
	f.Fuzz(func(t *testing.T, output string) {
		version, number, ok := parseKataVersion(output)
		if ok && (version == "" || !strings.Contains(output, version)) || !ok && number != [3]int{} {
			t.Errorf("%q: %q, %v, %v", output, version, number, ok)
		}
	})
}
