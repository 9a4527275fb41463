package netpolicy

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"syscall"
	"testing"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
)

// ownNamespaces is set in the process that has network and mount namespaces of
// its own, in which the tests run.
const ownNamespaces = "KERNELGW_NETPOLICY_OWN_NAMESPACES"

func TestMain(m *testing.M) {
	if act := os.Getenv(actEnv); act != "" {
		play(act)
	}
	if os.Getenv(ownNamespaces) == "" {
		os.Exit(again())
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		fmt.Fprintln(os.Stderr, "cannot make the tests' mounts private:", err)
		os.Exit(1)
	}
	// Locks of names that killed gateways leave go with this.
	if err := unix.Mount("tmpfs", "/run", "tmpfs", 0, "mode=755"); err != nil {
		fmt.Fprintln(os.Stderr, "cannot give the tests a /run of their own:", err)
		os.Exit(1)
	}
	goleak.VerifyTestMain(m)
}

// again runs this program in new namespaces, so that nothing of the machine's
// network is touched, and returns its exit code.
func again() int {
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Env = append(os.Environ(), ownNamespaces+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET | syscall.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
	err := cmd.Run()
	switch exit := (*exec.ExitError)(nil); {
	case err == nil:
		return 0
	case errors.As(err, &exit):
		return max(exit.ExitCode(), 1)
	case errors.Is(err, fs.ErrPermission):
		fmt.Fprintln(os.Stderr, "!! NOT CHECKED: the network of sandboxes: tests need root, to make network namespaces:", err)
		return 0
	}
	fmt.Fprintln(os.Stderr, "cannot run the tests in namespaces of their own:", err)
	return 1
}
