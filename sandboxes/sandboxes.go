// Package sandboxes says what a sandbox is and what a driver that makes them
// must do. A sandbox is one isolated environment, an instance of an image,
// whose first process is the agent (cmd/kernelagent). Package sandboxes knows
// nothing of Jupyter's messages: what the agent is told is opaque here.
package sandboxes

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"regexp"
	"time"
)

// Errors that callers test for. Drivers wrap them with what was attempted.
var (
	// ErrNotFound: the driver has no sandbox, or no image, of that name.
	ErrNotFound = errors.New("not found")
	// ErrExists: a sandbox of that id exists or existed; ids are never reused.
	ErrExists = errors.New("exists already")
	// ErrInvalid: the Spec cannot be satisfied by this driver; the text says why.
	ErrInvalid = errors.New("invalid sandbox spec")
)

// Driver makes and destroys sandboxes. All methods are safe for concurrent
// use. A driver keeps what it needs to find its sandboxes again on disk: a new
// Driver over the same state directory, after any kind of death of the old
// process, lists and controls what the old one made.
type Driver interface {
	// Name is the driver's name in configuration, logs and metrics.
	Name() string

	// Capabilities says what this driver gives on this host.
	Capabilities() Capabilities

	// Kernelspecs lists the kernelspecs of an image by kernel name. The empty
	// image means the driver's default. ErrNotFound when there is no such image.
	Kernelspecs(ctx context.Context, image string) (map[string]Kernelspec, error)

	// Create starts a sandbox and returns when its agent process has been
	// started; the agent may not listen yet. When Create fails, or ctx ends
	// before it returns, nothing of the sandbox is left behind. ctx does not
	// bound the life of the sandbox.
	Create(ctx context.Context, spec Spec) (Sandbox, error)

	// List returns every sandbox that was created and not destroyed, running
	// or ended, in no particular order.
	List(ctx context.Context) ([]Sandbox, error)

	// Wait blocks until the sandbox has ended and says how. It may be called
	// at any time, also after the end, until Destroy. The end of ctx ends the
	// wait with ctx's error, never the sandbox. ErrNotFound when unknown.
	Wait(ctx context.Context, id string) (Exit, error)

	// Destroy kills the sandbox if it runs and removes all that it had:
	// processes, mounts, directories, cgroups. Destroying what does not exist
	// is no error. A failed Destroy may be called again.
	Destroy(ctx context.Context, id string) error

	// SetNetworkPolicy changes what a sandbox may reach, at once and for open
	// connections too. ErrNotFound when unknown, ErrInvalid when the policy makes
	// no sense or Capabilities.NetworkPolicy is false.
	SetNetworkPolicy(ctx context.Context, id string, policy NetworkPolicy) error

	// Freeze stops all processes of a sandbox, the agent included, where they
	// are; Thaw lets them go on. Both may be called twice. A frozen sandbox can be
	// destroyed, and its memory stays in use. ErrNotFound when unknown or ended,
	// ErrInvalid without Capabilities.Freeze.
	Freeze(ctx context.Context, id string) error
	Thaw(ctx context.Context, id string) error

	// ExportLayer writes the writable layer of a sandbox, running or frozen, to w:
	// a tar archive, compressed with zstd, that Spec.Layer of a new sandbox of the
	// same image takes. What changes meanwhile may be in it or not. ErrNotFound
	// when unknown, ErrInvalid without Capabilities.Layers.
	ExportLayer(ctx context.Context, id string, w io.Writer) error

	// Close releases what the Driver itself holds. Sandboxes keep running.
	Close() error
}

// Capabilities are the abilities that differ between drivers or hosts.
type Capabilities struct {
	Isolated      bool // code inside cannot reach the host; false only for trusted modes
	Network       bool // sandboxes have a network
	NetworkPolicy bool // Spec.Network is enforced
	MemoryLimit   bool // the host enforces Resources.MemoryBytes, beside the agent
	ProcessLimit  bool // the host enforces Resources.Processes, beside the agent
	DiskLimit     bool // Resources.DiskBytes is enforced
	Freeze        bool // Freeze and Thaw work
	Layers        bool // ExportLayer and Spec.Layer work
}

// Spec describes a sandbox to create.
type Spec struct {
	ID          string            // chosen by the caller, matches ValidID, never reused
	Image       string            // "" means the driver's default image
	Labels      map[string]string // kept with the sandbox and returned by List
	AgentConfig []byte            // given to the agent in a file that only it can read
	Resources   Resources
	Network     NetworkPolicy
	Layer       string // file of an exported writable layer to start from; "" means an empty one
}

// Egress names what a NetworkPolicy starts from.
type Egress string

// The presets of NetworkPolicy. Whatever they say, private, link-local and
// metadata addresses are never reached.
const (
	EgressNone     Egress = "none"     // nothing
	EgressPackages Egress = "packages" // the common package indexes
	EgressOpen     Egress = "open"     // every public host, over HTTP and HTTPS
)

// NetworkPolicy says what code in a sandbox may reach. The zero value is the
// driver's default.
type NetworkPolicy struct {
	Egress Egress
	// Allow lists more hosts: "example.org", "*.example.org" for all names below
	// it, either with a port, as in "example.org:8443"; without, 80 and 443.
	Allow []string
	// Mirror is the URL of a package index that EgressPackages means instead of
	// the public ones. It may be on a private address.
	Mirror string
}

// Resources are a sandbox's limits. Zero means the driver's default.
type Resources struct {
	CPUs        float64 // in cores
	MemoryBytes int64
	Processes   int64
	DiskBytes   int64 // of the writable layer
	ShmBytes    int64 // of /dev/shm
	OpenFiles   int64 // of each process
}

// Sandbox is what a driver knows of a sandbox.
type Sandbox struct {
	Spec      Spec
	CreatedAt time.Time
	Agent     Endpoint // where the agent listens
	Image     string   // the image's digest, or the driver's name for a trusted mode
}

// Endpoint is an address of the agent as net.Dial takes it.
type Endpoint struct {
	Network string // "unix" or "tcp"
	Address string
}

// Exit says how a sandbox ended.
type Exit struct {
	Code   int       // exit code of the first process; 128+n when killed by signal n; -1 when unknown
	Reason string    // for the user, as in "killed: memory limit 2.0 GiB"; "" when the code says all
	At     time.Time // when the driver noticed
}

// Kernelspec is one kernelspec as an image holds it.
type Kernelspec struct {
	Name  string
	JSON  []byte // kernel.json, whole
	Dir   string // its directory, as a path inside the sandbox
	Files fs.FS  // its directory, readable by the gateway: logos and the like
}

var validID = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,62}$`)

// ValidID reports whether id may name a sandbox: lower-case letters, digits
// and hyphens, so that it is safe as a file name, cgroup and container id.
func ValidID(id string) bool { return validID.MatchString(id) }
