package statedir_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"kernelgw/sandboxes/statedir"
)

// gatewayEnv names the state directory of a process that plays a gateway.
const gatewayEnv = "KERNELGW_STATEDIR_GATEWAY"

func TestMain(m *testing.M) {
	if path := os.Getenv(gatewayEnv); path != "" {
		playGateway(path)
	}
	goleak.VerifyTestMain(m)
}

// playGateway makes and removes sandboxes without end. What a sandbox has outside
// its directory is a file beside the state directory.
func playGateway(path string) {
	d, err := statedir.Open(path, optionsBeside(path))
	for i := 0; err == nil; i++ {
		id := fmt.Sprintf("s%d", i)
		err = d.Create(context.Background(), id, func() error {
			return errors.Join(os.WriteFile(beside(path, id), nil, 0o600), d.Put(sandbox(id)))
		})
		if i == 0 {
			fmt.Println("at work")
		}
		if err == nil && i%2 == 0 {
			err = d.Destroy(context.Background(), id)
		}
	}
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}

func beside(path, id string) string { return filepath.Join(filepath.Dir(path), "of-"+id) }

func optionsBeside(path string) statedir.Options {
	return statedir.Options{
		Remove:   func(_ context.Context, id string) error { return os.RemoveAll(beside(path, id)) },
		Deadline: time.Minute,
		Log:      slog.New(slog.DiscardHandler),
	}
}

// A gateway is killed at any moment; the next one finds sandboxes that can be
// used, or destroyed, and nothing else.
func TestAKilledGatewayLeavesWholeSandboxesOrNone(t *testing.T) {
	for range 10 {
		path := filepath.Join(t.TempDir(), "state")
		gateway := exec.Command("/proc/self/exe")
		gateway.Env = append(os.Environ(), gatewayEnv+"="+path)
		var said strings.Builder
		gateway.Stderr = &said
		out, err := gateway.StdoutPipe()
		if err == nil {
			err = gateway.Start()
		}
		if err != nil {
			t.Fatal(err)
		}
		if _, err := bufio.NewReader(out).ReadString('\n'); err != nil {
			t.Errorf("the gateway said nothing: %v", err)
		}
		time.Sleep(time.Duration(rand.IntN(20_000)) * time.Microsecond) // the moment
		_ = gateway.Process.Kill()
		_ = gateway.Wait()
		if said.Len() > 0 {
			t.Fatalf("the gateway failed: %s", said.String())
		}

		d, err := statedir.Open(path, optionsBeside(path))
		if err == nil {
			err = d.Sweep(t.Context())
		}
		if err != nil {
			t.Fatal(err)
		}
		var has []string
		for _, id := range ids(t, d) {
			has = append(has, id)
			if sb, err := d.Get(id); err != nil || sb.Spec.Labels["a"] != "b" {
				t.Errorf("half a record: %+v, %v", sb, err)
			}
			// Those of even numbers are being removed.
			_, err := os.Stat(beside(path, id))
			if err != nil && (id[len(id)-1]-'0')%2 == 1 {
				t.Errorf("sandbox %s is there, and not what it has: %v", id, err)
			}
		}
		slices.Sort(has)
		if got := files(t, path); !slices.Equal(got, has) {
			t.Errorf("in the state directory: %v, want %v", got, has)
		}
		for _, id := range has {
			if err := d.Destroy(t.Context(), id); err != nil {
				t.Error(err)
			}
		}
		if got := files(t, filepath.Dir(path)); !slices.Equal(got, []string{"state"}) {
			t.Errorf("left of no sandbox: %v", got)
		}
	}
}

// lateChild is a child of a gateway that was killed while it started it: it has the
// gateway's lock of a directory for a moment longer.
func lateChild(t *testing.T, dir string) {
	t.Helper()
	lock, err := os.Open(dir)
	if err == nil {
		err = unix.Flock(int(lock.Fd()), unix.LOCK_EX)
	}
	if err != nil {
		t.Fatal(err)
	}
	child := exec.Command("sleep", "0.3")
	child.ExtraFiles = []*os.File{lock}
	if err := errors.Join(child.Start(), lock.Close()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = child.Wait() })
}

func TestASweepWaitsForWhatAKilledGatewayLetsGoOfLate(t *testing.T) {
	path := t.TempDir()
	d, removed := open(t, path)
	if err := os.Mkdir(d.Path("half"), 0o700); err != nil {
		t.Fatal(err)
	}
	lateChild(t, d.Path("half"))
	lateChild(t, path)
	if err := d.Sweep(t.Context()); err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(removed.ids, []string{"half"}) || d.Taken("half") {
		t.Errorf("removed: %v", removed.ids)
	}
}

// Another process is making one sandbox and removing another, and does not come
// to an end soon.
func TestASweepLeavesAloneWhatIsBeingMade(t *testing.T) {
	path := t.TempDir()
	d, removed := open(t, path)
	create(t, d, "whole")
	swept := make(chan error, 1)
	err := d.Create(t.Context(), "slow", func() error {
		other, _ := open(t, path)
		if err := other.Sweep(t.Context()); err != nil {
			return err
		}
		go func() { swept <- other.Sweep(t.Context()) }()
		return d.Put(sandbox("slow"))
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := <-swept; err != nil {
		t.Fatal(err)
	}
	if got := ids(t, d); len(got) != 2 || len(removed.ids) > 0 {
		t.Errorf("left: %v, removed: %v", got, removed.ids)
	}
}

func TestNobodyBeginsWhileOthersAreExcluded(t *testing.T) {
	d, _ := open(t, t.TempDir())
	all, err := d.Exclude(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := d.Create(ctx, "a", nil); !errors.Is(err, context.DeadlineExceeded) || d.Taken("a") {
		t.Errorf("created: %v", err)
	}
	if err := all.Close(); err != nil {
		t.Fatal(err)
	}
	// Those who begin do not exclude each other.
	var begun sync.WaitGroup
	begun.Add(2)
	done := make(chan error, 2)
	for _, id := range []string{"a", "b"} {
		go func() {
			done <- d.Create(t.Context(), id, func() error {
				begun.Done()
				begun.Wait()
				return d.Put(sandbox(id))
			})
		}()
	}
	if err := errors.Join(<-done, <-done); err != nil {
		t.Fatal(err)
	}
}

func TestSweepSaysWhatItCannotRemove(t *testing.T) {
	path := t.TempDir()
	var log strings.Builder
	d, err := statedir.Open(path, statedir.Options{
		Remove: func(context.Context, string) error { return errors.New("it resists") }, Deadline: time.Minute,
		Log: slog.New(slog.NewTextHandler(&log, nil)),
	})
	if err == nil {
		err = errors.Join(os.Mkdir(d.Path("half"), 0o700), d.Sweep(t.Context()))
	}
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(log.String(), "it resists") || !d.Taken("half") {
		t.Errorf("log: %s", log.String())
	}
}
