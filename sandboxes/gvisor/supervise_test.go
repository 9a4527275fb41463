package gvisor

import (
	"os/exec"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"kernelgw/sandboxes/hostproc"
)

func TestMemoryIsLookedAtBeforeItCanRunOut(t *testing.T) {
	for free, want := range map[int64]time.Duration{
		0:        minMemoryCheck,
		1 << 20:  minMemoryCheck,
		1 << 30:  250 * time.Millisecond,
		64 << 30: checkEvery,
	} {
		if got := untilMemoryCheck(free); got != want {
			t.Errorf("with %d bytes free: after %v, want %v", free, got, want)
		}
	}
}

func TestParsePrivateMemory(t *testing.T) {
	for status, want := range map[string]int64{
		"Name:\texe\nVmRSS:\t  999 kB\nRssAnon:\t  18916 kB\nRssFile:\t 1 kB\nVmSwap:\t      4 kB\n": 18920 << 10,
		"RssAnon:\t0 kB\n":                 0,
		"Name:\tRssAnon: 5 kB\n":           -1, // the process chose its name
		"VmSwap:\t4 kB\n":                  -1,
		"RssAnon:\t-1 kB\n":                -1,
		"RssAnon:\t99999999999999999 kB\n": -1,
		"":                                 -1,
	} {
		if got, err := parsePrivateMemory([]byte(status)); (err != nil) != (want < 0) || err == nil && got != want {
			t.Errorf("%q: %d, %v; want %d", status, got, err, want)
		}
	}
}

func TestSandboxThatCannotBeMeasuredEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cmd := exec.Command("sleep", "3600") // has no memory file of runsc
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		sentry, err := hostproc.Identify(cmd.Process.Pid)
		if err != nil {
			t.Fatal(err)
		}
		var logged string
		w := startWatch(t.TempDir(), processes{Sentry: sentry}, 1<<30, func(text string) { logged = text })
		<-w.joined
		if broken := w.stop(); broken != unmeasured || !strings.Contains(logged, "memory file") {
			t.Errorf("broken: %v, logged %q", broken, logged)
		}
		if err := cmd.Wait(); err == nil || cmd.ProcessState.ExitCode() != -1 {
			t.Errorf("the process ended by itself: %v", err)
		}
	})
}

func TestAttackImageThatSetsUpTheAgentsRuntime(t *testing.T) {
	root := Rootfs{Env: []string{
		"GODEBUG=gctrace=1,http2debug=2", "GOGC=1", "GOMAXPROCS=1", "GOMEMLIMIT=1", "GOTRACEBACK=crash", "GODEBUG=again", "ZONEINFO=/x",
		"GOPATH=/go", "LD_LIBRARY_PATH=/usr/local/cuda/lib64", "TMPDIR=/scratch", "empty=",
	}}
	// Kernels need the others, and a static program that is told its directory for
	// temporary files does not read them.
	want := []string{"GOPATH=/go", "LD_LIBRARY_PATH=/usr/local/cuda/lib64", "TMPDIR=/scratch", "empty=", "PATH=" + safePath}
	if got := environment(root, nil); !slices.Equal(got, want) {
		t.Errorf("environment: %q, want %q", got, want)
	}
	if got := environment(Rootfs{Env: []string{"PATH=/opt/bin"}}, nil); !slices.Equal(got, []string{"PATH=/opt/bin"}) {
		t.Errorf("environment with a PATH: %q", got)
	}
}

func TestTheNetworksVariablesWinOverTheImages(t *testing.T) {
	root := Rootfs{Env: []string{"HTTP_PROXY=http://proxy.example.com:3128", "PATH=/opt/bin", "NO_PROXY=*"}}
	network := []string{"HTTP_PROXY=http://10.143.0.1:8891", "NO_PROXY=localhost"}
	if got, want := environment(root, network), append([]string{"PATH=/opt/bin"}, network...); !slices.Equal(got, want) {
		t.Errorf("environment: %q, want %q", got, want)
	}
}

func TestParseCgroups(t *testing.T) {
	const hybrid = `24 1 0:21 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755
25 24 0:22 / /sys/fs/cgroup/cpu rw,relatime shared:9 - cgroup cgroup rw,cpu,cpuacct
26 24 0:23 /nested /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory
27 24 0:24 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw
short line
`
	g := parseCgroups([]byte(hybrid))
	if g.v1["memory"] != "/sys/fs/cgroup/memory" || g.v1["cpuacct"] != "/sys/fs/cgroup/cpu" || g.v2 != "/sys/fs/cgroup/unified" || len(g.mounts) != 3 {
		t.Errorf("hybrid: %+v", g)
	}
	if g.mode() != "v1" {
		t.Errorf("mode of a hybrid host: %q, want v1", g.mode())
	}
	if g := parseCgroups([]byte("1 0 0:1 / / rw - ext4 /dev/vda rw\n")); g.mode() != "" || len(g.mounts) != 0 {
		t.Errorf("no control groups: %+v", g)
	}
}
