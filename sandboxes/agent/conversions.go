package agent

import (
	"context"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"kernelgw/sandboxes/agentapi"
)

//go:embed convert.py
var convertScript string

// Each conversion may need much memory, which is the terminals', too.
const (
	maxConversions = 2  // that run at once
	maxWaiting     = 20 // that wait for their turn
)

// conversions runs nbconvert, as the kernel's user, for a bounded time. Which
// files it reads and what a notebook makes it do stays in the sandbox.
type conversions struct {
	terminals *terminals
	patience  time.Duration // of one that waits, and of one that runs
	slots     chan struct{} // one taken for each that runs
	asked     atomic.Int32  // that wait or run

	mu      sync.Mutex
	closed  bool                                 // guarded by mu
	running map[identity]context.CancelCauseFunc // guarded by mu
	all     sync.WaitGroup
}

func newConversions(t *terminals) *conversions {
	return &conversions{
		terminals: t, slots: make(chan struct{}, maxConversions), patience: agentapi.ConvertPatience,
		running: map[identity]context.CancelCauseFunc{},
	}
}

var (
	errNoPython = errors.New("there is no python3")
	errTooLong  = errors.New("it took too long")
	errTooMany  = errors.New("too many notebooks are being converted")
)

// enter waits for the turn of a conversion, which ends with leave. errTooMany
// when others are before it for long, or the error of ctx.
func (c *conversions) enter(ctx context.Context) (leave func(), err error) {
	if c.asked.Add(1) > maxConversions+maxWaiting {
		c.asked.Add(-1)
		return nil, errTooMany
	}
	ctx, stop := context.WithTimeoutCause(ctx, c.patience, errTooMany)
	defer stop()
	select {
	case c.slots <- struct{}{}:
		return func() { <-c.slots; c.asked.Add(-1) }, nil
	case <-ctx.Done():
		c.asked.Add(-1)
		return nil, context.Cause(ctx)
	}
}

// conversion is what the script is told; the zero value asks what can be made.
type conversion struct {
	agentapi.ConvertRequest
	MaxBytes int64 `json:"max_bytes"`
}

// run runs the script with a request and returns what it wrote, to be closed.
// errNoPython, errOver, the error of ctx, or the reason why it failed.
func (c *conversions) run(ctx context.Context, request *conversion, dir string, input *os.File) (output *os.File, err error) {
	argument := "{}"
	if request != nil {
		b, err := json.Marshal(request)
		if err != nil {
			return nil, err
		}
		argument = string(b)
	}
	if output, err = unnamedFile(c.terminals.agent.opts.RuntimeDir); err != nil {
		return nil, err
	}
	if err := c.execute(ctx, argument, dir, input, output); err != nil {
		output.Close()
		return nil, err
	}
	if _, err := output.Seek(0, 0); err != nil {
		output.Close()
		return nil, err
	}
	return output, nil
}

// execute runs the script and returns when none of its processes is left.
func (c *conversions) execute(ctx context.Context, argument, dir string, input, output *os.File) error {
	ctx, stop := context.WithTimeoutCause(ctx, c.patience, errTooLong)
	defer stop()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	c.mu.Lock()
	if c.closed {
		c.mu.Unlock()
		return errOver
	}
	c.all.Add(1)
	c.mu.Unlock()
	defer c.all.Done()

	said := &tail{}
	cmd, err := c.command(argument, dir, said)
	if err != nil {
		return err
	}
	if input != nil {
		cmd.Stdin = input
	}
	cmd.Stdout = output
	id, err := c.terminals.begin(cmd)
	if err != nil {
		return err
	}
	c.mu.Lock()
	c.running[id] = cancel
	if c.closed {
		cancel(errOver)
	}
	c.mu.Unlock()
	exited := make(chan struct{})
	go func() {
		defer close(exited)
		_ = cmd.Wait() // its error is the state
		c.terminals.agent.reaper.collected(id.pid)
	}()
	select {
	case <-exited:
	case <-ctx.Done():
	}
	for !(procs{}).kill(id, 10*time.Second) {
		c.terminals.agent.opts.Log.Error("cannot kill all processes of a conversion; trying again")
	}
	<-exited
	c.mu.Lock()
	delete(c.running, id)
	c.mu.Unlock()
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case !cmd.ProcessState.Success():
		return fmt.Errorf("nbconvert ended: %s: %s", cmd.ProcessState, said.lastLine())
	}
	return nil
}

// command describes the script's process.
func (c *conversions) command(argument, dir string, said *tail) (*exec.Cmd, error) {
	o := &c.terminals.agent.opts
	env := c.terminals.env(nil)
	program, err := lookProgram("python3", env)
	if err != nil {
		return nil, errNoPython
	}
	cmd := &exec.Cmd{
		Path: program, Args: []string{program, "-c", convertScript, argument}, Env: env, Dir: kernelDir(o.Home, dir), Stderr: said,
		WaitDelay:   100 * time.Millisecond, // a child may hold the pipe for ever
		SysProcAttr: &syscall.SysProcAttr{Setsid: true, Pdeathsig: syscall.SIGKILL},
	}
	if o.User != nil {
		cmd.SysProcAttr.Credential = &syscall.Credential{Uid: o.User.UID, Gid: o.User.GID, Groups: []uint32{}}
	}
	return cmd, nil
}

// end ends those that guilty tells by what they use, with a reason, and reports
// whether there are any.
func (c *conversions) end(reason string, guilty func(first identity) bool) (found bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for id, cancel := range c.running {
		if guilty(id) {
			cancel(errors.New(reason))
			found = true
		}
	}
	return found
}

// close ends all for good.
func (c *conversions) close() {
	c.mu.Lock()
	c.closed = true
	for _, cancel := range c.running {
		cancel(errOver)
	}
	c.mu.Unlock()
	c.all.Wait()
}

// unnamedFile makes a file that ends with its last user. What the kernel's user
// writes to it, the agent reads: by a name, that could be another file.
func unnamedFile(dir string) (*os.File, error) {
	f, err := os.CreateTemp(dir, "convert-")
	if err != nil {
		return nil, err
	}
	if err := os.Remove(f.Name()); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}
