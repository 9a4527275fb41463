package gvisor

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"

	"golang.org/x/sys/unix"

	"kernelgw/sandboxes"
	"kernelgw/sandboxes/netpolicy"
)

// SupervisorCommand is the argument that makes a gateway binary act as the
// supervisor of one sandbox: its main calls Supervise with the argument that
// follows. See Options.Supervisor.
const SupervisorCommand = "supervise-sandbox"

// Options configures a Driver.
type Options struct {
	// StateDir holds the sandboxes; absolute, created when absent, one driver's
	// own. It must be on a disk that takes the sandboxes' writable layers.
	StateDir string
	// Runsc is the runsc binary. Empty means the one that FindRunsc finds.
	Runsc string
	// AgentPath is the agent, a static binary that the sandboxes' user can read.
	AgentPath string
	// Images resolves the images of Spec.Image.
	Images Images
	// Supervisor is the program to run with SupervisorCommand and a directory as
	// its arguments. Empty means this program.
	Supervisor string
	// Network gives sandboxes a network namespace, and holds them to what their
	// policy lets them reach. Nil means sandboxes without a network, whose agents
	// listen on Unix sockets, as do all that an ordinary user makes.
	Network *netpolicy.Network
	// Defaults are the limits of a Spec that names none. What is zero here too
	// becomes 2 GiB of memory, 1024 processes, 4 GiB of disk, a quarter of the
	// memory for /dev/shm, 4096 open files and no CPU limit.
	Defaults sandboxes.Resources
	// Log receives what went wrong with no caller to tell. Nil discards it.
	Log *slog.Logger
}

// Images finds the files of images. sandboxes.ErrNotFound when there is no
// such image; the empty ref is the default image.
type Images interface {
	Resolve(ctx context.Context, ref string) (Rootfs, error)
}

// Rootfs is an unpacked image. Its files are shared by all sandboxes of the
// image and never written to.
type Rootfs struct {
	Digest string // as in "sha256:..."
	// Dir is the root directory. It holds the directory AgentDir, to mount on;
	// when it does not, it must be writable, and it is made at the first use.
	Dir         string
	Kernelspecs map[string]sandboxes.Kernelspec
	UID, GID    uint32   // whom kernels run as; never 0
	Home        string   // that user's home, absolute inside the image
	Env         []string // "NAME=value"
	WorkingDir  string   // of the image; "" means /
}

// Where the agent's things are inside a sandbox.
const (
	AgentDir    = "/run/kernelgw" // entered by root only
	AgentBinary = AgentDir + "/" + agentName
)

var defaults = sandboxes.Resources{MemoryBytes: 2 << 30, Processes: 1024, DiskBytes: 4 << 30, OpenFiles: 4096}

// FindRunsc returns the runsc binary to use: configured when not empty, else
// .cache/tools/bin/runsc beside this program or one directory above it, else
// the one on PATH.
func FindRunsc(configured string) (string, error) {
	if configured != "" {
		path, err := exec.LookPath(configured)
		if err != nil {
			return "", fmt.Errorf("cannot use runsc at %s: %w", configured, err)
		}
		return filepath.Abs(path)
	}
	if exe, err := os.Executable(); err == nil {
		for _, dir := range []string{filepath.Dir(exe), filepath.Dir(filepath.Dir(exe))} {
			path := filepath.Join(dir, ".cache/tools/bin/runsc")
			if _, err := exec.LookPath(path); err == nil {
				return path, nil
			}
		}
	}
	path, err := exec.LookPath("runsc")
	if err != nil {
		return "", fmt.Errorf("cannot find runsc: run scripts/build-runsc.sh, or install gVisor's runsc on PATH")
	}
	return filepath.Abs(path)
}

// rootless reports whether this process lacks what runsc needs to set up a
// sandbox as root, so that a user namespace has to give it.
func rootless() bool {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&header, &data[0]); err != nil {
		return true
	}
	const needed = 1<<unix.CAP_SYS_ADMIN | 1<<unix.CAP_SYS_CHROOT | 1<<unix.CAP_SETUID | 1<<unix.CAP_SETGID
	return data[0].Effective&needed != needed
}
