package agent

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/gorilla/websocket"
	"golang.org/x/sys/unix"

	"kernelgw/jupyter"
	"kernelgw/sandboxes/agent/terminal"
	"kernelgw/sandboxes/agentapi"
)

// maxTerminalRequest bounds the body of a request for a terminal.
const maxTerminalRequest = 16 << 10

// hangUp is how long the processes of a terminal may take to leave after SIGHUP.
const hangUp = time.Second

// filesPatience is how long the first shell waits for the workspace's files.
const filesPatience = 5 * time.Second

// terminals is what an agent without a kernel keeps instead.
type terminals struct {
	*terminal.Set
	agent       *Agent
	conversions *conversions
	starts      chan func() // run on the thread that all shells are started from
	files       sync.Once   // done when they were waited for
}

func newTerminals(a *Agent) *terminals {
	t := &terminals{agent: a, starts: make(chan func())}
	t.conversions = newConversions(t)
	t.Set = terminal.NewSet(terminal.Options{
		Shell: t.shell, Start: t.start, Changed: a.news.changed, Log: a.opts.Log,
		Max: a.opts.Config.MaxTerminals, Idle: a.opts.Config.TerminalIdle,
	})
	return t
}

// keep is what supervise is to a kernel: it starts shells until the agent is
// shut down or ctx ends. When it returns no process of a terminal is left.
func (t *terminals) keep(ctx context.Context) {
	// Shells are told to die with the thread that started them.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	defer close(t.agent.over)
	idle := time.NewTicker(time.Minute)
	defer idle.Stop()
	var ending sync.WaitGroup // none of this may wait for a shell that is being started
	defer ending.Wait()
	for {
		select {
		case <-ctx.Done():
			t.end()
			return
		case start := <-t.starts:
			start()
		case now := <-idle.C:
			ending.Go(func() { t.EndIdle(now) })
		case c := <-t.agent.commands:
			if c.kind != shutDown {
				c.done <- errNoKernel
				continue
			}
			t.end()
			c.done <- nil
			return
		}
	}
}

var errNoKernel = errors.New("the sandbox has no kernel")

// end ends all terminals, and then what left them.
func (t *terminals) end() {
	closed := make(chan struct{})
	go func() {
		defer close(closed)
		t.conversions.close()
		t.Close()
	}()
	for { // a shell may be about to be started
		select {
		case start := <-t.starts:
			start()
			continue
		case <-closed:
		}
		break
	}
	for !t.agent.procs.kill(nobody, 10*time.Second) {
		t.agent.opts.Log.Error("cannot kill all processes of the terminals; trying again")
	}
}

// shell describes the shell of a new terminal. It is no login shell: that would
// take the image's PATH away.
func (t *terminals) shell(cwd string) (*exec.Cmd, error) {
	t.files.Do(t.awaitFiles)
	o := &t.agent.opts
	program := shellProgram(os.Getenv("SHELL"))
	cmd := &exec.Cmd{
		Path: program, Args: []string{program}, Dir: kernelDir(o.Home, cwd),
		Env:         t.env(map[string]string{"TERM": "xterm-256color", "SHELL": program}),
		SysProcAttr: &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL},
	}
	if o.User != nil {
		cmd.SysProcAttr.Credential = &syscall.Credential{Uid: o.User.UID, Gid: o.User.GID, Groups: []uint32{}}
	}
	return cmd, nil
}

// env is the environment of what runs here, with more.
func (t *terminals) env(more map[string]string) []string {
	o := &t.agent.opts
	return slices.DeleteFunc(kernelEnv(os.Environ(), more, o.Config.Env, o), func(entry string) bool {
		return strings.HasPrefix(entry, "KERNELGW_KERNEL_ID=")
	})
}

// awaitFiles waits for the files that are to be there when the first shell
// starts, its directory among them.
func (t *terminals) awaitFiles() {
	files := t.agent.files
	if files == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), filesPatience)
	defer cancel()
	if err := files.WaitPulled(ctx); err != nil {
		t.agent.opts.Log.Warn("a terminal starts without its files", "error", err.Error())
	}
	files.KernelStarted()
}

// shellProgram is the first program of those that one might want that exists.
func shellProgram(wanted string) string {
	const last = "/bin/sh"
	for _, program := range []string{wanted, "/bin/bash", last} {
		if info, err := os.Stat(program); err == nil && strings.HasPrefix(program, "/") && info.Mode().IsRegular() && info.Mode()&0o111 != 0 {
			return program
		}
	}
	return last
}

// start starts a shell.
func (t *terminals) start(cmd *exec.Cmd) (terminal.Process, error) {
	s := &shell{cmd: cmd, agent: t.agent, exited: make(chan struct{})}
	var err error
	if s.identity, err = t.begin(cmd); err != nil {
		return nil, err
	}
	return s, nil
}

// begin starts a process that dies with the agent. The caller waits for it, and
// then tells the reaper.
func (t *terminals) begin(cmd *exec.Cmd) (id identity, err error) {
	started := make(chan struct{})
	begin := func() {
		defer close(started)
		err = t.agent.reaper.start(func() (int, error) {
			if err := cmd.Start(); err != nil {
				return 0, err
			}
			id = identify(cmd.Process.Pid)
			return cmd.Process.Pid, nil
		})
	}
	select {
	case t.starts <- begin:
		<-started
		return id, err
	case <-t.agent.over:
		return id, errOver
	}
}

// shell is the first process of a terminal.
type shell struct {
	identity
	cmd    *exec.Cmd
	agent  *Agent
	exited chan struct{} // closed when it is gone and collected
	hasty  atomic.Bool   // it is killed for a limit: there is no time to hang up
}

// Wait implements terminal.Process.
func (s *shell) Wait() (how string) {
	_ = s.cmd.Wait() // its error is the state
	s.agent.reaper.collected(s.pid)
	close(s.exited)
	return s.cmd.ProcessState.String()
}

// own finds the processes of this terminal only: other terminals are the same
// user's, and below the agent, too.
func (s *shell) own() procs { return procs{} }

// End implements terminal.Process. A shell saves its history, and an editor
// what was not saved, when the terminal hangs up.
func (s *shell) End() {
	if !s.hasty.Load() {
		for _, p := range s.own().list(s.identity) {
			_ = unix.Kill(p.pid, unix.SIGHUP) // gone is what is wanted
			_ = unix.Kill(p.pid, unix.SIGCONT)
		}
		select {
		case <-s.exited:
		case <-time.After(hangUp):
		}
	}
	for !s.own().kill(s.identity, 10*time.Second) {
		s.agent.opts.Log.Error("cannot kill all processes of a terminal; trying again")
	}
	<-s.exited
}

// exceeded ends the conversion or the terminal that takes most of what is over a
// limit, where all are the processes of all of them. When there is none that does,
// all that left them is ended with them.
func (t *terminals) exceeded(reason string, all []procStat) {
	whole, most := usageOf(all), t.agent.opts.Config.Processes
	tooMany := most > 0 && whole.processes > most
	takesMost := func(first identity) bool {
		own := usageOf(procs{}.choose(all, os.Getpid(), first))
		return tooMany && own.processes > whole.processes/2 || !tooMany && own.memory > whole.memory/2
	}
	if t.conversions.end(reason, takesMost) {
		return
	}
	guilty, everyone := t.Processes(), true
	for name, p := range guilty {
		if takesMost(p.(*shell).identity) {
			guilty, everyone = map[string]terminal.Process{name: p}, false
			break
		}
	}
	var ending sync.WaitGroup
	for name, p := range guilty {
		p.(*shell).hasty.Store(true)
		ending.Go(func() { _ = t.End(name, reason) }) // gone is what is wanted
	}
	if everyone {
		t.conversions.end(reason, func(identity) bool { return true })
		t.agent.procs.kill(nobody, time.Second)
	}
	ending.Wait()
}

// status is the agent's, of terminals.
func (t *terminals) status() agentapi.Status {
	n, last := t.Count()
	s := agentapi.Status{
		KernelID: t.agent.opts.Config.KernelID, ExecutionState: jupyter.Idle, Ready: true,
		LastActivity: last.UTC(), Terminals: n, Starts: 1,
	}
	select {
	case <-t.agent.over:
		s.ExecutionState, s.Ready = jupyter.Dead, false
	default:
	}
	return s
}

// The routes of an agent without a kernel.

func (a *Agent) getTerminals(w http.ResponseWriter, _ *http.Request) {
	list := []agentapi.Terminal{}
	for _, t := range a.terminals.List() {
		list = append(list, terminalModel(t))
	}
	answer(w, list)
}

func (a *Agent) postTerminals(w http.ResponseWriter, r *http.Request) {
	var asked agentapi.TerminalRequest
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxTerminalRequest))
	if err == nil {
		err = json.Unmarshal(body, &asked)
	}
	switch {
	case err != nil:
		fail(w, http.StatusBadRequest, "the body is not a TerminalRequest")
		return
	case asked.Name != "" && !agentapi.ValidTerminalName(asked.Name):
		fail(w, http.StatusBadRequest, "a terminal's name has letters, digits and underscores, at most 64")
		return
	case strings.Contains(asked.Cwd, "\x00"):
		fail(w, http.StatusBadRequest, "cwd is no path")
		return
	}
	t, err := a.terminals.Start(terminal.Request{Name: asked.Name, Cwd: asked.Cwd})
	switch {
	case errors.Is(err, terminal.ErrTooMany):
		fail(w, http.StatusTooManyRequests, err.Error())
	case errors.Is(err, terminal.ErrClosed), errors.Is(err, errOver):
		fail(w, http.StatusGone, "the sandbox is ending")
	case err != nil:
		a.opts.Log.Error("cannot start a terminal", "error", err.Error())
		fail(w, http.StatusInternalServerError, err.Error())
	default:
		answer(w, terminalModel(t))
	}
}

func (a *Agent) getTerminal(w http.ResponseWriter, r *http.Request) {
	t, err := a.terminals.Get(r.PathValue("name"))
	if err != nil {
		fail(w, http.StatusNotFound, err.Error())
		return
	}
	answer(w, terminalModel(t))
}

func (a *Agent) deleteTerminal(w http.ResponseWriter, r *http.Request) {
	if err := a.terminals.End(r.PathValue("name"), ""); err != nil {
		fail(w, http.StatusNotFound, err.Error())
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

func (a *Agent) getTerminalSocket(w http.ResponseWriter, r *http.Request) {
	name := r.PathValue("name")
	if _, err := a.terminals.Get(name); err != nil {
		fail(w, http.StatusNotFound, err.Error())
		return
	}
	ws, err := terminalUpgrader.Upgrade(w, r, nil)
	if err != nil {
		return // the upgrader has answered
	}
	a.terminals.Serve(name, ws)
}

var terminalUpgrader = websocket.Upgrader{
	ReadBufferSize:  4 << 10,
	WriteBufferSize: 4 << 10,
	WriteBufferPool: &sync.Pool{},
	CheckOrigin:     upgrader.CheckOrigin,
	Error:           upgrader.Error,
}

func terminalModel(t terminal.Info) agentapi.Terminal {
	return agentapi.Terminal{Name: t.Name, LastActivity: t.LastActivity.UTC()}
}
