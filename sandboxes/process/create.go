package process

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"kernelgw/sandboxes"
	"kernelgw/sandboxes/hostproc"
	"kernelgw/sandboxes/statedir"
)

// marker is the environment variable by which the processes of a sandbox are
// found when their parents are gone. Its value is the sandbox's id.
const marker = "KERNELGW_SANDBOX"

// cleanupTimeout bounds what is done after a context has ended.
const cleanupTimeout = 10 * time.Second

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
		return sandboxes.Sandbox{}, fmt.Errorf("id %q: %w", spec.ID, sandboxes.ErrInvalid)
	}
	if spec.Image != "" && spec.Image != Image {
		return sandboxes.Sandbox{}, fmt.Errorf("driver process runs no image %q: %w", spec.Image, sandboxes.ErrNotFound)
	}
	dir, err := d.claim(spec)
	if err != nil {
		return sandboxes.Sandbox{}, err
	}
	defer dir.Close()
	b := d.box(spec.ID)
	if err := d.launch(ctx, spec.ID, dir); err != nil {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanupTimeout)
		defer cancel()
		return sandboxes.Sandbox{}, errors.Join(err, d.remove(ctx, spec.ID))
	}
	return b.sandbox()
}

// claim makes the directory of a sandbox, locked.
func (d *Driver) claim(spec sandboxes.Spec) (*os.File, error) {
	dir, err := os.MkdirTemp(d.opts.StateDir, newPrefix) // mode 0700
	if err != nil {
		return nil, err
	}
	b := box{dir}
	home := d.opts.WorkDir
	if d.opts.Homes {
		home = d.box(spec.ID).path(homeName)
	}
	held, err := os.Open(dir)
	if err == nil {
		_, err = tryLock(held)
	}
	if err == nil {
		err = statedir.WriteOnce(b.path(recordName), record{
			Spec:      spec,
			CreatedAt: time.Now().UTC(),
			Agent: []string{
				// The socket's path is relative, and so never too long to bind.
				d.opts.AgentPath, "--config", configName, "--listen", "unix:" + socketName,
				"--home", home, "--runtime-dir", d.box(spec.ID).path(runtimeName),
			},
		})
	}
	if err == nil {
		err = os.WriteFile(b.path(configName), spec.AgentConfig, 0o600)
	}
	if err == nil && d.opts.Homes {
		err = os.Mkdir(b.path(homeName), 0o700)
	}
	if err == nil {
		// Never onto an empty directory: those that bear an id hold a record
		// until they are renamed to something else.
		err = os.Rename(dir, d.box(spec.ID).dir)
		if errors.Is(err, fs.ErrExist) || errors.Is(err, unix.ENOTEMPTY) {
			err = sandboxes.ErrExists
		}
	}
	if err != nil {
		_ = held.Close()
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	return held, nil
}

// launch starts the supervisor and returns when that has started the agent.
// The supervisor inherits the lock, so that the sandbox counts as being created
// for as long as there is somebody to finish that.
func (d *Driver) launch(ctx context.Context, id string, lock *os.File) error {
	report, theirs, err := os.Pipe()
	if err != nil {
		return err
	}
	defer report.Close()
	cmd := exec.Command(d.opts.Supervisor, SupervisorCommand, d.box(id).dir)
	cmd.Dir = d.box(id).dir
	cmd.Env = append(slices.Clone(d.opts.Env), marker+"="+id)
	cmd.ExtraFiles = []*os.File{reportFD - 3: theirs, lockFD - 3: lock}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	err = cmd.Start()
	_ = theirs.Close()
	if err != nil {
		return fmt.Errorf("cannot start the supervisor: %w", err)
	}
	d.mu.Lock()
	d.children[id] = cmd.Process.Pid
	d.mu.Unlock()
	_ = cmd.Process.Release() // reap collects it by its pid
	stop := context.AfterFunc(ctx, func() { _ = report.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	text, err := io.ReadAll(io.LimitReader(report, 4096))
	switch {
	case ctx.Err() != nil && string(text) != started:
		return ctx.Err()
	case string(text) == started:
		return nil
	case err != nil:
		return fmt.Errorf("cannot read the supervisor's report: %w", err)
	case len(text) == 0:
		return fmt.Errorf("the supervisor, %s %s, ended without a word", d.opts.Supervisor, SupervisorCommand)
	default:
		return errors.New(strings.TrimSpace(string(text)))
	}
}

// Destroy implements sandboxes.Driver.
func (d *Driver) Destroy(ctx context.Context, id string) error {
	if !sandboxes.ValidID(id) {
		return nil // there cannot be one
	}
	lock, err := statedir.LockDir(ctx, d.box(id).dir)
	if errors.Is(err, fs.ErrNotExist) {
		d.reap(id)
		return nil
	}
	if err == nil {
		defer lock.Close()
		d.askToEnd(ctx, id)
		err = d.remove(ctx, id)
	}
	if err != nil {
		return fmt.Errorf("cannot destroy sandbox %s: %w", id, err)
	}
	return nil
}

// askToEnd gives the agent time to end its kernel, which may have files to
// flush, and then gives its supervisor time to kill and reap what is left. What
// comes of it does not matter: remove kills whoever still runs.
func (d *Driver) askToEnd(ctx context.Context, id string) {
	procs, err := d.box(id).processes()
	if err != nil || procs.Supervisor.Signal(unix.SIGTERM) != nil {
		return
	}
	if waitAtMost(ctx, procs.Supervisor, d.opts.Grace) == nil {
		return
	}
	d.opts.Log.Warn("agent does not end and is killed", "sandbox", id)
	if procs.Agent.Signal(unix.SIGKILL) == nil {
		_ = waitAtMost(ctx, procs.Supervisor, lingering)
	}
}

func waitAtMost(ctx context.Context, p hostproc.ID, d time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, d)
	defer cancel()
	return p.Wait(ctx)
}

// remove kills what runs of a sandbox whose lock is held, and removes it.
func (d *Driver) remove(ctx context.Context, id string) error {
	b := d.box(id)
	procs, err := b.processes()
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		d.opts.Log.Warn("sandbox is damaged: its processes are found by their environment", "sandbox", id, "error", err)
	}
	if err := hostproc.KillAll(ctx,
		hostproc.Descendants(procs.Supervisor, procs.Agent),
		hostproc.WithEnv(marker, id),
	); err != nil {
		return err
	}
	d.reap(id)
	// At once, so that no half of it can be seen.
	gone := filepath.Join(d.opts.StateDir, gonePrefix+filepath.Base(b.dir))
	if err := os.RemoveAll(gone); err != nil {
		return err
	}
	if err := os.Rename(b.dir, gone); err != nil {
		return err
	}
	return os.RemoveAll(gone)
}

// sweep removes directories that a dead gateway was making or removing.
func (d *Driver) sweep() error {
	entries, err := os.ReadDir(d.opts.StateDir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), newPrefix) && !strings.HasPrefix(e.Name(), gonePrefix) {
			continue
		}
		if err := removeUnlocked(filepath.Join(d.opts.StateDir, e.Name())); err != nil {
			return err
		}
	}
	return nil
}

// removeUnlocked removes a directory, unless somebody is at work on it.
func removeUnlocked(dir string) error {
	ctx, cancel := context.WithTimeout(context.Background(), statedir.Patience)
	defer cancel()
	lock, err := statedir.LockDir(ctx, dir)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, context.DeadlineExceeded) {
		return nil
	}
	if err != nil {
		return err
	}
	defer lock.Close()
	return os.RemoveAll(dir)
}
