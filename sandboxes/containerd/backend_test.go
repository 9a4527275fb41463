package containerd_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	client "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/errdefs"

	"kernelgw/sandboxes/containerd"
	"kernelgw/sandboxes/sandboxtest"
)

// backend is a containerd with a runtime.
type backend struct {
	name    string
	kata    bool
	real    bool   // Kata itself, on this host
	runtime string // for Options.Runtime
	config  string // for Options.RuntimeConfigPath
	daemon  *daemon
	slow    int // see sandboxtest.Harness.Patience
}

// forEach runs a test over every backend that is here.
func forEach(t *testing.T, test func(t *testing.T, b backend)) {
	if onHost() {
		t.Run("Kata", func(t *testing.T) { test(t, realKata(t)) })
		return
	}
	t.Run("RuncDebian", func(t *testing.T) { test(t, backend{runtime: "runc", daemon: debian().start(t)}) })
	t.Run("RuncV2", func(t *testing.T) { test(t, backend{runtime: "runc", daemon: v2().start(t)}) })
	for _, flavour := range []string{"go", "rs"} {
		t.Run("FakeKata-"+flavour, func(t *testing.T) {
			test(t, backend{name: flavour, kata: true, runtime: fakeKata(t, flavour), daemon: v2().start(t)})
		})
	}
}

// realKata is the Kata of this host, as the environment names it.
func realKata(t testing.TB) backend {
	t.Helper()
	socket := os.Getenv("KERNELGW_KATA_SOCKET")
	if socket == "" {
		notChecked(t, "Kata: KERNELGW_KATA_SOCKET is not set; run make conformance-kata on a host that has it")
	}
	if !sandboxtest.Networked() {
		t.Fatal("conformance with Kata needs root: containerd's socket and network namespaces")
	}
	b := backend{
		name: "Kata", kata: true, real: true, slow: 10,
		runtime: os.Getenv("KERNELGW_KATA_RUNTIME"), config: os.Getenv("KERNELGW_KATA_CONFIG"),
		daemon: &daemon{name: "KATA", address: socket},
	}
	if b.runtime == "" {
		b.runtime = "kata-qemu-runtime-rs"
	}
	return b
}

// options are those of a driver on this backend with the real image and agent.
func (b backend) options(t testing.TB, stateDir string) containerd.Options {
	t.Helper()
	o := b.daemon.options(t, stateDir)
	o.Runtime, o.RuntimeConfigPath = b.runtime, b.config
	if b.real {
		// The Go shim's machines have 2 GiB more than this, on what may be a small host.
		o.Defaults.MemoryBytes = 768 << 20
	}
	return o
}

// patience is how long d is here.
func (b backend) patience(d time.Duration) time.Duration { return d * time.Duration(max(b.slow, 1)) }

// purge removes from a containerd that is not the tests' own what they made.
func purge(admin *client.Client) error {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	list, err := admin.ImageService().List(ctx)
	if err != nil {
		return err
	}
	for _, i := range list {
		if err := admin.ImageService().Delete(ctx, i.Name, images.SynchronousDelete()); err != nil {
			return err
		}
	}
	names, err := snapshotNames(ctx, admin)
	if err != nil {
		return err
	}
	for _, name := range names {
		if strings.HasPrefix(name, "kernelgw-") {
			if err := admin.SnapshotService("overlayfs").Remove(ctx, name); err != nil && !errdefs.IsNotFound(err) {
				return fmt.Errorf("snapshot %s: %w", name, err)
			}
		}
	}
	// The collector takes the layers, one below the other.
	for {
		err := admin.NamespaceService().Delete(ctx, namespace)
		if err == nil || errdefs.IsNotFound(err) {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("left behind: namespace %s of containerd: %w", namespace, err)
		case <-time.After(200 * time.Millisecond):
			if err := collect(ctx, admin); err != nil {
				return err
			}
		}
	}
}

// collect starts the collector, as any deletion does.
func collect(ctx context.Context, admin *client.Client) error {
	_, done, err := admin.WithLease(ctx)
	if err != nil {
		return err
	}
	return done(ctx)
}

// machineOf returns the pids of a sandbox's virtual machine.
func machineOf(id string) []int {
	return programsOf(id, "qemu-system", "cloud-hypervisor", "firecracker")
}

// shimsOf returns the pids of a sandbox's shim.
func shimsOf(id string) []int { return programsOf(id, "containerd-shim") }

// programsOf returns the processes of these programs that have the id of a
// sandbox among their arguments.
func programsOf(id string, programs ...string) []int {
	var found []int
	for _, pid := range processesWith(id) {
		base := filepath.Base(strings.Fields(cmdline(pid) + " -")[0])
		if slices.ContainsFunc(programs, func(p string) bool { return strings.HasPrefix(base, p) }) {
			found = append(found, pid)
		}
	}
	return found
}

func testID(t testing.TB) string {
	t.Helper()
	return fmt.Sprintf("f%d", time.Now().UnixNano())
}
