package gvisor_test

import (
	"errors"
	"path/filepath"
	"testing"

	"kernelgw/sandboxes"
	"kernelgw/sandboxes/gvisor"
	"kernelgw/sandboxes/netpolicy"
	"kernelgw/sandboxes/netpolicy/netpolicytest"
	"kernelgw/sandboxes/sandboxtest"
)

// networked is a driver that has a network of its own.
type networked struct {
	*gvisor.Driver
	network *netpolicy.Network
	dir     string // of the driver's state
}

func (n networked) Close() error { return errors.Join(n.Driver.Close(), n.network.Close()) }

// openNetworked opens a driver over dir whose sandboxes have a network.
func openNetworked(t testing.TB, dir string, agent string, images gvisor.Images, outside *sandboxtest.Outside) networked {
	t.Helper()
	network := netpolicytest.Open(t, filepath.Join(dir, "net"), outside)
	d, err := gvisor.New(gvisor.Options{
		StateDir: filepath.Join(dir, "box"), Runsc: runsc(t), AgentPath: agent, Images: images, Network: network,
	})
	if err != nil {
		_ = network.Close()
		t.Fatal(err)
	}
	return networked{d, network, filepath.Join(dir, "box")}
}

// TestContractWithNetwork holds the driver to the contract when sandboxes have a
// network and agents listen on TCP.
func TestContractWithNetwork(t *testing.T) {
	if !sandboxtest.Networked() {
		t.Skip("NOT CHECKED: sandboxes with a network: only root can make network namespaces")
	}
	sandboxtest.Run(t, func(t *testing.T) sandboxtest.Harness {
		store, agent := realImages(t), realAgent(t)
		outside := sandboxtest.NewOutside(t)
		return sandboxtest.Harness{
			Python:  true,
			Outside: outside,
			Denied: func(t *testing.T, d sandboxes.Driver, id string) uint64 {
				return netpolicytest.Denied(t, d.(networked).network, id)
			},
			New: func(t *testing.T, stateDir string) sandboxes.Driver {
				return openNetworked(t, stateDir, agent, store, outside)
			},
			KillAgent: func(t *testing.T, d sandboxes.Driver, sb sandboxes.Sandbox) {
				killAgent(t, filepath.Join(d.(networked).dir, sb.Spec.ID))
			},
		}
	})
}
