package gvisor_test

import (
	"fmt"
	"os"
	"syscall"
	"testing"

	"go.uber.org/goleak"

	"kernelgw/sandboxes/gvisor"
	"kernelgw/sandboxes/sandboxtest"
)

func TestMain(m *testing.M) {
	// The driver starts this program again as the supervisor of a sandbox.
	if len(os.Args) == 3 && os.Args[1] == gvisor.SupervisorCommand {
		code := 0
		if err := gvisor.Supervise(os.Args[2]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
		// Not os.Exit: with the race detector that sleeps a second, in which a
		// death must be seen.
		syscall.Exit(code)
	}
	if code, done := sandboxtest.OwnNetwork(); done {
		os.Exit(code)
	}
	goleak.VerifyTestMain(m, goleak.Cleanup(func(code int) {
		for dir := range built.Range {
			_ = os.RemoveAll(dir.(string))
		}
		os.Exit(code)
	}))
}
