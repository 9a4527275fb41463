// Package delivery holds the streaming contract (docs/streaming.md) against what
// clients receive: a kernel that keeps a transcript, the agent, the gateway, a line
// between the two that has faults, and clients that are cut, frozen and replaced,
// by plans that are drawn at random. Its model knows the transcript and what the
// clients got, and nothing of how one becomes the other.
package delivery

import (
	"flag"
	"os"
	"path/filepath"
	"testing"

	"go.uber.org/goleak"
	"pgregory.net/rapid"

	"kernelgw/jupyter/jupytertest"
)

// long has tests try longer than there is time for at each change.
var long = os.Getenv("KERNELGW_LONG") != ""

// How many plans are played, unless -rapid.checks says it.
const (
	shortPlans = "20"
	longPlans  = "2000"
)

// fakeKernel is the program, built once.
var fakeKernel string

func TestMain(m *testing.M) {
	flag.Parse()
	given := false
	flag.Visit(func(f *flag.Flag) { given = given || f.Name == "rapid.checks" })
	if !given {
		checks := shortPlans
		if long {
			checks = longPlans
		}
		if err := flag.Set("rapid.checks", checks); err != nil {
			panic(err) // the flag is rapid's
		}
	}
	goleak.VerifyTestMain(m, goleak.Cleanup(func(code int) {
		if fakeKernel != "" {
			os.RemoveAll(filepath.Dir(fakeKernel))
		}
		os.Exit(code)
	}))
}

// build builds the fake kernel for all tests.
func build(t *testing.T) {
	t.Helper()
	if fakeKernel != "" {
		return
	}
	dir, err := os.MkdirTemp("", "fake")
	if err != nil {
		t.Fatal(err)
	}
	program := filepath.Join(dir, "fakekernel")
	if err := os.Rename(jupytertest.Build(t), program); err != nil {
		t.Fatal(err)
	}
	fakeKernel = program
}

func TestClientsGetWhatTheKernelSaid(t *testing.T) {
	build(t)
	if !long {
		t.Logf("!! NOT CHECKED: more than %s plans: KERNELGW_LONG=1 plays %s", shortPlans, longPlans)
	}
	var all stats
	rapid.Check(t, func(t *rapid.T) {
		p := plans().Draw(t, "plan")
		problem, played := p.play(t)
		all.messages += played.messages
		all.connections += played.connections
		all.again += played.again
		all.lost += played.lost
		if problem != "" {
			t.Fatalf("%s", problem)
		}
	})
	t.Logf("%d messages over %d connections, %d came again, %d were told to be lost", all.messages, all.connections, all.again, all.lost)
}
