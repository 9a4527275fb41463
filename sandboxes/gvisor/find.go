package gvisor

import (
	"bytes"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"kernelgw/sandboxes/hostproc"
)

// children returns the children of this process, the adopted ones included.
func children() ([]hostproc.ID, error) {
	return find(func(p hostproc.Process) bool { return p.Parent == os.Getpid() })
}

// mentioning returns the processes that have dir, or its bundle, as an
// argument: the supervisor of the sandbox in dir, runsc, the gofer and the
// sentry. It is how processes are found that nobody could record.
func mentioning(dir string) ([]hostproc.ID, error) {
	bundle := filepath.Join(dir, bundleName)
	return find(func(p hostproc.Process) bool {
		if p.PID == os.Getpid() {
			return false
		}
		cmdline, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", p.PID))
		return err == nil && isOurs(strings.Split(string(bytes.TrimRight(cmdline, "\x00")), "\x00"), dir, bundle)
	})
}

func isOurs(args []string, dir, bundle string) bool {
	if n := len(args); n >= 2 && args[n-2] == SupervisorCommand && args[n-1] == dir {
		return true
	}
	for i, a := range args {
		if a == "--bundle="+bundle || (a == "--bundle" && i+1 < len(args) && args[i+1] == bundle) {
			return true
		}
	}
	return false
}

// find returns the processes that are wanted, by pid. They are named by what was seen
// before they were looked at: if a pid changes hands in between, it is the dead
// one that will not be killed.
func find(wanted func(hostproc.Process) bool) ([]hostproc.ID, error) {
	table, err := hostproc.Table()
	if err != nil {
		return nil, err
	}
	var found []hostproc.ID
	for _, pid := range slices.Sorted(maps.Keys(table)) {
		p := table[pid]
		if !wanted(p) {
			continue
		}
		id, err := p.ID()
		if err != nil {
			return nil, err
		}
		found = append(found, id)
	}
	return found, nil
}
