package gvisor_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"kernelgw/sandboxes"
	"kernelgw/sandboxes/gvisor"
)

const remedy = "run scripts/build-runsc.sh, or set KERNELGW_TEST_SKIP_RUNSC=1 to do without these tests"

// runsc returns the runsc binary.
func runsc(t testing.TB) string {
	t.Helper()
	if os.Getenv("KERNELGW_TEST_SKIP_RUNSC") == "1" {
		t.Skip("KERNELGW_TEST_SKIP_RUNSC is set")
	}
	if path := os.Getenv("KERNELGW_TEST_RUNSC"); path != "" {
		return path
	}
	path, err := filepath.Abs("../../.cache/tools/bin/runsc")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(path); err != nil {
		t.Fatalf("no runsc: %v; %s", err, remedy)
	}
	return path
}

// The agent of testdata and the real one. Each is built once, also for children
// of this test that play gateways, and for an ordinary user.
var (
	testAgent = builtOnce("KERNELGW_TEST_AGENT", "./testdata/agent")
	theAgent  = builtOnce("KERNELGW_TEST_KERNELAGENT", "../../cmd/kernelagent")
)

// built are the directories of what was built; TestMain removes them.
var built sync.Map

// builtOnce returns a function that builds pkg, statically, unless the
// environment variable known names the program already.
func builtOnce(known, pkg string) func() (string, error) {
	return sync.OnceValues(func() (string, error) {
		if path := os.Getenv(known); path != "" {
			return path, nil
		}
		dir, err := os.MkdirTemp("", "kgw")
		if err != nil {
			return "", err
		}
		built.Store(dir, nil)
		path := filepath.Join(dir, filepath.Base(pkg))
		cmd := exec.Command("go", "build", "-trimpath", "-o", path, pkg)
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			return "", fmt.Errorf("%w: %s", err, out)
		}
		return path, os.Setenv(known, path)
	})
}

// images is a store with one image: the least that a sandbox can start from.
type images struct{ dir string }

func newImages(t testing.TB) images {
	t.Helper()
	dir := shortTempDir(t)
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, d := range []string{"proc", "sys", "dev", "tmp", "etc", "usr", "home/jovyan", "run/kernelgw"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for name, content := range map[string]string{
		"etc/passwd": "root:x:0:0::/root:/bin/sh\njovyan:x:1000:1000::/home/jovyan:/bin/sh\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return images{dir}
}

func (i images) Resolve(_ context.Context, ref string) (gvisor.Rootfs, error) {
	if ref != "" {
		return gvisor.Rootfs{}, sandboxes.ErrNotFound
	}
	return gvisor.Rootfs{Digest: "sha256:test", Dir: i.dir, UID: 1000, GID: 1000, Home: "/home/jovyan"}, nil
}

// shortTempDir is a directory that goes with the test, without its long name.
func shortTempDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "kgw")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Errorf("cannot remove %s: %v", dir, err)
		}
	})
	return dir
}

// newDriver opens a driver over dir.
func newDriver(t testing.TB, dir string) *gvisor.Driver {
	t.Helper()
	agent, err := testAgent()
	if err != nil {
		t.Fatalf("cannot build the test's agent: %v", err)
	}
	d, err := gvisor.New(gvisor.Options{
		StateDir: dir, Runsc: runsc(t), AgentPath: agent, Images: newImages(t),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
	return d
}

// box is a running sandbox with the test's agent.
type box struct {
	testing.TB
	d  *gvisor.Driver
	sb sandboxes.Sandbox
}

// newBox makes a sandbox that goes with the test.
func newBox(t testing.TB, d *gvisor.Driver, id string, limits sandboxes.Resources) box {
	t.Helper()
	return newBoxOf(t, d, sandboxes.Spec{ID: id, Resources: limits})
}

// newBoxOf creates the sandbox of a spec without an AgentConfig.
func newBoxOf(t testing.TB, d *gvisor.Driver, spec sandboxes.Spec) box {
	t.Helper()
	t.Cleanup(func() {
		if err := d.Destroy(context.Background(), spec.ID); err != nil {
			t.Errorf("Destroy: %v", err)
		}
	})
	spec.AgentConfig = []byte(`{"token":"token-of-` + spec.ID + `"}`)
	sb, err := d.Create(t.Context(), spec)
	if err != nil {
		t.Fatal(err)
	}
	return box{t, d, sb}
}

// post asks the agent, and waits for it to listen.
func (b box) post(ctx context.Context, path string, body any) (string, error) {
	data, err := json.Marshal(body)
	if err != nil {
		b.Fatal(err)
	}
	client := http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			// sun_path holds 108 bytes; through a descriptor every path is short.
			dir, err := os.Open(filepath.Dir(b.sb.Agent.Address))
			if err != nil {
				return nil, err
			}
			defer dir.Close()
			address := fmt.Sprintf("/proc/self/fd/%d/%s", dir.Fd(), filepath.Base(b.sb.Agent.Address))
			for {
				c, err := new(net.Dialer).DialContext(ctx, b.sb.Agent.Network, address)
				if err == nil || ctx.Err() != nil {
					return c, err
				}
				time.Sleep(2 * time.Millisecond) // the agent is starting; a socket cannot be watched
			}
		},
	}}
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://agent"+path, bytes.NewReader(data))
	if err != nil {
		b.Fatal(err)
	}
	resp, err := client.Do(r)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	return string(answer), err
}

// attack runs an attack of testdata/agent as the kernel's user.
func (b box) attack(args ...string) string {
	b.Helper()
	ctx, cancel := context.WithTimeout(b.Context(), time.Minute)
	defer cancel()
	out, err := b.post(ctx, "/attack", args)
	if err != nil {
		b.Fatalf("attack %v: %v", args, err)
	}
	return out
}

// end waits for the end of the sandbox.
func (b box) end() sandboxes.Exit {
	b.Helper()
	ctx, cancel := context.WithTimeout(b.Context(), time.Minute)
	defer cancel()
	exit, err := b.d.Wait(ctx, b.sb.Spec.ID)
	if err != nil {
		b.Fatalf("Wait: %v", err)
	}
	return exit
}
