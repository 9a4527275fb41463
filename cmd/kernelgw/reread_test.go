package main

import (
	"context"
	"errors"
	"log/slog"
	"net/http/httptest"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"kernelgw/auth"
	"kernelgw/auth/token"
	"kernelgw/kernelgw/registry/memory"
)

func userLine(name, secret string) string {
	return "- {name: " + name + ", token_sha256: [" + token.Hash(secret) + "]}\n"
}

// lines gives each line of a log to whoever waits for it.
type lines chan string

func (l lines) Write(line []byte) (int, error) {
	l <- string(line)
	return len(line), nil
}

func TestHangupReadsTheUsersAgainAndAWrongFileChangesNothing(t *testing.T) {
	path := writeConfig(t, "users:\n"+userLine("ann", "a")+userLine("bob", "b"))
	file, err := loadFile(path, os.Getenv)
	if err != nil {
		t.Fatal(err)
	}
	var c Config
	if c.Users, err = file.users(); err != nil {
		t.Fatal(err)
	}
	users, err := token.New(token.Options{Users: tokenUsers(&c), Store: memory.New(), Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	defer users.Close()
	who := func(secret string) error {
		_, err := users.Authenticate(auth.WithCredentials(t.Context(), auth.Credentials{Tokens: []string{secret}}), httptest.NewRequest("GET", "/", nil))
		return err
	}

	log, hangups, ended := make(lines), make(chan os.Signal), make(chan struct{})
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		defer close(ended)
		rereadUsers(ctx, hangups, &c, path, users, slog.New(slog.NewTextHandler(log, nil)))
	}()
	for _, step := range []struct {
		file         string
		good         bool
		ann, bob, ed bool // may log in afterwards
	}{
		{"users:\n" + userLine("ann", "a") + userLine("ed", "e"), true, true, false, true},
		{"users: [", false, true, false, true},
		{"users:\n- {name: ed}\n", false, true, false, true},
		{"driver: process\n", false, true, false, true},
		{"users:\n" + userLine("bob", "b"), true, false, true, false},
	} {
		if err := os.WriteFile(path, []byte(step.file), 0o600); err != nil {
			t.Fatal(err)
		}
		hangups <- unix.SIGHUP
		if line := <-log; strings.Contains(line, "users stay as they were") == step.good {
			t.Errorf("after %q the log says %s", step.file, line)
		}
		for secret, may := range map[string]bool{"a": step.ann, "b": step.bob, "e": step.ed} {
			if err := who(secret); (err == nil) != may || (err != nil && !errors.Is(err, auth.ErrDenied)) {
				t.Errorf("after %q, %s: %v", step.file, secret, err)
			}
		}
	}
	cancel()
	<-ended
}
