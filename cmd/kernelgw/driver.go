package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"

	"kernelgw/sandboxes"
	"kernelgw/sandboxes/containerd"
	"kernelgw/sandboxes/gvisor"
	"kernelgw/sandboxes/image"
	"kernelgw/sandboxes/netpolicy"
	"kernelgw/sandboxes/process"
)

// openDriver opens the configured driver over a store of images. Auto takes what
// isolates, or fails: kernels never run unprotected unless that was asked for by
// name.
func openDriver(ctx context.Context, c *Config, images *image.Store, network *netpolicy.Network, log *slog.Logger) (sandboxes.Driver, error) {
	agent, err := findAgent(c.Agent)
	if err != nil {
		return nil, err
	}
	state := filepath.Join(c.DataDir, "sandboxes")
	name, why := c.Driver, "it was asked for by name"
	if name == "auto" {
		if name, why = chooseDriver(c, gvisor.Probe(ctx, c.Runsc), containerd.Report{}); name == "" {
			return nil, errors.New(why)
		}
	}
	log.Info("driver chosen", "driver", name, "why", why)
	switch name {
	case containerd.Name:
		if _, err := images.Resolve(ctx, c.Image); err != nil {
			return nil, err
		}
		options, err := containerdOptions(c, agent, images, network, log)
		if err != nil {
			return nil, err
		}
		driver, err := containerd.New(options)
		if err != nil {
			return nil, err
		}
		v := driver.Versions()
		log.Info("containerd answers", "containerd", v.Containerd, "runtime", v.Runtime, "kata", v.Kata, "configuration", v.Configuration, "snapshotter", v.Snapshotter)
		if !driver.Capabilities().Isolated {
			log.Warn("kernels share the host's kernel: for trusted code only", "runtime", v.Runtime)
		}
		return driver, nil
	case process.Name:
		return process.New(process.Options{StateDir: filepath.Join(state, process.Name), AgentPath: agent, WorkDir: c.WorkDir, Homes: c.WorkDir == "", Log: log})
	case gvisor.Name:
		if _, err := images.Resolve(ctx, c.Image); err != nil {
			return nil, err
		}
		return gvisor.New(gvisor.Options{
			StateDir: filepath.Join(state, gvisor.Name), Runsc: c.Runsc, AgentPath: agent, Images: gvisorImages{newAdmitted(images, log)}, Network: network, Log: log,
		})
	}
	return nil, fmt.Errorf("driver: unknown driver %q", name)
}

// containerdOptions are those of the containerd driver.
func containerdOptions(c *Config, agent string, images *image.Store, network *netpolicy.Network, log *slog.Logger) (containerd.Options, error) {
	if c.Runtime == "" {
		return containerd.Options{}, errors.New("runtime: the containerd driver needs one, as kata-qemu-runtime-rs; or runc, for trusted code only")
	}
	o := containerd.Options{
		StateDir: filepath.Join(c.DataDir, "sandboxes", containerd.Name), Address: c.Containerd, Runtime: c.Runtime,
		RuntimeConfigPath: c.RuntimeConfig, Snapshotter: c.Snapshotter, AgentPath: agent, Images: containerdImages{newAdmitted(images, log)}, Log: log,
	}
	if network != nil { // an interface that holds a nil pointer is not nil
		o.Network = network
	}
	return o, nil
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

// admitted is an image store that logs what the policy only warns of.
type admitted struct {
	*image.Store
	log *slog.Logger

	mu   sync.Mutex
	said map[string]bool // guarded by mu; warnings that are in the log
}

func newAdmitted(store *image.Store, log *slog.Logger) *admitted {
	return &admitted{Store: store, log: log, said: map[string]bool{}}
}

// Resolve does so, and logs each warning once: images are resolved all the time.
func (a *admitted) Resolve(ctx context.Context, ref string) (image.Image, error) {
	i, err := a.Store.Resolve(ctx, ref)
	if warning := i.Verdict.Warning(); err == nil && warning != "" {
		a.mu.Lock()
		said := a.said[warning]
		a.said[warning] = true
		a.mu.Unlock()
		if !said {
			a.log.Warn(warning, "audit", "image", "digest", i.Digest)
		}
	}
	return i, err
}

// gvisorImages gives the gvisor driver what it needs of the image store.
type gvisorImages struct{ store *admitted }

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

// containerdImages gives the containerd driver what it needs of the image store.
type containerdImages struct{ store *admitted }

// Resolve implements containerd.Images.
func (c containerdImages) Resolve(ctx context.Context, ref string) (containerd.Image, error) {
	i, err := c.store.Resolve(ctx, ref)
	if err != nil {
		return containerd.Image{}, err
	}
	return containerd.Image{
		Digest: i.Digest, Layout: c.store.Dir(), Kernelspecs: i.Kernelspecs,
		UID: i.User.UID, GID: i.User.GID, Home: i.User.Home, Env: i.Env,
	}, nil
}

// Digests implements containerd.Images.
func (c containerdImages) Digests(ctx context.Context) ([]string, error) {
	list, err := c.store.List(ctx)
	digests := make([]string, len(list))
	for i, e := range list {
		digests[i] = e.Digest
	}
	return digests, err
}
