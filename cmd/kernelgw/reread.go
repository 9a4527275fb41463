package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"

	"kernelgw/auth/token"
)

// rereadUsers gives users the list of the configuration file again at each
// hangup, until ctx ends. Whoever is no longer in it is cut off at once. A file
// that is wrong changes nothing.
func rereadUsers(ctx context.Context, hangups <-chan os.Signal, c *Config, path string, users *token.Authenticator, log *slog.Logger) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-hangups:
		}
		n, err := updateUsers(*c, path, users)
		if err != nil {
			log.Error("users stay as they were: the configuration file cannot be used", "error", err)
			continue
		}
		log.Info("users read again", "users", n)
	}
}

// updateUsers reads the users of the file and puts them into effect. Nothing
// else of the file is looked at: the rest needs a restart.
func updateUsers(c Config, path string, users *token.Authenticator) (n int, err error) {
	if len(c.Users) == 0 {
		return 0, errors.New("the gateway was started for a single user; restart it to have a list")
	}
	file, err := loadFile(path, os.Getenv)
	if err != nil {
		return 0, err
	}
	if c.Users, err = file.users(); err != nil {
		return 0, err
	}
	if len(c.Users) == 0 {
		return 0, fmt.Errorf("configuration file %s: users: nobody is left; restart the gateway to have a single user", path)
	}
	if err := c.validateUsers(); err != nil {
		return 0, err
	}
	return len(c.Users), users.Update(tokenUsers(&c))
}
