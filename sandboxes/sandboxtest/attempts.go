package sandboxtest

import (
	"context"
	_ "embed"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"kernelgw/sandboxes/agentapi"
)

// attemptsScript is what code inside tries, each attempt by name.
//
//go:embed attempts.py
var attemptsScript string

// runAttempts runs attemptsScript as a program of its own: it changes its process,
// and must not be the kernel that reports.
const runAttempts = `
import base64, subprocess, sys
r = subprocess.run([sys.executable, "-c", base64.b64decode(%q)], capture_output=True, text=True, timeout=90)
print(r.stdout + r.stderr)
`

// fewestAttempts is what a run of the whole script has more than.
const fewestAttempts = 120

// ofTheGuest are those attempts that only the kernel of a virtual machine answers
// for, which no other sandbox shares, where nothing filters what is asked of it.
var ofTheGuest = []string{"io_uring", "add a key", "ask for a key", "keys of the host"}

// testAttempts: what code tries to get out of its sandbox, to its agent or to
// privileges, is refused. The kernel is also asked to start in a directory that
// another process has open.
func testAttempts(b *bench) {
	if !b.d.Capabilities().ProcessLimit {
		b.Skipf("driver %s holds code to nothing, and says so: what the user of the gateway can do, a cell can", b.d.Name())
	}
	spec := b.spec()
	var config agentapi.Config
	if err := json.Unmarshal(spec.AgentConfig, &config); err != nil {
		b.Fatal(err)
	}
	config.Cwd = "/proc/self/fd/7"
	var err error
	if spec.AgentConfig, err = json.Marshal(config); err != nil {
		b.Fatal(err)
	}
	agent := b.answers(b.create(spec))
	ctx, cancel := context.WithTimeout(b.ctx, b.h.StartTimeout+b.h.patience(time.Minute))
	defer cancel()
	out, err := agent.execute(ctx, fmt.Sprintf(runAttempts, base64.StdEncoding.EncodeToString([]byte(attemptsScript))))
	if err != nil {
		b.Fatalf("the attempts were not made: %v\n%s", err, out)
	}
	tried, told := 0, ""
	for line := range strings.Lines(out) {
		var result struct {
			name, said string
			refused    bool
		}
		if err := json.Unmarshal([]byte(line), &[]any{&result.name, &result.refused, &result.said}); err != nil {
			continue // told below
		}
		if result.name == "" {
			told = result.said
			continue
		}
		tried++
		b.Run(result.name, func(t *testing.T) {
			if !result.refused && b.h.GuestKernel && slices.Contains(ofTheGuest, result.name) {
				t.Logf("the machine's own kernel gave it: %s", result.said)
				return
			}
			if !result.refused {
				t.Errorf("it got through: %s", result.said)
			}
			t.Logf("it was told: %s", result.said)
		})
	}
	if tried < fewestAttempts || told != strconv.Itoa(tried) {
		b.Errorf("%d attempts were made, of %s:\n%s", tried, told, out)
	}
	if _, err := agent.status(b.ctx); err != nil {
		b.Errorf("the agent does not answer after the attempts: %v", err)
	}
}
