package netpolicy

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"syscall"
	"testing"

	"github.com/vishvananda/netns"

	"kernelgw/sandboxes"
)

// actEnv tells a child process of the tests what to play, as JSON.
const actEnv = "KERNELGW_NETPOLICY_ACT"

// act is what a child process plays.
type act struct {
	Gateway *gatewayAct `json:",omitempty"`
	Attempt *attemptAct `json:",omitempty"`
}

// gatewayAct is a gateway that dies.
type gatewayAct struct {
	StateDir string
	Ready    int
	DieAt    int // the step, counted from 1; 0 means to go on for ever
}

// attemptAct is code in a sandbox that tries things: of attempts those whose
// index it reads, a line each; -1 is floodProxy.
type attemptAct struct {
	Scene [6]string
}

func play(text string) {
	var a act
	if err := json.Unmarshal([]byte(text), &a); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	switch {
	case a.Gateway != nil:
		a.Gateway.play()
	case a.Attempt != nil:
		a.Attempt.play()
	}
}

// play opens, acquires, changes and releases, over and over.
func (a gatewayAct) play() {
	host, err := netns.Get()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	steps := 0
	step := func(string) {
		if steps++; steps == a.DieAt {
			_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
			select {}
		}
	}
	fail := func(err error) {
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
	n, err := open(Options{StateDir: a.StateDir, Ready: a.Ready, Log: slog.New(slog.DiscardHandler)}, host, step)
	fail(err)
	ctx := context.Background()
	for i := 0; ; i++ {
		one, other := fmt.Sprintf("one-%d-%d", os.Getpid(), i), fmt.Sprintf("other-%d-%d", os.Getpid(), i)
		_, err := n.Acquire(ctx, one, sandboxes.NetworkPolicy{})
		fail(err)
		_, err = n.Acquire(ctx, other, sandboxes.NetworkPolicy{})
		fail(err)
		fail(n.SetPolicy(ctx, one, sandboxes.NetworkPolicy{Egress: sandboxes.EgressNone}))
		fail(n.Release(ctx, one))
		if i > 0 && a.DieAt > 0 {
			for _, s := range n.List() {
				fail(n.Release(ctx, s.ID))
			}
			fail(n.Close())
			os.Exit(77) // it has survived all steps
		}
	}
}

// play answers each line with what it was told, quoted: nothing when it believes
// that it got through.
func (a attemptAct) play() {
	s, err := a.scene()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	for index := 0; ; {
		if _, err := fmt.Scanln(&index); err != nil {
			os.Exit(0)
		}
		try := floodProxy
		if index >= 0 {
			try = attempts[index].try
		}
		said := ""
		if err := try(context.Background(), s); err != nil {
			said = err.Error()
		}
		fmt.Printf("%q\n", said)
	}
}

// scene is the reverse of newAttempt.
func (a attemptAct) scene() (s scene, err error) {
	for i, to := range []interface{ UnmarshalText([]byte) error }{&s.self, &s.gateway, &s.proxy, &s.other, &s.host, &s.beside} {
		if err := to.UnmarshalText([]byte(a.Scene[i])); err != nil {
			return scene{}, err
		}
	}
	return s, nil
}

func newAttempt(s scene) *attemptAct {
	return &attemptAct{[6]string{
		s.self.String(), s.gateway.String(), s.proxy.String(), s.other.String(), s.host.String(), s.beside.String(),
	}}
}

// startActor starts a child process that is in a network namespace.
func startActor(t testing.TB, ns netns.NsHandle, a act) (*exec.Cmd, *bytes.Buffer) {
	t.Helper()
	var output bytes.Buffer
	cmd := newActor(t, a)
	cmd.Stdout, cmd.Stderr = &output, &output
	if err := inside(ns, cmd.Start); err != nil { // a child is where the thread is that makes it
		t.Fatal(err)
	}
	return cmd, &output
}

func newActor(t testing.TB, a act) *exec.Cmd {
	t.Helper()
	text, err := json.Marshal(a)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), actEnv+"="+string(text))
	return cmd
}

func fdPath(ns netns.NsHandle) string { return fmt.Sprintf("/proc/self/fd/%d", int(ns)) }
