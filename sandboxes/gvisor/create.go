package gvisor

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"kernelgw/sandboxes"
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
	if err := ctx.Err(); err != nil {
		return sandboxes.Sandbox{}, err
	}
	if !sandboxes.ValidID(spec.ID) {
		return sandboxes.Sandbox{}, fmt.Errorf("%w: the id is not made of lower-case letters, digits and hyphens", sandboxes.ErrInvalid)
	}
	limits, err := d.limits(spec.Resources)
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

	dir := d.dir(spec.ID)
	lock, err := d.reserve(ctx, dir)
	if err != nil {
		return sandboxes.Sandbox{}, err
	}
	defer lock.Close()
	sb := sandboxes.Sandbox{Spec: spec, CreatedAt: time.Now().UTC(), Image: root.Digest}
	c, err := d.connect(ctx, spec)
	if err == nil {
		sb.Agent = c.endpoint
		err = d.start(ctx, sb, root, limits, c)
	}
	if err != nil {
		clean, cancel := context.WithTimeout(context.WithoutCancel(ctx), 20*time.Second)
		defer cancel()
		return sandboxes.Sandbox{}, errors.Join(err, d.destroy(clean, spec.ID))
	}
	return sb, nil
}

// limits completes r from the defaults.
func (d *Driver) limits(r sandboxes.Resources) (sandboxes.Resources, error) {
	if r.CPUs < 0 || r.MemoryBytes < 0 || r.Processes < 0 || r.DiskBytes < 0 || r.ShmBytes < 0 || r.OpenFiles < 0 {
		return r, fmt.Errorf("%w: a limit is negative", sandboxes.ErrInvalid)
	}
	r.CPUs = orDefault(r.CPUs, d.opts.Defaults.CPUs)
	r.MemoryBytes = orDefault(r.MemoryBytes, d.opts.Defaults.MemoryBytes)
	r.Processes = orDefault(r.Processes, d.opts.Defaults.Processes)
	r.DiskBytes = orDefault(r.DiskBytes, d.opts.Defaults.DiskBytes)
	r.ShmBytes = orDefault(r.ShmBytes, orDefault(d.opts.Defaults.ShmBytes, r.MemoryBytes/4))
	r.OpenFiles = orDefault(r.OpenFiles, d.opts.Defaults.OpenFiles)
	if r.MemoryBytes < minMemory {
		return r, fmt.Errorf("%w: %s of memory; the least is %s", sandboxes.ErrInvalid, formatBytes(r.MemoryBytes), formatBytes(minMemory))
	}
	return r, nil
}

// minMemory is less than any kernel needs, but lets a sandbox start.
const minMemory = 64 << 20

// reserve makes the sandbox's directory and locks it.
func (d *Driver) reserve(ctx context.Context, dir string) (*os.File, error) {
	all, err := lockDir(ctx, d.opts.StateDir, unix.LOCK_SH)
	if err != nil {
		return nil, fmt.Errorf("cannot lock the state directory: %w", err)
	}
	defer all.Close()
	if err := os.Mkdir(dir, 0o700); errors.Is(err, fs.ErrExist) {
		return nil, sandboxes.ErrExists
	} else if err != nil {
		return nil, err
	}
	lock, err := lockDir(ctx, dir, unix.LOCK_EX)
	if err != nil {
		_ = os.Remove(dir)
	}
	return lock, err
}

// start fills the directory and runs the sandbox. What it leaves behind when it
// fails is destroyed by the caller.
func (d *Driver) start(ctx context.Context, sb sandboxes.Sandbox, root Rootfs, limits sandboxes.Resources, c connection) error {
	dir := d.dir(sb.Spec.ID)
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
	if err := writeJSON(filepath.Join(dir, bundleName), "config.json", bundle); err != nil {
		return err
	}
	if err := writeJSON(dir, planName, d.plan(sb.Spec.ID, limits, c)); err != nil {
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
	if err := writeJSON(dir, sandboxName, sb); err != nil {
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

	cmd := exec.Command(d.opts.Supervisor, SupervisorCommand, d.dir(id))
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
