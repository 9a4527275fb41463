package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"kernelgw/jupyter"
	"kernelgw/jupyter/zmq"
)

// generation is one kernel process and the connection to it. The hub outlives
// it.
type generation struct {
	// set at construction
	hub     *hub
	log     *slog.Logger
	proc    *process
	nudge   []byte // header session of the agent's own requests that clients never see
	cancel  context.CancelFunc
	byMsg   bool          // interrupts travel as messages
	linked  chan struct{} // closed when the connection is over; linkErr is set
	ready   chan struct{} // closed when the kernel has answered
	linkErr error

	conn     atomic.Pointer[zmq.Client] // nil until dialled
	answered atomic.Bool                // a reply to a nudge came
	heard    atomic.Bool                // something came on iopub
	once     sync.Once                  // closes ready
	asked    atomic.Pointer[wish]       // a client's last shutdown_request; nil when there was none
	worked   atomic.Bool                // it has answered an execute request
	exceeded atomic.Pointer[string]     // the limit that it was killed for
	kills    atomic.Int64               // memoryKills, killEarlier or longer ago
	readyAt  time.Time                  // valid when ready is closed
}

// wish is a shutdown_request of a client.
type wish struct {
	restart bool
	at      time.Time
}

// wishLifetime is how long any end of a kernel is taken for obedience to a
// wish. After that only an orderly exit is, as of a kernel that finished its
// cell first.
const wishLifetime = 30 * time.Second

// wished returns what a client asked for, when that explains the end of the
// process at that time, nil when it does not.
func (g *generation) wished(end time.Time, exitCode int) *wish {
	w := g.asked.Load()
	if w == nil || exitCode != 0 && end.Sub(w.at) > wishLifetime {
		return nil
	}
	return w
}

// startGeneration starts a kernel process and begins to connect to it.
func startGeneration(o *Options, h *hub, reaper *reaper) (*generation, error) {
	proc, err := startProcess(o, reaper)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	g := &generation{
		hub:    h,
		log:    o.Log,
		proc:   proc,
		nudge:  []byte(jupyter.NewID()),
		cancel: cancel,
		byMsg:  o.Config.Spec.InterruptMode == "message",
		linked: make(chan struct{}),
		ready:  make(chan struct{}),
	}
	g.kills.Store(memoryKills())
	go func() {
		defer close(g.linked)
		g.linkErr = g.link(ctx)
	}()
	return g, nil
}

// link connects to the kernel and takes its messages until ctx ends, the
// process has exited and said everything, or the kernel breaks the protocol.
func (g *generation) link(ctx context.Context) error {
	dialCtx, stop := context.WithCancel(ctx)
	defer stop()
	go func() { // a process that is gone will bind nothing
		select {
		case <-g.proc.exited:
			stop()
		case <-dialCtx.Done():
		}
	}()
	conn, err := zmq.Dial(dialCtx, g.proc.info, zmq.Options{MaxMessageBytes: g.hub.maxMessage, TooLarge: g.hub.tooLarge})
	stop()
	if err != nil {
		return err
	}
	g.conn.Store(conn)
	nudging := make(chan struct{})
	nudgeCtx, stopNudging := context.WithCancel(ctx)
	go func() {
		defer close(nudging)
		g.nudgeUntilReady(nudgeCtx)
	}()
	err = conn.Run(ctx, g.handle)
	stopNudging()
	<-nudging
	return err
}

func (g *generation) handle(m *jupyter.Message) {
	ours := g.hub.fromKernel(m, g.nudge)
	select {
	case <-g.ready:
	default:
		g.maybeReady(m, ours)
	}
	if !ours && m.Channel == jupyter.Shell && !g.worked.Load() && isType(m, `"execute_reply"`) {
		g.worked.Store(true)
	}
}

func (g *generation) maybeReady(m *jupyter.Message, ours bool) {
	if m.Channel == jupyter.IOPub {
		g.heard.Store(true)
	} else if ours {
		g.answered.Store(true)
	}
	if g.answered.Load() && g.heard.Load() {
		g.once.Do(func() {
			g.readyAt = time.Now()
			g.hub.track.answered()
			g.hub.inbound.open(g.hub, g)
			g.hub.executions.kernelReady()
			close(g.ready)
		})
	}
}

// nudgeUntilReady asks for kernel_info until an answer and something on iopub
// came: then the kernel listens, and the subscription is live.
func (g *generation) nudgeUntilReady(ctx context.Context) {
	tick := time.NewTicker(nudgeEvery)
	defer tick.Stop()
	for {
		m, err := jupyter.NewMessage(jupyter.Shell, "kernel_info_request", string(g.nudge), nil)
		if err == nil {
			err = g.conn.Load().Send(m)
		}
		if err != nil && !errors.Is(err, zmq.ErrBacklog) {
			return // the connection is over, which its Run says
		}
		select {
		case <-ctx.Done():
			return
		case <-g.ready:
			return
		case <-tick.C:
		}
	}
}

// Send takes a client's message to the kernel. It is called for one at a time.
func (g *generation) Send(m *jupyter.Message) error {
	if m.Channel != jupyter.Control || !isType(m, `"shutdown_request"`) {
		return g.conn.Load().Send(m)
	}
	// Before the kernel has it: it may be gone faster than this goroutine.
	before := g.asked.Swap(&wish{string(jupyter.PeekRaw(m.Content, "restart")) == "true", time.Now()})
	err := g.conn.Load().Send(m)
	if err != nil {
		g.asked.Store(before)
	}
	return err
}

// interrupt interrupts the kernel in the way its kernelspec says.
func (g *generation) interrupt() error {
	if !g.byMsg {
		if err := g.proc.signal(unix.SIGINT); err != nil {
			return fmt.Errorf("cannot interrupt the kernel: %w", err)
		}
		return nil
	}
	if err := g.request("interrupt_request", nil); err != nil {
		return fmt.Errorf("cannot interrupt the kernel: %w", err)
	}
	return nil
}

// request sends a request of the agent's own on control.
func (g *generation) request(msgType string, content any) error {
	conn := g.conn.Load()
	if conn == nil {
		return errors.New("it is not connected yet")
	}
	m, err := jupyter.NewMessage(jupyter.Control, msgType, jupyter.NewID(), content)
	if err != nil {
		return err
	}
	return conn.Send(m)
}

// isReady reports whether the kernel has ever answered.
func (g *generation) isReady() bool {
	select {
	case <-g.ready:
		return true
	default:
		return false
	}
}

// stop ends the process: politely by shutdown_request if restart or end is to
// be said, then by SIGTERM, then SIGKILL to all processes of the kernel. It
// returns when the process is gone and its last messages are taken.
func (g *generation) stop(procs procs, restart bool) {
	polite := politeExit
	if g.request("shutdown_request", map[string]bool{"restart": restart}) != nil {
		polite = 0
	}
	if !g.exits(polite) {
		_ = g.proc.signal(unix.SIGTERM) // gone is what is wanted
		g.exits(termExit)
	}
	g.end(procs)
}

// end kills what is left of the kernel and waits for its last messages.
func (g *generation) end(procs procs) {
	for !procs.kill(g.proc.identity, 10*time.Second) {
		g.log.Error("cannot kill all processes of the kernel; trying again")
	}
	<-g.proc.exited
	select {
	case <-g.linked:
	case <-time.After(lastWords): // a socket that a child inherited stays open
	}
	g.cancel()
	<-g.linked
}

// exits waits for the process to exit by itself.
func (g *generation) exits(patience time.Duration) bool {
	select {
	case <-g.proc.exited:
		return true
	case <-time.After(patience):
		return false
	}
}
