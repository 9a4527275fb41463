package containerd_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
	"time"

	client "github.com/containerd/containerd/v2/client"

	"kernelgw/sandboxes"
	"kernelgw/sandboxes/containerd"
	"kernelgw/sandboxes/netpolicy"
	"kernelgw/sandboxes/netpolicy/netpolicytest"
	"kernelgw/sandboxes/sandboxtest"
)

// TestContractRuncDebian and the others hold the driver, with the real agent in
// the default image, to the contract of sandboxes.Driver.
func TestContractRuncDebian(t *testing.T) {
	contract(t, backend{runtime: "runc", daemon: debian().start(t)}, slices.Concat(ofNeitherDaemonNorShim, ofTheSpecification)...)
}

func TestContractRuncV2(t *testing.T) {
	contract(t, backend{runtime: "runc", daemon: v2().start(t)})
}

// TestContractKataGoFake and TestContractKataRustFake run with a shim that does
// what Kata's two shims do differently (tools/containerd/fakekata).
func TestContractKataGoFake(t *testing.T) {
	contract(t, backend{kata: true, runtime: fakeKata(t, "go"), daemon: v2().start(t)}, slices.Concat(ofNeitherDaemonNorShim, ofTheSpecification)...)
}

func TestContractKataRustFake(t *testing.T) {
	contract(t, backend{kata: true, runtime: fakeKata(t, "rs"), daemon: v2().start(t)}, ofNeitherDaemonNorShim...)
}

// TestContractKata runs with the Kata of this host; see make conformance-kata.
func TestContractKata(t *testing.T) {
	contract(t, realKata(t))
}

// ofNeitherDaemonNorShim are the parts of the contract that ask nothing of
// containerd or of its shims, and are the same code and kernel in all of these
// tests: TestContractRuncV2 has them, and TestContractKata.
var ofNeitherDaemonNorShim = []string{
	"NameAndCapabilitiesAreStable",
	"KernelspecsAreReadable",
	"UnknownImageIsNotFound",
	"InvalidIDsAreRefused",
	"UnknownSandbox",
	"CellSearchesForTheAgentToken",
	"CellReachesWhatItsPolicyNames",
	"SecretReachesItsHostOnly",
}

// ofTheSpecification are the parts that depend on what runc is told: the same for
// both versions of containerd, and what Kata makes of it the same for both fakes.
// TestContractRuncV2 and TestContractKataRustFake have them.
var ofTheSpecification = []string{"AgentAnswersThroughFloods", "CellTriesToGetOut"}

// contract runs the suite with the network that production has.
func contract(t *testing.T, b backend, elsewhere ...string) {
	admin := b.daemon.client(t)
	sandboxtest.Run(t, func(t *testing.T) sandboxtest.Harness {
		outside := sandboxtest.NewOutside(t)
		return sandboxtest.Harness{
			Python: true, GuestKernel: b.kata, Patience: b.slow, StartTimeout: b.patience(time.Minute), Outside: outside,
			Elsewhere: elsewhere,
			Denied: func(t *testing.T, d sandboxes.Driver, id string) uint64 {
				return netpolicytest.Denied(t, d.(networked).network, id)
			},
			New: func(t *testing.T, stateDir string) sandboxes.Driver {
				return openNetworked(t, b, stateDir, outside)
			},
			KillAgent: func(t *testing.T, _ sandboxes.Driver, sb sandboxes.Sandbox) {
				killAgent(t, admin, sb.Spec.ID)
			},
		}
	})
}

// networked is a driver that has a network of its own.
type networked struct {
	*containerd.Driver
	network *netpolicy.Network
}

func (n networked) Close() error { return errors.Join(n.Driver.Close(), n.network.Close()) }

func openNetworked(t *testing.T, b backend, dir string, outside *sandboxtest.Outside) networked {
	t.Helper()
	network := netpolicytest.Open(t, filepath.Join(dir, "net"), outside)
	o := b.options(t, filepath.Join(dir, "box"))
	o.Network = network
	o.Defaults.DiskBytes = 256 << 20 // a disk of its own for each, as in production
	d, err := containerd.New(o)
	if err != nil {
		_ = network.Close()
		t.Fatal(err)
	}
	return networked{d, network}
}

// killAgent ends the agent of a sandbox as kill -9 does.
func killAgent(t testing.TB, admin *client.Client, id string) {
	t.Helper()
	list, err := admin.Containers(t.Context(), fmt.Sprintf("labels.%q==%q,id~=%q", "kernelgw/sandbox", id, `\.w$`))
	if err != nil || len(list) != 1 {
		t.Fatalf("sandbox %s has %d containers with an agent, %v", id, len(list), err)
	}
	task, err := list[0].Task(t.Context(), nil)
	if err == nil {
		err = task.Kill(t.Context(), syscall.SIGKILL)
	}
	if err != nil {
		t.Fatalf("cannot kill the agent of %s: %v", id, err)
	}
}

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
