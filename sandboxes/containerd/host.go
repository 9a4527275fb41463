package containerd

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"kernelgw/sandboxes/hostproc"
	"kernelgw/sandboxes/statedir"
)

// What a runtime may leave on the host, and nobody else removes.

// cleanHost waits for a sandbox's shim to end, and removes what it and its
// machine left: processes, mounts, directories, control groups, sockets. All of it
// bears the pod's name, or one that is derived from it.
func (d *Driver) cleanHost(ctx context.Context, id string) error {
	pod := d.names.pod(id)
	if err := d.endProcesses(ctx, id, pod); err != nil {
		return err
	}
	if d.runtime.kata {
		for _, dir := range machineDirs(pod) {
			if err := removeMounted(dir); err != nil {
				return err
			}
		}
	}
	if err := removeGroups(ctx, pod); err != nil {
		return err
	}
	if err := d.removeSockets(pod); err != nil {
		return err
	}
	if !d.runtime.kata {
		// Of a runc that was killed before it had written anything there.
		for _, name := range []string{pod, pod + workSuffix} {
			if err := os.RemoveAll(filepath.Join(runcRoot, d.opts.Namespace, name)); err != nil {
				return err
			}
		}
	}
	return nil
}

// shimSocket is where a pod's shim listens, by the rule of containerd's package
// pkg/shim, from 1.6 on and in Kata. It is another one where containerd's socket
// goes by two names.
func shimSocket(address, namespace, pod string) string {
	return fmt.Sprintf("/run/containerd/s/%x", sha256.Sum256([]byte(filepath.Join(address, namespace, pod))))
}

// removeSockets removes what a shim listened on that was killed.
func (d *Driver) removeSockets(pod string) error {
	for _, name := range []string{pod, pod + workSuffix} {
		for _, purpose := range []string{"", "debug"} {
			socket := shimSocket(d.opts.Address, d.opts.Namespace, filepath.Join(name, purpose))
			if err := os.Remove(socket); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
		}
	}
	return nil
}

// runcRoot is where containerd's shim has runc keep its state.
const runcRoot = "/run/containerd/runc"

// shimPatience is how long a shim may live on after its last task was deleted.
const shimPatience = 5 * time.Second

// endProcesses returns when no shim and no machine of the sandbox runs. A shim
// ends by itself soon after its last task; of a shim of runtime-rs that was
// killed the machine lives on, and nothing but the pid that was recorded and its
// command line tell whose it is.
func (d *Driver) endProcesses(ctx context.Context, id, pod string) error {
	belongs := func(args []string) bool { return isShimOf(args, pod) || d.runtime.kata && isMachineOf(args, pod) }
	for deadline := time.Now().Add(shimPatience); ; {
		found, err := find(belongs)
		if err != nil || len(found) == 0 {
			return err
		}
		if d.runtime.kata && d.orphaned(id, found) || time.Now().After(deadline) {
			break
		}
		select {
		case <-time.After(10 * time.Millisecond): // nobody tells of the death of others' children
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	d.opts.Log.Info("killing what a sandbox left running", "sandbox", id)
	return killAll(ctx, belongs)
}

// orphaned reports whether the sandbox's recorded process is among those that
// are left and no shim is: nothing will end them.
func (d *Driver) orphaned(id string, left []hostproc.ID) bool {
	var procs processes
	if err := statedir.Read(d.records.Path(id, processName), &procs); err != nil || !slices.Contains(left, procs.Pod) {
		return false
	}
	shims, err := find(func(args []string) bool { return isShimOf(args, d.names.pod(id)) })
	return err == nil && len(shims) == 0
}

// isShimOf reports whether a command line is that of a pod's shim.
func isShimOf(args []string, pod string) bool {
	if len(args) == 0 || !strings.Contains(filepath.Base(args[0]), "containerd-shim") {
		return false
	}
	for i, a := range args {
		if (a == "-id" || a == "--id") && i+1 < len(args) && (args[i+1] == pod || args[i+1] == pod+workSuffix) {
			return true
		}
	}
	return false
}

// machines are the programs that Kata runs for a virtual machine, by the start
// of their names.
var machines = []string{"qemu-system-", "virtiofsd", "cloud-hypervisor", "firecracker", "jailer", "nydusd", "stratovirt"}

// isMachineOf reports whether a command line is that of a pod's virtual machine
// or of its file server: the name of QEMU's is "sandbox-" and the pod's, the
// others have directories of the pod's name among their arguments.
func isMachineOf(args []string, pod string) bool {
	if len(args) == 0 || !slices.ContainsFunc(machines, func(m string) bool { return strings.HasPrefix(filepath.Base(args[0]), m) }) {
		return false
	}
	for i, a := range args {
		if a == "-name" && i+1 < len(args) {
			name, _, _ := strings.Cut(args[i+1], ",")
			if name == "sandbox-"+pod {
				return true
			}
		}
		if slices.Contains(words(a), pod) {
			return true
		}
	}
	return false
}

// words are the parts of an argument such as "--socket-path=/run/kata/NAME/x.sock".
func words(argument string) []string {
	return strings.FieldsFunc(argument, func(r rune) bool { return r == '/' || r == ',' || r == '=' })
}

// arguments is the command line of a process, nil when it is gone.
func arguments(pid int) []string {
	cmdline, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	if err != nil {
		return nil
	}
	return strings.Split(string(bytes.TrimRight(cmdline, "\x00")), "\x00")
}

// find returns the processes whose command line is wanted, this one excepted.
// They are named by what was seen before they were looked at: if a pid changes
// hands in between, it is the dead one that will not be killed.
func find(wanted func(args []string) bool) ([]hostproc.ID, error) {
	table, err := hostproc.Table()
	if err != nil {
		return nil, err
	}
	var found []hostproc.ID
	for pid, p := range table {
		if pid == os.Getpid() || p.Zombie || !wanted(arguments(pid)) {
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

// killAll kills the processes whose command line is wanted, until there is none.
func killAll(ctx context.Context, wanted func(args []string) bool) error {
	for {
		found, err := find(wanted)
		if err != nil || len(found) == 0 {
			return err
		}
		for _, p := range found {
			if err := p.Kill(); err != nil {
				return err
			}
			if err := p.Wait(ctx); err != nil {
				return err
			}
		}
	}
}

// machineRoots are where Kata's shims keep a directory for each machine.
var machineRoots = []string{
	"/run/vc/sbs", "/run/vc/vm", "/run/vc/firecracker", "/run/kata", "/run/kata-containers/shared/sandboxes",
}

// machineDirs returns the directories of a pod's machine that are there.
func machineDirs(pod string) []string {
	var dirs []string
	for _, root := range machineRoots {
		if _, err := os.Lstat(filepath.Join(root, pod)); err == nil {
			dirs = append(dirs, filepath.Join(root, pod))
		}
	}
	return dirs
}

// removeMounted unmounts all in a directory and removes it. It never removes what
// is below a mount that stays.
func removeMounted(dir string) error {
	points, err := mountsIn(dir)
	if err != nil {
		return err
	}
	for _, point := range points {
		if err := unix.Unmount(point, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil && !errors.Is(err, unix.EINVAL) {
			return fmt.Errorf("cannot unmount %s: %w", point, err)
		}
	}
	if points, err = mountsIn(dir); err != nil {
		return err
	}
	if len(points) > 0 {
		return fmt.Errorf("cannot remove %s: %s is mounted", dir, points[0])
	}
	return os.RemoveAll(dir)
}

// mountsIn returns the mount points in a directory, the deepest first.
func mountsIn(dir string) ([]string, error) {
	table, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, fmt.Errorf("cannot read the mounts: %w", err)
	}
	var points []string
	for line := range strings.Lines(string(table)) {
		// proc_pid_mountinfo(5): the fifth field, with octal escapes for what is not
		// in the names here.
		fields := strings.Fields(line)
		if len(fields) > 4 && (fields[4] == dir || strings.HasPrefix(fields[4], dir+"/")) {
			points = append(points, fields[4])
		}
	}
	slices.Reverse(points) // later ones are mounted on earlier ones
	return points, nil
}

// cgroupRoot is where the control groups are.
const cgroupRoot = "/sys/fs/cgroup"

// groupDepth is how deep below a hierarchy's root the groups of sandboxes are:
// Kata puts them into groups of its own.
const groupDepth = 2

// removeGroups removes the control groups of a pod's containers. runc removes its
// own; Kata leaves empty ones with "kata_" before the name.
func removeGroups(ctx context.Context, pod string) error {
	ours := func(name string) bool {
		return strings.TrimSuffix(strings.TrimPrefix(name, "kata_"), workSuffix) == pod
	}
	roots, err := groupRoots()
	if err != nil {
		return err
	}
	for _, root := range roots {
		if err := removeGroupsIn(ctx, root, groupDepth, ours); err != nil {
			return err
		}
	}
	return nil
}

// groupRoots returns the mount points of all hierarchies.
func groupRoots() ([]string, error) {
	table, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, fmt.Errorf("cannot read the mounts: %w", err)
	}
	var roots []string
	for line := range strings.Lines(string(table)) {
		before, after, ok := strings.Cut(line, " - ")
		head, tail := strings.Fields(before), strings.Fields(after)
		if ok && len(head) > 4 && len(tail) > 0 && (tail[0] == "cgroup" || tail[0] == "cgroup2") && strings.HasPrefix(head[4], cgroupRoot) {
			roots = append(roots, head[4])
		}
	}
	return roots, nil
}

func removeGroupsIn(ctx context.Context, dir string, depth int, ours func(name string) bool) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return fmt.Errorf("cannot list control groups: %w", err)
	}
	for _, e := range entries {
		if !e.IsDir() {
			continue
		}
		path := filepath.Join(dir, e.Name())
		switch {
		case ours(e.Name()):
			if err := removeGroup(ctx, path); err != nil {
				return err
			}
		case depth > 1 && strings.HasPrefix(e.Name(), "kata"):
			if err := removeGroupsIn(ctx, path, depth-1, ours); err != nil {
				return err
			}
		}
	}
	return nil
}

// removeGroup removes a control group and the groups in it. A process that is
// still in it is the sandbox's, as the first steps of runc are whose shim was
// interrupted; of a dead one the kernel may need a moment to let go.
func removeGroup(ctx context.Context, dir string) error {
	if err := removeGroupsIn(ctx, dir, 1, func(string) bool { return true }); err != nil {
		return err
	}
	for {
		err := unix.Rmdir(dir)
		if err == nil || errors.Is(err, unix.ENOENT) {
			return nil
		}
		if !errors.Is(err, unix.EBUSY) || ctx.Err() != nil {
			return fmt.Errorf("cannot remove control group %s: %w", dir, errors.Join(err, ctx.Err()))
		}
		procs, err := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		for _, text := range strings.Fields(string(procs)) {
			if pid, err := strconv.Atoi(text); err == nil && pid > 0 {
				if p, err := hostproc.Identify(pid); err == nil {
					_ = p.Kill() // tried again until the group is empty
				}
			}
		}
		select {
		case <-time.After(5 * time.Millisecond):
		case <-ctx.Done():
		}
	}
}
