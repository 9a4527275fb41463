package process

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"kernelgw/sandboxes"
	"kernelgw/sandboxes/hostproc"
	"kernelgw/sandboxes/statedir"
)

// The files of a sandbox's directory. The directory appears under the
// sandbox's id with the first two in it, before anything is started.
const (
	recordName    = "spec.json"
	configName    = "agent.json"     // Spec.AgentConfig
	socketName    = "agent.sock"     // where the agent listens
	processesName = "processes.json" // appears when the agent was started
	logName       = "agent.log"      // what agent and kernel printed, the last MiB
	runtimeName   = "run"            // the agent's temporary files
	homeName      = "home"           // the kernel's home, with Options.Homes
)

// Directories that are being made or removed bear no id.
const (
	newPrefix  = ".new-"
	gonePrefix = ".gone-"
)

// record is all that cannot be found out again.
type record struct {
	Spec      sandboxes.Spec `json:"spec"`
	CreatedAt time.Time      `json:"created_at"`
	Agent     []string       `json:"agent"` // command of the agent, run in the sandbox's directory
}

// processes are those of a sandbox that others descend from.
type processes struct {
	Supervisor hostproc.ID `json:"supervisor"`
	Agent      hostproc.ID `json:"agent"`
}

// box is a sandbox's directory. Its lock is held by who creates or destroys
// the sandbox; it is a lock of the directory itself, so that it ends with its
// holder, however that dies.
type box struct{ dir string }

func (b box) path(name string) string { return filepath.Join(b.dir, name) }

func (b box) endpoint() sandboxes.Endpoint {
	return sandboxes.Endpoint{Network: "unix", Address: b.path(socketName)}
}

// sandbox is fs.ErrNotExist when there is none.
func (b box) sandbox() (sandboxes.Sandbox, error) {
	var r record
	if err := statedir.Read(b.path(recordName), &r); err != nil {
		return sandboxes.Sandbox{}, err
	}
	return sandboxes.Sandbox{Spec: r.Spec, CreatedAt: r.CreatedAt, Agent: b.endpoint(), Image: Image}, nil
}

func (b box) processes() (processes, error) {
	var p processes
	err := statedir.Read(b.path(processesName), &p)
	return p, err
}

// creating reports whether the sandbox is still being created. One that is
// locked and has no processes is; one that has neither was given up by a
// gateway that died.
func (b box) creating() (bool, error) {
	if _, err := os.Stat(b.path(processesName)); !errors.Is(err, fs.ErrNotExist) {
		return false, err
	}
	dir, err := os.Open(b.dir)
	if err != nil {
		return false, err
	}
	defer dir.Close()
	locked, err := tryLock(dir)
	if err != nil || locked {
		return false, err
	}
	// Who held the lock may have done all of its work between the two looks.
	_, err = os.Stat(b.path(processesName))
	if errors.Is(err, fs.ErrNotExist) {
		_, err = os.Stat(b.path(recordName))
		return err == nil, err
	}
	return false, err
}

// tryLock locks dir until all descriptors of this opening are closed.
func tryLock(dir *os.File) (bool, error) {
	err := unix.Flock(int(dir.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("cannot lock %s: %w", dir.Name(), err)
	}
	return true, nil
}
