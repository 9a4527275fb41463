package gvisor_test

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"kernelgw/sandboxes"
	"kernelgw/sandboxes/gvisor"
	"kernelgw/sandboxes/image"
	"kernelgw/sandboxes/sandboxtest"
)

// TestContract holds the driver, with the real agent in the default image, to
// the contract of sandboxes.Driver.
func TestContract(t *testing.T) {
	sandboxtest.Run(t, func(t *testing.T) sandboxtest.Harness {
		store, agent := realImages(t), realAgent(t)
		return sandboxtest.Harness{
			Python: true,
			New: func(t *testing.T, stateDir string) sandboxes.Driver {
				d, err := gvisor.New(gvisor.Options{StateDir: stateDir, Runsc: runsc(t), AgentPath: agent, Images: store})
				if err != nil {
					t.Fatal(err)
				}
				return d
			},
			KillAgent: func(t *testing.T, _ sandboxes.Driver, sb sandboxes.Sandbox) {
				killAgent(t, filepath.Dir(filepath.Dir(sb.Agent.Address)))
			},
		}
	})
}

// killAgent ends the agent of the sandbox in dir as kill -9 does.
func killAgent(t *testing.T, dir string) {
	t.Helper()
	args := []string{"--root=runsc", "kill", "s", "KILL"}
	if os.Geteuid() != 0 {
		args = append([]string{"--rootless"}, args...)
	}
	cmd := exec.Command(runsc(t), args...)
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("cannot kill the agent in %s: %v: %s", dir, err, out)
	}
}

// realImages is the project's image store, with the default image in it.
func realImages(t testing.TB) gvisor.Images {
	t.Helper()
	if os.Getenv("KERNELGW_TEST_SKIP_IMAGE") == "1" {
		t.Skip("KERNELGW_TEST_SKIP_IMAGE is set")
	}
	dir := os.Getenv("KERNELGW_TEST_IMAGES")
	if dir == "" {
		dir = "../../.cache/images"
	}
	store, err := image.Open(image.Options{Dir: dir})
	if err == nil {
		_, err = store.Resolve(t.Context(), "")
	}
	if err != nil {
		t.Fatalf("no default image: %v; run make image, or set KERNELGW_TEST_SKIP_IMAGE=1 to do without these tests", err)
	}
	return imageStore{store}
}

type imageStore struct{ *image.Store }

func (s imageStore) Resolve(ctx context.Context, ref string) (gvisor.Rootfs, error) {
	i, err := s.Store.Resolve(ctx, ref)
	if err != nil {
		return gvisor.Rootfs{}, err
	}
	return gvisor.Rootfs{
		Digest: i.Digest, Dir: i.RootFS, Kernelspecs: i.Kernelspecs,
		UID: i.User.UID, GID: i.User.GID, Home: i.User.Home, Env: i.Env, WorkingDir: i.WorkingDir,
	}, nil
}

// realAgent is a built cmd/kernelagent.
func realAgent(t testing.TB) string {
	t.Helper()
	path, err := theAgent()
	if err != nil {
		t.Fatalf("cannot build the agent: %v", err)
	}
	return path
}
