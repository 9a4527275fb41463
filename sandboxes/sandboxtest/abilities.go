package sandboxtest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"kernelgw/sandboxes"
)

// testUnusualIDs: whatever ValidID takes, a driver takes.
func testUnusualIDs(b *bench) {
	for _, change := range []func(id string) string{
		func(id string) string { return id + "-" },
		func(id string) string { return id + "--x" },
		func(id string) string { return "0-" + id },
		func(id string) string { return id + strings.Repeat("a", 63-len(id)) },
	} {
		spec := b.spec()
		spec.ID = change(spec.ID)
		b.ids = append(b.ids, spec.ID)
		if !sandboxes.ValidID(spec.ID) {
			b.Fatalf("%q is not valid", spec.ID)
		}
		sb := b.create(spec)
		b.listed(sb)
		b.answers(sb)
		b.destroy(spec.ID)
		b.listed()
	}
}

// silentFor is how long a frozen agent must not answer.
const silentFor = 500 * time.Millisecond

func testFreeze(b *bench) {
	can := b.d.Capabilities().Freeze
	for name, call := range map[string]func(context.Context, string) error{"Freeze": b.d.Freeze, "Thaw": b.d.Thaw} {
		want := sandboxes.ErrNotFound
		if !can {
			want = sandboxes.ErrInvalid
		}
		if err := call(b.ctx, b.newID()); !errors.Is(err, want) {
			b.Errorf("%s of a sandbox that never was: %v, want %v", name, err, want)
		}
	}
	sb, agent := b.start()
	id := sb.Spec.ID
	if !can {
		if err := b.d.Freeze(b.ctx, id); !errors.Is(err, sandboxes.ErrInvalid) {
			b.Errorf("Freeze without the ability: %v, want ErrInvalid", err)
		}
		return
	}
	if err := b.d.Thaw(b.ctx, id); err != nil {
		b.Errorf("Thaw of what is not frozen: %v", err)
	}
	for range 2 {
		if err := b.d.Freeze(b.ctx, id); err != nil {
			b.Fatalf("Freeze: %v", err)
		}
	}
	ctx, cancel := context.WithTimeout(b.ctx, silentFor)
	if _, err := agent.status(ctx); err == nil {
		b.Error("a frozen agent answers")
	}
	cancel()
	if exit, err := b.wait(id, 50*time.Millisecond); !errors.Is(err, context.DeadlineExceeded) {
		b.Errorf("Wait for a frozen sandbox: %+v, %v; want context.DeadlineExceeded", exit, err)
	}
	b.listed(sb)
	b.reopen()
	for range 2 {
		if err := b.d.Thaw(b.ctx, id); err != nil {
			b.Fatalf("Thaw by a new Driver: %v", err)
		}
	}
	if _, err := agent.status(b.ctx); err != nil {
		b.Errorf("a thawed agent does not answer: %v", err)
	}
	if err := b.d.Freeze(b.ctx, id); err != nil {
		b.Fatalf("Freeze again: %v", err)
	}
	b.destroy(id)

	ended, _ := b.start()
	b.h.KillAgent(b.T, b.d, ended)
	b.ended(ended.Spec.ID, b.h.patience(endTimeout))
	if err := b.d.Freeze(b.ctx, ended.Spec.ID); !errors.Is(err, sandboxes.ErrNotFound) {
		b.Errorf("Freeze of a sandbox that has ended: %v, want ErrNotFound", err)
	}
}

// testNoLayers is what holds of layers without an agent that runs cells.
func testNoLayers(b *bench) {
	can := b.d.Capabilities().Layers
	want := sandboxes.ErrNotFound
	if !can {
		want = sandboxes.ErrInvalid
	}
	if err := b.d.ExportLayer(b.ctx, b.newID(), io.Discard); !errors.Is(err, want) {
		b.Errorf("ExportLayer of a sandbox that never was: %v, want %v", err, want)
	}
	if !can {
		return
	}
	spec := b.spec()
	spec.Layer = filepath.Join(b.TempDir(), "layer")
	if err := os.WriteFile(spec.Layer, []byte("this is no archive"), 0o600); err != nil {
		b.Fatal(err)
	}
	if _, err := b.d.Create(b.ctx, spec); err == nil {
		b.Error("Create with a layer that is no archive succeeded")
	}
	b.listed()
	b.nothingLeft(spec.ID)
}

// testLayers: what code wrote is there again in another sandbox, however odd.
func testLayers(b *bench) {
	if !b.d.Capabilities().Layers {
		return
	}
	const write = `
import os, stat
os.makedirs("kept/deep/deeper", exist_ok=True)
open("kept/bytes", "wb").write(bytes(range(256)) * 4096)
open("kept/empty", "w").close()
open("kept/ä ö\n\u202e", "w").write("odd")
open("kept/program", "w").write("#!/bin/sh\necho ran\n")
os.chmod("kept/program", 0o750)
os.symlink("/etc/passwd", "kept/out")
os.symlink("../bytes", "kept/deep/in")
os.link("kept/bytes", "kept/deep/same")
os.mkfifo("kept/pipe")
os.utime("kept/empty", (1, 1_000_000_000))
print("written")
`
	const read = `
import os, stat, subprocess
s = os.stat
checks = {
    "bytes": open("kept/bytes", "rb").read() == bytes(range(256)) * 4096,
    "empty": s("kept/empty").st_size == 0,
    "time": int(s("kept/empty").st_mtime) == 1_000_000_000,
    "odd": open("kept/ä ö\n\u202e").read() == "odd",
    "mode": stat.S_IMODE(s("kept/program").st_mode) == 0o750,
    "runs": subprocess.run(["kept/program"], capture_output=True, text=True).stdout == "ran\n",
    "out": os.readlink("kept/out") == "/etc/passwd",
    "in": open("kept/deep/in", "rb").read() == open("kept/bytes", "rb").read(),
    "same": s("kept/deep/same").st_size == 256 * 4096,
    "own": all(s(p).st_uid == os.getuid() for p in ("kept", "kept/bytes", "kept/deep/deeper")),
    "writable": open("kept/bytes", "ab").write(b"x") == 1,
}
print([name for name, good in checks.items() if not good])
`
	first, agent := b.start()
	if out := b.cell(agent, write); out != "written" {
		b.Fatalf("the cell printed %q", out)
	}
	export := func() string {
		file := filepath.Join(b.TempDir(), "layer")
		var layer bytes.Buffer
		if err := b.d.ExportLayer(b.ctx, first.Spec.ID, &layer); err != nil {
			b.Fatalf("ExportLayer: %v", err)
		}
		if err := os.WriteFile(file, layer.Bytes(), 0o600); err != nil {
			b.Fatal(err)
		}
		return file
	}
	layers := []string{export()}
	if b.d.Capabilities().Freeze {
		if err := b.d.Freeze(b.ctx, first.Spec.ID); err != nil {
			b.Fatal(err)
		}
		layers = append(layers, export())
	}
	b.destroy(first.Spec.ID)
	for i, layer := range layers {
		spec := b.spec()
		spec.Layer = layer
		sb := b.create(spec)
		b.listed(sb)
		if out := b.cell(b.answers(sb), read); out != "[]" {
			b.Errorf("after the import of layer %d these are not as they were: %s", i, out)
		}
		b.destroy(spec.ID)
	}
}

// testFineLimits: those limits that are not the agent's to enforce.
func testFineLimits(b *bench) {
	if !b.d.Capabilities().ProcessLimit {
		return // a mode that limits nothing by itself
	}
	spec := b.spec()
	spec.Resources = sandboxes.Resources{ShmBytes: 24 << 20, OpenFiles: 300}
	sb := b.create(spec)
	out := b.cell(b.answers(sb), `
import os, resource, subprocess, sys
print(resource.getrlimit(resource.RLIMIT_NOFILE))
shm = os.statvfs("/dev/shm")
print(shm.f_blocks * shm.f_frsize >> 20)
try:
    with open("/dev/shm/x", "wb") as f:
        for _ in range(64):
            f.write(bytes(1 << 20))
    print("wrote 64 MiB")
except OSError as e:
    print(e.errno)
os.remove("/dev/shm/x")
# In a process of its own: without descriptors the kernel cannot send output.
print(subprocess.run([sys.executable, "-c", """
import os
held = []
try:
    while len(held) < 400:
        held.append(os.open("/dev/null", os.O_RDONLY))
    print("opened 400")
except OSError as e:
    print(e.errno)
"""], capture_output=True, text=True).stdout.strip())
`)
	// The agent may have seen that /dev/shm was full, and said so in between.
	lines := slices.DeleteFunc(strings.Split(out, "\n"), func(line string) bool { return strings.HasPrefix(line, "the disk is full:") })
	if want := []string{"(300, 300)", "24", "28", "24"}; !slices.Equal(lines, want) { // ENOSPC, EMFILE
		b.Errorf("limits of 300 open files and 24 MiB of shared memory look like %q, want %q", lines, want)
	}
}

// cell runs a cell that must succeed, and returns what it printed.
func (b *bench) cell(agent *client, code string) string {
	b.Helper()
	ctx, cancel := context.WithTimeout(b.ctx, b.h.StartTimeout)
	defer cancel()
	out, err := agent.execute(ctx, code)
	if err != nil {
		b.Fatal(fmt.Errorf("the cell failed: %w\n%s", err, out))
	}
	return strings.TrimSpace(out)
}
