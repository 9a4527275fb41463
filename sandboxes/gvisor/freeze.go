package gvisor

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/klauspost/compress/zstd"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"kernelgw/sandboxes"
	"kernelgw/sandboxes/statedir"
)

// Freeze implements sandboxes.Driver.
func (d *Driver) Freeze(ctx context.Context, id string) error {
	if err := d.turn(ctx, id, "pause", specs.ContainerState("paused")); err != nil {
		return fmt.Errorf("cannot freeze sandbox %q: %w", id, err)
	}
	return nil
}

// Thaw implements sandboxes.Driver.
func (d *Driver) Thaw(ctx context.Context, id string) error {
	if err := d.turn(ctx, id, "resume", specs.StateRunning); err != nil {
		return fmt.Errorf("cannot thaw sandbox %q: %w", id, err)
	}
	return nil
}

// turn brings a sandbox into a state, in which it may be already.
func (d *Driver) turn(ctx context.Context, id, command string, into specs.ContainerState) error {
	err := d.control(ctx, id, control{}, command)
	if err == nil || errors.Is(err, sandboxes.ErrNotFound) {
		return err
	}
	var answer bytes.Buffer
	var state specs.State
	if d.control(ctx, id, control{stdout: &answer}, "state") == nil && json.Unmarshal(answer.Bytes(), &state) == nil && state.Status == into {
		return nil
	}
	return err
}

// ExportLayer implements sandboxes.Driver.
func (d *Driver) ExportLayer(ctx context.Context, id string, w io.Writer) error {
	if err := d.exportLayer(ctx, id, w); err != nil {
		return fmt.Errorf("cannot export the layer of sandbox %q: %w", id, err)
	}
	return nil
}

func (d *Driver) exportLayer(ctx context.Context, id string, w io.Writer) error {
	compressed, err := zstd.NewWriter(w, zstd.WithEncoderLevel(zstd.SpeedFastest))
	if err != nil {
		return err
	}
	tar, output, err := os.Pipe()
	if err != nil {
		return err
	}
	defer tar.Close()
	copied := make(chan error, 1)
	go func() {
		_, err := io.Copy(compressed, tar)
		// A reader that has gone is what tells runsc that w takes no more.
		copied <- errors.Join(err, tar.Close())
	}()
	// Not its standard output, to which runsc writes words of its own, too.
	err = d.control(ctx, id, control{file: output}, "tar", "rootfs-upper", "--file=/proc/self/fd/3")
	err = errors.Join(err, output.Close())
	return errors.Join(err, <-copied, compressed.Close())
}

// importLayer unpacks an exported layer into the sandbox's directory, where
// runsc takes it from. It is read inside the sandbox only.
func (d *Driver) importLayer(path, dir string, limits sandboxes.Resources) error {
	from, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("cannot read the layer: %w", err)
	}
	defer from.Close()
	tar, err := zstd.NewReader(from)
	if err != nil {
		return fmt.Errorf("%w: the layer is not compressed with zstd: %w", sandboxes.ErrInvalid, err)
	}
	defer tar.Close()
	to, err := os.OpenFile(filepath.Join(dir, layerName), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return fmt.Errorf("cannot unpack the layer: %w", err)
	}
	// Headers and padding take as much again at the very most.
	most := 2 * limits.DiskBytes
	n, err := io.Copy(to, io.LimitReader(tar, most+1))
	if err = errors.Join(err, to.Close()); err != nil {
		return fmt.Errorf("cannot unpack the layer: %w", err)
	}
	if n > most {
		return fmt.Errorf("%w: the layer is larger than the sandbox's disk", sandboxes.ErrInvalid)
	}
	return nil
}

// control is where the output of a command of runsc's goes; nil is nowhere.
type control struct {
	stdout io.Writer
	file   *os.File // descriptor 3
}

// control runs a command of runsc's on a running sandbox.
func (d *Driver) control(ctx context.Context, id string, to control, words ...string) error {
	if !d.state.Exists(id) {
		return sandboxes.ErrNotFound
	}
	dir := d.state.Path(id)
	if _, err := statedir.ReadExit(dir); err == nil {
		return fmt.Errorf("it has ended: %w", sandboxes.ErrNotFound)
	}
	args := append(commonFlags(d.rootless), "--root="+runscName)
	cmd := exec.CommandContext(ctx, d.opts.Runsc, append(append(args, words...), containerName)...)
	cmd.Dir = dir
	cmd.Env = []string{"PATH=" + safePath}
	var stderr strings.Builder
	cmd.Stdout, cmd.Stderr = to.stdout, &stderr
	if to.file != nil {
		cmd.ExtraFiles = []*os.File{to.file}
	}
	if err := cmd.Run(); err != nil {
		said := stderr.String()
		return fmt.Errorf("runsc %s: %w: %s", words[0], errors.Join(ctx.Err(), err), strings.TrimSpace(said[:min(len(said), maxSaid)]))
	}
	return nil
}

// maxSaid bounds what an error repeats of runsc's words.
const maxSaid = 500
