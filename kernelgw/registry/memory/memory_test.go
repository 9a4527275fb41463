package memory_test

import (
	"testing"

	"kernelgw/kernelgw/registry"
	"kernelgw/kernelgw/registry/memory"
	"kernelgw/kernelgw/registry/registrytest"
)

func TestContract(t *testing.T) {
	registrytest.Run(t, func(*testing.T) registry.Store { return memory.New() })
}
