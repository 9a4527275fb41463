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
	"sync"
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
	longPlans  = "500"
)

// fakeKernel is the program, built once for all tests.
var (
	fakeKernel string
	building   sync.Once
)

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

// build builds the fake kernel.
func build(t *testing.T) {
	t.Helper()
	building.Do(func() {
		dir, err := os.MkdirTemp("", "fake")
		if err != nil {
			t.Fatal(err)
		}
		program := filepath.Join(dir, "fakekernel")
		if err := os.Rename(jupytertest.Build(t), program); err != nil {
			t.Fatal(err)
		}
		fakeKernel = program
	})
	if fakeKernel == "" {
		t.Fatal("the fake kernel was not built")
	}
}

func TestClientsGetWhatTheKernelSaid(t *testing.T) {
	t.Parallel()
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

// What the plans have found, so small as they became. Rapid keeps the seeds of
// others in testdata/rapid until they are mended.
var found = map[string]plan{
	// The agent gave the first connection its place after the second, which it
	// closed.
	"a client that is cut at once and comes back": {
		LogBytes: 16 << 20, Legacy: []bool{false, false}, Steps: []step{
			{Do: "run", Who: 0, Code: "say something"}, {Do: "come", Who: 0}, {Do: "reset", Who: 0}, {Do: "come", Who: 0}, {Do: "reset", Who: 0},
		},
	},
}

func TestPlansThatFailedOnceDoNot(t *testing.T) {
	t.Parallel()
	build(t)
	for name, p := range found {
		for range 5 {
			if problem, _ := p.play(t); problem != "" {
				t.Errorf("%s: %s", name, problem)
			}
		}
	}
}
