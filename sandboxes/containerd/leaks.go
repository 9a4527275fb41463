package containerd

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/containerd/containerd/v2/core/snapshots"

	"kernelgw/sandboxes"
	"kernelgw/sandboxes/hostproc"
)

// Leak is something that a sandbox left, which is no more or was never finished.
type Leak struct {
	Kind    string // "container", "snapshot", "lease", "process", "directory" or "control group"
	Name    string
	Sandbox string // its id
}

// Leaks lists what belongs to no sandbox of this driver: in containerd, what bears
// its labels; on the host, what bears its names. What the network left is the
// network's to tell.
func (d *Driver) Leaks(ctx context.Context) ([]Leak, error) {
	inside, err := d.leaksInside(ctx)
	if err != nil {
		return nil, fmt.Errorf("cannot look through containerd: %w", trim(err))
	}
	outside, err := d.leaksOnHost()
	if err != nil {
		return nil, fmt.Errorf("cannot look through this host: %w", err)
	}
	return append(inside, outside...), nil
}

// Repair removes what Leaks lists, and returns it.
func (d *Driver) Repair(ctx context.Context) ([]Leak, error) {
	// Nobody may be between making a directory and locking it.
	all, err := d.records.Exclude(ctx)
	if err != nil {
		return nil, err
	}
	defer all.Close()
	leaks, err := d.Leaks(ctx)
	if err != nil {
		return nil, err
	}
	var failed error
	done := map[string]bool{}
	for _, leak := range leaks {
		if done[leak.Sandbox] {
			continue
		}
		done[leak.Sandbox] = true
		if err := d.remove(ctx, leak.Sandbox); err != nil {
			failed = errors.Join(failed, fmt.Errorf("cannot remove what sandbox %s left: %w", leak.Sandbox, err))
		}
	}
	return leaks, failed
}

func (d *Driver) leaksInside(ctx context.Context) ([]Leak, error) {
	var leaks []Leak
	note := func(kind, name string, labels map[string]string) {
		if id := labels[sandboxLabel]; labels[ownerLabel] == d.owner && sandboxes.ValidID(id) && !d.records.Taken(id) {
			leaks = append(leaks, Leak{Kind: kind, Name: name, Sandbox: id})
		}
	}
	containers, err := d.client.ContainerService().List(ctx)
	if err != nil {
		return nil, err
	}
	for _, c := range containers {
		note("container", c.ID, c.Labels)
	}
	list, err := d.client.LeasesService().List(ctx)
	if err != nil {
		return nil, err
	}
	for _, l := range list {
		note("lease", l.ID, l.Labels)
	}
	err = d.snapshots.Walk(ctx, func(_ context.Context, info snapshots.Info) error {
		note("snapshot", info.Name, info.Labels)
		return nil
	})
	return leaks, err
}

// leaksOnHost looks for what bears a name of this driver's and of no sandbox.
func (d *Driver) leaksOnHost() ([]Leak, error) {
	var leaks []Leak
	note := func(kind, what, name string) {
		id, ours := d.names.sandbox(name)
		if ours && sandboxes.ValidID(id) && d.names.pod(id) == strings.TrimSuffix(name, workSuffix) && !d.records.Taken(id) {
			leaks = append(leaks, Leak{Kind: kind, Name: what, Sandbox: id})
		}
	}
	for _, root := range machineRoots {
		entries, _ := os.ReadDir(root) // without Kata there is none
		for _, e := range entries {
			note("directory", filepath.Join(root, e.Name()), e.Name())
		}
	}
	roots, err := groupRoots()
	if err != nil {
		return nil, err
	}
	for _, root := range roots {
		for _, dir := range []string{root, filepath.Join(root, "kata_overhead")} {
			entries, _ := os.ReadDir(dir)
			for _, e := range entries {
				note("control group", filepath.Join(dir, e.Name()), strings.TrimPrefix(e.Name(), "kata_"))
			}
		}
	}
	table, err := hostproc.Table()
	if err != nil {
		return nil, err
	}
	for pid := range table {
		args := arguments(pid)
		if pod := d.podIn(args); isShimOf(args, pod) || isMachineOf(args, pod) {
			note("process", fmt.Sprintf("%d (%s)", pid, filepath.Base(args[0])), pod)
		}
	}
	return leaks, nil
}

// podIn returns what looks like a pod's name among the arguments of a command.
func (d *Driver) podIn(args []string) string {
	for _, a := range args {
		for _, word := range words(a) {
			word = strings.TrimPrefix(word, "sandbox-")
			if strings.HasPrefix(word, d.names.prefix) {
				return strings.TrimSuffix(word, workSuffix)
			}
		}
	}
	return ""
}
