package sandboxtest

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"kernelgw/jupyter"
	"kernelgw/sandboxes"
	"kernelgw/sandboxes/agentapi"
)

// Harness is what Run needs to know of the driver under test.
type Harness struct {
	// New opens a Driver over stateDir. It is called several times for one
	// directory, as a restarted gateway does; it fails the test when it cannot.
	New func(t *testing.T, stateDir string) sandboxes.Driver

	// KillAgent ends the agent's process of a running sandbox as kill -9 does.
	KillAgent func(t *testing.T, d sandboxes.Driver, sb sandboxes.Sandbox)

	// Image to run; "" is the driver's default. Kernel is one of its
	// kernelspecs; "" is "python3".
	Image, Kernel string

	// Python says that the kernel executes Python, so that the attacks from
	// inside can be tried. Only a double has no reason to set it.
	Python bool

	// GuestKernel says that each sandbox has a Linux kernel of its own, in a virtual
	// machine, in which system calls are not filtered unless its host is configured
	// so.
	GuestKernel bool

	// InProcess says that sandboxes die with this process, so that the death
	// of the gateway can only be played by a new Driver. True for doubles.
	InProcess bool

	// Outside is a host that the sandboxes' proxy can reach, and how it resolves
	// names. Only for drivers with network policies; nil means that the network is
	// not tried.
	Outside *Outside

	// Denied is how many packets and requests of a sandbox its network has refused.
	// Needed with Outside.
	Denied func(t *testing.T, d sandboxes.Driver, id string) uint64

	// StartTimeout bounds the wait for an agent that was created to answer.
	// Zero means 60 s.
	StartTimeout time.Duration

	// Elsewhere names the parts of the contract that ask nothing of what this
	// set-up of the driver has of its own, and to which another test holds it.
	Elsewhere []string

	// Patience multiplies all other waits, for hosts that take their time, as
	// virtual machines under emulation do. Zero means 1.
	Patience int
}

// Run holds a driver to every sentence of the comments in sandboxes.Driver.
// The test that calls it must do nothing else: Run executes the same test in
// child processes, which it kills with SIGKILL in the middle of their work.
func Run(t *testing.T, factory func(t *testing.T) Harness) {
	h := factory(t)
	if h.Kernel == "" {
		h.Kernel = "python3"
	}
	if h.StartTimeout == 0 {
		h.StartTimeout = time.Minute
	}
	h.Patience = max(h.Patience, 1)
	if order := os.Getenv(childEnv); order != "" {
		h.obey(t, order) // does not return
	}
	elsewhere := map[string]bool{}
	for _, name := range h.Elsewhere {
		elsewhere[name] = true
	}
	for _, c := range []struct {
		name string
		test func(*bench)
		skip bool // because the harness says that it cannot apply
	}{
		{name: "NameAndCapabilitiesAreStable", test: testName},
		{name: "KernelspecsAreReadable", test: testKernelspecs},
		{name: "UnknownImageIsNotFound", test: testUnknownImage},
		{name: "CreateListWaitDestroy", test: testLife},
		{name: "InvalidIDsAreRefused", test: testInvalidIDs},
		{name: "SpecIsKeptByteForByte", test: testOddSpec},
		{name: "UnusualIDsAreTaken", test: testUnusualIDs},
		{name: "DuplicateIDIsRefusedAndHarmsNobody", test: testDuplicate},
		{name: "OfTwoCreatesOfOneIDOneWins", test: testRaceForOneID},
		{name: "TwoCreatesAtOnce", test: testConcurrentCreates},
		{name: "CancelledCreateLeavesNothing", test: testCancelledCreate},
		{name: "UnknownSandbox", test: testUnknownSandbox},
		{name: "EndOfWaitIsNotEndOfSandbox", test: testCancelledWait},
		{name: "AgentThatExitsIsReportedWithItsCode", test: testAgentExits},
		{name: "AgentWithBrokenConfigEndsItsSandboxOnly", test: testBrokenConfig},
		{name: "KilledAgentIsSeenWithinASecond", test: testKilledAgent},
		{name: "DestroyEndsWait", test: testDestroyEndsWait},
		{name: "ConcurrentDestroysAllSucceed", test: testConcurrentDestroys},
		{name: "NewDriverAdopts", test: testAdopt},
		{name: "FrozenSandboxIsSilentUntilThawed", test: testFreeze},
		{name: "LayersThatAreNone", test: testNoLayers},
		{name: "DriverKilledAfterCreate", test: testKilledDriver, skip: h.InProcess},
		{name: "DriverKilledDuringCreate", test: testKilledDuringCreate, skip: h.InProcess},
		{name: "LayerIsTheSameInAnotherSandbox", test: testLayers, skip: !h.Python},
		{name: "OpenFilesAndSharedMemoryAreLimited", test: testFineLimits, skip: !h.Python},
		{name: "CellLeavesDaemonsBehind", test: testDaemons, skip: !h.Python},
		{name: "CellSearchesForTheAgentToken", test: testTokenSearch, skip: !h.Python},
		{name: "CellTriesToGetOut", test: testAttempts, skip: !h.Python},
		{name: "AgentAnswersThroughFloods", test: testFloods, skip: !h.Python},
		{name: "CellReachesWhatItsPolicyNames", test: testNetwork, skip: !h.Python || h.Outside == nil},
		{name: "SecretReachesItsHostOnly", test: testSecret, skip: !h.Python || h.Outside == nil},
	} {
		if c.skip || elsewhere[c.name] {
			delete(elsewhere, c.name)
			continue
		}
		t.Run(c.name, func(t *testing.T) { c.test(newBench(t, h)) })
	}
	for name := range elsewhere {
		t.Errorf("the contract has no part %q to be tried elsewhere", name)
	}
}

func (h Harness) patience(d time.Duration) time.Duration { return d * time.Duration(h.Patience) }

// bench is a state directory with a Driver, for one test.
type bench struct {
	*testing.T
	h   Harness
	dir string
	d   sandboxes.Driver
	ctx context.Context
	ids []string // every id that was tried
}

func newBench(t *testing.T, h Harness) *bench {
	t.Helper()
	// Not t.TempDir: its names are long, and a driver's sockets may be short of room.
	dir, err := os.MkdirTemp("", "sbx")
	if err != nil {
		t.Fatalf("cannot make a state directory: %v", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), h.patience(3*time.Minute))
	b := &bench{T: t, h: h, dir: dir, d: h.New(t, dir), ctx: ctx}
	t.Cleanup(func() {
		cancel()
		b.tearDown()
	})
	return b
}

// tearDown destroys all and finds what was left behind.
func (b *bench) tearDown() {
	ctx, cancel := context.WithTimeout(context.Background(), b.h.patience(time.Minute))
	defer cancel()
	for _, id := range b.ids {
		if err := b.d.Destroy(ctx, id); err != nil {
			b.Errorf("Destroy(%s) at the end of the test: %v", id, err)
		}
		b.nothingLeft(id)
	}
	if list, err := b.d.List(ctx); err != nil || len(list) != 0 {
		b.Errorf("List after all was destroyed: %d sandboxes, %v", len(list), err)
	}
	for range 2 {
		if err := b.d.Close(); err != nil {
			b.Errorf("Close: %v", err)
		}
	}
	for _, m := range mountsUnder(b.T, b.dir) {
		b.Errorf("left behind: mount %s", m)
	}
	if err := os.RemoveAll(b.dir); err != nil {
		b.Errorf("cannot remove the state directory: %v", err)
	}
}

// nothingLeft reports what of a sandbox is still on this host.
func (b *bench) nothingLeft(id string) {
	b.Helper()
	for _, what := range leftovers(b.T, b.dir, id) {
		b.Errorf("left behind by sandbox %s: %s", id, what)
	}
}

// reopen replaces the Driver, as a new gateway process would.
func (b *bench) reopen() {
	b.Helper()
	if err := b.d.Close(); err != nil {
		b.Errorf("Close: %v", err)
	}
	b.d = b.h.New(b.T, b.dir)
}

// newID returns an id that the test will see destroyed.
func (b *bench) newID() string {
	var raw [8]byte
	_, _ = rand.Read(raw[:]) // never fails
	id := "t" + hex.EncodeToString(raw[:])
	b.ids = append(b.ids, id)
	return id
}

// spec returns a spec, with a new id, whose agent starts a kernel.
func (b *bench) spec() sandboxes.Spec {
	b.Helper()
	specs, err := b.d.Kernelspecs(b.ctx, b.h.Image)
	if err != nil {
		b.Fatalf("Kernelspecs: %v", err)
	}
	ks, ok := specs[b.h.Kernel]
	if !ok {
		b.Fatalf("the image has no kernelspec %q", b.h.Kernel)
	}
	var parsed jupyter.Kernelspec
	if err := json.Unmarshal(ks.JSON, &parsed); err != nil {
		b.Fatalf("kernel.json of %q: %v", b.h.Kernel, err)
	}
	id := b.newID()
	config, err := json.Marshal(agentapi.Config{
		Token:       "token-of-" + id + "-" + rand.Text(),
		KernelID:    id,
		KernelName:  b.h.Kernel,
		Spec:        parsed,
		ResourceDir: ks.Dir,
	})
	if err != nil {
		b.Fatal(err)
	}
	return sandboxes.Spec{
		ID:          id,
		Image:       b.h.Image,
		Labels:      map[string]string{"workspace": "w-" + id},
		AgentConfig: config,
	}
}

func (b *bench) create(spec sandboxes.Spec) sandboxes.Sandbox {
	b.Helper()
	sb, err := b.d.Create(b.ctx, spec)
	if err != nil {
		b.Fatalf("Create(%s): %v", spec.ID, err)
	}
	return sb
}

// createTime is how long Create takes on this host, so that faults can be
// placed in the middle of it.
func (b *bench) createTime() time.Duration {
	b.Helper()
	spec := b.spec()
	began := time.Now()
	b.create(spec)
	took := time.Since(began)
	b.destroy(spec.ID)
	return took
}

// start creates a sandbox and waits until its agent answers.
func (b *bench) start() (sandboxes.Sandbox, *client) {
	b.Helper()
	sb := b.create(b.spec())
	return sb, b.answers(sb)
}

// answers waits until the agent answers.
func (b *bench) answers(sb sandboxes.Sandbox) *client {
	b.Helper()
	c := newClient(b.T, sb)
	ctx, cancel := context.WithTimeout(b.ctx, b.h.StartTimeout)
	defer cancel()
	// A sandbox that ends will never answer.
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() {
		if _, err := b.d.Wait(ctx, sb.Spec.ID); err == nil {
			cancel()
		}
	})
	defer cancel()
	if err := c.waitListening(ctx); err != nil {
		exit, waitErr := b.wait(sb.Spec.ID, time.Millisecond)
		b.Fatalf("the agent of %s does not answer: %v (Wait: %+v, %v)", sb.Spec.ID, err, exit, waitErr)
	}
	return c
}

func (b *bench) wait(id string, timeout time.Duration) (sandboxes.Exit, error) {
	ctx, cancel := context.WithTimeout(b.ctx, timeout)
	defer cancel()
	return b.d.Wait(ctx, id)
}

// ended is Wait where the sandbox must end within timeout.
func (b *bench) ended(id string, timeout time.Duration) sandboxes.Exit {
	b.Helper()
	exit, err := b.wait(id, timeout)
	if err != nil {
		b.Fatalf("Wait(%s): %v", id, err)
	}
	return exit
}

func (b *bench) destroy(id string) {
	b.Helper()
	if err := b.d.Destroy(b.ctx, id); err != nil {
		b.Fatalf("Destroy(%s): %v", id, err)
	}
	b.nothingLeft(id)
}

// listed checks that List returns exactly want, whatever the order.
func (b *bench) listed(want ...sandboxes.Sandbox) {
	b.Helper()
	got, err := b.d.List(b.ctx)
	if err != nil {
		b.Fatalf("List: %v", err)
	}
	byID := func(x, y sandboxes.Sandbox) int { return strings.Compare(x.Spec.ID, y.Spec.ID) }
	slices.SortFunc(got, byID)
	want = slices.SortedFunc(slices.Values(want), byID) // the caller keeps its order
	if diff := cmp.Diff(want, got, cmpopts.EquateApproxTime(time.Millisecond), cmpopts.EquateEmpty()); diff != "" {
		b.Errorf("List differs from what Create returned (-created +listed):\n%s", diff)
	}
}
