package containerd_test

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"testing"

	"github.com/vishvananda/netlink"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
)

// insideEnv says that this process is in the namespaces that TestMain made.
const insideEnv = "KERNELGW_TEST_CONTAINERD_INSIDE"

// A real Kata is on the host, and its containerd does not see this process's
// mounts: its tests run in the host's mount namespace.
func onHost() bool { return os.Getenv("KERNELGW_KATA_SOCKET") != "" }

// TestMain runs the tests in a network namespace of their own, where links can
// be made that nobody else sees, and in a mount namespace with an empty /run,
// where shims put their sockets.
func TestMain(m *testing.M) {
	if os.Geteuid() == 0 && os.Getenv(insideEnv) == "" {
		os.Exit(runInside())
	}
	code := m.Run()
	// Before the look for goroutines: the daemons are waited for.
	if err := errors.Join(cleanUp(), goleak.Find()); err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = max(code, 1)
	}
	os.Exit(code)
}

func runInside() int {
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Args[0] = os.Args[0]
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.Env = append(os.Environ(), insideEnv+"=1")
	flags := uintptr(unix.CLONE_NEWNET)
	if !onHost() {
		flags |= unix.CLONE_NEWNS
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: flags, Pdeathsig: syscall.SIGKILL}
	err := cmd.Run()
	var exit *exec.ExitError
	switch {
	case errors.As(err, &exit):
		return exit.ExitCode()
	case err != nil:
		fmt.Fprintln(os.Stderr, "!! NOT CHECKED: the containerd driver: no namespaces can be made here:", err)
	}
	return 0
}

// isChild reports whether this process plays a gateway for another test.
func isChild() bool { return os.Getenv("KERNELGW_SANDBOXTEST_CHILD") != "" }

// ready prepares the namespaces, once, in the first process inside.
func ready() error {
	if os.Getenv(insideEnv) != "1" {
		return nil // a child that plays a gateway
	}
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return err
	}
	if err := netlink.LinkSetUp(lo); err != nil {
		return err
	}
	if !onHost() {
		if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
			return err
		}
		if err := unix.Mount("tmpfs", "/run", "tmpfs", 0, "mode=755"); err != nil {
			return err
		}
	}
	return os.Setenv(insideEnv, "2")
}
