package containerd

import (
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/pkg/identifiers"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"kernelgw/sandboxes"
	"kernelgw/sandboxes/netpolicy"
	"kernelgw/sandboxes/statedir"
)

func TestNamesAreContainerds(t *testing.T) {
	n, seen := newNames("/state"), map[string]string{}
	for _, id := range []string{
		"a", "0", "a-b", "a--b", "a-", "a---", "ax", "a-x", "a-x-", strings.Repeat("a", 63), strings.Repeat("a-", 31) + "a",
		"3fa85f64-5717-4562-b3fc-2c963f66afa6",
	} {
		if !sandboxes.ValidID(id) {
			t.Fatalf("%q is not valid", id)
		}
		for _, name := range []string{n.pod(id), n.work(id)} {
			if err := identifiers.Validate(name); err != nil {
				t.Errorf("id %q: %v", id, err)
			}
			if other, taken := seen[name]; taken {
				t.Errorf("%q and %q share the name %q", id, other, name)
			}
			seen[name] = id
			if got, ok := n.sandbox(name); got != id || !ok {
				t.Errorf("name %q is taken for sandbox %q, %v; want %q", name, got, ok, id)
			}
		}
	}
	for _, name := range []string{"", n.prefix, "other", "k", "x" + n.prefix + "a", newNames("/other").pod("a")} {
		if id, ok := n.sandbox(name); ok {
			t.Errorf("name %q is taken for sandbox %q", name, id)
		}
	}
}

func testDriver(t *testing.T, kata bool) *Driver {
	records, err := statedir.Open(t.TempDir(), statedir.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return &Driver{opts: Options{AgentPath: "/agent"}, records: records, runtime: runtime{kata: kata}, names: names{"kgw-"}}
}

var (
	testLimits = sandboxes.Resources{CPUs: 1.5, MemoryBytes: 1 << 30, Processes: 100, ShmBytes: 64 << 20, OpenFiles: 1000}
	testSlot   = netpolicy.Slot{Namespace: "/run/netns/x", Env: []string{"HTTP_PROXY=http://p"}}
	testImage  = Image{UID: 1000, GID: 100, Home: "/home/u", Env: []string{"GODEBUG=x", "LANG=C", "HTTP_PROXY=image's"}}
)

// Each of these makes one of Kata's shims fail, or give a machine of a wrong
// size.
func TestSpecificationsAreWhatKataNeeds(t *testing.T) {
	d := testDriver(t, true)
	pod, work := d.podSpec("x", testLimits, testSlot), d.workSpec("x", testImage, testLimits, testSlot)
	for name, want := range map[string]string{
		"io.kubernetes.cri.container-type":     "sandbox",
		"io.kubernetes.cri.sandbox-id":         "kgw-x",
		"io.kubernetes.cri.sandbox-memory":     "1375731712", // 1024 + 128 + 160 MiB
		"io.kubernetes.cri.sandbox-cpu-quota":  "150000",
		"io.kubernetes.cri.sandbox-cpu-period": "100000",
	} {
		if pod.Annotations[name] != want {
			t.Errorf("annotation %s of the pod is %q, want %q", name, pod.Annotations[name], want)
		}
	}
	if work.Annotations["io.kubernetes.cri.container-type"] != "container" || work.Annotations["io.kubernetes.cri.sandbox-id"] != "kgw-x" {
		t.Errorf("annotations of the agent's container: %v", work.Annotations)
	}
	for what, spec := range map[string]*specs.Spec{"pod": pod, "work": work} {
		if spec.Linux.Resources == nil {
			t.Errorf("%s has no resources", what)
		}
		for key := range spec.Annotations {
			if strings.HasPrefix(key, "io.katacontainers") {
				t.Errorf("%s has annotation %s, which must be allowed in Kata's configuration", what, key)
			}
		}
		i := slices.IndexFunc(spec.Linux.Namespaces, func(n specs.LinuxNamespace) bool { return n.Type == specs.NetworkNamespace })
		if i < 0 || spec.Linux.Namespaces[i].Path != testSlot.Namespace {
			t.Errorf("%s is not in its network namespace: %v", what, spec.Linux.Namespaces)
		}
		for _, m := range spec.Mounts {
			if m.Destination == "/dev/shm" || m.Source == "" || m.Type == "" {
				t.Errorf("%s has mount %+v, which Kata replaces or fails on", what, m)
			}
		}
	}
	if pod.Linux.Resources.Memory != nil {
		t.Error("the pod has a limit on memory, which the Go shim would add to the machine's")
	}
	if !slices.ContainsFunc(work.Process.Rlimits, func(l specs.POSIXRlimit) bool { return l.Type == "RLIMIT_NPROC" && l.Hard == 456 }) {
		t.Errorf("processes are not limited in the guest: %v", work.Process.Rlimits)
	}
	if !slices.Contains(work.Process.Args, "tcp:0.0.0.0:8890") {
		t.Errorf("the agent listens elsewhere: %q", work.Process.Args)
	}
}

func TestContainersHaveNoMoreThanTheyNeed(t *testing.T) {
	for _, kata := range []bool{true, false} {
		d := testDriver(t, kata)
		work := d.workSpec("x", testImage, testLimits, testSlot)
		if !work.Process.NoNewPrivileges || work.Linux.Seccomp == nil || len(work.Linux.MaskedPaths) == 0 || len(work.Linux.Devices) != 0 {
			t.Error("the agent's container is not hardened")
		}
		for _, c := range work.Process.Capabilities.Bounding {
			if slices.Contains([]string{"CAP_SYS_ADMIN", "CAP_SYS_PTRACE", "CAP_NET_ADMIN", "CAP_NET_RAW", "CAP_MKNOD", "CAP_SYS_MODULE"}, c) {
				t.Errorf("the agent has %s", c)
			}
		}
		for _, m := range work.Mounts {
			if m.Type == "bind" && !slices.Contains(m.Options, "ro") {
				t.Errorf("%s of the host is writable", m.Source)
			}
		}
		if *work.Linux.Resources.Memory.Limit != 1152<<20 || *work.Linux.Resources.Pids.Limit != 456 {
			t.Errorf("limits are %+v", work.Linux.Resources)
		}
		if kata != slices.ContainsFunc(work.Process.Rlimits, func(l specs.POSIXRlimit) bool { return l.Type == "RLIMIT_NPROC" }) {
			t.Error("RLIMIT_NPROC is the host's for all sandboxes of one user id, and for Kata only")
		}
		want := []string{"LANG=C", "PATH=" + safePath, "HTTP_PROXY=http://p"}
		if !slices.Equal(work.Process.Env, want) {
			t.Errorf("the environment is %q, want %q", work.Process.Env, want)
		}
	}
}

func TestOnlyAPodsOwnProcessesAreIts(t *testing.T) {
	const pod = "kgw-a"
	for _, c := range []struct {
		machine, shim bool
		args          string
	}{
		{true, false, "/opt/kata/bin/qemu-system-x86_64 -name sandbox-kgw-a,debug-threads=on -uuid 1"},
		{true, false, "qemu-system-x86_64 -name sandbox-kgw-a"},
		{true, false, "/opt/kata/libexec/virtiofsd --syslog --shared-dir /run/kata-containers/shared/sandboxes/kgw-a/shared --fd=3"},
		{true, false, "virtiofsd --socket-path=/run/kata/kgw-a/virtiofsd.sock"},
		{true, false, "cloud-hypervisor --api-socket /run/vc/vm/kgw-a/clh-api.sock"},
		{false, false, "qemu-system-x86_64 -name sandbox-kgw-ab,debug-threads=on"},
		{false, false, "qemu-system-x86_64 -name sandbox-kgw-a-b"},
		{false, false, "virtiofsd --socket-path=/run/kata/kgw-a.x/virtiofsd.sock"},
		{false, false, "vim /run/kata/kgw-a/virtiofsd.sock"},
		{false, false, "sh -c qemu-system-x86_64 -name sandbox-kgw-a"},
		{false, true, "/usr/bin/containerd-shim-runc-v2 -namespace kernelgw -id kgw-a -address /x"},
		{false, true, "/opt/kata/bin/containerd-shim-kata-v2 -namespace kernelgw -address /x -id kgw-a.w start"},
		{false, false, "/usr/bin/containerd-shim-runc-v2 -namespace kernelgw -id kgw-ab"},
		{false, false, "grep -id kgw-a"},
		{false, false, ""},
	} {
		args := strings.Fields(c.args)
		if got := isMachineOf(args, pod); got != c.machine {
			t.Errorf("%q is a machine of %s: %v", c.args, pod, got)
		}
		if got := isShimOf(args, pod); got != c.shim {
			t.Errorf("%q is a shim of %s: %v", c.args, pod, got)
		}
	}
}

// A service's umask must not keep the kernel's user out of what is on the way to
// its home.
func TestPreparedRootIsOpenWhateverTheUmaskIs(t *testing.T) {
	defer unix.Umask(unix.Umask(0o077))
	dir := t.TempDir()
	if err := prepareRoot(dir, Image{UID: uint32(os.Getuid()), GID: uint32(os.Getgid()), Home: "/users/some/body"}); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]fs.FileMode{"users": 0o755, "users/some": 0o755, "users/some/body": 0o700, "run": 0o755, "proc": 0o755} {
		if info, err := os.Stat(filepath.Join(dir, name)); err != nil || info.Mode().Perm() != want {
			t.Errorf("%s: %v, %v; want mode %v", name, info, err, want)
		}
	}
}
