package sandboxtest

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"syscall"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// ownNetworkEnv is set in the process that has a network namespace of its own,
// and in those that it starts.
const ownNetworkEnv = "KERNELGW_TEST_OWN_NETWORK"

// OwnNetwork makes a test binary run in a network namespace of its own, with a
// loopback and nothing else, so that links and rules of tests meet nobody's. A
// TestMain calls it first. In the process that go test started it runs the
// binary again and returns its exit code and true; there it returns false, and
// the tests can run. So it does, loudly, for an ordinary user and where the host
// refuses such namespaces: Networked then says that there is none.
func OwnNetwork() (code int, done bool) { return own(0) }

// OwnHost is OwnNetwork with mounts that nobody else sees besides, and a /run that
// is empty.
func OwnHost() (code int, done bool) { return own(syscall.CLONE_NEWNS) }

func own(more uintptr) (code int, done bool) {
	switch os.Getenv(ownNetworkEnv) {
	case "":
		return runAgain(more)
	case "first":
		if err := prepare(more); err != nil {
			fmt.Fprintln(os.Stderr, "cannot prepare the tests' own namespaces:", err)
			return 1, true
		}
	}
	return 0, false
}

func runAgain(more uintptr) (code int, done bool) {
	if os.Geteuid() != 0 {
		fmt.Fprintln(os.Stderr, "!! NOT CHECKED: sandboxes with a network: only root can make network namespaces")
		return 0, false
	}
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Args[0] = os.Args[0]
	cmd.Env = append(os.Environ(), ownNetworkEnv+"=first")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET | more, Pdeathsig: syscall.SIGKILL}
	err := cmd.Run()
	switch exit := (*exec.ExitError)(nil); {
	case err == nil:
		return 0, true
	case errors.As(err, &exit):
		return max(exit.ExitCode(), 1), true
	case errors.Is(err, fs.ErrPermission):
		fmt.Fprintln(os.Stderr, "!! NOT CHECKED: sandboxes with a network: this host refuses network namespaces:", err)
		return 0, false
	}
	fmt.Fprintln(os.Stderr, "cannot run the tests in namespaces of their own:", err)
	return 1, true
}

// prepare readies the namespaces of this process, and notes that for those that
// it starts.
func prepare(more uintptr) error {
	lo, err := netlink.LinkByName("lo")
	if err == nil {
		err = netlink.LinkSetUp(lo)
	}
	if err != nil {
		return fmt.Errorf("cannot bring the loopback up: %w", err)
	}
	if more&syscall.CLONE_NEWNS != 0 {
		if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
			return fmt.Errorf("cannot make mounts private: %w", err)
		}
		if err := unix.Mount("tmpfs", "/run", "tmpfs", 0, "mode=755"); err != nil {
			return fmt.Errorf("cannot mount an empty /run: %w", err)
		}
	}
	return os.Setenv(ownNetworkEnv, "ready")
}

// Networked reports whether this process has a network namespace of its own.
func Networked() bool { return os.Getenv(ownNetworkEnv) != "" }
