// Package terminal is the terminals of one agent: shells on pseudo-terminals,
// what they printed last, and the WebSockets that look at them, which speak
// terminado's protocol. It knows nothing of kernels, of the agent's API, or of
// who may look; how a process is started and ended is told to it.
package terminal

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"os/exec"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/gorilla/websocket"
)

// Errors that callers test for.
var (
	// ErrNotFound: there is no terminal of that name.
	ErrNotFound = errors.New("terminal does not exist")
	// ErrTooMany: there are as many as there may be.
	ErrTooMany = errors.New("too many terminals")
	// ErrClosed: the Set was closed.
	ErrClosed = errors.New("terminals are closed")
)

// Options are what a Set needs. Shell and Start are required.
type Options struct {
	// Shell describes the program of a new terminal, apart from its files: its
	// arguments, environment, directory and user.
	Shell func(cwd string) (*exec.Cmd, error)
	// Start starts a program in the way that the agent starts processes.
	Start func(*exec.Cmd) (Process, error)
	// Changed is called when a terminal began or ended, with no lock held; nil
	// means that nobody cares.
	Changed func()

	Max  int           // terminals at a time; zero means 20
	Idle time.Duration // see Set.EndIdle; zero means never
	Log  *slog.Logger  // nil means no log
}

// Process is a running shell.
type Process interface {
	// Wait returns when the shell itself has ended, and says how. It is called
	// once.
	Wait() (how string)
	// End hangs up and then kills the shell and all that it started and that
	// still belongs to it, and returns when they are gone. It may be called at
	// any time, more than once.
	End()
}

// Info is what there is to know of a terminal.
type Info struct {
	Name         string
	LastActivity time.Time
}

// Request describes a terminal to start.
type Request struct {
	Name string // "" means the lowest free number
	Cwd  string
}

// Set is all terminals of an agent. All methods are safe for concurrent use.
type Set struct {
	o Options // set at construction

	starting sync.Mutex // held while a terminal is started

	mu     sync.Mutex
	closed bool                 // guarded by mu
	all    map[string]*terminal // guarded by mu; those whose shell has not ended
	serial int                  // guarded by mu; of the last one that was started
	since  time.Time            // guarded by mu; when anything happened last in a terminal that is gone

	running sync.WaitGroup // the goroutines of terminals
}

// NewSet returns a Set without terminals.
func NewSet(o Options) *Set {
	o.Max = cmp.Or(o.Max, 20)
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Changed == nil {
		o.Changed = func() {}
	}
	return &Set{o: o, all: map[string]*terminal{}, since: time.Now()}
}

// Start starts a terminal, or returns the one that has the name already.
func (s *Set) Start(r Request) (Info, error) {
	s.starting.Lock()
	defer s.starting.Unlock()
	s.mu.Lock()
	name, existing, err := s.choose(r.Name)
	s.mu.Unlock()
	if err != nil {
		return Info{}, err
	}
	if existing != nil {
		return existing.info(), nil
	}
	cmd, err := s.o.Shell(r.Cwd)
	if err != nil {
		return Info{}, fmt.Errorf("cannot start terminal %s: %w", name, err)
	}
	t, err := start(name, cmd, s.o.Start, s.o.Log)
	if err != nil {
		return Info{}, fmt.Errorf("cannot start terminal %s: %w", name, err)
	}
	s.mu.Lock()
	s.serial++
	t.serial = s.serial
	s.all[name] = t
	s.mu.Unlock()
	s.running.Go(func() {
		t.run(func() { s.forget(t) })
	})
	s.o.Changed()
	return t.info(), nil
}

// choose returns the name for a new terminal, or the terminal that has it. The
// caller holds mu.
func (s *Set) choose(wanted string) (string, *terminal, error) {
	if s.closed {
		return "", nil, ErrClosed
	}
	if t := s.all[wanted]; t != nil {
		return wanted, t, nil
	}
	if len(s.all) >= s.o.Max {
		return "", nil, fmt.Errorf("%w: there are %d; end some", ErrTooMany, s.o.Max)
	}
	for n := 1; wanted == ""; n++ {
		if name := strconv.Itoa(n); s.all[name] == nil {
			wanted = name
		}
	}
	return wanted, nil, nil
}

func (s *Set) forget(t *terminal) {
	s.mu.Lock()
	delete(s.all, t.name)
	s.since = latest(s.since, time.Now())
	s.mu.Unlock()
	s.o.Changed()
}

// List returns the terminals in order of their start.
func (s *Set) List() []Info {
	all := s.terminals()
	list := make([]Info, 0, len(all))
	for _, t := range all {
		list = append(list, t.info())
	}
	return list
}

func (s *Set) terminals() []*terminal {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := make([]*terminal, 0, len(s.all))
	for _, t := range s.all {
		all = append(all, t)
	}
	slices.SortFunc(all, func(a, b *terminal) int { return cmp.Compare(a.serial, b.serial) })
	return all
}

// Get returns one terminal.
func (s *Set) Get(name string) (Info, error) {
	t, err := s.find(name)
	if err != nil {
		return Info{}, err
	}
	return t.info(), nil
}

func (s *Set) find(name string) (*terminal, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	t := s.all[name]
	if t == nil {
		return nil, fmt.Errorf("%w: %s", ErrNotFound, name)
	}
	return t, nil
}

// Count returns how many terminals there are, and when anything last happened
// in one.
func (s *Set) Count() (n int, last time.Time) {
	all := s.terminals()
	s.mu.Lock()
	last = s.since
	s.mu.Unlock()
	for _, t := range all {
		last = latest(last, t.info().LastActivity)
	}
	return len(all), last
}

func latest(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// Processes returns the running shells by terminal.
func (s *Set) Processes() map[string]Process {
	found := map[string]Process{}
	for _, t := range s.terminals() {
		found[t.name] = t.proc
	}
	return found
}

// End ends a terminal and returns when its processes are gone. What it says,
// unless empty, is printed to those who look at it.
func (s *Set) End(name, say string) error {
	t, err := s.find(name)
	if err != nil {
		return err
	}
	t.end(say)
	return nil
}

// EndIdle ends the terminals that nobody looks at and in which nothing happened
// for Options.Idle.
func (s *Set) EndIdle(now time.Time) {
	if s.o.Idle == 0 {
		return
	}
	for _, t := range s.terminals() {
		if t.idleSince(now) > s.o.Idle {
			s.o.Log.Info("ending an idle terminal", "terminal", t.name)
			t.end("")
		}
	}
}

// Close ends all terminals and waits until they and their WebSockets are gone.
func (s *Set) Close() {
	s.starting.Lock() // nobody is half started
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	s.starting.Unlock()
	var ending sync.WaitGroup
	for _, t := range s.terminals() {
		ending.Go(func() { t.end("") })
	}
	ending.Wait()
	s.running.Wait()
}

// Serve has a WebSocket look at a terminal until one of them ends, and then
// closes the WebSocket.
func (s *Set) Serve(name string, ws *websocket.Conn) {
	s.mu.Lock()
	t := s.all[name]
	if t != nil {
		s.running.Add(1) // Close waits for t, so it is not past waiting
	}
	s.mu.Unlock()
	if t == nil {
		_ = ws.WriteMessage(websocket.TextMessage, setupMessage)
		_ = ws.WriteMessage(websocket.TextMessage, disconnectMessage)
		_ = ws.Close()
		return
	}
	defer s.running.Done()
	t.serve(ws)
}
