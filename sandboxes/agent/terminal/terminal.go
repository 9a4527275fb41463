package terminal

import (
	"log/slog"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"time"

	"golang.org/x/time/rate"
)

// Limits of a terminal.
const (
	readBytes = 32 << 10
	// outputRate is what a terminal may print, in bytes a second: more than a
	// person's browser can draw, and less than would burden the gateway.
	outputRate  = 4 << 20
	outputBurst = 256 << 10
	// viewerPatience is how long a program that prints waits for those who look
	// at it when none of them makes progress.
	viewerPatience = 5 * time.Second
	inputPatience  = 3 * time.Second        // for a program that does not read
	inputBytes     = 1 << 10                // typed at a time
	lastOutput     = 200 * time.Millisecond // for what a shell that has ended left in the pty
	maxViewers     = 16
)

// terminal is one shell and its pty.
type terminal struct {
	// set at construction
	name   string
	serial int // set by the Set before others see it
	pty    *os.File
	proc   Process
	log    *slog.Logger
	dying  chan struct{} // closed when the shell has ended
	done   chan struct{} // closed when those who look at it were told
	drawn  chan struct{} // a viewer has made progress, or is gone; capacity 1
	pace   *rate.Limiter // owned by pump

	typing sync.Mutex // held while input is written

	mu       sync.Mutex
	activity time.Time            // guarded by mu; of the last output or input
	seen     time.Time            // guarded by mu; when the last viewer left
	recent   recent               // guarded by mu
	viewers  map[*viewer]struct{} // guarded by mu
	size     size                 // guarded by mu
	ended    bool                 // guarded by mu
}

// start starts the program of a terminal.
func start(name string, cmd *exec.Cmd, begin func(*exec.Cmd) (Process, error), log *slog.Logger) (*terminal, error) {
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	pty, tty, err := open(cmd.SysProcAttr.Credential)
	if err != nil {
		return nil, err
	}
	defer tty.Close()
	cmd.Stdin, cmd.Stdout, cmd.Stderr = tty, tty, tty
	cmd.SysProcAttr.Setsid, cmd.SysProcAttr.Setctty, cmd.SysProcAttr.Ctty = true, true, 0
	proc, err := begin(cmd)
	if err != nil {
		pty.Close()
		return nil, err
	}
	return &terminal{
		name: name, pty: pty, proc: proc, log: log,
		dying: make(chan struct{}), done: make(chan struct{}), drawn: make(chan struct{}, 1),
		pace:     rate.NewLimiter(outputRate, outputBurst),
		activity: time.Now(), viewers: map[*viewer]struct{}{}, size: defaultSize,
	}, nil
}

// run keeps the terminal until its shell has ended. forget takes it out of the
// Set before anyone is told that it is gone.
func (t *terminal) run(forget func()) {
	pumped := make(chan struct{})
	go func() {
		defer close(pumped)
		t.pump()
	}()
	how := t.proc.Wait()
	close(t.dying)
	// What the shell left running may hold the pty open for ever.
	_ = t.pty.SetReadDeadline(time.Now().Add(lastOutput))
	<-pumped
	t.log.Info("a terminal ended", "terminal", t.name, "shell", how)
	forget()
	t.mu.Lock()
	t.ended = true
	for v := range t.viewers {
		v.disconnect()
	}
	t.mu.Unlock()
	_ = t.pty.Close()
	close(t.done)
}

// pump takes what is printed until the pty is closed on the other side.
func (t *terminal) pump() {
	buf := make([]byte, readBytes)
	var d decoder
	for {
		n, err := t.pty.Read(buf)
		if n > 0 {
			t.publish(d.decode(buf[:n]))
		}
		if err != nil {
			return // EIO: nobody has the other side open
		}
		t.wait(t.pace.ReserveN(time.Now(), n).Delay())
		t.waitForViewers()
	}
}

// publish shows text to all who look, and to those who will.
func (t *terminal) publish(text string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.activity = time.Now()
	t.recent.add(text)
	for v := range t.viewers {
		if !v.offer(text) {
			t.leave(v)
		}
	}
}

func (t *terminal) wait(d time.Duration) {
	if d <= 0 {
		return
	}
	select {
	case <-time.After(d):
	case <-t.dying:
	}
}

// waitForViewers waits while all who look have much before them: the fastest
// sets the pace, so that a slow one does not stall the others. When none makes
// progress they have gone to sleep, and the program goes on without them.
func (t *terminal) waitForViewers() {
	if !t.crowded() {
		return
	}
	patience := time.NewTimer(viewerPatience)
	defer patience.Stop()
	for t.crowded() {
		select {
		case <-t.drawn:
			patience.Reset(viewerPatience)
		case <-patience.C:
			t.dropAll()
		case <-t.dying:
			return
		}
	}
}

// dropAll leaves all who look.
func (t *terminal) dropAll() {
	t.mu.Lock()
	defer t.mu.Unlock()
	for v := range t.viewers {
		v.drop()
		t.leave(v)
	}
}

// crowded reports whether there are viewers and none has room.
func (t *terminal) crowded() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	for v := range t.viewers {
		if v.hasRoom() {
			return false
		}
	}
	return len(t.viewers) > 0
}

// progress says that a viewer has more room, or is gone.
func (t *terminal) progress() {
	select {
	case t.drawn <- struct{}{}:
	default:
	}
}

// input types text. What a program does not read in time is lost, as it is when
// a keyboard's buffer is full.
func (t *terminal) input(text string) {
	t.mu.Lock()
	t.activity = time.Now()
	t.mu.Unlock()
	t.typing.Lock()
	defer t.typing.Unlock()
	for len(text) > 0 {
		n := min(len(text), inputBytes)
		_ = t.pty.SetWriteDeadline(time.Now().Add(inputPatience))
		if _, err := t.pty.WriteString(text[:n]); err != nil {
			t.log.Debug("input of a terminal was lost", "terminal", t.name, "error", err)
			return
		}
		text = text[n:]
	}
}

// attach lets a viewer look. It reports why not, in words for the viewer.
func (t *terminal) attach(v *viewer) (refusal string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.ended {
		v.disconnect()
		return ""
	}
	if len(t.viewers) >= maxViewers {
		return "too many look at this terminal"
	}
	v.begin(t.recent.replay())
	t.viewers[v] = struct{}{}
	return ""
}

// detach is the end of a viewer.
func (t *terminal) detach(v *viewer) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.leave(v)
}

// leave takes a viewer out. The caller holds mu.
func (t *terminal) leave(v *viewer) {
	if _, ok := t.viewers[v]; !ok {
		return
	}
	delete(t.viewers, v)
	t.seen = time.Now()
	t.fit()
	t.progress()
}

// resize notes the size of a viewer.
func (t *terminal) resize(v *viewer, s size) {
	t.mu.Lock()
	defer t.mu.Unlock()
	v.size = s
	t.fit()
}

// fit makes the terminal as large as all who look can show. The caller holds
// mu.
func (t *terminal) fit() {
	fitting := size{}
	for v := range t.viewers {
		switch {
		case v.size == size{}:
		case fitting == size{}:
			fitting = v.size
		default:
			fitting = fitting.smaller(v.size)
		}
	}
	if fitting == (size{}) || fitting == t.size || t.ended {
		return
	}
	t.size = fitting
	if err := setSize(t.pty, fitting); err != nil {
		t.log.Debug("a terminal could not be resized", "terminal", t.name, "error", err)
	}
}

func (t *terminal) info() Info {
	t.mu.Lock()
	defer t.mu.Unlock()
	return Info{Name: t.name, LastActivity: t.activity}
}

// idleSince is how long nobody has looked at the terminal and nothing has
// happened in it.
func (t *terminal) idleSince(now time.Time) time.Duration {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.viewers) > 0 {
		return 0
	}
	return now.Sub(latest(t.activity, t.seen))
}

// end ends the terminal's processes and returns when all is over.
func (t *terminal) end(say string) {
	if say != "" {
		t.publish("\r\n[" + say + "]\r\n")
	}
	t.proc.End()
	<-t.done
}
