package agent

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"kernelgw/jupyter"
	"kernelgw/sandboxes/agent/eventlog"
)

// follower reads the event log for somebody who is no Jupyter client: from any
// place in it, what was sent to whomever, and nothing is remembered of it. It has
// no queue of its own: one that is slow costs nothing but its place in the log,
// and the kernel waits for it no more than for a socket.
type follower struct {
	// set at construction
	hub      *hub
	want     wanted
	wake     chan struct{}   // something in the log; capacity 1
	ctx      context.Context // ends by cut, or when the other end is gone
	cut      context.CancelFunc
	patience time.Duration // of the one who reads: when nothing was written for so long, beat

	paced

	at eventlog.Position // owned by run
}

// wrote says that the one who reads took some bytes.
func (f *follower) wrote(n int) {
	f.written.Add(uint64(n))
	f.hub.pace.wrote()
}

// wanted says which messages somebody wants.
type wanted struct {
	audience eventlog.Audience
	channels []jupyter.Channel
}

// has reports whether a step is wanted.
func (w *wanted) has(s *step) bool {
	return s.Lost.Messages > 0 || w.audience == eventlog.Public || slices.Contains(w.channels, s.Entry.Value.channel())
}

// outlet is where a follower's steps go.
type outlet interface {
	begin(at eventlog.Position) error // says where the follower is
	event(s *step) error
	flush() error
	beat() error // shows that the connection lives
}

// How much is taken from the log at once.
const (
	followSteps = 64
	followBytes = 64 << 10
)

// run writes to out what there is and what comes, until the follower is cut,
// writing fails, or the kernel is gone for good and all was written: then it
// returns true.
func (f *follower) run(over <-chan struct{}, out outlet) (all bool) {
	if out.begin(f.at) != nil || out.flush() != nil {
		return false
	}
	timer := time.NewTimer(f.patience)
	defer timer.Stop()
	var steps []step
	for {
		ending := closed(over) // looked at first: what came before the end is in the log
		steps = f.hub.events.Follow(&f.at, f.want.audience, followSteps, followBytes, steps[:0])
		for i := range steps {
			if f.want.has(&steps[i]) && out.event(&steps[i]) != nil {
				return false
			}
		}
		clear(steps) // do not keep messages that the log let go
		f.offset.Store(f.at.Offset())
		if len(steps) > 0 {
			if f.ctx.Err() != nil {
				return false
			}
			continue
		}
		if out.flush() != nil {
			return false
		}
		if ending {
			return true
		}
		timer.Reset(f.patience)
		select {
		case <-f.wake:
		case <-over:
		case <-f.ctx.Done():
			return false
		case <-timer.C:
			if out.beat() != nil {
				return false
			}
		}
	}
}

func closed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

func (f *follower) wakeUp() {
	select {
	case f.wake <- struct{}{}:
	default:
	}
}

// follow makes a follower of the hub's, until unfollow.
func (h *hub) follow(ctx context.Context, at eventlog.Position, want wanted, patience time.Duration) *follower {
	ctx, cut := context.WithCancel(ctx)
	f := &follower{hub: h, want: want, wake: make(chan struct{}, 1), ctx: ctx, cut: cut, patience: patience, at: at}
	f.offset.Store(at.Offset())
	h.mu.Lock()
	defer h.mu.Unlock()
	followers := append(slices.Clone(*h.followers.Load()), f)
	h.followers.Store(&followers)
	return f
}

func (h *hub) unfollow(f *follower) {
	f.cut()
	h.mu.Lock()
	defer h.mu.Unlock()
	followers := slices.DeleteFunc(slices.Clone(*h.followers.Load()), func(other *follower) bool { return other == f })
	h.followers.Store(&followers)
}

// followRequest is what a reader of the log asks for.
type followRequest struct {
	at    eventlog.Position
	given bool // the request says where to begin
	want  wanted
}

// refusedRequest is a request that cannot be served, with its status.
type refusedRequest struct {
	status  int
	message string
}

func (e *refusedRequest) Error() string { return e.message }

// readFollow reads what a request asks for.
func (h *hub) readFollow(r *http.Request) (followRequest, error) {
	query := r.URL.Query()
	f := followRequest{}
	var err error
	if f.want, err = readWanted(query.Get("channels")); err != nil {
		return f, err
	}
	// A browser that comes back asks by the header; its URL is as old as the page.
	for _, id := range []string{r.Header.Get("Last-Event-ID"), query.Get("last_event_id"), query.Get("from")} {
		if id != "" {
			f.given = true
			f.at, err = h.place(id)
			break
		}
	}
	return f, err
}

func readWanted(list string) (wanted, error) {
	if list == "" {
		return wanted{audience: eventlog.Public}, nil
	}
	w := wanted{audience: eventlog.Addressed}
	for name := range strings.SplitSeq(list, ",") {
		channel := jupyter.Channel(strings.TrimSpace(name))
		switch channel {
		case jupyter.IOPub, jupyter.Shell, jupyter.Control, jupyter.Stdin:
		default:
			return w, &refusedRequest{http.StatusBadRequest, "channels: a list of iopub, shell, control and stdin, with commas"}
		}
		if !slices.Contains(w.channels, channel) {
			w.channels = append(w.channels, channel)
		}
	}
	switch {
	case !slices.Contains(w.channels, jupyter.IOPub):
	case len(w.channels) == 1:
		w.audience = eventlog.Public
	default:
		w.audience = eventlog.Everything
	}
	return w, nil
}

// place finds the place in the log that an id or a number means.
func (h *hub) place(id string) (eventlog.Position, error) {
	last := h.events.Stats().Last
	if seq, err := strconv.ParseUint(id, 10, 64); err == nil {
		at, ok := h.events.At(seq)
		if !ok {
			return at, &refusedRequest{http.StatusGone, fmt.Sprintf(
				"there is no event %d: the last is %d; if it was read from this kernel, its sandbox is another now: begin again with 0", seq, last)}
		}
		return at, nil
	}
	epoch, text, _ := strings.Cut(id, "-")
	at, ok := eventlog.ParsePosition(text)
	switch {
	case !ok:
		return at, &refusedRequest{http.StatusBadRequest, "an event's id is as it came with the event, or its number; 0 is the beginning"}
	case epoch != h.epoch || at.Seq > last:
		return at, &refusedRequest{http.StatusGone, "the event is not of this log: the kernel's sandbox is another now; begin again with 0"}
	}
	return at, nil
}
