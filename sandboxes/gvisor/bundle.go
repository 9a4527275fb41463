package gvisor

import (
	"fmt"
	"math"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"kernelgw/sandboxes"
)

// sandboxOverhead is what a control group allows beside Resources.MemoryBytes:
// for the sentry and the gofer, and so that the agent, which sees the
// processes, is the first to notice and can say why a kernel ended.
const sandboxOverhead = 256 << 20

const ociVersion = "1.2.0"

// safePath is the PATH of what runs outside an image's own environment.
const safePath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// layerAnnotation names a tar archive that is unpacked into the writable layer.
const layerAnnotation = "dev.gvisor.tar.rootfs.upper"

// bundle describes the sandbox as the OCI runtime specification does.
func (d *Driver) bundle(id string, root Rootfs, limits sandboxes.Resources, c connection) specs.Spec {
	dir := d.state.Path(id)
	// What the agent needs to run a kernel as another user, and no more.
	caps := []string{"CAP_SETUID", "CAP_SETGID", "CAP_KILL", "CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_SETPCAP"}
	tasks, files := taskLimit(limits), uint64(limits.OpenFiles)
	oomScore := 500 // a host short of memory ends sandboxes before gateways
	spec := specs.Spec{
		Version: ociVersion,
		Process: &specs.Process{
			User: specs.User{UID: 0, GID: 0},
			Args: append([]string{
				AgentBinary,
				"--config", AgentDir + "/" + configName,
				"--listen", c.listen,
				"--run-as", fmt.Sprintf("%d:%d", root.UID, root.GID),
				"--home", root.Home,
				"--runtime-dir", "/tmp", // whatever the image's TMPDIR is for kernels
			}, c.trust()...),
			Env:             environment(root, c.slot.Env),
			Cwd:             "/",
			NoNewPrivileges: true,
			OOMScoreAdj:     &oomScore,
			Capabilities:    &specs.LinuxCapabilities{Bounding: caps, Effective: caps, Permitted: caps},
			Rlimits: []specs.POSIXRlimit{
				// Per user and held by the sentry: a kernel, which has no
				// capabilities, meets EAGAIN; the agent is another user.
				{Type: "RLIMIT_NPROC", Soft: tasks, Hard: tasks},
				{Type: "RLIMIT_NOFILE", Soft: files, Hard: files},
				{Type: "RLIMIT_CORE", Soft: 0, Hard: 0},
			},
		},
		Root:     &specs.Root{Path: root.Dir, Readonly: false}, // the overlay takes all writes
		Hostname: "kernel",
		Mounts: []specs.Mount{
			{Destination: "/proc", Type: "proc", Source: "proc"},
			{Destination: "/sys", Type: "sysfs", Source: "sysfs", Options: []string{"nosuid", "noexec", "nodev", "ro"}},
			{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "mode=755", "size=64k"}},
			{Destination: "/dev/shm", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "nodev", "mode=1777", tmpfsSize(limits.ShmBytes)}},
			{Destination: "/tmp", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "nodev", "mode=1777", tmpfsSize(limits.MemoryBytes / 2)}},
			{Destination: AgentDir, Type: "bind", Source: filepath.Join(dir, runName), Options: []string{"bind", "rw", "nosuid", "nodev", "noexec"}},
			{Destination: AgentBinary, Type: "bind", Source: d.opts.AgentPath, Options: []string{"bind", "ro", "nosuid", "nodev"}},
		},
		Linux: &specs.Linux{
			Namespaces: []specs.LinuxNamespace{
				{Type: specs.PIDNamespace},
				{Type: specs.IPCNamespace},
				{Type: specs.UTSNamespace},
				{Type: specs.MountNamespace},
				c.namespace(),
			},
			MaskedPaths: []string{
				"/proc/acpi", "/proc/asound", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list",
				"/proc/timer_stats", "/proc/sched_debug", "/proc/scsi", "/sys/firmware",
			},
			ReadonlyPaths: []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"},
		},
	}
	if d.limited {
		spec.Linux.CgroupsPath = "/" + cgroupName(id)
		spec.Linux.Resources = cgroupLimits(limits)
	}
	return spec
}

func cgroupLimits(limits sandboxes.Resources) *specs.LinuxResources {
	memory := limits.MemoryBytes + sandboxOverhead
	// The sentry has threads of its own, and a host process for each address
	// space inside. Refused one, it dies: this is only the last resort.
	tasks := 4*int64(taskLimit(limits)) + 1024
	r := &specs.LinuxResources{
		Memory: &specs.LinuxMemory{Limit: &memory},
		Pids:   &specs.LinuxPids{Limit: &tasks},
	}
	if limits.CPUs > 0 {
		period := uint64(100_000)
		quota := int64(math.Ceil(limits.CPUs * float64(period)))
		r.CPU = &specs.LinuxCPU{Quota: &quota, Period: &period}
	}
	return r
}

// taskLimit is how many tasks, threads included, a kernel's user may have. The
// limit on processes is the agent's to enforce, with a reason; this one stops
// what is too fast for it.
func taskLimit(limits sandboxes.Resources) uint64 { return uint64(2*limits.Processes + 256) }

// tmpfsSize is the option for a tmpfs of so many bytes.
func tmpfsSize(bytes int64) string { return fmt.Sprintf("size=%dk", bytes/1024) }

// agentVariables are what the runtime of the agent, a static Go program and root
// inside, reads before the agent can say anything about it (package runtime,
// "Environment Variables"; internal/godebug; time).
var agentVariables = []string{
	"GOCOVERDIR", "GODEBUG", "GOGC", "GOMAXPROCS", "GOMEMLIMIT", "GORACE", "GOTRACEBACK", "ZONEINFO",
}

// environment is what the agent starts with and hands on to kernels: that of the
// image without agentVariables, and over it that of the network. No name twice:
// of two the agent would take the first, the image's.
func environment(root Rootfs, network []string) []string {
	set := map[string]bool{}
	for _, e := range network {
		name, _, _ := strings.Cut(e, "=")
		set[name] = true
	}
	var env []string
	path := false
	for _, e := range root.Env {
		name, _, _ := strings.Cut(e, "=")
		if slices.Contains(agentVariables, name) || set[name] {
			continue
		}
		env = append(env, e)
		path = path || name == "PATH"
	}
	if !path {
		env = append(env, "PATH="+safePath)
	}
	return append(env, network...)
}

// plan is what the sandbox's supervisor does.
func (d *Driver) plan(id string, limits sandboxes.Resources, c connection) plan {
	dir := d.state.Path(id)
	flags := append(commonFlags(d.rootless),
		"--network="+c.flag,
		"--root="+runscName, // relative: see files.go
		"--overlay2=root:dir="+filepath.Join(dir, overlayName)+",size="+strconv.FormatInt(limits.DiskBytes, 10),
		"--file-access=exclusive",       // nobody else writes to an image
		"--allow-rootfs-tar-annotation", // layerAnnotation; annotations are all ours
	)
	if c.endpoint.Network == "unix" {
		flags = append(flags, "--host-uds=create")
	}
	// Half of the overhead, so that the watch, which can say why, comes after the
	// agent and before the control group, which may kill no more than one of the
	// sentry's helpers.
	p := plan{Memory: limits.MemoryBytes, MemoryCap: limits.MemoryBytes + sandboxOverhead/2}
	if d.limited {
		p.Cgroup = cgroupName(id)
	} else {
		flags = append(flags, "--ignore-cgroups")
	}
	p.Runsc = append(append([]string{d.opts.Runsc}, flags...),
		"run", "--detach", "--bundle", filepath.Join(dir, bundleName), "--pid-file", filepath.Join(dir, pidName), containerName)
	return p
}

// commonFlags are runsc's flags for every sandbox.
func commonFlags(rootless bool) []string {
	flags := []string{
		"--platform=systrap",            // never KVM by itself: it hangs under some hypervisors
		"--gofer-network-namespace=new", // the default pins one with a mount that stays
		"--host-settings=ignore",
	}
	if rootless {
		flags = append(flags, "--rootless")
	}
	return flags
}
