package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"

	"kernelgw/sandboxes"
	"kernelgw/sandboxes/gvisor"
	"kernelgw/sandboxes/image"
	"kernelgw/sandboxes/netpolicy"
	"kernelgw/sandboxes/process"
)

// openDriver opens the configured driver. Auto takes what isolates, or fails:
// kernels never run unprotected unless that was asked for by name.
func openDriver(ctx context.Context, c *Config, network *netpolicy.Network, log *slog.Logger) (sandboxes.Driver, error) {
	agent, err := findAgent(c.Agent)
	if err != nil {
		return nil, err
	}
	state := filepath.Join(c.DataDir, "sandboxes")
	name, why := c.Driver, "it was asked for by name"
	if name == "auto" {
		if name, why = chooseDriver(name, gvisor.Probe(ctx, c.Runsc)); name == "" {
			return nil, errors.New(why)
		}
	}
	log.Info("driver chosen", "driver", name, "why", why)
	switch name {
	case process.Name:
		return process.New(process.Options{StateDir: filepath.Join(state, process.Name), AgentPath: agent, WorkDir: c.WorkDir, Homes: c.WorkDir == "", Log: log})
	case gvisor.Name:
		if _, err := resolveImage(ctx, c); err != nil {
			return nil, err
		}
		store, err := imageStore(c)
		if err != nil {
			return nil, err
		}
		return gvisor.New(gvisor.Options{
			StateDir: filepath.Join(state, gvisor.Name), Runsc: c.Runsc, AgentPath: agent, Images: gvisorImages{store}, Network: network, Log: log,
		})
	}
	return nil, fmt.Errorf("driver: unknown driver %q", name)
}

// findAgent returns the agent's binary: the configured one, else the one beside
// this program.
func findAgent(configured string) (string, error) {
	path := configured
	if path == "" {
		self, err := os.Executable()
		if err != nil {
			return "", fmt.Errorf("cannot find the agent binary: %w; name it with --agent", err)
		}
		path = filepath.Join(filepath.Dir(self), "kernelagent")
	}
	if info, err := os.Stat(path); err != nil || info.IsDir() {
		return "", fmt.Errorf("no agent binary at %s: run make build, or name it with --agent", path)
	}
	return path, nil
}

func imageStore(c *Config) (*image.Store, error) {
	dir := c.ImageStore
	if dir == "" {
		dir = DefaultImageStore(c.DataDir)
	}
	policy, err := c.imagePolicy()
	if err != nil {
		return nil, err
	}
	return image.Open(image.Options{Dir: dir, Policy: policy})
}

// resolveImage finds the image of the sandboxes.
func resolveImage(ctx context.Context, c *Config) (image.Image, error) {
	store, err := imageStore(c)
	if err != nil {
		return image.Image{}, err
	}
	return store.Resolve(ctx, c.Image)
}

// gvisorImages gives the gvisor driver what it needs of the image store.
type gvisorImages struct{ store *image.Store }

// Resolve implements gvisor.Images.
func (g gvisorImages) Resolve(ctx context.Context, ref string) (gvisor.Rootfs, error) {
	i, err := g.store.Resolve(ctx, ref)
	if err != nil {
		return gvisor.Rootfs{}, err
	}
	return gvisor.Rootfs{
		Digest: i.Digest, Dir: i.RootFS, Kernelspecs: i.Kernelspecs,
		UID: i.User.UID, GID: i.User.GID, Home: i.User.Home, Env: i.Env, WorkingDir: i.WorkingDir,
	}, nil
}
