package main

import (
	"context"
	"errors"
	"log/slog"
	"os"

	"kernelgw/auth/token"
	"kernelgw/sandboxes/image"
)

// rereader puts what may change while the gateway runs into effect: users, and
// which images may be used. All else needs a restart.
type rereader struct {
	read   func() (Config, error) // the whole configuration, as it is now
	users  *token.Authenticator
	single bool         // the gateway was started for a single user
	images *image.Store // nil where no images are used
	log    *slog.Logger
}

// run reads again at each hangup, until ctx ends. Whoever is no longer listed is
// cut off at once. A configuration that is wrong changes nothing.
func (r *rereader) run(ctx context.Context, hangups <-chan os.Signal) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-hangups:
		}
		c, err := r.update()
		if err != nil {
			r.log.Error("users and image policy stay as they were: the configuration cannot be used", "error", err)
			continue
		}
		r.log.Info("users and image policy read again", "users", max(len(c.Users), 1))
	}
}

func (r *rereader) update() (Config, error) {
	c, err := r.read()
	if err != nil {
		return c, err
	}
	if single := len(c.Users) == 0; single != r.single {
		if single {
			return c, errors.New("users: nobody is left; restart the gateway to have a single user")
		}
		return c, errors.New("users: the gateway was started for a single user; restart it to have a list")
	}
	policy, err := c.imagePolicy()
	if err != nil {
		return c, err
	}
	if !r.single {
		if err := r.users.Update(tokenUsers(&c)); err != nil {
			return c, err
		}
	}
	if r.images != nil {
		r.images.SetPolicy(policy)
	}
	return c, nil
}
