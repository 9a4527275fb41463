package containerd

import (
	"context"
	"log/slog"

	"kernelgw/sandboxes"
	"kernelgw/sandboxes/netpolicy"
)

// Options configures a Driver.
type Options struct {
	// Address is containerd's socket. Empty means /run/containerd/containerd.sock.
	Address string
	// Namespace is containerd's namespace for all that this driver makes. Empty
	// means "kernelgw".
	Namespace string
	// Runtime is "runc", a Kata handler as kata-deploy names them
	// ("kata-qemu-runtime-rs", "kata-qemu", ...), the absolute path of a shim, or
	// a containerd runtime type ("io.containerd.kata.v2"). Empty means "runc".
	Runtime string
	// RuntimeConfigPath is the shim's configuration file. Empty means the one that
	// kata-deploy or the release archive puts beside the handler, if there is one,
	// and else the shim's own choice.
	RuntimeConfigPath string
	// Snapshotter is containerd's. Empty means "overlayfs".
	Snapshotter string
	// StateDir holds what the driver keeps about sandboxes; absolute, created when
	// absent, one driver's own. The runtime must see it under the same path.
	StateDir string
	// AgentPath is the agent, a static binary.
	AgentPath string
	// Images resolves the images of Spec.Image.
	Images Images
	// Network makes the sandboxes' network namespaces. Nil means none: Kata is
	// then refused, and the agent listens on a Unix socket.
	Network Network
	// Defaults are the limits of a Spec that names none. What is zero here too
	// becomes 2 GiB of memory, 1024 processes, a quarter of the memory for
	// /dev/shm, 4096 open files and no CPU limit.
	Defaults sandboxes.Resources
	// Log receives what went wrong with no caller to tell. Nil discards it.
	Log *slog.Logger
}

// Network gives each sandbox a network namespace, which is complete when it is
// given and used once. *netpolicy.Network is one.
type Network interface {
	Acquire(ctx context.Context, id string, policy sandboxes.NetworkPolicy) (netpolicy.Slot, error)
	Release(ctx context.Context, id string) error
	SetPolicy(ctx context.Context, id string, policy sandboxes.NetworkPolicy) error
	List() []netpolicy.Slot
}

// Images finds images. sandboxes.ErrNotFound when there is no such image; the
// empty ref is the default image.
type Images interface {
	Resolve(ctx context.Context, ref string) (Image, error)
	// Digests lists the images that are kept; what containerd has of others goes.
	Digests(ctx context.Context) ([]string, error)
}

// Image is an image as an OCI image layout holds it.
type Image struct {
	Digest      string // of the manifest, as in "sha256:..."
	Layout      string // directory of the OCI image layout with all its blobs
	Kernelspecs map[string]sandboxes.Kernelspec
	UID, GID    uint32   // whom kernels run as; never 0
	Home        string   // that user's home, absolute inside the image
	Env         []string // "NAME=value"
}

// Where the agent's things are inside a sandbox.
const (
	AgentDir    = "/run/kernelgw"       // entered by root only
	AgentBinary = "/run/kernelgw-agent" // the agent, read-only
)

const (
	defaultAddress     = "/run/containerd/containerd.sock"
	defaultNamespace   = "kernelgw"
	defaultSnapshotter = "overlayfs"
)

var defaults = sandboxes.Resources{MemoryBytes: 2 << 30, Processes: 1024, OpenFiles: 4096}
