package sandboxtest

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"kernelgw/jupyter"
	"kernelgw/sandboxes"
	"kernelgw/sandboxes/agentapi"
)

// flooded are the limits of a sandbox that is flooded, which the agent knows too,
// as the gateway tells it.
var flooded = sandboxes.Resources{MemoryBytes: 384 << 20, Processes: 40, DiskBytes: 64 << 20, OpenFiles: 400}

// flood is a cell that takes all that it can get of something.
type flood struct {
	name, cell string
	// reasons are those for which it may be ended, any of them. None: it ends by
	// itself, printing "done", and leaves a kernel that works.
	reasons []string
	// full says that the user has to be told that a disk is full. The cell ends
	// when it is interrupted, which it is when they were.
	full bool
}

const floodTime = time.Second

// diskIsFull is what the user has to see of a full disk.
const diskIsFull = "the disk is full"

// floods returns those that a driver is held to.
func floods(caps sandboxes.Capabilities) []flood {
	list := []flood{
		{name: "CPU", cell: `
import os, time
end = time.time() + seconds
children = []
for _ in range(min(2 * os.cpu_count() + 2, 30)): # not too many processes
    pid = os.fork()
    if pid == 0:
        while time.time() < end:
            sum(range(10000))
        os._exit(0)
    children.append(pid)
for pid in children:
    os.waitpid(pid, 0)
print("done")
`},
		{name: "Descriptors", cell: `
import os, time
def take():
    held = []
    try:
        while len(held) < 3000:
            held += os.pipe()
    except OSError:
        pass
    return held
children = []
for _ in range(8):
    pid = os.fork()
    if pid == 0:
        take()
        time.sleep(seconds)
        os._exit(0)
    children.append(pid)
held = take()
time.sleep(seconds)
for fd in held:
    os.close(fd)
for pid in children:
    os.waitpid(pid, 0)
print("done")
`},
		{name: "Inodes", cell: `
import os, shutil, tempfile, time
end = time.time() + seconds
at = tempfile.mkdtemp(dir=os.path.expanduser("~"))
made = 0
try:
    while time.time() < end and made < 20000:
        os.mkdir(f"{at}/{made}")
        open(f"{at}/{made}/f", "w").close()
        made += 1
except OSError:
    pass
shutil.rmtree(at)
print("done", made)
`},
		{name: "Output", cell: `
import subprocess, sys, threading, time
from IPython.display import display
end = time.time() + seconds
noise = subprocess.Popen("while :; do echo to the log; done", shell=True)
while time.time() < end:
    print("x" * 1000)
    print("y" * 1000, file=sys.stderr)
    display("z" * 1000)
noise.kill()
noise.wait()
print("\ndone")
`},
	}
	if caps.DiskLimit {
		list = append(list, flood{name: "Disk", full: true, cell: `
import os, signal, time
told = []
signal.signal(signal.SIGINT, lambda *_: told.append(True))
path = os.path.expanduser("~/full")
said, filled = "no end", 0
with open(path, "wb", buffering=0) as f:
    try:
        while filled < 1 << 30:
            filled += f.write(bytes(1 << 20))
    except OSError as e:
        said = e.strerror
end = time.time() + 30 * seconds
while not told and time.time() < end:
    time.sleep(.01)
os.remove(path)
print(said)
print("done")
`})
	}
	bomb := flood{name: "Processes", reasons: []string{"killed: process limit 40", "killed: memory limit 384 MiB"}, cell: `
import os, time
while True:
    try:
        os.fork()
    except OSError:
        time.sleep(.01)
`}
	if !caps.ProcessLimit { // then only the agent stands between it and the host
		bomb.cell = `
import os, time
for _ in range(400):
    if os.fork() == 0:
        time.sleep(30)
        os._exit(0)
time.sleep(30)
`
	}
	return append(list, bomb, flood{name: "Memory", reasons: []string{"killed: memory limit 384 MiB"}, cell: `
held = [b"x" * (32 << 20) for _ in range(160)]
`})
}

// testFloods: through whatever a cell takes all of, the agent answers within the
// time that answers.late allows; what ends for it ends with a reason that is told
// within that time; and the sandbox works afterwards, or another.
func testFloods(b *bench) {
	ctx, cancel := context.WithTimeout(b.T.Context(), b.h.patience(6*time.Minute))
	defer cancel()
	b.ctx = ctx // as long as all of them take on a busy host
	_, idle := b.start()
	v := b.flooded()
	for _, f := range floods(b.d.Capabilities()) {
		fine := b.Run(f.name, func(t *testing.T) {
			inner := *b
			inner.T = t
			v.bench = &inner
			v.endure(f, idle)
		})
		if v.over || !fine { // what one flood broke is not the next one's fault
			v = b.flooded()
		}
	}
}

// victim is a sandbox with a kernel that has started.
type victim struct {
	*bench
	id    string
	agent *client
	over  bool // the sandbox has ended
}

// flooded makes a sandbox with the limits of that name.
func (b *bench) flooded() *victim {
	b.Helper()
	spec := b.spec()
	spec.Resources = flooded
	var config agentapi.Config
	if err := json.Unmarshal(spec.AgentConfig, &config); err != nil {
		b.Fatal(err)
	}
	config.MemoryBytes, config.Processes = flooded.MemoryBytes, flooded.Processes
	var err error
	if spec.AgentConfig, err = json.Marshal(config); err != nil {
		b.Fatal(err)
	}
	v := &victim{b, spec.ID, b.answers(b.create(spec)), false}
	b.cell(v.agent, "pass")
	return v
}

// endure runs a flood.
func (v *victim) endure(f flood, idle *client) {
	v.Helper()
	ctx, cancel := context.WithTimeout(v.ctx, v.h.StartTimeout)
	defer cancel()
	var exit sandboxes.Exit
	var seen time.Time
	var out string
	var failed error
	var wg sync.WaitGroup
	wg.Go(func() {
		var err error
		if exit, err = v.d.Wait(ctx, v.id); err == nil {
			seen, v.over = time.Now(), true
			cancel() // connections into it may hang
		}
	})
	wg.Go(func() {
		defer v.settled(cancel)
		out, failed = v.agent.executeWatched(ctx, fmt.Sprintf("seconds = %v\n%s", floodTime.Seconds(), f.cell), func(printed string) {
			if f.full && strings.Contains(printed, diskIsFull) {
				_ = v.agent.post(ctx, "/v1/kernel/interrupt") // without it the cell says that it was not told
			}
		})
	})
	a := v.probe(ctx, v.agent, idle)
	wg.Wait()
	v.Logf("%d answers, the slowest after %v, of an idle sandbox after %v; a second is %v", a.count, a.slowest.Round(time.Millisecond), a.idle.Round(time.Millisecond), a.second)
	if a.late(a.slowest) {
		v.Errorf("the agent answered after %v, that of an idle sandbox meanwhile after %v", a.slowest, a.idle)
	}
	if f.reasons == nil {
		if failed != nil || !strings.Contains(out, "done") || v.over || a.failed != nil {
			v.Errorf("the cell printed %.1000q, %v; the sandbox ended: %+v; the agent: %v", out, failed, exit, a.failed)
		}
		if f.full && (!strings.Contains(out, "No space left on device") || !strings.Contains(out, diskIsFull)) {
			v.Errorf("of a full disk the user sees %.1000q", out)
		}
		return
	}
	if !v.over {
		err := v.revive(out, f.reasons)
		if err == nil {
			return
		}
		// The driver may have ended the sandbox just after the agent ended the kernel.
		if exit, seen, v.over = v.end(); !v.over {
			v.Error(err)
			return
		}
	}
	if !slices.Contains(f.reasons, exit.Reason) || exit.Code != 137 {
		v.Errorf("the sandbox ended with %+v, want one of %q", exit, f.reasons)
	}
	if late := seen.Sub(exit.At); a.late(late) {
		v.Errorf("the end was told %v after it", late)
	}
}

// revive checks what is told of a kernel that was ended, where its cell printed
// out, and starts it again.
func (v *victim) revive(out string, reasons []string) error {
	s, err := v.agent.status(v.ctx)
	if err != nil {
		return err
	}
	if s.ExecutionState != jupyter.Dead || !slices.Contains(reasons, s.Reason) {
		return fmt.Errorf("the kernel ended with %+v, want one of %q", s, reasons)
	}
	if !strings.Contains(out, s.Reason) {
		return fmt.Errorf("the user sees %.1000q where the cell's output is, without the reason %q", out, s.Reason)
	}
	if err := v.agent.post(v.ctx, "/v1/kernel/restart"); err != nil {
		return fmt.Errorf("the kernel cannot be started again: %w", err)
	}
	ctx, cancel := context.WithTimeout(v.ctx, v.h.StartTimeout)
	defer cancel()
	if out, err := v.agent.execute(ctx, "print(6 * 7)"); err != nil || out != "42\n" {
		return fmt.Errorf("the kernel that was started again printed %q, %w", out, err)
	}
	return nil
}

// end waits a while for the end of the sandbox.
func (v *victim) end() (exit sandboxes.Exit, seen time.Time, over bool) {
	exit, err := v.wait(v.id, v.h.patience(5*time.Second))
	return exit, time.Now(), err == nil
}

// settled calls cancel when the agent answers, or else after a while: when a
// connection into the sandbox broke, that was its end, which is about to be told.
func (v *victim) settled(cancel func()) {
	defer cancel()
	ctx, stop := context.WithTimeout(v.ctx, v.h.patience(5*time.Second))
	defer stop()
	if _, err := v.agent.status(ctx); err != nil {
		_, _, _ = v.end()
	}
}
