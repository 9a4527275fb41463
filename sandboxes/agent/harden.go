package agent

import (
	"fmt"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// Harden makes this process safe to share a sandbox with a hostile kernel: no
// other user's process may read its memory or environment, what it starts gains
// no privileges, and processes that their parents left come to it to be reaped.
// It is called once, by main, before anything is started. It changes the whole
// process and so is not for tests.
func Harden(dropCapabilities bool) error {
	unix.Umask(0o022)
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return fmt.Errorf("cannot forbid debugging of the agent: %w", err)
	}
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil && os.Getpid() != 1 {
		return fmt.Errorf("cannot become the reaper of orphans: %w", err)
	}
	// These two are of a thread, and any thread may start the kernel.
	if err := prctlAllThreads(unix.PR_SET_NO_NEW_PRIVS, 1); err != nil {
		return fmt.Errorf("cannot forbid new privileges: %w", err)
	}
	if !dropCapabilities {
		return nil
	}
	for capability := range 64 {
		held, err := unix.PrctlRetInt(unix.PR_CAPBSET_READ, uintptr(capability), 0, 0, 0)
		if err == unix.EINVAL { // past the last capability of this kernel
			break
		}
		if err == nil && held == 0 {
			continue // stopping all threads for nothing is dear in gVisor
		}
		err = prctlAllThreads(unix.PR_CAPBSET_DROP, uintptr(capability))
		if err == unix.EPERM {
			// Without CAP_SETPCAP. The kernel's user has none all the same: the
			// change of user takes them, and nothing it executes gives any.
			break
		}
		if err != nil {
			return fmt.Errorf("cannot drop capability %d: %w", capability, err)
		}
	}
	return nil
}

func prctlAllThreads(option, arg uintptr) error {
	if _, _, errno := syscall.AllThreadsSyscall6(unix.SYS_PRCTL, option, arg, 0, 0, 0, 0); errno == unix.ENOTSUP {
		// With cgo there may be threads that Go does not know.
		return fmt.Errorf("%w: the agent was built with cgo, build it with CGO_ENABLED=0", errno)
	} else if errno != 0 {
		return errno
	}
	return nil
}
