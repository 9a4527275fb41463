package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"sync/atomic"

	"kernelgw/kernelgw/kernels"
	"kernelgw/kernelgw/policies"
	"kernelgw/kernelgw/registry"
	"kernelgw/kernelgw/secrets"
	"kernelgw/sandboxes"
	"kernelgw/sandboxes/agentapi"
	"kernelgw/sandboxes/netpolicy"
	"kernelgw/sandboxes/netpolicy/egress"
)

// IsolationConfig says what holds sandboxes, and what they may reach.
type IsolationConfig struct {
	Containerd    string `help:"Socket of containerd, for the containerd driver." default:"/run/containerd/containerd.sock" type:"path"`
	Runtime       string `help:"Runtime of the containerd driver: a Kata handler, as in kata-qemu-runtime-rs, the path of a shim, or runc, which shares the host's kernel: for trusted code."`
	RuntimeConfig string `help:"Configuration file of the Kata runtime. Default: the one of its installation." type:"path"`
	Snapshotter   string `help:"Snapshotter of containerd." default:"overlayfs"`

	Network       string `help:"Network of sandboxes: auto (a closed one where the gateway may make it, as root; else none), on (as auto, or do not start) or none." enum:"auto,on,none" default:"auto"`
	NetworkName   string `help:"What the names of its links and tables begin with: another for each gateway on one host." default:"kgw"`
	NetworkSubnet string `help:"Addresses of sandboxes, four for each; private and otherwise unused." default:"10.143.0.0/16"`
	NetworkReady  int    `help:"Network namespaces that are kept ready." default:"2"`

	Egress       string   `help:"What code in sandboxes may reach, through the gateway's proxy: none, packages (the common package indexes) or open (all public hosts)." enum:"none,packages,open" default:"packages"`
	EgressAllow  []string `help:"More hosts that it may reach, as in api.example.org, *.example.org or example.org:8443."`
	EgressMirror string   `help:"URL of a package index that packages means instead of the public ones."`
	EgressRefuse []string `help:"Networks that are never reached, beside all private ones, as in 198.51.100.0/24: public addresses of this site."`

	OfferEgress  []string `help:"What the members of a workspace may choose instead: none is always offered, packages and open if named here." enum:"none,packages,open"`
	OfferHosts   bool     `help:"Let the members of a workspace list hosts of their own."`
	OfferMirrors []string `help:"URLs of package indexes that the members of a workspace may choose."`
	OfferImages  []string `help:"Images that the members of a workspace may choose, by name or digest."`
	MaxCPUs      float64  `name:"max-cpus" help:"Most CPU cores that the members of a workspace may choose for a sandbox; 0 means cpus."`
	MaxMemory    ByteSize `help:"Most memory that they may choose; 0 means memory." default:"0"`
	MaxProcesses int64    `help:"Most processes that they may choose; 0 means processes."`
	MaxDisk      ByteSize `help:"Largest writable layer that they may choose; 0 means disk." default:"0"`
	MaxShm       ByteSize `help:"Largest /dev/shm that they may choose; 0 means shm, and where that is 0 the memory." default:"0"`
	MaxOpenFiles int64    `help:"Most open files of a process that they may choose; 0 means open_files." default:"0"`
}

// validate names the first key that is wrong, and what to do about it.
func (c *IsolationConfig) validate() error {
	if _, err := netip.ParsePrefix(c.NetworkSubnet); err != nil {
		return fmt.Errorf("network_subnet: %q is not a network like 10.143.0.0/16", c.NetworkSubnet)
	}
	if c.NetworkReady < 0 {
		return fmt.Errorf("network_ready: %d; it cannot be negative", c.NetworkReady)
	}
	if _, err := c.refused(); err != nil {
		return err
	}
	if err := egress.Check(c.policy()); err != nil {
		return fmt.Errorf("egress, egress_allow, egress_mirror: %w", err)
	}
	if c.MaxCPUs < 0 || c.MaxProcesses < 0 || c.MaxOpenFiles < 0 {
		return errors.New("max_cpus, max_processes, max_open_files: they cannot be negative; 0 means the default")
	}
	return nil
}

// refused parses EgressRefuse.
func (c *IsolationConfig) refused() ([]netip.Prefix, error) {
	var list []netip.Prefix
	for _, text := range c.EgressRefuse {
		prefix, err := netip.ParsePrefix(text)
		if err != nil {
			return nil, fmt.Errorf("egress_refuse: %q is not a network like 198.51.100.0/24", text)
		}
		list = append(list, prefix)
	}
	return list, nil
}

// policy is what sandboxes may reach whose workspace chose nothing.
func (c *IsolationConfig) policy() sandboxes.NetworkPolicy {
	return sandboxes.NetworkPolicy{Egress: sandboxes.Egress(c.Egress), Allow: c.EgressAllow, Mirror: c.EgressMirror}
}

// openPolicies opens what workspaces chose.
func openPolicies(c *Config, store registry.Store, resources sandboxes.Resources) (*policies.Policies, error) {
	bounds := policies.Bounds{
		Hosts: c.OfferHosts, Mirrors: c.OfferMirrors, Images: c.OfferImages,
		Most: sandboxes.Resources{
			CPUs: c.MaxCPUs, MemoryBytes: int64(c.MaxMemory), Processes: c.MaxProcesses, DiskBytes: int64(c.MaxDisk),
			ShmBytes: int64(c.MaxShm), OpenFiles: c.MaxOpenFiles,
		},
		Output: policies.Output{CellBytes: int64(c.MaxOutputCell), SecondBytes: int64(c.MaxOutputSecond)},
	}
	for _, preset := range c.OfferEgress {
		bounds.Egress = append(bounds.Egress, sandboxes.Egress(preset))
	}
	kept, err := policies.New(policies.Options{
		Store: store, Bounds: bounds,
		Default: policies.Settings{Image: c.Image, Resources: resources, Network: c.policy(), Output: policies.Output(c.caps())},
	})
	if err != nil {
		return nil, fmt.Errorf("offer_*, max_*: %w", err)
	}
	return kept, nil
}

// inForce gives kernels what is in force.
func inForce(chosen *policies.Policies) func(context.Context, string) (kernels.Policy, error) {
	return func(ctx context.Context, workspace string) (kernels.Policy, error) {
		s, err := chosen.Of(ctx, workspace)
		return kernels.Policy{Image: s.Image, Resources: s.Resources, Network: s.Network, Caps: agentapi.OutputCaps(s.Output)}, err
	}
}

// network is the sandboxes' network, with what it needs to know of secrets once
// there are kernels.
type network struct {
	*netpolicy.Network
	kept    *secrets.Secrets
	kernels atomic.Pointer[kernels.Manager] // nil until the gateway knows whose sandboxes there are
}

// openNetwork makes the sandboxes' network; its Network is nil where there is none.
func openNetwork(c *Config, kept *secrets.Secrets, log *slog.Logger) (*network, error) {
	n := &network{kept: kept}
	switch {
	case c.Network == "none" || c.Driver == "process":
		return n, nil
	case os.Geteuid() != 0 && c.Network == "auto":
		log.Info("sandboxes have no network: only root can make network namespaces")
		return n, nil
	}
	if err := n.open(c, log); err != nil {
		if c.Network == "auto" && c.Driver != "containerd" {
			log.Warn("sandboxes have no network; --network=on makes this an error", "reason", err)
			return &network{kept: kept}, nil
		}
		return nil, err
	}
	return n, nil
}

// endNetwork removes what is left of a network that sandboxes of an earlier run
// had, where they are to have none now, and ends those that still have it.
func endNetwork(ctx context.Context, c *Config, driver sandboxes.Driver, log *slog.Logger) error {
	if c.Network != "none" || c.Driver == "process" || os.Geteuid() != 0 {
		return nil
	}
	return netpolicy.End(netpolicy.Options{StateDir: filepath.Join(c.DataDir, "network")}, func(id string) error {
		log.Warn("a sandbox of an earlier run has a network, and is to have none: it is ended", "sandbox", id)
		return driver.Destroy(ctx, id)
	})
}

func (n *network) open(c *Config, log *slog.Logger) error {
	subnet, err := netip.ParsePrefix(c.NetworkSubnet)
	if err != nil {
		return fmt.Errorf("network_subnet: %w", err)
	}
	refused, err := c.refused()
	if err != nil {
		return err
	}
	authority, err := egress.OpenAuthority(filepath.Join(c.DataDir, "egress-authority"))
	if err != nil {
		return err
	}
	n.Network, err = netpolicy.Open(netpolicy.Options{
		StateDir: filepath.Join(c.DataDir, "network"), Name: c.NetworkName, Subnet: subnet, Ready: c.NetworkReady,
		Default: c.policy(), Log: log,
		Audit: func(d netpolicy.Denial) {
			log.Warn("a packet was refused", "audit", "network", "sandbox", d.ID, "reason", d.Reason, "protocol", d.Protocol, "from", d.Source, "to", d.Destination)
		},
		Egress: egress.Options{
			Log: log, Secrets: n.secrets, Authority: authority, Refuse: refused,
			Audit: func(d egress.Denial) {
				log.Warn("a request was refused", "audit", "egress", "sandbox", d.Client, "reason", d.Reason, "host", d.Host, "port", d.Port, "unsaid", d.Unsaid)
			},
		},
	})
	return err
}

// secrets returns those of the workspace whose sandbox it is.
func (n *network) secrets(ctx context.Context, sandbox string) ([]egress.Secret, error) {
	manager := n.kernels.Load()
	if manager == nil {
		return nil, errors.New("the gateway is starting")
	}
	workspace, ok := manager.Workspace(sandbox)
	if !ok {
		return nil, fmt.Errorf("sandbox %s is no kernel's", sandbox)
	}
	kept, err := n.kept.Open(ctx, workspace)
	if err != nil {
		return nil, err
	}
	list := make([]egress.Secret, 0, len(kept))
	for _, s := range kept {
		list = append(list, egress.Secret{Name: s.Name, Placeholder: s.Placeholder, Value: s.Value.Reveal(), Hosts: slices.Clone(s.Hosts)})
	}
	return list, nil
}

// close closes the network, if there is one.
func (n *network) close() error {
	if n.Network == nil {
		return nil
	}
	return n.Network.Close()
}
