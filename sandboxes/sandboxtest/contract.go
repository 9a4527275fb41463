package sandboxtest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"math/rand/v2"
	"path"
	"strings"
	"sync"
	"time"

	"github.com/google/go-cmp/cmp"

	"kernelgw/jupyter"
	"kernelgw/sandboxes"
)

// endTimeout is how long the end of a sandbox may take to be noticed when
// nothing has to be done for it but to look.
const endTimeout = 30 * time.Second

func testName(b *bench) {
	name, caps := b.d.Name(), b.d.Capabilities()
	if name == "" {
		b.Error("Name is empty")
	}
	b.reopen()
	if b.d.Name() != name || b.d.Capabilities() != caps {
		b.Errorf("a new Driver on the same host says %s %+v, the old one said %s %+v",
			b.d.Name(), b.d.Capabilities(), name, caps)
	}
}

func testKernelspecs(b *bench) {
	specs, err := b.d.Kernelspecs(b.ctx, b.h.Image)
	if err != nil || len(specs) == 0 {
		b.Fatalf("Kernelspecs gave %d kernelspecs, %v", len(specs), err)
	}
	if _, ok := specs[b.h.Kernel]; !ok {
		b.Errorf("kernelspec %q is missing", b.h.Kernel)
	}
	for name, ks := range specs {
		if ks.Name != name {
			b.Errorf("kernelspec %q is listed as %q", ks.Name, name)
		}
		var parsed jupyter.Kernelspec
		if err := json.Unmarshal(ks.JSON, &parsed); err != nil || len(parsed.Argv) == 0 {
			b.Errorf("kernelspec %q cannot be started: argv %q, %v", name, parsed.Argv, err)
		}
		if !path.IsAbs(ks.Dir) {
			b.Errorf("kernelspec %q has Dir %q, which is not absolute", name, ks.Dir)
		}
		file, err := fs.ReadFile(ks.Files, "kernel.json")
		if err != nil || !bytes.HasSuffix(file, ks.JSON) { // less a byte order mark
			b.Errorf("kernel.json in the Files of %q is not its JSON: %q, %v", name, file, err)
		}
	}
}

func testUnknownImage(b *bench) {
	const image = "no-such-image.example/at/all:never"
	if _, err := b.d.Kernelspecs(b.ctx, image); !errors.Is(err, sandboxes.ErrNotFound) {
		b.Errorf("Kernelspecs of an unknown image: %v, want ErrNotFound", err)
	}
	spec := b.spec()
	spec.Image = image
	if _, err := b.d.Create(b.ctx, spec); !errors.Is(err, sandboxes.ErrNotFound) {
		b.Errorf("Create with an unknown image: %v, want ErrNotFound", err)
	}
	b.listed()
	b.nothingLeft(spec.ID)
}

func testLife(b *bench) {
	b.listed()
	spec := b.spec()
	before := time.Now()
	sb := b.create(spec)
	id := spec.ID
	if sb.Spec.ID != id || sb.Image == "" || sb.Agent.Network == "" || sb.Agent.Address == "" {
		b.Errorf("Create returned %+v, in which something is missing", sb)
	}
	if sb.CreatedAt.Before(before.Add(-time.Second)) || sb.CreatedAt.After(time.Now().Add(time.Second)) {
		b.Errorf("CreatedAt is %v, but it was created between %v and now", sb.CreatedAt, before)
	}
	b.listed(sb)
	agent := b.answers(sb)
	if status, err := agent.status(b.ctx); err != nil || status.KernelID != id {
		b.Errorf("the agent says %+v, %v; want the status of kernel %s", status, err, id)
	}
	if err := agent.withToken("wrong").get(b.ctx, "/v1/status", nil); err == nil {
		b.Error("the agent answers to a wrong token")
	}
	b.destroy(id)
	b.listed()
	if _, err := b.wait(id, b.h.patience(endTimeout)); !errors.Is(err, sandboxes.ErrNotFound) {
		b.Errorf("Wait after Destroy: %v, want ErrNotFound", err)
	}
	if err := agent.get(b.ctx, "/v1/status", nil); err == nil {
		b.Error("the agent answers after Destroy")
	}
	b.destroy(id)
}

func testInvalidIDs(b *bench) {
	spec := b.spec()
	for _, id := range []string{
		"", "-a", "A", "a/b", "../a", "..", "a.b", "a_b", "a b", "a\n", "a\x00", "ä", "a;id", "$(id)", strings.Repeat("a", 64),
	} {
		spec.ID = id
		if _, err := b.d.Create(b.ctx, spec); !errors.Is(err, sandboxes.ErrInvalid) {
			b.Errorf("Create with id %q: %v, want ErrInvalid", id, err)
		}
		if _, err := b.wait(id, b.h.patience(endTimeout)); !errors.Is(err, sandboxes.ErrNotFound) {
			b.Errorf("Wait for id %q: %v, want ErrNotFound", id, err)
		}
		if err := b.d.Destroy(b.ctx, id); err != nil {
			b.Errorf("Destroy of id %q, which cannot exist: %v", id, err)
		}
	}
	b.listed()
}

func testOddSpec(b *bench) {
	spec := b.spec()
	spec.Labels = map[string]string{
		"owner":        "https://issuer.example|user\n\"{{7*7}}\" $(id) `id`\t\u202e\U0001f40d",
		"empty":        "",
		"a/b.c-d_e":    "slashes, dots",
		"long":         strings.Repeat("x", 4096),
		"KERNELGW_X=1": "equals",
	}
	spec.Resources = sandboxes.Resources{CPUs: 1.5, MemoryBytes: 1 << 30, Processes: 200, DiskBytes: 512 << 20}
	sb := b.create(spec)
	if diff := cmp.Diff(spec, sb.Spec); diff != "" {
		b.Errorf("Create returned another spec than was asked for (-want +got):\n%s", diff)
	}
	sb.Spec = spec
	b.listed(sb)
	b.reopen()
	b.listed(sb)
}

func testDuplicate(b *bench) {
	sb, agent := b.start()
	again := b.spec()
	again.ID = sb.Spec.ID
	if _, err := b.d.Create(b.ctx, again); !errors.Is(err, sandboxes.ErrExists) {
		b.Errorf("Create with the id of a running sandbox: %v, want ErrExists", err)
	}
	if _, err := agent.status(b.ctx); err != nil {
		b.Errorf("the refused Create harmed the running sandbox: %v", err)
	}
	b.listed(sb)
	b.h.KillAgent(b.T, b.d, sb)
	exit := b.ended(sb.Spec.ID, b.h.patience(endTimeout))
	if _, err := b.d.Create(b.ctx, again); !errors.Is(err, sandboxes.ErrExists) {
		b.Errorf("Create with the id of an ended sandbox: %v, want ErrExists", err)
	}
	if got := b.ended(sb.Spec.ID, b.h.patience(endTimeout)); !got.At.Equal(exit.At) || got.Code != exit.Code {
		b.Errorf("the refused Create changed the end of the old sandbox from %+v to %+v", exit, got)
	}
}

func testRaceForOneID(b *bench) {
	spec := b.spec()
	const racers = 4
	var made [racers]sandboxes.Sandbox
	var errs [racers]error
	var wg sync.WaitGroup
	for i := range racers {
		wg.Go(func() { made[i], errs[i] = b.d.Create(b.ctx, spec) })
	}
	wg.Wait()
	var winners []sandboxes.Sandbox
	for i, err := range errs {
		switch {
		case err == nil:
			winners = append(winners, made[i])
		case !errors.Is(err, sandboxes.ErrExists):
			b.Errorf("a Create that lost the race: %v, want ErrExists", err)
		}
	}
	if len(winners) != 1 {
		b.Fatalf("%d of %d Creates of one id succeeded, want 1", len(winners), racers)
	}
	b.listed(winners...)
	b.answers(winners[0])
}

func testConcurrentCreates(b *bench) {
	specs := [2]sandboxes.Spec{b.spec(), b.spec()}
	var made [2]sandboxes.Sandbox
	var errs [2]error
	var wg sync.WaitGroup
	for i := range specs {
		wg.Go(func() { made[i], errs[i] = b.d.Create(b.ctx, specs[i]) })
	}
	wg.Wait()
	if err := errors.Join(errs[:]...); err != nil {
		b.Fatal(err)
	}
	b.listed(made[:]...)
	for i, sb := range made {
		if status, err := b.answers(sb).status(b.ctx); err != nil || status.KernelID != specs[i].ID {
			b.Errorf("agent %s says %+v, %v", specs[i].ID, status, err)
		}
	}
	b.destroy(specs[0].ID)
	b.listed(made[1])
	if _, err := b.answers(made[1]).status(b.ctx); err != nil {
		b.Errorf("destroying one sandbox harmed the other: %v", err)
	}
}

func testCancelledCreate(b *bench) {
	cancelled, cancel := context.WithCancel(b.ctx)
	cancel()
	spec := b.spec()
	if _, err := b.d.Create(cancelled, spec); !errors.Is(err, context.Canceled) {
		b.Errorf("Create with a cancelled context: %v, want context.Canceled", err)
	}
	b.listed()
	b.nothingLeft(spec.ID)

	// Wherever the end of the context finds Create, either the sandbox is
	// there in full, or nothing of it.
	usual := b.createTime()
	for range 8 {
		spec := b.spec()
		ctx, cancel := context.WithTimeout(b.ctx, rand.N(usual))
		sb, err := b.d.Create(ctx, spec)
		cancel()
		switch {
		case err == nil:
			b.answers(sb)
			b.destroy(spec.ID)
		case !errors.Is(err, context.DeadlineExceeded):
			b.Errorf("Create whose context ended: %v, want context.DeadlineExceeded", err)
		default:
			b.listed()
			b.nothingLeft(spec.ID)
		}
	}
}

func testUnknownSandbox(b *bench) {
	id := b.newID()
	if _, err := b.wait(id, b.h.patience(endTimeout)); !errors.Is(err, sandboxes.ErrNotFound) {
		b.Errorf("Wait for a sandbox that never was: %v, want ErrNotFound", err)
	}
	b.destroy(id)
}

func testCancelledWait(b *bench) {
	sb, agent := b.start()
	if exit, err := b.wait(sb.Spec.ID, 50*time.Millisecond); !errors.Is(err, context.DeadlineExceeded) {
		b.Errorf("Wait for a running sandbox: %+v, %v; want context.DeadlineExceeded", exit, err)
	}
	ctx, cancel := context.WithCancel(b.ctx)
	errs := make(chan error)
	go func() {
		_, err := b.d.Wait(ctx, sb.Spec.ID)
		errs <- err
	}()
	cancel()
	if err := <-errs; !errors.Is(err, context.Canceled) {
		b.Errorf("a cancelled Wait: %v, want context.Canceled", err)
	}
	if _, err := agent.status(b.ctx); err != nil {
		b.Errorf("the end of a Wait ended the sandbox: %v", err)
	}
}

func testAgentExits(b *bench) {
	sb, agent := b.start()
	if err := agent.post(b.ctx, "/v1/kernel/shutdown"); err != nil {
		b.Fatalf("cannot shut the kernel down: %v", err)
	}
	exit := b.ended(sb.Spec.ID, b.h.patience(endTimeout))
	if exit.Code != 0 {
		b.Errorf("an agent that exited by itself after a shutdown is reported as %+v, want code 0", exit)
	}
	b.staysEnded(sb, exit)
}

func testBrokenConfig(b *bench) {
	other, agent := b.start()
	spec := b.spec()
	spec.AgentConfig = []byte("{broken")
	sb := b.create(spec)
	exit := b.ended(spec.ID, b.h.StartTimeout)
	if exit.Code <= 0 {
		b.Errorf("an agent that cannot read its configuration is reported as %+v, want a code above 0", exit)
	}
	if _, err := agent.status(b.ctx); err != nil {
		b.Errorf("the other sandbox was harmed: %v", err)
	}
	b.listed(other, sb)
}

func testKilledAgent(b *bench) {
	sb, _ := b.start()
	type end struct {
		exit sandboxes.Exit
		err  error
	}
	ends := make(chan end)
	go func() {
		exit, err := b.d.Wait(b.ctx, sb.Spec.ID)
		ends <- end{exit, err}
	}()
	killed := time.Now()
	b.h.KillAgent(b.T, b.d, sb)
	got := <-ends
	if late, most := time.Since(killed), b.h.second(); late > most {
		b.Errorf("the end of a killed agent was seen after %v, want %v at most", late, most)
	}
	if got.err != nil || got.exit.Code != 137 {
		b.Errorf("the end of a killed agent is %+v, %v; want code 137", got.exit, got.err)
	}
	if got.exit.At.Before(killed.Add(-time.Second)) || got.exit.At.After(time.Now().Add(time.Second)) {
		b.Errorf("the agent was killed at %v, but Exit.At is %v", killed, got.exit.At)
	}
	b.staysEnded(sb, got.exit)
}

// staysEnded checks what must hold of a sandbox that has ended: Wait says the
// same again, to a new Driver too, List has it, and Destroy removes it.
func (b *bench) staysEnded(sb sandboxes.Sandbox, exit sandboxes.Exit) {
	b.Helper()
	for _, who := range []string{"the same Driver", "a new Driver"} {
		got := b.ended(sb.Spec.ID, b.h.patience(endTimeout))
		if got.Code != exit.Code || got.Reason != exit.Reason || !got.At.Equal(exit.At) {
			b.Errorf("Wait said %+v, then to %s %+v", exit, who, got)
		}
		b.listed(sb)
		b.reopen()
	}
	b.destroy(sb.Spec.ID)
	b.listed()
}

func testDestroyEndsWait(b *bench) {
	sb, _ := b.start()
	errs := make(chan error)
	ctx, cancel := context.WithTimeout(b.ctx, b.h.patience(endTimeout))
	defer cancel()
	go func() {
		_, err := b.d.Wait(ctx, sb.Spec.ID)
		errs <- err
	}()
	b.destroy(sb.Spec.ID)
	if err := <-errs; err != nil && !errors.Is(err, sandboxes.ErrNotFound) {
		b.Errorf("a Wait during Destroy: %v, want the end or ErrNotFound", err)
	}
}

func testConcurrentDestroys(b *bench) {
	sb, _ := b.start()
	var errs [3]error
	var wg sync.WaitGroup
	for i := range errs {
		wg.Go(func() { errs[i] = b.d.Destroy(b.ctx, sb.Spec.ID) })
	}
	wg.Wait()
	if err := errors.Join(errs[:]...); err != nil {
		b.Errorf("Destroy three times at once: %v", err)
	}
	b.nothingLeft(sb.Spec.ID)
	b.listed()
}

func testAdopt(b *bench) {
	running, agent := b.start()
	dead, _ := b.start()
	b.h.KillAgent(b.T, b.d, dead)
	b.ended(dead.Spec.ID, b.h.patience(endTimeout))

	b.reopen()
	b.listed(running, dead)
	if _, err := agent.status(b.ctx); err != nil {
		b.Fatalf("Close of a Driver ended its sandbox: %v", err)
	}
	if exit := b.ended(dead.Spec.ID, b.h.patience(endTimeout)); exit.Code != 137 {
		b.Errorf("the end of a killed agent, seen by a new Driver, is %+v, want code 137", exit)
	}
	again := b.spec()
	again.ID = running.Spec.ID
	if _, err := b.d.Create(b.ctx, again); !errors.Is(err, sandboxes.ErrExists) {
		b.Errorf("Create with the id of an adopted sandbox: %v, want ErrExists", err)
	}
	b.h.KillAgent(b.T, b.d, running)
	if exit := b.ended(running.Spec.ID, b.h.patience(endTimeout)); exit.Code != 137 {
		b.Errorf("the end of an adopted sandbox is %+v, want code 137", exit)
	}
	b.destroy(running.Spec.ID)
	b.destroy(dead.Spec.ID)
	b.listed()
}
