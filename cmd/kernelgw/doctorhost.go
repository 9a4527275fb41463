package main

import (
	"context"
	"fmt"
	"os"
	"strings"

	"kernelgw/sandboxes/containerd"
	"kernelgw/sandboxes/netpolicy"
)

// virtualMachines says whether microVMs can run here.
func virtualMachines() []finding {
	var list []finding
	for _, device := range []struct{ name, path, why string }{
		{"KVM", "/dev/kvm", "Kata needs it, gVisor does not"},
		{"vhost-vsock", "/dev/vhost-vsock", "Kata needs it: modprobe vhost_vsock"},
		{"vhost-net", "/dev/vhost-net", "Kata's network is slower without: modprobe vhost_net"},
	} {
		f := finding{Name: device.name}
		if file, err := os.OpenFile(device.path, os.O_RDWR, 0); err != nil {
			f.Detail = "no: " + err.Error() + "; " + device.why
		} else {
			_ = file.Close()
			f.OK, f.Detail = true, device.path+" can be opened"
		}
		list = append(list, f)
	}
	return list
}

// virtualMachineManagers says what containerd and Kata there are.
func virtualMachineManagers(r containerd.Report) []finding {
	list := []finding{{"containerd", r.Version != "", r.Problem}}
	if r.Version != "" {
		list[0].Detail = "version " + r.Version
		disk := finding{"containerd disk limit", r.Disk == "", "a file system of its own for each sandbox, on a loop device"}
		if !disk.OK {
			disk.Detail = "what sandboxes write is not limited: " + r.Disk
		}
		list = append(list, disk)
	}
	if len(r.Kata) == 0 {
		return append(list, finding{"Kata", false, "not found: docs/kata.md says how to install it"})
	}
	for _, h := range r.Kata {
		f := finding{h.Name, h.Problem == "", h.Problem}
		if f.OK {
			f.Detail = fmt.Sprintf("Kata %s, %s", h.Version, h.Config)
		}
		list = append(list, f)
	}
	return list
}

// sandboxNetwork tries every rule that closes the network of sandboxes, in
// namespaces made for it.
func sandboxNetwork(ctx context.Context) finding {
	const name = "sandbox network"
	if os.Geteuid() != 0 {
		return finding{name, false, "sandboxes have none: only root can make network namespaces"}
	}
	checks, err := netpolicy.SelfTest(ctx)
	if err != nil {
		return finding{name, false, err.Error()}
	}
	var bad []string
	for _, c := range checks {
		if c.Problem != "" {
			bad = append(bad, c.Name+": "+c.Problem)
		}
	}
	if len(bad) > 0 {
		return finding{name, false, strings.Join(bad, "; ")}
	}
	return finding{name, true, fmt.Sprintf("closed: %d attempts were refused or let through as they should be", len(checks))}
}
