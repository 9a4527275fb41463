package gvisor_test

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"kernelgw/sandboxes"
	"kernelgw/sandboxes/gvisor"
)

func TestKernelIsAnUnprivilegedUser(t *testing.T) {
	b := newBox(t, newDriver(t, shortTempDir(t)), "user", sandboxes.Resources{})
	if got, want := b.attack("hello"), "uid 1000 gid 1000 pid-is-1 false"; got != want {
		t.Errorf("inside: %q, want %q", got, want)
	}
	status := b.attack("status")
	for _, want := range []string{"CapEff:\t0000000000000000", "CapPrm:\t0000000000000000", "CapInh:\t0000000000000000", "CapAmb:\t0000000000000000", "NoNewPrivs:\t1"} {
		if !strings.Contains(status, want) {
			t.Errorf("/proc/self/status lacks %q:\n%s", want, status)
		}
	}
	if got := b.attack("root"); got != "[]" {
		t.Errorf("what must not succeed did: %s", got)
	}
}

// The rights of directories on the way to a home must be those of the image.
func TestKernelOwnsItsHome(t *testing.T) {
	agent, err := testAgent()
	if err != nil {
		t.Fatalf("cannot build the test's agent: %v", err)
	}
	for name, prepare := range map[string]func(home string) error{
		"empty":   func(string) error { return nil },
		"missing": func(home string) error { return os.RemoveAll(filepath.Dir(home)) },
		"filled": func(home string) error {
			return os.WriteFile(filepath.Join(home, "rc"), []byte("from the image"), 0o644)
		},
		"private": func(home string) error { return os.Chmod(home, 0) },
	} {
		t.Run(name, func(t *testing.T) {
			store := newImages(t)
			home := filepath.Join(store.dir, "home/jovyan")
			if err := prepare(home); err != nil {
				t.Fatal(err)
			}
			d, err := gvisor.New(gvisor.Options{StateDir: shortTempDir(t), Runsc: runsc(t), AgentPath: agent, Images: store})
			if err != nil {
				t.Fatal(err)
			}
			defer d.Close()
			b := newBox(t, d, "home-"+name, sandboxes.Resources{})
			if got := b.attack("write", "/home/jovyan/new"); got != "written" {
				t.Errorf("write to the home: %s", got)
			}
			if got := b.attack("write", "/home/new"); !strings.HasPrefix(got, "error: ") {
				t.Errorf("write beside the home: %s", got)
			}
			if got := b.attack("read", "/etc/passwd"); !strings.Contains(got, "jovyan") {
				t.Errorf("the rest of the image: %s", got)
			}
			if got := b.attack("read", "/home/jovyan/rc"); name == "filled" && got != "from the image" {
				t.Errorf("the image's own file in the home: %s", got)
			}
			if _, err := os.Stat(filepath.Join(home, "new")); err == nil {
				t.Error("the image was written to")
			}
		})
	}
}

func TestKernelCannotReadTheHost(t *testing.T) {
	dir := shortTempDir(t)
	secret := filepath.Join(dir, "host-secret")
	if err := os.WriteFile(secret, []byte("only-on-the-host"), 0o644); err != nil {
		t.Fatal(err)
	}
	d := newDriver(t, filepath.Join(dir, "state"))
	b := newBox(t, d, "reader", sandboxes.Resources{})
	other := newBox(t, d, "other", sandboxes.Resources{})
	other.attack("write", "/home/jovyan/mine")
	for _, path := range []string{
		secret, "/proc/1/root" + secret, "/proc/self/root" + secret, "/proc/self/cwd/../../.." + secret,
		"/run/kernelgw/agent.json", "/proc/1/root/run/kernelgw/agent.json", "/home/jovyan/mine",
		filepath.Join(dir, "state", "other", "run", "agent.json"), "/etc/shadow", "/proc/1/environ", "/proc/1/mem",
	} {
		if got := b.attack("read", path); !strings.HasPrefix(got, "error: ") {
			t.Errorf("read of %s gave %q", path, got)
		}
	}
	// In halves, so that the search does not find itself.
	for _, token := range [][2]string{{"token-of-", "reader"}, {"token-of-", "other"}, {"only-on-", "the-host"}} {
		got := b.attack("search", token[0], token[1])
		if !strings.HasPrefix(got, "seen ") || !strings.HasSuffix(got, "found []") {
			t.Errorf("search for %s%s: %s", token[0], token[1], got)
		}
	}
}

func TestKernelHasNoNetwork(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	host := filepath.Join(shortTempDir(t), "host.sock")
	u, err := net.Listen("unix", host)
	if err != nil {
		t.Fatal(err)
	}
	defer u.Close()
	a, err := net.Listen("unix", "@kernelgw-host-"+strconv.Itoa(os.Getpid()))
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()

	d := newDriver(t, shortTempDir(t))
	b := newBox(t, d, "dials", sandboxes.Resources{})
	other := newBox(t, d, "listens", sandboxes.Resources{})
	other.attack("hello")
	if got := b.attack("interfaces"); got != "lo" {
		t.Errorf("interfaces inside: %s, want lo", got)
	}
	for _, target := range [][2]string{
		{"tcp", l.Addr().String()},
		{"tcp", "169.254.169.254:80"},
		{"tcp", "[fd00:ec2::254]:80"},
		{"tcp", "100.100.100.200:80"},
		{"tcp", "10.0.0.1:443"},
		{"tcp", "192.0.2.1:80"},
		{"tcp", "8.8.8.8:53"},
		{"tcp", "[2001:4860:4860::8888]:53"},
		{"tcp", "metadata.google.internal:80"},
		{"tcp", "localhost:22"},
		{"tcp", "0.0.0.0:22"},
		{"unix", host},
		{"unix", a.Addr().String()},
		{"unix", "/run/kernelgw/agent.sock"},
		{"unix", other.sb.Agent.Address},
		{"unix", "/var/run/docker.sock"},
	} {
		if got := b.attack("dial", target[0], target[1]); !strings.HasPrefix(got, "error: ") {
			t.Errorf("dial %s %s: %s", target[0], target[1], got)
		}
	}
}

// hurt runs an attack on one sandbox while another must stay as it was.
func hurt(t *testing.T, limits sandboxes.Resources, attack func(b box)) {
	d := newDriver(t, shortTempDir(t))
	victim := newBox(t, d, "victim", limits)
	bystander := newBox(t, d, "bystander", limits)
	bystander.attack("hello")
	attack(victim)
	if got := bystander.attack("hello"); !strings.HasPrefix(got, "uid 1000") {
		t.Errorf("the other sandbox: %s", got)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if exit, err := d.Wait(ctx, "bystander"); err == nil {
		t.Errorf("the other sandbox ended: %+v", exit)
	}
}

func TestAllocationWithoutEndEndsItsSandboxOnly(t *testing.T) {
	hurt(t, sandboxes.Resources{MemoryBytes: 512 << 20}, func(b box) {
		_, _ = b.post(t.Context(), "/attack", []string{"allocate"}) // the connection breaks
		exit := b.end()
		if exit.Code != 137 || exit.Reason != "killed: memory limit 512 MiB" {
			t.Errorf("Exit is %+v, want 137 and the memory limit", exit)
		}
	})
}

// Files without content take memory of the sentry's own, and no disk.
func TestAttackEmptyFilesWithoutEnd(t *testing.T) {
	const limit, most = 64 << 20, 64<<20 + 256<<20
	dir := shortTempDir(t)
	b := newBox(t, newDriver(t, dir), "files", sandboxes.Resources{MemoryBytes: limit})
	b.attack("hello")
	sentry := recorded(t, dir, "files").Sentry.PID
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_, _ = b.post(t.Context(), "/attack", []string{"files", "/tmp"}) // the connection breaks
	}()
	var peak int64
	for running := true; running; {
		select {
		case <-ended:
			running = false
		case <-time.After(20 * time.Millisecond):
			peak = max(peak, anonymous(sentry))
		}
	}
	if exit := b.end(); exit.Code != 137 || exit.Reason != "killed: memory limit 64 MiB" {
		t.Errorf("Exit is %+v, want 137 and the memory limit", exit)
	}
	t.Logf("the sentry took %d MiB", peak>>20)
	if peak > most || peak < ownMemory {
		t.Errorf("the sentry took %d MiB, want at most %d and more than at rest", peak>>20, most>>20)
	}
}

const ownMemory = 64 << 20 // the driver's allowance

// anonymous returns the RssAnon of a process in bytes, 0 when it has ended.
func anonymous(pid int) int64 {
	status, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "status"))
	if err != nil {
		return 0
	}
	_, after, _ := strings.Cut(string(status), "RssAnon:")
	value, _, _ := strings.Cut(strings.TrimSpace(after), " ")
	kib, _ := strconv.ParseInt(value, 10, 64)
	return kib << 10
}

func TestForkBombIsHeldByItsSandbox(t *testing.T) {
	hurt(t, sandboxes.Resources{Processes: 20}, func(b box) {
		got := b.attack("bomb")
		if !strings.Contains(got, "resource temporarily unavailable") {
			t.Errorf("fork bomb: %s; want EAGAIN", got)
		}
		t.Log(got)
	})
}

func TestFullDiskIsFullInItsSandboxOnly(t *testing.T) {
	hurt(t, sandboxes.Resources{DiskBytes: 64 << 20, MemoryBytes: 512 << 20}, func(b box) {
		for _, c := range []struct {
			dir      string
			min, max int // MiB
		}{{"/home/jovyan", 60, 64}, {"/tmp", 240, 256}, {"/dev/shm", 120, 128}} {
			got := b.attack("fill", c.dir)
			mib, why, _ := strings.Cut(got, " MiB, then: ")
			n, err := strconv.Atoi(mib)
			if err != nil || n < c.min || n > c.max || !strings.Contains(why, "no space left on device") {
				t.Errorf("fill of %s: %s; want ENOSPC after %d to %d MiB", c.dir, got, c.min, c.max)
			}
		}
	})
}

// The agent's directory is the one place inside that is the host's disk.
func TestAgentTakenOverCannotFillTheHostsDisk(t *testing.T) {
	hurt(t, sandboxes.Resources{}, func(b box) {
		_, _ = b.post(t.Context(), "/fill-control", nil) // the connection breaks
		if exit := b.end(); exit.Code != 137 || !strings.Contains(exit.Reason, "agent's directory") {
			t.Errorf("Exit is %+v, want 137 and why", exit)
		}
	})
}
