package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"

	bootapi "github.com/containerd/containerd/api/runtime/bootstrap/v1"
	"github.com/containerd/containerd/v2/pkg/shim"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

const (
	typeKey = "io.kubernetes.cri.container-type"
	podKey  = "io.kubernetes.cri.sandbox-id"
)

// starter starts shims as Kata's are: one for each pod, none for a container
// whose pod is not there.
type starter struct{ shim.Shim }

func (s starter) Start(ctx context.Context, params *bootapi.BootstrapParams) (*bootapi.BootstrapResult, error) {
	spec, err := readSpec(".")
	if err != nil {
		return nil, err
	}
	pod := spec.Annotations[podKey]
	if spec.Annotations[typeKey] == "container" {
		if _, err := os.Stat(filepath.Join("..", pod)); err != nil {
			return nil, fmt.Errorf("failed to start shim: start failed: dial unix: connect: no such file or directory")
		}
	}
	// What containerd gives is Kata's, which runc's manager does not know.
	params.Extensions = nil
	return s.Shim.Start(ctx, params)
}

// Stop cleans up after a shim that was killed. The Go shim kills the machine,
// runtime-rs forgets it.
func (s starter) Stop(ctx context.Context, id string) (shim.StopStatus, error) {
	status, err := s.Shim.Stop(ctx, id)
	if isGo() {
		killMachine(id)
		for _, dir := range machineDirs(id) {
			_ = os.RemoveAll(dir)
		}
	}
	return status, err
}

func readSpec(bundle string) (*specs.Spec, error) {
	data, err := os.ReadFile(filepath.Join(bundle, "config.json"))
	if err != nil {
		return nil, err
	}
	var spec specs.Spec
	return &spec, json.Unmarshal(data, &spec)
}
