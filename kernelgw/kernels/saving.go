package kernels

import (
	"context"
	"sync"
	"time"
)

// savePlaces bounds how many kernels' outputs are in memory at once. Agents may
// answer as slowly as they like, so that a place is an owner's own first: no more
// than a few of anybody's wait for their agents, and no agent is waited for where
// notebooks are written. What is saved because a kernel ends has places of its own
// beside those.
type savePlaces struct {
	asking, lastAsking   chan struct{} // hold a token for each agent that is asked, until what it told is saved
	writing, lastWriting chan struct{} // hold a token for each that is being written
	perOwner
}

// perOwner bounds how many agents are waited for on behalf of one owner.
type perOwner struct {
	mu      sync.Mutex
	byOwner map[saver]*ownerPlaces // guarded by mu; of those with any
}

// saver is whose outputs are saved, and whether because the kernel ends.
type saver struct {
	owner string
	last  bool
}

type ownerPlaces struct {
	taken chan struct{} // holds a token for each
	users int           // guarded by perOwner.mu: who have or want a place
}

const (
	maxOwnerSaving = 2
	maxAsking      = 8
	maxLastAsking  = 4
	maxWriting     = 4
	maxLastWriting = 2
)

func newSavePlaces() *savePlaces {
	return &savePlaces{
		asking: make(chan struct{}, maxAsking), lastAsking: make(chan struct{}, maxLastAsking),
		writing: make(chan struct{}, maxWriting), lastWriting: make(chan struct{}, maxLastWriting),
		perOwner: perOwner{byOwner: map[saver]*ownerPlaces{}},
	}
}

// ask waits for a place to ask an agent, which the caller must leave.
func (p *savePlaces) ask(ctx context.Context, who saver) (leave func(), err error) {
	leaveOwn, err := p.own(ctx, who)
	if err != nil {
		return nil, err
	}
	leaveAll, err := enter(ctx, p.asking, reserve(who.last, p.lastAsking))
	if err != nil {
		leaveOwn()
		return nil, err
	}
	return func() { leaveAll(); leaveOwn() }, nil
}

// own waits for one of an owner's places, which the caller must leave.
func (p *perOwner) own(ctx context.Context, who saver) (leave func(), err error) {
	p.mu.Lock()
	own := p.byOwner[who]
	if own == nil {
		own = &ownerPlaces{taken: make(chan struct{}, maxOwnerSaving)}
		p.byOwner[who] = own
	}
	own.users++
	p.mu.Unlock()
	gone := func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		if own.users--; own.users == 0 {
			delete(p.byOwner, who)
		}
	}
	leaveOwn, err := enter(ctx, own.taken, nil)
	if err != nil {
		gone()
		return nil, err
	}
	return func() { leaveOwn(); gone() }, nil
}

// write waits for a place to write a notebook, which the caller must leave.
func (p *savePlaces) write(ctx context.Context, last bool) (leave func(), err error) {
	return enter(ctx, p.writing, reserve(last, p.lastWriting))
}

func reserve(last bool, places chan struct{}) chan struct{} {
	if last {
		return places
	}
	return nil
}

// enter waits for one of some places, or of others.
func enter(ctx context.Context, places, others chan struct{}) (leave func(), err error) {
	select {
	case places <- struct{}{}:
		return func() { <-places }, nil
	case others <- struct{}{}:
		return func() { <-others }, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// savePace is how often what a kernel puts out is saved: an agent says when, and
// may say so all the time.
type savePace struct {
	first   time.Time // save since somebody came
	last    time.Time // attempt
	joined  uint64    // who had come by then
	failing time.Duration
}

const (
	// Pauses between attempts to save outputs.
	saveFirst = time.Second
	saveLast  = 5 * time.Minute
	// savePart of the time since the first save is between later ones, as agents do it
	// themselves.
	savePart = 10
	// paceForgotten is after how much quiet a save is a first one again.
	paceForgotten = 2 * saveLast
)

// next returns how long to wait after an attempt. joined is how many clients have
// ever come.
func (p *savePace) next(now time.Time, joined uint64, failed bool) time.Duration {
	if now.Sub(p.last) > paceForgotten {
		p.first, p.failing = time.Time{}, 0
	}
	p.last = now
	if failed {
		p.failing = min(max(saveFirst, 2*p.failing), saveLast)
		return p.failing
	}
	p.failing = 0
	if p.first.IsZero() || p.joined != joined {
		p.first, p.joined = now, joined
	}
	return min(max(saveFirst, now.Sub(p.first)/savePart), saveLast)
}
