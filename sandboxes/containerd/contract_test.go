package containerd_test

import (
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	client "github.com/containerd/containerd/v2/client"

	"kernelgw/sandboxes"
	"kernelgw/sandboxes/containerd"
	"kernelgw/sandboxes/sandboxtest"
)

// TestContractRuncDebian and the others hold the driver, with the real agent in
// the default image, to the contract of sandboxes.Driver.
func TestContractRuncDebian(t *testing.T) { contract(t, debian(), "runc") }

func TestContractRuncV2(t *testing.T) { contract(t, v2(), "runc") }

func contract(t *testing.T, d *daemon, runtime string) {
	d = d.start(t)
	admin := d.client(t)
	sandboxtest.Run(t, func(t *testing.T) sandboxtest.Harness {
		return sandboxtest.Harness{
			Python: true,
			New: func(t *testing.T, stateDir string) sandboxes.Driver {
				o := d.options(t, stateDir)
				o.Runtime = runtime
				driver, err := containerd.New(o)
				if err != nil {
					t.Fatal(err)
				}
				return driver
			},
			KillAgent: func(t *testing.T, _ sandboxes.Driver, sb sandboxes.Sandbox) {
				killTask(t, admin, "kgw-"+sb.Spec.ID+".agent")
			},
		}
	})
}

// killTask ends a task as kill -9 does.
func killTask(t testing.TB, admin *client.Client, name string) {
	t.Helper()
	container, err := admin.LoadContainer(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	task, err := container.Task(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := task.Kill(t.Context(), syscall.SIGKILL); err != nil {
		t.Fatalf("cannot kill %s: %v", name, err)
	}
}

// TestContractKataGoFake and TestContractKataRustFake run with a shim that does
// what Kata's two shims do differently (tools/containerd/fakekata).
func TestContractKataGoFake(t *testing.T) { contract(t, v2(), fakeKata(t, "go")) }

func TestContractKataRustFake(t *testing.T) { contract(t, v2(), fakeKata(t, "rs")) }

// fakeKata is the path of the fake shim of a flavour, "go" or "rs".
func fakeKata(t testing.TB, flavour string) string {
	t.Helper()
	path, err := filepath.Abs(filepath.Join(toolsDir, "kata", flavour, "containerd-shim-kata-v2"))
	if err == nil {
		_, err = os.Stat(path)
	}
	if err != nil {
		notChecked(t, fmt.Sprintf("the fake Kata shim is missing (%v); scripts/setup-containerd.sh builds it", err))
	}
	return path
}
