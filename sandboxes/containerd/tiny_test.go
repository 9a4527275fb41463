package containerd_test

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	client "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"

	"kernelgw/sandboxes"
	"kernelgw/sandboxes/containerd"
)

// tinyImage is an image with next to nothing in it, for the agent of testdata.
// Its content is of the test's own, so that it is unpacked anew.
type tinyImage struct {
	image containerd.Image
	gone  bool // no longer kept
}

func newTinyImage(t testing.TB) *tinyImage {
	t.Helper()
	var layer bytes.Buffer
	w := tar.NewWriter(&layer)
	for name, content := range map[string]string{
		"etc/passwd": "root:x:0:0::/root:/bin/sh\nu:x:1000:1000::/home/u:/bin/sh\n",
		"etc/of":     fmt.Sprint(t.Name(), time.Now()),
	} {
		if err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(content)), Typeflag: tar.TypeReg}); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, content); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	l, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(layer.Bytes())), nil })
	if err != nil {
		t.Fatal(err)
	}
	img, err := mutate.AppendLayers(empty.Image, l)
	if err != nil {
		t.Fatal(err)
	}
	digest, err := img.Digest()
	if err != nil {
		t.Fatal(err)
	}
	dir := shortTempDir(t)
	p, err := layout.Write(dir, empty.Index)
	if err == nil {
		err = p.AppendImage(img)
	}
	if err != nil {
		t.Fatal(err)
	}
	return &tinyImage{image: containerd.Image{Digest: digest.String(), Layout: dir, UID: 1000, GID: 1000, Home: "/home/u"}}
}

func (i *tinyImage) Resolve(context.Context, string) (containerd.Image, error) { return i.image, nil }

func (i *tinyImage) Digests(context.Context) ([]string, error) {
	if i.gone {
		return nil, nil
	}
	return []string{i.image.Digest}, nil
}

// testAgent builds testdata/agent, once.
var testAgent = sync.OnceValues(func() (string, error) {
	if _, err := builtAgent(); err != nil { // for its directory
		return "", err
	}
	path := filepath.Join(agentDir, "testagent")
	cmd := exec.Command("go", "build", "-trimpath", "-o", path, "./testdata/agent")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("%w: %s", err, out)
	}
	return path, nil
})

// tiny is a driver with the tiny image and the agent of testdata.
func (b backend) tiny(t testing.TB) (*containerd.Driver, containerd.Options) {
	t.Helper()
	agent, err := testAgent()
	if err != nil {
		t.Fatal(err)
	}
	o := b.options(t, shortTempDir(t))
	o.AgentPath, o.Images = agent, newTinyImage(t)
	d := newDriver(t, o)
	t.Cleanup(func() { removeImage(t, b.daemon.client(t), o.Images.(*tinyImage).image.Digest) })
	return d, o
}

// removeImage removes what is common to the sandboxes of a test's own image.
func removeImage(t testing.TB, admin *client.Client, digest string) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	for _, name := range imageNames(t, ctx, admin, digest) {
		_ = admin.ImageService().Delete(ctx, name)
	}
	names, err := snapshotNames(ctx, admin)
	if err != nil {
		t.Error(err)
	}
	for _, name := range names {
		if strings.HasSuffix(name, strings.TrimPrefix(digest, "sha256:")) {
			_ = admin.SnapshotService("overlayfs").Remove(ctx, name)
		}
	}
}

// imageNames are the names that an image has in containerd.
func imageNames(t testing.TB, ctx context.Context, admin *client.Client, digest string) (names []string) {
	t.Helper()
	list, err := admin.ImageService().List(ctx, fmt.Sprintf("target.digest==%q", digest))
	if err != nil {
		t.Error(err)
	}
	for _, image := range list {
		names = append(names, image.Name)
	}
	return names
}

// make creates a sandbox whose agent does what it is told, and destroys it when
// the test ends.
func (b backend) make(t testing.TB, d *containerd.Driver, do string) sandboxes.Sandbox {
	t.Helper()
	spec := sandboxes.Spec{
		ID: testID(t), AgentConfig: []byte(fmt.Sprintf(`{"do": %q}`, do)),
		Resources: sandboxes.Resources{MemoryBytes: 96 << 20},
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), b.patience(time.Minute))
		defer cancel()
		if err := d.Destroy(ctx, spec.ID); err != nil {
			t.Errorf("Destroy: %v", err)
		}
		b.nothingLeft(t, spec.ID)
	})
	sb, err := d.Create(t.Context(), spec)
	if err != nil {
		t.Fatal(err)
	}
	return sb
}

// answers waits until the agent of testdata answers.
func (b backend) answers(t testing.TB, sb sandboxes.Sandbox) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), b.patience(20*time.Second))
	defer cancel()
	for {
		var dialer net.Dialer
		c, err := dialer.DialContext(ctx, sb.Agent.Network, sb.Agent.Address)
		if err == nil {
			_ = c.SetReadDeadline(time.Now().Add(5 * time.Second))
			text, _ := io.ReadAll(c)
			_ = c.Close()
			if strings.HasPrefix(string(text), "agent of 1") {
				return
			}
			err = fmt.Errorf("it says %q", text)
		}
		select {
		case <-ctx.Done():
			t.Fatalf("the agent does not answer: %v", err)
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// nothingLeft looks for what bears the id of a sandbox.
func (b backend) nothingLeft(t testing.TB, id string) {
	t.Helper()
	for _, pid := range processesWith(id) {
		t.Errorf("left running: process %d: %s", pid, cmdline(pid))
	}
	for _, root := range []string{"/run/vc", "/run/kata", "/run/kata-containers", "/run/containerd/runc", "/sys/fs/cgroup"} {
		_ = filepath.WalkDir(root, func(path string, e fs.DirEntry, err error) error {
			if err == nil && strings.Contains(e.Name(), id) {
				t.Errorf("left behind: %s", path)
			}
			return nil //nolint:nilerr // it went away, which is what we want to see
		})
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil || strings.Contains(string(mounts), id) {
		t.Errorf("left behind: a mount of %s (%v)", id, err)
	}
	admin := b.daemon.client(t)
	list, err := admin.Containers(lateContext(t))
	if err != nil {
		t.Error(err)
	}
	for _, c := range list {
		if strings.Contains(c.ID(), id) {
			t.Errorf("left behind: container %s", c.ID())
		}
	}
	names, err := snapshotNames(lateContext(t), admin)
	if err != nil {
		t.Error(err)
	}
	for _, name := range names {
		if strings.Contains(name, id) {
			t.Errorf("left behind: snapshot %s", name)
		}
	}
	held, err := admin.LeasesService().List(lateContext(t))
	if err != nil {
		t.Error(err)
	}
	for _, l := range held {
		if strings.Contains(l.ID, id) {
			t.Errorf("left behind: lease %s", l.ID)
		}
	}
	if dir := os.Getenv("KERNELGW_TEST_CONTAINERD_NETWORK"); dir != "" {
		for _, of := range (plainNetwork{dir}).left() {
			if of == id {
				t.Errorf("left behind: the network of %s", id)
			}
		}
	}
}

// lateContext is for clean-ups, in which the test's own context has ended.
func lateContext(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

func snapshotNames(ctx context.Context, admin *client.Client) (names []string, err error) {
	err = admin.SnapshotService("overlayfs").Walk(ctx, func(_ context.Context, info snapshots.Info) error {
		names = append(names, info.Name)
		return nil
	})
	return names, err
}

// waited is Wait in the background.
func waited(ctx context.Context, d *containerd.Driver, id string) <-chan waitResult {
	result := make(chan waitResult, 1)
	go func() {
		exit, err := d.Wait(ctx, id)
		result <- waitResult{exit, err, time.Now()}
	}()
	return result
}

type waitResult struct {
	exit sandboxes.Exit
	err  error
	at   time.Time
}

// within returns the result of a wait, which must come in time.
func within(t testing.TB, result <-chan waitResult, d time.Duration) waitResult {
	t.Helper()
	select {
	case r := <-result:
		if r.err != nil {
			t.Fatalf("Wait: %v", r.err)
		}
		return r
	case <-time.After(d):
		t.Fatal(errors.New("the end was not seen"))
		panic("unreachable")
	}
}
