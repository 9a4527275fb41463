package containerd_test

import (
	"encoding/json"
	"fmt"
	"net"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
	"time"

	client "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/pkg/cio"
	"github.com/containerd/containerd/v2/pkg/oci"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"kernelgw/sandboxes"
	"kernelgw/sandboxes/agentapi"
)

// BenchmarkCreate measures from Create to the first connection to the real
// agent, beside the same for a container that containerd runs with its defaults,
// as "ctr run" does, which has no disk of its own. Metrics are medians; the ratio must
// stay below 1.5.
func BenchmarkCreate(b *testing.B) {
	for name, disk := range map[string]int64{"disk=none": 0, "disk=4GiB": 4 << 30} {
		b.Run(name, func(b *testing.B) { benchmarkCreate(b, disk) })
	}
}

func benchmarkCreate(b *testing.B, disk int64) {
	back := backend{runtime: "runc", daemon: v2().start(b)}
	o := back.options(b, shortTempDir(b))
	o.Defaults.DiskBytes = disk
	d := newDriver(b, o)
	admin := back.daemon.client(b)
	config, err := json.Marshal(agentapi.Config{Token: "x", KernelID: "x"})
	if err != nil {
		b.Fatal(err)
	}
	ours := func() time.Duration {
		began := time.Now()
		sb, err := d.Create(b.Context(), sandboxes.Spec{ID: testID(b), AgentConfig: config})
		if err != nil {
			b.Fatal(err)
		}
		connected(b, sb.Agent.Network, sb.Agent.Address)
		took := time.Since(began)
		if err := d.Destroy(b.Context(), sb.Spec.ID); err != nil {
			b.Fatal(err)
		}
		return took
	}
	ours() // unpacks the image
	var with, plain []time.Duration
	for b.Loop() {
		with = append(with, ours())
		plain = append(plain, runPlain(b, admin, o.AgentPath, config))
	}
	median := func(times []time.Duration) float64 {
		slices.Sort(times)
		return float64(times[len(times)/2].Microseconds()) / 1000
	}
	b.ReportMetric(median(with), "ms/create")
	b.ReportMetric(median(plain), "ms/ctr-run")
	b.ReportMetric(median(with)/median(plain), "ratio")
}

// runPlain runs the agent in a container of containerd's defaults.
func runPlain(b *testing.B, admin *client.Client, agent string, config []byte) time.Duration {
	b.Helper()
	ctx := b.Context()
	list, err := admin.ListImages(ctx)
	if err != nil || len(list) == 0 { // each driver calls the same one by a name of its own
		b.Fatalf("%d images, %v", len(list), err)
	}
	dir := shortTempDir(b)
	writeFile(b, filepath.Join(dir, "agent.json"), config)
	slot, err := network(b).Acquire(ctx, filepath.Base(dir), sandboxes.NetworkPolicy{})
	if err != nil {
		b.Fatal(err)
	}
	name := "plain-" + filepath.Base(dir)
	began := time.Now()
	container, err := admin.NewContainer(ctx, name,
		client.WithSnapshotter("overlayfs"), client.WithNewSnapshot(name, list[0]),
		client.WithNewSpec(
			oci.WithImageConfig(list[0]), oci.WithUserID(0),
			oci.WithProcessArgs("/run/agent/kernelagent", "--config", "/run/config/agent.json", "--listen", "tcp:0.0.0.0:8890"),
			oci.WithLinuxNamespace(specs.LinuxNamespace{Type: specs.NetworkNamespace, Path: slot.Namespace}),
			oci.WithMounts([]specs.Mount{
				{Destination: "/run/agent", Type: "bind", Source: filepath.Dir(agent), Options: []string{"bind", "ro"}},
				{Destination: "/run/config", Type: "bind", Source: dir, Options: []string{"bind", "ro"}},
			})))
	if err != nil {
		b.Fatal(err)
	}
	task, err := container.NewTask(ctx, cio.NullIO)
	if err == nil {
		err = task.Start(ctx)
	}
	if err != nil {
		b.Fatal(err)
	}
	connected(b, "tcp", fmt.Sprintf("%s:8890", slot.Address))
	took := time.Since(began)

	ended, err := task.Wait(ctx)
	if err == nil {
		err = task.Kill(ctx, syscall.SIGKILL)
	}
	if err != nil {
		b.Fatal(err)
	}
	<-ended
	if _, err := task.Delete(ctx); err != nil {
		b.Fatal(err)
	}
	if err := container.Delete(ctx, client.WithSnapshotCleanup); err != nil {
		b.Fatal(err)
	}
	if err := network(b).Release(ctx, filepath.Base(dir)); err != nil {
		b.Fatal(err)
	}
	return took
}

// connected returns when an address accepts a connection.
func connected(b *testing.B, network, address string) {
	b.Helper()
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(time.Millisecond) {
		c, err := net.Dial(network, address)
		if err == nil {
			_ = c.Close()
			return
		}
		if time.Now().After(deadline) {
			b.Fatal(err)
		}
	}
}
