package main

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http/httptest"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"kernelgw/auth"
	"kernelgw/auth/token"
	"kernelgw/kernelgw/registry/memory"
	"kernelgw/sandboxes/image"
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
	env := environment{getenv: func(string) string { return "" }, stdout: io.Discard, stderr: io.Discard}
	read := func() (Config, error) {
		_, cli, err := env.parse([]string{"serve", "--config", path})
		if err != nil {
			return Config{}, err
		}
		return cli.Serve.Config, cli.Serve.complete(&env)
	}
	c, err := read()
	if err != nil {
		t.Fatal(err)
	}
	users, err := token.New(token.Options{Users: tokenUsers(&c), Store: memory.New(), Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	defer users.Close()
	images, err := image.Open(image.Options{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	who := func(secret string) error {
		_, err := users.Authenticate(auth.WithCredentials(t.Context(), auth.Credentials{Tokens: []string{secret}}), httptest.NewRequest("GET", "/", nil))
		return err
	}
	refuses := func() bool {
		_, err := images.Pull(t.Context(), image.PullOptions{Ref: "127.0.0.1:1/a"})
		return errors.As(err, new(*image.RefusedError))
	}

	log, hangups, ended := make(lines), make(chan os.Signal), make(chan struct{})
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		defer close(ended)
		again := rereader{read: read, users: users, images: images, log: slog.New(slog.NewTextHandler(log, nil))}
		again.run(ctx, hangups)
	}()
	for _, step := range []struct {
		file         string
		good         bool
		ann, bob, ed bool // may log in afterwards
		refused      bool // the image that image_allow does not name, afterwards
	}{
		{"users:\n" + userLine("ann", "a") + userLine("ed", "e"), true, true, false, true, false},
		{"users: [", false, true, false, true, false},
		{"users:\n- {name: ed}\nimage_allow: [default]\n", false, true, false, true, false},
		{"driver: process\n", false, true, false, true, false},
		{"image_allow: [default]\nusers:\n" + userLine("bob", "b"), true, false, true, false, true},
		{"image_signers: [{images: [default]}]\nusers:\n" + userLine("ann", "a"), false, false, true, false, true},
		{"users:\n" + userLine("bob", "b"), true, false, true, false, false},
	} {
		if err := os.WriteFile(path, []byte(step.file), 0o600); err != nil {
			t.Fatal(err)
		}
		hangups <- unix.SIGHUP
		if line := <-log; strings.Contains(line, "stay as they were") == step.good {
			t.Errorf("after %q the log says %s", step.file, line)
		}
		for secret, may := range map[string]bool{"a": step.ann, "b": step.bob, "e": step.ed} {
			if err := who(secret); (err == nil) != may || (err != nil && !errors.Is(err, auth.ErrDenied)) {
				t.Errorf("after %q, %s: %v", step.file, secret, err)
			}
		}
		if got := refuses(); got != step.refused {
			t.Errorf("after %q, the image is refused: %v, want %v", step.file, got, step.refused)
		}
	}
	cancel()
	<-ended
}
