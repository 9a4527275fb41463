package clients

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"kernelgw/conformance/probe"
	"kernelgw/conformance/servers"
)

// throughNginx lays a way to a gateway of its own.
func throughNginx(t *testing.T, patient bool) (*servers.Way, *servers.Process) {
	t.Helper()
	if servers.Driver() != "process" {
		t.Skip("it runs with the driver process: nothing of it depends on the driver")
	}
	p := servers.ForTest(t, servers.Options{})
	return servers.WayForTest(t, p, patient), p
}

// apart is how many lines are printed between faults.
const apart = 100

// breaks lets faults happen while a client prints.
func breaks(t *testing.T, s *script, faults []servers.Fault) {
	t.Helper()
	for i, f := range faults {
		n := 0.0
		for n < float64((i+1)*apart) {
			n = s.event(t, "lines")["n"].(float64)
		}
		if err := f.Do(t.Context()); err != nil {
			t.Fatalf("%s: %v", f.Name, err)
		}
		t.Logf("after %v lines: %s", n, f.Name)
	}
}

// Alone: it judges what comes twice, which is what was in flight for a round trip.
// VS Code's extension is built on the same library.
func TestJupyterLabServicesThroughBreaks(t *testing.T) {
	way, _ := throughNginx(t, false)
	faults := way.Faults()
	lines := (len(faults) + 2) * apart
	s := run(t, []string{"KERNELGW_URL=" + way.Base, "KERNELGW_TOKEN=" + way.Token}, "breaks.cjs", fmt.Sprint(lines))
	breaks(t, s, faults)
	done := s.event(t, "done")
	s.done(t)
	var stream []probe.Piece
	for _, m := range done["stream"].([]any) {
		m := m.([]any)
		stream = append(stream, probe.Piece{ID: m[0].(string), Text: m[1].(string)})
	}
	problem, twice := probe.Lossless(stream, lines)
	if problem != "" {
		t.Error(problem)
	}
	t.Logf("%d of %d messages came twice in %d breaks", twice, len(stream), len(faults))
	if all := apart * len(faults) * (len(faults) + 1) / 2; twice > all/2 {
		t.Errorf("without any acknowledgement it would be %d", all)
	}
	if done["reply"] != "ok" {
		t.Errorf("the cell's reply is %v", done["reply"])
	}
}

const stockManager = "jupyter_server.gateway.managers.GatewayKernelManager"

// nbclient starts the printing cell with a kernel manager of docs/examples/nbclient,
// or the stock one.
func nbclient(t *testing.T, way *servers.Way, manager string, lines int) *script {
	t.Helper()
	root, err := servers.Root()
	if err != nil {
		t.Fatal(err)
	}
	env := []string{
		"JUPYTER_GATEWAY_URL=" + capability(t, &way.Server, "breaks"),
		"PYTHONPATH=" + filepath.Join(root, "docs", "examples", "nbclient"), "PYTHONDONTWRITEBYTECODE=1",
		"PYTHONSAFEPATH=1", // a script beside this one has the name of a library
	}
	return run(t, env, "breaks.py", manager, fmt.Sprint(lines))
}

// numbers is what the printing cell prints.
func numbers(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintln(&b, i)
	}
	return b.String()
}

// The example of docs/clients.md: each line once, whatever breaks.
func TestReconnectingNotebookThroughBreaks(t *testing.T) {
	t.Parallel()
	way, _ := throughNginx(t, false)
	faults := way.Faults()
	lines := (len(faults) + 2) * apart
	s := nbclient(t, way, "reconnecting.ReconnectingKernelManager", lines)
	breaks(t, s, faults)
	text := s.event(t, "done")["text"].(string)
	s.done(t)
	if text != numbers(lines) {
		t.Errorf("the output is not each line once: %d bytes, want %d", len(text), len(numbers(lines)))
	}
}

// The stock manager of nbclient has one connection. What does not end that costs
// nothing: a network that stands still, and reloads of nginx.
func TestStockNotebookThroughStallsAndReloads(t *testing.T) {
	t.Parallel()
	way, _ := throughNginx(t, true)
	var faults []servers.Fault
	for range 2 {
		faults = append(faults, servers.Fault{Name: "the network stalls", Do: way.Stall}, servers.Fault{Name: "nginx reloads", Do: way.Reload})
	}
	lines := (len(faults) + 2) * apart
	s := nbclient(t, way, stockManager, lines)
	breaks(t, s, faults)
	text := s.event(t, "done")["text"].(string)
	s.done(t)
	if text != numbers(lines) {
		t.Errorf("the output is not each line once: %d bytes, want %d", len(text), len(numbers(lines)))
	}
}

// givesUp runs nbclient with the stock manager into a fault, which it must not hang
// at, and returns its error.
func givesUp(t *testing.T, way *servers.Way, f servers.Fault) string {
	t.Helper()
	s := nbclient(t, way, stockManager, 100_000)
	breaks(t, s, []servers.Fault{f})
	gave := s.event(t, "gave up")
	s.done(t)
	t.Logf("it gave up after %.1f s: %v", gave["after"], gave["error"])
	return gave["error"].(string)
}

// What ends the one connection fails the notebook, which takes its kernel with it.
func TestStockNotebookFailsWhenItsConnectionBreaks(t *testing.T) {
	t.Parallel()
	way, p := throughNginx(t, false)
	text := givesUp(t, way, servers.Fault{Name: "the network resets the connection", Do: way.Cut})
	if !strings.Contains(text, "Response router had finished") {
		t.Errorf("it says %s", text)
	}
	for deadline := time.Now().Add(probe.Patience); ; time.Sleep(50 * time.Millisecond) {
		ids, err := p.KernelIDs()
		if err == nil && len(ids) == 0 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("there are kernels: %v, %v", ids, err)
		}
	}
}

// A drain is no better for it: it does not come back after 1012 either. What it says
// depends on whether the gateway is there again.
func TestStockNotebookFailsWhenTheGatewayDrains(t *testing.T) {
	if os.Getenv("KERNELGW_LONG") == "" {
		t.Skip("NOT CHECKED without KERNELGW_LONG=1: a stock notebook and a drain")
	}
	t.Parallel()
	way, p := throughNginx(t, false)
	givesUp(t, way, servers.Fault{Name: "the gateway stops, and is started again", Do: func(ctx context.Context) error {
		if err := p.Signal(syscall.SIGTERM); err != nil {
			return err
		}
		if _, err := p.Wait(probe.Patience); err != nil {
			return err
		}
		return p.Restart(ctx)
	}})
}
