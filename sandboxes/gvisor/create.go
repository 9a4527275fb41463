package gvisor

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"kernelgw/sandboxes"
	"kernelgw/sandboxes/statedir"
)

// Create implements sandboxes.Driver.
func (d *Driver) Create(ctx context.Context, spec sandboxes.Spec) (sandboxes.Sandbox, error) {
	sb, err := d.create(ctx, spec)
	if err != nil {
		return sandboxes.Sandbox{}, fmt.Errorf("cannot create sandbox %q: %w", spec.ID, err)
	}
	return sb, nil
}

func (d *Driver) create(ctx context.Context, spec sandboxes.Spec) (sandboxes.Sandbox, error) {
	limits, err := spec.Resources.Complete(d.opts.Defaults)
	if err != nil {
		return sandboxes.Sandbox{}, err
	}
	root, err := d.opts.Images.Resolve(ctx, spec.Image)
	if err != nil {
		return sandboxes.Sandbox{}, fmt.Errorf("image %q: %w", spec.Image, err)
	}
	if root.UID == 0 {
		return sandboxes.Sandbox{}, fmt.Errorf("%w: image %q would run kernels as root", sandboxes.ErrInvalid, spec.Image)
	}
	// runsc refuses to mount below a path that leads through a link.
	if root.Dir, err = filepath.EvalSymlinks(root.Dir); err != nil {
		return sandboxes.Sandbox{}, fmt.Errorf("image %q: %w", spec.Image, err)
	}
	sb := sandboxes.Sandbox{Spec: spec, CreatedAt: time.Now().UTC(), Image: root.Digest}
	err = d.state.Create(ctx, spec.ID, func() error {
		c, err := d.connect(ctx, spec)
		if err != nil {
			return err
		}
		sb.Agent = c.endpoint
		return d.start(ctx, sb, root, limits, c)
	})
	return sb, err
}

// start fills the directory and runs the sandbox. What it leaves behind when it
// fails is destroyed by the caller.
func (d *Driver) start(ctx context.Context, sb sandboxes.Sandbox, root Rootfs, limits sandboxes.Resources, c connection) error {
	dir := d.state.Path(sb.Spec.ID)
	for _, name := range []string{bundleName, overlayName, runscName, runName} {
		if err := os.Mkdir(filepath.Join(dir, name), 0o700); err != nil {
			return err
		}
	}
	for name, content := range map[string][]byte{configName: sb.Spec.AgentConfig, authorityName: c.slot.Authority, agentName: nil} {
		if err := os.WriteFile(filepath.Join(dir, runName, name), content, 0o600); err != nil {
			return err
		}
	}
	bundle := d.bundle(sb.Spec.ID, root, limits, c)
	begins, err := d.beginLayer(sb.Spec.Layer, dir, root, limits)
	if err != nil {
		return err
	}
	if begins {
		bundle.Annotations = map[string]string{layerAnnotation: filepath.Join(dir, layerName)}
	}
	if err := statedir.Write(filepath.Join(dir, bundleName, "config.json"), bundle); err != nil {
		return err
	}
	if err := statedir.Write(filepath.Join(dir, planName), d.plan(sb.Spec.ID, limits, c)); err != nil {
		return err
	}
	lifeline, err := d.startSupervisor(ctx, sb.Spec.ID)
	if err != nil {
		return err
	}
	defer lifeline.Close()
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := d.state.Put(sb); err != nil {
		return err
	}
	if _, err := lifeline.Write([]byte{committed}); err != nil {
		// It ended already; that is for Wait to tell.
		d.opts.Log.Warn("a sandbox ended while it was created", "sandbox", sb.Spec.ID)
	}
	return nil
}

// beginLayer writes what the writable layer begins with, if that is anything.
func (d *Driver) beginLayer(exported, dir string, root Rootfs, limits sandboxes.Resources) (bool, error) {
	if exported != "" {
		return true, d.importLayer(exported, dir, limits)
	}
	home, err := homeLayer(root)
	if err != nil || home == nil {
		return false, err
	}
	return true, os.WriteFile(filepath.Join(dir, layerName), home, 0o600)
}

// startSupervisor starts the sandbox's supervisor and waits until it reports
// that the sandbox runs. Closing the lifeline uncommitted ends both.
func (d *Driver) startSupervisor(ctx context.Context, id string) (*os.File, error) {
	stdin, lifeline, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer stdin.Close()
	if err := d.runSupervisor(ctx, id, stdin); err != nil {
		_ = lifeline.Close()
		return nil, err
	}
	return lifeline, nil
}

func (d *Driver) runSupervisor(ctx context.Context, id string, stdin *os.File) error {
	answers, stdout, err := os.Pipe()
	if err != nil {
		return err
	}
	defer answers.Close()
	defer stdout.Close()

	cmd := exec.Command(d.opts.Supervisor, SupervisorCommand, d.state.Path(id))
	cmd.Dir = "/"
	// Nothing of the gateway's environment: it may hold secrets.
	cmd.Env = []string{"PATH=" + safePath}
	cmd.Stdin, cmd.Stdout = stdin, stdout
	// A session of its own: signals to the gateway's process group pass by.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("cannot start the supervisor: %w", err)
	}
	d.mu.Lock()
	d.supervisors[id] = cmd
	d.mu.Unlock()
	_ = stdout.Close()

	stop := context.AfterFunc(ctx, func() { _ = answers.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	var r report
	line, err := bufio.NewReader(answers).ReadBytes('\n')
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case err != nil:
		return errors.New("the supervisor ended without a report")
	}
	if err := json.Unmarshal(line, &r); err != nil {
		return fmt.Errorf("cannot understand the supervisor: %w", err)
	}
	if r.Error != "" {
		return errors.New(r.Error)
	}
	return nil
}
