package main

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"kernelgw/sandboxes/agent"
)

func TestParseUser(t *testing.T) {
	for text, want := range map[string]*agent.User{
		"":             nil,
		"1000:100":     {UID: 1000, GID: 100},
		"0001:1":       {UID: 1, GID: 1},
		"4294967294:1": {UID: 4294967294, GID: 1},
		"4294967295:1": nil,
		"1:4294967295": nil,
		"0:1":          nil,
		"00:1":         nil,
		"1:0":          nil,
		"+1:1":         nil,
		"-1:1":         nil,
		" 1:1":         nil,
		"0x1:1":        nil,
		"4294967296:1": nil,
		"١:1":          nil,
		"1":            nil,
		"1:1:1":        nil,
		"root:root":    nil,
	} {
		got, err := parseUser(text)
		if (err == nil) != (want != nil || text == "") {
			t.Errorf("%q: error %v", text, err)
		}
		if (got == nil) != (want == nil) || got != nil && *got != *want {
			t.Errorf("%q: %v, want %v", text, got, want)
		}
	}
}

func TestBadStartsSayWhatIsWrong(t *testing.T) {
	dir := t.TempDir()
	config := filepath.Join(dir, "config.json")
	if err := os.WriteFile(config, []byte(`{"token": "SECRET", oops`), 0o600); err != nil {
		t.Fatal(err)
	}
	for want, args := range map[string][]string{
		"--config is missing":         {"--listen", "tcp:127.0.0.1:0"},
		"no such file":                {"--config", filepath.Join(dir, "gone"), "--listen", "tcp:127.0.0.1:0"},
		"is not JSON":                 {"--config", config, "--listen", "tcp:127.0.0.1:0"},
		"--log-level":                 {"--log-level", "loud"},
		"--run-as":                    {"--run-as", "0:0"},
		"unexpected argument":         {"x"},
		"flag provided but not defin": {"--nonsense"},
	} {
		var stderr bytes.Buffer
		err := run(context.Background(), args, &stderr)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", args, err, want)
		}
		if strings.Contains(stderr.String(), "SECRET") || err != nil && strings.Contains(err.Error(), "SECRET") {
			t.Errorf("%q: the token is in the message", args)
		}
	}
}

func TestListenOn(t *testing.T) {
	l, err := listenOn("tcp:127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	for _, address := range []string{"", "127.0.0.1:0", "udp:127.0.0.1:0"} {
		if _, err := listenOn(address); err == nil || !strings.Contains(err.Error(), "--listen") {
			t.Errorf("%q: %v", address, err)
		}
	}
}
