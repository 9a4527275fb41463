package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"

	"kernelgw/sandboxes/containerd"
	"kernelgw/sandboxes/netpolicy"
)

// leak is something on the host that belongs to no sandbox.
type leak struct {
	Kind string `json:"kind"`
	Name string `json:"name"`
}

// findLeaks lists what sandboxes have left that are no more, and removes it if
// asked to. It may run beside a gateway. Sandboxes of gVisor leave nothing that
// the driver's own sweep at its next start does not find.
func findLeaks(ctx context.Context, c *Config, repair bool) ([]leak, error) {
	list := []leak{}
	subnet, err := netip.ParsePrefix(c.NetworkSubnet)
	if err != nil {
		return nil, fmt.Errorf("network_subnet: %w", err)
	}
	if os.Geteuid() == 0 {
		look := netpolicy.Leaks
		if repair {
			look = netpolicy.Repair
		}
		found, err := look(netpolicy.Options{StateDir: filepath.Join(c.DataDir, "network"), Name: c.NetworkName, Subnet: subnet})
		if err != nil {
			return nil, err
		}
		for _, l := range found {
			list = append(list, leak{l.Kind, l.Name})
		}
	}
	if _, err := os.Stat(filepath.Join(c.DataDir, "sandboxes", containerd.Name)); err != nil {
		return list, nil
	}
	found, err := containerdLeaks(ctx, c, repair)
	if err != nil {
		return nil, err
	}
	return append(list, found...), nil
}

func containerdLeaks(ctx context.Context, c *Config, repair bool) ([]leak, error) {
	agent, err := findAgent(c.Agent)
	if err != nil {
		return nil, err
	}
	looking := *c
	looking.Runtime = cmp.Or(c.Runtime, "runc") // none is started
	images, err := imageStore(c)
	if err != nil {
		return nil, err
	}
	options, err := containerdOptions(&looking, agent, images, nil, slog.New(slog.DiscardHandler))
	if err != nil {
		return nil, err
	}
	driver, err := containerd.Inspect(options)
	if err != nil {
		return nil, err
	}
	defer driver.Close()
	look := driver.Leaks
	if repair {
		look = driver.Repair
	}
	found, err := look(ctx)
	list := make([]leak, len(found))
	for i, l := range found {
		list[i] = leak{l.Kind, l.Name}
	}
	return list, err
}

func printLeaks(w io.Writer, list []leak, repaired bool) {
	did := "left behind"
	if repaired {
		did = "removed"
	}
	for _, l := range list {
		fmt.Fprintf(w, "%s: %s %s\n", did, l.Kind, l.Name)
	}
	if len(list) == 0 {
		fmt.Fprintln(w, "nothing is left behind")
	}
}
