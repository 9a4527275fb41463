package containerd_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	client "github.com/containerd/containerd/v2/client"

	"kernelgw/sandboxes/containerd"
	"kernelgw/sandboxes/image"
	"kernelgw/sandboxes/sandboxtest"
)

// daemon is a containerd of the tests' own.
type daemon struct {
	name    string // for messages and environment variables
	dir     string // all of it
	address string // of one that is not the tests' own
	binary  string
	config  string // of its version
	path    string // PATH, with shims
	cmd     *exec.Cmd
	stopped chan struct{}
}

const toolsDir = "../../.cache/tools/bin"

// debian is the containerd of Debian 12, and v2 the one of tools/containerd.
func debian() *daemon {
	return &daemon{name: "DEBIAN", binary: "/usr/bin/containerd", path: "/usr/bin:/usr/sbin:/bin:/sbin", config: `version = 2
disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.internal.v1.opt"]
`}
}

func v2() *daemon {
	tools, err := filepath.Abs(toolsDir)
	if err != nil {
		panic(err)
	}
	return &daemon{name: "V2", binary: filepath.Join(tools, "containerd"), path: tools + ":/usr/bin:/usr/sbin:/bin:/sbin", config: `version = 3
disabled_plugins = ["io.containerd.internal.v1.opt"]
`}
}

// need skips the test, loudly, where its tools are missing.
func need(t testing.TB, d *daemon) {
	t.Helper()
	if !sandboxtest.Networked() {
		notChecked(t, "sandboxes through containerd need root and namespaces of their own")
	}
	for _, binary := range []string{d.binary, "runc"} {
		if _, err := exec.LookPath(binary); err != nil {
			notChecked(t, fmt.Sprintf("%s is missing; scripts/setup-containerd.sh gets it", binary))
		}
	}
}

func notChecked(t testing.TB, why string) {
	t.Helper()
	fmt.Fprintf(os.Stderr, "!! NOT CHECKED: %s: %s\n", t.Name(), why)
	t.Skip(why)
}

func (d *daemon) env() string { return "KERNELGW_TEST_CONTAINERD_" + d.name }

// daemons are those that run, by name. They serve all tests: to unpack an image
// takes long.
var daemons = map[string]*daemon{}

// start returns the running daemon, and checks when the test ends that it left
// no shim. In a child process of a test that has one, it is the parent's.
func (d *daemon) start(t testing.TB) *daemon {
	t.Helper()
	if dir := os.Getenv(d.env()); dir != "" && daemons[d.name] == nil {
		d.dir = dir
		return d
	}
	need(t, d)
	if running := daemons[d.name]; running != nil {
		d = running
	} else {
		d.make(t)
	}
	t.Cleanup(func() {
		for _, pid := range d.shims() {
			t.Errorf("left running: process %d: %s", pid, cmdline(pid))
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
	})
	return d
}

func (d *daemon) make(t testing.TB) {
	t.Helper()
	var err error
	if d.dir, err = os.MkdirTemp("", "kc"); err != nil {
		t.Fatal(err)
	}
	config := d.config + fmt.Sprintf(`root = %q
state = %q
[grpc]
address = %q
[ttrpc]
address = %q
`, d.dir+"/root", d.dir+"/state", d.socket(), d.socket()+".ttrpc")
	if err := os.WriteFile(filepath.Join(d.dir, "config.toml"), []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	d.boot(t)
	daemons[d.name] = d
	if err := os.Setenv(d.env(), d.dir); err != nil {
		t.Fatal(err)
	}
}

// stop ends the daemon for good and says what is left of it.
func (d *daemon) stop() error {
	_ = d.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-d.stopped:
	case <-time.After(20 * time.Second):
		_ = d.cmd.Process.Kill()
		<-d.stopped
	}
	return os.RemoveAll(d.dir) // a mount that is left is in the way
}

func (d *daemon) socket() string {
	if d.address != "" {
		return d.address
	}
	return filepath.Join(d.dir, "c.sock")
}

// boot runs the daemon until it answers.
func (d *daemon) boot(t testing.TB) {
	t.Helper()
	log, err := os.OpenFile(filepath.Join(d.dir, "log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	cmd := exec.Command(d.binary, "--config", filepath.Join(d.dir, "config.toml"), "--log-level", "warn")
	cmd.Env = []string{"PATH=" + d.path, "HOME=/root"}
	cmd.Stdout, cmd.Stderr = log, log
	// Shims are to outlive it.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	d.cmd, d.stopped = cmd, make(chan struct{})
	go func() {
		defer close(d.stopped)
		_ = cmd.Wait()
	}()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	for {
		if _, err := d.client(t).Version(ctx); err == nil {
			return
		} else if ctx.Err() != nil {
			t.Fatalf("containerd %s does not answer: %v\n%s", d.name, err, d.log())
		}
		select {
		case <-d.stopped:
			t.Fatalf("containerd %s ended:\n%s", d.name, d.log())
		case <-time.After(10 * time.Millisecond):
		}
	}
}

func (d *daemon) log() string {
	data, _ := os.ReadFile(filepath.Join(d.dir, "log"))
	return string(data[max(0, len(data)-3000):])
}

// kill ends the daemon as kill -9 does. Its shims live on.
func (d *daemon) kill() {
	_ = d.cmd.Process.Kill()
	<-d.stopped
}

// shims lists the shims of this daemon.
func (d *daemon) shims() []int {
	var found []int
	for _, pid := range processesWith(d.socket()) {
		if strings.Contains(cmdline(pid), "containerd-shim") {
			found = append(found, pid)
		}
	}
	return found
}

// client is another client than the driver's.
func (d *daemon) client(t testing.TB) *client.Client {
	t.Helper()
	c, err := client.New(d.socket(), client.WithDefaultNamespace(namespace))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

const namespace = "kernelgw-test"

// processesWith lists the processes with text among their arguments.
func processesWith(text string) []int {
	entries, _ := os.ReadDir("/proc")
	var found []int
	for _, e := range entries {
		var pid int
		if _, err := fmt.Sscan(e.Name(), &pid); err == nil && pid != os.Getpid() && strings.Contains(cmdline(pid), text) {
			found = append(found, pid)
		}
	}
	return found
}

func cmdline(pid int) string {
	data, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	return strings.ReplaceAll(string(data), "\x00", " ")
}

// shortTempDir is a temporary directory with room for sockets.
func shortTempDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "kc")
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

// network returns the plain network of a test and of its children.
func network(t testing.TB) plainNetwork {
	t.Helper()
	const env = "KERNELGW_TEST_CONTAINERD_NETWORK"
	dir := os.Getenv(env)
	if dir == "" {
		dir = shortTempDir(t)
		t.Setenv(env, dir)
		t.Cleanup(func() {
			for _, id := range (plainNetwork{dir}).left() {
				t.Errorf("left behind: the network of %s", id)
				_ = plainNetwork{dir}.Release(context.Background(), id)
			}
		})
	}
	return plainNetwork{dir}
}

// options are those of a driver over this daemon.
func (d *daemon) options(t testing.TB, stateDir string) containerd.Options {
	t.Helper()
	return containerd.Options{
		Address: d.socket(), Namespace: namespace, StateDir: stateDir,
		AgentPath: realAgent(t), Images: realImages(t), Network: network(t),
		Log: slog.New(slog.NewTextHandler(os.Stderr, nil)),
	}
}

func newDriver(t testing.TB, o containerd.Options) *containerd.Driver {
	t.Helper()
	driver, err := containerd.New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = driver.Close() })
	return driver
}

// realImages is the project's image store, with the default image in it. A child
// of a test has from its parent what that found there.
func realImages(t testing.TB) containerd.Images {
	t.Helper()
	if isChild() {
		var found knownImage
		if err := json.Unmarshal([]byte(os.Getenv(imageEnv)), &found); err != nil {
			t.Fatalf("%s: %v", imageEnv, err)
		}
		return found
	}
	if os.Getenv("KERNELGW_TEST_SKIP_IMAGE") == "1" {
		t.Skip("KERNELGW_TEST_SKIP_IMAGE is set")
	}
	store, err := openedImages()
	if err != nil {
		t.Fatalf("no default image: %v; run make image, or set KERNELGW_TEST_SKIP_IMAGE=1 to do without these tests", err)
	}
	return imageStore{store}
}

// openedImages is opened once: a store compares all of an image with its seal
// when it is first asked for it.
var openedImages = sync.OnceValues(func() (*image.Store, error) {
	dir := os.Getenv("KERNELGW_TEST_IMAGES")
	if dir == "" {
		dir = "../../.cache/images"
	}
	store, err := image.Open(image.Options{Dir: dir})
	if err != nil {
		return nil, err
	}
	found, err := imageStore{store}.Resolve(context.Background(), "")
	if err != nil {
		return nil, err
	}
	found.Kernelspecs = nil // they have files
	known, err := json.Marshal(knownImage{found})
	return store, errors.Join(err, os.Setenv(imageEnv, string(known)))
})

// imageEnv tells children of a test what the default image is.
const imageEnv = "KERNELGW_TEST_CONTAINERD_IMAGE"

// knownImage is an image that was found before. A sandbox can be made of it, which
// is all that a child does.
type knownImage struct{ Image containerd.Image }

func (i knownImage) Resolve(context.Context, string) (containerd.Image, error) { return i.Image, nil }

func (i knownImage) Digests(context.Context) ([]string, error) { return []string{i.Image.Digest}, nil }

type imageStore struct{ *image.Store }

func (s imageStore) Resolve(ctx context.Context, ref string) (containerd.Image, error) {
	i, err := s.Store.Resolve(ctx, ref)
	if err != nil {
		return containerd.Image{}, err
	}
	return containerd.Image{
		Digest: i.Digest, Layout: s.Dir(), Kernelspecs: i.Kernelspecs,
		UID: i.User.UID, GID: i.User.GID, Home: i.User.Home, Env: i.Env,
	}, nil
}

func (s imageStore) Digests(ctx context.Context) ([]string, error) {
	list, err := s.List(ctx)
	var digests []string
	for _, e := range list {
		digests = append(digests, e.Digest)
	}
	return digests, err
}

// agentDir is where the agent was built, "" when it was not.
var agentDir string

var builtAgent = sync.OnceValues(func() (string, error) {
	const env = "KERNELGW_TEST_KERNELAGENT"
	if path := os.Getenv(env); path != "" {
		return path, nil
	}
	dir, err := os.MkdirTemp("", "kc")
	if err != nil {
		return "", err
	}
	agentDir = dir
	path := filepath.Join(dir, "kernelagent")
	cmd := exec.Command("go", "build", "-trimpath", "-o", path, "../../cmd/kernelagent")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("%w: %s", err, out)
	}
	return path, errors.Join(os.Chmod(dir, 0o755), os.Setenv(env, path))
})

func realAgent(t testing.TB) string {
	t.Helper()
	path, err := builtAgent()
	if err != nil {
		t.Fatalf("cannot build the agent: %v", err)
	}
	return path
}

// cleanUp ends what served all tests, and says what it could not.
func cleanUp() (failed error) {
	for _, d := range daemons {
		failed = errors.Join(failed, d.stop())
	}
	if onHost() && !isChild() {
		failed = errors.Join(failed, purgeHost())
	}
	if agentDir != "" {
		failed = errors.Join(failed, os.RemoveAll(agentDir))
	}
	return failed
}

// purgeHost removes from the host's containerd what the tests made in it.
func purgeHost() error {
	c, err := client.New(os.Getenv("KERNELGW_KATA_SOCKET"), client.WithDefaultNamespace(namespace))
	if err != nil {
		return err
	}
	return errors.Join(purge(c), c.Close())
}

func writeFile(t testing.TB, path string, content []byte) {
	t.Helper()
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
}
