package containerd

import (
	"fmt"
	"math"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/containerd/v2/contrib/seccomp"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"kernelgw/sandboxes"
	"kernelgw/sandboxes/netpolicy"
)

// agentOverhead is what the host allows a sandbox beside Resources.MemoryBytes,
// so that the agent, which sees the processes, is the first to notice and can
// say why a kernel ended. guestOverhead is what the kernel of a virtual machine
// and Kata's own agent take.
const (
	agentOverhead = 128 << 20
	guestOverhead = 160 << 20
)

// podProgram is what a pod's first container runs: the agent's binary, which
// does nothing when it is told to pause.
const podProgram = "pause"

const ociVersion = "1.0.2" // what runc 1.1 knows

// safePath is the PATH of what runs outside an image's own environment.
const safePath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// cpuPeriod is that of the CPU quota, in microseconds.
const cpuPeriod = 100_000

// The annotations by which runtimes know a pod (containerd's CRI plugin sets
// them for Kubernetes).
const (
	typeAnnotation      = "io.kubernetes.cri.container-type"
	podAnnotation       = "io.kubernetes.cri.sandbox-id"
	containerAnnotation = "io.kubernetes.cri.container-name"
	memoryAnnotation    = "io.kubernetes.cri.sandbox-memory"
	quotaAnnotation     = "io.kubernetes.cri.sandbox-cpu-quota"
	periodAnnotation    = "io.kubernetes.cri.sandbox-cpu-period"
)

// podSpec describes the container that holds the pod. It says how large a
// virtual machine has to be: runtime-rs gives it its size once, from these
// annotations. No resources of its own: Kata's older shim adds them up, but dies
// of there being none at all.
func (d *Driver) podSpec(id string, limits sandboxes.Resources, slot netpolicy.Slot) *specs.Spec {
	name := d.names.pod(id)
	spec := d.commonSpec(name, slot)
	spec.Annotations = map[string]string{
		typeAnnotation:   "sandbox",
		podAnnotation:    name,
		memoryAnnotation: strconv.FormatInt(limits.MemoryBytes+agentOverhead+guestOverhead, 10),
	}
	if limits.CPUs > 0 {
		spec.Annotations[quotaAnnotation] = strconv.FormatInt(cpuQuota(limits), 10)
		spec.Annotations[periodAnnotation] = strconv.Itoa(cpuPeriod)
	}
	spec.Process.Args = []string{"/" + podProgram, "pause"}
	spec.Process.Env = []string{"PATH=" + safePath}
	spec.Process.User = specs.User{UID: 65534, GID: 65534}
	spec.Process.Capabilities = &specs.LinuxCapabilities{}
	spec.Root.Readonly = true
	spec.Mounts = append(spec.Mounts,
		specs.Mount{Destination: "/" + podProgram, Type: "bind", Source: d.opts.AgentPath, Options: readOnlyProgram()})
	// No share of the CPU less than others': it does nothing once it runs, but until
	// then a busy host would keep it, and the sandbox, waiting for seconds.
	return spec
}

// workSpec describes the container with the agent.
func (d *Driver) workSpec(id string, image Image, limits sandboxes.Resources, slot netpolicy.Slot) *specs.Spec {
	name := d.names.work(id)
	spec := d.commonSpec(name, slot)
	spec.Annotations = map[string]string{
		typeAnnotation:      "container",
		podAnnotation:       d.names.pod(id),
		containerAnnotation: "agent",
	}
	// What the agent needs to run a kernel as another user, and no more.
	caps := []string{"CAP_SETUID", "CAP_SETGID", "CAP_KILL", "CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_SETPCAP"}
	files := uint64(limits.OpenFiles)
	spec.Process.Capabilities = &specs.LinuxCapabilities{Bounding: caps, Effective: caps, Permitted: caps}
	spec.Process.Args = []string{
		AgentBinary,
		"--config", AgentDir + "/" + configName,
		"--listen", listenOn(slot),
		"--run-as", fmt.Sprintf("%d:%d", image.UID, image.GID),
		"--home", image.Home,
		"--runtime-dir", "/tmp", // whatever the image's TMPDIR is for kernels
		// Nobody reads what it writes: Kata keeps 64 KiB of that and then stops the
		// writer.
		"--log-level", "off",
	}
	if slot.Authority != nil {
		spec.Process.Args = append(spec.Process.Args, "--authority", AgentDir+"/"+authorityName)
	}
	spec.Process.Env = environment(image.Env, slot.Env)
	spec.Process.Rlimits = []specs.POSIXRlimit{
		{Type: "RLIMIT_NOFILE", Soft: files, Hard: files},
		{Type: "RLIMIT_CORE", Soft: 0, Hard: 0},
	}
	if d.runtime.kata {
		// Kata takes the limit on processes out of the specification. In a machine
		// of its own this one is the kernel user's alone; on a host that user ids
		// share it would be all sandboxes'.
		tasks := taskLimit(limits)
		spec.Process.Rlimits = append(spec.Process.Rlimits, specs.POSIXRlimit{Type: "RLIMIT_NPROC", Soft: tasks, Hard: tasks})
	}
	oomScore := 500 // a host short of memory ends sandboxes before gateways
	spec.Process.OOMScoreAdj = &oomScore

	dir := d.records.Path(id)
	runOptions := []string{"bind", "rw", "nosuid", "nodev", "noexec"}
	if slot.Namespace != "" {
		runOptions[1] = "ro"
	}
	spec.Mounts = append(spec.Mounts,
		specs.Mount{Destination: "/dev/pts", Type: "devpts", Source: "devpts", Options: []string{"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"}},
		specs.Mount{Destination: d.shmPath(), Type: "tmpfs", Source: "shm", Options: []string{"nosuid", "nodev", "mode=1777", tmpfsSize(limits.ShmBytes)}},
		specs.Mount{Destination: "/tmp", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "nodev", "mode=1777", tmpfsSize(limits.MemoryBytes / 2)}},
		specs.Mount{Destination: AgentDir, Type: "bind", Source: filepath.Join(dir, runName), Options: runOptions},
		specs.Mount{Destination: AgentBinary, Type: "bind", Source: d.opts.AgentPath, Options: readOnlyProgram()},
	)
	memory, tasks := limits.MemoryBytes+agentOverhead, int64(taskLimit(limits))
	spec.Linux.Resources.Memory = &specs.LinuxMemory{Limit: &memory}
	spec.Linux.Resources.Pids = &specs.LinuxPids{Limit: &tasks}
	if limits.CPUs > 0 {
		quota, period := cpuQuota(limits), uint64(cpuPeriod)
		spec.Linux.Resources.CPU = &specs.LinuxCPU{Quota: &quota, Period: &period}
	}
	spec.Linux.Seccomp = seccomp.DefaultProfile(spec)
	return spec
}

// shmPath is where a sandbox's /dev/shm is mounted. Both Kata shims replace what
// is mounted on exactly "/dev/shm" by a file system that all of a machine share,
// of 64 MiB or of half of its memory. Spelled like this it stays ours.
func (d *Driver) shmPath() string {
	if d.runtime.kata {
		return "/dev/shm/"
	}
	return "/dev/shm"
}

// commonSpec is what both containers of a pod have.
func (d *Driver) commonSpec(name string, slot netpolicy.Slot) *specs.Spec {
	return &specs.Spec{
		Version: ociVersion,
		Process: &specs.Process{Cwd: "/", NoNewPrivileges: true},
		Root:    &specs.Root{Path: "rootfs"},
		// Both, although Kata's guests have one.
		Hostname: "kernel",
		Mounts: []specs.Mount{
			{Destination: "/proc", Type: "proc", Source: "proc", Options: []string{"nosuid", "noexec", "nodev"}},
			{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "strictatime", "mode=755", "size=65536k"}},
			{Destination: "/sys", Type: "sysfs", Source: "sysfs", Options: []string{"nosuid", "noexec", "nodev", "ro"}},
		},
		Linux: &specs.Linux{
			CgroupsPath: "/" + name,
			// Never nil: Kata's older shim dies of it.
			Resources: &specs.LinuxResources{Devices: []specs.LinuxDeviceCgroup{{Allow: false, Access: "rwm"}}},
			Namespaces: []specs.LinuxNamespace{
				{Type: specs.PIDNamespace},
				{Type: specs.IPCNamespace},
				{Type: specs.UTSNamespace},
				{Type: specs.MountNamespace},
				// Empty: one with a loopback only.
				{Type: specs.NetworkNamespace, Path: slot.Namespace},
			},
			MaskedPaths: []string{
				"/proc/acpi", "/proc/asound", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats",
				"/proc/timer_list", "/proc/timer_stats", "/proc/sched_debug", "/proc/scsi",
				"/sys/firmware", "/sys/devices/virtual/powercap",
			},
			ReadonlyPaths: []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"},
		},
	}
}

func readOnlyProgram() []string { return []string{"bind", "ro", "nosuid", "nodev"} }

// listenOn is where the agent is told to listen.
func listenOn(slot netpolicy.Slot) string {
	if slot.Namespace == "" {
		return "unix:" + AgentDir + "/" + socketName
	}
	// All addresses: inside a machine the slot's is on another link.
	return fmt.Sprintf("tcp:0.0.0.0:%d", netpolicy.AgentPort)
}

func cpuQuota(limits sandboxes.Resources) int64 { return int64(math.Ceil(limits.CPUs * cpuPeriod)) }

// taskLimit is how many tasks, threads included, a sandbox may have. The limit
// on processes is the agent's to enforce, with a reason; this one stops what is
// too fast for it.
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
// image without agentVariables, and over it that of the network.
func environment(image, network []string) []string {
	set := map[string]bool{}
	for _, e := range network {
		name, _, _ := strings.Cut(e, "=")
		set[name] = true
	}
	var env []string
	path := false
	for _, e := range image {
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
