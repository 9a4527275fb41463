package agent

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"time"

	"github.com/gorilla/websocket"

	"kernelgw/jupyter"
	"kernelgw/jupyter/zmq"
)

// supervisor starts and ends kernel processes. All of it runs on one goroutine
// and one thread.
type supervisor struct {
	*Agent
	gen        *generation // nil when the kernel is dead
	restarts   int         // by itself, in a row
	collisions int         // starts in a row that met a taken port
}

// supervise runs the kernel until it is shut down or ctx ends. When it returns
// no process of the kernel is left and a.over is closed.
func (a *Agent) supervise(ctx context.Context) {
	// The kernel is told to die with the thread that started it.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if a.opts.User != nil {
		yield()
	}
	s := &supervisor{Agent: a}
	for more := s.awaitFiles(ctx); more; {
		more = s.step(ctx)
	}
	a.sealOutput() // before the last status is told
	close(a.over)
}

// step handles one event and reports whether there may be more.
func (s *supervisor) step(ctx context.Context) bool {
	var exited, unlinked <-chan struct{}
	if s.gen != nil {
		exited, unlinked = s.gen.proc.exited, s.gen.linked
	}
	select {
	case <-ctx.Done():
		s.terminate()
		return false
	case c := <-s.commands:
		switch c.kind {
		case restartKernel:
			c.done <- s.restart()
		case shutDown:
			s.terminate()
			c.done <- nil
			return false
		}
	case <-exited:
		return s.exited(s.gen.proc.reason(s.gen.isReady()))
	case <-unlinked:
		return s.unlinked()
	}
	return true
}

// start starts a process. If that fails the kernel is dead: it would fail
// again.
func (s *supervisor) start() error {
	// Only now nothing of the process before can change the state any more.
	reason := s.hub.track.currentReason()
	s.hub.inbound.wait(func(waiting []string) { s.hub.track.starting(reason, waiting) })
	s.killing.Lock()
	gen, err := startGeneration(&s.opts, s.hub, s.reaper)
	s.killing.Unlock()
	if err != nil {
		s.opts.Log.Error("cannot start the kernel", "kernel", s.opts.Config.KernelID, "error", err.Error())
		s.die(err.Error())
		return err
	}
	s.gen = gen
	s.current.Store(gen)
	s.hub.track.started()
	s.opts.Log.Info("kernel started", "kernel", s.opts.Config.KernelID, "pid", gen.proc.pid)
	return nil
}

// gone forgets the process after its end.
func (s *supervisor) gone() {
	s.gen.end(s.procs)
	stats := zmq.Stats{}
	if conn := s.gen.conn.Load(); conn != nil {
		stats = conn.Stats()
	}
	s.opts.Log.Info("kernel process ended", "kernel", s.opts.Config.KernelID, "pid", s.gen.proc.pid,
		"reason", s.gen.proc.reason(true), "unsigned", stats.Unsigned, "malformed", stats.Malformed)
	s.current.Store(nil)
	s.gen = nil
	s.hub.caps.flush()
	s.hub.cellsBroken()
}

// exited decides what follows the end of a process that nobody here asked for.
func (s *supervisor) exited(reason string) bool {
	gen := s.gen
	if limit := gen.exceeded.Load(); limit != nil {
		s.exceeded(*limit)
		return true
	}
	if reason := gen.outOfMemory(s.opts.Config.MemoryBytes); reason != "" {
		s.exceeded(reason)
		return true
	}
	s.hub.inbound.wait(func(waiting []string) { s.hub.track.starting(reason, waiting) })
	asked := gen.wished(time.Now(), gen.proc.state.ExitCode())
	taken := !gen.isReady() && s.gen.proc.said.contains("address already in use")
	s.gone()
	switch {
	case asked != nil && !asked.restart:
		s.farewell("")
		return false
	case taken && s.collisions < portCollisions:
		s.collisions++
		s.hub.inbound.wait(func(waiting []string) { s.hub.track.starting("", waiting) })
		s.start()
		return true
	case gen.isReady() && (gen.worked.Load() || time.Since(gen.readyAt) >= livedLong):
		s.restarts = 0
	}
	s.collisions = 0
	if asked == nil {
		s.restarts++
	}
	if s.restarts > maxRestarts {
		s.die(fmt.Sprintf("%s, after %d restarts in a row", reason, maxRestarts))
		return true
	}
	s.hub.executions.broken("the kernel died: " + reason)
	s.hub.publishStatus(jupyter.Restarting)
	// They would wait for an answer that does not come: nothing else tells
	// these clients (contract, sections 9 and 14).
	s.hub.closeSockets(websocket.CloseServiceRestart, "the kernel died and is restarted: "+reason, isAnonymous)
	s.start()
	return true
}

// unlinked handles a kernel whose sockets are gone: either its process follows,
// or it cannot be spoken to and must end.
func (s *supervisor) unlinked() bool {
	if !errors.Is(s.gen.linkErr, zmq.ErrProtocol) && s.gen.exits(politeExit) {
		return s.exited(s.gen.proc.reason(s.gen.isReady()))
	}
	s.opts.Log.Warn("ending a kernel that cannot be spoken to", "kernel", s.opts.Config.KernelID, "error", s.gen.linkErr.Error())
	s.procs.kill(s.gen.proc.identity, politeExit)
	<-s.gen.proc.exited
	return s.exited("killed: " + s.gen.linkErr.Error())
}

// restart is what a user asks for.
func (s *supervisor) restart() error {
	s.hub.inbound.wait(func(waiting []string) { s.hub.track.starting("", waiting) })
	if s.gen != nil {
		s.gen.stop(s.procs, true)
		s.gone()
		s.hub.executions.broken("the kernel was restarted")
	}
	s.restarts, s.collisions = 0, 0
	s.hub.track.clearReason()
	return s.start()
}

// exceeded buries a kernel that was killed for a limit. It stays dead until a
// user restarts it: it would do the same again.
func (s *supervisor) exceeded(reason string) {
	s.hub.inbound.refuse()
	cell := s.hub.track.deadlyCell()
	s.gone()
	s.hub.publishError(reason, cell)
	s.die(reason)
}

// die makes the kernel dead and says so.
func (s *supervisor) die(reason string) {
	s.hub.inbound.refuse()
	s.hub.executions.broken("the kernel died: " + reason)
	s.hub.track.died(reason)
	s.hub.publishStatus(jupyter.Dead)
	s.hub.closeSockets(websocket.CloseNormalClosure, "the kernel is dead: "+reason, isAnonymous)
}

// terminate ends the kernel for good.
func (s *supervisor) terminate() {
	s.hub.inbound.refuse()
	if s.gen != nil {
		s.gen.stop(s.procs, false)
		s.gone()
	}
	s.farewell("")
}

// farewell says that the kernel is gone, to all.
func (s *supervisor) farewell(reason string) {
	s.hub.inbound.refuse()
	s.hub.executions.broken("the kernel was shut down")
	s.hub.track.died(reason)
	s.hub.publishStatus(jupyter.Dead)
	s.hub.closeSockets(websocket.CloseNormalClosure, "the kernel was shut down", anySocket)
}
