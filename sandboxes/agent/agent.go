package agent

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"kernelgw/sandboxes/agent/filesync"
	"kernelgw/sandboxes/agentapi"
)

// Agent runs one kernel, or terminals. Make one with New, and call Run once.
type Agent struct {
	// set at construction
	opts     Options
	hub      *hub
	procs    procs
	reaper   *reaper
	commands chan command
	news     *news
	over     chan struct{} // closed when the kernel is gone for good

	terminals *terminals // nil when there is a kernel

	files *filesync.Syncer // set by Run before it serves; nil when the home is the sandbox's own
	saved chan struct{}    // closed when the kernel is gone, and its files and output are saved

	notices chan string // for the user, about files and disks

	collecting sync.Mutex   // held while outputs are collected: once at a time
	watched    atomic.Int64 // unix nanoseconds: when somebody was last told a status by a watch

	sealing chan struct{} // of capacity 1, full while a part of output is made because somebody asked
	sealed  time.Time     // who fills sealing may use it: when that began

	killing sync.Mutex                 // held while a kernel is started, or killed by another than the supervisor
	current atomic.Pointer[generation] // nil when there is no process; stored by the supervisor
}

// command asks the supervisor to do something.
type command struct {
	kind commandKind
	done chan error // capacity 1
}

type commandKind int

const (
	restartKernel commandKind = iota
	shutDown
)

// New checks the options. It starts nothing.
func New(o Options) (*Agent, error) {
	o, err := o.withDefaults()
	if err != nil {
		return nil, fmt.Errorf("cannot start the agent: %w", err)
	}
	news := newNews()
	a := &Agent{
		opts:     o,
		hub:      newHub(&o, news.changed),
		procs:    procs{ownsDescendants: o.OwnsDescendants, user: o.User},
		reaper:   newReaper(),
		commands: make(chan command),
		news:     news,
		over:     make(chan struct{}),
		saved:    make(chan struct{}),
		notices:  make(chan string, maxNotices),
		sealing:  make(chan struct{}, 1),
	}
	a.hub.executions.interrupt = a.interrupt
	if !o.Config.HasKernel() {
		a.terminals = newTerminals(a)
	}
	return a, nil
}

// Run starts the kernel and serves the API until the kernel was shut down, or
// ctx ends, which shuts it down too. All processes of the kernel are gone when
// it returns. The error is that of serving.
func (a *Agent) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if err := a.openFiles(); err != nil {
		a.opts.Listener.Close()
		return err
	}
	syncing, stopSyncing := context.WithCancel(context.WithoutCancel(ctx))
	defer stopSyncing()
	var helpers sync.WaitGroup
	if a.files != nil {
		helpers.Go(func() { a.files.Run(syncing) })
	}
	if a.hub.output != nil {
		helpers.Go(func() { a.keepOutput(syncing) })
	}
	if a.terminals == nil {
		helpers.Go(func() { a.watchDisk(ctx) })
		helpers.Go(func() { a.showNotices(syncing) })
	}
	helpers.Go(func() { a.tick(ctx) })
	helpers.Go(func() { a.watchLimits(ctx) })
	if a.opts.OwnsDescendants {
		helpers.Go(func() { a.reaper.run(ctx) })
	}
	server := a.server()
	served := make(chan error, 1)
	go func() { served <- server.Serve(a.opts.Listener) }()

	var supervisor sync.WaitGroup
	supervised, stop := context.WithCancel(ctx)
	defer stop()
	supervisor.Go(func() {
		if a.terminals != nil {
			if a.files != nil {
				a.files.KernelStarted()
			}
			a.terminals.keep(supervised)
			return
		}
		a.supervise(supervised)
	})

	var err error
	select {
	case err = <-served: // nobody can reach the kernel any more
		stop()
	case <-a.over:
	}
	supervisor.Wait()
	var saving sync.WaitGroup
	saving.Go(a.saveOutput)
	saving.Go(a.saveFiles)
	saving.Wait()
	close(a.saved)
	a.hub.waitForSockets(drainTime + closeTime)
	a.hub.cutSockets()
	a.hub.waitForSockets(closeTime)
	down, stopWaiting := context.WithTimeout(context.WithoutCancel(ctx), closeTime)
	defer stopWaiting()
	if server.Shutdown(down) != nil {
		server.Close()
	}
	cancel()
	stopSyncing()
	helpers.Wait()
	if a.opts.OwnsDescendants {
		a.reaper.drain(closeTime)
	}
	if err == nil {
		err = <-served
	}
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return fmt.Errorf("cannot serve the agent's API: %w", err)
}

func (a *Agent) tick(ctx context.Context) {
	tick := time.NewTicker(5 * time.Second)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-tick.C:
			a.hub.tick(now)
		}
	}
}

// do has the supervisor do something and waits for it, or for ctx.
func (a *Agent) do(ctx context.Context, kind commandKind) error {
	c := command{kind: kind, done: make(chan error, 1)}
	select {
	case a.commands <- c:
	case <-a.over:
		return errOver
	case <-ctx.Done():
		return ctx.Err()
	}
	select {
	case err := <-c.done:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

var (
	errOver   = errors.New("the kernel was shut down")
	errAbsent = errors.New("the kernel is dead")
)

// interrupt does not wait for the supervisor, which may be stopping a kernel.
func (a *Agent) interrupt() error {
	g := a.current.Load()
	if g == nil {
		return fmt.Errorf("cannot interrupt the kernel: %w; restart it", errAbsent)
	}
	return g.interrupt()
}

// Status returns the state of the kernel.
func (a *Agent) Status() agentapi.Status {
	if a.terminals != nil {
		return a.terminals.status()
	}
	h := a.hub
	s := agentapi.Status{
		KernelID:    a.opts.Config.KernelID,
		Connections: len(*h.sockets.Load()),
		Replayed:    h.replayed.Load(),
		Dropped:     h.dropped.Load(),
		Unsaved:     h.unsavedCount(time.Now()),
	}
	if h.output != nil {
		s.LogParts = h.output.Parts()
	}
	h.track.describe(&s)
	s.Executions += h.executions.waiting()
	return s
}

// Usage returns what the kernel uses.
func (a *Agent) Usage() agentapi.Usage {
	u := usage{}
	if g := a.current.Load(); g != nil {
		u = a.procs.usage(g.proc.identity)
	} else if a.terminals != nil {
		u = a.procs.usage(nobody)
	}
	return agentapi.Usage{
		CPUSeconds:  (u.cpu + collectedCPU()).Seconds(),
		MemoryBytes: u.memory,
		Processes:   u.processes,
		LogBytes:    a.hub.events.Stats().Bytes,
	}
}
