package main

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"kernelgw/jupyter/kernelspec"
	"kernelgw/sandboxes"
	"kernelgw/sandboxes/agentapi"
)

// trial starts a kernel in a sandbox as serve would, in a data directory of its
// own, and says how that went. It leaves nothing behind.
func trial(ctx context.Context, c Config) finding {
	started := time.Now()
	took, err := tryKernel(ctx, c)
	if err != nil {
		return finding{"trial", false, fmt.Sprintf("after %v: %v", time.Since(started).Round(time.Millisecond), err)}
	}
	return finding{"trial", true, fmt.Sprintf("a kernel in a sandbox was ready after %v", took.Round(time.Millisecond))}
}

func tryKernel(ctx context.Context, c Config) (took time.Duration, err error) {
	ctx, cancel := context.WithTimeout(ctx, c.StartTimeout)
	defer cancel()
	if c.ImageStore == "" {
		c.ImageStore = DefaultImageStore(c.DataDir)
	}
	// Its own, as a gateway may run, and always the same, so that what a trial that
	// was killed has left is found by the next.
	c.DataDir = filepath.Join(c.DataDir, "trial")
	if err := makeDataDir(c.DataDir); err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(c.DataDir)) }()
	c.NetworkName, c.NetworkSubnet, c.NetworkReady = "kgwtrial", trialSubnet, 0
	log := slog.New(slog.DiscardHandler)
	n, err := openNetwork(&c, nil, log)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, n.close()) }()
	images, err := imageStore(&c)
	if err != nil {
		return 0, err
	}
	driver, err := openDriver(ctx, &c, images, n.Network, log)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, driver.Close()) }()

	left, err := driver.List(ctx)
	if err != nil {
		return 0, err
	}
	for _, sandbox := range left {
		if err := driver.Destroy(ctx, sandbox.Spec.ID); err != nil {
			return 0, err
		}
	}
	spec, err := trialSpec(ctx, driver, &c)
	if err != nil {
		return 0, err
	}
	defer func() {
		ending, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
		defer cancel()
		err = errors.Join(err, driver.Destroy(ending, spec.ID))
	}()
	began := time.Now()
	sandbox, err := driver.Create(ctx, spec)
	if err != nil {
		return 0, err
	}
	var config agentapi.Config
	if err := json.Unmarshal(spec.AgentConfig, &config); err != nil {
		return 0, err
	}
	agent := agentapi.Client{Endpoint: sandbox.Agent, Token: config.Token}
	if err := agent.WaitReady(ctx); err != nil {
		return 0, err
	}
	return time.Since(began), kernelReady(ctx, &agent)
}

// trialSubnet is none that a gateway has by default.
const trialSubnet = "10.142.255.0/28"

// trialSpec is a sandbox with the default kernel.
func trialSpec(ctx context.Context, driver sandboxes.Driver, c *Config) (sandboxes.Spec, error) {
	specs, err := driver.Kernelspecs(ctx, c.Image)
	if err != nil {
		return sandboxes.Spec{}, err
	}
	kernel, ok := specs[c.DefaultKernel]
	if !ok {
		return sandboxes.Spec{}, fmt.Errorf("the image has no kernelspec %s", c.DefaultKernel)
	}
	parsed, err := kernelspec.Parse(kernel.JSON)
	if err != nil {
		return sandboxes.Spec{}, err
	}
	id := "trial-" + time.Now().UTC().Format("20060102t150405")
	config, err := json.Marshal(agentapi.Config{
		Token: rand.Text() + rand.Text(), KernelID: id, KernelName: c.DefaultKernel, Spec: parsed, ResourceDir: kernel.Dir,
	})
	return sandboxes.Spec{ID: id, Image: c.Image, AgentConfig: config}, err
}

// kernelReady waits until the kernel has answered.
func kernelReady(ctx context.Context, agent *agentapi.Client) error {
	ready, found := context.WithCancel(ctx)
	defer found()
	var last agentapi.Status
	err := agent.Watch(ready, func(s agentapi.Status) {
		if last = s; s.Ready {
			found()
		}
	})
	if last.Ready {
		return nil
	}
	return fmt.Errorf("the kernel did not answer: %w", err)
}
