package gvisor

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"kernelgw/sandboxes/hostproc"
)

// The files of one sandbox's directory. runsc runs with it as its working
// directory and gets relative names where a socket is bound, so that the depth
// of the state directory does not meet the 108 bytes of sun_path.
const (
	sandboxName   = "sandbox.json" // sandboxes.Sandbox; its presence makes the sandbox exist
	planName      = "plan.json"    // plan: what the supervisor is to do
	processesName = "processes.json"
	exitName      = "exit.json"   // sandboxes.Exit
	logName       = "log"         // what the agent wrote to stdout and stderr, bounded
	bundleName    = "bundle"      // OCI bundle
	overlayName   = "overlay"     // the writable layer
	layerName     = "layer.tar"   // what the writable layer begins with
	runscName     = "runsc"       // runsc's own state
	runName       = "run"         // AgentDir inside
	agentName     = "kernelagent" // empty; the agent's binary is mounted on it
	configName    = "agent.json"
	authorityName = "authority.pem" // of the egress proxy; only with a network
	socketName    = "agent.sock"
	pidName       = "sentry.pid"
)

// containerName is runsc's name of the one container in a sandbox.
const containerName = "s"

// processes are the host's processes of a sandbox.
type processes struct {
	Supervisor hostproc.ID   `json:"supervisor"`
	Sentry     hostproc.ID   `json:"sentry"` // zero until it runs
	Others     []hostproc.ID `json:"others,omitempty"`
}

// writeJSON puts v into a file of dir, whole or not at all, for the owner only.
func writeJSON(dir, name string, v any) error {
	data, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("cannot write %s: %w", name, err)
	}
	f, err := os.CreateTemp(dir, "."+name+"-") // mode 0600
	if err != nil {
		return fmt.Errorf("cannot write %s: %w", name, err)
	}
	_, err = f.Write(data)
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(f.Name(), filepath.Join(dir, name))
	}
	if err != nil {
		_ = os.Remove(f.Name())
		return fmt.Errorf("cannot write %s: %w", filepath.Join(dir, name), err)
	}
	return nil
}

// readJSON reads what writeJSON wrote. The error is os.ErrNotExist when there
// is no such file.
func readJSON(dir, name string, v any) error {
	data, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		return fmt.Errorf("cannot read %s: %w", name, err)
	}
	if err := json.Unmarshal(data, v); err != nil {
		return fmt.Errorf("cannot read %s: %w", filepath.Join(dir, name), err)
	}
	return nil
}
