package sandboxtest_test

import (
	"testing"

	"kernelgw/sandboxes"
	"kernelgw/sandboxes/sandboxtest"
)

func TestFakeKeepsTheContract(t *testing.T) {
	sandboxtest.Run(t, func(t *testing.T) sandboxtest.Harness {
		hosts := map[string]*sandboxtest.Fake{} // by state directory
		return sandboxtest.Harness{
			New: func(t *testing.T, stateDir string) sandboxes.Driver {
				if hosts[stateDir] == nil {
					hosts[stateDir] = sandboxtest.NewFake(t)
				}
				return hosts[stateDir].Reopen()
			},
			KillAgent: func(t *testing.T, d sandboxes.Driver, sb sandboxes.Sandbox) {
				if !d.(*sandboxtest.Fake).Kill(sb.Spec.ID, sandboxes.Exit{Code: 137}) {
					t.Fatalf("sandbox %s does not run", sb.Spec.ID)
				}
			},
			InProcess: true,
		}
	})
}
