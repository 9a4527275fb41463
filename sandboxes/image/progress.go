package image

import (
	"fmt"
	"io"
	"sync"
	"time"
)

// progressEvery is how often a phase that goes on says so.
const progressEvery = 2 * time.Second

// Progress prints what goes on, a line at a time, for a person who waits. A
// nil Progress prints nothing. Safe for concurrent use.
type Progress struct {
	mu    sync.Mutex
	w     io.Writer
	start time.Time
	last  time.Time
}

// NewProgress prints to w, with the seconds since now before each line.
func NewProgress(w io.Writer) *Progress {
	return &Progress{w: w, start: time.Now()}
}

// Say prints a line at once.
func (p *Progress) Say(format string, args ...any) { p.print(true, format, args) }

// Tick prints a line unless the last one is less than two seconds old.
func (p *Progress) Tick(format string, args ...any) { p.print(false, format, args) }

func (p *Progress) print(always bool, format string, args []any) {
	if p == nil || p.w == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	if !always && now.Sub(p.last) < progressEvery {
		return
	}
	p.last = now
	fmt.Fprintf(p.w, "[%5.1fs] %s\n", now.Sub(p.start).Seconds(), fmt.Sprintf(format, args...))
}

// During calls do, and until it returns prints every few seconds what say
// returns.
func (p *Progress) During(say func() string, do func() error) error {
	if p == nil {
		return do()
	}
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		tick := time.NewTicker(progressEvery)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				p.Tick("%s", say())
			case <-stop:
				return
			}
		}
	}()
	defer func() { close(stop); <-stopped }()
	return do()
}

// counter counts the bytes that are read through it and tells of them.
type counter struct {
	r    io.Reader
	n    int64
	tell func(n int64)
}

func (c *counter) Read(b []byte) (int, error) {
	n, err := c.r.Read(b)
	c.n += int64(n)
	c.tell(c.n)
	return n, err
}

// mb is n bytes in megabytes, for people.
func mb(n int64) string { return fmt.Sprintf("%.1f MB", float64(n)/1e6) }
