package containerd

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"kernelgw/sandboxes"
	"kernelgw/sandboxes/hostproc"
)

// The files of one sandbox's directory.
const (
	sandboxName   = "sandbox.json" // sandboxes.Sandbox; its presence makes the sandbox exist
	processName   = "process.json" // processes
	exitName      = "exit.json"    // sandboxes.Exit, written once
	oomName       = "oom"          // present once the host or the guest killed a process for memory
	runName       = "run"          // AgentDir inside
	configName    = "agent.json"
	socketName    = "agent.sock"
	authorityName = "authority.pem" // of the egress proxy; empty when there is none
)

// goneMark begins the name of a directory whose sandbox is no more.
const goneMark = ".gone-"

// processes are the host's processes of a sandbox, as containerd told them: of
// Kata, the virtual machine's, for each container the same. They are known for
// the sweeper only and never signalled in place of a container.
type processes struct {
	Pod hostproc.ID `json:"pod"`
}

// writeJSON puts v into a file of dir, whole or not at all, for the owner only.
func writeJSON(dir, name string, v any) error {
	tmp, err := writeAside(dir, name, v)
	if err == nil {
		if err = os.Rename(tmp, filepath.Join(dir, name)); err != nil {
			_ = os.Remove(tmp)
		}
	}
	if err != nil {
		return fmt.Errorf("cannot write %s: %w", filepath.Join(dir, name), err)
	}
	return nil
}

// writeAside writes v to a new file and returns its path.
func writeAside(dir, name string, v any) (string, error) {
	data, err := json.Marshal(v)
	if err != nil {
		return "", err
	}
	f, err := os.CreateTemp(dir, "."+name+"-") // mode 0600
	if err != nil {
		return "", err
	}
	_, err = f.Write(data)
	if err = errors.Join(err, f.Close()); err != nil {
		_ = os.Remove(f.Name())
		return "", err
	}
	return f.Name(), nil
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

// recordExit writes down how the sandbox in dir ended, and returns what is
// written: who was first is right, so that all are told the same.
func recordExit(dir string, exit sandboxes.Exit) (sandboxes.Exit, error) {
	exit.At = exit.At.UTC().Round(0)
	if exit.At.IsZero() {
		exit.At = time.Now().UTC().Round(0)
	}
	tmp, err := writeAside(dir, exitName, exit)
	if err != nil {
		return sandboxes.Exit{}, fmt.Errorf("cannot record the end: %w", err)
	}
	defer os.Remove(tmp)
	if err := os.Link(tmp, filepath.Join(dir, exitName)); err != nil && !errors.Is(err, fs.ErrExist) {
		return sandboxes.Exit{}, fmt.Errorf("cannot record the end: %w", err)
	}
	err = readJSON(dir, exitName, &exit)
	return exit, err
}
