package process

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"kernelgw/sandboxes"
	"kernelgw/sandboxes/hostproc"
)

// The files of a sandbox's directory. The directory appears under the
// sandbox's id with the first two in it, before anything is started.
const (
	recordName    = "spec.json"
	configName    = "agent.json"     // Spec.AgentConfig
	socketName    = "agent.sock"     // where the agent listens
	processesName = "processes.json" // appears when the agent was started
	exitName      = "exit.json"      // appears when it has ended
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
	if err := b.read(recordName, &r); err != nil {
		return sandboxes.Sandbox{}, err
	}
	return sandboxes.Sandbox{Spec: r.Spec, CreatedAt: r.CreatedAt, Agent: b.endpoint(), Image: Image}, nil
}

func (b box) processes() (processes, error) {
	var p processes
	err := b.read(processesName, &p)
	return p, err
}

func (b box) exit() (sandboxes.Exit, error) {
	var e sandboxes.Exit
	err := b.read(exitName, &e)
	return e, err
}

// end records how the sandbox ended, unless that is recorded already, and
// returns what is recorded.
func (b box) end(exit sandboxes.Exit) (sandboxes.Exit, error) {
	exit.At = time.Now().UTC()
	err := b.write(exitName, exit)
	if err != nil && !errors.Is(err, fs.ErrExist) {
		return sandboxes.Exit{}, err
	}
	return b.exit()
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

// lock waits until the sandbox is neither being created nor destroyed, and
// locks it until the file is closed. fs.ErrNotExist when there is none.
func (b box) lock(ctx context.Context) (*os.File, error) {
	for {
		dir, err := os.Open(b.dir)
		if err != nil {
			return nil, err
		}
		locked, err := tryLock(dir)
		if err == nil && locked {
			if same(dir, b.dir) {
				return dir, nil
			}
			err = fs.ErrNotExist // removed by who held the lock
		}
		_ = dir.Close()
		if err != nil {
			return nil, err
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(10 * time.Millisecond): // flock cannot wait with a context
		}
	}
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

// same reports whether path still is the open directory.
func same(dir *os.File, path string) bool {
	opened, err1 := dir.Stat()
	named, err2 := os.Stat(path)
	return err1 == nil && err2 == nil && os.SameFile(opened, named)
}

func (b box) read(name string, v any) error {
	data, err := os.ReadFile(b.path(name))
	if err != nil {
		return err
	}
	if err := json.Unmarshal(data, v); err != nil {
		return fmt.Errorf("cannot read %s: %w", b.path(name), err)
	}
	return nil
}

// write makes a file that appears whole or not at all, and never replaces one:
// that is fs.ErrExist.
func (b box) write(name string, v any) error {
	data, err := json.Marshal(v)
	if err != nil {
		return err
	}
	f, err := os.CreateTemp(b.dir, ".tmp-") // mode 0600
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = f.Write(data)
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return fmt.Errorf("cannot write %s: %w", b.path(name), err)
	}
	return os.Link(f.Name(), b.path(name))
}
