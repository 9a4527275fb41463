package netpolicy

import (
	"os"
	"testing"

	"go.uber.org/goleak"

	"kernelgw/sandboxes/sandboxtest"
)

func TestMain(m *testing.M) {
	if act := os.Getenv(actEnv); act != "" {
		play(act)
	}
	// Locks of names that killed gateways leave in /run go with that.
	if code, done := sandboxtest.OwnHost(); done || !sandboxtest.Networked() {
		os.Exit(code)
	}
	goleak.VerifyTestMain(m)
}
