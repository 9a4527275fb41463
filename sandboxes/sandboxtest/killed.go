package sandboxtest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"kernelgw/sandboxes"
)

// childEnv tells a child process of the test, as JSON, what to do before it
// is killed.
const childEnv = "KERNELGW_SANDBOXTEST_CHILD"

// childOrder is what a child process plays: a gateway that dies.
type childOrder struct {
	StateDir string
	Spec     sandboxes.Spec
	// KillAfter is when the child kills itself, counted from the call of
	// Create; negative means after Create has returned.
	KillAfter time.Duration
}

// obey plays the gateway that dies, in the child process.
func (h Harness) obey(t *testing.T, text string) {
	var o childOrder
	if err := json.Unmarshal([]byte(text), &o); err != nil {
		t.Fatalf("%s: %v", childEnv, err)
	}
	die := func() {
		_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
		select {}
	}
	d := h.New(t, o.StateDir)
	if o.KillAfter >= 0 {
		time.AfterFunc(o.KillAfter, die)
	}
	sb, err := d.Create(context.Background(), o.Spec)
	if err != nil {
		fmt.Printf("\nfailed %v\n", err)
	} else {
		line, _ := json.Marshal(sb)
		fmt.Printf("\ncreated %s\n", line)
	}
	die()
}

// runChild runs a child to its violent death and returns the sandbox that it
// made, if it lived to see that.
func (b *bench) runChild(o childOrder) (sandboxes.Sandbox, bool) {
	b.Helper()
	if err := b.d.Close(); err != nil { // a host has one gateway
		b.Errorf("Close: %v", err)
	}
	order, err := json.Marshal(o)
	if err != nil {
		b.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		b.Fatal(err)
	}
	top, _, _ := strings.Cut(b.Name(), "/")
	cmd := exec.CommandContext(b.ctx, self, "-test.run=^"+regexp.QuoteMeta(top)+"$", "-test.timeout="+b.h.patience(2*time.Minute).String())
	tmp, err := os.MkdirTemp("", "sbx-child")
	if err != nil {
		b.Fatal(err)
	}
	defer os.RemoveAll(tmp) // the child cannot clean up after itself
	// TMPDIR: what the child's harness makes there goes with it.
	cmd.Env = append(os.Environ(), childEnv+"="+string(order), "TMPDIR="+tmp)
	// Files, not pipes: a sandbox that inherited a pipe would keep Run waiting.
	out, err := os.Create(filepath.Join(tmp, "output"))
	if err != nil {
		b.Fatal(err)
	}
	defer out.Close()
	cmd.Stdout, cmd.Stderr = out, out
	var exit *exec.ExitError
	err = cmd.Run()
	output, _ := os.ReadFile(out.Name())
	if !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
		b.Fatalf("the child was not killed as planned: %v\n%s", err, output)
	}
	for line := range bytes.Lines(output) {
		if rest, ok := bytes.CutPrefix(line, []byte("created ")); ok {
			var sb sandboxes.Sandbox
			if err := json.Unmarshal(rest, &sb); err != nil {
				b.Fatalf("child printed %q: %v", rest, err)
			}
			return sb, true
		}
		if bytes.HasPrefix(line, []byte("failed ")) {
			b.Errorf("Create in the child %s", line)
		}
	}
	return sandboxes.Sandbox{}, false
}

func testKilledDriver(b *bench) {
	spec := b.spec()
	sb, ok := b.runChild(childOrder{StateDir: b.dir, Spec: spec, KillAfter: -1})
	if !ok {
		b.Fatal("the child did not create its sandbox")
	}
	b.reopen()
	b.listed(sb)
	b.answers(sb)
	if exit, err := b.wait(spec.ID, 50*time.Millisecond); !errors.Is(err, context.DeadlineExceeded) {
		b.Errorf("Wait for an adopted running sandbox: %+v, %v; want context.DeadlineExceeded", exit, err)
	}
	b.h.KillAgent(b.T, b.d, sb)
	killed := time.Now()
	if exit := b.ended(spec.ID, b.h.patience(endTimeout)); exit.Code != 137 || time.Since(killed) > b.h.second() {
		b.Errorf("the end of an adopted sandbox is %+v, seen after %v; want code 137 within %v", exit, time.Since(killed), b.h.second())
	}
	b.destroy(spec.ID)
	b.listed()
}

// testKilledDuringCreate kills the gateway at random points of Create. A new
// Driver may find the sandbox or not, but what it finds it can destroy, and
// what it does not find is not there.
func testKilledDuringCreate(b *bench) {
	usual := b.createTime()
	for range 6 {
		spec := b.spec()
		b.runChild(childOrder{StateDir: b.dir, Spec: spec, KillAfter: rand.N(usual)})
		b.reopen()
		list, err := b.d.List(b.ctx)
		if err != nil {
			b.Fatalf("List after the death of a gateway: %v", err)
		}
		for _, sb := range list {
			if sb.Spec.ID != spec.ID {
				b.Errorf("List has %s, which nobody made", sb.Spec.ID)
			}
			// Running or ended, but known: that is what the gateway decides on.
			if exit, err := b.wait(sb.Spec.ID, 10*time.Millisecond); err != nil && !errors.Is(err, context.DeadlineExceeded) {
				b.Errorf("Wait for what a dead gateway left: %+v, %v", exit, err)
			}
		}
		b.destroy(spec.ID)
		b.listed()
	}
}
