package containerd_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"kernelgw/sandboxes"
	"kernelgw/sandboxes/containerd"
)

const diskBytes = 48 << 20

// onDisk creates a sandbox with a limit on its disk and an agent that waits.
func (b backend) onDisk(t *testing.T, d *containerd.Driver) sandboxes.Sandbox {
	t.Helper()
	if !d.Capabilities().DiskLimit {
		notChecked(t, "limits of disks: this host makes none; see the log for why")
	}
	sb, err := d.Create(t.Context(), sandboxes.Spec{
		ID: testID(t), AgentConfig: []byte(`{}`),
		Resources: sandboxes.Resources{MemoryBytes: 96 << 20, DiskBytes: diskBytes},
	})
	if err != nil {
		t.Fatal(err)
	}
	return sb
}

// loopsOf lists the loop devices over files in a directory.
func loopsOf(t *testing.T, dir string) []string {
	t.Helper()
	files, err := filepath.Glob("/sys/block/loop*/loop/backing_file")
	if err != nil {
		t.Fatal(err)
	}
	var found []string
	for _, f := range files {
		if of, err := os.ReadFile(f); err == nil && strings.HasPrefix(string(of), dir) {
			found = append(found, fmt.Sprintf("%s over %s", f, strings.TrimSpace(string(of))))
		}
	}
	return found
}

// noLoops waits for the loop devices of a directory to go, which the kernel lets
// go of after the last mount.
func noLoops(t *testing.T, dir string) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		left := loopsOf(t, dir)
		if len(left) == 0 {
			return
		}
		if time.Now().After(deadline) {
			t.Errorf("left behind: %q", left)
			return
		}
	}
}

// A disk has the room that was asked for and little more, stays with its sandbox
// when the gateway is another, and goes with it.
func TestDiskLastsAsLongAsItsSandbox(t *testing.T) {
	forEach(t, func(t *testing.T, b backend) {
		d, o := b.tiny(t)
		sb := b.onDisk(t, d)
		b.answers(t, sb)
		var fs unix.Statfs_t
		upper := filepath.Join(o.StateDir, sb.Spec.ID, "disk", "upper")
		if err := unix.Statfs(upper, &fs); err != nil {
			t.Fatal(err)
		}
		if room := int64(fs.Bavail) * fs.Bsize; room < diskBytes || room > diskBytes+diskBytes/8+4<<20 {
			t.Errorf("a disk of %d bytes has room for %d", diskBytes, room)
		}
		var used unix.Stat_t
		if err := unix.Stat(filepath.Join(o.StateDir, sb.Spec.ID, "disk.img"), &used); err != nil || used.Blocks*512 > diskBytes/4 {
			t.Errorf("an empty disk takes %d bytes of the host's, %v", used.Blocks*512, err)
		}
		if err := d.Close(); err != nil {
			t.Fatal(err)
		}
		again := newDriver(t, o)
		b.answers(t, sb)
		if err := again.Destroy(t.Context(), sb.Spec.ID); err != nil {
			t.Fatal(err)
		}
		b.nothingLeft(t, sb.Spec.ID)
		noLoops(t, o.StateDir)
	})
}

// A gateway that ends between two steps leaves a disk without a sandbox.
func TestDiskOfAnUnfinishedSandboxIsTakenAway(t *testing.T) {
	b := backend{runtime: "runc", daemon: v2().start(t)}
	d, o := b.tiny(t)
	sb := b.onDisk(t, d)
	if err := os.Remove(filepath.Join(o.StateDir, sb.Spec.ID, "sandbox.json")); err != nil {
		t.Fatal(err)
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	newDriver(t, o)
	b.nothingLeft(t, sb.Spec.ID)
	noLoops(t, o.StateDir)
	if entries, err := os.ReadDir(o.StateDir); err != nil || len(entries) > 1 {
		t.Errorf("the state directory holds %v, %v", entries, err)
	}
}

// A layer that does not fit is refused, and its disk is not left.
func TestCreateThatFailsLeavesNoDisk(t *testing.T) {
	b := backend{runtime: "runc", daemon: v2().start(t)}
	d, o := b.tiny(t)
	sb := b.onDisk(t, d)
	if err := d.Destroy(t.Context(), sb.Spec.ID); err != nil {
		t.Fatal(err)
	}
	layer := filepath.Join(t.TempDir(), "layer")
	writeFile(t, layer, []byte("no archive"))
	for range 5 {
		id := testID(t)
		spec := sandboxes.Spec{ID: id, AgentConfig: []byte(`{}`), Layer: layer, Resources: sandboxes.Resources{DiskBytes: diskBytes}}
		if _, err := d.Create(t.Context(), spec); err == nil {
			t.Error("a layer that is none was taken")
		}
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Millisecond)
		spec.ID, spec.Layer = testID(t), ""
		if _, err := d.Create(ctx, spec); err == nil {
			if err := d.Destroy(t.Context(), spec.ID); err != nil {
				t.Error(err)
			}
		}
		cancel()
		b.nothingLeft(t, id)
		b.nothingLeft(t, spec.ID)
	}
	noLoops(t, o.StateDir)
}

// An administrator who looks into a disk does not keep its sandbox.
func TestDiskThatIsLookedIntoGoes(t *testing.T) {
	b := backend{runtime: "runc", daemon: v2().start(t)}
	d, o := b.tiny(t)
	sb := b.onDisk(t, d)
	held, err := os.Open(filepath.Join(o.StateDir, sb.Spec.ID, "disk", "upper"))
	if err != nil {
		t.Fatal(err)
	}
	defer held.Close()
	if err := d.Destroy(t.Context(), sb.Spec.ID); err != nil {
		t.Fatal(err)
	}
	b.nothingLeft(t, sb.Spec.ID)
	if err := held.Close(); err != nil {
		t.Fatal(err)
	}
	noLoops(t, o.StateDir)
}
