package sandboxtest

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"syscall"

	"github.com/vishvananda/netlink"
)

// ownNetworkEnv is set in the process that has a network namespace of its own,
// and in those that it starts.
const ownNetworkEnv = "KERNELGW_TEST_OWN_NETWORK"

// OwnNetwork makes a test binary run in a network namespace of its own, with a
// loopback and nothing else, so that links and rules of tests meet nobody's. A
// TestMain calls it first. In the process that go test started it runs the
// binary again and returns its exit code and true; there it returns false, and
// the tests can run. So it does, loudly, for an ordinary user, who cannot make
// such namespaces: Networked then says that there is none.
func OwnNetwork() (code int, done bool) {
	if os.Getenv(ownNetworkEnv) != "" {
		return 0, false
	}
	if os.Geteuid() != 0 {
		fmt.Fprintln(os.Stderr, "!! NOT CHECKED: sandboxes with a network: only root can make network namespaces")
		return 0, false
	}
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Args[0] = os.Args[0]
	cmd.Env = append(os.Environ(), ownNetworkEnv+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	err := cmd.Run()
	switch exit := (*exec.ExitError)(nil); {
	case err == nil:
		return 0, true
	case errors.As(err, &exit):
		return max(exit.ExitCode(), 1), true
	}
	fmt.Fprintln(os.Stderr, "cannot run the tests in a network namespace of their own:", err)
	return 1, true
}

// Networked reports whether this process has a network namespace of its own, and
// brings its loopback up.
func Networked() (bool, error) {
	if os.Getenv(ownNetworkEnv) == "" {
		return false, nil
	}
	lo, err := netlink.LinkByName("lo")
	if err == nil {
		err = netlink.LinkSetUp(lo)
	}
	if err != nil {
		return false, fmt.Errorf("cannot bring the loopback up: %w", err)
	}
	return true, nil
}
