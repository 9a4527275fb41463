package gvisor

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/klauspost/compress/zstd"

	"kernelgw/sandboxes"
)

// Freeze implements sandboxes.Driver.
func (d *Driver) Freeze(ctx context.Context, id string) error {
	if err := d.control(ctx, id, io.Discard, "pause"); err != nil {
		return fmt.Errorf("cannot freeze sandbox %q: %w", id, err)
	}
	return nil
}

// Thaw implements sandboxes.Driver.
func (d *Driver) Thaw(ctx context.Context, id string) error {
	if err := d.control(ctx, id, io.Discard, "resume"); err != nil {
		return fmt.Errorf("cannot thaw sandbox %q: %w", id, err)
	}
	return nil
}

// ExportLayer implements sandboxes.Driver.
func (d *Driver) ExportLayer(ctx context.Context, id string, w io.Writer) error {
	compressed, err := zstd.NewWriter(w, zstd.WithEncoderLevel(zstd.SpeedFastest))
	if err != nil {
		return fmt.Errorf("cannot export the layer of sandbox %q: %w", id, err)
	}
	err = d.control(ctx, id, compressed, "tar", "rootfs-upper")
	if err = errors.Join(err, compressed.Close()); err != nil {
		return fmt.Errorf("cannot export the layer of sandbox %q: %w", id, err)
	}
	return nil
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

// control runs a command of runsc's on a running sandbox.
func (d *Driver) control(ctx context.Context, id string, stdout io.Writer, words ...string) error {
	if !d.exists(id) {
		return sandboxes.ErrNotFound
	}
	dir := d.dir(id)
	if _, err := os.Stat(filepath.Join(dir, exitName)); err == nil {
		return fmt.Errorf("it has ended: %w", sandboxes.ErrNotFound)
	}
	args := append(commonFlags(d.rootless), "--root="+runscName)
	cmd := exec.CommandContext(ctx, d.opts.Runsc, append(append(args, words...), containerName)...)
	cmd.Dir = dir
	cmd.Env = []string{"PATH=" + safePath}
	var stderr strings.Builder
	cmd.Stdout, cmd.Stderr = stdout, &stderr
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("runsc %s: %w: %s", words[0], errors.Join(ctx.Err(), err), firstBytes(stderr.String(), 500))
	}
	return nil
}

func firstBytes(s string, n int) string { return strings.TrimSpace(s[:min(len(s), n)]) }
