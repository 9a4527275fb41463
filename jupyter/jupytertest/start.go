package jupytertest

import (
	"context"
	"os/exec"
	"path/filepath"
	"testing"

	"kernelgw/jupyter"
)

// Start runs a kernel on loopback in the test's process, until the test ends.
func Start(t testing.TB) (*Kernel, jupyter.ConnectionInfo) {
	t.Helper()
	info := jupyter.ConnectionInfo{Transport: "tcp", IP: "127.0.0.1", Key: jupyter.NewID(), SignatureScheme: "hmac-sha256"}
	k, err := New(&info)
	if err != nil {
		t.Fatalf("cannot start a fake kernel: %v", err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		k.Run(context.Background())
	}()
	t.Cleanup(func() {
		k.Close()
		<-done
	})
	return k, info
}

// Build compiles the fake kernel as a program and returns its path, in a
// directory that goes away with the test.
func Build(t testing.TB) string {
	t.Helper()
	program := filepath.Join(t.TempDir(), "fakekernel")
	out, err := exec.Command("go", "build", "-o", program, "kernelgw/jupyter/jupytertest/fakekernel").CombinedOutput()
	if err != nil {
		t.Fatalf("cannot build the fake kernel: %v\n%s", err, out)
	}
	return program
}

// Spec is the kernelspec of a built fake kernel.
func Spec(program string) jupyter.Kernelspec {
	return jupyter.Kernelspec{
		Argv:        []string{program, "-f", "{connection_file}"},
		DisplayName: "Fake",
		Language:    "fake",
	}
}
