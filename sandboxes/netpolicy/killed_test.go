package netpolicy

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// A gateway is killed before each change that it makes to the host; the next
// one, killed at its first change as well; the third removes what is half done
// and has what is whole.
func TestKilledAtAnyStepLeavesNothingBehind(t *testing.T) {
	t.Parallel()
	host := newHost(t)
	for at := 1; ; at++ {
		dir := t.TempDir()
		cmd, output := startActor(t, host, act{Gateway: &gatewayAct{StateDir: dir, DieAt: at}})
		_ = cmd.Wait()
		if cmd.ProcessState.ExitCode() == 77 {
			t.Logf("%d steps", at-1)
			for _, left := range leftovers(t, host, dir) {
				t.Errorf("not killed: left behind: %s", left)
			}
			break
		}
		wasKilled(t, cmd.ProcessState, output.String())
		cmd, _ = startActor(t, host, act{Gateway: &gatewayAct{StateDir: dir, DieAt: 1}})
		_ = cmd.Wait()
		wholeOrGone(t, host, dir, fmt.Sprintf("killed at step %d", at))
	}
}

func TestKilledAtAnyMomentLeavesNothingBehind(t *testing.T) {
	t.Parallel()
	host := newHost(t)
	for range 15 {
		dir := t.TempDir()
		cmd, output := startActor(t, host, act{Gateway: &gatewayAct{StateDir: dir, Ready: 2}})
		after := time.Duration(rand.IntN(400)) * time.Millisecond
		time.Sleep(after)
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		_ = cmd.Wait()
		wasKilled(t, cmd.ProcessState, output.String())
		wholeOrGone(t, host, dir, fmt.Sprintf("killed after %v", after))
	}
}

func wasKilled(t *testing.T, s *os.ProcessState, output string) {
	t.Helper()
	if !strings.Contains(s.String(), "killed") {
		t.Fatalf("the gateway was not killed: %v: %s", s, output)
	}
}

// wholeOrGone opens the network of a gateway that was killed, and ends it.
func wholeOrGone(t *testing.T, host netns.NsHandle, dir, when string) {
	t.Helper()
	n := openOn(t, host, Options{StateDir: dir})
	for _, s := range n.List() {
		for _, reach := range []struct {
			what string
			try  func() error
		}{
			{"the proxy from the sandbox", func() error { return n.in(s, func() error { return reachable(n.identity.proxy(), ProxyPort) }) }},
			{"the agent's port from the host", func() error { return agentAnswers(n, s) }},
		} {
			if err := reach.try(); err != nil {
				t.Errorf("%s: sandbox %s is there, but cannot reach %s: %v", when, s.ID, reach.what, err)
			}
		}
		if err := n.Release(t.Context(), s.ID); err != nil {
			t.Errorf("%s: %v", when, err)
		}
	}
	if err := n.Close(); err != nil {
		t.Errorf("%s: %v", when, err)
	}
	for _, left := range leftovers(t, host, dir) {
		t.Errorf("%s: left behind: %s", when, left)
	}
}

// leftovers lists what there is of networks on a host and in a state directory.
func leftovers(t testing.TB, host netns.NsHandle, dir string) (left []string) {
	t.Helper()
	conn, err := netlink.NewHandleAt(host, unix.NETLINK_ROUTE)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	links, err := conn.LinkList()
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range links {
		if l.Attrs().Name != "lo" {
			left = append(left, "link "+l.Attrs().Name)
		}
	}
	filter, err := nftables.New(nftables.WithNetNSFd(int(host)))
	if err != nil {
		t.Fatal(err)
	}
	tables, err := filter.ListTables()
	if err != nil {
		t.Fatal(err)
	}
	for _, table := range tables {
		left = append(left, "table "+table.Name)
	}
	for _, sub := range []string{"slots", "ns"} {
		entries, err := os.ReadDir(filepath.Join(dir, sub))
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			left = append(left, "file "+filepath.Join(sub, e.Name()))
		}
	}
	for _, m := range mountsBelow(t, dir) {
		left = append(left, "mount "+m)
	}
	return left
}

func mountsBelow(t testing.TB, dir string) (found []string) {
	t.Helper()
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(mounts)) {
		if fields := strings.Fields(line); len(fields) > 4 && strings.HasPrefix(fields[4], dir+"/") {
			found = append(found, fields[4])
		}
	}
	return found
}
