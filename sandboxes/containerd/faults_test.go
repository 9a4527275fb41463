package containerd_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"kernelgw/sandboxes"
	"kernelgw/sandboxes/containerd"
	"kernelgw/sandboxes/netpolicy"
)

func TestMemoryLimitIsTheReason(t *testing.T) {
	forEach(t, func(t *testing.T, b backend) {
		d, _ := b.tiny(t)
		sb := b.make(t, d, "use memory")
		r := within(t, waited(t.Context(), d, sb.Spec.ID), b.patience(20*time.Second))
		if r.exit.Code != 137 || r.exit.Reason != "killed: memory limit 96 MiB" {
			t.Errorf("a sandbox that uses up its memory ends with %+v", r.exit)
		}
		if late := r.at.Sub(r.exit.At); late > b.patience(time.Second) {
			t.Errorf("the end was told %v after it", late)
		}
	})
}

// runtime-rs leaves the machine of a shim that was killed to itself.
func TestKilledShimLeavesNothing(t *testing.T) {
	forEach(t, func(t *testing.T, b backend) {
		d, o := b.tiny(t)
		sockets := shimSockets(t)
		sb := b.make(t, d, "wait")
		b.answers(t, sb)
		id := sb.Spec.ID
		ended := waited(t.Context(), d, id)
		machine, shims := machineOf(id), shimsOf(id)
		if len(shims) != 1 || b.kata && len(machine) == 0 {
			t.Fatalf("shims %v, machine %v", shims, machine)
		}
		if err := syscall.Kill(shims[0], syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		r := within(t, ended, b.patience(10*time.Second))
		if r.exit.Code != 137 || r.exit.Reason == "" {
			t.Errorf("the end is told as %+v", r.exit)
		}
		if b.name == "rs" && len(machineOf(id)) == 0 {
			t.Error("the fake's machine ended with its shim: the test tests nothing")
		}
		// A gateway that was restarted meanwhile cleans up as well.
		if err := d.Close(); err != nil {
			t.Fatal(err)
		}
		again := newDriver(t, o)
		if exit, err := again.Wait(t.Context(), id); err != nil || exit != r.exit {
			t.Errorf("a new Driver says %+v, %v; the old one said %+v", exit, err, r.exit)
		}
		if err := again.Destroy(t.Context(), id); err != nil {
			t.Fatal(err)
		}
		b.nothingLeft(t, id)
		if after := shimSockets(t); !b.real && len(after) > len(sockets) {
			t.Errorf("sockets of shims: %q, before there were %q", after, sockets)
		}
	})
}

// shimSockets lists what shims listen on, or did.
func shimSockets(t *testing.T) []string {
	t.Helper()
	sockets, err := filepath.Glob("/run/containerd/s/*")
	if err != nil {
		t.Fatal(err)
	}
	return sockets
}

func TestDeathOfTheMachineIsTheReason(t *testing.T) {
	forEach(t, func(t *testing.T, b backend) {
		if !b.kata {
			t.Skip("there is no machine")
		}
		d, _ := b.tiny(t)
		sb := b.make(t, d, "wait")
		b.answers(t, sb)
		ended := waited(t.Context(), d, sb.Spec.ID)
		machine := machineOf(sb.Spec.ID)
		if len(machine) == 0 {
			t.Skip("this hypervisor is not known here")
		}
		if err := syscall.Kill(machine[0], syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		r := within(t, ended, b.patience(5*time.Second))
		if r.exit.Code != 255 || !strings.Contains(r.exit.Reason, "virtual machine") {
			t.Errorf("the end is told as %+v", r.exit)
		}
	})
}

func TestContainerdKilledIsNoEndOfASandbox(t *testing.T) {
	forEach(t, func(t *testing.T, b backend) {
		if b.real {
			t.Skip("containerd is not the test's to kill")
		}
		d, _ := b.tiny(t)
		sb := b.make(t, d, "wait")
		b.answers(t, sb)
		ended := waited(t.Context(), d, sb.Spec.ID)
		b.daemon.kill()
		b.answers(t, sb)
		select {
		case r := <-ended:
			t.Errorf("the death of containerd ended a Wait: %+v, %v", r.exit, r.err)
		case <-time.After(time.Second): // twice as long as Wait ever rests
		}
		if list, err := d.List(t.Context()); err != nil || len(list) != 1 {
			t.Errorf("without containerd List gives %v, %v", list, err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		err := d.Destroy(ctx, sb.Spec.ID)
		cancel()
		if err == nil {
			t.Error("Destroy without containerd succeeded")
		}
		b.daemon.boot(t)
		b.answers(t, sb)
		killAgent(t, b.daemon.client(t), sb.Spec.ID)
		if r := within(t, ended, 10*time.Second); r.exit.Code != 137 {
			t.Errorf("after the restart of containerd the end is told as %+v", r.exit)
		}
		// It also creates again.
		b.answers(t, b.make(t, d, "wait"))
	})
}

func TestLeaksAreFoundAndRepaired(t *testing.T) {
	forEach(t, func(t *testing.T, b backend) {
		d, o := b.tiny(t)
		kept, lost := b.make(t, d, "wait"), b.make(t, d, "wait")
		if leaks, err := d.Leaks(t.Context()); err != nil || len(leaks) != 0 {
			t.Errorf("where all is well Leaks gives %v, %v", leaks, err)
		}
		if err := os.RemoveAll(filepath.Join(o.StateDir, lost.Spec.ID)); err != nil {
			t.Fatal(err)
		}
		leaks, err := d.Repair(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		found := map[string]bool{}
		for _, l := range leaks {
			found[l.Kind] = true
			if l.Sandbox != lost.Spec.ID {
				t.Errorf("leak of another sandbox: %+v", l)
			}
		}
		for _, kind := range []string{"container", "snapshot", "lease"} {
			if !found[kind] {
				t.Errorf("a %s was left and is not in %v", kind, leaks)
			}
		}
		b.nothingLeft(t, lost.Spec.ID)
		b.answers(t, kept)
		if leaks, err := d.Leaks(t.Context()); err != nil || len(leaks) != 0 {
			t.Errorf("after Repair Leaks gives %v, %v", leaks, err)
		}
	})
}

func TestManySandboxesLeaveNothing(t *testing.T) {
	forEach(t, func(t *testing.T, b backend) {
		d, o := b.tiny(t)
		run := func() {
			id := testID(t)
			if _, err := d.Create(t.Context(), sandboxes.Spec{ID: id, AgentConfig: []byte(`{}`)}); err != nil {
				t.Fatal(err)
			}
			if err := d.Destroy(t.Context(), id); err != nil {
				t.Fatal(err)
			}
			b.nothingLeft(t, id)
		}
		run()
		before := holdings(t, b)
		n := 5
		switch {
		case b.real:
			n = 30
		case os.Getenv("KERNELGW_TEST_LONG") != "":
			n = 100
		}
		for range n {
			run()
		}
		if after := holdings(t, b); after != before {
			t.Errorf("%d sandboxes changed %+v to %+v", n, before, after)
		}
		t.Logf("%d sandboxes, and %+v as before", n, before)
		if entries, err := os.ReadDir(o.StateDir); err != nil || len(entries) != 1 || entries[0].Name() != "identity.json" {
			t.Errorf("the state directory holds %v, %v", entries, err)
		}
	})
}

// held is what a host has of what sandboxes use.
type held struct{ mounts, snapshots, leases, containers, groups int }

func holdings(t *testing.T, b backend) held {
	t.Helper()
	admin := b.daemon.client(t)
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	list, err := admin.Containers(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	leases, err := admin.LeasesService().List(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	groups, err := filepath.Glob("/sys/fs/cgroup/*/*k?????-f[0-9]*")
	if err != nil {
		t.Fatal(err)
	}
	names, err := snapshotNames(t.Context(), admin)
	if err != nil {
		t.Fatal(err)
	}
	if err := admin.Close(); err != nil {
		t.Fatal(err)
	}
	return held{
		mounts: strings.Count(string(mounts), "\n"), containers: len(list), leases: len(leases), groups: len(groups), snapshots: len(names),
	}
}

// Kata sees what is in the namespace when it is given one, and does not take one
// twice.
func TestUnusableNetworkIsSaidInASentence(t *testing.T) {
	forEach(t, func(t *testing.T, b backend) {
		if !b.kata || b.real {
			t.Skip("only the fake looks into it")
		}
		d, o := b.tiny(t)
		used := b.make(t, d, "wait")
		o.Network = &sameNetwork{plainNetwork: network(t), of: used.Spec.ID}
		o.StateDir = shortTempDir(t)
		second := newDriver(t, o)
		id := testID(t)
		_, err := second.Create(t.Context(), sandboxes.Spec{ID: id, AgentConfig: []byte(`{}`)})
		if err == nil || !strings.Contains(err.Error(), "tap0_kata") || strings.ContainsAny(err.Error(), "\n") || len(err.Error()) > 600 {
			t.Errorf("a namespace that is used twice: %v", err)
		}
		b.nothingLeft(t, id)
		if list, err := second.List(t.Context()); err != nil || len(list) != 0 {
			t.Errorf("List gives %v, %v", list, err)
		}
		b.answers(t, used)
	})
}

func TestNetworkOfAGoneSandboxIsTakenAway(t *testing.T) {
	b := backend{runtime: "runc", daemon: v2().start(t)}
	_, o := b.tiny(t)
	n := ownedNetwork{network(t)}
	o.Network, o.StateDir = n, shortTempDir(t)
	d := newDriver(t, o)
	sb := b.make(t, d, "wait")
	if _, err := n.Acquire(t.Context(), "gone", sandboxes.NetworkPolicy{}); err != nil {
		t.Fatal(err)
	}
	newDriver(t, o)
	if left := n.left(); !slices.Equal(left, []string{sb.Spec.ID}) {
		t.Errorf("after a new Driver there are the networks of %q", left)
	}
	b.answers(t, sb)
}

// sameNetwork gives the namespace of another sandbox.
type sameNetwork struct {
	plainNetwork
	of string
}

func (n *sameNetwork) Acquire(context.Context, string, sandboxes.NetworkPolicy) (netpolicy.Slot, error) {
	return n.slot(n.of)
}

func TestIDWithAMachineLeftIsNotUsedAgain(t *testing.T) {
	forEach(t, func(t *testing.T, b backend) {
		if !b.kata || b.real {
			t.Skip("not on a host that is not the test's")
		}
		d, _ := b.tiny(t)
		sb := b.make(t, d, "wait")
		dirs := programsOf(sb.Spec.ID, "virtiofsd") // its socket is in the machine's directory
		if len(dirs) != 1 {
			t.Fatalf("file servers: %v", dirs)
		}
		_, socket, _ := strings.Cut(cmdline(dirs[0]), "--socket-path=")
		left := filepath.Dir(strings.TrimSpace(socket))
		if err := d.Destroy(t.Context(), sb.Spec.ID); err != nil {
			t.Fatal(err)
		}
		if err := os.MkdirAll(left, 0o700); err != nil {
			t.Fatal(err)
		}
		defer os.RemoveAll(left)
		_, err := d.Create(t.Context(), sandboxes.Spec{ID: sb.Spec.ID, AgentConfig: []byte(`{}`)})
		if !errors.Is(err, sandboxes.ErrExists) {
			t.Errorf("Create with an id of which Kata has something left: %v, want ErrExists", err)
		}
		if err := os.RemoveAll(left); err != nil {
			t.Fatal(err)
		}
	})
}

func TestKataWithoutNetworkIsRefused(t *testing.T) {
	d := v2().start(t)
	o := d.options(t, shortTempDir(t))
	o.Runtime, o.Network = fakeKata(t, "rs"), nil
	if _, err := containerd.New(o); err == nil || !strings.Contains(err.Error(), "network") {
		t.Errorf("New: %v", err)
	}
}

// Who goes over from runc to Kata must not believe that what runs is isolated.
func TestSandboxesOfTheOtherKindOfRuntimeAreNotTakenOver(t *testing.T) {
	b := backend{runtime: "runc", daemon: v2().start(t)}
	d, o := b.tiny(t)
	sb := b.make(t, d, "wait")
	o.Runtime = fakeKata(t, "rs")
	if _, err := containerd.New(o); err == nil || !strings.Contains(err.Error(), "runs with runtime io.containerd.runc.v2") {
		t.Errorf("New: %v", err)
	}
	b.answers(t, sb)
	if err := d.Destroy(t.Context(), sb.Spec.ID); err != nil {
		t.Fatal(err)
	}
	newDriver(t, o)
}

// A host that loses its power may leave files of which only the name is written.
func TestSandboxWhoseRecordWasCutShortCanBeDestroyed(t *testing.T) {
	b := backend{runtime: "runc", daemon: v2().start(t)}
	d, o := b.tiny(t)
	id := testID(t)
	record := filepath.Join(o.StateDir, id, "sandbox.json")
	if err := errors.Join(os.Mkdir(filepath.Dir(record), 0o700), os.WriteFile(record, nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	if list, err := d.List(t.Context()); err != nil || len(list) != 1 || list[0].Spec.ID != id {
		t.Fatalf("List: %+v, %v", list, err)
	}
	if err := d.Destroy(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	if list, err := d.List(t.Context()); err != nil || len(list) != 0 {
		t.Errorf("List after Destroy: %+v, %v", list, err)
	}
}

func TestContainerdThatIsNotThereIsSaid(t *testing.T) {
	need(t, v2())
	o := v2().options(t, shortTempDir(t))
	o.Address = "/no/such/socket"
	began := time.Now()
	if _, err := containerd.New(o); err == nil || !strings.Contains(err.Error(), "/no/such/socket does not answer") {
		t.Errorf("New: %v", err)
	}
	if time.Since(began) > 30*time.Second {
		t.Errorf("it took %v to find out", time.Since(began))
	}
}

// Without a network the agent is reached over a Unix socket.
func TestRuncWithoutNetwork(t *testing.T) {
	b := backend{runtime: "runc", daemon: v2().start(t)}
	agent, err := testAgent()
	if err != nil {
		t.Fatal(err)
	}
	o := b.options(t, shortTempDir(t))
	o.AgentPath, o.Images, o.Network = agent, newTinyImage(t), nil
	d := newDriver(t, o)
	t.Cleanup(func() { removeImage(t, b.daemon.client(t), o.Images.(*tinyImage).image.Digest) })
	if caps := d.Capabilities(); caps.Network || caps.NetworkPolicy || caps.Isolated {
		t.Errorf("it claims %+v", caps)
	}
	sb := b.make(t, d, "wait")
	if sb.Agent.Network != "unix" {
		t.Fatalf("the agent is at %+v", sb.Agent)
	}
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		info, err := os.Stat(sb.Agent.Address)
		if err == nil && info.Mode()&os.ModeSocket != 0 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("the agent does not listen: %v", err)
		}
	}
	if err := d.SetNetworkPolicy(t.Context(), sb.Spec.ID, sandboxes.NetworkPolicy{}); !errors.Is(err, sandboxes.ErrInvalid) {
		t.Errorf("SetNetworkPolicy without a network: %v, want ErrInvalid", err)
	}
}
