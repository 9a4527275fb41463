package containerd_test

import (
	"errors"
	"fmt"
	"os"
	"testing"

	"go.uber.org/goleak"

	"kernelgw/sandboxes/sandboxtest"
)

// A real Kata is on the host, and its containerd does not see this process's
// mounts: its tests run in the host's mount namespace.
func onHost() bool { return os.Getenv("KERNELGW_KATA_SOCKET") != "" }

// TestMain runs the tests in a network namespace of their own, where links can
// be made that nobody else sees, and in a mount namespace with an empty /run,
// where shims put their sockets.
func TestMain(m *testing.M) {
	own := sandboxtest.OwnHost
	if onHost() {
		own = sandboxtest.OwnNetwork
	}
	if code, done := own(); done {
		os.Exit(code)
	}
	code := m.Run()
	// Before the look for goroutines: the daemons are waited for.
	if err := errors.Join(cleanUp(), goleak.Find()); err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = max(code, 1)
	}
	os.Exit(code)
}

// isChild reports whether this process plays a gateway for another test.
func isChild() bool { return os.Getenv("KERNELGW_SANDBOXTEST_CHILD") != "" }
