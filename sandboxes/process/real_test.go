package process_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"kernelgw/sandboxes"
	"kernelgw/sandboxes/process"
	"kernelgw/sandboxes/sandboxtest"
)

// TestRealAgentAndKernelKeepTheContract is the same suite with cmd/kernelagent
// and ipykernel, attacks from inside included.
func TestRealAgentAndKernelKeepTheContract(t *testing.T) {
	sandboxtest.Run(t, func(t *testing.T) sandboxtest.Harness {
		kernels, agent := realKernels(t), realAgent(t)
		return sandboxtest.Harness{
			Python: true,
			New: func(t *testing.T, stateDir string) sandboxes.Driver {
				return open(t, process.Options{StateDir: stateDir, AgentPath: agent, KernelPath: []string{kernels}, WorkDir: t.TempDir()})
			},
			KillAgent: killAgent,
		}
	})
}

// realKernels is a Jupyter data directory with ipykernel's kernelspec.
func realKernels(t *testing.T) string {
	t.Helper()
	if os.Getenv("KERNELGW_TEST_SKIP_KERNEL") == "1" {
		t.Skip("KERNELGW_TEST_SKIP_KERNEL is set")
	}
	dir, err := filepath.Abs("../../.cache/venv/stock/share/jupyter")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(dir, "kernels/python3/kernel.json")); err != nil {
		t.Fatalf("no ipykernel: %v; run scripts/setup-clients.sh, or set KERNELGW_TEST_SKIP_KERNEL=1 to do without this test", err)
	}
	return dir
}

// realAgent builds cmd/kernelagent, once for this test and its children.
func realAgent(t *testing.T) string {
	t.Helper()
	const known = "KERNELGW_TEST_KERNELAGENT"
	if path := os.Getenv(known); path != "" {
		return path
	}
	path := filepath.Join(t.TempDir(), "kernelagent")
	build := exec.Command("go", "build", "-o", path, "kernelgw/cmd/kernelagent")
	build.Env = append(os.Environ(), "CGO_ENABLED=0") // as it is delivered
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("cannot build the agent: %v\n%s", err, out)
	}
	t.Setenv(known, path)
	return path
}
