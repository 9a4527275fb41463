package conformance

import (
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	"golang.org/x/sys/unix"

	"kernelgw/conformance/probe"
	"kernelgw/conformance/servers"
)

// scale is how many of something a test has: so many in make test, and as many as
// are promised with KERNELGW_LONG=1.
func scale(t *testing.T, short, promised int, what string) int {
	t.Helper()
	if servers.Driver() != "process" {
		t.Skip("it runs with the driver process: what is counted is the gateway's")
	}
	if os.Getenv("KERNELGW_LONG") != "" {
		return promised
	}
	fmt.Fprintf(os.Stderr, "!! NOT CHECKED: %s: %d of them, not the %d promised (KERNELGW_LONG=1 does that)\n", t.Name(), short, promised)
	return short
}

// withFakeKernels starts a kernelgw whose only kernel is a small program that
// costs next to nothing, and which may be held by that many descriptors.
func withFakeKernels(t *testing.T, descriptors int, args ...string) *target {
	t.Helper()
	var files unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &files); err != nil {
		t.Fatal(err)
	}
	if files.Max < uint64(descriptors) {
		fmt.Fprintf(os.Stderr, "!! NOT CHECKED: %s: it takes %d file descriptors in one process, and the hard limit is %d (ulimit -Hn)\n", t.Name(), descriptors, files.Max)
		t.SkipNow()
	}
	root, err := servers.Root()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	build := exec.Command("go", "build", "-o", filepath.Join(dir, "fakekernel"), "./jupyter/jupytertest/fakekernel")
	build.Dir, build.Env = root, append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("cannot build the fake kernel: %v\n%s", err, out)
	}
	spec := fmt.Sprintf(`{"argv": [%q, "-f", "{connection_file}"], "display_name": "fake", "language": "none"}`, filepath.Join(dir, "fakekernel"))
	kernel := filepath.Join(dir, "jupyter", "kernels", "fake")
	if err := errors.Join(os.MkdirAll(kernel, 0o755), os.WriteFile(filepath.Join(kernel, "kernel.json"), []byte(spec), 0o644)); err != nil {
		t.Fatal(err)
	}
	return own(t, servers.Options{
		Args: append([]string{"--default-kernel", "fake"}, args...), Env: []string{"JUPYTER_PATH=" + filepath.Join(dir, "jupyter")},
	})
}

// fourAtATime calls do with 0 to n-1, a few at a time, and returns the first error.
func fourAtATime(n int, do func(i int) error) error {
	var next atomic.Int64
	errs := make([]error, 4)
	var all sync.WaitGroup
	for w := range errs {
		all.Go(func() {
			for i := int(next.Add(1)) - 1; i < n && errs[w] == nil; i = int(next.Add(1)) - 1 {
				errs[w] = do(i)
			}
		})
	}
	all.Wait()
	return errors.Join(errs...)
}

// startKernels starts kernels, and returns their ids. They are shut down at the end
// of the test.
func startKernels(t *testing.T, s *target, n int) []string {
	t.Helper()
	ids := make([]string, n)
	t.Cleanup(func() {
		err := fourAtATime(n, func(i int) error {
			if ids[i] == "" {
				return nil
			}
			return s.DeleteKernel(ids[i])
		})
		if err != nil {
			t.Errorf("cannot shut the kernels down: %v", err)
		}
	})
	if err := fourAtATime(n, func(i int) (err error) {
		ids[i], err = s.CreateKernel()
		return err
	}); err != nil {
		t.Fatalf("cannot start %d kernels: %v", n, err)
	}
	return ids
}

// mostOfManySockets is what a gateway may need with all its sockets.
const mostOfManySockets = 512 << 20

// TestManySocketsOnOneGateway: two thousand, on a few kernels, all of which get what
// their kernel says, in half a GiB.
func TestManySocketsOnOneGateway(t *testing.T) {
	const kernels, perSocket = 4, 128 << 10
	n := scale(t, 300, 2000, "WebSockets on one gateway")
	s := withFakeKernels(t, 2*n+500, "--max-sockets", fmt.Sprint(n+10))
	ids := startKernels(t, s, kernels)
	before, err := s.process.PeakMemory()
	if err != nil {
		t.Fatal(err)
	}
	sockets := make([]*websocket.Conn, n)
	defer func() {
		for _, ws := range sockets {
			if ws != nil {
				_ = ws.Close()
			}
		}
	}()
	dialer := websocket.Dialer{Subprotocols: []string{probe.Subprotocol}, HandshakeTimeout: probe.Patience, ReadBufferSize: 1 << 10, WriteBufferSize: 1 << 10}
	err = fourAtATime(n, func(i int) error {
		url := "ws" + strings.TrimPrefix(s.Base, "http") + "api/kernels/" + ids[i%kernels] + "/channels?session_id=" + probe.ID()
		ws, _, err := dialer.Dial(url, http.Header{"Authorization": {"token " + s.Token}})
		sockets[i] = ws
		return err
	})
	if err != nil {
		t.Fatalf("cannot open %d WebSockets: %v", n, err)
	}
	// Each socket must hear the cell of its kernel.
	var heard sync.WaitGroup
	var deaf atomic.Int64
	for _, ws := range sockets {
		heard.Go(func() {
			_ = ws.SetReadDeadline(time.Now().Add(2 * probe.Patience))
			for {
				_, b, err := ws.ReadMessage()
				if err != nil {
					deaf.Add(1)
					return
				}
				if strings.Contains(string(b), "can you all hear me") {
					return
				}
			}
		})
	}
	for _, id := range ids {
		s.Dial(t, id, probe.Dialing{Session: probe.ID()}).Run(t, "say can you all hear me")
	}
	heard.Wait()
	if n := deaf.Load(); n > 0 {
		t.Errorf("%d sockets did not hear their kernel", n)
	}
	peak, err := s.process.PeakMemory()
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("with %d WebSockets the gateway needed %d MiB at most, %d KiB for each", n, peak>>20, (peak-before)>>10/int64(n))
	if peak > mostOfManySockets || peak-before > int64(n)*perSocket {
		t.Errorf("with %d WebSockets the gateway needed %d MiB at most, before them %d MiB", n, peak>>20, before>>20)
	}
}

// processorTime is what a process has worked so far.
func processorTime(t *testing.T, pid int) time.Duration {
	t.Helper()
	var at unix.Timespec
	// clock_getcpuclockid(3) makes the clock of a process so.
	if err := unix.ClockGettime(int32(^pid)<<3|2, &at); err != nil {
		t.Fatal(err)
	}
	return time.Duration(at.Nano())
}

// TestManyKernelsOnOneGateway: five hundred, which cost nothing while they are idle,
// and little to list.
func TestManyKernelsOnOneGateway(t *testing.T) {
	const listings = 20
	n := scale(t, 50, 500, "kernels on one gateway")
	s := withFakeKernels(t, 8*n+500)
	ids := startKernels(t, s, n)
	begin, was := time.Now(), processorTime(t, s.process.PID())
	for range listings {
		var all []probe.Kernel
		list(t, s, "api/kernels", &all)
		if len(all) != n {
			t.Fatalf("%d kernels are listed of %d", len(all), n)
		}
	}
	took, worked := time.Since(begin)/listings, (processorTime(t, s.process.PID())-was)/listings
	t.Logf("a listing of %d kernels takes %v, and %v of the gateway's processor time", n, took.Round(time.Microsecond), worked.Round(time.Microsecond))
	if worked > 100*time.Millisecond {
		t.Errorf("a listing of %d kernels costs the gateway %v", n, worked)
	}
	// Nothing is asked of it, so that what it works is what the kernels cost it.
	const idle = 3 * time.Second
	was = processorTime(t, s.process.PID())
	time.Sleep(idle)
	worked = processorTime(t, s.process.PID()) - was
	t.Logf("with %d idle kernels the gateway works %.1f%% of the time", n, 100*worked.Seconds()/idle.Seconds())
	if worked > idle/4 {
		t.Errorf("with %d idle kernels the gateway works %v in %v", n, worked, idle)
	}
	for _, id := range []string{ids[0], ids[n/2], ids[n-1]} {
		if got := s.Dial(t, id, probe.Dialing{Session: probe.ID()}).Run(t, "say here").Stdout; got != "here\n" {
			t.Errorf("kernel %s says %q", id, got)
		}
	}
	peak, err := s.process.PeakMemory()
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("with %d kernels the gateway needed %d MiB at most", n, peak>>20)
	if peak > mostOfManySockets {
		t.Errorf("with %d kernels the gateway needed %d MiB", n, peak>>20)
	}
}
