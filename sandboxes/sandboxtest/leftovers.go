package sandboxtest

import (
	"bytes"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// leftovers lists what still bears the id of a sandbox on this host:
// processes, mounts, control groups, files under the state directory. Drivers
// need nothing special for it: the id is in the names, arguments or
// environment of all that they make for a sandbox.
func leftovers(t testing.TB, stateDir, id string) []string {
	t.Helper()
	var found []string
	found = append(found, processesWith(t, id)...)
	for _, m := range mountsUnder(t, stateDir) {
		if strings.Contains(m, id) {
			found = append(found, "mount "+m)
		}
	}
	for kind, root := range map[string]string{"control group ": "/sys/fs/cgroup", "file ": stateDir} {
		_ = filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
			if err != nil {
				return nil //nolint:nilerr // it went away, which is what we want to see
			}
			if strings.Contains(d.Name(), id) {
				found = append(found, kind+path)
			}
			return nil
		})
	}
	return found
}

// processesWith lists the processes that have id among their arguments or in
// the environment that they were started with.
func processesWith(t testing.TB, id string) []string {
	t.Helper()
	entries, err := os.ReadDir("/proc")
	if err != nil {
		t.Fatalf("cannot list processes: %v", err)
	}
	var found []string
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || pid == os.Getpid() {
			continue
		}
		for _, file := range []string{"cmdline", "environ"} {
			data, err := os.ReadFile(filepath.Join("/proc", e.Name(), file))
			if err == nil && bytes.Contains(data, []byte(id)) {
				cmdline, _ := os.ReadFile(filepath.Join("/proc", e.Name(), "cmdline"))
				found = append(found, "process "+e.Name()+" "+string(bytes.ReplaceAll(cmdline, []byte{0}, []byte{' '})))
				break
			}
		}
	}
	return found
}

// mountsUnder lists the mount points of this mount namespace in dir.
func mountsUnder(t testing.TB, dir string) []string {
	t.Helper()
	table, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatalf("cannot read the mount table: %v", err)
	}
	var mounts []string
	for line := range strings.Lines(string(table)) {
		// proc(5): the fifth field is the mount point.
		if fields := strings.Fields(line); len(fields) > 4 && strings.HasPrefix(fields[4], dir) {
			mounts = append(mounts, fields[4])
		}
	}
	return mounts
}
