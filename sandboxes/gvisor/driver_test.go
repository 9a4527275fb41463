package gvisor_test

import (
	"testing"

	"kernelgw/sandboxes"
)

func TestKernelRunsAsItsUser(t *testing.T) {
	b := newBox(t, newDriver(t, shortTempDir(t)), "hello", sandboxes.Resources{})
	if got, want := b.attack("hello"), "uid 1000 gid 1000 pid-is-1 false"; got != want {
		t.Errorf("inside: %q, want %q", got, want)
	}
	t.Log(b.attack("status"))
	t.Log(b.attack("root"))
}
