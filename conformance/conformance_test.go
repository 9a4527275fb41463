// Package conformance holds a Jupyter server against what stock clients need,
// from outside: over HTTP and WebSocket only, importing none of our packages.
// The same checks run against kernelgw and a stock jupyter_server, both
// started by the suite; a check that the stock server fails is an extension of
// ours, and must keep failing there to stay marked so.
//
// With BASE_URL and TOKEN in the environment the checks run against that
// server instead of a kernelgw started here.
package conformance

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"regexp"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"kernelgw/conformance/probe"
	"kernelgw/conformance/servers"
)

// target is a server under test.
type target struct {
	*probe.Server
	stock bool
	// deathWithin is how soon the death of a kernel must be told, on a busy machine.
	deathWithin time.Duration
	// process is nil for a server that was not started here.
	process *servers.Process
	shared  func() (string, error)
}

var (
	kernelgw = sync.OnceValues(func() (*target, error) {
		if base := os.Getenv("BASE_URL"); base != "" {
			s := &probe.Server{Base: strings.TrimSuffix(base, "/") + "/", Token: os.Getenv("TOKEN")}
			return newTarget(s, nil, false), nil
		}
		p, err := servers.Kernelgw(context.Background(), servers.Options{})
		if err != nil {
			return nil, err
		}
		return newTarget(&p.Server, p, false), nil
	})
	stock = sync.OnceValues(func() (*target, error) {
		p, err := servers.Stock(context.Background())
		if err != nil {
			return nil, err
		}
		return newTarget(&p.Server, p, true), nil
	})
	stockLab = sync.OnceValues(func() (*target, error) {
		p, err := servers.Lab(context.Background(), nil)
		if err != nil {
			return nil, err
		}
		return newTarget(&p.Server, p, true), nil
	})
	started []*servers.Process
)

// newTarget returns a server that is closed when all checks are done.
func newTarget(s *probe.Server, p *servers.Process, isStock bool) *target {
	if p != nil {
		started = append(started, p)
	}
	return newOwned(s, p, isStock)
}

// newOwned returns a server that its user closes.
func newOwned(s *probe.Server, p *servers.Process, isStock bool) *target {
	tg := &target{Server: s, process: p, stock: isStock, deathWithin: 20 * time.Second}
	if isStock {
		tg.deathWithin = 30 * time.Second // it looks every 3 s
	}
	tg.shared = sync.OnceValues(func() (string, error) { return s.CreateKernel() })
	return tg
}

// sharedKernel is a kernel that lives as long as the server, for checks that
// leave no trace in it.
func (tg *target) sharedKernel(t testing.TB) string {
	t.Helper()
	id, err := tg.shared()
	if err != nil {
		t.Fatalf("cannot start the shared kernel: %v", err)
	}
	return id
}

func TestMain(m *testing.M) {
	flag.Parse()
	// Checks wait more than they compute.
	if err := flag.Set("test.parallel", "5"); err != nil {
		panic(err)
	}
	code := m.Run()
	for _, p := range started {
		if err := p.Close(); err != nil {
			fmt.Fprintln(os.Stderr, "FAIL: closing", p.Base, err)
			code = 1
		}
	}
	os.Exit(code)
}

// check is one thing that a Jupyter server must do.
type check struct {
	name      string
	extension *extension // nil for what stock servers do too
	lab       bool       // of JupyterLab's pages: the stock server is one with JupyterLab
	alone     bool       // it looks at the whole server, or would hold up others: it gets one of its own
	storage   bool       // nothing of it depends on the driver: it runs with one only
	run       func(t testing.TB, s *target)
}

// extension marks a check that a stock jupyter_server fails. The check runs
// there all the same, and has to fail in the way that the mark tells.
type extension struct {
	because string // what users of the stock server live with
	fails   string // regular expression that the failure matches
	// fatal says that the check leaves a stock server unusable: it gets one of
	// its own there.
	fatal bool
	// atTimes says that the stock server fails by a race that it also wins:
	// it is held to nothing.
	atTimes bool
}

func allChecks() []check {
	var all []check
	for _, some := range [][]check{
		serverChecks, specChecks, kernelChecks, sessionChecks, authChecks, originChecks,
		vscodeChecks, encodingChecks, socketChecks, replayChecks, outputChecks, deathChecks, sizeChecks,
		contentsChecks, changeChecks, checkpointChecks, pathChecks, fileChecks,
		terminalChecks, eventChecks, nbconvertChecks, pageChecks, settingChecks, layoutChecks, treeChecks,
		historyChecks, conditionChecks, largeChecks, executeChecks,
	} {
		all = append(all, some...)
	}
	return all
}

func TestKernelgw(t *testing.T) {
	s, err := kernelgw()
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range allChecks() {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			if c.storage && servers.Driver() != "process" {
				t.Skip("it runs with the driver process: nothing of it depends on the driver")
			}
			if c.alone && s.process != nil {
				c.run(t, own(t, servers.Options{}))
				return
			}
			c.run(t, s)
		})
	}
}

func TestStock(t *testing.T) {
	for _, c := range allChecks() {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			if c.alone || c.extension != nil && c.extension.fatal {
				p, err := servers.Stock(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() {
					if err := errors.Join(p.Kill(), p.Sweep()); err != nil {
						t.Error(err)
					}
				})
				c.atStock(t, newOwned(&p.Server, p, true))
				return
			}
			start := stock
			if c.lab {
				start = stockLab
			}
			shared, err := start()
			if err != nil {
				t.Fatal(err)
			}
			c.atStock(t, shared)
		})
	}
}

// atStock runs a check at a stock server, which has to fail it if it is marked.
func (c check) atStock(t *testing.T, s *target) {
	t.Helper()
	if c.extension != nil {
		mustFail(t, c, s)
		return
	}
	c.run(t, s)
}

// mustFail keeps the mark of an extension honest. Some of what stock servers
// lose they lose by a race, so they get three tries to fail.
func mustFail(t *testing.T, c check, s *target) {
	t.Helper()
	for range 3 {
		failure := failureOf(t, func(t testing.TB) { c.run(t, s) })
		if failure == "" {
			continue
		}
		if !regexp.MustCompile(c.extension.fails).MatchString(failure) {
			t.Fatalf("the stock server fails, but not with %q: %s", c.extension.fails, failure)
		}
		t.Logf("extension: %s. The stock server: %.300s", c.extension.because, failure)
		return
	}
	if c.extension.atTimes {
		t.Logf("extension: %s, at times. The stock server: passed three times", c.extension.because)
		return
	}
	t.Errorf("the stock server passes: the mark %q is out of date", c.extension.because)
}

// recorder is a testing.TB whose failures are noted and harm nobody.
type recorder struct {
	testing.TB
	mu       sync.Mutex
	failure  string
	cleanups []func()
}

// failureOf runs a check and returns its first failure, "" for none.
func failureOf(t testing.TB, run func(testing.TB)) string {
	r := &recorder{TB: t}
	done := make(chan struct{})
	go func() { // Fatal ends the goroutine that it is called in
		defer close(done)
		run(r)
	}()
	<-done
	for i := len(r.cleanups) - 1; i >= 0; i-- {
		r.cleanups[i]()
	}
	return r.failure
}

func (r *recorder) note(s string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.failure == "" {
		r.failure = strings.TrimSpace(s)
	}
}

func (r *recorder) Error(args ...any)                 { r.note(fmt.Sprintln(args...)) }
func (r *recorder) Errorf(format string, args ...any) { r.note(fmt.Sprintf(format, args...)) }
func (r *recorder) Fatal(args ...any)                 { r.Error(args...); runtime.Goexit() }
func (r *recorder) Fatalf(format string, args ...any) { r.Errorf(format, args...); runtime.Goexit() }
func (r *recorder) FailNow()                          { r.note("failed"); runtime.Goexit() }
func (r *recorder) Fail()                             { r.note("failed") }
func (r *recorder) Failed() bool                      { return r.failure != "" }
func (r *recorder) Cleanup(f func())                  { r.cleanups = append(r.cleanups, f) }
