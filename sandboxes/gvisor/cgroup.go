package gvisor

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"kernelgw/sandboxes/hostproc"
)

// cgroups are the control groups of this host, in either version.
type cgroups struct {
	v2     string            // mount point of the unified hierarchy; "" when there is none
	v1     map[string]string // mount points by controller
	mounts []string          // all mount points, each once
}

// readCgroups reads where the hierarchies are mounted.
func readCgroups() (cgroups, error) {
	info, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return cgroups{}, fmt.Errorf("cannot read the mounts: %w", err)
	}
	return parseCgroups(info), nil
}

func parseCgroups(mountinfo []byte) cgroups {
	g := cgroups{v1: map[string]string{}}
	scan := bufio.NewScanner(bytes.NewReader(mountinfo))
	for scan.Scan() {
		// proc_pid_mountinfo(5): ... (5) mount point ... - type source options
		before, after, ok := strings.Cut(scan.Text(), " - ")
		head, tail := strings.Fields(before), strings.Fields(after)
		if !ok || len(head) < 5 || len(tail) < 3 {
			continue
		}
		switch tail[0] {
		case "cgroup2":
			g.v2 = head[4]
		case "cgroup":
			for _, option := range strings.Split(tail[2], ",") {
				g.v1[option] = head[4]
			}
		default:
			continue
		}
		g.mounts = append(g.mounts, head[4])
	}
	return g
}

// mode says which version limits memory here: "v1", "v2", or "" for none.
func (g cgroups) mode() string {
	if g.v1["memory"] != "" {
		return "v1"
	}
	if g.v2 == "" {
		return ""
	}
	controllers, err := os.ReadFile(filepath.Join(g.v2, "cgroup.controllers"))
	if err == nil && strings.Contains(" "+strings.TrimSpace(string(controllers))+" ", " memory ") {
		return "v2"
	}
	return ""
}

// usable says why this process cannot make memory control groups, or nil.
func (g cgroups) usable() error {
	var parent string
	switch g.mode() {
	case "v1":
		parent = g.v1["memory"]
	case "v2":
		parent = g.v2
	default:
		return errors.New("no memory controller is mounted")
	}
	dir, err := os.MkdirTemp(parent, "kernelgw-probe-")
	if err != nil {
		return fmt.Errorf("cannot make control groups: %w", err)
	}
	defer func() { _ = unix.Rmdir(dir) }()
	if g.mode() == "v1" {
		return nil
	}
	// A group that has processes cannot give controllers to groups below it, as
	// in a container that was given a part of the tree.
	control := filepath.Join(parent, "cgroup.subtree_control")
	if err := os.WriteFile(control, []byte("+memory +pids +cpu"), 0); err != nil {
		return fmt.Errorf("cannot give controllers to control groups: %w", err)
	}
	if _, err := os.Stat(filepath.Join(dir, "memory.max")); err != nil {
		return fmt.Errorf("control groups have no memory limit: %w", err)
	}
	return nil
}

// killTogether makes the kernel end all of the group's processes when it ends
// one for memory: the sentry cannot do without its helpers, and would blame
// the program inside. Version 1 has no such thing.
func (g cgroups) killTogether(name string) {
	if g.mode() == "v2" {
		// An older kernel without it kills one, which is no worse than version 1.
		_ = os.WriteFile(filepath.Join(g.v2, name, "memory.oom.group"), []byte("1"), 0)
	}
}

// oomKills returns how many processes of the group were killed for memory.
func (g cgroups) oomKills(name string) int64 {
	var file string
	switch g.mode() {
	case "v1":
		file = filepath.Join(g.v1["memory"], name, "memory.oom_control")
	case "v2":
		file = filepath.Join(g.v2, name, "memory.events")
	default:
		return 0
	}
	data, err := os.ReadFile(file)
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(data)) {
		if count, ok := strings.CutPrefix(line, "oom_kill "); ok {
			n, err := strconv.ParseInt(strings.TrimSpace(count), 10, 64)
			if err != nil {
				return 0
			}
			return n
		}
	}
	return 0
}

// processes returns the processes of the group.
func (g cgroups) processes(name string) []hostproc.ID {
	var found []hostproc.ID
	for _, mount := range g.mounts {
		data, err := os.ReadFile(filepath.Join(mount, name, "cgroup.procs"))
		if err != nil {
			continue
		}
		for line := range strings.Lines(string(data)) {
			pid, err := strconv.Atoi(strings.TrimSpace(line))
			if err != nil {
				continue
			}
			if p, err := hostproc.Identify(pid); err == nil {
				found = append(found, p)
			}
		}
	}
	return found
}

// remove removes the group from every hierarchy. Its processes must have been
// killed; the kernel may still need a moment to let go of them.
func (g cgroups) remove(name string) error {
	deadline := time.Now().Add(5 * time.Second)
	for _, mount := range g.mounts {
		dir := filepath.Join(mount, name)
		for {
			err := unix.Rmdir(dir)
			if err == nil || errors.Is(err, unix.ENOENT) {
				break
			}
			if !errors.Is(err, unix.EBUSY) || time.Now().After(deadline) {
				return fmt.Errorf("cannot remove control group %s: %w", dir, err)
			}
			time.Sleep(5 * time.Millisecond)
		}
	}
	return nil
}
